//! What survives a restart, planned or by kill -9: sessions, subscriptions, queues, QoS 2 state,
//! retained messages, wills. And what queues do at their bounds.

use crate::support::client::{Connect, Publish};
use crate::support::{Client, Node, Packet, SOON, eventually};

/// Ends the node in both ways a test of restarts goes through.
fn both_ways(test: impl Fn(fn(Node) -> Node)) {
    test(Node::restart);
    test(|mut node| {
        node.kill9();
        node.restart()
    });
}

#[test]
fn sessions_subscriptions_and_queues_survive() {
    both_ways(|restart| {
        let node = Node::builder().start();
        node.offline("s", &[("a/+", 1), ("b", 2)]);
        let mut publisher = node.client("p");
        for n in 0..30 {
            publisher.publish("a/1", n.to_string(), 1);
            publisher.publish("b", n.to_string(), 2);
        }
        let node = restart(node);
        let (mut subscriber, present) = node.persistent_present("s");
        assert!(present);
        let came: Vec<_> = (0..60).map(|_| subscriber.take()).collect();
        for (topic, qos) in [("a/1", 1), ("b", 2)] {
            let texts: Vec<_> = came
                .iter()
                .filter(|p| p.topic == topic && p.qos == qos)
                .map(|p| p.text())
                .collect();
            assert_eq!(texts, (0..30).map(|n| n.to_string()).collect::<Vec<_>>());
        }
        node.client("p").publish("a/2", "still subscribed", 1);
        assert_eq!(subscriber.take().text(), "still subscribed");
    });
}

#[test]
fn an_unsubscription_and_an_ended_session_survive() {
    both_ways(|restart| {
        let node = Node::builder().start();
        let mut kept = node.persistent("kept").subscribed("gone", 1).subscribed("stays", 1);
        kept.unsubscribe("gone");
        node.persistent("ended").disconnect();
        node.client("ended").disconnect();
        let node = restart(node);
        let mut publisher = node.client("p");
        publisher.publish("gone", "x", 1);
        publisher.publish("stays", "fence", 1);
        assert_eq!(node.persistent("kept").take().text(), "fence");
        let (_, present) = node.persistent_present("ended");
        assert!(!present);
    });
}

#[test]
fn retained_messages_survive() {
    both_ways(|restart| {
        let node = Node::builder().start();
        let mut publisher = node.client("p");
        publisher.retain("r/kept", "kept", 1);
        publisher.retain("r/replaced", "old", 1);
        publisher.retain("r/replaced", "new", 2);
        publisher.retain("r/removed", "x", 1);
        publisher.retain("r/removed", "", 1);
        let node = restart(node);
        let mut late = node.client("late").subscribed("r/#", 2);
        let mut came: Vec<_> = (0..2)
            .map(|_| late.take())
            .map(|p| (p.topic.clone(), p.text(), p.qos, p.retain))
            .collect();
        came.sort();
        assert_eq!(
            came,
            [
                ("r/kept".into(), "kept".into(), 1, true),
                ("r/replaced".into(), "new".into(), 2, true)
            ]
        );
        node.client("p").publish("r/fence", "fence", 1);
        assert_eq!(late.take().text(), "fence");
    });
}

#[test]
fn a_received_qos_2_message_is_recognised_after_a_restart() {
    both_ways(|restart| {
        let node = Node::builder().start();
        node.offline("s", &[("t", 2)]);
        let mut publisher = node.persistent("p");
        publisher.send(&Publish::new("t", b"once").qos(2).id(7).bytes());
        publisher.expect(Packet::Pubrec(7));
        let node = restart(node);
        let (mut publisher, present) = node.persistent_present("p");
        assert!(present);
        publisher.send(&Publish::new("t", b"once").qos(2).id(7).dup().bytes());
        publisher.expect(Packet::Pubrec(7));
        publisher.release(7);
        publisher.publish("t", "fence", 2);
        let mut subscriber = node.persistent("s");
        assert_eq!([subscriber.take().text(), subscriber.take().text()], ["once", "fence"]);
    });
}

