//! What is read: sessions and their queues, pages of queues and of the outbox, dead letters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hydrant_engine::ports::{
    DeadId, DeadLetter, LaneState, Lanes, LogRecord, OutboxPosition, QueueEntry, SessionId,
    StoreError, StoredSession, StoredSubscription, StoredWill,
};
use hydrant_protocol::session::RangeSet;
use hydrant_protocol::{PacketId, QoS};

use super::memory::Memory;
use super::shape::Shape;
use super::state::Store;
use super::tables::{Base, EntryState, States, Tables};

/// What stands in the store about sessions.
#[derive(Debug, Default, Clone)]
pub(super) struct Loaded {
    pub(super) sessions: BTreeMap<SessionId, StoredSession>,
    /// Buckets of their queues, with their states where something was delivered or sent.
    pub(super) buckets: Vec<(SessionId, u64, Option<States>)>,
    pub(super) bases: BTreeMap<SessionId, Base>,
}

impl Loaded {
    /// Receipts and the state of queues are remembered, so that they are overwritten with what they were.
    pub(super) fn remember(&self, memory: &mut Memory) {
        for (id, bucket, states) in &self.buckets {
            if let Some(states) = states {
                let queue = memory.queues.entry(*id).or_default();
                queue.buckets.insert(*bucket, states.clone());
            }
        }
        for (id, session) in &self.sessions {
            if !session.receipts.is_empty() {
                let receipts = session.receipts.iter().map(|id| id.get()).collect();
                memory.receipts.insert(*id, receipts);
            }
        }
        memory.bases.extend(&self.bases);
    }
}

impl Tables {
    /// The entries of a queue from a sequence on that the directory leads to. Of two of one sequence the one with the
    /// higher stamp counts.
    fn entries(
        &self,
        shape: Shape,
        id: SessionId,
        from: u64,
        base: Option<Base>,
    ) -> impl Iterator<Item = &QueueEntry> {
        let mut found = self.queues.range((id, from, 0)..(id.saturating_add(1), 0, 0)).peekable();
        std::iter::from_fn(move || {
            loop {
                let ((_, sequence, stamp), entry) = found.next()?;
                let hides = |base: Base| *stamp < base.stamp && *sequence > base.sequence;
                let hidden = base.is_some_and(hides);
                // They come in the order of their stamps.
                let older = found.peek().is_some_and(|((_, next, _), _)| next == sequence);
                let marked = || self.buckets.get(&(id, sequence / shape.bucket)).is_some();
                if !older && !hidden && marked() {
                    return Some(entry);
                }
            }
        })
    }

    /// Reads sessions, with what is in their queues.
    pub(super) fn load(&self, shape: Shape, ids: impl IntoIterator<Item = SessionId>) -> Loaded {
        let mut loaded = Loaded::default();
        for id in ids {
            // Where only receipts are there, a write that was cut short has left them.
            let Some(record) = self.sessions.get(&id) else { continue };
            let receipts = self.receipts.get(&id).into_iter().flatten();
            let mut session = StoredSession {
                id,
                client_id: Arc::clone(&record.client_id),
                epoch: record.epoch,
                disconnected_ms: record.disconnected_ms,
                subscriptions: self.subscriptions_of(id),
                receipts: receipts.copied().filter_map(PacketId::new).collect(),
                queued: 0,
                queued_bytes: 0,
                last_sequence: 0,
                left: RangeSet::default(),
            };
            let base = self.bases.get(&id).copied();
            loaded.bases.extend(base.map(|base| (id, base)));
            for entry in self.entries(shape, id, 0, base) {
                let sequence = entry.sequence;
                session.last_sequence = session.last_sequence.max(sequence);
                let states = self.states.get(&(id, sequence / shape.bucket));
                if states.and_then(|states| states.get(&sequence)) != Some(&EntryState::Done) {
                    session.queued += 1;
                    session.queued_bytes += u64::from(cost(entry));
                    session.left.push(sequence..sequence + 1);
                }
            }
            let buckets = self.buckets.range((id, 0)..(id.saturating_add(1), 0));
            loaded
                .buckets
                .extend(buckets.map(|(key, ())| (id, key.1, self.states.get(key).cloned())));
            loaded.sessions.insert(id, session);
        }
        loaded
    }

    fn subscriptions_of(&self, id: SessionId) -> Vec<StoredSubscription> {
        let [from, to]: [Arc<str>; 2] = ["".into(), "".into()];
        let found = self.subscriptions.range((id, from)..(id.saturating_add(1), to));
        let found = found.map(|((_, filter), (qos, owes))| {
            let (filter, owes) = (Arc::clone(filter), owes.clone());
            StoredSubscription { filter, qos: *qos, owes }
        });
        found.collect()
    }

    /// The wills that an incarnation left and nobody discharged.
    pub(super) fn wills_of(&self, incarnation: u64) -> Vec<StoredWill> {
        let none: Arc<str> = "".into();
        let range = (incarnation, Arc::clone(&none), 0)..(incarnation + 1, none, 0);
        self.wills.range(range).map(|(_, will)| will.clone()).collect()
    }

