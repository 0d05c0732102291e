//! Requests that are done in parts, in any order, late or never: what must be whole is whole, and what comes late
//! changes nothing.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use hydrant_engine::now::Boot;
use hydrant_engine::ports::{
    Holder, OrphanedState, QueueEntry, Sealing, SessionOp, StoreOp, StoredSession,
};
use hydrant_protocol::{Message, PacketId, QoS};

use super::{Answer, Late, Request, Shape, Step, Store, Task};

const LEASE: Duration = Duration::from_secs(2);
const SEEDS: u64 = 400;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound.max(1)
    }
}

fn client(id: u64) -> Arc<str> {
    format!("c{id}").into()
}

fn connect(id: u64) -> StoreOp {
    StoreOp::Session(SessionOp::PutSession {
        id,
        client_id: client(id),
        epoch: 1,
        disconnected_ms: None,
    })
}

fn queued(id: u64, sequence: u64) -> StoreOp {
    let message = Arc::new(Message {
        topic: "t".into(),
        payload: sequence.to_string().into(),
        qos: QoS::AtLeastOnce,
        retain: false,
        properties: None,
    });
    let entry =
        QueueEntry { sequence, qos: QoS::AtLeastOnce, retain: false, message, outgoing: None };
    StoreOp::Session(SessionOp::PutQueued { id, entry })
}

fn receipt(id: u64, packet_id: u16) -> StoreOp {
    let packet_id = PacketId::new(packet_id).unwrap();
    StoreOp::Session(SessionOp::PutReceipt { id, packet_id })
}

/// A store, and the time there.
struct World {
    store: Store,
    now: Boot,
}

impl World {
    fn new() -> Self {
        let store = Store::new(Shape { bucket: 4, row: 2 }, 4);
        Self { store, now: Boot(1_000_000) }
    }

    /// Does a request to its end. While it waits this incarnation renews its lease.
    fn run(&mut self, mut task: Task) -> Result<Answer, hydrant_engine::ports::StoreError> {
        loop {
            match self.store.step(self.now, &mut task, 0) {
                Step::More => {}
                Step::Blocked => panic!("it waits for ever"),
                Step::Until(due) => {
                    self.now = due;
                    drop(self.store.execute(self.now, task.who(), Request::Renew));
                }
                Step::Done(answer) => return answer,
            }
        }
    }

    fn start(&mut self, node: &str) -> u64 {
        let task = self.store.start(self.now, node, node, LEASE);
        let Ok(Answer::Started(who)) = self.run(task) else { panic!("it does not start") };
        who
    }

    fn write(&mut self, who: u64, ops: Vec<StoreOp>) {
        let task = self.store.begin(self.now, who, Request::Write(Arc::new(ops)));
        assert!(matches!(self.run(task), Ok(Answer::Written)));
    }

    fn seal(&mut self, who: u64, of: u64) -> OrphanedState {
        let task = self.store.begin(self.now, who, Request::Seal(of));
        let Ok(Answer::Sealed(Sealing::Ours(state))) = self.run(task) else { panic!("not ours") };
        self.store.tidy(who);
        *state
    }

    fn sessions(&mut self, who: u64) -> Vec<StoredSession> {
        let Ok(Answer::Sessions(found)) = self.store.execute(self.now, who, Request::Sessions)
        else {
            panic!("no sessions")
        };
        found
    }

    fn sequences(&mut self, who: u64, id: u64) -> Vec<u64> {
        let (limit, max_bytes) = (usize::MAX, usize::MAX);
        let request = Request::ReadQueue { id, from: 0, limit, max_bytes };
        let Ok(Answer::Queue(found)) = self.store.execute(self.now, who, request) else {
            panic!("no page")
        };
        found.into_iter().map(|entry| entry.sequence).collect()
    }

    /// Some of what was under way of a node that dies; the rest comes later.
    fn crash(&mut self, who: u64, tasks: Vec<Task>, random: &mut Random) -> Vec<Late> {
        let mut later = Vec::new();
        for task in tasks {
            for late in self.store.fail(task, "it died").1.split() {
                match random.below(3) {
                    0 => self.store.late(late),
                    1 => later.push(late),
                    _ => {}
                }
            }
        }
        self.store.crash(who);
        later
    }
}

