//! How a start and a seal go on: dead incarnations are watched, sealed, and what they had is taken over.
//!
//! Bounds: an incarnation takes over one at a time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hydrant_engine::now::Boot;
use hydrant_engine::ports::{Sealing, StoreError};

use super::incarnations::{Ended, Watch};
use super::request::Answer;
use super::state::Store;
use super::step::Step;
use super::succession::{Found, sealed};
use super::tables::{Change, Incarnation};

/// A seal under way.
#[derive(Debug, Clone)]
pub(super) struct Sealer {
    number: u64,
    phase: Phase,
}

#[derive(Debug, Clone)]
enum Phase {
    Look,
    Watch(Watch),
    /// It is ours: what it had sealed is, too.
    Owned,
    Redo(Vec<Incarnation>),
    /// Its sessions are written again; what was found is in the incarnation's memory.
    Settle(Arc<Found>, Vec<Vec<Change>>),
}

impl Sealer {
    pub(super) fn new(number: u64) -> Self {
        Self { number, phase: Phase::Look }
    }

    pub(super) fn open(&self) -> usize {
        if let Phase::Settle(_, parts) = &self.phase { parts.len().max(1) } else { 1 }
    }

    /// Everything is written; only that the successor knows of it is left.
    pub(super) fn is_last_step(&self) -> bool {
        matches!(&self.phase, Phase::Settle(_, parts) if parts.is_empty())
    }

    /// It takes over: no other does at the same time.
    pub(super) fn takes_over(&self) -> bool {
        matches!(self.phase, Phase::Redo(_) | Phase::Settle(..))
    }
}

fn done(sealing: Sealing) -> Result<Step, StoreError> {
    Ok(Step::Done(Ok(Answer::Sealed(sealing))))
}

/// A start under way.
#[derive(Debug, Clone)]
pub(super) struct Starting {
    node: Arc<str>,
    instance: Arc<str>,
    lease: Duration,
    phase: StartPhase,
}

#[derive(Debug, Clone)]
enum StartPhase {
    Begin,
    Claim,
    /// Those of the same node that nobody had sealed; those that are ours.
    Watch(Vec<Watch>, BTreeSet<u64>),
    Redo(Vec<Incarnation>),
}

impl Starting {
    pub(super) fn new(node: &str, instance: &str, lease: Duration) -> Self {
        let (node, instance) = (node.into(), instance.into());
        Self { node, instance, lease, phase: StartPhase::Begin }
    }
}

impl Store {
    pub(super) fn step_seal(
        &mut self,
        now: Boot,
        me: u64,
        sealer: &mut Sealer,
        choice: usize,
    ) -> Result<Step, StoreError> {
        match &mut sealer.phase {
            Phase::Look => {
                let Some(found) = self.row(sealer.number).cloned() else {
                    return done(Sealing::Others(0));
                };
                if sealer.number == me {
                    return done(Sealing::Alive);
                }
                if !found.is_sealed() {
                    sealer.phase = Phase::Watch(Watch::new(now, found));
                } else if found.owner == me {
                    sealer.phase = Phase::Owned;
                } else {
                    return self.others(now, me, sealer, found.owner);
                }
            }
            Phase::Watch(watch) => match self.look(now, me, watch)? {
                None => return Ok(Step::Until(watch.due)),
                Some(Ended::Ours) => sealer.phase = Phase::Owned,
                Some(Ended::Alive) => return done(Sealing::Alive),
                Some(Ended::Others(owner)) => return self.others(now, me, sealer, owner),
                Some(Ended::Gone) => return done(Sealing::Others(0)),
            },
            Phase::Owned => {
                if self.memory(me)?.seals {
                    return Ok(Step::Blocked);
                }
                let mut dead = self.take_chain(now, me, [sealer.number].into())?;
                let known = &self.memory(me)?.dead;
                // Of what was ours before, and of which nothing is to be done, too.
                dead.retain(|one| !known.contains(&one.number));
                self.memory(me)?.seals = true;
                self.raise_above(me, &dead)?;
                sealer.phase = Phase::Redo(dead);
            }
            Phase::Redo(dead) => {
                let dead = std::mem::take(dead);
                self.redo_all(me, &dead)?;
                let letters = self.take_letters(me, &dead)?;
                let lineages = dead.iter().map(|one| one.lineage).collect();
                let mut found = self.find(me, dead)?;
                found.letters = letters;
                self.find_sessions(me, &lineages, &mut found)?;
                let parts = self.settle(me, &mut found)?;
                sealer.phase = Phase::Settle(Arc::new(found), parts);
            }
            Phase::Settle(found, parts) => {
                if !parts.is_empty() {
                    let at = choice % parts.len();
                    self.tables.apply_all(parts.remove(at));
                    return Ok(Step::More);
                }
                let found = Found::clone(found);
                self.memory(me)?.seals = false;
                let orphaned = self.take_over(me, found)?;
                return done(Sealing::Ours(Box::new(orphaned)));
            }
        }
        Ok(Step::More)
    }

