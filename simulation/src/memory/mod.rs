//! The store that the nodes share: what is kept, who holds it, and who may write.
//!
//! A write is applied whole or not at all. What goes wrong between a node and the store (late, lost, applied and not
//! answered) is the world's doing. The stand-in for `store`: it has one version of each row.
//!
//! Invariant: a write of an incarnation that is sealed changes nothing.

mod apply;
mod handle;
mod take_over;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hydrant_engine::plants::{self, Plant};
use hydrant_engine::ports::{
    DeadId, DeadLetter, Holder, KnownIncarnation, LaneState, LogRecord, OrphanedState,
    OutboxPosition, PreparedPublish, QueueEntry, SessionId, StoreError, StoreOp, StoredBatch,
    StoredSession, StoredSubscription, StoredWill,
};
use hydrant_protocol::Message;
use hydrant_protocol::cluster::message::PublishId;
use hydrant_protocol::session::RangeSet;

pub use handle::Handle;

/// A session.
#[derive(Debug, Clone)]
struct Kept {
    client_id: Arc<str>,
    epoch: u64,
    disconnected_ms: Option<u64>,
    holder: u64,
    /// Under which its holder has it; a seal does not change it.
    lineage: u64,
    /// How often it was taken.
    taken: u64,
    subscriptions: BTreeMap<Arc<str>, StoredSubscription>,
    receipts: BTreeSet<u16>,
    queue: BTreeMap<u64, QueueEntry>,
    last: u64,
}

/// One start of a node.
#[derive(Debug, Clone)]
struct Start {
    node: Arc<str>,
    lineage: u64,
    /// It ended in order.
    released: bool,
    /// When its lease ends at the latest, by the world's clock.
    lease: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Store {
    sessions: BTreeMap<SessionId, Kept>,
    retained: BTreeMap<Arc<str>, (Option<Arc<Message>>, u64)>,
    /// By the connection that left it, with the incarnation that may end it.
    wills: BTreeMap<u64, (u64, StoredWill)>,
    /// Batches of other nodes, by the incarnation that has stored them.
    batches: BTreeMap<u64, BTreeMap<(u64, u64), StoredBatch>>,
    prepared: BTreeMap<PublishId, PreparedPublish>,
    starts: BTreeMap<u64, Start>,
    /// By whom.
    sealed: BTreeMap<u64, u64>,
    /// The outbox, by its incarnation and lane.
    outbox: BTreeMap<(u64, u16), Lane>,
    letters: BTreeMap<DeadId, Arc<DeadLetter>>,
    last: u64,
    /// Somebody has written what is not his.
    pub violation: Option<String>,
}

#[derive(Debug, Clone, Default)]
struct Lane {
    cursor: u64,
    end: u64,
    records: BTreeMap<u64, LogRecord>,
}

/// What a start finds.
#[derive(Debug, Default)]
pub struct Begun {
    /// Its number.
    pub incarnation: u64,
    /// Its lineage.
    pub lineage: u64,
    /// What it goes on with.
    pub continued: OrphanedState,
}

fn found(id: SessionId, kept: &Kept) -> StoredSession {
    StoredSession {
        id,
        client_id: Arc::clone(&kept.client_id),
        epoch: kept.epoch,
        disconnected_ms: kept.disconnected_ms,
        subscriptions: kept.subscriptions.values().cloned().collect(),
        receipts: kept.receipts.iter().filter_map(|id| (*id).try_into().ok()).collect(),
        queued: kept.queue.len() as u64,
        queued_bytes: kept.queue.values().map(|entry| entry.message.cost() as u64).sum(),
        last_sequence: kept.last,
        left: kept.queue.keys().fold(RangeSet::default(), |mut left, &sequence| {
            left.push(sequence..sequence + 1);
            left
        }),
    }
}

fn sealed() -> StoreError {
    StoreError::Unavailable("sealed".to_owned())
}

impl Store {
    /// A write of an incarnation.
    ///
    /// # Errors
    /// It is sealed.
    pub fn write(&mut self, me: u64, ops: &[StoreOp]) -> Result<(), StoreError> {
        if self.is_sealed(me) && !plants::is(Plant::NoFencing) {
            return Err(sealed());
        }
        ops.iter().for_each(|op| self.apply(me, op.clone()));
        Ok(())
    }

