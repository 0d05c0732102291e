//! The session store that all nodes of a simulated cluster share, in memory and in virtual time.
//!
//! It does what the store on Cassandra does (`src/cassandra`): the same statements with the same stamps, the same
//! conditional writes, in the same order. It passes the suite that the real stores pass (`src/embedded/suite`). It is
//! pure: time is an argument, nothing is random, and no map with process-random order is iterated.
//!
//! # API
//!
//! An incarnation is one start of a node. [`Store::start`] begins one; it answers [`Answer::Started`] with its number.
//! The number names the incarnation in every [`Store::begin`]. What an incarnation knows without asking (its sessions,
//! receipts, lanes, the order of its writes) lives here as well, by its number, and goes with [`Store::crash`].
//!
//! A [`Request`] is sent by [`Store::begin`], in the order of the node's calls: a write is planned there. Then
//! [`Store::step`] does one thing at one moment, until it says [`Step::Done`]. Who schedules steps decides what is met:
//!
//! - *Answers late*: steps are done late.
//! - *Never answers*: the [`Task`] is kept.
//! - *Unknown, and nothing was done*: [`Store::fail`] before any step, and the [`Late`] that it gives is dropped.
//! - *Unknown, and it was done before*: [`Store::unknown`] does all of it but the answer.
//! - *Unknown, and it is done afterwards*: [`Store::fail`], and [`Store::late`] with what it gave, later. [`Late::split`]
//!   makes single mutations of it, of which some may be dropped.
//! - *In parts*: a write is no transaction. Each step does one mutation; [`Task::open`] says how many are under way at
//!   once, and `choice` which of them is done next. What must be whole goes by way of the journal, which the successor
//!   of a dead incarnation does again.
//! - *The node dies*: [`Store::crash`] for the incarnation. [`Store::fail`] of its tasks gives what was on its way,
//!   which may be done until the successor reads, or later: it changes nothing of the successor's.
//! - *The node is frozen*: nothing is begun, [`Request::Renew`] neither; [`Store::holds_lease`] is asked with the time.
//!   A write that had taken its first step goes on, and is not acknowledged behind the end of the lease.
//!
//! [`Store::execute`] does all steps of a request at one moment. [`Request::Renew`] is sent every third of the lease by
//! whoever plays the node. [`Store::tidy`] does what an incarnation does in the background: fences of sessions that it
//! took over, the end of its journal, dead incarnations of which nothing is left.
//!
//! What a node asks without a request: [`Store::holds_lease`], [`Store::give_up`], [`Store::lineage`],
//! [`Store::continues`], [`Store::stored_batches`], [`Store::prepared_publishes`].
//!
//! # Not as Cassandra
//!
//! - Tombstones stay for ever; rows are cut by a count and not by bytes ([`Shape`]).
//! - What a take-over reads is read at one moment. A take, a locate and a write are cut as they are there.
//! - No node has the store for itself; rows of schema versions before the present are unknown.

pub mod adapter;
mod cells;
mod incarnations;
mod memory;
mod moving;
mod plan;
mod planned;
mod reading;
mod request;
mod sealing;
mod shape;
mod state;
mod step;
mod succession;
mod tables;
mod task;
#[cfg(test)]
mod tests;
mod writing;

use std::time::Duration;

use hydrant_engine::now::Boot;
use hydrant_engine::ports::{
    Holder, PreparedPublish, SealedIncarnation, SessionId, StoreError, StoredBatch,
};

use moving::Taking;
pub use request::{Answer, Request};
use sealing::{Sealer, Starting};
pub use shape::Shape;
use state::Background;
pub use state::Store;
pub use step::{Late, Step};
use tables::Change;
pub use task::Task;
use task::Work;

impl Store {
    /// A node starts. `instance`: its data directory; who has the same knows that the one before is dead.
    pub fn start(&self, now: Boot, node: &str, instance: &str, lease: Duration) -> Task {
        let starting = Starting::new(node, instance, lease);
        Task { who: 0, sent: now, work: Work::Start(Box::new(starting)) }
    }

    /// An incarnation sends a request.
    pub fn begin(&mut self, now: Boot, who: u64, request: Request) -> Task {
        let work = match request {
            Request::Write(ops) => match self.begin_write(who, ops) {
                Ok(writing) => Work::Write(Box::new(writing)),
                Err(why) => Work::Failed(why),
            },
            Request::Take { client_id, from, until } => {
                Work::Take(Box::new(Taking::new(client_id, from, until)))
            }
            Request::Seal(number) => Work::Seal(Box::new(Sealer::new(number))),
            Request::Locate(client_id) => Work::Locate { client_id, seen: None },
            other => Work::Other(other),
        };
        Task { who, sent: now, work }
    }

