//! Refused records that stay in the outbox, because there was no room among the dead letters.
//!
//! Invariant: a record is held, or it is tried again; the ones to be read are some of those that are tried.
//! Bound: the outbox's, `storage.outbox_max_bytes`, at an entry a record without its content.

use std::collections::{BTreeMap, VecDeque};

use crate::ports::OutboxPosition;

/// See the module.
#[derive(Debug, Default)]
pub struct Held {
    /// Those that stay, with their cost.
    held: BTreeMap<OutboxPosition, u64>,
    /// Those that are tried again: there may be room for all of them together.
    trying: BTreeMap<OutboxPosition, u64>,
    /// Of these, those that are to be read.
    unread: VecDeque<OutboxPosition>,
    /// One that was tried is over: another may be.
    one_over: bool,
}

impl Held {
    /// Records that stay for now.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// None stays.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Records that are tried again.
    pub fn tried(&self) -> usize {
        self.trying.len()
    }

    /// One more stays. False: it stayed already.
    pub fn hold(&mut self, at: OutboxPosition, cost: u64) -> bool {
        self.held.insert(at, cost).is_none()
    }

    /// What was tried is answered; `over`: the record left the outbox. A record that was not tried changes nothing.
    pub fn answered(&mut self, at: OutboxPosition, over: bool) {
        self.one_over |= self.trying.remove(&at).is_some() && over;
    }

    /// Whether one that was tried is over since this was asked last.
    pub fn take_one_over(&mut self) -> bool {
        std::mem::take(&mut self.one_over)
    }

    /// As many as `free` bytes among the dead letters may be enough for are tried again. `released` hears of each.
    pub fn release(&mut self, free: u64, mut released: impl FnMut(OutboxPosition)) {
        let promised: u64 = self.trying.values().sum();
        let mut free = free.saturating_sub(promised);
        let Self { held, trying, unread, .. } = self;
        held.retain(|at, cost| {
            let fits = *cost <= free;
            if fits {
                free -= *cost;
                released(*at);
                trying.insert(*at, *cost);
                unread.push_back(*at);
            }
            !fits
        });
    }

    /// The one that is to be read next.
    pub fn next(&self) -> Option<OutboxPosition> {
        self.unread.front().copied()
    }

    /// It was read.
    pub fn was_read(&mut self) {
        self.unread.pop_front();
    }
}
