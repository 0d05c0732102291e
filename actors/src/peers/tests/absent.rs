//! Nodes that are out of sight for a while and live: cut off from the others, or from the store.

use super::faults::{all_once, connecting, everything, offline};
use super::*;
use hydrant_protocol::cluster::Member;

fn members(cluster: &Cluster, node: usize) -> usize {
    cluster.nodes[node].shared.cluster.as_ref().unwrap().status.members()
}

/// The link from one node to another.
fn is_up(cluster: &Cluster, from: usize, to: usize) -> bool {
    let (its, id) = (cluster.nodes[from].shared.cluster.as_ref().unwrap(), cluster.nodes[to].id);
    let index = its.status.nodes().iter().position(|node| *node.id == *id);
    index.is_some_and(|index| its.is_up(index as u16))
}

/// The first node neither stands among the members nor has a link.
fn part(cluster: &Cluster, ids: &[&str]) -> Vec<Member> {
    let gone: Vec<Member> = ids.iter().filter_map(|id| cluster.world.hide(id)).collect();
    let others = 1..cluster.nodes.len();
    others.clone().for_each(|node| cluster.nodes[node].gate.shut());
    until("they are apart", || {
        let apart = |node| !is_up(cluster, node, 0) && !is_up(cluster, 0, node);
        let left = cluster.nodes.len() - gone.len();
        others.clone().all(|node| apart(node) && members(cluster, node) == left)
    });
    gone
}

fn meet(cluster: &Cluster, gone: Vec<Member>) {
    (1..cluster.nodes.len()).for_each(|node| cluster.nodes[node].gate.reopen());
    gone.into_iter().for_each(|member| cluster.world.show(member));
}

fn retained(cluster: &Cluster, node: usize, topic: &str) -> Option<Vec<u8>> {
    let retained = cluster.nodes[node].shared.retained.read();
    retained.get(topic).map(|message| message.payload.to_vec())
}

/// Either of two nodes that do not see each other changes what both have.
#[test]
fn what_is_retained_while_a_link_is_not_there_is_retained_everywhere() {
    let _turn = ONE_AT_A_TIME.lock();
    let cluster = Cluster::new(&["n1", "n2", "n3"]);
    let mut publishers = [0, 1].map(|node| cluster.connect(node, &format!("{node}"), true));
    for topic in ["kept", "changed-0", "changed-1", "removed-0", "removed-1"] {
        publishers[0].retain(topic, b"before");
    }
    let all = |topic: &str, payload: Option<&[u8]>| {
        until(topic, || (0..3).all(|node| retained(&cluster, node, topic).as_deref() == payload));
    };
    all("removed-1", Some(b"before"));
    let gone = part(&cluster, &["n1", "n2", "n3"]);
    for (node, publisher) in publishers.iter_mut().enumerate() {
        publisher.retain(&format!("changed-{node}"), b"after");
        publisher.retain(&format!("removed-{node}"), b"");
        publisher.retain(&format!("new-{node}"), b"new");
    }
    assert_eq!(retained(&cluster, 1, "changed-0").as_deref(), Some(&b"before"[..]));
    meet(&cluster, gone);
    for node in 0..2 {
        all(&format!("changed-{node}"), Some(b"after"));
        all(&format!("removed-{node}"), None);
        all(&format!("new-{node}"), Some(b"new"));
    }
    all("kept", Some(b"before"));
}

/// [MQTT-3.3.1-7]: also one of QoS 0 that is not stored yet when the link is back, and one of a third node.
#[test]
fn what_is_not_stored_yet_is_not_missed_and_not_removed() {
    let _turn = ONE_AT_A_TIME.lock();
    for writer in [0, 2] {
        let cluster = Cluster::new(&["n1", "n2", "n3"]);
        let mut publisher = cluster.connect(0, "publisher", true);
        let mut late = cluster.connect(writer, "late", true);
        publisher.retain("removed", b"before");
        until("it is everywhere", || retained(&cluster, 1, "removed").is_some());
        let gone = part(&cluster, &["n1"]);
        publisher.retain("removed", b"");
        let held = cluster.nodes[writer].incarnation;
        cluster.world.1.hold_writes_of.store(held, Ordering::SeqCst);
        late.retain_at_most_once("late", b"late");
        let writers = if writer == 0 { 0..1 } else { 1..3 };
        until("it is changed", || writers.clone().all(|n| retained(&cluster, n, "late").is_some()));
        meet(&cluster, gone);
        until("the link is back", || is_up(&cluster, 1, 0));
        let mut passes = cluster.connect(0, "passes", true);
        let mut sees = cluster.connect(1, "sees", true);
        sees.subscribe("else", 1);
        (0..50).for_each(|_| passes.publish("else", b"", 1));
        assert_eq!(sees.receive(50).len(), 50);
        cluster.world.1.hold_writes_of.store(0, Ordering::SeqCst);
        until("it is removed", || retained(&cluster, 1, "removed").is_none());
        until("it is there", || (0..3).all(|node| retained(&cluster, node, "late").is_some()));
    }
}

