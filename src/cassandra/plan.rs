//! From store operations to CQL statements. Pure: what is known is in [`Memory`], what has to be
//! written comes out as a [`Plan`] (`planned`).
//!
//! Invariants: operations are planned in the order of the calls, so write timestamps rise with them and it
//! does not matter in which order the server sees the statements. Planning the same operations
//! again gives statements that write the same again. What a plan takes for granted (a bucket is in
//! its directory, a bucket is dropped) was written by an earlier plan that succeeded.
//! Bounds: one row of the outbox or a queue by [`ROW_MAX`] and by its bucket; one batch of
//! statements by [`BATCH_STATEMENTS`] and [`BATCH_BYTES`], of prepared publishes by [`PREPARED`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ahash::AHashMap;
use cdrs_tokio::types::value::Value;
use hydrant_actors::ports::{LogRecord, QueueEntry, SessionId, StoreError, StoreOp};
use hydrant_protocol::PacketId;
use hydrant_protocol::cluster::message::PublishId;

use super::columns::{
    OUTBOX_BUCKET, SHARDS, blob, encode_receipts, held_put, int, keep_subscription, long,
    name_shard, session_shard, signed, text,
};
use super::db::Bound;
use super::memory::{Lane, Memory};
use super::planned::{Epoch, Plan};
use super::queue::{BucketState, EntryState, place};
use super::statements::Statement as S;
use super::{dead, wills};
use crate::rows::{
    ROW_MAX, RowBuilder, RowError, damaged, encode_message, encode_prepared, encode_publish_ids,
};

const BATCH_STATEMENTS: usize = 64;
const BATCH_BYTES: usize = 32 << 10;
/// The same of prepared publishes, whose batches wait for each other. Far below the 16 MiB of a Cassandra
/// mutation, whose batch thresholds do not count for one partition.
const PREPARED: (usize, usize) = (4096, 1 << 20);

/// The statements that write receipts: made when every plan before this one is durable, because
/// they hold all of a session's, and what is not durable yet must not stand in them.
pub(super) fn receipts(memory: &Memory, plan: &mut Plan) {
    let mut shards: BTreeMap<i32, Vec<Bound>> = BTreeMap::new();
    for (id, receipts) in &plan.receipts {
        let held = encode_receipts(&memory.receipts_with(*id, &receipts.changes));
        let shard = session_shard(*id);
        let values = vec![long(receipts.timestamp), blob(held), int(shard), long(*id)];
        shards.entry(shard).or_default().push(Bound { statement: S::PutReceipts, values });
    }
    for (_, group) in shards {
        plan.batches.extend(cut(group));
    }
}

#[derive(Debug)]
struct QueueRun {
    bucket: u64,
    first: u64,
    next: u64,
    entries: Vec<u8>,
    costs: Vec<u8>,
}

#[derive(Debug)]
struct OutboxRun {
    first: u64,
    bytes: u64,
    row: RowBuilder,
}

/// Makes one plan.
struct Planner<'a> {
    memory: &'a mut Memory,
    plan: Plan,
    queues: AHashMap<SessionId, QueueRun>,
    lanes: BTreeMap<u16, OutboxRun>,
    moved: BTreeMap<u16, u64>,
    touched: BTreeSet<(SessionId, u64)>,
    /// The end of a will, and a message: written whole or not at all.
    will_ends: bool,
    messages: bool,
    /// Rows of a session's queue so far.
    rows: AHashMap<SessionId, usize>,
    /// By table (its first statement) and partition.
    groups: BTreeMap<(S, i32), Vec<Bound>>,
    last: BTreeMap<(S, i32), Vec<Bound>>,
    prepared: Vec<Bound>,
}

/// Plans the operations; `memory` is as after them.
///
/// # Errors
/// A value that cannot be encoded.
pub(super) fn plan(memory: &mut Memory, ops: &[StoreOp]) -> Result<Plan, StoreError> {
    memory.begins()?;
    let mut planner = Planner {
        memory,
        plan: Plan::default(),
        queues: AHashMap::new(),
        lanes: BTreeMap::new(),
        moved: BTreeMap::new(),
        touched: BTreeSet::new(),
        will_ends: false,
        messages: false,
        rows: AHashMap::new(),
        groups: BTreeMap::new(),
        last: BTreeMap::new(),
        prepared: Vec::new(),
    };
    for op in ops {
        planner.op(op).map_err(damaged)?;
    }
    planner.finish();
    Ok(planner.plan)
}

