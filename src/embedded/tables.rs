//! The session store's keyspaces: how an operation becomes rows, and how rows are read back.
//!
//! Keys: see `keys`.
//!
//! A deleted session's record, subscriptions and receipts go in one batch, of its queue the first
//! [`CHUNK`] entries; the rest is garbage: read as empty at once, removed by [`Engine::sweep`], and
//! found again by [`Engine::sessions`] after a crash.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

use fjall::{Iter, Keyspace, UserKey, UserValue};
use hydrant_actors::ports::{
    LogOp, OutgoingStage, QueueEntry, SessionId, SessionOp, StoreError, StoreOp, StoredSession,
    StoredWill,
};
use hydrant_protocol::session::RangeSet;
use hydrant_protocol::{Message, PacketId};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::OpenError;
use super::database::{Guarded, open, open_error, store_error};
use super::keys::{
    outgoing_value, queue_key, queue_place, receipt_key, subscription_key, will_key, will_place,
};
use super::outbox::{Changes, Outbox};
use super::row::Row;
use super::store_options::StoreOptions;
use crate::rows::{self, damaged, number_at};

/// Rows removed at once of what one deleted session leaves.
pub(super) const CHUNK: usize = 1000;

#[derive(Serialize, Deserialize)]
struct SessionRow {
    client_id: String,
    epoch: u64,
    disconnected_ms: Option<u64>,
}

/// The open store.
pub(super) struct Engine {
    pub(super) db: Guarded,
    sessions: Keyspace,
    subscriptions: Keyspace,
    receipts: Keyspace,
    queue: Keyspace,
    outgoing: Keyspace,
    retained: Keyspace,
    wills: Keyspace,
    pub(super) dead_letters: Keyspace,
    pub(super) outbox: Outbox,
    /// Keys in `outgoing`, so that a QoS 1 entry's removal costs one row and not two.
    outgoing_keys: Mutex<HashSet<(SessionId, u64)>>,
    garbage: Mutex<BTreeSet<SessionId>>,
}

/// What was committed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Committed {
    pub(super) ops: usize,
    pub(super) rows: usize,
    pub(super) bytes: u64,
}

impl Engine {
    pub(super) fn open(dir: &Path, node: &str, options: &StoreOptions) -> Result<Self, OpenError> {
        let db = open(dir, "store", node, options.cache_size, options.journal_max_size)?;
        let table = |name, memtable| db.keyspace(name, memtable).map_err(|e| open_error(dir, e));
        let store_open = |error| OpenError::reading(dir, error);
        let outgoing = table("outgoing", 4 << 20)?;
        let mut outgoing_keys = HashSet::new();
        for guard in outgoing.iter() {
            let key = guard.key().map_err(|e| open_error(dir, e))?;
            outgoing_keys.insert(queue_place(&key).map_err(store_open)?);
        }
        let outbox = Outbox::open(&db, options.bucket_entries).map_err(store_open)?;
        Ok(Self {
            sessions: table("sessions", 4 << 20)?,
            subscriptions: table("subscriptions", 4 << 20)?,
            receipts: table("receipts", 4 << 20)?,
            queue: table("queue", 16 << 20)?,
            outgoing,
            retained: table("retained", 8 << 20)?,
            wills: table("wills", 4 << 20)?,
            dead_letters: table("dead_letters", 8 << 20)?,
            outbox,
            outgoing_keys: Mutex::new(outgoing_keys),
            garbage: Mutex::new(BTreeSet::new()),
            db,
        })
    }

