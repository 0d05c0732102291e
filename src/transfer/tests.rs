//! From an embedded store to a file to another embedded store, and the files that are refused.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use hydrant_actors::ports::{
    DeadId, LogOp, OutboxPosition, OutgoingStage, QueueEntry, SessionOp, SessionStore, StoreOp,
    StoredWill,
};
use hydrant_protocol::{PacketId, QoS};

use super::format::{Counts, MAGIC, VERSION};
use super::progress::Progress;
use super::{TransferError, export, import};
use crate::embedded::suite::dead::letter;
use crate::embedded::suite::{message, record, write};
use crate::embedded::{EmbeddedStore, StoreOptions, SyncPolicy};

fn store(folder: &Path) -> Arc<dyn SessionStore> {
    let options = StoreOptions { sync: SyncPolicy::Never, ..StoreOptions::default() };
    EmbeddedStore::open(folder, "n1", options).unwrap()
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(future)
}

fn to_file(store: &Arc<dyn SessionStore>, file: &Path) -> Result<Counts, TransferError> {
    wait(export::export(&**store, "n1", file, &mut Progress::new(&mut Vec::new(), "exported")))
}

fn from_file(store: &Arc<dyn SessionStore>, file: &Path) -> Result<Counts, TransferError> {
    let mut out = Vec::new();
    wait(import::import(&**store, file, None, &mut Progress::new(&mut out, "imported")))
}

fn fill(store: &Arc<dyn SessionStore>) {
    let packet = |id| PacketId::new(id).unwrap();
    let mut ops = Vec::new();
    for id in [3, 9, 700] {
        let client_id: Arc<str> = format!("client{id}").into();
        let disconnected_ms = (id != 9).then_some(id);
        ops.push(SessionOp::PutSession { id, client_id, epoch: id + 1, disconnected_ms }.into());
        for (filter, qos, (owed, behind)) in
            [("a/#", QoS::AtMostOnce, (3, "")), ("b/+", QoS::ExactlyOnce, (9, "b/1"))]
        {
            let owes = (id == owed).then(|| behind.into());
            ops.push(SessionOp::PutSubscription { id, filter: filter.into(), qos, owes }.into());
        }
    }
    for packet_id in [1, 65_535] {
        ops.push(SessionOp::PutReceipt { id: 9, packet_id: packet(packet_id) }.into());
    }
    // More than a page, and not from 1 on.
    for sequence in 17..1_500 {
        let outgoing = match sequence {
            17 => Some((packet(5), OutgoingStage::Release)),
            18 => Some((packet(6), OutgoingStage::Publish)),
            _ => None,
        };
        let qos = if sequence % 2 == 0 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
        let message = message("q", &format!("m{sequence}"), false);
        let entry = QueueEntry { sequence, qos, retain: sequence == 20, message, outgoing };
        ops.push(SessionOp::PutQueued { id: 700, entry }.into());
    }
    ops.push(SessionOp::DeleteQueued { id: 700, sequence: 30 }.into());
    for topic in ["r/1", "r/2"] {
        ops.push(StoreOp::PutRetained { message: message(topic, "retained", true), version: 1 });
    }
    for (connection, payload) in [(1, "gone"), (2, "gone again")] {
        let (client_id, message) = ("client9".into(), message("w", payload, false));
        ops.push(StoreOp::PutWill { will: StoredWill { client_id, connection, message } });
    }
    for (lane, positions) in [(0, 0..1_200), (5, 0..3)] {
        for position in positions {
            let (record, position) = (record("t", position), OutboxPosition { lane, position });
            ops.push(LogOp::PutOutbox { record, position }.into());
        }
    }
    ops.push(LogOp::MoveCursor { lane: 0, position: 100 }.into());
    let letters = (0..700).map(|n| StoreOp::Log(LogOp::PutDeadLetter { letter: letter(n).into() }));
    ops.extend(letters);
    write(store, ops);
}

