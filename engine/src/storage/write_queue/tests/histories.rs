//! Histories of a queue with a store that fails and answers twice, late or never, and a driver that dies: what was asked
//! for is done once and in order, whatever comes between. `HYDRANT_SEED=7` repeats one, `HYDRANT_SEEDS=10000` plays more.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::vec::Drain;

use super::*;
use crate::messages::{AckSource, DeadWork, LogWork};
use crate::ports::{ClusterOp, SessionOp};

const SEEDS: u64 = 500;
const WORKERS: u16 = 2;

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % bound as u64).unwrap()
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// What a worker knows of its session, whose number is the worker's.
#[derive(Default)]
struct Session {
    next: u64,
    /// Entries that are asked for and not removed.
    entries: BTreeSet<u64>,
    /// The slot of the read that it waits for, and what has to be in the page, unless it is removed meanwhile.
    read: Option<(u32, BTreeSet<u64>)>,
}

/// Where the queue hands out; may panic before it takes something for a worker.
#[derive(Default)]
struct Handed {
    records: Vec<u64>,
    /// First answers, in order, until they are checked.
    answered: Vec<u32>,
    known: HashSet<u32>,
    panics: bool,
}

impl Push for Handed {
    fn log(&mut self, work: Drain<'_, (LogWork, usize)>) {
        self.records.extend(work.map(|(work, _)| work.record.outbox.unwrap().position));
    }
    fn dead_letter(&mut self, _: DeadWork) {}
    fn worker(&mut self, _: u16, work: ManagerWork) {
        if std::mem::take(&mut self.panics) {
            // Without the hook's lines.
            resume_unwind(Box::new("played"));
        }
        let ManagerWork::Completed(tokens) = work else { panic!("{work:?}") };
        let new = tokens.iter().filter(|token| self.known.insert(token.pending));
        self.answered.extend(new.map(|token| token.pending));
    }
}

struct History {
    random: Random,
    queue: WriteQueue,
    lanes: OutboxProgress,
    acknowledged: usize,
    /// Microseconds.
    now: u64,
    inbox: VecDeque<StorageWork>,
    /// Transactions to which these workers still have to add their part.
    parts: Vec<(u16, Transaction)>,
    sessions: Vec<Session>,
    requests: u32,
    /// Plain requests of each worker: they are answered in their order.
    plain: Vec<Vec<u32>>,
    handed: Handed,
    /// In order.
    answered: Vec<u32>,
    /// In the store's hands, in order.
    writes: VecDeque<(WriteId, Arc<Vec<StoreOp>>)>,
    /// What the store has answered about.
    old_writes: Vec<WriteId>,
    reads: Vec<(Read, BTreeSet<u64>)>,
    /// Entries in the store, and requests of which something was written.
    stored: BTreeMap<SessionId, BTreeSet<u64>>,
    done: HashSet<u32>,
    /// How often what these histories are for was met.
    met: [usize; 5],
}

