//! How a session changes hands between living nodes: one conditional write, between two marks in the indexes of the
//! lineages that it leaves and that it comes to. As `src/cassandra/shared.rs`.

use std::sync::Arc;

use hydrant_engine::now::Boot;
use hydrant_engine::ports::{Holder, StoreError, StoredSession};

use super::incarnations::first_until;
use super::request::Answer;
use super::state::Store;
use super::step::{Late, LateChange, Step};
use super::tables::{Change, Held};

/// How often the row of a session that is taken may change.
const ATTEMPTS: u32 = 10;

/// A take under way.
#[derive(Debug, Clone)]
pub(super) struct Taking {
    client_id: Arc<str>,
    from: Holder,
    until: u64,
    attempts: u32,
    phase: Phase,
}

#[derive(Debug, Clone)]
enum Phase {
    Look,
    /// The session is marked as moving.
    Marked {
        seen: Held,
        holder: u64,
        alive: bool,
    },
    /// Its holder was not sealed since.
    Checked {
        seen: Held,
    },
    Given {
        seen: Held,
    },
}

impl Taking {
    pub(super) fn new(client_id: Arc<str>, from: Holder, until: u64) -> Self {
        Self { client_id, from, until, attempts: 0, phase: Phase::Look }
    }

    /// The session is taken; only that its new holder reads it is left.
    pub(super) fn is_last_step(&self) -> bool {
        matches!(self.phase, Phase::Given { .. })
    }
}

const NO: Result<Step, StoreError> = Ok(Step::Done(Ok(Answer::Taken(None))));

impl Store {
    pub(super) fn step_take(
        &mut self,
        now: Boot,
        me: u64,
        taking: &mut Taking,
    ) -> Result<Step, StoreError> {
        match taking.phase.clone() {
            Phase::Look => return self.look_at(me, taking),
            Phase::Marked { seen, holder, alive } => {
                // Whoever seals it after this finds the mark.
                if holder != me && alive && self.row(holder).is_none_or(|row| row.is_sealed()) {
                    return NO;
                }
                taking.phase = Phase::Checked { seen };
            }
            Phase::Checked { seen } => {
                self.memory(me)?.check(now)?;
                let (lineage, fence) = (self.memory(me)?.lineage, self.memory(me)?.stamp());
                if self.give(&taking.client_id, seen, lineage, fence) {
                    taking.phase = Phase::Given { seen };
                } else {
                    if lineage != seen.lineage {
                        self.unindex(me, lineage, seen)?;
                    }
                    taking.attempts += 1;
                    if taking.attempts >= ATTEMPTS {
                        let why = format!("the session of {:?} changes", taking.client_id);
                        return Err(StoreError::Unavailable(why));
                    }
                    taking.phase = Phase::Look;
                }
            }
            Phase::Given { seen } => {
                let session = self.admit(me, &taking.client_id, seen)?;
                return Ok(Step::Done(Ok(Answer::Taken(session.map(Box::new)))));
            }
        }
        Ok(Step::More)
    }

    fn look_at(&mut self, me: u64, taking: &mut Taking) -> Result<Step, StoreError> {
        let Some(seen) = self.tables.held.get(&taking.client_id).copied() else { return NO };
        let chain = self.follow(seen.lineage);
        let (holder, from) = (chain.holder(), taking.from);
        let sealed_by_us = holder == me && chain.numbers.contains(&from.incarnation);
        // Every change raises the fence, also that of a holder that takes it back.
        if seen.fence > taking.until {
            return NO;
        }
        if seen.id != from.id || (holder != from.incarnation && !sealed_by_us) {
            return NO;
        }
        let theirs = chain.end.as_ref().map_or(first_until(seen.lineage), |found| found.stamps);
        self.raise(me, theirs.max(seen.fence))?;
        let lineage = self.memory(me)?.lineage;
        for lineage in [seen.lineage, lineage] {
            let (client_id, stamp) = (Arc::clone(&taking.client_id), self.memory(me)?.stamp());
            let put = Change::PutHeld { lineage, id: seen.id, client_id, moving: true, stamp };
            self.tables.apply(put);
        }
        taking.phase = Phase::Marked { seen, holder, alive: chain.end.is_some() };
        Ok(Step::More)
    }

