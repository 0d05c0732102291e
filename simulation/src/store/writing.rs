//! A write under way: what it does next, as `src/cassandra/write.rs` does it.
//!
//! Order: holders of sessions, then its turn among other writes, then the journal where it is all or nothing, then its
//! mutations in any order, then those that follow, then the ends of sessions.
//! Invariant: the next stage begins only when all of the one before is done.

use std::collections::VecDeque;
use std::sync::Arc;

use hydrant_engine::now::Boot;
use hydrant_engine::ports::{StoreError, StoreOp};

use super::memory::{Memory, Place, SLOTS};
use super::plan::plan;
use super::planned::{Epoch, Plan};
use super::request::Answer;
use super::state::{Background, Store};
use super::step::{Late, LateChange, Step};
use super::tables::{Change, Held};

/// Where a write is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Refused when it was handed over.
    Refused,
    Begin,
    Holders,
    Turn,
    Journal,
    Parts,
    Ended,
    End,
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Writing {
    ops: Arc<Vec<StoreOp>>,
    plan: Plan,
    place: Place,
    phase: Phase,
    why: Option<StoreError>,
    epochs: Vec<Epoch>,
    ended: Vec<(Arc<str>, u64, u64)>,
    /// Mutations of the present stage, which are under way at once.
    parts: Vec<Vec<Change>>,
    /// Beside them one after another.
    chain: VecDeque<Vec<Change>>,
    stages: VecDeque<Vec<Vec<Change>>>,
}

impl Writing {
    /// How many of its mutations may be the next to be done.
    pub(super) fn open(&self) -> usize {
        match self.phase {
            Phase::Holders => self.epochs.len() + self.parts.len(),
            Phase::Parts => self.parts.len() + usize::from(!self.chain.is_empty()),
            _ => 1,
        }
    }

    /// Only its answer is left.
    pub(super) fn is_last_step(&self) -> bool {
        self.phase == Phase::End
    }

    /// What may still come to be of what was sent.
    fn late(&self) -> Late {
        let plain = self.parts.iter().chain(self.chain.front()).cloned().map(LateChange::Plain);
        let holders = self.epochs.iter().filter(|_| self.phase == Phase::Holders);
        let holders = holders.cloned().map(LateChange::Holder);
        Late(plain.chain(holders).collect())
    }

    /// It goes into the next slot of the journal, whole.
    fn journal(&self, memory: &mut Memory) -> Change {
        let Plan { single, batches, last, .. } = &self.plan;
        let entry = single.iter().chain(batches.iter().chain(last).flatten()).cloned().collect();
        memory.last_slot = (memory.last_slot + 1) % SLOTS;
        memory.journal_used = true;
        let (incarnation, slot, stamp) = (memory.number, memory.last_slot, memory.stamp());
        Change::PutJournal { incarnation, slot, entry, stamp }
    }
}

impl Store {
    /// Plans a write, in the order of the calls.
    pub(super) fn begin_write(
        &mut self,
        me: u64,
        ops: Arc<Vec<StoreOp>>,
    ) -> Result<Writing, StoreError> {
        let shape = self.shape;
        let memory = self.memory(me)?;
        let mut writing = Writing {
            ops,
            plan: Plan::default(),
            place: Place::default(),
            phase: Phase::Begin,
            why: None,
            epochs: Vec::new(),
            ended: Vec::new(),
            parts: Vec::new(),
            chain: VecDeque::new(),
            stages: VecDeque::new(),
        };
        if let Err(why) = memory.accept(&writing.ops) {
            (writing.phase, writing.why) = (Phase::Refused, Some(why));
            return Ok(writing);
        }
        let plan = plan(memory, shape, &writing.ops);
        // The end of a session is also that of its receipts.
        let in_turn = plan.atomic || !plan.receipts.is_empty() || !plan.ended.is_empty();
        writing.place = memory.place(in_turn, plan.sessions.iter().copied().collect());
        writing.plan = plan;
        Ok(writing)
    }

    /// Does the next of a write; `choice` says which, where several are under way.
    pub(super) fn step_write(
        &mut self,
        now: Boot,
        me: u64,
        writing: &mut Writing,
        choice: usize,
    ) -> Step {
        match self.write_on(now, me, writing, choice) {
            Ok(step) => step,
            Err(why) => {
                if writing.phase != Phase::Refused {
                    drop(self.fail_write(me, writing).0);
                }
                Step::Done(Err(why))
            }
        }
    }

