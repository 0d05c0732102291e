//! What becomes of what dead incarnations held: their journals are done again, and all that they had is read and is
//! the successor's. As `src/cassandra/recover.rs`, `orphaned.rs`, `dead.rs` and `session_index.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hydrant_engine::ports::{
    DeadId, LaneState, Lanes, OrphanedState, PreparedPublish, SealedIncarnation, StoreError,
    StoredBatch, StoredWill,
};

use super::memory::{Adopted, Extent, Lane, SLOTS};
use super::reading::Loaded;
use super::state::{Background, Entry, Store};
use super::tables::{Base, Change, Incarnation, Record};

/// The lanes that incarnations of one lineage have left.
type Lineage = (u64, Vec<u64>, BTreeMap<u16, Lane>);

/// What was read of dead incarnations.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    pub(super) dead: Vec<Incarnation>,
    wills: Vec<(u64, StoredWill)>,
    pub(super) batches: Vec<StoredBatch>,
    highest: BTreeMap<(u64, u64), u64>,
    pub(super) prepared: Vec<PreparedPublish>,
    lanes: Vec<Lineage>,
    entries: Vec<Entry>,
    loaded: Loaded,
    pub(super) letters: BTreeMap<DeadId, u64>,
}

/// As the actors know them.
pub(super) fn sealed(dead: &[Incarnation]) -> Vec<SealedIncarnation> {
    let sealed = |one: &Incarnation| SealedIncarnation { number: one.number, lineage: one.lineage };
    dead.iter().map(sealed).collect()
}

fn by_lineage(dead: &[Incarnation]) -> BTreeMap<u64, Vec<u64>> {
    let mut lineages: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for one in dead {
        lineages.entry(one.lineage).or_default().push(one.number);
    }
    lineages
}

impl Store {
    /// What their journals hold is done, once. Stamps are above theirs from here on.
    pub(super) fn redo_all(&mut self, me: u64, dead: &[Incarnation]) -> Result<(), StoreError> {
        for one in dead {
            self.redo(one.number, None);
            for slot in 0..SLOTS {
                let stamp = self.memory(me)?.stamp();
                self.tables.apply(Change::DeleteJournal { incarnation: one.number, slot, stamp });
            }
        }
        Ok(())
    }

    /// The dead letters of dead incarnations are this one's. Their costs.
    pub(super) fn take_letters(
        &mut self,
        me: u64,
        dead: &[Incarnation],
    ) -> Result<BTreeMap<DeadId, u64>, StoreError> {
        let mut costs = BTreeMap::new();
        for one in dead {
            let of = one.number;
            let range = (of, DeadId::default())..(of + 1, DeadId::default());
            let letters = self.tables.letters.range(range);
            let letters: Vec<_> = letters.map(|(_, letter)| Arc::clone(letter)).collect();
            for letter in letters {
                let id = letter.id;
                costs.insert(id, letter.cost());
                let stamp = self.memory(me)?.stamp();
                self.tables.apply(Change::PutLetter { incarnation: me, letter, stamp });
                let stamp = self.memory(me)?.stamp();
                self.tables.apply(Change::DeleteLetter { incarnation: of, id, stamp });
            }
        }
        Ok(costs)
    }

    /// Everything else that they had.
    pub(super) fn find(&mut self, me: u64, dead: Vec<Incarnation>) -> Result<Found, StoreError> {
        let mut found = Found::default();
        for one in &dead {
            let wills = self.tables.wills_of(one.number);
            found.wills.extend(wills.into_iter().map(|will| (one.number, will)));
        }
        (found.batches, found.highest) = self.batches_of(&dead);
        found.prepared = dead.iter().flat_map(|one| self.prepared_of(one.number)).collect();
        for (lineage, numbers) in by_lineage(&dead) {
            let lanes = self.lanes_of(me, &numbers)?;
            found.lanes.push((lineage, numbers, lanes));
        }
        found.dead = dead;
        Ok(found)
    }

