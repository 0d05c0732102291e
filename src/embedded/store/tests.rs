//! The embedded store passes the suite, refuses what it must refuse at open, and leaves nothing.

use std::fs;

use super::super::suite;
use super::*;
use hydrant_actors::ports::{LogOp, SessionOp};

fn options(bucket_entries: u64) -> StoreOptions {
    StoreOptions { bucket_entries, cache_size: 1 << 20, ..StoreOptions::default() }
}

fn open(dir: &Path) -> Arc<EmbeddedStore> {
    EmbeddedStore::open(dir, "n1", options(64)).unwrap()
}

#[test]
fn passes_the_suite() {
    for (name, case) in suite::CASES {
        for bucket_entries in [1, 64, 65_536] {
            let dir = tempfile::tempdir().unwrap();
            log::info!("{name}, buckets of {bucket_entries}");
            // A bucket each position costs 5 ms a position.
            if bucket_entries == 1 && *name != "every_op_twice" {
                continue;
            }
            case(&|| EmbeddedStore::open(dir.path(), "n1", options(bucket_entries)).unwrap());
        }
    }
}

fn buckets(store: &EmbeddedStore) -> usize {
    store.shared.engine.read().as_ref().unwrap().outbox.bucket_count()
}

#[test]
fn buckets_go_whole_once_the_cursor_passed_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let as_trait: Arc<dyn SessionStore> = store.clone();
    let put = |range: std::ops::Range<u64>| {
        let record = |position| {
            StoreOp::Log(LogOp::PutOutbox {
                record: suite::record("t", position),
                position: hydrant_actors::ports::OutboxPosition { lane: 1, position },
            })
        };
        suite::write(&as_trait, range.map(record).collect());
    };
    put(0..300);
    assert_eq!(buckets(&store), 5);
    suite::write(&as_trait, vec![LogOp::MoveCursor { lane: 1, position: 127 }.into()]);
    assert_eq!(buckets(&store), 4);
    suite::write(&as_trait, vec![LogOp::MoveCursor { lane: 1, position: 128 }.into()]);
    assert_eq!(buckets(&store), 3);
    assert!(store.describe().contains("3 outbox buckets"), "{}", store.describe());
    // A write repeated after its bucket is gone does not bring it back.
    put(0..64);
    assert_eq!(buckets(&store), 3);
    drop((store, as_trait));
    assert_eq!(buckets(&open(dir.path())), 3);
}

#[test]
fn deleted_sessions_are_swept_also_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn SessionStore> = open(dir.path());
    let entry = |sequence| QueueEntry {
        sequence,
        qos: hydrant_protocol::QoS::AtLeastOnce,
        retain: false,
        message: suite::message("t", "p", false),
        outgoing: None,
    };
    // A queue without its session is what a crash in the middle of a deletion leaves.
    suite::write(
        &store,
        (0..3500)
            .map(|s| StoreOp::Session(SessionOp::PutQueued { id: 4, entry: entry(s) }))
            .collect(),
    );
    drop(store);
    let store = open(dir.path());
    assert!(suite::wait(store.sessions()).is_empty());
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let left = suite::wait(store.read(|engine| {
            while engine.sweep()? {}
            engine.read_queue(4, 0, 9, 999)
        }));
        if left.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "{} left", left.len());
    }
}

#[test]
fn refuses_at_open_what_it_must() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = open(&path);
    suite::write(
        &(store.clone() as Arc<dyn SessionStore>),
        vec![StoreOp::PutRetained {
            message: suite::message("topic", &"x".repeat(5000), true),
            version: 1,
        }],
    );
    let error = |result: Result<Arc<EmbeddedStore>, OpenError>| result.err().unwrap();
    assert!(matches!(
        error(EmbeddedStore::open(&path, "n1", options(64))),
        OpenError::Locked { .. }
    ));
    drop(store);
    let other = error(EmbeddedStore::open(&path, "n2", options(64)));
    assert!(matches!(&other, OpenError::OtherNode { found, .. } if found == "n1"), "{other}");

    let blocked = dir.path().join("file");
    fs::write(&blocked, "").unwrap();
    assert!(matches!(
        error(EmbeddedStore::open(&blocked, "n1", options(64))),
        OpenError::NotWritable { .. }
    ));
    assert!(matches!(
        error(EmbeddedStore::open(&blocked.join("x"), "n1", options(64))),
        OpenError::NotWritable { .. }
    ));

    let identity = path.join("identity.json");
    let ours = fs::read_to_string(&identity).unwrap();
    fs::write(&identity, r#"{"format":99,"shape":"unknown"}"#).unwrap();
    let newer = error(EmbeddedStore::open(&path, "n1", options(64)));
    assert!(matches!(newer, OpenError::Newer { found: 99, supported: 2, .. }), "{newer}");
    fs::remove_file(&identity).unwrap();
    assert!(matches!(
        error(EmbeddedStore::open(&path, "n1", options(64))),
        OpenError::Damaged { .. }
    ));
    fs::write(&identity, &ours).unwrap();
    drop(open(&path));

    // A bit flipped with valid batches behind it is damage.
    let store: Arc<dyn SessionStore> = open(&path);
    suite::write(&store, vec![StoreOp::DeleteRetained { topic: "other".into(), version: 1 }]);
    drop(store);
    flip_bit(&path);
    let damaged = error(EmbeddedStore::open(&path, "n1", options(64)));
    assert!(matches!(damaged, OpenError::Damaged { .. }), "{damaged}");
    assert!(!damaged.to_string().contains('\n'));
}

