//! `broker storage`: from the embedded store to Cassandra and back, and what `check` says of a real
//! Cassandra. The binary itself runs.

use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use hydrant::embedded::suite::dead::letter;
use hydrant::embedded::suite::{message, record, write};
use hydrant::embedded::{EmbeddedStore, StoreOptions};
use hydrant_actors::ports::{
    LogOp, OutboxPosition, OutgoingStage, QueueEntry, SessionOp, SessionStore, StoreOp, StoredWill,
};
use hydrant_protocol::{PacketId, QoS};

use crate::support::Node;
use crate::support::cassandra::{Cassandra, new_keyspace, shared};
use crate::support::client::{Client, Connect};
use crate::support::command::{run_broker, stderr, stdout};

/// `broker storage`, with the store in this keyspace or, without one, in the data directory.
fn storage(action: &[&str], data: &Path, at: Option<(&Cassandra, &str)>) -> Output {
    let mut args: Vec<String> = ["storage"].iter().chain(action).map(ToString::to_string).collect();
    args.extend(["--node-id".into(), "n1".into(), "--data-dir".into()]);
    args.push(data.display().to_string());
    if let Some((node, keyspace)) = at {
        for set in ["storage.kind=cassandra", "cassandra.connect_timeout=5s"] {
            args.extend(["--set".into(), set.into()]);
        }
        args.extend(["--set".into(), format!("cassandra.contact_points={}", node.address())]);
        args.extend(["--set".into(), format!("cassandra.keyspace={keyspace}")]);
    }
    run_broker(&args)
}

#[track_caller]
fn done(output: &Output) -> String {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    said
}