    /// The sessions that are held under these lineages, which are ours.
    pub(super) fn find_sessions(
        &mut self,
        me: u64,
        lineages: &BTreeSet<u64>,
        found: &mut Found,
    ) -> Result<(), StoreError> {
        let mut sure = BTreeMap::new();
        let mut moving = Vec::new();
        for lineage in lineages {
            for (id, client_id, moves) in self.tables.index_of(*lineage) {
                let entry = Entry { lineage: *lineage, id, client_id };
                if moves {
                    moving.push(entry);
                } else {
                    sure.insert(id, entry);
                }
            }
        }
        for entry in moving {
            if let Some(entry) = self.settle_move(me, lineages, entry)? {
                sure.insert(entry.id, entry);
            }
        }
        found.loaded = self.tables.load(self.shape, sure.keys().copied());
        for entry in sure.into_values() {
            if found.loaded.sessions.contains_key(&entry.id) {
                found.entries.push(entry);
            } else {
                self.drop_holder(me, &entry.client_id, entry.id, entry.lineage)?;
            }
        }
        Ok(())
    }

    /// Whether a session that was about to move is ours; then it is, for good.
    fn settle_move(
        &mut self,
        me: u64,
        lineages: &BTreeSet<u64>,
        entry: Entry,
    ) -> Result<Option<Entry>, StoreError> {
        let seen = self.tables.held.get(&entry.client_id).copied();
        let ours = seen.filter(|seen| seen.id == entry.id && lineages.contains(&seen.lineage));
        let (id, lineage) = (entry.id, entry.lineage);
        let Some(seen) = ours else {
            let stamp = self.memory(me)?.stamp();
            self.tables.apply(Change::DeleteHeld { lineage, id, stamp });
            return Ok(None);
        };
        let fence = self.memory(me)?.stamp();
        self.give(&entry.client_id, seen, seen.lineage, fence);
        let (client_id, stamp) = (Arc::clone(&entry.client_id), self.memory(me)?.stamp());
        let put = Change::PutHeld { lineage: seen.lineage, id, client_id, moving: false, stamp };
        self.tables.apply(put);
        if seen.lineage != lineage {
            let stamp = self.memory(me)?.stamp();
            self.tables.apply(Change::DeleteHeld { lineage, id, stamp });
        }
        Ok(Some(Entry { lineage: seen.lineage, ..entry }))
    }

    /// What was read of sessions, to be written again with stamps above those of who held them: one mutation a session.
    pub(super) fn settle(
        &mut self,
        me: u64,
        found: &mut Found,
    ) -> Result<Vec<Vec<Change>>, StoreError> {
        let loaded = &mut found.loaded;
        let mut parts = Vec::new();
        for (id, session) in &loaded.sessions {
            let (id, before, stamp) = (*id, self.memory(me)?.stamp(), self.memory(me)?.stamp());
            let base = Base { stamp, sequence: session.last_sequence };
            let record = Record {
                client_id: Arc::clone(&session.client_id),
                epoch: session.epoch,
                disconnected_ms: session.disconnected_ms,
            };
            let receipts = session.receipts.iter().map(|id| id.get()).collect();
            let mut part = vec![
                Change::DeleteSubscriptions { id, stamp: before },
                Change::PutSession { id, record, stamp },
                Change::PutReceipts { id, receipts, stamp },
                Change::PutBase { id, base },
            ];
            part.extend(session.subscriptions.iter().map(|subscription| {
                let (filter, owes) = (Arc::clone(&subscription.filter), subscription.owes.clone());
                Change::PutSubscription { id, filter, value: (subscription.qos, owes), stamp }
            }));
            let buckets = loaded.buckets.iter().filter(|(of, ..)| *of == id);
            part.extend(buckets.map(|(_, bucket, states)| {
                let states = states.clone().unwrap_or_default();
                Change::PutStates { id, bucket: *bucket, states, stamp }
            }));
            loaded.bases.insert(id, base);
            parts.push(part);
        }
        Ok(parts)
    }