#[test]
fn a_released_qos_2_message_stays_released_after_a_restart() {
    both_ways(|restart| {
        let node = Node::builder().start();
        node.offline("s", &[("t", 2)]);
        let mut publisher = node.persistent("p");
        publisher.send(&Publish::new("t", b"first").qos(2).id(7).bytes());
        publisher.expect(Packet::Pubrec(7));
        publisher.release(7);
        let node = restart(node);
        let mut publisher = node.persistent("p");
        publisher.release(7);
        // The identifier is free: another message.
        publisher.send(&Publish::new("t", b"second").qos(2).id(7).bytes());
        publisher.expect(Packet::Pubrec(7));
        let mut subscriber = node.persistent("s");
        assert_eq!([subscriber.take().text(), subscriber.take().text()], ["first", "second"]);
    });
}

#[test]
fn outgoing_qos_2_goes_on_where_it_was_after_a_restart() {
    both_ways(|restart| {
        let node = Node::builder().start();
        let mut subscriber = node.persistent("s").subscribed("t", 2);
        let mut publisher = node.client("p");
        publisher.publish("t", "published", 2);
        publisher.publish("t", "released", 2);
        let first = subscriber.publish_in();
        let second = subscriber.publish_in();
        subscriber.pubrec(second.id);
        subscriber.expect(Packet::Pubrel(second.id));
        let node = restart(node);
        let mut subscriber = node.persistent("s");
        let again = subscriber.publish_in();
        assert_eq!((again.text().as_str(), again.id, again.dup), ("published", first.id, true));
        subscriber.expect(Packet::Pubrel(second.id));
        subscriber.pubcomp(second.id);
        subscriber.acknowledge(&again);
        subscriber.ping();
        // Done for good.
        let node = node.restart();
        node.client("p").publish("t", "fence", 2);
        assert_eq!(node.persistent("s").take().text(), "fence");
    });
}

#[test]
fn outgoing_qos_1_comes_again_after_a_restart() {
    both_ways(|restart| {
        let node = Node::builder().start();
        let mut subscriber = node.persistent("s").subscribed("t", 1);
        let mut publisher = node.client("p");
        publisher.publish("t", "x", 1);
        let first = subscriber.publish_in();
        assert!(!first.dup);
        let node = restart(node);
        let again = node.persistent("s").take();
        assert_eq!((again.text(), again.id, again.dup), (first.text(), first.id, true));
    });
}

#[test]
fn a_will_fires_when_the_node_died_with_its_connection() {
    let mut node = Node::builder().start();
    let _watcher = node.persistent("watcher").subscribed("will/#", 1);
    let _dying =
        Client::connect(node.mqtt, &Connect::new("dies").retained_will("will/dies", "gone", 1));
    Client::connect(node.mqtt, &Connect::new("left").will("will/left", "never", 1)).disconnect();
    let _fence = node.persistent("fence").subscribed("x", 1);
    node.kill9();
    let node = node.restart();
    let mut watcher = node.persistent("watcher");
    assert_eq!(watcher.take().topic, "will/dies");
    node.client("p").publish("will/fence", "fence", 1);
    assert_eq!(watcher.take().text(), "fence");
    let node = node.restart();
    // Once.
    node.client("p").publish("will/fence", "fence 2", 1);
    let mut watcher = node.persistent("watcher");
    assert_eq!(watcher.take().text(), "fence 2");
}

#[test]
fn a_session_expires_after_a_restart_too() {
    let node = Node::builder().set("session.expiry", "1s").start();
    let subscriber = node.persistent("s").subscribed("t", 1);
    node.client("p").publish("t", "lost", 1);
    drop(subscriber);
    let node = node.restart();
    eventually(SOON, "the session has expired", || {
        let found = node.metric("hydrant_subscriptions");
        found == 0.0
    });
    let (_, present) = node.persistent_present("s");
    assert!(!present);
}

#[test]
fn a_full_queue_drops_the_new_message_or_the_oldest_and_counts() {
    for (overflow, expected) in [("drop_new", ["0", "1", "2"]), ("drop_old", ["2", "3", "4"])] {
        let node = Node::builder()
            .set("session.max_queued_messages", 3)
            .set("session.overflow", overflow)
            .start();
        node.offline("s", &[("t", 1)]);
        let mut publisher = node.client("p");
        for n in 0..5 {
            publisher.publish("t", n.to_string(), 1);
        }
        assert_eq!(node.dropped("queue_full"), 2.0, "{overflow}");
        let mut subscriber = node.persistent("s");
        let came: Vec<_> = (0..3).map(|_| subscriber.take().text()).collect();
        assert_eq!(came, expected, "{overflow}");
        publisher.publish("t", "fence", 1);
        assert_eq!(subscriber.take().text(), "fence");
    }
}

