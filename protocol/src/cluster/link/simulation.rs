//! Two links over a TCP connection that is cut anywhere, under nodes that are started anew: each
//! frame arrives once and in order per incarnation pair, no window is exceeded, and it ends.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::cluster::random::Random;

/// What passed between a sender's and a receiver's incarnation.
#[derive(Debug, Default)]
struct Stream {
    sent: Vec<u64>,
    delivered: Vec<u64>,
}

struct Node {
    link: Link,
    incarnation: u64,
    config: Config,
    /// Of the stream to the peer's present incarnation.
    sent: Vec<u64>,
    /// Frames held: the peer's incarnation, and bytes.
    held: VecDeque<(u64, u64)>,
    /// It was told that there is no room.
    waits: bool,
    /// On the way to it, and how much of that will still come when the connection is cut.
    pipe: VecDeque<u8>,
    open: bool,
}

struct World {
    random: Random,
    now: u64,
    nodes: [Node; 2],
    /// By sending side, its incarnation, and the receiver's.
    streams: BTreeMap<(usize, u64, u64), Stream>,
    next: u64,
    restarts: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let nodes = [0, 1].map(|side| {
            let config = Config {
                max_frame_bytes: 200,
                window_frames: 1 + random.below(24) as u32,
                window_bytes: 200 + random.below(600) as u64,
                ack_every: 1 + random.below(8) as u32,
                ..Config::default()
            };
            let incarnation = 1 + random.below(3) as u64;
            Node {
                link: Self::link(side, incarnation, &config),
                incarnation,
                config,
                sent: Vec::new(),
                held: VecDeque::new(),
                waits: false,
                pipe: VecDeque::new(),
                open: false,
            }
        });
        Self { random, now: 0, nodes, streams: BTreeMap::new(), next: 0, restarts: 0 }
    }

    fn link(side: usize, incarnation: u64, config: &Config) -> Link {
        let id = ["a", "b"];
        let me = Identity { cluster: "c".into(), node_id: id[side].into(), incarnation };
        Link::new(config.clone(), me, id[1 - side].into())
    }

    fn step(&mut self, faults: bool) {
        self.now += self.random.below(8) as u64;
        if faults && self.random.one_in(200) {
            // The machine stood still: nobody is dead.
            self.now += 5000;
        }
        if faults && self.random.one_in(25) {
            self.cut();
        }
        if faults && self.random.one_in(150) {
            self.restart();
        }
        if !self.nodes[0].open && !self.nodes[1].open && self.random.one_in(3) {
            self.connect();
        }
        for side in [0, 1] {
            if faults && self.random.one_in(2) {
                self.send(side);
            }
            if self.random.one_in(3) {
                self.consume(side);
            }
            self.run(side);
            self.deliver(side);
        }
    }

    fn send(&mut self, side: usize) {
        let node = &mut self.nodes[side];
        let class = if self.random.one_in(4) { Class::Control } else { Class::Data };
        for _ in 0..self.random.below(6) {
            if !node.link.has_room(class) {
                node.waits |= class == Class::Data;
                if !self.random.one_in(10) {
                    return;
                }
            }
            self.next += 1;
            let mut body = self.next.to_be_bytes().to_vec();
            body.resize(8 + self.random.below(180), 0);
            let sequence = node.link.send(class, 3, body.into()).unwrap();
            node.sent.push(self.next);
            assert_eq!(sequence, node.sent.len() as u64);
        }
    }

    fn consume(&mut self, side: usize) {
        let node = &mut self.nodes[side];
        for _ in 0..self.random.below(8) {
            if let Some((incarnation, bytes)) = node.held.pop_front() {
                node.link.consumed(self.now, incarnation, 1, bytes);
            }
        }
    }

    /// Time and output of one side.
    fn run(&mut self, side: usize) {
        let due = self.nodes[side].link.next_timeout().is_some_and(|at| self.now >= at);
        if due && let Err(error) = self.nodes[side].link.handle_timeout(self.now) {
            // The machine stood still in the middle of the handshake.
            assert_eq!(error, LinkError::HandshakeTimeout(5000));
            self.nodes[side].pipe.clear();
            self.cut();
        }
        let mut out = Vec::new();
        let max = 1 + self.random.below(1000);
        self.nodes[side].link.transmit(self.now, &mut out, max);
        if self.nodes[1 - side].open {
            self.nodes[1 - side].pipe.extend(out);
        }
        self.events(side);
    }

    fn events(&mut self, side: usize) {
        let node = &mut self.nodes[side];
        while let Some(event) = node.link.poll_event() {
            let peer = node.link.peer_incarnation().unwrap();
            match event {
                Event::Frame { kind, body, sequence } => {
                    assert_eq!(kind, 3);
                    let number = u64::from_be_bytes(*body.first_chunk().unwrap());
                    let key = (1 - side, peer, node.incarnation);
                    let delivered = &mut self.streams.entry(key).or_default().delivered;
                    delivered.push(number);
                    assert_eq!(sequence, delivered.len() as u64);
                    node.held.push_back((peer, body.len() as u64));
                    let held = node.held.iter().filter(|(incarnation, _)| *incarnation == peer);
                    let (frames, bytes) =
                        held.fold((0, 0), |(frames, bytes), held| (frames + 1, bytes + held.1));
                    assert!(frames <= node.config.window_frames);
                    assert!(bytes <= node.config.window_bytes);
                }
                Event::PeerRestarted { old, new } => {
                    assert!(new > old);
                    let sent = std::mem::take(&mut node.sent);
                    let lost = node.link.take_unacknowledged();
                    let kept = sent.len() - lost.len();
                    for (frame, number) in lost.iter().zip(&sent[kept..]) {
                        assert_eq!(frame.body[..8], number.to_be_bytes());
                    }
                    let stream = self.streams.entry((side, node.incarnation, old)).or_default();
                    assert!(stream.delivered.len() >= kept);
                    stream.sent = sent;
                    // Half of the applications send them again.
                    if node.incarnation.is_multiple_of(2) {
                        for Unacknowledged { body, .. } in lost {
                            let number = u64::from_be_bytes(*body.first_chunk().unwrap());
                            node.sent.push(number);
                            node.link.send(Class::Data, 3, body).unwrap();
                        }
                    }
                }
                Event::RoomAgain => node.waits = false,
                Event::Up { incarnation, version } => {
                    assert_eq!((incarnation, version), (peer, VERSIONS.1))
                }
                Event::Down => {}
                Event::Dead => panic!("dead at {}", self.now),
            }
        }
    }

    /// Some bytes reach one side.
    fn deliver(&mut self, side: usize) {
        let node = &mut self.nodes[side];
        if node.open && !node.pipe.is_empty() {
            let len = (1 + self.random.below(400)).min(node.pipe.len());
            let bytes: Vec<u8> = node.pipe.drain(..len).collect();
            node.link.receive(self.now, &bytes).unwrap();
            self.events(side);
        }
    }

    /// Each side still gets a part of what is on its way, then the end.
    fn cut(&mut self) {
        for side in [0, 1] {
            let len = self.nodes[side].pipe.len() + 1;
            let some = if self.random.one_in(2) { self.random.below(len) } else { 0 };
            let node = &mut self.nodes[side];
            if node.open {
                let bytes: Vec<u8> = node.pipe.drain(..some).collect();
                if !bytes.is_empty() {
                    node.link.receive(self.now, &bytes).unwrap();
                }
                // Or it learns of the end only from the next connection.
                if !self.random.one_in(4) {
                    node.link.disconnected(self.now);
                }
            }
            node.pipe.clear();
            node.open = false;
            self.events(side);
        }
    }

    fn connect(&mut self) {
        let dialler = self.random.below(2);
        for side in [0, 1] {
            let role = if side == dialler { Role::Dialer } else { Role::Acceptor };
            self.nodes[side].link.connected(self.now, role);
            self.nodes[side].open = true;
        }
    }

    /// One node forgets everything.
    fn restart(&mut self) {
        self.cut();
        let side = self.random.below(2);
        let node = &mut self.nodes[side];
        if let Some(peer) = node.link.peer_incarnation() {
            let key = (side, node.incarnation, peer);
            self.streams.entry(key).or_default().sent = std::mem::take(&mut node.sent);
        }
        node.incarnation += 1 + self.random.below(2) as u64;
        node.link = Self::link(side, node.incarnation, &node.config);
        node.sent.clear();
        node.held.clear();
        node.waits = false;
        self.restarts += 1;
    }

    /// Nothing is on its way, and nothing waits.
    fn is_quiet(&self) -> bool {
        self.nodes.iter().all(|node| {
            node.open
                && node.link.is_up()
                && node.link.unacknowledged() == (0, 0)
                && node.held.is_empty()
                && !node.waits
        })
    }
}

