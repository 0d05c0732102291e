//! From the operations of a write to a [`Plan`]: which statements there are, which of them are one mutation, which wait
//! for which. Pure, and the same as `src/cassandra/plan`.
//!
//! Invariants: stamps rise with the operations. Planning the same operations again gives statements that write the
//! same again.

mod outbox;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hydrant_engine::ports::{
    ClusterOp, LogOp, LogRecord, QueueEntry, SessionId, SessionOp, StoreOp,
};

use super::memory::Memory;
use super::planned::{Epoch, Plan};
use super::shape::Shape;
use super::tables::{Change, EntryState, Record, States};

/// Partitions over which sessions are spread: rows of one are one mutation.
const SHARDS: u64 = 256;
/// Statements of one mutation.
const STATEMENTS: usize = 64;
/// The same of prepared publishes.
const PREPARED: usize = 4096;

/// The tables in whose partitions statements are grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Table {
    Session,
    Subscription,
    QueueBucket,
    Retained,
    Will,
}

/// A partition: its table, and which of it.
type Partition = (Table, Arc<str>);

fn shard(table: Table, id: SessionId) -> Partition {
    (table, (id % SHARDS).to_string().into())
}

/// Records, or entries of a queue, that follow each other and stand in one row.
#[derive(Debug)]
struct Run<T> {
    first: u64,
    items: Vec<T>,
}

impl<T> Run<T> {
    fn fits(&self, at: u64, shape: Shape) -> bool {
        self.first + self.items.len() as u64 == at
            && self.first / shape.bucket == at / shape.bucket
            && self.items.len() < shape.row
    }
}

/// Makes one plan.
struct Planner<'a> {
    shape: Shape,
    memory: &'a mut Memory,
    plan: Plan,
    groups: BTreeMap<Partition, Vec<Change>>,
    last: BTreeMap<Partition, Vec<Change>>,
    ends_will: bool,
    writes_message: bool,
    queued: BTreeMap<SessionId, Run<QueueEntry>>,
    /// Rows of a session's queue so far.
    rows: BTreeMap<SessionId, usize>,
    touched: BTreeSet<(SessionId, u64)>,
    outbox: BTreeMap<u16, Run<LogRecord>>,
    moved: BTreeMap<u16, u64>,
    prepared: Vec<Change>,
}

/// Plans operations; `memory` is as after them.
pub(super) fn plan(memory: &mut Memory, shape: Shape, ops: &[StoreOp]) -> Plan {
    memory.begins();
    let mut planner = Planner {
        shape,
        memory,
        plan: Plan::default(),
        groups: BTreeMap::new(),
        last: BTreeMap::new(),
        ends_will: false,
        writes_message: false,
        queued: BTreeMap::new(),
        rows: BTreeMap::new(),
        touched: BTreeSet::new(),
        outbox: BTreeMap::new(),
        moved: BTreeMap::new(),
        prepared: Vec::new(),
    };
    ops.iter().for_each(|op| planner.op(op));
    planner.finish()
}

fn cut(group: Vec<Change>, most: usize) -> Vec<Vec<Change>> {
    group.chunks(most).map(<[Change]>::to_vec).collect()
}