impl History {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let mut settings = queue().settings;
        settings.batch_max_ops = 1 + random.below(40);
        settings.max_in_flight = 1 + random.below(4);
        settings.batch_delay = Duration::from_micros([0, 0, 700][random.below(3)]);
        Self {
            random,
            queue: WriteQueue::new(&settings),
            lanes: OutboxProgress::new(1, 400, &[]),
            acknowledged: 0,
            now: 0,
            inbox: VecDeque::new(),
            parts: Vec::new(),
            sessions: (0..WORKERS).map(|_| Session::default()).collect(),
            requests: 0,
            plain: vec![Vec::new(); usize::from(WORKERS)],
            handed: Handed::default(),
            answered: Vec::new(),
            writes: VecDeque::new(),
            old_writes: Vec::new(),
            reads: Vec::new(),
            stored: BTreeMap::new(),
            done: HashSet::new(),
            met: [0; 5],
        }
    }

    fn now(&self) -> Now {
        Now { boot: Boot(self.now), ..Now::default() }
    }

    /// Operations of a worker's session, behind one by which the request is known in the store.
    fn ops(&mut self, worker: u16) -> (u32, Vec<StoreOp>) {
        self.requests += 1;
        let number = self.requests;
        let mut ops = vec![ClusterOp::ForgetPeerBatches { origin: number.into(), below: 0 }.into()];
        let id = SessionId::from(worker);
        let session = &mut self.sessions[usize::from(worker)];
        for _ in 0..self.random.below(4) {
            let oldest = session.entries.first().copied();
            if let Some(sequence) = oldest.filter(|_| self.random.one_in(3)) {
                session.entries.remove(&sequence);
                ops.push(SessionOp::DeleteQueued { id, sequence }.into());
            } else {
                session.next += 1;
                session.entries.insert(session.next);
                ops.push(queued(id, session.next));
            }
        }
        (number, ops)
    }

    fn request(&mut self, worker: u16, transaction: Option<Transaction>, own: bool) -> StorageWork {
        let (number, mut ops) = self.ops(worker);
        let parks = self.random.one_in(4);
        if parks {
            ops.push(outbox());
        }
        if !parks && transaction.is_none() {
            self.plain[usize::from(worker)].push(number);
        }
        let token =
            CompletionToken { worker, source: AckSource::Store, pending: number, generation: 0 };
        let origin = own.then_some(worker);
        StorageWork::Write { ops, tokens: vec![token], transaction, origin }
    }

    /// A worker asks for something.
    fn ask(&mut self) {
        let worker = u16::try_from(self.random.below(usize::from(WORKERS))).unwrap();
        let other = WORKERS - 1 - worker;
        match self.random.below(8) {
            0 => {
                let transaction = Transaction { id: self.requests.into(), parts: 2 };
                let own = self.request(worker, Some(transaction), true);
                self.inbox.push_back(own);
                self.parts.push((other, transaction));
            }
            1 if self.sessions[usize::from(worker)].read.is_none() => {
                self.requests += 1;
                let slot = self.requests;
                let session = &mut self.sessions[usize::from(worker)];
                session.read = Some((slot, session.entries.clone()));
                let (from, until) = (0, session.next + 1);
                self.inbox.push_back(StorageWork::ReadQueue {
                    worker,
                    slot,
                    request: 0,
                    session: worker.into(),
                    from,
                    until,
                    limit: 100,
                    max_bytes: 1000,
                });
            }
            _ => {
                let own = self.request(worker, None, true);
                self.inbox.push_back(own);
            }
        }
    }

    /// One step of the driver, as StorageActor does it.
    fn drive(&mut self) {
        let now = self.now();
        self.queue.handle_room(self.lanes.is_full());
        loop {
            while self.queue.takes() {
                let Some(work) = self.inbox.pop_front() else { break };
                self.queue.handle_request(work);
            }
            let Some(write) = self.queue.poll_write(now, &mut self.lanes) else { break };
            self.writes.push_back(write);
        }
        self.met[0] += usize::from(self.queue.parked() > 0);
        for read in self.queue.poll_reads() {
            let page = self.stored.get(&read.session).cloned().unwrap_or_default();
            self.reads.push((read, page));
        }
        while let Some((worker, page)) = self.queue.poll_page() {
            let ManagerWork::QueuePage { slot, .. } = page else { panic!("{page:?}") };
            let session = &mut self.sessions[usize::from(worker)];
            assert_eq!(session.read.take().map(|(slot, _)| slot), Some(slot), "asked for once");
        }
    }

    fn hand_out(&mut self) {
        let now = self.now();
        loop {
            self.handed.panics = self.random.one_in(20);
            let out =
                || self.queue.hand_out(now, &RefCell::new(&mut self.lanes), true, &mut self.handed);
            match catch_unwind(AssertUnwindSafe(out)) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => {
                    self.met[1] += 1;
                    self.queue.handle_restart();
                }
            }
        }
        self.handed.panics = false;
        for number in self.handed.answered.drain(..) {
            assert!(self.done.contains(&number), "{number} is answered and not stored");
            self.answered.push(number);
        }
    }

    fn apply(&mut self, ops: &[StoreOp]) {
        for op in ops {
            match op {
                StoreOp::Session(SessionOp::PutQueued { id, entry }) => {
                    self.stored.entry(*id).or_default().insert(entry.sequence);
                }
                StoreOp::Session(SessionOp::DeleteQueued { id, sequence }) => {
                    self.stored.entry(*id).or_default().remove(sequence);
                }
                StoreOp::Cluster(ClusterOp::ForgetPeerBatches { origin, .. }) => {
                    self.done.insert(u32::try_from(*origin).unwrap());
                }
                _ => {}
            }
        }
    }

    /// The store does its oldest write and answers, or does it and says nothing of it, or does not.
    fn store(&mut self, fails: bool) {
        let Some((write, ops)) = self.writes.pop_front() else { return };
        let fails = fails && self.random.one_in(3);
        if !fails || self.random.one_in(2) {
            self.apply(&ops);
        }
        let again = self.queue.handle_written(self.now(), write, !fails);
        self.met[2] += usize::from(again.is_some());
        self.old_writes.push(write);
        self.hand_out();
    }

    fn read_store(&mut self, fails: bool) {
        if self.reads.is_empty() {
            return;
        }
        let at = self.random.below(self.reads.len());
        let (read, page) = self.reads.swap_remove(at);
        if fails && self.random.one_in(3) {
            self.queue.handle_read_failed(self.now(), read.id);
            return;
        }
        let session = &self.sessions[usize::try_from(read.session).unwrap()];
        // Another slot: the answer to a read that has been answered, by way of a driver that died.
        if let Some((slot, wanted)) = &session.read
            && *slot == read.slot
        {
            // What was removed since is not wanted any more.
            let mut missing =
                wanted.difference(&page).filter(|entry| session.entries.contains(entry));
            assert_eq!(missing.next(), None, "not in the page {page:?}");
        }
        self.queue.handle_page(read.id, Vec::new());
    }

    fn play(&mut self, fails: bool) {
        match self.random.below(if fails { 12 } else { 9 }) {
            0 | 1 if fails => self.ask(),
            2 if !self.parts.is_empty() => {
                let at = self.random.below(self.parts.len());
                let (worker, transaction) = self.parts.swap_remove(at);
                let part = self.request(worker, Some(transaction), false);
                self.inbox.push_back(part);
            }
            3 | 4 => self.store(fails),
            5 => self.read_store(fails),
            6 => {
                self.now += self.random.below(3_000) as u64;
                if let Some(at) = self.queue.poll_deadline()
                    && (!fails || self.random.one_in(2))
                {
                    self.now = self.now.max(at.0);
                    let now = self.now();
                    self.queue.handle_deadline(now);
                }
            }
            7 => {
                if let Some(position) = self.handed.records.get(self.acknowledged) {
                    self.lanes.acknowledge(0, *position);
                    self.acknowledged += 1;
                }
            }
            9 => {
                // Late, twice or for nothing.
                let write = match self.old_writes.len() {
                    0 => WriteId(u64::MAX),
                    old => self.old_writes[self.random.below(old)],
                };
                let durable = self.random.one_in(2);
                let deadline = self.queue.poll_deadline();
                assert_eq!(self.queue.handle_written(self.now(), write, durable), None);
                assert_eq!(self.queue.poll_deadline(), deadline);
                self.met[3] += 1;
            }
            10 if self.random.one_in(4) => {
                // The store goes on with what the old driver gave it, and tells nobody in time.
                let left = std::mem::take(&mut self.writes);
                let applied = self.random.below(left.len() + 1);
                for (write, ops) in left.into_iter().take(applied) {
                    self.apply(&ops);
                    self.old_writes.push(write);
                }
                self.reads.clear();
                self.queue.handle_restart();
                self.met[4] += 1;
            }
            _ => {}
        }
        self.drive();
    }

    fn check(&self) {
        assert!(self.queue.is_idle(), "{:?}", self.queue);
        for (worker, plain) in self.plain.iter().enumerate() {
            let of_it: HashSet<_> = plain.iter().copied().collect();
            let order: Vec<_> =
                self.answered.iter().copied().filter(|n| of_it.contains(n)).collect();
            assert_eq!(order, *plain, "all of worker {worker} are answered, in its order");
        }
        for (worker, session) in self.sessions.iter().enumerate() {
            let stored = self.stored.get(&(worker as u64)).cloned().unwrap_or_default();
            assert_eq!(stored, session.entries, "session {worker}");
            assert!(session.read.is_none());
        }
        let positions: Vec<_> = (0..self.handed.records.len() as u64).collect();
        assert_eq!(self.handed.records, positions, "each record once, in order");
    }
}

fn history(seed: u64) -> [usize; 5] {
    let mut history = History::new(seed);
    for _ in 0..400 {
        history.play(true);
    }
    // What is left is done without another failure.
    for _ in 0..20_000 {
        if history.inbox.is_empty() && history.parts.is_empty() && history.queue.is_idle() {
            break;
        }
        history.play(false);
    }
    history.check();
    history.met
}

#[test]
fn no_history_loses_or_doubles_anything_or_answers_early() {
    let number = |name| std::env::var(name).ok().and_then(|text: String| text.parse().ok());
    if let Some(seed) = number("HYDRANT_SEED") {
        eprintln!("{:?}", history(seed));
        return;
    }
    let mut met = [0; 5];
    for seed in 0..number("HYDRANT_SEEDS").unwrap_or(SEEDS) {
        let one = catch_unwind(|| history(seed));
        let one = one.unwrap_or_else(|why| {
            eprintln!("HYDRANT_SEED={seed} repeats this");
            resume_unwind(why)
        });
        met.iter_mut().zip(one).for_each(|(all, one)| *all += one);
    }
    assert!(met.iter().all(|met| *met > 400), "parked, panics, failures, late, restarts: {met:?}");
}
