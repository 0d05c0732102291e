//! What waits for parts of transactions that are not here: by worker, its oldest transaction that is not written, and
//! what the worker asked for since.
//!
//! Invariants: what leaves a line leaves in the worker's order. Parts of another worker's transaction stand in no line,
//! or two workers would wait for each other.
//! Bounds: the credits of those who wait for what stands here; its bytes count as held back (`deferred`).

use std::collections::{HashMap, VecDeque};

use super::reads::Read;
use super::request::Request;
use crate::messages::Transaction;

#[derive(Debug, Default)]
struct Assembly {
    parts: Vec<Request>,
    /// How many make it up.
    expected: usize,
    /// The worker in whose line it stands.
    origin: Option<u16>,
}

impl Assembly {
    fn is_whole(&self) -> bool {
        self.parts.len() >= self.expected
    }
}

/// What stands in a worker's line.
#[derive(Debug)]
enum InLine {
    /// Its parts are in `assembling`.
    Transaction(u64),
    Write(Request),
    Read(Read),
}

/// What a new part of a transaction has led to.
#[derive(Debug)]
pub(super) enum Assembled {
    /// Parts are missing, or something stands before it in its line.
    Waits,
    /// It is whole, and stands at the front of its line.
    Ready,
    /// It is whole, and stands in no line.
    Whole(Vec<Request>),
}

/// What has left a line.
#[derive(Debug)]
pub(super) enum Left {
    /// Every part of a transaction.
    Whole(Vec<Request>),
    Write(Request),
    Read(Read),
    /// Nothing after all.
    Nothing,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lines {
    assembling: HashMap<u64, Assembly>,
    /// None: no row.
    lines: HashMap<u16, VecDeque<InLine>>,
    /// Lines at whose front nothing is missing.
    ready: VecDeque<u16>,
}

impl Lines {
    /// This worker has a line.
    pub(super) fn has(&self, worker: u16) -> bool {
        self.lines.contains_key(&worker)
    }

    /// A write stands behind what its worker has asked for.
    pub(super) fn push_write(&mut self, worker: u16, request: Request) {
        self.lines.entry(worker).or_default().push_back(InLine::Write(request));
    }

    /// A read stands behind what its worker has asked for.
    pub(super) fn push_read(&mut self, worker: u16, read: Read) {
        self.lines.entry(worker).or_default().push_back(InLine::Read(read));
    }

    /// A part of a transaction. With an `origin` the transaction takes its place in that worker's line.
    pub(super) fn assemble(
        &mut self,
        request: Request,
        Transaction { id, parts }: Transaction,
        origin: Option<u16>,
    ) -> Assembled {
        let assembly = self.assembling.entry(id).or_default();
        assembly.expected = usize::from(parts);
        assembly.parts.push(request);
        if let Some(origin) = origin {
            assembly.origin = Some(origin);
            self.lines.entry(origin).or_default().push_back(InLine::Transaction(id));
        }
        if !assembly.is_whole() {
            return Assembled::Waits;
        }
        let Some(origin) = assembly.origin else {
            return self.whole(id).map_or(Assembled::Waits, Assembled::Whole);
        };
        let front = self.lines.get(&origin).and_then(VecDeque::front);
        if matches!(front, Some(InLine::Transaction(front)) if *front == id) {
            self.ready.push_back(origin);
            return Assembled::Ready;
        }
        Assembled::Waits
    }

    fn whole(&mut self, id: u64) -> Option<Vec<Request>> {
        Some(self.assembling.remove(&id)?.parts)
    }

    /// Something may leave its line.
    pub(super) fn may_advance(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next that may leave its line.
    pub(super) fn advance(&mut self) -> Option<Left> {
        let origin = self.ready.front().copied()?;
        let left = match self.lines.get_mut(&origin).and_then(VecDeque::pop_front) {
            Some(InLine::Transaction(id)) => self.whole(id).map_or(Left::Nothing, Left::Whole),
            Some(InLine::Write(request)) => Left::Write(request),
            Some(InLine::Read(read)) => Left::Read(read),
            None => Left::Nothing,
        };
        match self.lines.get(&origin).and_then(VecDeque::front) {
            None => {
                self.lines.remove(&origin);
                self.ready.pop_front();
            }
            Some(InLine::Transaction(id))
                if !self.assembling.get(id).is_none_or(Assembly::is_whole) =>
            {
                self.ready.pop_front();
            }
            Some(_) => {}
        }
        Some(left)
    }

    /// Nothing waits for a part.
    pub(super) fn is_empty(&self) -> bool {
        self.assembling.is_empty() && self.lines.is_empty()
    }
}
