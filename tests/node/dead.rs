//! Records that the log refuses for good. The embedded log refuses a topic beyond `log.max_topics`.

use crate::support::client::Publish;
use crate::support::node::Builder;
use crate::support::{Node, SOON, eventually, says};

fn node() -> Builder {
    Node::builder().set("log.max_topics", 1)
}

fn wait_letters(node: &Node, count: f64) {
    eventually(SOON, "the dead letters are counted", || {
        node.metric("hydrant_dead_letters") == count
    });
}

#[test]
fn what_the_log_refuses_is_acknowledged_kept_over_a_kill_and_replayed() {
    let mut node = node().start();
    let mut client = node.client("sender");
    client.publish("the/k/only", "taken", 1);
    assert_eq!(node.dead(&["list"]), (true, "no dead letters\n".to_owned()));
    for (qos, payload) in [(1, "one"), (2, "two"), (1, "three")] {
        client.publish("one/k/more", payload, qos);
    }
    wait_letters(&node, 3.0);
    assert_eq!(node.http("/ready").0, 200);
    assert_eq!(node.dropped("log_refused"), 0.0);
    node.kill9();
    let node = node.restart();
    let listed = node.dead_ids();
    assert_eq!((listed.len(), node.metric("hydrant_dead_letters")), (3, 3.0));
    let (_, shown) = node.dead(&["list", "--count", "1"]);
    let parts = ["sender", "one/k/more", "one-more", "would be one more than the 1", "--after"];
    says(&shown, &parts);
    let (_, rest) = node.dead(&["list", "--after", &listed[0]]);
    assert!(rest.contains(&listed[1]) && !rest.contains(&listed[0]), "{rest}");
    let (ok, said) = node.dead(&["replay", &listed[0]]);
    assert!(!ok && said.contains("0 delivered") && said.contains("1 refused again"), "{said}");
    let (ok, said) = node.dead(&["drop", &listed[1]]);
    assert_eq!((ok, &*said), (true, "1 dropped\n"));
    let node = node.restart_with(|builder| builder.set("log.max_topics", 2));
    let (ok, said) = node.dead(&["replay", "--all"]);
    assert_eq!((ok, &*said), (true, "2 delivered\n"));
    assert!(node.dead_ids().is_empty());
    let records = node.tail("one-more", 2);
    let payloads: Vec<&str> = records.lines().filter_map(|line| line.split('\t').nth(4)).collect();
    assert_eq!(payloads, ["one", "three"]);
    assert_eq!(node.metric("hydrant_dead_letters_replayed_total"), 2.0);
}

#[test]
fn without_room_nobody_is_acknowledged_and_qos_0_fills_a_half() {
    let node = node().set("log.dead_letter_max_bytes", 4_000).start();
    let mut client = node.client("sender");
    client.publish("the/k/only", "taken", 1);
    for _ in 0..10 {
        client.publish("one/k/more", "x".repeat(800), 0);
    }
    eventually(SOON, "QoS 0 is dropped", || node.dropped("log_refused") == 8.0);
    wait_letters(&node, 2.0);
    for _ in 0..2 {
        client.publish("one/k/more", "x".repeat(800), 1);
    }
    client.send(&Publish::new("one/k/more", "x".repeat(800)).qos(1).id(77).bytes());
    client.expect_closed();
    wait_letters(&node, 4.0);
    assert_eq!(node.metric("hydrant_dead_letters_full_total"), 9.0);
    assert_eq!(node.http("/ready").0, 200);
    assert_eq!(node.dead(&["drop", "--all"]), (true, "4 dropped\n".to_owned()));
    assert_eq!(node.metric("hydrant_dead_letter_bytes"), 0.0);
    let mut client = node.client("sender");
    client.publish("one/k/more", "room", 1);
    wait_letters(&node, 1.0);
}