    /// Commits the operations of several writes as one batch. After an error this engine is not
    /// to be used any more: what it holds in memory may be ahead of the disk.
    pub(super) fn commit<'a>(
        &self,
        writes: impl Iterator<Item = &'a [StoreOp]>,
        sync: super::SyncPolicy,
    ) -> Result<Committed, StoreError> {
        let mut rows = Vec::new();
        let mut changes = Changes::default();
        let mut committed = Committed::default();
        for op in writes.flatten() {
            committed.ops += 1;
            self.apply(op, &mut rows, &mut changes)?;
        }
        self.outbox.finish(&self.db, &mut changes, &mut rows);
        committed.rows = rows.len();
        committed.bytes = self.write(rows, sync)?;
        self.outbox.committed(&self.db, changes);
        Ok(committed)
    }

    fn write(&self, rows: Vec<Row>, sync: super::SyncPolicy) -> Result<u64, StoreError> {
        let mut batch = self.db.batch(rows.len());
        let mut bytes = 0;
        for row in rows {
            bytes += (row.key.len() + row.value.as_ref().map_or(0, |v| v.len()) + 40) as u64;
            match row.value {
                Some(value) => batch.insert(&row.keyspace, row.key, value),
                None => batch.remove(&row.keyspace, row.key),
            }
        }
        let touched = [
            &self.sessions,
            &self.subscriptions,
            &self.receipts,
            &self.queue,
            &self.outgoing,
            &self.retained,
            &self.wills,
            &self.dead_letters,
        ];
        self.db.commit(batch, sync, bytes, touched.into_iter()).map_err(store_error)?;
        Ok(bytes)
    }

    fn apply(
        &self,
        op: &StoreOp,
        rows: &mut Vec<Row>,
        changes: &mut Changes,
    ) -> Result<(), StoreError> {
        match op {
            StoreOp::Session(op) => self.apply_session(op, rows)?,
            StoreOp::Log(op) => self.apply_log(op, rows, changes)?,
            // A node that has its store for itself has no successor.
            StoreOp::Cluster(_) => {}
            StoreOp::PutRetained { message, .. } => {
                let value =
                    rows::encode_message(message, message.qos, message.retain).map_err(damaged)?;
                rows.push(Row::put(&self.retained, message.topic.as_bytes().into(), value.into()));
            }
            StoreOp::DeleteRetained { topic, .. } => {
                rows.push(Row::remove(&self.retained, topic.as_bytes().into()));
            }
            StoreOp::PutWill { will: StoredWill { client_id, connection, message } } => {
                let value =
                    rows::encode_message(message, message.qos, message.retain).map_err(damaged)?;
                let key = will_key(client_id, *connection);
                rows.push(Row::put(&self.wills, key, value.into()));
            }
            StoreOp::DeleteWill { client_id, connection } => {
                rows.push(Row::remove(&self.wills, will_key(client_id, *connection)));
            }
        }
        Ok(())
    }

    fn apply_session(&self, op: &SessionOp, rows: &mut Vec<Row>) -> Result<(), StoreError> {
        match op {
            SessionOp::PutSession { id, client_id, epoch, disconnected_ms } => {
                let row = SessionRow {
                    client_id: client_id.to_string(),
                    epoch: *epoch,
                    disconnected_ms: *disconnected_ms,
                };
                let value = rows::encode(&row).map_err(damaged)?;
                rows.push(Row::put(&self.sessions, id.to_be_bytes().into(), value.into()));
            }
            SessionOp::DeleteSession { id, client_id: _ } => self.delete_session(*id, rows)?,
            SessionOp::PutSubscription { id, filter, qos, owes } => {
                let value =
                    rows::encode_subscription(*qos, filter, owes.as_deref()).map_err(damaged)?;
                rows.push(Row::put(
                    &self.subscriptions,
                    subscription_key(*id, filter),
                    value.into(),
                ));
            }
            SessionOp::DeleteSubscription { id, filter } => {
                rows.push(Row::remove(&self.subscriptions, subscription_key(*id, filter)));
            }
            SessionOp::PutQueued { id, entry } => {
                let value = rows::encode_message(&entry.message, entry.qos, entry.retain)
                    .map_err(damaged)?;
                rows.push(Row::put(&self.queue, queue_key(*id, entry.sequence), value.into()));
                if let Some((packet_id, stage)) = entry.outgoing {
                    self.put_outgoing(*id, entry.sequence, packet_id, stage, rows);
                }
            }
            SessionOp::PutOutgoing { id, sequence, packet_id, stage } => {
                self.put_outgoing(*id, *sequence, *packet_id, *stage, rows);
            }
            SessionOp::DeleteQueued { id, sequence } => {
                rows.push(Row::remove(&self.queue, queue_key(*id, *sequence)));
                if self.outgoing_keys.lock().remove(&(*id, *sequence)) {
                    rows.push(Row::remove(&self.outgoing, queue_key(*id, *sequence)));
                }
            }
            SessionOp::PutReceipt { id, packet_id } => {
                rows.push(Row::put(&self.receipts, receipt_key(*id, *packet_id), [1].into()));
            }
            SessionOp::DeleteReceipt { id, packet_id } => {
                rows.push(Row::remove(&self.receipts, receipt_key(*id, *packet_id)));
            }
        }
        Ok(())
    }

    fn apply_log(
        &self,
        op: &LogOp,
        rows: &mut Vec<Row>,
        changes: &mut Changes,
    ) -> Result<(), StoreError> {
        match op {
            LogOp::PutOutbox { record, position } => {
                self.outbox.put(
                    &self.db,
                    changes,
                    rows,
                    record,
                    (position.lane, position.position),
                )?;
            }
            LogOp::MoveCursor { lane, position } => {
                self.outbox.move_cursor(changes, *lane, *position)
            }
            LogOp::PutDeadLetter { letter } => self.put_dead_letter(letter, rows)?,
            LogOp::DropDeadLetter { id } => self.drop_dead_letter(*id, rows),
        }
        Ok(())
    }

    fn put_outgoing(
        &self,
        id: SessionId,
        sequence: u64,
        packet: PacketId,
        stage: OutgoingStage,
        rows: &mut Vec<Row>,
    ) {
        let [high, low] = packet.get().to_be_bytes();
        let value = [1, u8::from(stage == OutgoingStage::Release), high, low];
        self.outgoing_keys.lock().insert((id, sequence));
        rows.push(Row::put(&self.outgoing, queue_key(id, sequence), value.into()));
    }

    fn delete_session(&self, id: SessionId, rows: &mut Vec<Row>) -> Result<(), StoreError> {
        let prefix = id.to_be_bytes();
        let of_session =
            [&self.sessions, &self.subscriptions, &self.receipts, &self.queue, &self.outgoing];
        for row in rows.iter_mut() {
            if row.key.starts_with(&prefix) && of_session.contains(&&row.keyspace) {
                row.value = None;
            }
        }
        rows.push(Row::remove(&self.sessions, prefix.into()));
        self.outgoing_keys.lock().retain(|(owner, _)| *owner != id);
        for (keyspace, most) in [
            (&self.subscriptions, usize::MAX),
            (&self.receipts, usize::MAX),
            (&self.outgoing, CHUNK),
            (&self.queue, CHUNK),
        ] {
            for (removed, guard) in keyspace.prefix(prefix).enumerate() {
                if removed == most {
                    self.garbage.lock().insert(id);
                    break;
                }
                rows.push(Row::remove(keyspace, guard.key().map_err(store_error)?));
            }
        }
        Ok(())
    }

    /// Removes the next [`CHUNK`] rows that a deleted session left; false when there are none.
    pub(super) fn sweep(&self) -> Result<bool, StoreError> {
        let Some(id) = self.garbage.lock().first().copied() else {
            return Ok(false);
        };
        let mut rows = Vec::new();
        for keyspace in [&self.queue, &self.outgoing] {
            for guard in keyspace.prefix(id.to_be_bytes()).take(CHUNK - rows.len()) {
                rows.push(Row::remove(keyspace, guard.key().map_err(store_error)?));
            }
        }
        if rows.is_empty() {
            self.garbage.lock().remove(&id);
        } else {
            self.write(rows, super::SyncPolicy::Never)?;
        }
        Ok(true)
    }

    /// Every session; queues without one become garbage.
    pub(super) fn sessions(&self) -> Result<Vec<StoredSession>, StoreError> {
        let mut subscriptions = Scan::new(&self.subscriptions)?;
        let mut receipts = Scan::new(&self.receipts)?;
        let mut queue = Scan::new(&self.queue)?;
        let mut outgoing = Scan::new(&self.outgoing)?;
        let mut found = Vec::new();
        let mut orphans = BTreeSet::new();
        for guard in self.sessions.iter() {
            let (key, value) = guard.into_inner().map_err(store_error)?;
            let id = number_at(&key, 0).map_err(damaged)?;
            let row: SessionRow = rows::decode(&value).map_err(damaged)?;
            let mut session = StoredSession {
                id,
                client_id: row.client_id.into(),
                epoch: row.epoch,
                disconnected_ms: row.disconnected_ms,
                subscriptions: Vec::new(),
                receipts: Vec::new(),
                queued: 0,
                queued_bytes: 0,
                last_sequence: 0,
                left: RangeSet::default(),
            };
            subscriptions.up_to(id, |owner, _, value| {
                if owner == id {
                    let subscription = rows::decode_subscription(value).map_err(damaged)?;
                    session.subscriptions.push(subscription);
                }
                Ok(())
            })?;
            receipts.up_to(id, |owner, key, _| {
                let packet_id =
                    key.get(8..10).and_then(|k| k.first_chunk()).map(|k| u16::from_be_bytes(*k));
                if owner == id {
                    session.receipts.extend(packet_id.and_then(PacketId::new));
                }
                Ok(())
            })?;
            queue.up_to(id, |owner, key, value| {
                if owner == id {
                    session.queued += 1;
                    session.queued_bytes += rows::message_cost(value).map_err(damaged)? as u64;
                    let sequence = queue_place(key)?.1;
                    session.last_sequence = sequence;
                    session.left.push(sequence..sequence + 1);
                } else {
                    orphans.insert(owner);
                }
                Ok(())
            })?;
            outgoing.up_to(id, |owner, _, _| {
                if owner != id {
                    orphans.insert(owner);
                }
                Ok(())
            })?;
            found.push(session);
        }
        for scan in [&mut queue, &mut outgoing] {
            scan.up_to(SessionId::MAX, |owner, _, _| {
                orphans.insert(owner);
                Ok(())
            })?;
        }
        self.garbage.lock().extend(orphans);
        Ok(found)
    }

    /// No other node writes here, so the order of the writes decides: there are no versions.
    pub(super) fn retained(&self) -> Result<Vec<(Arc<Message>, u64)>, StoreError> {
        let value = |guard: fjall::Guard| {
            let value = guard.value().map_err(store_error)?;
            Ok((rows::decode_message(&value).map_err(damaged)?.0, 0))
        };
        self.retained.iter().map(value).collect()
    }

    pub(super) fn wills(&self) -> Result<Vec<StoredWill>, StoreError> {
        let will = |guard: fjall::Guard| {
            let (key, value) = guard.into_inner().map_err(store_error)?;
            let (client_id, connection) = will_place(&key)?;
            let (client_id, message) = (client_id.into(), rows::decode_message(&value));
            Ok(StoredWill { client_id, connection, message: message.map_err(damaged)?.0 })
        };
        let mut wills: Vec<StoredWill> =
            self.wills.iter().map(will).collect::<Result<_, StoreError>>()?;
        wills.sort_unstable_by_key(|will| will.connection);
        Ok(wills)
    }

    pub(super) fn read_queue(
        &self,
        id: SessionId,
        from: u64,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Vec<QueueEntry>, StoreError> {
        let mut found = Vec::new();
        if self.garbage.lock().contains(&id) {
            return Ok(found);
        }
        let range = queue_key(id, from)..=queue_key(id, u64::MAX);
        let mut outgoing = Scan::over(self.outgoing.range(range.clone()))?;
        let mut bytes = 0;
        for guard in self.queue.range(range) {
            if found.len() >= limit || (!found.is_empty() && bytes >= max_bytes) {
                break;
            }
            let (key, value) = guard.into_inner().map_err(store_error)?;
            let (_, sequence) = queue_place(&key)?;
            let (message, qos, retain) = rows::decode_message(&value).map_err(damaged)?;
            bytes += message.cost();
            let mut entry = QueueEntry { sequence, qos, retain, message, outgoing: None };
            while let Some((key, value)) =
                outgoing.head.as_ref().filter(|(k, _)| **k <= *queue_key(id, sequence))
            {
                if queue_place(key)?.1 == sequence {
                    entry.outgoing = Some(outgoing_value(value)?);
                }
                outgoing.advance()?;
            }
            found.push(entry);
        }
        Ok(found)
    }
}

/// A key order scan that is consumed session by session.
struct Scan {
    iter: Iter,
    head: Option<(UserKey, UserValue)>,
}

impl Scan {
    fn new(keyspace: &Keyspace) -> Result<Self, StoreError> {
        Self::over(keyspace.iter())
    }

    fn over(iter: Iter) -> Result<Self, StoreError> {
        let mut scan = Self { iter, head: None };
        scan.advance()?;
        Ok(scan)
    }

    fn advance(&mut self) -> Result<(), StoreError> {
        self.head =
            self.iter.next().map(|guard| guard.into_inner().map_err(store_error)).transpose()?;
        Ok(())
    }

    /// Hands out owner, key and value of everything that belongs to `id` or a lower number.
    fn up_to(
        &mut self,
        id: SessionId,
        mut take: impl FnMut(SessionId, &[u8], &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        while let Some((key, value)) = &self.head {
            let owner = number_at(key, 0).map_err(damaged)?;
            if owner > id {
                break;
            }
            take(owner, key, value)?;
            self.advance()?;
        }
        Ok(())
    }
}