    /// All that was found is the incarnation's from here on.
    pub(super) fn take_over(&mut self, me: u64, found: Found) -> Result<OrphanedState, StoreError> {
        let first = self.first_lane;
        let memory = self.memory(me)?;
        let fence = memory.stamp();
        found.loaded.remember(memory);
        found.entries.iter().for_each(|entry| memory.admit(entry.id, entry.lineage));
        let mut wills = Vec::new();
        for (incarnation, will) in found.wills {
            memory.found_will(incarnation, &will);
            wills.push(will);
        }
        wills.sort_by_key(|will| will.connection);
        memory.prepared.extend(found.prepared.iter().map(|prepared| prepared.id.incarnation));
        memory.batches.extend(found.highest);
        let mut lanes = Lanes::new();
        for (lineage, numbers, its) in found.lanes {
            for number in memory.adopt((lineage, numbers), its, first) {
                let lane = memory.lane(number);
                let (cursor, end, bytes) = (lane.cursor, lane.end, lane.bytes);
                lanes.push(LaneState { lane: number, cursor, end, bytes });
            }
        }
        self.later(me, Background::Fence(fence, found.entries));
        Ok(OrphanedState {
            incarnations: sealed(&found.dead),
            sessions: found.loaded.sessions.into_values().collect(),
            wills,
            batches: found.batches,
            prepared: found.prepared,
            lanes,
            dead_letters: found.letters.into_iter().collect(),
        })
    }

    /// The same at a start, whose own lanes go on.
    pub(super) fn recover(&mut self, me: u64, mut found: Found) -> Result<(), StoreError> {
        let first = self.first_lane;
        let memory = self.memory(me)?;
        memory.prepared.extend(found.prepared.iter().map(|prepared| prepared.id.incarnation));
        memory.batches.extend(std::mem::take(&mut found.highest));
        let own = found.lanes.iter().position(|(lineage, ..)| *lineage == memory.lineage);
        let mut drained = Vec::new();
        if let Some((_, numbers, lanes)) = own.map(|at| found.lanes.remove(at)) {
            let holds = |number: &u64| {
                let left = |lane: &Lane| {
                    lane.extents.iter().any(|e| e.incarnation == *number && e.end > lane.cursor)
                };
                lanes.values().any(left)
            };
            drained = numbers.iter().copied().filter(|number| !holds(number)).collect();
            for (number, lane) in lanes {
                memory.found(number, lane);
            }
            memory.dead.extend(numbers);
        }
        for (lineage, numbers, lanes) in found.lanes {
            memory.adopt((lineage, numbers), lanes, first);
        }
        for (incarnation, will) in found.wills {
            memory.found_will(incarnation, &will);
            memory.continued.wills.push(will);
        }
        memory.continued.wills.sort_by_key(|will| will.connection);
        found.entries.iter().for_each(|entry| memory.admit(entry.id, entry.lineage));
        found.loaded.remember(memory);
        drained.retain(|number| memory.is_done_with(*number));
        // The first of our lineage keeps its row: sessions are held under its number.
        let lineage = memory.lineage;
        for number in drained {
            let stamp = self.memory(me)?.stamp();
            if number == lineage {
                self.tables.apply(Change::DeleteSmall { incarnation: number, stamp });
            } else {
                self.keep_cursors(me)?;
                self.forget(me, number)?;
                self.memory(me)?.dead.remove(&number);
            }
        }
        self.clear_up(me)
    }