/// Everything in it, as text; of the outbox what is not acknowledged, without positions.
fn content(store: &Arc<dyn SessionStore>) -> Vec<String> {
    let mut all = Vec::new();
    wait(async {
        let mut sessions = store.sessions().await.unwrap();
        sessions.sort_by_key(|session| session.id);
        for mut session in sessions {
            session.subscriptions.sort_by(|a, b| a.filter.cmp(&b.filter));
            all.push(format!("{session:?}"));
            let queue = store.read_queue(session.id, 0, usize::MAX, usize::MAX).await.unwrap();
            all.extend(queue.iter().map(|entry| format!("{entry:?}")));
        }
        let mut rest: Vec<String> =
            store.retained().await.unwrap().iter().map(|(m, _)| format!("{m:?}")).collect();
        rest.extend(store.wills().await.unwrap().iter().map(|will| format!("{will:?}")));
        rest.sort();
        all.extend(rest);
        for lane in store.lanes().await.unwrap() {
            let records = store.read_outbox(lane.lane, lane.cursor, usize::MAX, usize::MAX).await;
            for mut record in records.unwrap() {
                (record.id, record.outbox) = (0, None);
                all.push(format!("{} {record:?}", lane.lane));
            }
        }
        let letters = store.dead_letters(DeadId::default(), usize::MAX, usize::MAX).await;
        all.extend(letters.unwrap().iter().map(|letter| format!("{letter:?}")));
    });
    all
}

#[test]
fn what_was_exported_is_imported() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f");
    let one = store(&folder.path().join("one"));
    fill(&one);
    let counts = to_file(&one, &file).unwrap();
    let expected = Counts {
        sessions: 3,
        subscriptions: 6,
        queued: 1_482,
        retained: 2,
        wills: 2,
        outbox: 1_103,
        dead_letters: 700,
    };
    assert_eq!(counts, expected);
    let names: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| name == "f" || name == "one"), "{names:?}");
    // Where an outbox was used and is drained, its positions go on.
    let two = store(&folder.path().join("two"));
    let position = |position| OutboxPosition { lane: 0, position };
    let used = (0..7).map(|n| {
        StoreOp::Log(LogOp::PutOutbox { record: record("old", n), position: position(n) })
    });
    write(&two, used.chain([StoreOp::Log(LogOp::MoveCursor { lane: 0, position: 7 })]).collect());
    assert_eq!(from_file(&two, &file).unwrap(), counts);
    assert_eq!(content(&two), content(&one));
    let lanes = wait(two.lanes()).unwrap();
    assert_eq!((lanes[0].cursor, lanes[0].end), (7, 1_107));
    // And still after a restart.
    drop(two);
    let two = store(&folder.path().join("two"));
    assert_eq!(content(&two), content(&one));

    let why = from_file(&two, &file).unwrap_err().to_string();
    assert!(why.starts_with("the store holds sessions already"), "{why}");
    let before = fs::read(&file).unwrap();
    let why = to_file(&two, &file).unwrap_err().to_string();
    assert!(why.contains("is there already"), "{why}");
    assert_eq!(fs::read(&file).unwrap(), before);
}

#[test]
fn a_store_with_anything_in_it_is_not_imported_into() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f");
    to_file(&store(&folder.path().join("empty")), &file).unwrap();
    let (client_id, message_of) = ("c".into(), message("w", "", false));
    let will = StoredWill { client_id, connection: 1, message: message_of };
    let position = OutboxPosition { lane: 3, position: 0 };
    for (name, op) in [
        (
            "retained messages",
            StoreOp::PutRetained { message: message("t", "x", true), version: 1 },
        ),
        ("wills", StoreOp::PutWill { will }),
        ("outbox records", StoreOp::Log(LogOp::PutOutbox { record: record("t", 0), position })),
        ("dead letters", StoreOp::Log(LogOp::PutDeadLetter { letter: letter(0).into() })),
    ] {
        let store = store(&folder.path().join(name));
        write(&store, vec![op]);
        let why = from_file(&store, &file).unwrap_err().to_string();
        assert!(why.contains(name), "{why}");
    }
}

#[test]
fn a_file_that_is_not_whole_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f");
    let one = store(&folder.path().join("one"));
    fill(&one);
    to_file(&one, &file).unwrap();
    let whole = fs::read(&file).unwrap();
    let two = store(&folder.path().join("two"));
    let why = |bytes: &[u8]| {
        let bad = folder.path().join("bad");
        fs::write(&bad, bytes).unwrap();
        let why = from_file(&two, &bad).unwrap_err().to_string();
        assert!(why.contains("bad: ") && !why.contains('\n'), "{why}");
        assert!(content(&two).is_empty());
        why
    };
    let head = MAGIC.len() + 1;
    for cut in [head, head + 3, head + 4, 1_000, whole.len() / 2, whole.len() - 1] {
        let why = why(&whole[..cut]);
        assert!(why.contains("not complete"), "{cut}: {why}");
    }
    for garbage in [&b""[..], b"x", b"SQLite format 3\0 and more of it", &whole[..head - 1]] {
        assert!(why(garbage).contains("was not made by `broker storage export`"));
    }
    let mut newer = whole.clone();
    newer[MAGIC.len()] = VERSION + 1;
    assert!(why(&newer).contains("has version 3, and this broker reads up to 2"));
    assert!(why(&[&whole[..], b"x"].concat()).contains("behind its end"));
    // A bit anywhere, whatever it makes of a length, a number or a payload.
    for at in (head..whole.len()).step_by(whole.len() / 200) {
        let mut changed = whole.clone();
        changed[at] ^= 4;
        why(&changed);
    }
    // A record that says it is longer than memory takes none.
    let mut long = whole[..head].to_vec();
    long.extend([0x11, 0xff, 0xff, 0xff]);
    assert!(why(&long).contains("not complete"));
    long[head] = 0xff;
    assert!(why(&long).contains("longer than any can be"));
    assert!(
        from_file(&two, &folder.path().join("none")).unwrap_err().to_string().contains("none: ")
    );
    assert_eq!(from_file(&two, &file).unwrap().sessions, 3);
}