#[track_caller]
fn refused(output: &Output) -> String {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

/// The records of an export but the first, which has the time, and the last, which has the sum.
fn records(file: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(file).unwrap();
    let mut rest = &bytes["hydrant export\n".len() + 1..];
    let mut records = Vec::new();
    while let Some((length, behind)) = rest.split_first_chunk() {
        let (record, behind) = behind.split_at(u32::from_be_bytes(*length) as usize);
        records.push(record.to_vec());
        rest = behind;
    }
    records[1..records.len() - 1].to_vec()
}

fn fill(store: &Arc<dyn SessionStore>) {
    let packet = |id| PacketId::new(id).unwrap();
    let mut ops = Vec::new();
    for id in 1..=300 {
        let client_id: Arc<str> = format!("client{id}").into();
        let disconnected_ms = (id != 9).then_some(1_700_000_000_000 + id);
        ops.push(SessionOp::PutSession { id, client_id, epoch: id + 1, disconnected_ms }.into());
        for (filter, qos, (owed, behind)) in
            [("a/#", QoS::AtMostOnce, (3, "")), ("b/+", QoS::ExactlyOnce, (9, "b/1"))]
        {
            let owes = (id == owed).then(|| behind.into());
            ops.push(SessionOp::PutSubscription { id, filter: filter.into(), qos, owes }.into());
        }
    }
    for packet_id in [1, 500, 65_535] {
        ops.push(SessionOp::PutReceipt { id: 9, packet_id: packet(packet_id) }.into());
    }
    for sequence in 250..1_300 {
        let outgoing = match sequence {
            250 => Some((packet(5), OutgoingStage::Release)),
            251 => Some((packet(6), OutgoingStage::Publish)),
            _ => None,
        };
        // The last ones together are more than a batch may hold.
        let payload = "x".repeat(if sequence > 1_280 { 200_000 } else { 50 });
        let message = message("q", &format!("{sequence} {payload}"), false);
        let qos = if sequence % 2 == 0 { QoS::AtLeastOnce } else { QoS::ExactlyOnce };
        let entry = QueueEntry { sequence, qos, retain: sequence == 300, message, outgoing };
        ops.push(SessionOp::PutQueued { id: 9, entry }.into());
    }
    ops.push(SessionOp::DeleteQueued { id: 9, sequence: 600 }.into());
    for topic in 0..300 {
        let message = message(&format!("retained/{topic}"), "kept", true);
        ops.push(StoreOp::PutRetained { message, version: 1 });
    }
    for id in [9, 10] {
        let message = message("w", "gone", false);
        let (client_id, connection) = (format!("client{id}").into(), id);
        let will = StoredWill { client_id, connection, message };
        ops.push(StoreOp::PutWill { will });
    }
    for (lane, positions) in [(0, 0..700), (5, 0..3)] {
        for position in positions {
            let (record, position) = (record("t", position), OutboxPosition { lane, position });
            ops.push(LogOp::PutOutbox { record, position }.into());
        }
    }
    ops.push(LogOp::MoveCursor { lane: 0, position: 100 }.into());
    let letters =
        (0..200).map(|n| StoreOp::Log(LogOp::PutDeadLetter { letter: Arc::new(letter(n)) }));
    ops.extend(letters);
    write(store, ops);
}

#[test]
fn from_the_embedded_store_to_cassandra_and_back() {
    let node = shared();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (one, two, three) = (path("one"), path("two"), path("three"));
    let [first, second, third] = ["1", "2", "3"].map(path);
    let names = [&first, &second, &third].map(|file| file.to_str().unwrap());
    let store = EmbeddedStore::open(&one.join("store"), "n1", StoreOptions::default()).unwrap();
    fill(&(store as Arc<dyn SessionStore>));

    let keyspace = new_keyspace("transfer");
    let at = Some((&*node, keyspace.as_str()));
    let said = refused(&storage(&["export", names[1]], &two, at));
    assert!(said.contains("does not exist"), "{said}");
    let said = done(&storage(&["export", names[0]], &one, None));
    assert!(
        said.contains("300 sessions with 600 subscriptions and 1049 queued messages"),
        "{said}"
    );
    assert!(said.contains("300 retained messages, 2 wills, 603 outbox records"), "{said}");
    done(&storage(&["import", names[0]], &two, at));
    // From another machine: what the first one had in its incarnation comes along.
    done(&storage(&["export", names[1]], &path("elsewhere"), at));
    done(&storage(&["import", names[1]], &three, None));
    done(&storage(&["export", names[2]], &three, None));
    let (first, second, third) = (records(&first), records(&second), records(&third));
    assert_eq!(first.len(), 300 + 600 + 1_049 + 300 + 2 + 603 + 200);
    assert!(first == second, "what is in Cassandra is what was in the embedded store");
    assert!(first == third, "and so it is on the way back");

    let said = refused(&storage(&["import", names[0]], &two, at));
    assert!(said.contains("the store holds sessions already"), "{said}");
    let whole = std::fs::read(names[0]).unwrap();
    std::fs::write(path("cut"), &whole[..whole.len() - 1]).unwrap();
    let other = new_keyspace("transfer");
    let cut = path("cut");
    let cut = ["import", cut.to_str().unwrap()];
    let said = refused(&storage(&cut, &two, Some((&*node, &other))));
    assert!(said.contains("not complete"), "{said}");
}

#[test]
fn a_session_goes_on_in_cassandra() {
    let cassandra = shared();
    let mut node = Node::builder().start();
    node.offline("device", &[("to/device", 1)]);
    let mut publisher = node.client("publisher");
    for number in 0..20 {
        publisher.publish("to/device", number.to_string(), 1);
    }
    let data = node.data_dir();
    let said = storage(&["check"], &data, None);
    let said = stdout(&said);
    assert!(
        said.starts_with("FAIL store: ") && said.contains("in use by another broker"),
        "{said}"
    );
    assert_eq!(node.terminate(), Some(0));
    let said = storage(&["check"], &data, None);
    assert_eq!(said.status.code(), Some(0));
    let said = stdout(&said);
    assert!(said.contains("\nok content: ") && said.contains("20 queued messages"), "{said}");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f");
    let file = file.to_str().unwrap();
    let keyspace = new_keyspace("moved");
    done(&storage(&["export", file], &data, None));
    done(&storage(&["import", file], &data, Some((&*cassandra, &keyspace))));
    let node = node.restart_with(|node| {
        node.set("storage.kind", "cassandra")
            .set("cassandra.contact_points", cassandra.address())
            .set("cassandra.keyspace", &keyspace)
    });
    let mut device = Client::connect(node.mqtt, &Connect::new("device").persistent());
    for number in 0..20 {
        assert_eq!(device.take().text(), number.to_string());
    }
}

#[test]
fn what_check_says_of_a_real_cassandra() {
    let node = shared();
    let folder = tempfile::tempdir().unwrap();
    let keyspace = new_keyspace("checked");
    let check = |at| {
        let output = storage(&["check"], folder.path(), at);
        (output.status.code(), stdout(&output))
    };
    let at = Some((&*node, keyspace.as_str()));
    let (code, said) = check(at);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("FAIL schema: keyspace ") && said.contains("does not exist"), "{said}");
    let broker = crate::faults::node(&node.address()).set("cassandra.keyspace", &keyspace).start();
    // Beside a running node, and again: the probe leaves nothing.
    for _ in 0..2 {
        let (code, said) = check(at);
        assert_eq!(code, Some(0), "{said}");
        let address = node.address();
        for line in [
            "ok connection: Cassandra answers; data centre datacenter1",
            "warn replication: there is one copy of everything",
            "ok schema: version 6",
            "ok probe: ",
            &format!("ok clock: that of {address} is ours"),
            &format!("ok commitlog: {address} syncs it before it answers (group)"),
        ] {
            assert!(said.lines().any(|found| found.starts_with(line)), "{line}: {said}");
        }
    }
    broker.client("c").ping();
    node.execute(&format!("ALTER KEYSPACE {keyspace} WITH durable_writes = false")).unwrap();
    let (code, said) = check(at);
    assert!(code == Some(1) && said.contains("FAIL durable_writes: "), "{said}");
    let nobody = Cassandra::prepare();
    let (code, said) = check(Some((&nobody, &keyspace)));
    assert_eq!(code, Some(1));
    assert!(
        said.starts_with("FAIL connection: no Cassandra of cassandra.contact_points"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1);
}
