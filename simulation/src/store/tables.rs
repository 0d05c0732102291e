//! What stands in the store: its tables, and the changes that statements make of them.
//!
//! A table that is written plainly is [`Cells`]: the stamp of a change decides. The rows of incarnations and the
//! holders of sessions are written conditionally only, so they are plain maps.
//! Invariant: a change may be applied late, or again, and it changes nothing that a higher stamp has written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hydrant_engine::ports::{
    DeadId, DeadLetter, LogRecord, OutgoingStage, PreparedPublish, QueueEntry, SessionId,
    StoredWill,
};
use hydrant_protocol::cluster::message::PublishId;
use hydrant_protocol::{Message, PacketId, QoS};

use super::cells::Cells;

/// An incarnation of a store, as all see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Incarnation {
    pub(super) number: u64,
    pub(super) node: Arc<str>,
    /// What at most one living process has: its data directory.
    pub(super) instance: Arc<str>,
    pub(super) lease: Duration,
    /// Rises with each renewal; `None` once it has ended in order.
    pub(super) renewal: Option<u64>,
    /// Itself until it is sealed.
    pub(super) owner: u64,
    pub(super) lineage: u64,
    /// The highest stamp that it may have given.
    pub(super) stamps: u64,
}

impl Incarnation {
    pub(super) fn is_sealed(&self) -> bool {
        self.owner != self.number
    }
}

/// Who holds a client's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) id: SessionId,
    pub(super) epoch: u64,
    /// Rises with every change.
    pub(super) fence: u64,
    pub(super) lineage: u64,
}

/// A session's own row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) client_id: Arc<str>,
    pub(super) epoch: u64,
    pub(super) disconnected_ms: Option<u64>,
}

/// What counts of a queue that was taken from a dead incarnation: of what has a lower stamp, nothing above the
/// sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) stamp: u64,
    pub(super) sequence: u64,
}

/// How far an entry of a queue is; one that is not named waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryState {
    Outgoing(PacketId, OutgoingStage),
    Done,
}

/// The states of a bucket's entries. One cell: it is written whole.
pub(super) type States = BTreeMap<u64, EntryState>;

/// QoS of a subscription, and what it is owed.
pub(super) type Subscription = (QoS, Option<Arc<str>>);

/// Client id and connection of a will.
pub(super) type WillName = (Arc<str>, u64);