#[test]
fn a_message_that_the_store_cannot_take_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f");
    let one = store(&folder.path().join("one"));
    fill(&one);
    let message = message("large", &"x".repeat(2_000), true);
    write(&one, vec![StoreOp::PutRetained { message, version: 1 }]);
    to_file(&one, &file).unwrap();
    let two = store(&folder.path().join("two"));
    let mut out = Vec::new();
    let mut progress = Progress::new(&mut out, "imported");
    let why = wait(import::import(&*two, &file, Some(2_004), &mut progress)).unwrap_err();
    assert!(why.to_string().contains("the message of 2005 bytes to \"large\""), "{why}");
    assert!(content(&two).is_empty());
    wait(import::import(&*two, &file, Some(2_005), &mut progress)).unwrap();
}

#[test]
fn a_store_in_which_an_import_was_cut_short_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let one = store(&folder.path().join("one"));
    fill(&one);
    let client_id = hydrant_actors::ports::UNFINISHED.into();
    let mark = StoreOp::Session(SessionOp::PutSession {
        id: 1 << 40,
        client_id,
        epoch: 0,
        disconnected_ms: Some(0),
    });
    write(&one, vec![mark]);
    let why = to_file(&one, &folder.path().join("f")).unwrap_err().to_string();
    assert!(why.contains("an import into it was not finished: empty it"), "{why}");
}

fn config(data: &Path) -> crate::config::Config {
    let data = data.display();
    let file = format!("[node]\ndata_dir = \"{data}\"\n[storage]\nsync = \"never\"\n");
    let sources =
        crate::config::Sources { file: Some(("c".to_owned(), file)), ..Default::default() };
    crate::config::load(&sources).unwrap().config
}

fn checked(config: &crate::config::Config) -> (bool, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let good = wait(super::check(config, &mut out, &mut err));
    (good, String::from_utf8(out).unwrap())
}

#[test]
fn the_commands_on_the_embedded_store() {
    let folder = tempfile::tempdir().unwrap();
    let (data, file) = (folder.path().join("data"), folder.path().join("f"));
    let (config, mut err) = (config(&data), Vec::new());
    let (good, said) = checked(&config);
    assert!(good && said.starts_with("warn store: there is none in"), "{said}");
    let why = wait(super::export(&config, &file, &mut err)).unwrap_err();
    assert!(matches!(why, TransferError::NoStore(_)), "{why}");
    assert!(!data.exists(), "looking makes nothing");
    let why = wait(super::import(&config, &file, &mut err)).unwrap_err();
    assert!(why.to_string().contains("f: ") && !data.exists(), "{why}");

    let node_id = config.settings.node_id.to_string();
    let one = EmbeddedStore::open(&data.join("store"), &node_id, StoreOptions::default()).unwrap();
    let one: Arc<dyn SessionStore> = one;
    fill(&one);
    let (good, said) = checked(&config);
    assert!(!good && said.contains("in use by another broker"), "{said}");
    drop(one);
    let (good, said) = checked(&config);
    assert!(good && said.contains("\nok content: all of it can be read: 3 sessions"), "{said}");
    wait(super::export(&config, &file, &mut err)).unwrap();
    let other = self::config(&folder.path().join("other"));
    wait(super::import(&other, &file, &mut err)).unwrap();
    let (good, now) = checked(&other);
    assert!(good && now.lines().nth(1) == said.lines().nth(1), "{now}");
    let said = String::from_utf8(err).unwrap();
    assert!(
        said.starts_with("exported 3 sessions") && said.contains("imported 3 sessions"),
        "{said}"
    );
}
