//! Incarnations: their rows, which are written conditionally only, who seals whom, and how far stamps may reach.
//!
//! As `src/cassandra/incarnation`, for nodes that share the store. A watch is polled in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hydrant_engine::now::Boot;
use hydrant_engine::ports::{KnownIncarnation, StoreError};

use super::memory::{COUNTER_BITS, Memory, RESERVE};
use super::state::{Store, no_process};
use super::tables::Incarnation;

/// How an attempt to become the owner of an incarnation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Ours,
    Alive,
    Others(u64),
    Gone,
}

impl Ended {
    fn of(now: Option<&Incarnation>, me: u64) -> Self {
        match now {
            None => Self::Gone,
            Some(now) if now.owner == me => Self::Ours,
            Some(now) if now.is_sealed() => Self::Others(now.owner),
            Some(_) => Self::Alive,
        }
    }
}

/// An incarnation that is watched until it is surely dead.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    found: Incarnation,
    /// Until here its renewal has to stand still.
    until: Boot,
    /// It is looked at again.
    pub(super) due: Boot,
}

impl Watch {
    pub(super) fn new(now: Boot, found: Incarnation) -> Self {
        let until = now + found.lease + found.lease / 10;
        Self { found, until, due: now }
    }

    pub(super) fn number(&self) -> u64 {
        self.found.number
    }

    fn pause(&self) -> Duration {
        (self.found.lease / 20).clamp(Duration::from_millis(20), Duration::from_secs(1))
    }
}

/// Who has now what an incarnation had.
pub(super) struct Chain {
    pub(super) numbers: Vec<u64>,
    /// The row of the last; `None`: it is gone, so nobody has it.
    pub(super) end: Option<Incarnation>,
}

impl Chain {
    pub(super) fn holder(&self) -> u64 {
        let at = if self.end.is_some() { self.numbers.last() } else { self.numbers.first() };
        at.copied().unwrap_or_default()
    }
}

/// Up to where the stamps of an incarnation may reach that never reserved any.
pub(super) const fn first_until(number: u64) -> u64 {
    ((number + 1) << COUNTER_BITS) - 1
}

/// The end of a chain of owners: one that nobody has sealed, or one that has no row in `all`.
fn end_of(all: &BTreeMap<u64, Incarnation>, first: &Incarnation) -> u64 {
    let mut end = first;
    for _ in 0..all.len() {
        match all.get(&end.owner) {
            Some(owner) if owner.number != end.number => end = owner,
            Some(_) => break,
            None => return end.owner,
        }
    }
    end.owner
}

/// Those whose owner is in `heads` or among themselves, and those that are ours already.
fn chain(all: &BTreeMap<u64, Incarnation>, me: u64, heads: &BTreeSet<u64>) -> Vec<Incarnation> {
    let mut links: Vec<Incarnation> = Vec::new();
    let mut owners: BTreeSet<u64> = heads.iter().copied().chain([me]).collect();
    loop {
        let next = all.values().filter(|found| {
            found.is_sealed() && owners.contains(&found.owner) && !owners.contains(&found.number)
        });
        let next: Vec<Incarnation> = next.cloned().collect();
        if next.is_empty() {
            return links;
        }
        owners.extend(next.iter().map(|found| found.number));
        links.extend(next);
    }
}

impl Store {
    pub(super) fn row(&self, number: u64) -> Option<&Incarnation> {
        self.tables.incarnations.get(&number)
    }

    /// Every incarnation that has a row, but this.
    pub(super) fn other_incarnations(&self, me: u64) -> BTreeMap<u64, Incarnation> {
        let others = self.tables.incarnations.iter().filter(|(number, _)| **number != me);
        others.map(|(number, found)| (*number, found.clone())).collect()
    }

    /// Takes the next number and a lease.
    pub(super) fn begin_incarnation(
        &mut self,
        sent: Boot,
        node: &Arc<str>,
        instance: &Arc<str>,
        lease: Duration,
    ) -> u64 {
        self.tables.number += 1;
        let number = self.tables.number;
        let row = Incarnation {
            number,
            node: Arc::clone(node),
            instance: Arc::clone(instance),
            lease,
            renewal: Some(0),
            owner: number,
            lineage: number,
            stamps: first_until(number),
        };
        self.tables.incarnations.insert(number, row);
        let memory = Memory::new(number, Arc::clone(node), first_until(number), sent + lease);
        self.memories.insert(number, memory);
        number
    }

    /// Raises the lease, where nobody has sealed it. It runs from when the renewal was sent.
    pub(super) fn renew(&mut self, sent: Boot, me: u64) -> Result<bool, StoreError> {
        let memory = self.memory(me)?;
        if memory.released || memory.lost.is_some() {
            return Ok(false);
        }
        let until = match self.tables.incarnations.get_mut(&me) {
            Some(row) if !row.is_sealed() => {
                row.renewal = row.renewal.map(|renewal| renewal + 1);
                sent + row.lease
            }
            row => {
                let by = row.map(|row| row.owner);
                self.memory(me)?.sealed(by);
                return Ok(false);
            }
        };
        let memory = self.memory(me)?;
        memory.lease_until = memory.lease_until.max(until);
        self.raise(me, 0)?;
        Ok(true)
    }

    /// The renewal stands in the row, and its incarnation does not hear of it.
    pub(super) fn renew_unheard(&mut self, me: u64) {
        if let Some(row) = self.tables.incarnations.get_mut(&me)
            && !row.is_sealed()
        {
            row.renewal = row.renewal.map(|renewal| renewal + 1);
        }
    }

    /// A clean stop.
    pub(super) fn release(&mut self, me: u64) -> Result<(), StoreError> {
        let memory = self.memory(me)?;
        memory.released = true;
        if memory.lost.is_none()
            && let Some(row) = self.tables.incarnations.get_mut(&me)
            && !row.is_sealed()
        {
            row.renewal = None;
        }
        Ok(())
    }