    /// It is another's, unless that one is over and did not take it along.
    fn others(
        &mut self,
        now: Boot,
        me: u64,
        sealer: &mut Sealer,
        owner: u64,
    ) -> Result<Step, StoreError> {
        if !self.inherits(now, me, sealer.number)? {
            return done(Sealing::Others(owner));
        }
        sealer.phase = Phase::Owned;
        Ok(Step::More)
    }

    fn raise_above(&mut self, me: u64, dead: &[Incarnation]) -> Result<(), StoreError> {
        let highest = dead.iter().map(|one| one.stamps).max().unwrap_or_default();
        self.raise(me, highest)
    }

    pub(super) fn step_start(
        &mut self,
        now: Boot,
        (sent, me): (Boot, &mut u64),
        starting: &mut Starting,
    ) -> Result<Step, StoreError> {
        match &mut starting.phase {
            StartPhase::Begin => {
                let Starting { node, instance, lease, .. } = starting;
                *me = self.begin_incarnation(sent, node, instance, *lease);
                starting.phase = StartPhase::Claim;
            }
            StartPhase::Claim => {
                let all = self.other_incarnations(*me);
                let same = all.into_values().filter(|found| found.node == starting.node);
                let same: Vec<Incarnation> = same.collect();
                // Of two that start together the later one goes on.
                if same.iter().any(|found| found.number > *me) {
                    return Err(self.in_use(*me, &starting.node));
                }
                let open = same.into_iter().filter(|found| !found.is_sealed());
                let watches = open.map(|found| Watch::new(now, found)).collect();
                starting.phase = StartPhase::Watch(watches, BTreeSet::new());
            }
            StartPhase::Watch(watches, ours) => {
                let mut due = None;
                for mut watch in std::mem::take(watches) {
                    let number = watch.number();
                    match self.look(now, *me, &mut watch)? {
                        None => {
                            due = Some(due.map_or(watch.due, |due: Boot| due.min(watch.due)));
                            watches.push(watch);
                        }
                        Some(Ended::Ours) => _ = ours.insert(number),
                        Some(Ended::Alive) => return Err(self.in_use(*me, &starting.node)),
                        Some(Ended::Others(_) | Ended::Gone) => {}
                    }
                }
                if let Some(due) = due {
                    return Ok(Step::Until(due));
                }
                let ours = std::mem::take(ours);
                let dead = self.take_chain(now, *me, ours)?;
                self.raise_above(*me, &dead)?;
                self.join_lineage(*me, &dead)?;
                starting.phase = StartPhase::Redo(dead);
            }
            StartPhase::Redo(dead) => {
                let (me, dead) = (*me, std::mem::take(dead));
                self.redo_all(me, &dead)?;
                self.take_letters(me, &dead)?;
                let mut found = self.find(me, dead)?;
                let memory = self.memory(me)?;
                memory.continued.incarnations = sealed(&found.dead);
                memory.continued.batches.clone_from(&found.batches);
                memory.continued.prepared.clone_from(&found.prepared);
                let own = memory.lineage;
                let lineages = found.dead.iter().map(|one| one.lineage).chain([own]).collect();
                self.find_sessions(me, &lineages, &mut found)?;
                self.recover(me, found)?;
                return Ok(Step::Done(Ok(Answer::Started(me))));
            }
        }
        Ok(Step::More)
    }

    fn in_use(&mut self, me: u64, node: &str) -> StoreError {
        let _ = self.release(me);
        StoreError::Unusable(format!("node id {node:?} is in use by another running broker"))
    }
}
