//! The order in which QoS 2 messages of one publisher and topic reach live subscribers of several nodes.

use hydrant_protocol::cluster::{Key, Ring};

use super::*;

fn numbers(range: std::ops::Range<u8>) -> Vec<Vec<u8>> {
    range.map(|n| vec![n]).collect()
}

/// One message waits for a queue of a node that does not answer and is lost then; those behind it do not.
#[test]
fn what_waits_for_a_lost_node_is_overtaken_by_other_topics_alone() {
    let _turn = ONE_AT_A_TIME.lock();
    for (clean, ends) in [(true, false), (true, true), (false, false), (false, true)] {
        let mut cluster = Cluster::new(&["n1", "n2", "n3"]);
        let mut live = [cluster.connect(0, "near", true), cluster.connect(2, "far", true)];
        live.iter_mut().for_each(|live| live.subscribe("a/#", 2));
        let mut queue = cluster.connect(1, "queue", false);
        queue.subscribe("a/b", 2);
        let mut publisher = cluster.connect(0, "publisher", clean);
        publisher.publish("a/b", &[0], 2);
        cluster.nodes[1].node.mute.store(true, Ordering::SeqCst);
        publisher.send_publish("a/b", &[1], 2);
        until("it is stored there", || cluster.world.queued("queue") == 2);
        queue.send_unsubscribe("a/b");
        until("that node does not want the next", || {
            let known = cluster.nodes[0].shared.cluster.as_ref().unwrap().remote();
            known.matches("a/b", &mut Vec::new()).count() == 1
        });
        for n in 2..6 {
            publisher.send_publish("a/b", &[n], 2);
        }
        publisher.send_publish("a/c", &[9], 2);
        for live in &mut live {
            assert_eq!(live.receive(2), [vec![0], vec![9]]);
        }
        let publisher = (!ends).then_some(publisher);
        cluster.kill(1);
        for live in &mut live {
            assert_eq!(live.receive(5), numbers(1..6));
            assert!(live.is_quiet());
        }
        publisher.into_iter().for_each(|mut publisher| publisher.await_acks());
    }
}

/// The successor finishes what its client had begun on the lost node, and only then what it publishes now.
#[test]
fn what_a_lost_node_had_prepared_comes_before_what_its_client_goes_on_with() {
    let _turn = ONE_AT_A_TIME.lock();
    let successor = Ring::new(["n1".into(), "n3".into()]);
    let successor = usize::from(!successor.owns("n1", Key::Client("n2")));
    for way in 0..4 {
        let mut cluster = Cluster::new(&["n1", "n2", "n3"]);
        let mut queue = cluster.connect(0, "queue", false);
        let mut live = [cluster.connect(0, "near", true), cluster.connect(2, "far", true)];
        for subscriber in live.iter_mut().chain([&mut queue]) {
            subscriber.subscribe("a/b", 2);
        }
        let mut publisher = cluster.connect(1, "publisher", false);
        publisher.publish("a/b", &[0], 2);
        cluster.nodes[1].node.mute.store(true, Ordering::SeqCst);
        for n in 1..20 {
            publisher.send_publish("a/b", &[n], 2);
        }
        until("some are begun", || cluster.world.prepared() > way);
        cluster.kill(1);
        let mut publisher = cluster.connect(successor, "publisher", false).goes_on(publisher);
        for n in 20..40 {
            publisher.send_publish("a/b", &[n], 2);
        }
        publisher.await_acks();
        for subscriber in live.iter_mut().chain([&mut queue]) {
            assert_eq!(subscriber.receive(40), numbers(0..40));
        }
    }
}

/// What of a topic a subscriber gets that comes to another node while QoS 2 publishes are routed and not delivered:
/// a live one what was delivered before and then the rest, one that queues the newest alone.
#[test]
fn a_new_subscriber_on_another_node_gets_retained_messages_in_order() {
    let _turn = ONE_AT_A_TIME.lock();
    for (workers, wanted) in [(1, false), (3, false), (1, true), (3, true)] {
        let cluster = Cluster::with_workers(workers, &["n1", "n2"]);
        let mut early = cluster.connect(1, "early", true);
        if wanted {
            early.subscribe("a/b", 2);
        }
        let mut publisher = cluster.connect(0, "publisher", true);
        publisher.retain_at("a/b", &[0], 2);
        publisher.await_acks();
        let retained = |n: u8| {
            let retained = cluster.nodes[1].shared.retained.read();
            retained.get("a/b").is_some_and(|message| message.payload[..] == [n])
        };
        until("it is retained there", || retained(0));
        // Routed, and not stored as far as that node knows.
        cluster.nodes[0].node.late.store(true, Ordering::SeqCst);
        for n in 1..9 {
            publisher.retain_at("a/b", &[n], 2);
        }
        until("the last one is retained there", || retained(8));
        let mut live: Vec<Client> =
            (0..3).map(|n| cluster.connect(1, &format!("live-{n}"), true)).collect();
        live.iter_mut().for_each(|live| live.subscribe("a/b", 2));
        let mut queue = cluster.connect(1, "later", false);
        queue.subscribe("a/b", 2);
        for live in &mut live {
            assert_eq!(live.receive(1), [[0]], "{workers} workers, wanted before: {wanted}");
        }
        assert_eq!(queue.receive(1), [[8]]);
        cluster.nodes[0].node.late.store(false, Ordering::SeqCst);
        publisher.await_acks();
        for live in &mut live {
            assert_eq!(
                live.receive(8),
                numbers(1..9),
                "{workers} workers, wanted before: {wanted}"
            );
            assert!(live.is_quiet());
        }
        let mut last = cluster.connect(1, "last", true);
        last.subscribe("a/b", 2);
        assert_eq!(last.receive(1), [[8]]);
        assert!(queue.is_quiet() && !cluster.nodes[1].shared.retained.read().has_ahead());
    }
}

/// Nobody there wants the topic when its messages are delivered, the publisher's node is lost before that, or its
/// publishes are not delivered at all.
#[test]
fn what_is_retained_on_another_node_is_shown_in_the_end() {
    let _turn = ONE_AT_A_TIME.lock();
    for lost in [false, true] {
        let mut cluster = Cluster::new(&["n1", "n2"]);
        let mut publisher = cluster.connect(0, "publisher", true);
        publisher.retain_at("a/b", &[0], 2);
        publisher.await_acks();
        cluster.nodes[0].node.late.store(true, Ordering::SeqCst);
        publisher.retain_at("a/b", &[1], 2);
        publisher.retain_at("a/c", &[], 2);
        let other = Arc::clone(&cluster.nodes[1].shared);
        until("it is retained there", || {
            let retained = other.retained.read();
            retained.get("a/b").is_some_and(|message| message.payload[..] == [1])
        });
        assert!(other.retained.read().has_ahead());
        if lost {
            cluster.kill(0);
        } else {
            cluster.nodes[0].node.late.store(false, Ordering::SeqCst);
            publisher.await_acks();
        }
        until("nothing is ahead", || !other.retained.read().has_ahead());
        let node = cluster.nodes.len() - 1;
        let mut subscriber = cluster.connect(node, "subscriber", true);
        subscriber.subscribe("a/#", 2);
        assert_eq!(subscriber.receive(1), [[1]]);
        assert!(subscriber.is_quiet());
    }
}