    /// The sessions that stand in the index of a lineage: id, client, whether it may be moving.
    pub(super) fn index_of(&self, lineage: u64) -> Vec<(SessionId, Arc<str>, bool)> {
        let found = self.index.range((lineage, 0)..(lineage + 1, 0));
        found.map(|((_, id), (client_id, moving))| (*id, Arc::clone(client_id), *moving)).collect()
    }
}

fn cost(entry: &QueueEntry) -> u32 {
    u32::try_from(entry.message.cost()).unwrap_or(u32::MAX)
}

/// As many items as a page holds: at least one, where there is one.
fn page<T>(items: impl Iterator<Item = (T, usize)>, limit: usize, max_bytes: usize) -> Vec<T> {
    let (mut found, mut bytes) = (Vec::new(), 0_usize);
    for (item, cost) in items {
        bytes = bytes.saturating_add(cost);
        if found.len() >= limit || (!found.is_empty() && bytes > max_bytes) {
            break;
        }
        found.push(item);
    }
    found
}

impl Store {
    pub(super) fn sessions(&mut self, me: u64) -> Result<Vec<StoredSession>, StoreError> {
        let (ids, shape) = (self.memory(me)?.owned(), self.shape);
        Ok(self.tables.load(shape, ids).sessions.into_values().collect())
    }

    pub(super) fn wills(&mut self, me: u64) -> Result<Vec<StoredWill>, StoreError> {
        let mut wills = self.memory(me)?.continued.wills.clone();
        wills.extend(self.tables.wills_of(me));
        wills.sort_by_key(|will| will.connection);
        Ok(wills)
    }

    pub(super) fn queue(
        &self,
        me: u64,
        (id, from): (SessionId, u64),
        (limit, max_bytes): (usize, usize),
    ) -> Result<Vec<QueueEntry>, StoreError> {
        let (memory, shape) = (self.process(me)?, self.shape);
        let base = memory.bases.get(&id).copied();
        let buckets = memory.queues.get(&id).map(|queue| &queue.buckets);
        let state = |sequence: u64| buckets?.get(&(sequence / shape.bucket))?.get(&sequence);
        let entries = self.tables.entries(shape, id, from, base).filter_map(|entry| {
            let outgoing = match state(entry.sequence) {
                Some(EntryState::Done) => return None,
                Some(EntryState::Outgoing(id, stage)) => Some((*id, *stage)),
                None => None,
            };
            Some((QueueEntry { outgoing, ..entry.clone() }, entry.message.cost()))
        });
        Ok(page(entries, limit, max_bytes))
    }

    pub(super) fn lanes(&mut self, me: u64) -> Result<Lanes, StoreError> {
        let lanes = self.memory(me)?.lanes.iter().map(|(number, lane)| LaneState {
            lane: *number,
            cursor: lane.cursor,
            end: lane.end,
            bytes: lane.bytes,
        });
        Ok(lanes.collect())
    }

    /// Records of a lane, in order, up to the first hole.
    pub(super) fn outbox(
        &mut self,
        me: u64,
        (lane, from): (u16, u64),
        (limit, max_bytes): (usize, usize),
    ) -> Result<Vec<LogRecord>, StoreError> {
        let found = self.memory(me)?.lane(lane);
        let (extents, key) = (found.extents.clone(), found.home.map_or(lane, |(_, key)| key));
        let mut next = from;
        let records = std::iter::from_fn(|| {
            let extent = extents.iter().find(|e| e.start <= next && next < e.end)?;
            let record = self.tables.outbox.get(&(extent.incarnation, key, next))?;
            let outbox = Some(OutboxPosition { lane, position: next });
            next += 1;
            Some((LogRecord { outbox, ..record.clone() }, record.cost()))
        });
        Ok(page(records, limit, max_bytes))
    }

    pub(super) fn dead_letters(
        &self,
        me: u64,
        from: DeadId,
        (limit, max_bytes): (usize, usize),
    ) -> Vec<DeadLetter> {
        let found = self.tables.letters.range((me, from)..(me + 1, DeadId::default()));
        let letters = found.map(|(_, letter)| {
            let mut read = DeadLetter::clone(letter);
            read.record.outbox = None;
            read.record.id = 0;
            (read, usize::try_from(letter.cost()).unwrap_or(usize::MAX))
        });
        // As many as there are before the bound is passed, and the one that passes it.
        let (mut found, mut bytes) = (Vec::new(), 0_usize);
        for (letter, cost) in letters.take(limit) {
            if bytes > 0 && bytes >= max_bytes {
                break;
            }
            bytes = bytes.saturating_add(cost);
            found.push(letter);
        }
        found
    }

    /// The filters to which the sessions of a lineage are subscribed with QoS 1-2, each once.
    pub(super) fn wanted(&self, lineage: u64) -> Vec<Arc<str>> {
        let ids = self.tables.index_of(lineage).into_iter().map(|(id, ..)| id);
        let subscriptions = ids.flat_map(|id| self.tables.subscriptions_of(id));
        let wanted = subscriptions.filter(|subscription| subscription.qos != QoS::AtMostOnce);
        let filters: BTreeSet<Arc<str>> = wanted.map(|subscription| subscription.filter).collect();
        filters.into_iter().collect()
    }
}