    /// The write failed, or nobody knows; what may still come to be of it.
    pub(super) fn fail_write(&mut self, me: u64, writing: &mut Writing) -> Late {
        let mut late = writing.late();
        if let Ok(memory) = self.memory(me)
            && writing.phase != Phase::Refused
        {
            if writing.phase == Phase::Journal {
                late.0.push(LateChange::Plain(vec![writing.journal(memory)]));
            }
            memory.write_failed(&writing.place, &writing.ops, writing.plan.clone());
        }
        writing.phase = Phase::Refused;
        late
    }

    fn write_on(
        &mut self,
        now: Boot,
        me: u64,
        writing: &mut Writing,
        choice: usize,
    ) -> Result<Step, StoreError> {
        match writing.phase {
            Phase::Refused => {
                let why = writing.why.clone();
                return Err(why.unwrap_or_else(|| StoreError::Unavailable("it is over".into())));
            }
            Phase::Begin => {
                self.memory(me)?.check(now)?;
                self.find_buckets(writing);
                writing.epochs = writing.plan.epochs.clone();
                let index = writing.epochs.iter().filter(|epoch| epoch.index);
                writing.parts = index.map(|epoch| vec![put_index(epoch)]).collect();
                writing.phase = Phase::Holders;
            }
            Phase::Holders => {
                let open = writing.open();
                if open > 0 && choice % open < writing.epochs.len() {
                    let epoch = writing.epochs.remove(choice % open);
                    self.confirm(me, &epoch)?;
                } else if open > 0 {
                    let at = choice % open - writing.epochs.len();
                    self.tables.apply_all(writing.parts.remove(at));
                }
                if writing.open() == 0 {
                    writing.phase = Phase::Turn;
                }
            }
            Phase::Turn => match self.memory(me)?.comes(&writing.place) {
                None => return Ok(Step::Blocked),
                Some(false) => {
                    let why = "a write that this one has to follow was not done";
                    return Err(StoreError::Unavailable(why.to_owned()));
                }
                Some(true) => self.takes_turn(me, writing)?,
            },
            Phase::Journal => {
                let memory = self.memory(me)?;
                let put = writing.journal(memory);
                writing.plan.journaled = Some(memory.last_slot);
                self.tables.apply(put);
                begin_parts(writing);
            }
            Phase::Parts => {
                let open = writing.open();
                if open > 0 {
                    let part = match choice % open {
                        at if at < writing.parts.len() => Some(writing.parts.remove(at)),
                        _ => writing.chain.pop_front(),
                    };
                    self.tables.apply_all(part.into_iter().flatten());
                }
                while writing.open() == 0 && writing.phase == Phase::Parts {
                    match writing.stages.pop_front() {
                        Some(stage) => writing.parts = stage,
                        None => writing.phase = Phase::Ended,
                    }
                }
            }
            Phase::Ended => match writing.ended.pop() {
                Some(ended) => self.end_session(now, me, &ended)?,
                None => writing.phase = Phase::End,
            },
            Phase::End => {
                self.memory(me)?.check(now)?;
                let memory = self.memory(me)?;
                if memory.write_done(&writing.place, &writing.plan) {
                    let stamp = memory.stamp();
                    self.later(me, Background::ClearJournal(stamp));
                }
                if !self.memory(me)?.adopted.is_empty() {
                    self.later(me, Background::ClearUp);
                }
                return Ok(Step::Done(Ok(Answer::Written)));
            }
        }
        Ok(Step::More)
    }

    /// The buckets of sessions that end, which the directory knows.
    fn find_buckets(&self, writing: &mut Writing) {
        for (id, stamp) in std::mem::take(&mut writing.plan.deleted) {
            for ((_, bucket), ()) in self.tables.buckets.range((id, 0)..(id.saturating_add(1), 0)) {
                let sequences = (bucket * self.shape.bucket, (bucket + 1) * self.shape.bucket);
                writing.plan.single.push(Change::DeleteBucket { id, sequences, stamp });
            }
        }
    }

