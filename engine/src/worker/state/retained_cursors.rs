//! How far a session is with the retained messages of its new subscriptions.
//!
//! Bounds: a session has one cursor for each of its filters (`limits.max_subscriptions`).

use std::collections::VecDeque;
use std::sync::Arc;

use hydrant_protocol::QoS;
use hydrant_protocol::topic::{RetainedCursor, TopicFilter};

use crate::ports::{SessionId, SessionOp, StoreOp};

/// What a subscription is still to get.
#[derive(Debug)]
pub struct Owed {
    /// Tells it from another of the same filter, before or after it.
    pub number: u32,
    pub cursor: RetainedCursor,
    pub granted: QoS,
    /// Its SUBACK is not sent.
    pub held: bool,
    /// By an earlier node or start, which may know of newer messages than this one does.
    pub found: bool,
    /// What the subscription's row says, where it says that something is owed.
    pub row: Option<Arc<str>>,
    /// The store has what was handed out up to here.
    pub stored: Arc<str>,
    /// Steps whose queue entries it does not have yet.
    pub storing: u32,
}

/// The cursors of a session, in the order of its SUBSCRIBEs.
#[derive(Debug, Default)]
pub struct Cursors(pub VecDeque<Owed>);

impl Cursors {
    /// A filter is subscribed to. What it had begun before begins anew ([MQTT-3.8.4-3]).
    pub fn begin(&mut self, number: u32, filter: TopicFilter, granted: QoS, owes: bool) {
        self.end(&filter);
        let (cursor, stored) = (RetainedCursor::new(filter), Arc::default());
        let row = owes.then(|| Arc::clone(&stored));
        let (held, found, storing) = (true, false, 0);
        self.0.push_back(Owed { number, cursor, granted, held, found, row, stored, storing });
    }

    /// The SUBACK of these is sent.
    pub fn release(&mut self, numbers: &[u32]) {
        self.0.iter_mut().filter(|owed| numbers.contains(&owed.number)).for_each(|owed| {
            owed.held = false;
        });
    }

    /// UNSUBSCRIBE of a filter.
    pub fn end(&mut self, filter: &TopicFilter) {
        self.0.retain(|owed| owed.cursor.filter() != filter);
    }

    /// Its connection ends: rows that are to be written. What waited for its SUBACK goes on at the next one.
    pub fn leave(&mut self, id: SessionId) -> Vec<StoreOp> {
        let mut ops = Vec::new();
        for owed in &mut self.0 {
            owed.held = false;
            if owed.row.as_ref().is_some_and(|row| *row != owed.stored) {
                owed.row = Some(Arc::clone(&owed.stored));
                ops.push(owed.put(id));
            }
        }
        ops
    }

    /// The one whose turn it is. `is_behind`: older messages may still come than those that are retained here.
    pub fn first(&self, is_behind: bool) -> Option<usize> {
        let waits = |owed: &Owed| owed.held || owed.found && is_behind;
        self.0.iter().position(|owed| !waits(owed) && !owed.cursor.is_done())
    }

    /// The next one has to wait for the window.
    pub fn needs_window(&self) -> bool {
        self.first(false).is_some_and(|first| self.0[first].granted != QoS::AtMostOnce)
    }

    /// All that one has handed out is stored. At its end it is owed nothing: the row that says so.
    pub fn is_stored(&mut self, at: usize, id: Option<SessionId>) -> Option<StoreOp> {
        let owed = self.0.get_mut(at).filter(|owed| owed.storing == 0)?;
        if !owed.cursor.is_done() {
            if owed.row.is_some() {
                owed.stored = owed.cursor.position()?;
            }
            return None;
        }
        let mut owed = self.0.remove(at)?;
        owed.row.take()?;
        Some(owed.put(id?))
    }
}

impl Owed {
    fn put(&self, id: SessionId) -> StoreOp {
        let filter = Arc::clone(self.cursor.filter().arc());
        StoreOp::Session(SessionOp::PutSubscription {
            id,
            filter,
            qos: self.granted,
            owes: self.row.clone(),
        })
    }
}
