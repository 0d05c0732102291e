//! Messages on their way from one node to another, all through a failure.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hydrant_protocol::cluster::ring::{Key, Ring};

use crate::support::load::{Load, PATIENCE, Subscriber};
use crate::support::{Node, eventually, unique};

/// The nodes of a cluster of three.
pub const IDS: [&str; 3] = ["n1", "n2", "n3"];

/// A client id that belongs to this one of [`IDS`].
pub fn owned_by(node: &str) -> String {
    let ring = Ring::new(IDS.map(Arc::from));
    let mut ids = std::iter::repeat_with(|| unique("client"));
    ids.find(|id| ring.owns(node, Key::Client(id))).unwrap()
}

/// A load at one node, for a subscriber at another.
pub struct Path {
    pub load: Load,
    pub subscriber: Subscriber,
    pub kind: String,
    qos: u8,
}

impl Path {
    /// Between nodes that stay: no connection may end.
    pub fn steady(nodes: &[Node; 3], from: usize, to: usize, qos: u8) -> Self {
        Self::start(nodes, from, to, qos, Load::start)
    }

    /// Clients whose node may go.
    pub fn stubborn(nodes: &[Node; 3], from: usize, to: usize, qos: u8) -> Self {
        Self::start(nodes, from, to, qos, Load::start_stubborn)
    }

    fn start(
        nodes: &[Node; 3],
        from: usize,
        to: usize,
        qos: u8,
        load: fn(SocketAddr, &str, usize, u8) -> Load,
    ) -> Self {
        let kind = format!("from{from}-to{to}-qos{qos}");
        let subscriber = Subscriber::start(nodes[to].mqtt, &kind, qos);
        Self { load: load(nodes[from].mqtt, &kind, 1, qos), subscriber, kind, qos }
    }

    /// Publishes are acknowledged, and come.
    #[track_caller]
    pub fn goes_on(&self, more: u64) {
        let came = self.subscriber.came();
        self.load.goes_on(more);
        eventually(PATIENCE, "publishes come", || self.subscriber.came() >= came + more);
    }

    /// How far it is, beyond what it was.
    pub fn since(&self, before: (u64, u64)) -> (u64, u64) {
        let (acknowledged, came) = (self.load.acknowledged(), self.subscriber.came());
        (acknowledged - before.0, came - before.1)
    }

    /// Nothing acknowledged is missing; how much came again.
    #[track_caller]
    pub fn finish(self) -> u64 {
        self.subscriber.finish(&self.load.finish())
    }

    /// The same, and of QoS 2 nothing came again.
    #[track_caller]
    pub fn finish_once(self) {
        let (kind, qos) = (self.kind.clone(), self.qos);
        let again = self.finish();
        assert!(qos < 2 || again == 0, "{kind}: {again} of QoS 2 came twice");
    }
}

/// The longest that paths stood still, while somebody looked.
pub struct Pauses {
    /// Acknowledged and come, each with the time of its last change.
    last: Vec<[(u64, Instant); 2]>,
    longest: Duration,
}

impl Pauses {
    /// From now on.
    pub fn new() -> Self {
        Self { last: Vec::new(), longest: Duration::ZERO }
    }

    /// Looks; to be called often.
    pub fn look(&mut self, paths: &[Path]) {
        let now = Instant::now();
        self.last.resize(paths.len(), [(0, now); 2]);
        for (path, last) in paths.iter().zip(&mut self.last) {
            let counts = [path.load.acknowledged(), path.subscriber.came()];
            for (count, (known, since)) in counts.into_iter().zip(last) {
                self.longest = self.longest.max(now - *since);
                if count > *known {
                    (*known, *since) = (count, now);
                }
            }
        }
    }

    /// See the type.
    pub fn longest(&self) -> Duration {
        self.longest
    }
}