    /// A page of a queue.
    pub fn read_queue(&self, id: SessionId, from: u64, limit: usize) -> Vec<QueueEntry> {
        let queue = self.sessions.get(&id).map(|kept| &kept.queue);
        let page = queue.into_iter().flat_map(|queue| queue.range(from..)).take(limit);
        page.map(|(_, entry)| entry.clone()).collect()
    }

    /// A page of the outbox.
    pub fn read_outbox(&self, me: u64, lane: u16, from: u64, limit: usize) -> Vec<LogRecord> {
        let records = self.outbox.get(&(me, lane)).map(|lane| &lane.records);
        let page = records.into_iter().flat_map(|records| records.range(from..)).take(limit);
        // Where it stands now: a lane that was taken over has another number.
        page.map(|(&position, record)| {
            let outbox = Some(OutboxPosition { lane, position });
            LogRecord { outbox, ..record.clone() }
        })
        .collect()
    }

    /// Dead letters.
    pub fn dead_letters(&self, from: DeadId, limit: usize) -> Vec<DeadLetter> {
        self.letters.range(from..).take(limit).map(|(_, letter)| (**letter).clone()).collect()
    }

    /// The lanes of an incarnation.
    pub fn lanes(&self, me: u64) -> Vec<LaneState> {
        let its = self.outbox.range((me, 0)..=(me, u16::MAX));
        its.map(|(&(_, lane), kept)| LaneState {
            lane,
            cursor: kept.cursor,
            end: kept.end,
            bytes: kept.records.values().map(|record| record.cost() as u64).sum(),
        })
        .collect()
    }

    /// The sessions of an incarnation.
    pub fn sessions_of(&self, me: u64) -> Vec<StoredSession> {
        let its = self.sessions.iter().filter(|(_, kept)| kept.holder == me);
        its.map(|(id, kept)| found(*id, kept)).collect()
    }

    /// All retained messages.
    pub fn retained(&self) -> Vec<(Arc<Message>, u64)> {
        let kept = self.retained.values();
        kept.filter_map(|(message, version)| Some((message.clone()?, *version))).collect()
    }

    /// Who holds a client's session.
    pub fn locate(&self, client: &str) -> Option<Holder> {
        let (id, kept) = self.sessions.iter().find(|(_, kept)| *kept.client_id == *client)?;
        Some(Holder { id: *id, incarnation: kept.holder })
    }

    /// Everything that another incarnation has to know of the others.
    pub fn incarnations(&self, me: u64) -> Vec<KnownIncarnation> {
        let others = self.starts.iter().filter(|(number, _)| **number != me);
        others
            .map(|(number, start)| KnownIncarnation {
                number: *number,
                node: Arc::clone(&start.node),
                lineage: start.lineage,
                owner: self.owner(*number),
                released: start.released,
                lease: crate::settings::LEASE,
            })
            .collect()
    }

    /// What the sessions of a lineage want.
    pub fn wanted(&self, lineage: u64) -> Vec<Arc<str>> {
        let its = self.sessions.values().filter(|kept| kept.lineage == lineage);
        let filters = its.flat_map(|kept| kept.subscriptions.values());
        let wanted = filters.filter(|it| it.qos != hydrant_protocol::QoS::AtMostOnce);
        let wanted: BTreeSet<_> = wanted.map(|it| Arc::clone(&it.filter)).collect();
        wanted.into_iter().collect()
    }

    /// Entries that wait for a client.
    pub fn queued(&self, client: &str) -> usize {
        let its = self.sessions.values().filter(|kept| *kept.client_id == *client);
        its.map(|kept| kept.queue.len()).sum()
    }

    /// The incarnation that has a client's session, or its successor.
    pub fn holder(&self, client: &str) -> Option<u64> {
        self.locate(client).map(|holder| self.owner(holder.incarnation))
    }

    /// Wills that are neither discarded nor everywhere.
    pub fn wills_left(&self) -> usize {
        self.wills.len()
    }

    /// The end of an incarnation's chain of owners.
    pub fn owner(&self, mut incarnation: u64) -> u64 {
        while let Some(by) = self.sealed.get(&incarnation) {
            incarnation = *by;
        }
        incarnation
    }

    /// Somebody else has what it held.
    pub fn is_sealed(&self, incarnation: u64) -> bool {
        self.sealed.contains_key(&incarnation)
    }
}
