//! Clients that leave, and what their connections do not see of that.

use std::sync::Arc;

use hydrant_protocol::cluster::ring::{Key, Ring};

use super::*;
use crate::messages::ManagerTask;

/// A client id that the last of these nodes owns.
fn of_the_last(ids: &[&str], prefix: &str) -> String {
    let ring = Ring::new(ids.iter().map(|id| Arc::from(*id)));
    let last = ids[ids.len() - 1];
    let mut clients = (0..).map(|n| format!("{prefix}-{n}"));
    clients.find(|client| ring.owner(Key::Client(client)).is_some_and(|id| **id == *last)).unwrap()
}

/// The client ids of its connections, as `broker clients` shows them.
fn connected(node: &TestNode) -> Vec<String> {
    let list = |manager: &crate::inbox::Inbox<ManagerTask>| {
        let (reply, answer) = oneshot::channel();
        manager.push(ManagerTask::List { skip: 0, limit: 10, reply }, 64);
        answer.blocking_recv().unwrap()
    };
    node.mailboxes.managers.iter().flat_map(list).map(|info| info.client_id).collect()
}

/// Its node was cut off; its client has gone elsewhere long before that node is reached again.
#[test]
fn who_has_left_takes_nothing_from_his_newer_connection() {
    let _turn = ONE_AT_A_TIME.lock();
    let cluster = Cluster::new(&["n1", "n2", "n3"]);
    let client = of_the_last(&["n1", "n2", "n3"], "device");
    let up = |node: u16| cluster.nodes[0].shared.cluster.as_ref().unwrap().is_up(node);
    let cut_off = || {
        cluster.nodes[1..].iter().for_each(|node| node.gate.shut());
        until("it is cut off", || !up(1) && !up(2));
    };
    let reached = || {
        cluster.nodes[1..].iter().for_each(|node| node.gate.reopen());
        until("it is reached", || up(1) && up(2));
    };
    cut_off();
    let knocks = Client::knock(cluster.nodes[0].address, &client);
    let connections = || cluster.nodes[0].shared.connections.load(Ordering::SeqCst);
    until("its connection is there", || connections() == 1);
    until("its CONNECT is read", || connected(&cluster.nodes[0]) == [client.as_str()]);
    drop(knocks);
    until("its end is noticed", || connections() == 0);
    let mut newer = cluster.connect(1, &client, false);
    newer.subscribe("a/b", 1);
    reached();
    // Another client of the node is let in: what that had to say of before has been heard.
    let other = of_the_last(&["n1", "n2", "n3"], "other");
    let mut other = cluster.connect(0, &other, true);
    other.publish("a/b", b"x", 1);
    assert_eq!(newer.receive(1), [b"x".to_vec()]);
    assert!(newer.is_quiet(), "it is connected");
}

/// The others say of it that it leaves, and not that its link is lost.
#[test]
fn a_node_that_stops_says_so_before_its_links_end() {
    let _turn = ONE_AT_A_TIME.lock();
    let mut cluster = Cluster::new(&["n1", "n2", "n3"]);
    drop(cluster.nodes.remove(2));
    let nodes = cluster.nodes.iter().map(|node| node.shared.cluster.as_ref().unwrap());
    for nodes in nodes.map(|cluster| cluster.status.nodes()) {
        let node = |id: &str| nodes.iter().find(|node| *node.id == *id).unwrap();
        until("the link is down", || !node("n3").is_up());
        assert!(node("n3").stops());
        assert!(!node("n1").stops() && !node("n2").stops());
    }
}