    fn takes_turn(&mut self, me: u64, writing: &mut Writing) -> Result<(), StoreError> {
        if writing.place.in_turn
            && let Some(half) = self.memory(me)?.half_done.take()
        {
            // What stands in the journal and failed after that is done first.
            self.redo(me, half.journaled);
            self.memory(me)?.succeeded(&half);
        }
        let memory = self.memory(me)?;
        for (id, receipts) in &writing.plan.receipts {
            let held = memory.receipts_with(*id, &receipts.changes);
            let put = Change::PutReceipts { id: *id, receipts: held, stamp: receipts.stamp };
            writing.plan.batches.push(vec![put]);
        }
        if writing.plan.atomic {
            writing.phase = Phase::Journal;
        } else {
            begin_parts(writing);
        }
        Ok(())
    }

    /// What stands whole in a slot of a journal, or in all, again.
    pub(super) fn redo(&mut self, number: u64, slot: Option<u8>) {
        let slots = slot.map_or(0..SLOTS, |slot| slot..slot + 1);
        let entries = slots.filter_map(|slot| self.tables.journal.get(&(number, slot)).cloned());
        let mut entries: Vec<(u64, Vec<Change>)> = entries.collect();
        entries.sort_by_key(|(stamp, _)| *stamp);
        for (_, changes) in entries {
            self.tables.apply_all(changes);
        }
    }

    /// Confirms that a session is held here, with a higher fence; one that is new is made.
    fn confirm(&mut self, me: u64, epoch: &Epoch) -> Result<(), StoreError> {
        let memory = self.process(me)?;
        let (lineages, last) = (memory.lineages(), memory.last);
        let new =
            Held { id: epoch.id, epoch: epoch.epoch, fence: epoch.fence, lineage: epoch.lineage };
        let Some(known) = self.tables.held.get_mut(&epoch.client_id) else {
            self.tables.held.insert(Arc::clone(&epoch.client_id), new);
            return Ok(());
        };
        if lineages.contains(&known.lineage) {
            if known.fence < epoch.fence {
                *known = new;
                return Ok(());
            }
            // Our own, by a write before this one that was given up, or after it.
            if known.fence <= last {
                return Ok(());
            }
        }
        let client_id = &epoch.client_id;
        let memory = self.memory(me)?;
        if epoch.index && memory.lost.is_none() {
            memory.give_up(epoch.id);
            let why = format!("client {client_id:?} has a session elsewhere");
            return Err(StoreError::Unavailable(why));
        }
        Err(taken_over(client_id))
    }

    fn end_session(
        &mut self,
        now: Boot,
        me: u64,
        (client_id, id, stamp): &(Arc<str>, u64, u64),
    ) -> Result<(), StoreError> {
        self.memory(me)?.check(now)?;
        match self.tables.held.get(client_id) {
            Some(held) if held.id == *id && held.fence >= *stamp => {
                return Err(taken_over(client_id));
            }
            Some(held) if held.id == *id => drop(self.tables.held.remove(client_id)),
            _ => {}
        }
        if let Some(holding) = self.memory(me)?.holding(*id) {
            let (lineage, id, stamp) = (holding.lineage, *id, *stamp);
            self.tables.apply(Change::DeleteHeld { lineage, id, stamp });
        }
        Ok(())
    }
}

fn put_index(epoch: &Epoch) -> Change {
    let Epoch { client_id, id, lineage, fence, .. } = epoch;
    let (client_id, moving) = (Arc::clone(client_id), false);
    Change::PutHeld { lineage: *lineage, id: *id, client_id, moving, stamp: *fence }
}

fn taken_over(client_id: &str) -> StoreError {
    StoreError::Unusable(format!("session {client_id:?} was taken over by another broker"))
}

fn begin_parts(writing: &mut Writing) {
    let plan = &mut writing.plan;
    let single = std::mem::take(&mut plan.single).into_iter().map(|change| vec![change]);
    writing.parts = single.chain(std::mem::take(&mut plan.batches)).collect();
    writing.chain = std::mem::take(&mut plan.prepared).into();
    let then = std::mem::take(&mut plan.then).into_iter();
    let then = then.map(|stage| stage.into_iter().map(|change| vec![change]).collect());
    writing.stages = then.chain([std::mem::take(&mut plan.last)]).collect();
    writing.ended = plan.ended.clone();
    writing.phase = Phase::Parts;
}