#[test]
fn a_store_of_format_1_goes_on_with_its_wills_and_is_refused_by_an_older_broker() {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn SessionStore> = open(dir.path());
    // Under connection 0 as format 1 has written them.
    let will = |client: &str| StoredWill {
        client_id: client.into(),
        connection: 0,
        message: suite::message("w", client, false),
    };
    let put = |client| StoreOp::PutWill { will: will(client) };
    suite::write(&store, vec![put(""), put("one"), put("two")]);
    drop(store);
    let identity = dir.path().join("identity.json");
    let format = || fs::read_to_string(&identity).unwrap();
    assert!(format().contains(r#""format":2"#), "{}", format());
    fs::write(&identity, format().replace(r#""format":2"#, r#""format":1"#)).unwrap();
    let store: Arc<dyn SessionStore> = open(dir.path());
    assert!(format().contains(r#""format":2"#), "{}", format());
    assert_eq!(suite::wait(store.wills()), [will(""), will("one"), will("two")]);
    let end = |client: &str| StoreOp::DeleteWill { client_id: client.into(), connection: 0 };
    suite::write(&store, vec![end(""), end("two")]);
    drop(store);
    let store: Arc<dyn SessionStore> = open(dir.path());
    assert_eq!(suite::wait(store.wills()), [will("one")]);
}

/// In the payload that [`refuses_at_open_what_it_must`] and the next test store.
fn flip_bit(path: &Path) {
    let journal = path.join("0.jnl");
    let mut bytes = fs::read(&journal).unwrap();
    let at = bytes.windows(8).rposition(|w| w == b"xxxxxxxx").unwrap();
    bytes[at - 100] ^= 1;
    fs::write(&journal, bytes).unwrap();
}

#[test]
fn a_last_batch_torn_by_a_power_cut_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn SessionStore> = open(dir.path());
    for topic in ["kept", "torn"] {
        let message = suite::message(topic, &"x".repeat(5000), true);
        suite::write(&store, vec![StoreOp::PutRetained { message, version: 1 }]);
    }
    drop(store);
    flip_bit(dir.path());
    for _ in 0..2 {
        let store: Arc<dyn SessionStore> = open(dir.path());
        let found = suite::wait(store.retained());
        assert_eq!(found.iter().map(|(m, _)| &*m.topic).collect::<Vec<_>>(), ["kept"]);
        suite::write(&store, vec![StoreOp::DeleteRetained { topic: "never".into(), version: 1 }]);
    }
}

#[test]
fn a_first_start_that_died_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    // Identity and an empty journal are there, the version marker is not.
    for path in ["version", "0.jnl"] {
        fs::remove_file(dir.path().join(path)).unwrap();
    }
    fs::remove_dir_all(dir.path().join("keyspaces")).unwrap();
    fs::write(dir.path().join("0.jnl"), [0; 4096]).unwrap();
    fs::write(dir.path().join("version"), "").unwrap();
    drop(open(dir.path()));
}

#[test]
fn what_follows_a_failure_fails_until_the_failure_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let retained = || {
        Arc::new(vec![StoreOp::PutRetained { message: suite::message("t", "p", true), version: 1 }])
    };
    let block =
        |future| tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future);
    store.shared.gate.failed(1);
    let (reply, answer) = oneshot::channel();
    store.shared.gate.answer(reply, StoreError::Unavailable("made up".into()));
    let first = Pending { shared: store.shared.clone(), answer, done: false };
    let second = store.write(retained());
    let third = store.write(retained());
    assert!(block(Box::pin(first.wait()) as StoreFuture<()>).is_err());
    assert!(block(store.write(retained())).is_err(), "the second is not seen yet");
    assert!(block(second).is_err());
    drop(third);
    assert!(block(store.write(retained())).is_ok());
}