    /// Does one thing of a request. `choice`: which, where [`Task::open`] are under way at once.
    pub fn step(&mut self, now: Boot, task: &mut Task, choice: usize) -> Step {
        let who = task.who;
        let step = match &mut task.work {
            Work::Write(writing) => Ok(self.step_write(now, who, writing, choice)),
            Work::Take(taking) => self.step_take(now, who, taking),
            Work::Seal(sealer) => self.step_seal(now, who, sealer, choice),
            Work::Start(starting) => self.step_start(now, (task.sent, &mut task.who), starting),
            Work::Locate { client_id, seen } => match *seen {
                None => {
                    *seen = self.tables.held.get(client_id).copied();
                    let more = seen.is_some();
                    Ok(if more { Step::More } else { Step::Done(Ok(Answer::Located(None))) })
                }
                Some(seen) => {
                    let incarnation = self.follow(seen.lineage).holder();
                    let holder = Holder { id: seen.id, incarnation };
                    Ok(Step::Done(Ok(Answer::Located(Some(holder)))))
                }
            },
            Work::Other(request) => {
                let request = request.clone();
                Ok(Step::Done(self.answer(task.sent, who, request)))
            }
            Work::Failed(why) => Ok(Step::Done(Err(why.clone()))),
        };
        step.unwrap_or_else(|why| {
            // Nothing of it goes on.
            drop(self.stop(task).0);
            Step::Done(Err(why))
        })
    }

    fn answer(&mut self, sent: Boot, who: u64, request: Request) -> Result<Answer, StoreError> {
        Ok(match request {
            Request::Sessions => Answer::Sessions(self.sessions(who)?),
            Request::Retained => {
                let found = self.tables.retained.all();
                let version = |topic| self.tables.retained.stamp(topic).unwrap_or_default();
                Answer::Retained(
                    found.map(|(topic, message)| (message.clone(), version(topic))).collect(),
                )
            }
            Request::Wills => Answer::Wills(self.wills(who)?),
            Request::ReadQueue { id, from, limit, max_bytes } => {
                Answer::Queue(self.queue(who, (id, from), (limit, max_bytes))?)
            }
            Request::Lanes => Answer::Lanes(self.lanes(who)?),
            Request::ReadOutbox { lane, from, limit, max_bytes } => {
                Answer::Records(self.outbox(who, (lane, from), (limit, max_bytes))?)
            }
            Request::DeadLetters { from, limit, max_bytes } => {
                Answer::DeadLetters(self.dead_letters(who, from, (limit, max_bytes)))
            }
            Request::Incarnations => Answer::Incarnations(self.known(who)),
            Request::Wanted(lineage) => Answer::Wanted(self.wanted(lineage)),
            Request::Renew => Answer::Renewed(self.renew(sent, who)?),
            Request::Release => {
                self.release(who)?;
                Answer::Released
            }
            // They have steps of their own.
            Request::Write(_) | Request::Locate(_) | Request::Take { .. } | Request::Seal(_) => {
                return Err(StoreError::Unusable("it is no request of one step".to_owned()));
            }
        })
    }

    /// Does all of a request at one moment, in the order of what is under way. Where it waits for the time or for
    /// another request, it fails.
    pub fn execute(&mut self, now: Boot, who: u64, request: Request) -> Result<Answer, StoreError> {
        let mut task = self.begin(now, who, request);
        loop {
            match self.step(now, &mut task, 0) {
                Step::More => {}
                Step::Done(answer) => return answer,
                Step::Blocked | Step::Until(_) => {
                    return Err(self.fail(task, "it would have to wait").0);
                }
            }
        }
    }

    /// The answer of a request is lost: its incarnation takes it for failed. What may still be done of it.
    pub fn fail(&mut self, mut task: Task, why: &str) -> (StoreError, Late) {
        let late = self.stop(&mut task);
        (StoreError::Unavailable(why.to_owned()), late)
    }