/// The world after its end, all checked.
fn simulate(seed: u64) -> World {
    let mut world = World::new(seed);
    for _ in 0..400 {
        world.step(true);
    }
    let mut steps = 0;
    while !world.is_quiet() {
        world.step(false);
        steps += 1;
        assert!(steps < 5000, "no end: {:?}", world.nodes.each_ref().map(|node| &node.link));
    }
    let incarnations = world.nodes.each_ref().map(|node| node.incarnation);
    for side in [0, 1] {
        let key = (side, incarnations[side], incarnations[1 - side]);
        let stream = world.streams.entry(key).or_default();
        stream.sent = std::mem::take(&mut world.nodes[side].sent);
        assert_eq!(stream.delivered, stream.sent, "{key:?}");
    }
    for (key, stream) in &world.streams {
        assert!(stream.sent.starts_with(&stream.delivered), "{key:?}: {stream:?}");
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000,
        max_shrink_iters: 0,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_frame_arrives_once_and_in_order(seed: u64) {
        simulate(seed);
    }
}

/// That the simulation meets what it is for.
#[test]
fn the_simulation_meets_every_fault() {
    let mut stats = LinkStats::default();
    let (mut restarts, mut streams) = (0, 0);
    for seed in 0..20 {
        let world = simulate(seed);
        restarts += world.restarts;
        streams += world.streams.values().filter(|stream| !stream.delivered.is_empty()).count();
        for node in &world.nodes {
            let LinkStats { frames_in, resent, without_room, past_bound, reconnects, .. } =
                node.link.stats();
            stats.frames_in += frames_in;
            stats.resent += resent;
            stats.without_room += without_room;
            stats.past_bound += past_bound;
            stats.reconnects += reconnects;
        }
    }
    assert!(restarts > 20 && streams > 40, "{restarts} {streams}");
    assert!(stats.frames_in > 2000 && stats.resent > 100, "{stats:?}");
    assert!(stats.without_room > 100 && stats.past_bound > 100, "{stats:?}");
    assert!(stats.reconnects > 50, "{stats:?}");
}
