//! kill -9 at random moments under load, and the power cut: what was acknowledged as stored is
//! delivered to the persistent subscriber and stands in the embedded log.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::client::{Connect, Publish};
use crate::support::command::stderr;
use crate::support::{Client, Dice, Node, Packet, SOON};

/// More than any history here publishes: what a full queue drops is not lost by a crash.
const QUEUED: u64 = 1_000_000;

/// Rounds of kill -9; `HYDRANT_KILLS` for more.
fn rounds() -> u64 {
    std::env::var("HYDRANT_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(20)
}

/// Acknowledged payloads by QoS, over all rounds. With QoS 2 acknowledged is PUBREC.
type Acknowledged = Arc<Mutex<[BTreeSet<String>; 3]>>;

/// What the subscriber got: QoS, DUP and payload.
type Deliveries = Mutex<Vec<(u8, bool, String)>>;

/// Publishes with 20 outstanding until the connection dies.
fn publish_until_dead(mut client: Client, name: &str, qos: u8, acknowledged: &Acknowledged) {
    let mut outstanding = BTreeMap::new();
    let mut next = 0u32;
    let topic = format!("device/{name}/load");
    loop {
        while outstanding.len() < 20 {
            let id = client.id();
            let payload = format!("{name}-{next}");
            next += 1;
            let publish = Publish::new(&topic, &payload).qos(qos).id(id);
            if client.try_send(&publish.bytes()).is_err() {
                return;
            }
            outstanding.insert(id, payload);
        }
        match client.recv_within(SOON) {
            Ok(Some(Packet::Puback(id))) | Ok(Some(Packet::Pubrec(id))) => {
                let payload = outstanding.remove(&id).expect("an identifier in use");
                acknowledged.lock().unwrap()[usize::from(qos)].insert(payload);
                if qos == 2 {
                    let _ =
                        client.try_send(&crate::support::client::packet(0x62, &id.to_be_bytes()));
                }
            }
            Ok(Some(Packet::Pubcomp(_))) => {}
            Ok(other) => panic!("{other:?}"),
            Err(_) => return,
        }
    }
}

/// Reads the persistent session until the connection dies, or nothing comes for `quiet`.
fn read(mut client: Client, quiet: Duration, delivered: &Deliveries) {
    loop {
        match client.recv_within(quiet) {
            Ok(Some(Packet::Publish(came))) => {
                let answer = if came.qos == 2 { 0x50 } else { 0x40 };
                // What is recorded is taken: a client that dies in between gets it again.
                delivered.lock().unwrap().push((came.qos, came.dup, came.text()));
                if client
                    .try_send(&crate::support::client::packet(answer, &came.id.to_be_bytes()))
                    .is_err()
                {
                    return;
                }
            }
            Ok(Some(Packet::Pubrel(id))) => {
                let _ = client.try_send(&crate::support::client::packet(0x70, &id.to_be_bytes()));
            }
            Ok(Some(other)) => panic!("{other:?}"),
            Ok(None) | Err(_) => return,
        }
    }
}

/// One life of the node under load: `end` decides when and how it dies.
fn load(
    node: Node,
    round: u64,
    acknowledged: &Acknowledged,
    delivered: &Arc<Deliveries>,
    end: impl FnOnce(&mut Node),
) -> Node {
    let mut node = node;
    let subscriber = node.persistent("subscriber");
    let reader = {
        let delivered = Arc::clone(delivered);
        std::thread::spawn(move || read(subscriber, 2 * SOON, &delivered))
    };
    let publishers: Vec<_> = (0..3u8)
        .map(|n| {
            let qos = 1 + n % 2;
            let name = format!("r{round}p{n}");
            let client = Client::connect(node.mqtt, &Connect::new(&name).persistent());
            let acknowledged = Arc::clone(acknowledged);
            std::thread::spawn(move || publish_until_dead(client, &name, qos, &acknowledged))
        })
        .collect();
    end(&mut node);
    for publisher in publishers {
        publisher.join().unwrap();
    }
    reader.join().unwrap();
    node
}

/// What is in the embedded log, by payload: `broker tail` up to a last record of our own.
fn logged(node: &Node) -> BTreeSet<String> {
    use std::io::BufRead as _;
    node.client("fence").publish("device/fence/load", "fence", 1);
    let mut child = Command::new(env!("CARGO_BIN_EXE_broker"))
        .current_dir(node.folder())
        .args(["tail", "device-load", "--from-start", "--data-dir"])
        .arg(node.data_dir())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the broker starts");
    let out = std::io::BufReader::new(child.stdout.take().expect("stdout"));
    let payloads = out
        .lines()
        .map(|line| line.expect("UTF-8").rsplit('\t').next().unwrap_or_default().to_owned());
    let printed = payloads.take_while(|payload| payload != "fence").collect();
    let _ = child.kill();
    let _ = child.wait();
    printed
}

/// Everything acknowledged was delivered, QoS 2 once; and is in the log.
fn check(node: &Node, acknowledged: &Acknowledged, delivered: &Deliveries) {
    read(node.persistent("subscriber"), Duration::from_secs(2), delivered);
    let acknowledged = acknowledged.lock().unwrap();
    let delivered = delivered.lock().unwrap();
    let came: BTreeSet<&String> = delivered.iter().map(|(_, _, payload)| payload).collect();
    let log = logged(node);
    for qos in 1..=2 {
        let lost: Vec<_> =
            acknowledged[qos].iter().filter(|p| !came.contains(p)).take(10).collect();
        assert!(
            lost.is_empty(),
            "QoS {qos}: acknowledged and not delivered: {lost:?} of {}",
            acknowledged[qos].len()
        );
        let lost: Vec<_> =
            acknowledged[qos].iter().filter(|p| !log.contains(*p)).take(10).collect();
        assert!(
            lost.is_empty(),
            "QoS {qos}: acknowledged and not in the log: {lost:?} of {}",
            acknowledged[qos].len()
        );
        assert!(
            acknowledged[qos].len() > 100,
            "QoS {qos}: {} acknowledged: too little load",
            acknowledged[qos].len()
        );
    }
    // Exactly once: a QoS 2 message comes a second time only as the retransmission it says it is.
    let mut firsts = BTreeSet::new();
    for (qos, dup, payload) in delivered.iter() {
        if *qos == 2 && !dup {
            assert!(firsts.insert(payload), "QoS 2 twice, not as a retransmission: {payload}");
        }
    }
}

#[test]
fn kill_9_at_random_moments_loses_nothing_acknowledged() {
    let mut dice = Dice::new();
    let acknowledged = Acknowledged::default();
    let delivered: Arc<Deliveries> = Arc::default();
    let mut node = Node::builder().set("session.max_queued_messages", QUEUED).start();
    node.persistent("subscriber").subscribe("device/#", 2);
    for round in 0..rounds() {
        let moment = Duration::from_millis(20 + dice.below(380));
        node = load(node, round, &acknowledged, &delivered, |node| {
            // The moment is the point of the test; nothing is waited for.
            std::thread::sleep(moment);
            node.kill9();
        });
        node = node.restart();
    }
    check(&node, &acknowledged, &delivered);
}

/// The file layer that throws unsynced bytes away, as a library to preload.
fn file_layer(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/unsynced.c");
    let library = folder.join("unsynced.so");
    let output = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&library, &source])
        .args(["-ldl", "-lpthread"])
        .output()
        .expect("a C compiler");
    assert!(output.status.success(), "{}", stderr(&output));
    library
}