    /// What may still come to be of a take that failed.
    pub(super) fn fail_take(&mut self, me: u64, taking: &Taking) -> Late {
        let Ok(memory) = self.memory(me) else { return Late::default() };
        let Phase::Checked { seen } = taking.phase else { return Late::default() };
        let (lineage, fence) = (memory.lineage, memory.stamp());
        let client_id = Arc::clone(&taking.client_id);
        Late(vec![LateChange::Give { client_id, seen, lineage, fence }])
    }

    /// Gives a session to a lineage where nothing has changed since it was seen. Whether it is done.
    pub(super) fn give(&mut self, client_id: &str, seen: Held, lineage: u64, fence: u64) -> bool {
        match self.tables.held.get_mut(client_id) {
            Some(held) if *held == seen => {
                (held.lineage, held.fence) = (lineage, fence);
                true
            }
            _ => false,
        }
    }

    /// Reads a session that is this node's, and indexes it for good.
    fn admit(
        &mut self,
        me: u64,
        client_id: &Arc<str>,
        seen: Held,
    ) -> Result<Option<StoredSession>, StoreError> {
        let memory = self.memory(me)?;
        let (lineage, stamp, id) = (memory.lineage, memory.stamp(), seen.id);
        let client_id = Arc::clone(client_id);
        let put = Change::PutHeld {
            lineage,
            id,
            client_id: Arc::clone(&client_id),
            moving: false,
            stamp,
        };
        self.tables.apply(put);
        if seen.lineage != lineage {
            self.unindex(me, seen.lineage, seen)?;
        }
        let loaded = self.tables.load(self.shape, [id]);
        let Some(session) = loaded.sessions.get(&id).cloned() else {
            // It was never begun, or its end was not finished.
            self.drop_holder(me, &client_id, id, lineage)?;
            return Ok(None);
        };
        let memory = self.memory(me)?;
        if !memory.holds(id) {
            loaded.remember(memory);
        }
        memory.admit(id, lineage);
        Ok(Some(session))
    }

    /// A session of which no record is there has no holder any more.
    pub(super) fn drop_holder(
        &mut self,
        me: u64,
        client_id: &Arc<str>,
        id: u64,
        lineage: u64,
    ) -> Result<(), StoreError> {
        let stamp = self.memory(me)?.stamp();
        if self.tables.held.get(client_id).is_some_and(|held| held.id == id && held.fence < stamp) {
            self.tables.held.remove(client_id);
        }
        let stamp = self.memory(me)?.stamp();
        self.tables.apply(Change::DeleteHeld { lineage, id, stamp });
        Ok(())
    }

    fn unindex(&mut self, me: u64, lineage: u64, seen: Held) -> Result<(), StoreError> {
        let (id, stamp) = (seen.id, self.memory(me)?.stamp());
        self.tables.apply(Change::DeleteHeld { lineage, id, stamp });
        Ok(())
    }

    /// What was sent of a request that failed is done after all.
    pub fn late(&mut self, late: Late) {
        for change in late.0 {
            match change {
                LateChange::Plain(changes) => self.tables.apply_all(changes),
                LateChange::Give { client_id, seen, lineage, fence } => {
                    self.give(&client_id, seen, lineage, fence);
                }
                LateChange::Holder(epoch) => {
                    let (id, fence, lineage) = (epoch.id, epoch.fence, epoch.lineage);
                    let new = Held { id, epoch: epoch.epoch, fence, lineage };
                    match self.tables.held.get_mut(&epoch.client_id) {
                        None if epoch.index => {
                            self.tables.held.insert(epoch.client_id, new);
                        }
                        Some(held) if held.lineage == lineage && held.fence < fence => *held = new,
                        _ => {}
                    }
                }
            }
        }
    }
}