/// A node dies with writes under way, each of them anywhere.
#[test]
fn who_dies_at_work_leaves_no_hole_and_what_comes_late_is_nobodys() {
    let (mut cut, mut whole, mut came_late) = (0, 0, 0);
    for seed in 0..SEEDS {
        let (mut world, mut random) = (World::new(), Random(seed));
        // With receipts a write is whole or not there; without, its mutations stand alone.
        let is_whole = seed % 2 == 0;
        let (a, b) = (world.start("a"), world.start("b"));
        world.write(a, vec![connect(1), connect(2)]);
        let mut tasks: Vec<Task> = (1..=9_u16)
            .map(|n| {
                let at = u64::from(n);
                let mut ops = vec![queued(1, 2 * at - 1), queued(1, 2 * at), queued(2, at)];
                ops.extend(is_whole.then(|| receipt(2, n)));
                if n == 5 {
                    ops.push(connect(1));
                }
                world.store.begin(world.now, a, Request::Write(Arc::new(ops)))
            })
            .collect();
        let mut done = 0;
        for _ in 0..random.below(120) {
            let at = random.below(tasks.len());
            let Some(task) = tasks.get_mut(at) else { break };
            let choice = random.below(task.open());
            if let Step::Done(answer) = world.store.step(world.now, task, choice) {
                answer.unwrap();
                done += 1;
                tasks.remove(at);
            }
        }
        let later = world.crash(a, tasks, &mut random);
        let orphaned = world.seal(b, a);
        let [one, two] = &orphaned.sessions[..] else { panic!("{orphaned:?}") };
        let [first, second] = [1, 2].map(|id| world.sequences(b, id));
        assert_eq!(second, (1..=two.queued).collect::<Vec<_>>(), "seed {seed}");
        assert_eq!(first, (1..=one.queued).collect::<Vec<_>>(), "seed {seed}");
        assert!(!is_whole || first.len() == 2 * second.len(), "seed {seed}");
        let receipts: Vec<u64> = two.receipts.iter().map(|id| u64::from(id.get())).collect();
        assert!(receipts == second || (!is_whole && receipts.is_empty()), "seed {seed}");
        assert!(second.len() >= done, "seed {seed}: {done} were acknowledged of {second:?}");
        cut += usize::from(second.len() < 9);
        whole += usize::from(second.len() > done);
        let before = world.sessions(b);
        came_late += later.len();
        later.into_iter().for_each(|late| world.store.late(late));
        assert_eq!(world.sessions(b), before, "seed {seed}");
        assert_eq!([1, 2].map(|id| world.sequences(b, id)), [first, second], "seed {seed}");
        for id in [1, 2] {
            let holder = Some(Holder { id, incarnation: b });
            let located = world.store.execute(world.now, b, Request::Locate(client(id)));
            assert!(
                matches!(located, Ok(Answer::Located(found)) if found == holder),
                "seed {seed}"
            );
        }
        // It goes on, over its own next start.
        world.write(b, vec![connect(1), queued(1, 100)]);
        world.store.crash(b);
        let b = world.start("b");
        assert_eq!(world.sequences(b, 1).last(), Some(&100), "seed {seed}");
    }
    assert!(cut > 50 && whole > 50 && came_late > 50, "{cut} {whole} {came_late}");
}

/// A take whose answer is lost, anywhere, and that is done afterwards: the session is one node's, with all that it has.
#[test]
fn a_take_that_nobody_hears_of_leaves_a_session_with_one_holder() {
    let mut taken = 0;
    for seed in 0..SEEDS {
        let (mut world, mut random) = (World::new(), Random(seed));
        let (a, b, c) = (world.start("a"), world.start("b"), world.start("c"));
        world.write(a, vec![connect(1), queued(1, 1), queued(1, 2)]);
        let until = world.store.give_up(a, 1);
        let from = Holder { id: 1, incarnation: a };
        let take = || Request::Take { client_id: client(1), from, until };
        let mut task = world.store.begin(world.now, b, take());
        for _ in 0..random.below(4) {
            assert!(matches!(world.store.step(world.now, &mut task, 0), Step::More));
        }
        let late = world.store.fail(task, "no answer").1;
        // Both try it, the first one again; what was sent is done somewhere in between.
        let at = random.below(3);
        let mut late = Some(late);
        let mut holders = Vec::new();
        for (n, who) in [c, b].into_iter().enumerate() {
            if n == at {
                late.take().into_iter().for_each(|late| world.store.late(late));
            }
            // As it is found: whoever it is given to asks first.
            let found = world.store.execute(world.now, who, Request::Locate(client(1)));
            let Ok(Answer::Located(Some(now))) = found else { panic!("seed {seed}: {found:?}") };
            if now.incarnation == who || now.incarnation == a {
                let request = Request::Take { client_id: client(1), from: now, until: u64::MAX };
                let session = world.store.execute(world.now, who, request);
                let Ok(Answer::Taken(session)) = session else { panic!("seed {seed}") };
                if session.is_some_and(|session| session.queued == 2) {
                    holders.push(who);
                }
            }
        }
        late.take().into_iter().for_each(|late| world.store.late(late));
        let Ok(Answer::Located(Some(holder))) =
            world.store.execute(world.now, a, Request::Locate(client(1)))
        else {
            panic!("seed {seed}: nobody has it")
        };
        // Whoever was told that it has the session has it, and it is one.
        assert_eq!(holders, [holder.incarnation], "seed {seed}");
        assert_eq!(world.sequences(holder.incarnation, 1), [1, 2], "seed {seed}");
        taken += usize::from(holder.incarnation == b);
        // Over a start of all it is the same.
        for who in [a, b, c] {
            world.store.crash(who);
        }
        let has: Vec<bool> = ["a", "b", "c"]
            .map(|node| world.start(node))
            .map(|who| !world.sessions(who).is_empty())
            .into();
        assert_eq!(has, [false, holder.incarnation == b, holder.incarnation == c], "seed {seed}");
    }
    assert!(taken > 20 && taken < SEEDS as usize - 20, "{taken}");
}

/// Behind the end of its lease a node is not told that anything is done.
#[test]
fn a_lease_that_ends_while_a_write_is_under_way() {
    let mut world = World::new();
    let a = world.start("a");
    world.write(a, vec![connect(1)]);
    let mut task = world.store.begin(world.now, a, Request::Write(Arc::new(vec![queued(1, 1)])));
    assert!(matches!(world.store.step(world.now, &mut task, 0), Step::More));
    world.now = world.now + LEASE;
    assert!(!world.store.holds_lease(world.now, a));
    assert!(world.run(task).is_err());
    // It is done all the same; and nothing is begun.
    assert_eq!(world.sequences(a, 1), [1]);
    let ops = Arc::new(vec![queued(1, 2)]);
    for _ in 0..2 {
        let task = world.store.begin(world.now, a, Request::Write(Arc::clone(&ops)));
        assert!(world.run(task).is_err());
    }
    assert_eq!(world.sequences(a, 1), [1]);
    // The lease is renewed: nobody has sealed it. The first that failed comes again, then the other.
    assert!(matches!(world.store.execute(world.now, a, Request::Renew), Ok(Answer::Renewed(true))));
    assert!(world.store.holds_lease(world.now, a));
}