impl Planner<'_> {
    /// The session that an operation is for is another's.
    fn refused(&mut self, op: &StoreOp) -> Option<SessionId> {
        let id = match op {
            // It may be new.
            StoreOp::PutSession { id, .. } => {
                let owned = self.memory.owned_sessions.as_mut()?;
                return owned.put(*id).is_none().then_some(*id);
            }
            StoreOp::DeleteSession { id, .. }
            | StoreOp::PutSubscription { id, .. }
            | StoreOp::DeleteSubscription { id, .. }
            | StoreOp::PutQueued { id, .. }
            | StoreOp::PutOutgoing { id, .. }
            | StoreOp::DeleteQueued { id, .. }
            | StoreOp::PutReceipt { id, .. }
            | StoreOp::DeleteReceipt { id, .. } => *id,
            StoreOp::PutRetained { .. }
            | StoreOp::DeleteRetained { .. }
            | StoreOp::PutWill { .. }
            | StoreOp::DeleteWill { .. }
            | StoreOp::PutOutbox { .. }
            | StoreOp::PutPeerBatch { .. }
            | StoreOp::ExceptPeerBatch { .. }
            | StoreOp::CompletePeerBatch { .. }
            | StoreOp::ForgetPeerBatches { .. }
            | StoreOp::Prepare(_)
            | StoreOp::Committed { .. }
            | StoreOp::ForgetPrepared { .. }
            | StoreOp::MoveCursor { .. }
            | StoreOp::PutDeadLetter { .. }
            | StoreOp::DropDeadLetter { .. } => return None,
        };
        (!self.memory.holds(id)).then_some(id)
    }

    fn op(&mut self, op: &StoreOp) -> Result<(), RowError> {
        if let Some(id) = self.refused(op) {
            log::debug!("what is written for session {id} is dropped: this node does not hold it");
            return Ok(());
        }
        match op {
            StoreOp::DeleteWill { .. } => self.will_ends = true,
            StoreOp::PutQueued { .. }
            | StoreOp::PutOutbox { .. }
            | StoreOp::Prepare(_)
            | StoreOp::PutRetained { .. }
            | StoreOp::DeleteRetained { .. } => self.messages = true,
            _ => {}
        }
        match op {
            StoreOp::PutSession { id, client_id, epoch, disconnected_ms } => {
                self.put_session(*id, client_id, *epoch, *disconnected_ms);
            }
            StoreOp::DeleteSession { id, client_id } => self.delete_session(*id, client_id),
            StoreOp::PutSubscription { id, filter, qos, owes } => {
                let timestamp = self.memory.timestamp();
                let bound = keep_subscription(*id, filter, *qos, owes.as_deref(), timestamp);
                self.group(S::PutSubscription, session_shard(*id), bound.statement, bound.values);
            }
            StoreOp::DeleteSubscription { id, filter } => {
                let shard = session_shard(*id);
                let values = vec![self.timestamp(), int(shard), long(*id), text(filter)];
                self.group(S::PutSubscription, shard, S::DeleteSubscription, values);
            }
            StoreOp::PutQueued { id, entry } => self.put_queued(*id, entry)?,
            StoreOp::PutOutgoing { id, sequence, packet_id, stage } => {
                self.set(*id, *sequence, EntryState::Outgoing(*packet_id, *stage));
            }
            StoreOp::DeleteQueued { id, sequence } => self.set(*id, *sequence, EntryState::Done),
            StoreOp::PutReceipt { id, packet_id } => {
                // Receipt and message come to be together, or the message is lost or doubled.
                self.plan.atomic = true;
                self.receipt(*id, *packet_id, true);
            }
            StoreOp::DeleteReceipt { id, packet_id } => self.receipt(*id, *packet_id, false),
            // Timestamped with the version: every node of a cluster writes here.
            StoreOp::PutRetained { message, version } => {
                let shard = name_shard(&message.topic, SHARDS);
                let bytes = encode_message(message, message.qos, message.retain)?;
                let values = vec![int(shard), text(&message.topic), blob(bytes), long(*version)];
                self.group(S::PutRetained, shard, S::PutRetained, values);
            }
            StoreOp::DeleteRetained { topic, version } => {
                let shard = name_shard(topic, SHARDS);
                let values = vec![long(*version), int(shard), text(topic)];
                self.group(S::PutRetained, shard, S::DeleteRetained, values);
            }
            StoreOp::PutWill { will } => {
                let message = &will.message;
                let bytes = encode_message(message, message.qos, message.retain)?;
                self.put_will(&(Arc::clone(&will.client_id), will.connection), bytes);
            }
            StoreOp::DeleteWill { client_id, connection } => {
                self.end_will((Arc::clone(client_id), *connection));
            }
            StoreOp::PutOutbox { record, position } => {
                self.put_outbox(position.lane, position.position, record)?;
            }
            StoreOp::PutPeerBatch { origin, batch, prepared } => {
                // With its messages, or these are lost or doubled.
                self.plan.atomic = true;
                let [number, origin, batch] = [self.memory.number, *origin, *batch].map(long);
                let prepared = blob(encode_publish_ids(prepared)?);
                let values = vec![number, origin, batch, prepared, self.timestamp()];
                self.single(S::PutPeerBatch, values);
            }
            StoreOp::ExceptPeerBatch { origin, batch, client_id } => {
                self.plan.atomic = true;
                let [number, origin, batch] = [self.memory.number, *origin, *batch].map(long);
                let values = vec![number, origin, batch, text(client_id), self.timestamp()];
                self.single(S::ExceptPeerBatch, values);
            }
            StoreOp::CompletePeerBatch { origin, batch, client_id } => {
                // With what was buffered.
                self.plan.atomic = true;
                let [number, origin, batch] = [self.memory.number, *origin, *batch].map(long);
                let values = vec![self.timestamp(), number, origin, batch, text(client_id)];
                self.single(S::CompletePeerBatch, values);
            }
            StoreOp::ForgetPeerBatches { origin, below } => {
                let below = (*below).min(i64::MAX as u64);
                let mut numbers = self.memory.forget_batches(*origin, below);
                numbers.push(self.memory.number);
                for number in numbers {
                    for statement in [S::ForgetPeerBatches, S::ForgetExceptions] {
                        let values =
                            vec![self.timestamp(), long(number), long(*origin), long(below)];
                        self.single(statement, values);
                    }
                }
            }
            StoreOp::Prepare(prepared) => {
                let [incarnation, lane, number] = prepared_key(prepared.id);
                let publish = blob(encode_prepared(prepared)?);
                let values = vec![incarnation, lane, number, publish, self.timestamp()];
                self.prepared.push(Bound { statement: S::Prepare, values });
                // A node that dies must leave no prepared publish without the session's earlier ones: the
                // successor finishes prepared publishes before the client resends the others.
                self.plan.sessions.extend(prepared.session);
            }
            StoreOp::Committed { id } => {
                // With what it causes, or that is lost or doubled.
                self.plan.atomic = true;
                let [incarnation, lane, number] = prepared_key(*id);
                let values = vec![incarnation, lane, number, self.timestamp()];
                self.single(S::Committed, values);
            }
            StoreOp::ForgetPrepared { incarnation, router: Some(router), below } => {
                let below = (*below).min(i64::MAX as u64);
                let router = int(i32::from(*router));
                let values = vec![self.timestamp(), long(*incarnation), router, long(below)];
                self.single(S::ForgetPrepared, values);
            }
            StoreOp::ForgetPrepared { incarnation, router: None, .. } => {
                let values = vec![self.timestamp(), long(*incarnation)];
                self.single(S::DropPrepared, values);
                self.plan.closed.push(*incarnation);
            }
            StoreOp::MoveCursor { lane, position } => {
                let moved = self.moved.entry(*lane).or_default();
                *moved = position.max(moved).to_owned();
            }
            StoreOp::PutDeadLetter { letter } => {
                // With the cursor that passes its record, or that is lost or doubled.
                self.plan.atomic = true;
                let (me, timestamp) = (self.memory.number, self.memory.timestamp());
                self.plan.single.push(dead::put(me, letter, timestamp)?);
            }
            StoreOp::DropDeadLetter { id } => {
                let (me, timestamp) = (self.memory.number, self.memory.timestamp());
                self.plan.single.push(dead::remove(me, *id, timestamp));
            }
        }
        Ok(())
    }

    fn timestamp(&mut self) -> Value {
        long(self.memory.timestamp())
    }

    fn group(&mut self, table: S, shard: i32, statement: S, values: Vec<Value>) {
        let last =
            matches!(statement, S::DeleteSession | S::DeleteQueueBucket | S::DeleteQueueBuckets);
        let groups = if last { &mut self.last } else { &mut self.groups };
        groups.entry((table, shard)).or_default().push(Bound { statement, values });
    }

    fn single(&mut self, statement: S, values: Vec<Value>) {
        self.plan.single.push(Bound { statement, values });
    }

    fn put_session(
        &mut self,
        id: SessionId,
        client_id: &Arc<str>,
        epoch: u64,
        disconnected_ms: Option<u64>,
    ) {
        let shard = session_shard(id);
        let fence = self.memory.timestamp();
        let since = disconnected_ms.map_or(-1, |ms| i64::try_from(ms).unwrap_or(i64::MAX));
        let values =
            vec![int(shard), long(id), text(client_id), long(epoch), signed(since), long(fence)];
        self.group(S::PutSession, shard, S::PutSession, values);
        let holding = self.memory.owned_sessions.as_ref().and_then(|owned| owned.get(id));
        let new = holding.is_some_and(|holding| !holding.indexed);
        // At CONNECT; what a disconnect says changes nobody's ownership.
        if disconnected_ms.is_none() || new {
            let client_id = Arc::clone(client_id);
            let holder = holding.map_or(self.memory.number, |holding| holding.lineage);
            let index = new.then(|| held_put(holder, (id, &client_id), false, fence));
            self.plan.epochs.push(Epoch { client_id, id, epoch, fence, holder, index });
        }
    }

    fn delete_session(&mut self, id: SessionId, client_id: &Arc<str>) {
        let shard = session_shard(id);
        // What this plan wrote of the queue stands in buckets that the directory may not show yet.
        let mut written: BTreeSet<u64> = self
            .plan
            .queue_marks
            .iter()
            .filter(|(of, _)| *of == id)
            .map(|(_, bucket)| *bucket)
            .collect();
        written.extend(self.queues.remove(&id).map(|run| run.bucket));
        if let Some(queue) = self.memory.queues.remove(&id) {
            let first = queue.marked.or(queue.lowest);
            written.extend(first.into_iter().flat_map(|b| b..=queue.planned.unwrap_or(b).max(b)));
        }
        self.plan.receipts.remove(&id);
        self.touched.retain(|(of, _)| *of != id);
        let timestamp = self.memory.timestamp();
        for bucket in written {
            self.single(S::DeleteQueue, vec![long(timestamp), long(id), long(bucket)]);
        }
        for (table, statement) in [
            (S::PutSession, S::DeleteSession),
            (S::PutSubscription, S::DeleteSubscriptions),
            (S::PutQueueBucket, S::DeleteQueueBuckets),
        ] {
            self.group(table, shard, statement, vec![long(timestamp), int(shard), long(id)]);
        }
        self.plan.deleted.push((id, timestamp));
        self.plan.ended.push((Arc::clone(client_id), id, timestamp));
        self.plan.epochs.retain(|epoch| epoch.id != id);
    }

    fn receipt(&mut self, id: SessionId, packet_id: PacketId, held: bool) {
        self.plan.receipts.entry(id).or_default().changes.push((packet_id.get(), held));
    }

    fn put_will(&mut self, name: &wills::Name, will: Vec<u8>) {
        let me = self.memory.number;
        let Some(place) = self.memory.wills.put(me, name) else { return };
        let values = vec![
            long(place.incarnation),
            int(place.shard),
            text(&place.key),
            text(&name.0),
            long(name.1),
            blob(will),
            self.timestamp(),
        ];
        if place.incarnation == me {
            self.group(S::PutWill, place.shard, S::KeepWill, values);
        } else {
            self.single(S::KeepWill, values);
        }
    }

    /// This one only; also where a dead incarnation has left it.
    fn end_will(&mut self, name: wills::Name) {
        let Some(place) = self.memory.wills.end(&name) else { return };
        self.plan.discharged.push(name);
        let values = vec![
            long(place.incarnation),
            int(place.shard),
            text(&place.key),
            blob(Vec::new()),
            self.timestamp(),
        ];
        if place.incarnation == self.memory.number {
            self.group(S::PutWill, place.shard, S::PutWill, values);
        } else {
            self.single(S::PutWill, values);
        }
    }

    fn put_queued(&mut self, id: SessionId, entry: &QueueEntry) -> Result<(), RowError> {
        let (bucket, offset) = place(entry.sequence);
        let bytes = encode_message(&entry.message, entry.qos, entry.retain)?;
        let fits = self.queues.get(&id).is_some_and(|run| {
            run.bucket == bucket && run.next == entry.sequence && run.entries.len() < ROW_MAX
        });
        if !fits {
            if let Some(run) = self.queues.remove(&id) {
                self.end_queue_run(id, run);
            }
            let run = QueueRun {
                bucket,
                first: entry.sequence,
                next: entry.sequence,
                entries: Vec::with_capacity(bytes.len() + 4),
                costs: Vec::new(),
            };
            self.queues.insert(id, run);
        }
        if let Some(run) = self.queues.get_mut(&id) {
            run.next += 1;
            #[allow(clippy::cast_possible_truncation, reason = "a packet is at most 256 MiB")]
            {
                run.entries.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
                run.costs.extend_from_slice(&(entry.message.cost() as u32).to_be_bytes());
            }
            run.entries.extend_from_slice(&bytes);
        }
        // A sequence that comes again is new.
        let queue = self.memory.queues.entry(id).or_default();
        if let Some(state) = queue.buckets.get_mut(&bucket)
            && state.get(offset) != EntryState::Waiting
        {
            state.set(offset, EntryState::Waiting);
            self.memory.reopened(id, bucket);
            self.touched.insert((id, bucket));
        }
        if let Some((packet_id, stage)) = entry.outgoing {
            self.set(id, entry.sequence, EntryState::Outgoing(packet_id, stage));
        }
        Ok(())
    }

    fn end_queue_run(&mut self, id: SessionId, run: QueueRun) {
        let marked = self.memory.queues.get(&id).and_then(|queue| queue.marked);
        if marked != Some(run.bucket) && self.plan.queue_marks.last() != Some(&(id, run.bucket)) {
            let shard = session_shard(id);
            let values = vec![int(shard), long(id), long(run.bucket), self.timestamp()];
            self.group(S::PutQueueBucket, shard, S::PutQueueBucket, values);
            self.plan.queue_marks.push((id, run.bucket));
        }
        let queue = self.memory.queues.entry(id).or_default();
        queue.planned = queue.planned.max(Some(run.bucket));
        queue.lowest.get_or_insert(run.bucket);
        // The write timestamp is in the key: a sequence that is written again in another run replaces nothing.
        let timestamp = self.memory.timestamp();
        let values = vec![
            long(id),
            long(run.bucket),
            long(run.first),
            long(timestamp),
            blob(run.entries),
            blob(run.costs),
            long(timestamp),
        ];
        self.plan.sessions.insert(id);
        let rows = self.rows.entry(id).or_default();
        *rows += 1;
        match rows.checked_sub(2) {
            None => self.single(S::PutQueue, values),
            Some(stage) => {
                if self.plan.then.len() <= stage {
                    self.plan.then.resize_with(stage + 1, Vec::new);
                }
                self.plan.then[stage].push(Bound { statement: S::PutQueue, values });
            }
        }
    }

    fn set(&mut self, id: SessionId, sequence: u64, to: EntryState) {
        let (bucket, offset) = place(sequence);
        let queue = self.memory.queues.entry(id).or_default();
        let state = queue.buckets.entry(bucket).or_insert_with(|| BucketState::new(bucket));
        state.set(offset, to);
        self.touched.insert((id, bucket));
    }

    fn put_outbox(&mut self, lane: u16, position: u64, record: &LogRecord) -> Result<(), RowError> {
        if position < self.memory.lane(lane).cursor {
            // A repetition.
            return Ok(());
        }
        let fits = self.lanes.get(&lane).is_some_and(|run| {
            run.first + u64::from(run.row.count()) == position
                && run.first / OUTBOX_BUCKET == position / OUTBOX_BUCKET
                && run.row.len() < ROW_MAX
        });
        if !fits {
            if let Some(run) = self.lanes.remove(&lane) {
                self.end_outbox_run(lane, run);
            }
            let run = OutboxRun { first: position, bytes: 0, row: RowBuilder::new(0) };
            self.lanes.insert(lane, run);
        }
        if let Some(run) = self.lanes.get_mut(&lane) {
            run.row.push(record, true)?;
            run.bytes += record.cost() as u64;
        }
        Ok(())
    }

    fn end_outbox_run(&mut self, number: u16, run: OutboxRun) {
        let bucket = run.first / OUTBOX_BUCKET;
        let me = self.memory.number;
        let until = run.first + u64::from(run.row.count());
        let lane = self.memory.lane(number);
        if until > lane.end {
            lane.end = until;
            lane.bytes += run.bytes;
        }
        let (marked, cursor) = (lane.marked, lane.cursor);
        if marked.is_none() {
            // From its cursors a successor learns what lanes there are.
            let values = vec![long(me), int(number.into()), long(cursor), long(cursor)];
            self.single(S::MoveCursor, values);
        }
        if marked != Some(bucket) && self.plan.outbox_marks.last() != Some(&(number, bucket)) {
            let values = vec![long(me), int(number.into()), long(bucket), self.timestamp()];
            self.single(S::PutOutboxBucket, values);
            self.plan.outbox_marks.push((number, bucket));
        }
        let values = vec![
            long(me),
            int(number.into()),
            long(bucket),
            long(run.first),
            int(i32::try_from(run.row.count()).unwrap_or(i32::MAX)),
            long(run.bytes),
            blob(run.row.finish()),
            self.timestamp(),
        ];
        self.single(S::PutOutbox, values);
    }

    fn move_cursor(&mut self, number: u16, position: u64) {
        let (me, timestamp) = (self.memory.number, self.memory.timestamp());
        let lane = self.memory.lane(number);
        let (incarnation, key) = lane.home.unwrap_or((me, number));
        if position < lane.cursor {
            return;
        }
        let (moved, before) = (position - lane.cursor, lane.end.saturating_sub(lane.cursor));
        let gone =
            u128::from(lane.bytes) * u128::from(moved.min(before)) / u128::from(before.max(1));
        lane.bytes -= u64::try_from(gone).unwrap_or(lane.bytes);
        lane.cursor = position;
        // Timestamped with the position itself: it can never move back.
        let values = vec![long(incarnation), int(key.into()), long(position), long(position)];
        // Only below a cursor that is written: none is ever behind a bucket that is gone.
        let (from, until) = (lane.dropped, lane.durable.min(position) / OUTBOX_BUCKET);
        let (dropped, directories) = passed(lane, key, (from, until), timestamp);
        self.single(S::MoveCursor, values);
        self.plan.cursors.push((number, position));
        self.plan.single.extend(dropped);
        self.plan.last.extend(directories.into_iter().map(|bound| vec![bound]));
        if until > from {
            self.plan.dropped.push((number, until));
        }
    }

    fn finish(&mut self) {
        for (id, run) in std::mem::take(&mut self.queues) {
            self.end_queue_run(id, run);
        }
        for (lane, run) in std::mem::take(&mut self.lanes) {
            self.end_outbox_run(lane, run);
        }
        for (lane, position) in std::mem::take(&mut self.moved) {
            self.move_cursor(lane, position);
        }
        for (id, bucket) in std::mem::take(&mut self.touched) {
            self.end_bucket(id, bucket);
        }
        for receipts in self.plan.receipts.values_mut() {
            receipts.timestamp = self.memory.timestamp();
        }
        for (_, group) in std::mem::take(&mut self.groups) {
            self.plan.batches.extend(cut(group));
        }
        for (_, group) in std::mem::take(&mut self.last) {
            self.plan.last.extend(cut(group));
        }
        self.plan.atomic |= self.will_ends && self.messages;
        let prepared = cut_at(std::mem::take(&mut self.prepared), PREPARED);
        if self.plan.atomic {
            // Whole in any case.
            self.plan.batches.extend(prepared);
            let then = std::mem::take(&mut self.plan.then);
            self.plan.single.extend(then.into_iter().flatten());
        } else {
            self.plan.prepared = prepared;
        }
    }

    fn end_bucket(&mut self, id: SessionId, bucket: u64) {
        let shard = session_shard(id);
        let Some(queue) = self.memory.queues.get_mut(&id) else { return };
        let Some(state) = queue.buckets.get(&bucket) else { return };
        if state.is_complete() {
            self.memory.completed(id, bucket);
            let timestamp = self.memory.timestamp();
            self.single(S::DeleteQueue, vec![long(timestamp), long(id), long(bucket)]);
            let values = vec![long(timestamp), int(shard), long(id), long(bucket)];
            self.group(S::PutQueueBucket, shard, S::DeleteQueueBucket, values);
            return;
        }
        let state = state.encode();
        let values = vec![int(shard), long(id), long(bucket), blob(state), self.timestamp()];
        self.group(S::PutQueueBucket, shard, S::PutQueueState, values);
    }
}

