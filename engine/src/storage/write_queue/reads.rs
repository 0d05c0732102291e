//! Pages of sessions' queues that are wanted and not answered.
//!
//! Invariants: a session has at most one read that nobody has begun. A read is begun when every batch that it waits for
//! is done; a write of its session that is held back and let go meanwhile is one more to wait for. One that
//! has failed rests until the time that it is given, or until the store is known to answer again.
//! Bounds: one read for each connection that resumes.

use std::collections::{HashMap, VecDeque};

use super::request::Request;
use crate::messages::ManagerWork;
use crate::now::Boot;
use crate::ports::{QueueEntry, SessionId};

/// Tells reads apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub(super) u64);

/// A page of a queue that is wanted.
#[derive(Debug, Clone)]
pub struct Read {
    /// Where the answer goes.
    pub(super) worker: u16,
    /// See [`crate::messages::StorageWork::ReadQueue`].
    pub(super) slot: u32,
    /// See [`crate::messages::StorageWork::ReadQueue`].
    pub(super) request: u32,
    /// The session.
    pub session: SessionId,
    /// First sequence.
    pub from: u64,
    /// One past the last that is wanted.
    pub(super) until: u64,
    /// Entries at most.
    pub limit: usize,
    /// See [`crate::messages::StorageWork::ReadQueue`].
    pub max_bytes: usize,
    /// Every batch up to this one is done before the read begins.
    pub(super) after: u64,
    /// It has failed: it does not begin before [`Reads::rest_until`].
    pub(super) rests: bool,
    /// By which the store's answer is told.
    pub id: ReadId,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// Wanted pages that nobody reads yet, in the order of the requests.
    waiting: Vec<Read>,
    /// Pages that are being read, by the read's id.
    begun: HashMap<ReadId, Read>,
    /// Pages that are found, and for which worker.
    pages: VecDeque<(u16, ManagerWork)>,
    last: u64,
    /// Present while one that has failed rests.
    rest_until: Option<Boot>,
}

impl Reads {
    /// An id that no read has.
    pub(super) fn next_id(&mut self) -> ReadId {
        self.last += 1;
        ReadId(self.last)
    }

    /// A page is wanted, once the batch `after` is done.
    pub(super) fn want(&mut self, mut read: Read, after: u64) {
        read.after = after;
        // Who asks again has a new connection; the answer to the one before would be thrown away.
        self.waiting.retain(|older| older.session != read.session);
        self.waiting.push(read);
    }

    /// Reads of the queues to which the request adds wait for batch `after`.
    pub(super) fn wait_for(&mut self, request: &Request, after: u64) {
        if self.waiting.is_empty() {
            return;
        }
        // By session, the lowest; what a read does not want does not hold it up.
        let mut added: HashMap<SessionId, u64> = HashMap::new();
        for (session, sequence) in request.queued() {
            let lowest = added.entry(session).or_insert(sequence);
            *lowest = sequence.min(*lowest);
        }
        if added.is_empty() {
            return;
        }
        for read in &mut self.waiting {
            if added.get(&read.session).is_some_and(|sequence| *sequence < read.until) {
                read.after = after;
            }
        }
    }

    /// Reads that may begin now; they count as begun. One look at each read that waits.
    pub(super) fn ready(&mut self, may_begin: impl Fn(&Read) -> bool) -> Vec<Read> {
        let may_begin = |read: &mut Read| !read.rests && may_begin(read);
        let ready: Vec<Read> = self.waiting.extract_if(.., may_begin).collect();
        self.begun.extend(ready.iter().map(|read| (read.id, read.clone())));
        ready
    }

    /// The store has found a page. Nobody waits for a second answer.
    pub(super) fn found(&mut self, id: ReadId, entries: Vec<QueueEntry>) {
        if let Some(Read { worker, slot, request, .. }) = self.begun.remove(&id) {
            self.pages.push_back((worker, ManagerWork::QueuePage { slot, request, entries }));
        }
    }

    /// The next page that goes to its worker.
    pub(super) fn page(&mut self) -> Option<(u16, ManagerWork)> {
        self.pages.pop_front()
    }

    /// A read failed: it begins again after a rest, until then or until the end of one that has begun before.
    pub(super) fn failed(&mut self, id: ReadId, until: Boot) {
        if let Some(read) = self.begun.remove(&id) {
            self.waiting.push(Read { rests: true, ..read });
            self.rest_until.get_or_insert(until);
        }
    }

    /// When those that rest may begin.
    pub(super) fn rest_until(&self) -> Option<Boot> {
        self.rest_until
    }

    /// Those that rest may begin.
    pub(super) fn end_rest(&mut self) {
        if self.rest_until.take().is_some() {
            self.waiting.iter_mut().for_each(|read| read.rests = false);
        }
    }

    /// A new driver: every read that had begun begins again, none rests.
    pub(super) fn restart(&mut self) {
        self.end_rest();
        self.waiting.extend(self.begun.drain().map(|(_, read)| read));
        self.waiting.sort_unstable_by_key(|read| read.id);
    }

    /// None is wanted.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.begun.is_empty() && self.pages.is_empty()
    }
}