    fn batches_of(&self, dead: &[Incarnation]) -> (Vec<StoredBatch>, BTreeMap<(u64, u64), u64>) {
        let mut batches: BTreeMap<(u64, u64), StoredBatch> = BTreeMap::new();
        let mut highest = BTreeMap::new();
        for one in dead {
            let its = self.tables.batches.range((one.number, 0, 0)..(one.number + 1, 0, 0));
            for (&(of, origin, number), prepared) in its {
                let [from, to]: [Arc<str>; 2] = ["".into(), "".into()];
                let range = (of, origin, number, from)..(of, origin, number + 1, to);
                let except = self.tables.exceptions.range(range);
                let except: Vec<Arc<str>> =
                    except.map(|((.., client), ())| client.clone()).collect();
                let last: &mut u64 = highest.entry((of, origin)).or_default();
                *last = number.max(*last);
                // One that several have was sent again for those of its sessions that lacked it.
                let prepared = prepared.clone();
                batches
                    .entry((origin, number))
                    .and_modify(|known| known.except.retain(|client| except.contains(client)))
                    .or_insert_with(|| StoredBatch { origin, number, prepared, except });
            }
        }
        (batches.into_values().collect(), highest)
    }

    fn prepared_of(&self, number: u64) -> Vec<PreparedPublish> {
        let its = self.tables.prepared.range((number, 0, 0)..(number + 1, 0, 0));
        let prepared = its.map(|(key, publish)| PreparedPublish {
            queued: self.tables.committed.get(key).is_some(),
            ..publish.clone()
        });
        prepared.collect()
    }

    /// The lanes as these incarnations, oldest first, have left them.
    fn lanes_of(&mut self, me: u64, numbers: &[u64]) -> Result<BTreeMap<u16, Lane>, StoreError> {
        let bucket = self.shape.bucket;
        let mut lanes: BTreeMap<u16, Lane> = BTreeMap::new();
        let mut wrote = Vec::new();
        for number in numbers {
            // Whoever of them moved it last: a lane goes on where the one before stood.
            for ((_, key), cursor) in self.tables.cursors.range((*number, 0)..(number + 1, 0)) {
                let lane = lanes.entry(*key).or_default();
                lane.cursor = lane.cursor.max(*cursor);
                wrote.push((*number, *key));
            }
        }
        for lane in lanes.values_mut() {
            (lane.durable, lane.end) = (lane.cursor, lane.cursor);
            lane.dropped = lane.cursor / bucket;
        }
        for place in wrote {
            let stamp = self.memory(me)?.stamp();
            let Some(lane) = lanes.get_mut(&place.1) else { continue };
            let (mut kept, mut passed) = (Vec::new(), Vec::new());
            for ((.., at), ()) in self
                .tables
                .outbox_buckets
                .range((place.0, place.1, 0)..=(place.0, place.1, u64::MAX))
            {
                if *at < lane.dropped { passed.push(*at) } else { kept.push(*at) }
            }
            self.drop_buckets(place, &passed, stamp);
            if let Some((start, end, bytes)) = self.reach(place, lane.end, &kept) {
                append(lane, place.0, (start, end, bytes));
            }
        }
        Ok(lanes)
    }

    /// From where to where an incarnation's positions of a lane reach without a hole, and their bytes. It began at
    /// `expected` or before. What stands behind a hole was never acknowledged.
    fn reach(
        &self,
        (of, lane): (u64, u16),
        expected: u64,
        buckets: &[u64],
    ) -> Option<(u64, u64, u64)> {
        let first = buckets.first()? * self.shape.bucket;
        let mut records = self.tables.outbox.range((of, lane, first)..=(of, lane, u64::MAX));
        let marked = |position: u64| buckets.contains(&(position / self.shape.bucket));
        let ((.., start), record) = records.next().filter(|((.., at), _)| marked(*at))?;
        if *start > expected {
            return None;
        }
        let (mut end, mut bytes) = (start + 1, record.cost() as u64);
        for ((.., position), record) in records {
            if *position != end || !marked(end) {
                break;
            }
            (end, bytes) = (end + 1, bytes + record.cost() as u64);
        }
        Some((*start, end, bytes))
    }