    /// Does a request but for its answer, which is lost. `None`: it waits, and is not done.
    pub fn unknown(
        &mut self,
        now: Boot,
        mut task: Task,
        mut choose: impl FnMut(usize) -> usize,
    ) -> Option<StoreError> {
        if let Work::Other(Request::Renew) = task.work {
            self.renew_unheard(task.who);
            return Some(lost());
        }
        while !task.is_last_step() {
            let choice = choose(task.open());
            match self.step(now, &mut task, choice) {
                Step::More => {}
                Step::Done(answer) => return answer.err().or(Some(lost())),
                Step::Blocked | Step::Until(_) => {
                    drop(self.stop(&mut task).0);
                    return None;
                }
            }
        }
        drop(self.stop(&mut task).0);
        Some(lost())
    }

    fn stop(&mut self, task: &mut Task) -> Late {
        let who = task.who;
        match &mut task.work {
            Work::Write(writing) => self.fail_write(who, writing),
            Work::Take(taking) => self.fail_take(who, taking),
            Work::Seal(sealer) => {
                if sealer.takes_over()
                    && let Ok(memory) = self.memory(who)
                {
                    memory.seals = false;
                }
                Late::default()
            }
            _ => Late::default(),
        }
    }

    /// The process of an incarnation is gone. Its tasks are to be failed before.
    pub fn crash(&mut self, who: u64) {
        self.memories.remove(&who);
        self.background.remove(&who);
    }

    /// Does what an incarnation has to do in the background.
    pub fn tidy(&mut self, who: u64) {
        for work in self.background.remove(&who).into_iter().flatten() {
            match work {
                Background::ClearJournal(stamp) => {
                    for slot in 0..memory::SLOTS {
                        self.tables.apply(Change::DeleteJournal { incarnation: who, slot, stamp });
                    }
                }
                Background::ClearUp => drop(self.clear_up(who)),
                Background::Fence(fence, entries) => self.fence(fence, &entries),
            }
        }
    }

    /// Whether what an incarnation says may leave it.
    pub fn holds_lease(&self, now: Boot, who: u64) -> bool {
        self.memories.get(&who).is_some_and(|memory| memory.holds_lease(now))
    }

    /// Why an incarnation is over for good.
    pub fn lost(&self, who: u64) -> Option<&str> {
        self.memories.get(&who)?.lost.as_deref()
    }

    /// See `hydrant_engine::ports::SharedStore::give_up`.
    pub fn give_up(&mut self, who: u64, id: SessionId) -> u64 {
        let Ok(memory) = self.memory(who) else { return 0 };
        memory.give_up(id);
        let stamp = memory.stamp();
        if !memory.adopted.is_empty() {
            self.later(who, Background::ClearUp);
        }
        stamp
    }

    /// Under which its sessions are held.
    pub fn lineage(&self, who: u64) -> u64 {
        self.memories.get(&who).map_or(who, |memory| memory.lineage)
    }

    /// Incarnations that were over before its start and whose sessions it has had from the beginning.
    pub fn continues(&self, who: u64) -> Vec<SealedIncarnation> {
        self.memories.get(&who).map(|it| it.continued.incarnations.clone()).unwrap_or_default()
    }

    /// Batches of other nodes that these had stored.
    pub fn stored_batches(&self, who: u64) -> Vec<StoredBatch> {
        self.memories.get(&who).map(|it| it.continued.batches.clone()).unwrap_or_default()
    }

    /// QoS 2 publishes that these had begun.
    pub fn prepared_publishes(&self, who: u64) -> Vec<PreparedPublish> {
        self.memories.get(&who).map(|it| it.continued.prepared.clone()).unwrap_or_default()
    }

    /// The fences of all sessions.
    pub fn fences(&self) -> impl Iterator<Item = u64> {
        self.tables.held.values().map(|held| held.fence)
    }

    /// Marks a session as moving in the index of a lineage, as a move that was cut short has left it.
    pub fn mark(&mut self, lineage: u64, id: SessionId, client_id: &str, stamp: u64) {
        let client_id = client_id.into();
        self.tables.apply(Change::PutHeld { lineage, id, client_id, moving: true, stamp });
    }

    /// Whether a session is marked as moving.
    pub fn is_any_marked(&self) -> bool {
        self.tables.index.all().any(|(_, (_, moving))| *moving)
    }

    /// Whether anything is left of an incarnation.
    pub fn has_incarnation(&self, number: u64) -> bool {
        self.row(number).is_some()
    }
}

fn lost() -> StoreError {
    StoreError::Unavailable("the answer is lost".to_owned())
}
