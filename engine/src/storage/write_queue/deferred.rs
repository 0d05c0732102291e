//! What the requests that are held back would write, so that none of them undoes what was written
//! meanwhile and no page of a queue is read around them.
//!
//! Invariants: each request is held once, and what it holds is gone from here when it is let go.
//! An operation that something newer has made untrue is dropped then: an entry that was delivered,
//! a retained message or a will that has been replaced or removed, anything of a session that
//! ended.
//! Bounds: at most one row for each operation that is held back, whose bytes count
//! ([`DeferredWrites::bytes`]); what is written meanwhile and bears on none of them is not noted.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use hydrant_protocol::PacketId;

use super::request::{Request, cost};
use crate::ports::{OutgoingStage, SessionId, SessionOp, StoreOp};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct DeferredWrites {
    requests: usize,
    bytes: usize,
    /// Queue entries.
    entries: BTreeMap<(SessionId, u64), Entry>,
    sessions: HashMap<SessionId, Session>,
    /// By topic.
    retained: HashMap<Arc<str>, Row>,
    /// By client id and connection.
    wills: HashMap<(Arc<str>, u64), Row>,
}

/// What was written meanwhile about an entry that is held back.
#[derive(Debug, Default)]
struct Entry {
    /// The subscriber has it already.
    gone: bool,
    /// It is in flight.
    outgoing: Option<(PacketId, OutgoingStage)>,
}

/// What is held back of one session.
#[derive(Debug, Default)]
struct Session {
    /// Operations.
    ops: usize,
    /// It was removed meanwhile. Its number is not given again, so all that is held is older.
    ended: bool,
}

/// What is held back of one topic or one connection's will.
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
    Will((Arc<str>, u64)),
    Nothing,
}

fn subject(op: &StoreOp) -> Subject<'_> {
    match op {
        // The end of a session stays true.
        StoreOp::Session(SessionOp::DeleteSession { .. }) => Subject::Nothing,
        StoreOp::PutRetained { message, .. } => Subject::Retained(&message.topic),
        StoreOp::DeleteRetained { topic, .. } => Subject::Retained(topic),
        StoreOp::PutWill { will } => Subject::Will((Arc::clone(&will.client_id), will.connection)),
        StoreOp::DeleteWill { client_id, connection } => {
            Subject::Will((Arc::clone(client_id), *connection))
        }
        _ => op.session().map_or(Subject::Nothing, Subject::Session),
    }
}

/// One operation less; the number of the newest that was written meanwhile.
fn leave<K: Eq + Hash>(rows: &mut HashMap<K, Row>, key: &K) -> u64 {
    let Some(row) = rows.get_mut(key) else { return 0 };
    let newest = row.newest;
    row.ops -= 1;
    if row.ops == 0 {
        rows.remove(key);
    }
    newest
}

impl DeferredWrites {
    /// Bytes of all that is held back.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Entries of this session's queue with a sequence below `until` are held back.
    pub(super) fn has_entries(&self, id: SessionId, until: u64) -> bool {
        self.entries.range((id, 0)..(id, until)).next().is_some()
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
                    if let StoreOp::Session(SessionOp::PutQueued { entry, .. }) = op {
                        self.entries.insert((id, entry.sequence), Entry::default());
                    }
                }
                Subject::Retained(topic) => {
                    self.retained.entry(Arc::clone(topic)).or_default().ops += 1;
                }
                Subject::Will(place) => self.wills.entry(place).or_default().ops += 1,
                Subject::Nothing => {}
            }
        }
    }

    /// The request is held back no longer: without what is no longer true.
    pub(super) fn let_go(&mut self, request: &mut Request) {
        self.bytes -= request.bytes;
        self.requests -= 1;
        let number = request.number;
        request.ops.retain_mut(|op| match subject(op) {
            Subject::Session(id) => self.let_go_of_session(id, op),
            Subject::Retained(topic) => leave(&mut self.retained, topic) < number,
            Subject::Will(place) => leave(&mut self.wills, &place) < number,
            Subject::Nothing => true,
        });
    }

    fn let_go_of_session(&mut self, id: SessionId, op: &mut StoreOp) -> bool {
        let mut untrue = false;
        if let StoreOp::Session(SessionOp::PutQueued { entry, .. }) = op
            && let Some(held) = self.entries.remove(&(id, entry.sequence))
        {
            untrue = held.gone;
            entry.outgoing = held.outgoing.or(entry.outgoing);
        }
        if let Some(session) = self.sessions.get_mut(&id) {
            untrue |= session.ended;
            session.ops -= 1;
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
                StoreOp::Session(SessionOp::DeleteQueued { id, sequence }) => {
                    if let Some(entry) = self.entries.get_mut(&(*id, *sequence)) {
                        entry.gone = true;
                    }
                }
                StoreOp::Session(SessionOp::PutOutgoing { id, sequence, packet_id, stage }) => {
                    if let Some(entry) = self.entries.get_mut(&(*id, *sequence)) {
                        entry.outgoing = Some((*packet_id, *stage));
                    }
                }
                StoreOp::Session(SessionOp::DeleteSession { id, .. }) => {
                    if let Some(session) = self.sessions.get_mut(id) {
                        session.ended = true;
                    }
                }
                _ => {}
            }
            let row = match subject(op) {
                Subject::Retained(topic) => self.retained.get_mut(topic),
                Subject::Will(place) => self.wills.get_mut(&place),
                Subject::Session(_) | Subject::Nothing => None,
            };
            if let Some(row) = row {
                row.newest = row.newest.max(number);
            }
        }
    }
}
