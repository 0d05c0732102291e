//! Writes of a node: one at a time, in the order in which they were pushed. What is one transaction is
//! written as one, when all its parts are there; a read comes behind what was pushed before it.

use std::collections::{BTreeMap, VecDeque};
use std::mem;

use super::super::Mistake;
use super::super::store::{Op, Request};
use super::{CompletionToken, Node, Purpose};

#[derive(Debug)]
enum Item {
    Write(Vec<Op>, Vec<CompletionToken>),
    Transaction(u64),
    Read { worker: u16, slot: u32, stamp: u64, session: u64, from: u64 },
}

#[derive(Default)]
pub(super) struct Storage {
    queue: VecDeque<Item>,
    /// Parts that are to come, and what those that came have.
    transactions: BTreeMap<u64, (usize, Vec<Op>, Vec<CompletionToken>)>,
    pub busy: bool,
    writing: (Vec<Op>, Vec<CompletionToken>),
    reading: Option<(u64, u64)>,
    /// Stored, and the lease was over when the answer came.
    unleased: Vec<CompletionToken>,
}

impl Storage {
    pub fn has_work(&self) -> bool {
        !self.busy
            && match self.queue.front() {
                Some(Item::Transaction(id)) => self.transactions[id].0 == 0,
                front => front.is_some(),
            }
    }
}

impl Node {
    /// `transaction`: its number, and how many parts it has.
    pub(super) fn store(
        &mut self,
        ops: Vec<Op>,
        mut tokens: Vec<CompletionToken>,
        transaction: Option<(u64, usize)>,
    ) {
        if self.mistake == Mistake::EarlyAcknowledgement {
            self.complete(mem::take(&mut tokens));
        }
        let storage = &mut self.storage;
        match transaction {
            None if ops.is_empty() && tokens.is_empty() => {}
            None => storage.queue.push_back(Item::Write(ops, tokens)),
            Some((id, parts)) => {
                let (left, all, waiting) = storage.transactions.entry(id).or_insert_with(|| {
                    storage.queue.push_back(Item::Transaction(id));
                    (parts, Vec::new(), Vec::new())
                });
                *left -= 1;
                all.extend(ops);
                waiting.extend(tokens);
            }
        }
    }

    pub(super) fn read(&mut self, worker: u16, slot: u32, session: u64, from: u64) -> u64 {
        let stamp = self.number();
        self.storage.queue.push_back(Item::Read { worker, slot, stamp, session, from });
        stamp
    }

    pub(super) fn run_storage(&mut self) {
        let (mut ops, mut tokens) = (Vec::new(), Vec::new());
        while self.storage.has_work() {
            match self.storage.queue.pop_front() {
                Some(Item::Write(more, waiting)) => {
                    ops.extend(more);
                    tokens.extend(waiting);
                }
                Some(Item::Transaction(id)) => {
                    let (_, more, waiting) = self.storage.transactions.remove(&id).unwrap();
                    ops.extend(more);
                    tokens.extend(waiting);
                }
                Some(read @ Item::Read { .. }) if !ops.is_empty() || !tokens.is_empty() => {
                    self.storage.queue.push_front(read);
                    break;
                }
                Some(Item::Read { worker, slot, stamp, session, from }) => {
                    self.storage.busy = true;
                    self.storage.reading = Some((session, from));
                    let request = Request::Read { session, from };
                    return self.ask(Purpose::Read { worker, slot, stamp }, request);
                }
                None => break,
            }
        }
        if !ops.is_empty() || !tokens.is_empty() {
            self.storage.busy = true;
            self.storage.writing = (ops, tokens);
            self.write();
        }
    }

    fn write(&mut self) {
        let request = Request::Write(self.storage.writing.0.clone());
        self.ask(Purpose::Write, request);
    }

    pub(super) fn written(&mut self, is: bool) {
        if !is {
            return self.write();
        }
        self.storage.busy = false;
        let (_, tokens) = mem::take(&mut self.storage.writing);
        self.storage.unleased.extend(tokens);
        if self.may_act() {
            self.complete_stored();
        }
    }

    /// Only what was seen to succeed under the lease is acknowledged.
    pub(super) fn complete_stored(&mut self) {
        let tokens = mem::take(&mut self.storage.unleased);
        self.complete(tokens);
    }

    pub(super) fn read_again(&mut self, worker: u16, slot: u32, stamp: u64) {
        let (session, from) = self.storage.reading.unwrap();
        self.ask(Purpose::Read { worker, slot, stamp }, Request::Read { session, from });
    }
}
