//! Two nodes that talk: what they say does not depend on the seeds of their hash maps, and what follows from it.

use hydrant_protocol::QoS;
use hydrant_protocol::cluster::link::Role;
use hydrant_protocol::cluster::message::Control;

use super::*;

const MANY: usize = 64;

/// What each of two nodes has said to the other, in the order in which it was said.
struct Pair {
    nodes: [Machine; 2],
    connections: [u64; 2],
    said: Vec<Vec<u8>>,
}

impl Pair {
    /// Nodes n1 and n2, which see each other and are connected.
    fn new(of: impl Fn(usize) -> Machine) -> Self {
        let mut nodes = [of(0), of(1)];
        let connect = |machine: &mut Machine, role| {
            let now = Machine::at(machine.now);
            machine.coordinator.handle_connected(now, 1, role).unwrap()
        };
        for machine in &mut nodes {
            machine.sees(&[("n1", ME), ("n2", OTHER)]);
        }
        let [first, second] = &mut nodes;
        let connections = [connect(first, Role::Dialer), connect(second, Role::Acceptor)];
        Self { nodes, connections, said: Vec::new() }
    }

    /// Carries what is said, until nobody says anything more.
    fn talk(&mut self) {
        let mut silent = 0;
        while silent < 2 {
            for (from, to) in [(0, 1), (1, 0)] {
                let mut out = Vec::new();
                let now = Machine::at(self.nodes[from].now);
                let (coordinator, connection) =
                    (&mut self.nodes[from].coordinator, self.connections[from]);
                coordinator.handle_turn(now);
                coordinator.poll_transmit(now, 1, connection, &mut out, 1 << 20).unwrap();
                if out.is_empty() {
                    silent += 1;
                    continue;
                }
                silent = 0;
                let (coordinator, connection) =
                    (&mut self.nodes[to].coordinator, self.connections[to]);
                assert!(coordinator.handle_received(now, 1, connection, &out));
                self.said.push(out);
            }
        }
    }
}

/// A node with sessions and subscriptions.
fn node(at: usize) -> Machine {
    let (id, incarnation) = [("n1", ME), ("n2", OTHER)][at];
    let mut machine = Machine::of(id, incarnation);
    for n in 0..MANY {
        let filter = format!("{id}/{n}").into();
        machine.cluster.subscription_changed(&filter, true, None, Some(QoS::AtLeastOnce));
    }
    let clients = (0..MANY).map(|n| format!("{id}-{n}").into()).collect();
    machine.work(PeerWork::Interest(None));
    machine.work(PeerWork::Holds(clients));
    machine
}

fn history() -> Vec<Vec<u8>> {
    let mut pair = Pair::new(node);
    pair.talk();
    for machine in &mut pair.nodes {
        let (retained, request) = machine.asked();
        assert!(matches!(request, Request::Retained), "{request:?}");
        machine.answer(retained, Answer::Retained(Ok(Vec::new())));
    }
    // Another has come, and who owns what now is told; then it is gone.
    let all = [("n1", ME), ("n2", OTHER), ("n3", 5)];
    for members in [&all[..], &all[..2]] {
        pair.nodes.iter_mut().for_each(|machine| machine.sees(members));
        pair.talk();
    }
    pair.said
}

#[test]
fn what_nodes_say_is_the_same_each_time() {
    let said = history();
    let bytes: usize = said.iter().map(Vec::len).sum();
    assert!(bytes > MANY * 20, "they told each other what they want and hold: {bytes}");
    for _ in 0..3 {
        assert!(history() == said);
    }
}

/// Below which number of its batches a node says that nothing is sent again; which of them the other one forgets then.
fn forgotten(pair: &mut Pair, below: u64) -> Vec<u64> {
    let said = Control::Answered { below };
    pair.nodes[1].coordinator.link(1).unwrap().send_control(said);
    pair.talk();
    let first = &mut pair.nodes[0];
    first.told();
    let below = |op| match op {
        StoreOp::Cluster(ClusterOp::ForgetPeerBatches { origin: OTHER, below }) => below,
        other => panic!("{other:?}"),
    };
    mem::take(&mut first.outside.stored).into_iter().map(below).collect()
}

/// What a node says next may be about batches before the one that is kept, so it is heard twice.
#[test]
fn batches_that_are_kept_are_forgotten_when_their_node_says_so() {
    let mut pair = Pair::new(node);
    pair.talk();
    let consumed = |kept| PeerWork::Consumed { node: 1, incarnation: OTHER, bytes: 1, kept };
    pair.nodes[0].work(consumed(false));
    assert_eq!(forgotten(&mut pair, 4), []);
    pair.nodes[0].work(consumed(true));
    pair.nodes[0].work(consumed(false));
    for below in [5, 6] {
        assert_eq!(forgotten(&mut pair, below), [below]);
    }
    assert_eq!(forgotten(&mut pair, 7), []);
}