impl Planner<'_> {
    /// Whether the session that an operation is for is another node's.
    fn is_refused(&mut self, op: &StoreOp) -> bool {
        match (op.session(), op) {
            (None, _) => false,
            // It may be new.
            (Some(id), StoreOp::Session(SessionOp::PutSession { .. })) => !self.memory.put(id),
            (Some(id), _) => !self.memory.holds(id),
        }
    }

    fn op(&mut self, op: &StoreOp) {
        if self.is_refused(op) {
            return;
        }
        match op {
            StoreOp::Session(SessionOp::PutSession { id, client_id, epoch, disconnected_ms }) => {
                self.put_session(*id, client_id, *epoch, *disconnected_ms);
            }
            StoreOp::Session(SessionOp::DeleteSession { id, client_id }) => {
                self.delete_session(*id, client_id)
            }
            StoreOp::Session(SessionOp::PutSubscription { id, filter, qos, owes }) => {
                let (stamp, value) = (self.memory.stamp(), (*qos, owes.clone()));
                let filter = Arc::clone(filter);
                let put = Change::PutSubscription { id: *id, filter, value, stamp };
                self.group(shard(Table::Subscription, *id), put);
            }
            StoreOp::Session(SessionOp::DeleteSubscription { id, filter }) => {
                let (stamp, filter) = (self.memory.stamp(), Arc::clone(filter));
                let delete = Change::DeleteSubscription { id: *id, filter, stamp };
                self.group(shard(Table::Subscription, *id), delete);
            }
            StoreOp::Session(SessionOp::PutQueued { id, entry }) => self.put_queued(*id, entry),
            StoreOp::Session(SessionOp::PutOutgoing { id, sequence, packet_id, stage }) => {
                self.set(*id, *sequence, EntryState::Outgoing(*packet_id, *stage));
            }
            StoreOp::Session(SessionOp::DeleteQueued { id, sequence }) => {
                self.set(*id, *sequence, EntryState::Done)
            }
            StoreOp::Session(SessionOp::PutReceipt { id, packet_id }) => {
                self.plan.atomic = true;
                let receipts = self.plan.receipts.entry(*id).or_default();
                receipts.changes.push((packet_id.get(), true));
            }
            StoreOp::Session(SessionOp::DeleteReceipt { id, packet_id }) => {
                let receipts = self.plan.receipts.entry(*id).or_default();
                receipts.changes.push((packet_id.get(), false));
            }
            StoreOp::PutRetained { message, version } => {
                self.writes_message = true;
                let put = Change::PutRetained { message: Arc::clone(message), version: *version };
                self.group((Table::Retained, Arc::clone(&message.topic)), put);
            }
            StoreOp::DeleteRetained { topic, version } => {
                self.writes_message = true;
                let delete = Change::DeleteRetained { topic: Arc::clone(topic), version: *version };
                self.group((Table::Retained, Arc::clone(topic)), delete);
            }
            StoreOp::PutWill { will } => {
                let name = (Arc::clone(&will.client_id), will.connection);
                if let Some(incarnation) = self.memory.put_will(&name) {
                    let (will, stamp) = (will.clone(), self.memory.stamp());
                    self.will(incarnation, Change::PutWill { incarnation, will, stamp });
                }
            }
            StoreOp::DeleteWill { client_id, connection } => {
                self.ends_will = true;
                let name = (Arc::clone(client_id), *connection);
                if let Some(incarnation) = self.memory.will(&name) {
                    self.plan.discharged.push(name.clone());
                    let stamp = self.memory.stamp();
                    self.will(incarnation, Change::DeleteWill { incarnation, name, stamp });
                }
            }
            StoreOp::Log(LogOp::PutOutbox { record, position }) => {
                self.put_outbox(position.lane, position.position, record);
            }
            StoreOp::Log(LogOp::MoveCursor { lane, position }) => {
                let moved = self.moved.entry(*lane).or_default();
                *moved = (*moved).max(*position);
            }
            StoreOp::Log(op @ (LogOp::PutDeadLetter { .. } | LogOp::DropDeadLetter { .. })) => {
                self.letter(op);
            }
            StoreOp::Cluster(op) => self.peer_op(op),
        }
    }

    fn letter(&mut self, op: &LogOp) {
        let (incarnation, stamp) = (self.memory.number, self.memory.stamp());
        let change = match op {
            LogOp::PutDeadLetter { letter } => {
                // With the cursor that passes its record, or that is lost or doubled.
                self.plan.atomic = true;
                Change::PutLetter { incarnation, letter: Arc::clone(letter), stamp }
            }
            LogOp::DropDeadLetter { id } => Change::DeleteLetter { incarnation, id: *id, stamp },
            LogOp::PutOutbox { .. } | LogOp::MoveCursor { .. } => return,
        };
        self.plan.single.push(change);
    }

    fn peer_op(&mut self, op: &ClusterOp) {
        let me = self.memory.number;
        match op {
            ClusterOp::PutPeerBatch { origin, batch, prepared } => {
                self.plan.atomic = true;
                let (batch, prepared, stamp) =
                    ((me, *origin, *batch), prepared.clone(), self.memory.stamp());
                self.plan.single.push(Change::PutBatch { batch, prepared, stamp });
            }
            ClusterOp::ExceptPeerBatch { origin, batch, client_id } => {
                self.plan.atomic = true;
                let (batch, client_id) = ((me, *origin, *batch), Arc::clone(client_id));
                let stamp = self.memory.stamp();
                self.plan.single.push(Change::Except { batch, client_id, stamp });
            }
            ClusterOp::CompletePeerBatch { origin, batch, client_id } => {
                self.plan.atomic = true;
                let (batch, client_id) = ((me, *origin, *batch), Arc::clone(client_id));
                let stamp = self.memory.stamp();
                self.plan.single.push(Change::Complete { batch, client_id, stamp });
            }
            ClusterOp::ForgetPeerBatches { origin, below } => {
                let below = (*below).min(i64::MAX as u64);
                let mut numbers = self.memory.forget_batches(*origin, below);
                numbers.push(me);
                for incarnation in numbers {
                    let (origin, stamp) = (*origin, self.memory.stamp());
                    let forget = Change::ForgetBatches { incarnation, origin, below, stamp };
                    self.plan.single.push(forget);
                }
            }
            ClusterOp::Prepare(publish) => {
                self.writes_message = true;
                let (publish, stamp) = (publish.clone(), self.memory.stamp());
                self.plan.sessions.extend(publish.session);
                self.prepared.push(Change::Prepare { publish, stamp });
            }
            ClusterOp::Committed { id } => {
                self.plan.atomic = true;
                let stamp = self.memory.stamp();
                self.plan.single.push(Change::Committed { id: *id, stamp });
            }
            ClusterOp::ForgetPrepared { incarnation, router, below } => {
                let below = (*below).min(i64::MAX as u64);
                let (incarnation, router, stamp) = (*incarnation, *router, self.memory.stamp());
                self.plan.closed.extend(router.is_none().then_some(incarnation));
                let forget = Change::ForgetPrepared { incarnation, router, below, stamp };
                self.plan.single.push(forget);
            }
        }
    }

    fn group(&mut self, partition: Partition, change: Change) {
        self.groups.entry(partition).or_default().push(change);
    }

    fn group_last(&mut self, partition: Partition, change: Change) {
        self.last.entry(partition).or_default().push(change);
    }

    /// With others of its partition where that is this incarnation's.
    fn will(&mut self, incarnation: u64, change: Change) {
        if incarnation == self.memory.number {
            self.group((Table::Will, "".into()), change);
        } else {
            self.plan.single.push(change);
        }
    }

    fn put_session(
        &mut self,
        id: SessionId,
        client_id: &Arc<str>,
        epoch: u64,
        disconnected_ms: Option<u64>,
    ) {
        let fence = self.memory.stamp();
        let record = Record { client_id: Arc::clone(client_id), epoch, disconnected_ms };
        let put = Change::PutSession { id, record, stamp: fence };
        self.group(shard(Table::Session, id), put);
        let Some(holding) = self.memory.holding(id) else { return };
        // At CONNECT; what a disconnect says changes nobody's ownership.
        if disconnected_ms.is_none() || !holding.indexed {
            let (client_id, lineage) = (Arc::clone(client_id), holding.lineage);
            let index = !holding.indexed;
            self.plan.epochs.push(Epoch { client_id, id, epoch, fence, lineage, index });
        }
    }

    fn delete_session(&mut self, id: SessionId, client_id: &Arc<str>) {
        let stamp = self.memory.stamp();
        self.plan.receipts.remove(&id);
        self.delete_queue(id, stamp);
        let subscriptions = Change::DeleteSubscriptions { id, stamp };
        self.group(shard(Table::Subscription, id), subscriptions);
        self.group_last(shard(Table::Session, id), Change::DeleteSession { id, stamp });
        self.plan.deleted.push((id, stamp));
        self.plan.ended.push((Arc::clone(client_id), id, stamp));
        self.plan.epochs.retain(|epoch| epoch.id != id);
    }

    fn delete_queue(&mut self, id: SessionId, stamp: u64) {
        // What this plan wrote stands in buckets that the directory may not show yet.
        let marks = self.plan.queue_marks.iter().filter(|(of, _)| *of == id);
        let mut written: BTreeSet<u64> = marks.map(|(_, bucket)| *bucket).collect();
        written.extend(self.queued.remove(&id).map(|run| run.first / self.shape.bucket));
        if let Some(queue) = self.memory.queues.remove(&id) {
            let first = queue.marked.or(queue.lowest);
            written.extend(first.into_iter().flat_map(|b| b..=queue.planned.unwrap_or(b).max(b)));
        }
        self.touched.retain(|(of, _)| *of != id);
        for bucket in written {
            self.plan.single.push(self.shape.delete_bucket(id, bucket, stamp));
        }
        let unmark = Change::UnmarkBuckets { id, buckets: (0, u64::MAX), stamp };
        self.group_last(shard(Table::QueueBucket, id), unmark);
    }

    fn put_queued(&mut self, id: SessionId, entry: &QueueEntry) {
        self.writes_message = true;
        let (sequence, shape) = (entry.sequence, self.shape);
        if !self.queued.get(&id).is_some_and(|run| run.fits(sequence, shape)) {
            if let Some(run) = self.queued.remove(&id) {
                self.end_queued(id, run);
            }
            self.queued.insert(id, Run { first: sequence, items: Vec::new() });
        }
        if let Some(run) = self.queued.get_mut(&id) {
            run.items.push(QueueEntry { outgoing: None, ..entry.clone() });
        }
        // A sequence that comes again is new.
        let bucket = sequence / shape.bucket;
        let queue = self.memory.queues.entry(id).or_default();
        if let Some(states) = queue.buckets.get_mut(&bucket)
            && states.remove(&sequence).is_some()
        {
            self.touched.insert((id, bucket));
        }
        if let Some((packet_id, stage)) = entry.outgoing {
            self.set(id, sequence, EntryState::Outgoing(packet_id, stage));
        }
    }

    fn set(&mut self, id: SessionId, sequence: u64, to: EntryState) {
        let bucket = sequence / self.shape.bucket;
        let queue = self.memory.queues.entry(id).or_default();
        queue.buckets.entry(bucket).or_default().insert(sequence, to);
        self.touched.insert((id, bucket));
    }

    fn end_queued(&mut self, id: SessionId, run: Run<QueueEntry>) {
        let bucket = run.first / self.shape.bucket;
        let marked = self.memory.queues.get(&id).and_then(|queue| queue.marked);
        if marked != Some(bucket) && self.plan.queue_marks.last() != Some(&(id, bucket)) {
            let mark = Change::MarkBucket { id, bucket, stamp: self.memory.stamp() };
            self.group(shard(Table::QueueBucket, id), mark);
            self.plan.queue_marks.push((id, bucket));
        }
        let queue = self.memory.queues.entry(id).or_default();
        queue.planned = queue.planned.max(Some(bucket));
        queue.lowest.get_or_insert(bucket);
        let put = Change::PutQueued { id, entries: run.items, stamp: self.memory.stamp() };
        self.plan.sessions.insert(id);
        let rows = self.rows.entry(id).or_default();
        *rows += 1;
        match rows.checked_sub(2) {
            None => self.plan.single.push(put),
            Some(stage) => {
                if self.plan.then.len() <= stage {
                    self.plan.then.resize_with(stage + 1, Vec::new);
                }
                if let Some(stage) = self.plan.then.get_mut(stage) {
                    stage.push(put);
                }
            }
        }
    }

    fn end_bucket(&mut self, id: SessionId, bucket: u64) {
        let queue = self.memory.queues.get(&id);
        let Some(states) = queue.and_then(|queue| queue.buckets.get(&bucket)) else { return };
        let (states, stamp) = (states.clone(), self.memory.stamp());
        if self.shape.is_complete(bucket, &states) {
            self.plan.single.push(self.shape.delete_bucket(id, bucket, stamp));
            let unmark = Change::UnmarkBuckets { id, buckets: (bucket, bucket + 1), stamp };
            self.group_last(shard(Table::QueueBucket, id), unmark);
        } else {
            let put = Change::PutStates { id, bucket, states, stamp };
            self.group(shard(Table::QueueBucket, id), put);
        }
    }

    /// Writes what is under way. A row's stamp is below that of the bucket which drops it.
    fn finish(mut self) -> Plan {
        for (id, run) in std::mem::take(&mut self.queued) {
            self.end_queued(id, run);
        }
        for (lane, run) in std::mem::take(&mut self.outbox) {
            self.end_outbox(lane, run);
        }
        for (lane, position) in std::mem::take(&mut self.moved) {
            self.write_cursor(lane, position);
        }
        for (id, bucket) in std::mem::take(&mut self.touched) {
            self.end_bucket(id, bucket);
        }
        for receipts in self.plan.receipts.values_mut() {
            receipts.stamp = self.memory.stamp();
        }
        let Self { mut plan, groups, last, prepared, .. } = self;
        plan.batches.extend(groups.into_values().flat_map(|group| cut(group, STATEMENTS)));
        plan.last.extend(last.into_values().flat_map(|group| cut(group, STATEMENTS)));
        plan.atomic |= self.ends_will && self.writes_message;
        let prepared = cut(prepared, PREPARED);
        if plan.atomic {
            plan.batches.extend(prepared);
            // In a plan that is written whole a session's rows need not wait for each other.
            plan.single.extend(std::mem::take(&mut plan.then).into_iter().flatten());
        } else {
            plan.prepared = prepared;
        }
        plan
    }
}

impl Shape {
    fn delete_bucket(self, id: SessionId, bucket: u64, stamp: u64) -> Change {
        let sequences = (bucket * self.bucket, (bucket + 1) * self.bucket);
        Change::DeleteBucket { id, sequences, stamp }
    }

    /// Every entry that can ever be in a bucket is delivered. Sequences begin with 1.
    fn is_complete(self, bucket: u64, states: &States) -> bool {
        let is_done = |(at, state): &(&u64, &EntryState)| **at > 0 && **state == EntryState::Done;
        let done = states.iter().filter(is_done).count() as u64;
        done >= self.bucket - u64::from(bucket == 0)
    }
}