/// One statement. What is written plainly has its stamp.
#[derive(Debug, Clone)]
pub(super) enum Change {
    PutSession {
        id: SessionId,
        record: Record,
        stamp: u64,
    },
    DeleteSession {
        id: SessionId,
        stamp: u64,
    },
    PutReceipts {
        id: SessionId,
        receipts: BTreeSet<u16>,
        stamp: u64,
    },
    PutBase {
        id: SessionId,
        base: Base,
    },
    PutSubscription {
        id: SessionId,
        filter: Arc<str>,
        value: Subscription,
        stamp: u64,
    },
    DeleteSubscription {
        id: SessionId,
        filter: Arc<str>,
        stamp: u64,
    },
    DeleteSubscriptions {
        id: SessionId,
        stamp: u64,
    },
    PutQueued {
        id: SessionId,
        entries: Vec<QueueEntry>,
        stamp: u64,
    },
    /// Its entries.
    DeleteBucket {
        id: SessionId,
        sequences: (u64, u64),
        stamp: u64,
    },
    /// It stands in the queue's directory.
    MarkBucket {
        id: SessionId,
        bucket: u64,
        stamp: u64,
    },
    PutStates {
        id: SessionId,
        bucket: u64,
        states: States,
        stamp: u64,
    },
    UnmarkBuckets {
        id: SessionId,
        buckets: (u64, u64),
        stamp: u64,
    },
    PutRetained {
        message: Arc<Message>,
        version: u64,
    },
    DeleteRetained {
        topic: Arc<str>,
        version: u64,
    },
    PutWill {
        incarnation: u64,
        will: StoredWill,
        stamp: u64,
    },
    DeleteWill {
        incarnation: u64,
        name: WillName,
        stamp: u64,
    },
    PutOutbox {
        place: (u64, u16),
        first: u64,
        records: Vec<LogRecord>,
        stamp: u64,
    },
    DeleteOutbox {
        place: (u64, u16),
        positions: (u64, u64),
        stamp: u64,
    },
    MarkOutbox {
        place: (u64, u16),
        bucket: u64,
        stamp: u64,
    },
    UnmarkOutbox {
        place: (u64, u16),
        below: u64,
        stamp: u64,
    },
    MoveCursor {
        place: (u64, u16),
        position: u64,
    },
    DeleteCursors {
        incarnation: u64,
        stamp: u64,
    },
    PutLetter {
        incarnation: u64,
        letter: Arc<DeadLetter>,
        stamp: u64,
    },
    DeleteLetter {
        incarnation: u64,
        id: DeadId,
        stamp: u64,
    },
    PutBatch {
        batch: (u64, u64, u64),
        prepared: Vec<PublishId>,
        stamp: u64,
    },
    Except {
        batch: (u64, u64, u64),
        client_id: Arc<str>,
        stamp: u64,
    },
    Complete {
        batch: (u64, u64, u64),
        client_id: Arc<str>,
        stamp: u64,
    },
    ForgetBatches {
        incarnation: u64,
        origin: u64,
        below: u64,
        stamp: u64,
    },
    Prepare {
        publish: Box<PreparedPublish>,
        stamp: u64,
    },
    Committed {
        id: PublishId,
        stamp: u64,
    },
    ForgetPrepared {
        incarnation: u64,
        router: Option<u16>,
        below: u64,
        stamp: u64,
    },
    PutHeld {
        lineage: u64,
        id: SessionId,
        client_id: Arc<str>,
        moving: bool,
        stamp: u64,
    },
    DeleteHeld {
        lineage: u64,
        id: SessionId,
        stamp: u64,
    },
    PutJournal {
        incarnation: u64,
        slot: u8,
        entry: Vec<Change>,
        stamp: u64,
    },
    DeleteJournal {
        incarnation: u64,
        slot: u8,
        stamp: u64,
    },
    /// Its wills, dead letters, prepared publishes, and the batches of others that it had stored.
    DeleteSmall {
        incarnation: u64,
        stamp: u64,
    },
    /// Of a lineage of which nothing is left.
    DeleteIndex {
        lineage: u64,
        stamp: u64,
    },
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) number: u64,
    pub(super) incarnations: BTreeMap<u64, Incarnation>,
    pub(super) held: BTreeMap<Arc<str>, Held>,
    pub(super) index: Cells<(u64, SessionId), (Arc<str>, bool)>,
    pub(super) sessions: Cells<SessionId, Record>,
    pub(super) receipts: Cells<SessionId, BTreeSet<u16>>,
    pub(super) bases: Cells<SessionId, Base>,
    pub(super) subscriptions: Cells<(SessionId, Arc<str>), Subscription>,
    /// By sequence and stamp: two rows may hold one sequence.
    pub(super) queues: Cells<(SessionId, u64, u64), QueueEntry>,
    pub(super) buckets: Cells<(SessionId, u64), ()>,
    pub(super) states: Cells<(SessionId, u64), States>,
    pub(super) retained: Cells<Arc<str>, Arc<Message>>,
    pub(super) wills: Cells<(u64, Arc<str>, u64), StoredWill>,
    pub(super) outbox: Cells<(u64, u16, u64), LogRecord>,
    pub(super) outbox_buckets: Cells<(u64, u16, u64), ()>,
    pub(super) cursors: Cells<(u64, u16), u64>,
    pub(super) letters: Cells<(u64, DeadId), Arc<DeadLetter>>,
    /// Incarnation that stored it, incarnation it is of, number.
    pub(super) batches: Cells<(u64, u64, u64), Vec<PublishId>>,
    pub(super) exceptions: Cells<(u64, u64, u64, Arc<str>), ()>,
    pub(super) prepared: Cells<(u64, u16, u64), PreparedPublish>,
    pub(super) committed: Cells<(u64, u16, u64), ()>,
    pub(super) journal: Cells<(u64, u8), (u64, Vec<Change>)>,
}

fn name(id: PublishId) -> (u64, u16, u64) {
    (id.incarnation, id.router, id.number)
}