fn prepared_key(id: PublishId) -> [Value; 3] {
    [long(id.incarnation), int(i32::from(id.router)), long(id.number)]
}

/// Statements of one partition, in batches.
fn cut(group: Vec<Bound>) -> Vec<Vec<Bound>> {
    cut_at(group, (BATCH_STATEMENTS, BATCH_BYTES))
}

/// The same with batches of so many statements and bytes. None is empty.
fn cut_at(group: Vec<Bound>, (statements, most): (usize, usize)) -> Vec<Vec<Bound>> {
    let mut batches = Vec::new();
    let mut batch = Vec::new();
    let mut bytes = 0;
    for bound in group {
        let size = size(&bound);
        if !batch.is_empty() && (batch.len() >= statements || bytes + size > most) {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        bytes += size;
        batch.push(bound);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

/// Deletes of the buckets `from..until` of a lane, in the partitions of every incarnation that wrote
/// there; and then from their directories.
fn passed(
    lane: &Lane,
    number: u16,
    (from, until): (u64, u64),
    timestamp: u64,
) -> (Vec<Bound>, Vec<Bound>) {
    let (mut partitions, mut directories) = (Vec::new(), Vec::new());
    for extent in lane.extents.iter().filter(|_| until > from) {
        let key = || vec![long(timestamp), long(extent.incarnation), int(number.into())];
        let first = from.max(extent.start / OUTBOX_BUCKET);
        let end = until.min(extent.end.div_ceil(OUTBOX_BUCKET));
        for bucket in first..end {
            let values = [key(), vec![long(bucket)]].concat();
            partitions.push(Bound { statement: S::DeleteOutbox, values });
        }
        // What stands behind a hole is in no extent: the next start finds it by the directory.
        let values = [key(), vec![long(end)]].concat();
        directories.push(Bound { statement: S::DeleteOutboxBuckets, values });
    }
    (partitions, directories)
}

fn size(bound: &Bound) -> usize {
    let value = |value: &Value| match value {
        Value::Some(bytes) => bytes.len() + 4,
        _ => 4,
    };
    bound.values.iter().map(value).sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::owned_sessions::OwnedSessions;
    use hydrant_actors::ports::PreparedPublish;

    use super::super::timestamps::Timestamps;
    use super::*;
    use crate::embedded::suite::message;

    fn connect(id: SessionId, since: Option<u64>) -> StoreOp {
        StoreOp::PutSession { id, client_id: "c".into(), epoch: 1, disconnected_ms: since }
    }

    #[test]
    fn only_a_new_session_goes_into_the_index_and_what_was_given_up_is_dropped() {
        let mut memory = Memory::new(9, Arc::new(Timestamps::new(9)));
        memory.owned_sessions = Some(OwnedSessions::new(4));
        // Also one that is offline again before it was written.
        for since in [None, Some(5)] {
            let planned = plan(&mut memory, &[connect(1, since)]).unwrap();
            assert_eq!((planned.epochs.len(), planned.epochs[0].holder), (1, 4));
            assert!(planned.epochs[0].index.is_some());
        }
        let planned = plan(&mut memory, &[connect(1, None)]).unwrap();
        memory.succeeded(&planned);
        let planned = plan(&mut memory, &[connect(1, None)]).unwrap();
        assert!(planned.epochs.len() == 1 && planned.epochs[0].index.is_none());
        assert!(plan(&mut memory, &[connect(1, Some(5))]).unwrap().epochs.is_empty());
        memory.give_up(1);
        let ops = [
            connect(1, None),
            StoreOp::PutSubscription {
                id: 1,
                filter: "a".into(),
                qos: hydrant_protocol::QoS::AtMostOnce,
                owes: None,
            },
            StoreOp::PutReceipt { id: 1, packet_id: PacketId::MIN },
            StoreOp::DeleteQueued { id: 1, sequence: 3 },
            StoreOp::DeleteSession { id: 1, client_id: "c".into() },
        ];
        let planned = plan(&mut memory, &ops).unwrap();
        assert!(planned.epochs.is_empty() && planned.batches.is_empty() && !planned.atomic);
        assert!(planned.ended.is_empty() && planned.last.is_empty());
    }

    #[test]
    fn without_a_cluster_nothing_is_indexed() {
        let mut memory = Memory::new(9, Arc::new(Timestamps::new(9)));
        let planned = plan(&mut memory, &[connect(1, None), connect(2, Some(5))]).unwrap();
        assert_eq!((planned.epochs.len(), planned.epochs[0].holder), (1, 9));
        assert!(planned.epochs[0].index.is_none());
    }

    fn prepares(number: u64, session: SessionId, payload: &str) -> StoreOp {
        StoreOp::Prepare(Box::new(PreparedPublish {
            id: PublishId { incarnation: 1, router: 0, number },
            publisher: "p".into(),
            session: Some(session),
            packet_id: PacketId::MIN,
            record: None,
            message: message("t", payload, false),
            retain: false,
            queued: false,
        }))
    }

    #[test]
    fn of_a_publisher_no_publish_is_prepared_without_the_one_before_it() {
        let mut memory = Memory::new(1, Arc::new(Timestamps::new(1)));
        let ops: Vec<StoreOp> = (0..500).map(|n| prepares(n, 7 + n % 2, "x")).collect();
        let planned = plan(&mut memory, &ops).unwrap();
        // One mutation, so all of them or none; and the next plan waits for this one.
        assert_eq!(planned.prepared.iter().map(Vec::len).collect::<Vec<_>>(), [500]);
        assert!(planned.single.is_empty());
        assert_eq!(planned.sessions, BTreeSet::from([7, 8]));
        // More bytes than one may have: one after another.
        let large = "x".repeat(PREPARED.1 / 2);
        let ops: Vec<StoreOp> = (0..3).map(|n| prepares(n, 7, &large)).collect();
        let planned = plan(&mut memory, &ops).unwrap();
        assert_eq!(planned.prepared.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1]);
        // With what has to be whole they stand in the journal.
        let id = PublishId { incarnation: 1, router: 0, number: 0 };
        let ops = [prepares(9, 7, "x"), StoreOp::Committed { id }];
        let planned = plan(&mut memory, &ops).unwrap();
        assert!(planned.atomic && planned.prepared.is_empty() && planned.batches.len() == 1);
    }
}