#[test]
fn a_queue_is_bounded_in_bytes_too() {
    let node = Node::builder().set("session.max_queued_bytes", "\"10KiB\"").start();
    node.offline("s", &[("t", 1)]);
    let mut publisher = node.client("p");
    for _ in 0..5 {
        publisher.publish("t", vec![b'x'; 3000], 1);
    }
    assert_eq!(node.dropped("queue_full"), 2.0);
}

#[test]
fn qos_0_is_queued_for_offline_sessions_where_the_configuration_says_so() {
    let node = Node::builder().set("session.queue_qos0", true).start();
    node.offline("s", &[("t", 1)]);
    let mut publisher = node.client("p");
    publisher.publish("t", "zero", 0);
    publisher.publish("t", "one", 1);
    let node = node.restart();
    let mut subscriber = node.persistent("s");
    let came = [subscriber.take(), subscriber.take()].map(|p| (p.text(), p.qos));
    assert_eq!(came, [("zero".into(), 0), ("one".into(), 1)]);
    drop(subscriber);
    publisher = node.client("p");
    publisher.publish("t", "fence", 1);
    assert_eq!(node.persistent("s").take().text(), "fence");
}

#[test]
fn a_long_queue_comes_back_from_the_store_in_order() {
    let node = Node::builder()
        .set("session.max_queued_in_memory", 50)
        .set("session.max_inflight", 20)
        .start();
    node.offline("s", &[("t", 1)]);
    let mut publisher = node.client("p");
    for chunk in 0..10u16 {
        let ids = chunk * 200 + 1..=chunk * 200 + 200;
        publisher.burst(ids.clone(), |id| Publish::new("t", id.to_string()).qos(1));
        ids.for_each(|id| publisher.expect(Packet::Puback(id)));
    }
    let mut subscriber = node.persistent("s");
    // New ones come behind the old ones.
    publisher.publish("t", "2001", 1);
    for n in 1..=2001 {
        assert_eq!(subscriber.take().text(), n.to_string());
    }
    eventually(SOON, "the queue is empty", || node.metric("hydrant_messages_queued") == 0.0);
}

#[test]
fn a_session_survives_many_reconnects_in_the_middle_of_its_messages() {
    let node = Node::builder().start();
    let mut subscriber = node.persistent("s").subscribed("t", 2);
    let mut publisher = node.client("p");
    let mut came = Vec::new();
    for n in 0..60 {
        publisher.publish("t", n.to_string(), 2);
        if n % 3 == 0 {
            // Cut at each stage of the hand-shake in turn.
            let publish = subscriber.recv();
            if let Packet::Publish(publish) = publish {
                if n % 2 == 0 {
                    subscriber.pubrec(publish.id);
                    subscriber.wait_for(&Packet::Pubrel(publish.id));
                    came.push(publish.text());
                    drop(subscriber);
                    subscriber = node.persistent("s");
                    subscriber.wait_for(&Packet::Pubrel(publish.id));
                    subscriber.pubcomp(publish.id);
                } else {
                    drop(subscriber);
                    subscriber = node.persistent("s");
                }
            }
        }
    }
    while came.len() < 60 {
        let text = subscriber.take().text();
        came.push(text);
    }
    publisher.publish("t", "fence", 2);
    assert_eq!(subscriber.take().text(), "fence");
    came.sort_by_key(|text| text.parse::<u32>().unwrap());
    assert_eq!(came, (0..60).map(|n| n.to_string()).collect::<Vec<_>>(), "exactly once");
}

#[test]
fn mqtt_3_1_2_6_a_clean_session_does_not_survive() {
    let node = Node::builder().start();
    let _client = node.client("clean").subscribed("t", 1);
    let node = node.restart();
    assert_eq!(node.metric("hydrant_subscriptions"), 0.0);
    let (_, present) = node.persistent_present("clean");
    assert!(!present);
}