#[test]
fn no_puback_precedes_its_sync() {
    power_cuts("always", 6);
}

#[test]
#[should_panic(expected = "acknowledged and not")]
fn the_file_layer_sees_a_node_that_does_not_sync() {
    power_cuts("never", 3);
}

/// A load, then the power cut: the process dies and only what was synced remains.
fn power_cuts(sync: &str, rounds: u64) {
    let mut dice = Dice::new();
    let outer = tempfile::tempdir().unwrap();
    let root = outer.path().canonicalize().unwrap();
    let library = file_layer(&root);
    let (data, shadow) = (root.join("data"), root.join("shadow"));
    for folder in [&data, &shadow] {
        std::fs::create_dir(folder).unwrap();
    }
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let acknowledged = Acknowledged::default();
    let delivered: Arc<Deliveries> = Arc::default();
    let start = || {
        Node::builder()
            .data_dir(&data)
            .set("session.max_queued_messages", QUEUED)
            .set("storage.sync", sync)
            .env("LD_PRELOAD", &text(&library))
            .env("UNSYNCED_DIR", &text(&data))
            .env("UNSYNCED_SHADOW", &text(&shadow))
            .env("UNSYNCED_FULL", &text(&root.join("full")))
            .start()
    };
    let mut node = start();
    node.persistent("subscriber").subscribe("device/#", 2);
    for round in 0..rounds {
        let moment = Duration::from_millis(100 + dice.below(400));
        node = load(node, round, &acknowledged, &delivered, |node| {
            std::thread::sleep(moment);
            node.kill9();
        });
        drop(node);
        // Power is back: the disk has what was synced.
        std::fs::remove_dir_all(&data).unwrap();
        std::fs::rename(&shadow, &data).unwrap();
        let copied = Command::new("cp").arg("-a").args([&data, &shadow]).status().unwrap();
        assert!(copied.success());
        node = start();
    }
    check(&node, &acknowledged, &delivered);
}
