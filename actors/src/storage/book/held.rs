//! What the requests that are held back would write, so that none of them undoes what was written
//! meanwhile and no page of a queue is read around them.
//!
//! Invariants: each request is held once, and what it holds is gone from here when it is let go.
//! An operation that something newer has made untrue is dropped then: an entry that was delivered,
//! a retained message or a will that has been replaced or removed, anything of a session that
//! ended.
//! Bounds: at most one row for each operation that is held back, whose bytes count
//! ([`Held::bytes`]); what is written meanwhile and bears on none of them is not noted.

use std::collections::HashMap;
use std::sync::Arc;

use super::request::{Request, cost};
use crate::ports::{SessionId, StoreOp};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Held {
    requests: usize,
    bytes: usize,
    /// Queue entries; true: the subscriber has it already.
    entries: HashMap<(SessionId, u64), bool>,
    sessions: HashMap<SessionId, Session>,
    /// By topic.
    retained: HashMap<Arc<str>, Row>,
    /// By client id.
    wills: HashMap<Arc<str>, Row>,
}

/// What is held back of one session.
#[derive(Debug, Default)]
struct Session {
    /// Operations.
    ops: usize,
    /// Those that add an entry to its queue.
    entries: usize,
    /// It was removed meanwhile. Its number is not given again, so all that is held is older.
    ended: bool,
}

/// What is held back of one topic or client.
#[derive(Debug, Default)]
struct Row {
    /// Operations.
    ops: usize,
    /// Number of the newest request with such an operation that was written meanwhile.
    newest: u64,
}

/// What an operation bears on.
enum Subject<'a> {
    Session(SessionId),
    Retained(&'a Arc<str>),
    Will(&'a Arc<str>),
    Nothing,
}

fn subject(op: &StoreOp) -> Subject<'_> {
    match op {
        StoreOp::PutSession { id, .. }
        | StoreOp::PutSubscription { id, .. }
        | StoreOp::DeleteSubscription { id, .. }
        | StoreOp::PutQueued { id, .. }
        | StoreOp::PutOutgoing { id, .. }
        | StoreOp::DeleteQueued { id, .. }
        | StoreOp::PutReceipt { id, .. }
        | StoreOp::DeleteReceipt { id, .. } => Subject::Session(*id),
        StoreOp::PutRetained { message } => Subject::Retained(&message.topic),
        StoreOp::DeleteRetained { topic } => Subject::Retained(topic),
        StoreOp::PutWill { will } => Subject::Will(&will.client_id),
        StoreOp::DeleteWill { client_id } => Subject::Will(client_id),
        // The end of a session stays true.
        StoreOp::DeleteSession { .. } | StoreOp::PutOutbox { .. } | StoreOp::MoveCursor { .. } => {
            Subject::Nothing
        }
    }
}

/// One operation less; the number of the newest that was written meanwhile.
fn leave(rows: &mut HashMap<Arc<str>, Row>, key: &Arc<str>) -> u64 {
    let Some(row) = rows.get_mut(key) else { return 0 };
    let newest = row.newest;
    row.ops -= 1;
    if row.ops == 0 {
        rows.remove(key);
    }
    newest
}

impl Held {
    /// Bytes of all that is held back.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Entries of this session's queue are held back.
    pub(super) fn has_entries(&self, id: SessionId) -> bool {
        self.sessions.get(&id).is_some_and(|session| session.entries > 0)
    }

    /// Rows of all kinds.
    #[cfg(test)]
    pub(super) fn rows(&self) -> usize {
        self.entries.len() + self.sessions.len() + self.retained.len() + self.wills.len()
    }

    /// The request is held back from now on.
    pub(super) fn hold(&mut self, request: &mut Request) {
        request.bytes = cost(&request.ops);
        self.bytes += request.bytes;
        self.requests += 1;
        for op in &request.ops {
            match subject(op) {
                Subject::Session(id) => {
                    let session = self.sessions.entry(id).or_default();
                    session.ops += 1;
                    if let StoreOp::PutQueued { entry, .. } = op {
                        session.entries += 1;
                        self.entries.insert((id, entry.sequence), false);
                    }
                }
                Subject::Retained(topic) => {
                    self.retained.entry(Arc::clone(topic)).or_default().ops += 1;
                }
                Subject::Will(client) => {
                    self.wills.entry(Arc::clone(client)).or_default().ops += 1;
                }
                Subject::Nothing => {}
            }
        }
    }

    /// The request is held back no longer: without what is no longer true.
    pub(super) fn let_go(&mut self, request: &mut Request) {
        self.bytes -= request.bytes;
        self.requests -= 1;
        let number = request.number;
        request.ops.retain(|op| match subject(op) {
            Subject::Session(id) => self.let_go_of_session(id, op),
            Subject::Retained(topic) => leave(&mut self.retained, topic) < number,
            Subject::Will(client) => leave(&mut self.wills, client) < number,
            Subject::Nothing => true,
        });
    }

    fn let_go_of_session(&mut self, id: SessionId, op: &StoreOp) -> bool {
        let mut untrue = false;
        if let StoreOp::PutQueued { entry, .. } = op {
            untrue = self.entries.remove(&(id, entry.sequence)) == Some(true);
        }
        if let Some(session) = self.sessions.get_mut(&id) {
            untrue |= session.ended;
            session.ops -= 1;
            session.entries -= usize::from(matches!(op, StoreOp::PutQueued { .. }));
            if session.ops == 0 {
                self.sessions.remove(&id);
            }
        }
        !untrue
    }

    /// What these operations, of request `number`, do to those that are held back: they are written
    /// before them.
    pub(super) fn written_before(&mut self, ops: &[StoreOp], number: u64) {
        if self.requests == 0 {
            return;
        }
        for op in ops {
            match op {
                StoreOp::DeleteQueued { id, sequence } => {
                    if let Some(gone) = self.entries.get_mut(&(*id, *sequence)) {
                        *gone = true;
                    }
                }
                StoreOp::DeleteSession { id, .. } => {
                    if let Some(session) = self.sessions.get_mut(id) {
                        session.ended = true;
                    }
                }
                _ => {}
            }
            let row = match subject(op) {
                Subject::Retained(topic) => self.retained.get_mut(topic),
                Subject::Will(client) => self.wills.get_mut(client),
                Subject::Session(_) | Subject::Nothing => None,
            };
            if let Some(row) = row {
                row.newest = row.newest.max(number);
            }
        }
    }
}
