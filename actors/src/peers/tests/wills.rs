//! Several wills of one client, on one node and on two: each fires, whatever becomes of its node before the one before
//! it is everywhere.

use super::*;

/// What comes of a client's wills to a queue and to who watches, both on n2.
struct Watch {
    clients: Vec<Client>,
    got: Vec<Vec<Vec<u8>>>,
    qos: u8,
    how: String,
}

impl Watch {
    fn begin(cluster: &Cluster, qos: u8, how: &str) -> Self {
        let clients = [("queue", false), ("live", true)].map(|(client, clean)| {
            let mut client = cluster.connect(1, client, clean);
            client.subscribe("will", 2);
            client
        });
        let got = vec![Vec::new(), Vec::new()];
        Self { clients: clients.into(), got, qos, how: how.to_owned() }
    }

    /// Its node is lost, and with it who was live there.
    fn goes_to(&mut self, node: &TestNode) {
        let queue = Client::connect(node.address, "queue", false);
        assert!(queue.session_present);
        let before = self.clients.swap_remove(0);
        (self.clients, self.got) = (vec![queue.goes_on(before)], vec![self.got.swap_remove(0)]);
    }

    /// All of `due` comes, and nothing else; at QoS 2 once.
    fn expects(&mut self, due: &[&[u8]]) {
        let Self { clients, got, qos, how } = self;
        until(&format!("{how}: {due:?} come"), || {
            for (client, got) in clients.iter_mut().zip(&mut *got) {
                got.append(&mut client.drain());
            }
            got.iter().all(|got| due.iter().all(|will| got.iter().any(|one| one == will)))
        });
        for got in got {
            got.sort();
            if *qos == 1 {
                got.dedup();
            }
            assert_eq!(got, due, "{how}");
        }
    }
}

impl Cluster {
    fn named(&self, id: &str) -> &TestNode {
        self.nodes.iter().find(|node| node.id == id).unwrap()
    }

    fn kill_named(&mut self, id: &str) {
        self.kill(self.nodes.iter().position(|node| node.id == id).unwrap());
    }
}

/// What happens while the first will of a client waits for n2, where a queue wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    /// n2 answers. The second connection's node is killed after that.
    Answers,
    /// The first connection's node is killed; n2 has got the will.
    FirstDies,
    /// Both of them are; n2 has not written it.
    BothDie,
}

/// `back_at`: where the client connects with its second will.
fn two_wills(qos: u8, back_at: &str, meanwhile: Meanwhile) {
    let how = format!("QoS {qos}, back at {back_at}, {meanwhile:?}");
    let mut cluster = Cluster::new(&["n1", "n2", "n3"]);
    let mut watch = Watch::begin(&cluster, qos, &how);
    let connect = |cluster: &Cluster, id: &str, will: &[u8]| {
        let address = cluster.named(id).address;
        Client::connect_with_will_at(address, "dying", ("will", will), qos)
    };
    let first = connect(&cluster, "n1", b"one");
    let n2 = Arc::clone(&cluster.named("n2").node);
    let frozen = if meanwhile == Meanwhile::BothDie { &n2.cut } else { &n2.late };
    frozen.store(true, Ordering::SeqCst);
    drop(first);
    if meanwhile != Meanwhile::BothDie {
        until("n2 has it and does not say so", || cluster.world.queued("queue") == 1);
    }
    let second = connect(&cluster, back_at, b"two");
    let due: &[&[u8]] = if back_at == "n1" { &[b"one", b"two"] } else { &[b"one"] };
    match meanwhile {
        Meanwhile::Answers => {
            frozen.store(false, Ordering::SeqCst);
            watch.expects(&[b"one"]);
            until("the first is everywhere", || cluster.world.wills("dying") == 1);
            cluster.kill_named(back_at);
        }
        Meanwhile::FirstDies => {
            cluster.kill_named("n1");
            frozen.store(false, Ordering::SeqCst);
            watch.expects(due);
        }
        Meanwhile::BothDie => {
            cluster.kill_named("n1");
            cluster.kill_named("n2");
            watch.goes_to(cluster.named("n3"));
            watch.expects(due);
        }
    }
    // Its connection has ended with its node, or does so now.
    drop(second);
    watch.expects(&[b"one", b"two"]);
    until("nothing is left of them", || {
        cluster.world.wills("dying") + cluster.world.prepared() == 0
    });
}

#[test]
fn the_end_of_a_will_takes_no_later_one_away() {
    let _turn = ONE_AT_A_TIME.lock();
    for (qos, back_at) in [(1, "n1"), (1, "n3"), (2, "n1"), (2, "n3")] {
        two_wills(qos, back_at, Meanwhile::Answers);
    }
}

#[test]
fn a_node_that_dies_before_a_will_is_everywhere_leaves_all_that_are_due() {
    let _turn = ONE_AT_A_TIME.lock();
    for (qos, back_at) in [(1, "n1"), (1, "n3"), (2, "n1"), (2, "n3")] {
        two_wills(qos, back_at, Meanwhile::FirstDies);
    }
}

#[test]
fn a_will_that_waits_for_a_node_that_dies_as_well_is_not_lost_with_a_later_one() {
    let _turn = ONE_AT_A_TIME.lock();
    for (qos, back_at) in [(1, "n1"), (1, "n3"), (2, "n1"), (2, "n3")] {
        two_wills(qos, back_at, Meanwhile::BothDie);
    }
}