/// A session moves while a node is out of sight that has published for it: that does not count as stored where the
/// session is no more.
#[test]
fn who_was_out_of_sight_while_a_session_moved_acknowledges_nothing_and_ends() {
    let _turn = ONE_AT_A_TIME.lock();
    for (qos, workers, holder_dies) in [(1, 1, false), (2, 3, false), (1, 2, true), (2, 2, true)] {
        let mut cluster = Cluster::with_workers(workers, &["n1", "n2", "n3"]);
        offline(&cluster, 1, "device");
        let mut publisher = cluster.connect(0, "publisher", true);
        publisher.publish("a/b", &[0], qos);
        let gone = part(&cluster, &["n1"]);
        for n in 1..10 {
            publisher.send_publish("a/b", &[n], qos);
        }
        let mut device = cluster.connect(2, "device", false);
        assert!(device.session_present);
        all_once(&everything(&cluster, "device", &mut device), 0..1);
        cluster.nodes[0].node.may_end.store(true, Ordering::SeqCst);
        if holder_dies {
            // Its successor has not got the session from it.
            cluster.kill(1);
        }
        meet(&cluster, gone);
        let why = || cluster.nodes[0].node.ended.lock().clone();
        until("it ends, or says that all is stored", || {
            why().is_some() || publisher.waiting() == 0
        });
        assert_eq!(publisher.waiting(), 9, "nothing is acknowledged that the session has not got");
        let why = why().unwrap();
        assert!(why.contains("did not see this one while sessions moved"), "{why}");
    }
}

/// A node whose lease is over leaves the members, and is back when it has one again: nobody has sealed it.
#[test]
fn who_has_no_lease_is_no_member_until_it_has_one() {
    let _turn = ONE_AT_A_TIME.lock();
    for all in [false, true] {
        let cluster = Cluster::new(&["n1", "n2", "n3"]);
        offline(&cluster, 1, "device");
        let mut publisher = cluster.connect(0, "publisher", true);
        publisher.publish("a/b", &[0], 2);
        let stalled = if all { 0..3 } else { 1..2 };
        let stall = |is: bool| {
            let its = |node: usize| &cluster.nodes[node].node.stalled;
            stalled.clone().for_each(|node| its(node).store(is, Ordering::SeqCst));
        };
        stall(true);
        let left = 3 - stalled.len();
        until("they leave", || (0..3).all(|node| members(&cluster, node) == left));
        for n in 1..10 {
            publisher.send_publish("a/b", &[n], 2);
        }
        assert_eq!(publisher.waiting(), 9);
        stall(false);
        until("they are back", || (0..3).all(|node| members(&cluster, node) == 3));
        publisher.await_acks();
        for node in &cluster.nodes {
            assert_eq!(cluster.world.owner(node.incarnation), node.incarnation);
        }
        let mut device = cluster.connect(2, "device", false);
        assert!(device.session_present);
        all_once(&everything(&cluster, "device", &mut device), 0..10);
    }
}

/// All leave for want of the store, and a link is cut meanwhile. Those that are back first do not know whether the other
/// one is lost: a session waits for its markers until it is back as well, or until it has a successor.
#[test]
fn who_left_with_all_others_is_awaited_by_a_session_that_moves() {
    let _turn = ONE_AT_A_TIME.lock();
    for dies in [false, true] {
        let mut cluster = Cluster::new(&["n1", "n2", "n3"]);
        offline(&cluster, 1, "device");
        let mut publisher = cluster.connect(0, "publisher", false);
        publisher.publish("a/b", &[0], 2);
        let first = Arc::clone(&cluster.nodes[0].node);
        first.may_end.store(true, Ordering::SeqCst);
        let stall = |cluster: &Cluster, node: usize, is: bool| {
            cluster.nodes[node].node.stalled.store(is, Ordering::SeqCst);
        };
        (0..3).for_each(|node| stall(&cluster, node, true));
        until("they leave", || (0..3).all(|node| members(&cluster, node) == 0));
        (1..3).for_each(|node| cluster.nodes[node].gate.shut());
        until("they are apart", || {
            (1..3).all(|node| !is_up(&cluster, node, 0) && !is_up(&cluster, 0, node))
        });
        (1..3).for_each(|node| stall(&cluster, node, false));
        until("two are back", || (1..3).all(|node| members(&cluster, node) == 2));
        let device = connecting(cluster.nodes[2].address, "device");
        until("it is about to move", || {
            let moves = !cluster.nodes[1].shared.in_handover.read().is_empty();
            moves || cluster.world.1.takes.load(Ordering::SeqCst) > 0
        });
        assert!(!device.is_finished());
        if dies {
            cluster.kill(0);
        } else {
            stall(&cluster, 0, false);
            (1..3).for_each(|node| cluster.nodes[node].gate.reopen());
        }
        let mut device = device.join().unwrap();
        assert!(device.session_present);
        let mut publisher = match dies {
            true => cluster.connect(0, "publisher", false).goes_on(publisher),
            false => publisher,
        };
        publisher.publish("a/b", &[1], 2);
        assert_eq!(*first.ended.lock(), None);
        all_once(&everything(&cluster, "device", &mut device), 0..2);
    }
}

/// A node that cannot write and is no member has a successor, while its links are up.
#[test]
fn who_has_no_lease_is_taken_over() {
    let _turn = ONE_AT_A_TIME.lock();
    for qos in [1, 2] {
        let cluster = Cluster::new(&["n1", "n2", "n3"]);
        offline(&cluster, 1, "device");
        let mut publishers = [0, 2].map(|node| cluster.connect(node, &format!("{node}"), false));
        publishers[0].publish("a/b", &[0], qos);
        let n2 = cluster.nodes[1].incarnation;
        cluster.nodes[1].node.stalled.store(true, Ordering::SeqCst);
        for n in 1..20 {
            publishers[usize::from(n) % 2].send_publish("a/b", &[n], qos);
        }
        until("it leaves", || members(&cluster, 0) == 2 && members(&cluster, 2) == 2);
        assert!(is_up(&cluster, 0, 1));
        cluster.world.is_dead(n2, false);
        publishers.iter_mut().for_each(Client::await_acks);
        assert_ne!(cluster.world.owner(n2), n2);
        let mut device = cluster.connect(2, "device", false);
        assert!(device.session_present);
        all_once(&everything(&cluster, "device", &mut device), 0..20);
    }
}
