//! Starts, leases and seals, and sessions that change hands one by one.

use std::sync::Arc;

use hydrant_engine::ports::{
    Holder, LaneState, OrphanedState, SealedIncarnation, Sealing, StoreError, StoredSession,
};

use super::{Begun, Start, Store, found, sealed};
use crate::settings::LEASE;

/// Adopted lanes have numbers above those of the node's own.
const ADOPTED: u16 = 16;

/// A successor watches a lease for a tenth longer than it is, in microseconds.
const WATCHED: u64 = (LEASE.as_millis() as u64) * 1100;

impl Store {
    /// A node starts: it goes on with what its earlier starts held, where nobody has sealed them. Its process is new, so
    /// the earlier ones are surely dead.
    pub fn begin(&mut self, now: u64, node: &str) -> Begun {
        self.last += 1;
        let incarnation = self.last;
        let its = |start: &Start| *start.node == *node;
        let before =
            self.starts.iter().filter(|(number, start)| its(start) && !self.is_sealed(**number));
        let before: Vec<u64> = before.map(|(number, _)| *number).collect();
        let lineage = before.first().map_or(incarnation, |first| self.lineage(*first));
        let start = Start { node: node.into(), lineage, released: false, lease: now + WATCHED };
        self.starts.insert(incarnation, start);
        let mut continued = OrphanedState::default();
        for before in before {
            self.move_lanes(before, incarnation);
            let OrphanedState { incarnations, sessions, wills, batches, prepared, .. } =
                self.seal_now(before, incarnation);
            continued.incarnations.extend(incarnations);
            continued.sessions.extend(sessions);
            continued.wills.extend(wills);
            continued.batches.extend(batches);
            continued.prepared.extend(prepared);
        }
        Begun { incarnation, lineage, continued }
    }

    /// The lineage of a start.
    pub(super) fn lineage(&self, incarnation: u64) -> u64 {
        self.starts.get(&incarnation).map_or(incarnation, |start| start.lineage)
    }

    /// Renews a lease. False: it is sealed.
    pub fn renew(&mut self, now: u64, me: u64) -> bool {
        if self.is_sealed(me) {
            return false;
        }
        if let Some(start) = self.starts.get_mut(&me) {
            start.lease = now + WATCHED;
        }
        true
    }

    /// It ends in order: nobody waits for its lease.
    pub fn release(&mut self, me: u64) {
        if let Some(start) = self.starts.get_mut(&me) {
            start.released = true;
        }
    }

    /// When an incarnation may be sealed by one that watches it from now on.
    pub fn sealable(&self, incarnation: u64) -> u64 {
        let start = self.starts.get(&incarnation);
        start.filter(|start| !start.released).map_or(0, |start| start.lease)
    }

    /// Seals it, if its lease is over.
    ///
    /// # Errors
    /// Who asks is sealed.
    pub fn seal(&mut self, now: u64, me: u64, incarnation: u64) -> Result<Sealing, StoreError> {
        if self.is_sealed(me) {
            return Err(sealed());
        }
        if let Some(by) = self.sealed.get(&incarnation) {
            return Ok(Sealing::Others(*by));
        }
        if self.sealable(incarnation) > now {
            return Ok(Sealing::Alive);
        }
        let lanes = self.adopt_lanes(incarnation, me);
        let orphaned = self.seal_now(incarnation, me);
        Ok(Sealing::Ours(Box::new(OrphanedState { lanes, ..orphaned })))
    }

    /// Gives everything of an incarnation, and of those that it had sealed, to another.
    fn seal_now(&mut self, incarnation: u64, by: u64) -> OrphanedState {
        let before = self.sealed.iter().filter(|(_, owner)| **owner == incarnation);
        let numbers: Vec<u64> = before.map(|it| *it.0).chain([incarnation]).collect();
        let mut orphaned = OrphanedState::default();
        for number in numbers {
            self.sealed.insert(number, by);
            let lineage = self.lineage(number);
            orphaned.incarnations.push(SealedIncarnation { number, lineage });
            for (id, kept) in self.sessions.iter_mut().filter(|(_, kept)| kept.holder == number) {
                kept.holder = by;
                orphaned.sessions.push(found(*id, kept));
            }
            // They stay until they are forgotten, whoever holds the sessions.
            let batches = self.batches.remove(&number).unwrap_or_default();
            orphaned.batches.extend(batches.values().cloned());
            for (key, batch) in batches {
                let kept = self.batches.entry(by).or_default();
                let kept = kept.entry(key).or_insert_with(|| batch.clone());
                kept.except.retain(|client| batch.except.contains(client));
            }
            let its = self.prepared.values().filter(|prepared| prepared.id.incarnation == number);
            orphaned.prepared.extend(its.cloned());
            for (of, will) in self.wills.values_mut().filter(|(of, _)| *of == number) {
                *of = by;
                orphaned.wills.push(will.clone());
            }
        }
        orphaned
    }

    /// The lanes of a node go on over its starts.
    fn move_lanes(&mut self, from: u64, to: u64) {
        for (number, lane) in self.lanes_of(from) {
            self.outbox.insert((to, number), lane);
        }
    }

    /// A successor has the lanes of a lost node under numbers of its own.
    fn adopt_lanes(&mut self, from: u64, to: u64) -> Vec<LaneState> {
        let first = self.lanes_of_number(to);
        let mut adopted = Vec::new();
        for (number, (_, lane)) in (first..).zip(self.lanes_of(from)) {
            self.outbox.insert((to, number), lane);
            adopted.extend(self.lanes(to).into_iter().filter(|it| it.lane == number));
        }
        adopted
    }

    fn lanes_of_number(&self, of: u64) -> u16 {
        let last = self.outbox.range((of, 0)..=(of, u16::MAX)).next_back();
        last.map_or(0, |((_, lane), _)| lane + 1).max(ADOPTED)
    }

    fn lanes_of(&mut self, of: u64) -> Vec<(u16, super::Lane)> {
        let its: Vec<u16> = self.outbox.range((of, 0)..=(of, u16::MAX)).map(|it| it.0.1).collect();
        its.into_iter().filter_map(|lane| Some((lane, self.outbox.remove(&(of, lane))?))).collect()
    }

    /// Takes a session from its holder.
    ///
    /// # Errors
    /// Who asks is sealed.
    pub fn take(
        &mut self,
        me: u64,
        from: Holder,
        until: u64,
    ) -> Result<Option<StoredSession>, StoreError> {
        if self.is_sealed(me) {
            return Err(sealed());
        }
        let lineage = self.lineage(me);
        let kept = self.sessions.get_mut(&from.id);
        let kept = kept.filter(|it| it.holder == from.incarnation && it.taken <= until);
        Ok(kept.map(|kept| {
            (kept.holder, kept.lineage) = (me, lineage);
            kept.taken += 1;
            found(from.id, kept)
        }))
    }

    /// How often a session was taken.
    pub fn taken(&self, id: u64) -> u64 {
        self.sessions.get(&id).map_or(0, |kept| kept.taken)
    }

    /// The node of a start.
    pub fn node_of(&self, incarnation: u64) -> Option<Arc<str>> {
        self.starts.get(&incarnation).map(|start| Arc::clone(&start.node))
    }
}