    fn drop_buckets(&mut self, place: (u64, u16), buckets: &[u64], stamp: u64) {
        let Some(last) = buckets.last() else { return };
        for bucket in buckets {
            let positions = (bucket * self.shape.bucket, (bucket + 1) * self.shape.bucket);
            self.tables.apply(Change::DeleteOutbox { place, positions, stamp });
        }
        self.tables.apply(Change::UnmarkOutbox { place, below: last + 1, stamp });
    }

    /// This incarnation's own cursors say where the lanes stand that go on here.
    fn keep_cursors(&mut self, me: u64) -> Result<(), StoreError> {
        let own = self.memory(me)?.lanes.iter().filter(|(_, lane)| lane.home.is_none());
        let own: Vec<(u16, u64)> = own.map(|(number, lane)| (*number, lane.cursor)).collect();
        for (number, position) in own {
            self.tables.apply(Change::MoveCursor { place: (me, number), position });
        }
        Ok(())
    }

    /// A dead incarnation of whom nothing is left to do: its rows go.
    fn forget(&mut self, me: u64, number: u64) -> Result<(), StoreError> {
        let stamp = self.memory(me)?.stamp();
        let lanes = self.tables.cursors.range((number, 0)..(number + 1, 0));
        let lanes: Vec<u16> = lanes.map(|((_, lane), _)| *lane).collect();
        for lane in lanes {
            let buckets =
                self.tables.outbox_buckets.range((number, lane, 0)..=(number, lane, u64::MAX));
            let buckets: Vec<u64> = buckets.map(|((.., bucket), ())| *bucket).collect();
            self.drop_buckets((number, lane), &buckets, stamp);
        }
        self.tables.apply(Change::DeleteSmall { incarnation: number, stamp });
        self.tables.apply(Change::DeleteCursors { incarnation: number, stamp });
        match self.row(number) {
            Some(row) if row.owner != me => {
                Err(StoreError::Unusable(format!("incarnation {number} belongs to another")))
            }
            _ => {
                self.tables.incarnations.remove(&number);
                Ok(())
            }
        }
    }

    /// Forgets adopted incarnations of which nothing is left to do.
    pub(super) fn clear_up(&mut self, me: u64) -> Result<(), StoreError> {
        for Adopted { lineage, numbers, .. } in self.memory(me)?.finished() {
            for number in numbers.iter().filter(|number| **number != lineage) {
                self.forget(me, *number)?;
            }
            // The first of a lineage stays as long as a session is held under its number.
            if numbers.contains(&lineage) && !self.tables.index_of(lineage).is_empty() {
                self.memory(me)?.unfinished(lineage, vec![lineage]);
                continue;
            }
            let stamp = self.memory(me)?.stamp();
            self.tables.apply(Change::DeleteIndex { lineage, stamp });
            self.forget(me, lineage)?;
            self.memory(me)?.dead.remove(&lineage);
        }
        Ok(())
    }

    /// Raises the fences of sessions that were taken from a dead incarnation.
    pub(super) fn fence(&mut self, fence: u64, entries: &[Entry]) {
        for entry in entries {
            if let Some(held) = self.tables.held.get_mut(&entry.client_id)
                && held.id == entry.id
                && held.lineage == entry.lineage
                && held.fence < fence
            {
                held.fence = fence;
            }
        }
    }
}

/// What an incarnation wrote goes behind what those before it wrote. Where they reach beyond its beginning, it is by
/// writes that nobody was told of and that came late.
fn append(lane: &mut Lane, incarnation: u64, (start, end, bytes): (u64, u64, u64)) {
    for before in &mut lane.extents {
        before.end = before.end.min(start);
    }
    lane.extents.retain(|extent| extent.start < extent.end);
    lane.extents.push(Extent { incarnation, start, end });
    // What is missing below the cursor is acknowledged.
    lane.end = end.max(lane.cursor);
    let missing = end.saturating_sub(lane.cursor.max(start));
    let part = u128::from(bytes) * u128::from(missing) / u128::from((end - start).max(1));
    lane.bytes += u64::try_from(part).unwrap_or(bytes);
}