    /// Makes every stamp from now on higher than `above`, and sees that there are enough.
    pub(super) fn raise(&mut self, me: u64, above: u64) -> Result<(), StoreError> {
        let memory = self.memory(me)?;
        let base = above.max(memory.last);
        if base + RESERVE / 2 > memory.until {
            let until = base + RESERVE;
            match self.tables.incarnations.get_mut(&me) {
                Some(row) if !row.is_sealed() => row.stamps = until,
                _ => return Err(StoreError::Unusable(format!("incarnation {me} is sealed"))),
            }
            self.memory(me)?.until = until;
        }
        let memory = self.memory(me)?;
        memory.last = memory.last.max(above);
        Ok(())
    }

    /// Looks at one that is watched. `None`: it is looked at again at [`Watch::due`].
    pub(super) fn look(
        &mut self,
        now: Boot,
        me: u64,
        watch: &mut Watch,
    ) -> Result<Option<Ended>, StoreError> {
        let first = watch.found.clone();
        if now > watch.due + watch.pause() * 4 {
            // The store was away, also for the one that is watched: it gets its time again.
            watch.until = now + first.lease + first.lease / 10;
        }
        match self.row(first.number).cloned() {
            Some(row) if !row.is_sealed() => {
                if row.renewal != first.renewal && row.renewal.is_some() {
                    return Ok(Some(Ended::Alive));
                }
                watch.found = row;
            }
            row => return Ok(Some(Ended::of(row.as_ref(), me))),
        }
        if self.is_dead(me, &watch.found)? || now >= watch.until {
            return self.become_owner(now, me, &watch.found).map(Some);
        }
        watch.due = now + watch.pause();
        Ok(None)
    }

    /// Its process is surely dead: it ended in order, or had the data directory that we have.
    fn is_dead(&self, me: u64, found: &Incarnation) -> Result<bool, StoreError> {
        let own = self.row(me).ok_or_else(|| no_process(me))?;
        let ours = found.node == own.node && found.instance == own.instance;
        Ok(ours || found.renewal.is_none())
    }

    /// Becomes the owner where nothing has changed since `found` was read.
    fn become_owner(
        &mut self,
        now: Boot,
        me: u64,
        found: &Incarnation,
    ) -> Result<Ended, StoreError> {
        if !self.memory(me)?.holds_lease(now) {
            return Err(StoreError::Unavailable("the lease of this node is over".to_owned()));
        }
        match self.tables.incarnations.get_mut(&found.number) {
            Some(row) if row.owner == found.owner && row.renewal == found.renewal => {
                row.owner = me;
                Ok(Ended::Ours)
            }
            row => Ok(Ended::of(row.as_deref(), me)),
        }
    }

    /// Becomes the owner of one whose owner was sealed by us, or is forgotten, and did not take it along.
    pub(super) fn inherits(&mut self, now: Boot, me: u64, number: u64) -> Result<bool, StoreError> {
        let all = self.other_incarnations(me);
        let Some(found) = all.get(&number) else { return Ok(false) };
        let end = end_of(&all, found);
        if end != me && all.contains_key(&end) {
            return Ok(false);
        }
        Ok(self.become_owner(now, me, found)? == Ended::Ours)
    }

    /// Seals again, for us, what those in `heads` had sealed themselves; the latter included. By number.
    pub(super) fn take_chain(
        &mut self,
        now: Boot,
        me: u64,
        heads: BTreeSet<u64>,
    ) -> Result<Vec<Incarnation>, StoreError> {
        let all = self.other_incarnations(me);
        let mut ours = heads;
        for found in chain(&all, me, &ours) {
            if found.owner == me || self.become_owner(now, me, &found)? == Ended::Ours {
                ours.insert(found.number);
            }
        }
        Ok(ours.iter().filter_map(|number| self.row(*number).cloned()).collect())
    }

    /// The owners of an incarnation, up to the one that nobody has sealed.
    pub(super) fn follow(&self, first: u64) -> Chain {
        let mut numbers = vec![first];
        loop {
            let number = numbers.last().copied().unwrap_or_default();
            match self.row(number) {
                Some(found) if found.is_sealed() && !numbers.contains(&found.owner) => {
                    numbers.push(found.owner);
                }
                end => return Chain { numbers, end: end.cloned() },
            }
        }
    }

    /// See [`hydrant_engine::ports::SharedStore::incarnations`].
    pub(super) fn known(&self, me: u64) -> Vec<KnownIncarnation> {
        let all = self.other_incarnations(me);
        let known = all.values().map(|found| KnownIncarnation {
            number: found.number,
            node: Arc::clone(&found.node),
            lineage: found.lineage,
            owner: end_of(&all, found),
            released: found.renewal.is_none(),
            lease: found.lease,
        });
        known.collect()
    }

    /// Goes on with the lineage of its node: the first of those among `dead`.
    pub(super) fn join_lineage(&mut self, me: u64, dead: &[Incarnation]) -> Result<(), StoreError> {
        let node = Arc::clone(&self.memory(me)?.node);
        let has_first = |lineage| dead.iter().any(|one| one.number == lineage);
        let lineages = dead.iter().filter(|one| one.node == node).map(|one| one.lineage);
        let Some(lineage) = lineages.filter(|lineage| has_first(*lineage)).min() else {
            return Ok(());
        };
        match self.tables.incarnations.get_mut(&me) {
            Some(row) if row.owner == me => row.lineage = lineage,
            _ => return Err(StoreError::Unusable(format!("incarnation {me} is sealed"))),
        }
        self.memory(me)?.lineage = lineage;
        Ok(())
    }
}