impl Tables {
    /// Does statements that are one mutation.
    pub(super) fn apply_all(&mut self, changes: impl IntoIterator<Item = Change>) {
        changes.into_iter().for_each(|change| self.apply(change));
    }

    /// Does a statement.
    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::PutSession { .. }
            | Change::DeleteSession { .. }
            | Change::PutReceipts { .. }
            | Change::PutBase { .. }
            | Change::PutSubscription { .. }
            | Change::DeleteSubscription { .. }
            | Change::DeleteSubscriptions { .. }
            | Change::PutHeld { .. }
            | Change::DeleteHeld { .. }
            | Change::DeleteIndex { .. } => self.apply_to_session(change),
            Change::PutQueued { .. }
            | Change::DeleteBucket { .. }
            | Change::MarkBucket { .. }
            | Change::PutStates { .. }
            | Change::UnmarkBuckets { .. } => self.apply_to_queue(change),
            Change::PutOutbox { .. }
            | Change::DeleteOutbox { .. }
            | Change::MarkOutbox { .. }
            | Change::UnmarkOutbox { .. }
            | Change::MoveCursor { .. }
            | Change::DeleteCursors { .. } => self.apply_to_outbox(change),
            Change::PutBatch { .. }
            | Change::Except { .. }
            | Change::Complete { .. }
            | Change::ForgetBatches { .. }
            | Change::Prepare { .. }
            | Change::Committed { .. }
            | Change::ForgetPrepared { .. } => self.apply_to_peers(change),
            Change::PutRetained { message, version } => {
                self.retained.put(Arc::clone(&message.topic), message, version);
            }
            Change::DeleteRetained { topic, version } => self.retained.delete(topic, version),
            Change::PutWill { incarnation, will, stamp } => {
                let key = (incarnation, Arc::clone(&will.client_id), will.connection);
                self.wills.put(key, will, stamp);
            }
            Change::DeleteWill { incarnation, name: (client_id, connection), stamp } => {
                self.wills.delete((incarnation, client_id, connection), stamp);
            }
            Change::PutLetter { incarnation, letter, stamp } => {
                self.letters.put((incarnation, letter.id), letter, stamp);
            }
            Change::DeleteLetter { incarnation, id, stamp } => {
                self.letters.delete((incarnation, id), stamp);
            }
            Change::PutJournal { incarnation, slot, entry, stamp } => {
                self.journal.put((incarnation, slot), (stamp, entry), stamp);
            }
            Change::DeleteJournal { incarnation, slot, stamp } => {
                self.journal.delete((incarnation, slot), stamp);
            }
            Change::DeleteSmall { incarnation: of, stamp } => {
                let none: Arc<str> = "".into();
                let wills = (of, Arc::clone(&none), 0)..(of + 1, Arc::clone(&none), 0);
                self.wills.delete_range(wills, stamp);
                self.letters
                    .delete_range((of, DeadId::default())..(of + 1, DeadId::default()), stamp);
                self.batches.delete_range((of, 0, 0)..(of + 1, 0, 0), stamp);
                let exceptions = (of, 0, 0, Arc::clone(&none))..(of + 1, 0, 0, none);
                self.exceptions.delete_range(exceptions, stamp);
                self.prepared.delete_range((of, 0, 0)..(of + 1, 0, 0), stamp);
                self.committed.delete_range((of, 0, 0)..(of + 1, 0, 0), stamp);
            }
        }
    }

    fn apply_to_session(&mut self, change: Change) {
        match change {
            Change::PutSession { id, record, stamp } => self.sessions.put(id, record, stamp),
            Change::DeleteSession { id, stamp } => {
                self.sessions.delete(id, stamp);
                self.receipts.delete(id, stamp);
                self.bases.delete(id, stamp);
            }
            Change::PutReceipts { id, receipts, stamp } => self.receipts.put(id, receipts, stamp),
            Change::PutBase { id, base } => self.bases.put(id, base, base.stamp),
            Change::PutSubscription { id, filter, value, stamp } => {
                self.subscriptions.put((id, filter), value, stamp);
            }
            Change::DeleteSubscription { id, filter, stamp } => {
                self.subscriptions.delete((id, filter), stamp);
            }
            Change::DeleteSubscriptions { id, stamp } => {
                let [from, to]: [Arc<str>; 2] = ["".into(), "".into()];
                self.subscriptions.delete_range((id, from)..(id.saturating_add(1), to), stamp);
            }
            Change::PutHeld { lineage, id, client_id, moving, stamp } => {
                self.index.put((lineage, id), (client_id, moving), stamp);
            }
            Change::DeleteHeld { lineage, id, stamp } => self.index.delete((lineage, id), stamp),
            Change::DeleteIndex { lineage, stamp } => {
                self.index.delete_range((lineage, 0)..(lineage + 1, 0), stamp);
            }
            _ => {}
        }
    }

    fn apply_to_queue(&mut self, change: Change) {
        match change {
            Change::PutQueued { id, entries, stamp } => {
                for entry in entries {
                    self.queues.put((id, entry.sequence, stamp), entry, stamp);
                }
            }
            Change::DeleteBucket { id, sequences: (from, to), stamp } => {
                self.queues.delete_range((id, from, 0)..(id, to, 0), stamp);
            }
            Change::MarkBucket { id, bucket, stamp } => self.buckets.put((id, bucket), (), stamp),
            Change::PutStates { id, bucket, states, stamp } => {
                self.buckets.put((id, bucket), (), stamp);
                self.states.put((id, bucket), states, stamp);
            }
            Change::UnmarkBuckets { id, buckets: (from, to), stamp } => {
                self.buckets.delete_range((id, from)..(id, to), stamp);
                self.states.delete_range((id, from)..(id, to), stamp);
            }
            _ => {}
        }
    }

    fn apply_to_outbox(&mut self, change: Change) {
        match change {
            Change::PutOutbox { place: (of, lane), first, records, stamp } => {
                for (position, record) in (first..).zip(records) {
                    self.outbox.put((of, lane, position), record, stamp);
                }
            }
            Change::DeleteOutbox { place: (of, lane), positions: (from, to), stamp } => {
                self.outbox.delete_range((of, lane, from)..(of, lane, to), stamp);
            }
            Change::MarkOutbox { place: (of, lane), bucket, stamp } => {
                self.outbox_buckets.put((of, lane, bucket), (), stamp);
            }
            Change::UnmarkOutbox { place: (of, lane), below, stamp } => {
                self.outbox_buckets.delete_range((of, lane, 0)..(of, lane, below), stamp);
            }
            Change::MoveCursor { place, position } => self.cursors.put(place, position, position),
            Change::DeleteCursors { incarnation: of, stamp } => {
                self.cursors.delete_range((of, 0)..(of + 1, 0), stamp);
            }
            _ => {}
        }
    }

    fn apply_to_peers(&mut self, change: Change) {
        match change {
            Change::PutBatch { batch, prepared, stamp } => {
                self.batches.put(batch, prepared, stamp);
            }
            Change::Except { batch: (of, origin, number), client_id, stamp } => {
                self.exceptions.put((of, origin, number, client_id), (), stamp);
            }
            Change::Complete { batch: (of, origin, number), client_id, stamp } => {
                self.exceptions.delete((of, origin, number, client_id), stamp);
            }
            Change::ForgetBatches { incarnation: of, origin, below, stamp } => {
                self.batches.delete_range((of, origin, 0)..(of, origin, below), stamp);
                let [from, to]: [Arc<str>; 2] = ["".into(), "".into()];
                self.exceptions.delete_range((of, origin, 0, from)..(of, origin, below, to), stamp);
            }
            Change::Prepare { publish, stamp } => {
                self.prepared.put(name(publish.id), *publish, stamp);
            }
            Change::Committed { id, stamp } => self.committed.put(name(id), (), stamp),
            Change::ForgetPrepared { incarnation: of, router, below, stamp } => {
                let gone = match router {
                    Some(router) => (of, router, 0)..(of, router, below),
                    None => (of, 0, 0)..(of + 1, 0, 0),
                };
                self.prepared.delete_range(gone.clone(), stamp);
                self.committed.delete_range(gone, stamp);
            }
            _ => {}
        }
    }
}
