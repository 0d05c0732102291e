//! [`SharedStore`] on Cassandra: how a session changes hands between living nodes, and what becomes
//! of what a dead one held.
//!
//! A session moves by one conditional write on its row in `session_epoch` ([`super::holder`]),
//! between two marks in the indexes of the lineages that it leaves and that it comes to
//! ([`super::orphaned`]). Write timestamps: [`super::timestamps`].
//! Bounds: one seal at a time; [`ATTEMPTS`] of one take.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::future::try_join;
use hydrant_actors::ports::{
    Holder, KnownIncarnation, LaneState, Lanes, OrphanedState, PreparedPublish, SealedIncarnation,
    Sealing, SessionId, SharedStore, StoreError, StoreFuture, StoredBatch, StoredSession,
};
use hydrant_actors::say;

use super::CassandraStore;
use super::columns::{held_delete, held_put};
use super::dead;
use super::holder;
use super::incarnation::{Predecessor, Sealed, follow, patiently, read};
use super::inner::Inner;
use super::memory::Lane;
use super::recover;
use super::sessions::{self, Which};
use super::timestamps::first_until;
use super::{orphaned, session_index};

/// How often the row of a session that is taken may change.
const ATTEMPTS: u32 = 10;

/// The incarnation of a [`Holder`] is the one that holds the session now, whoever wrote its row: a
/// living one, or a dead one that nobody has sealed. Where nothing is left of it, it is the number
/// that stands in the row, and whoever wants the session may take it.
///
/// [`Sealing::Others`] is 0 where nothing is left of an incarnation.
impl SharedStore for CassandraStore {
    fn incarnation(&self) -> u64 {
        self.inner.incarnation.number
    }

    fn continues(&self) -> Vec<SealedIncarnation> {
        self.inner.continued.incarnations.clone()
    }

    fn lineage(&self) -> u64 {
        self.inner.incarnation.lineage()
    }

    fn incarnations(&self) -> StoreFuture<Vec<KnownIncarnation>> {
        let inner = Arc::clone(&self.inner);
        self.run(async move { inner.incarnation.known(&inner.db).await })
    }

    fn wanted(&self, lineage: u64) -> StoreFuture<Vec<Arc<str>>> {
        let inner = Arc::clone(&self.inner);
        self.run(async move {
            let entries = session_index::index(&inner.db, lineage).await?;
            let ids: Vec<SessionId> = entries.iter().map(|entry| entry.id).collect();
            sessions::wanted(&inner.db, &ids).await
        })
    }

    fn stored_batches(&self) -> Vec<StoredBatch> {
        self.inner.continued.batches.clone()
    }

    fn prepared_publishes(&self) -> Vec<PreparedPublish> {
        self.inner.continued.prepared.clone()
    }

    fn holds_lease(&self) -> bool {
        self.inner.incarnation.may_acknowledge()
    }

    fn locate(&self, client_id: Arc<str>) -> StoreFuture<Option<Holder>> {
        let inner = Arc::clone(&self.inner);
        self.run(async move {
            let Some(seen) = holder::seen(&inner.db, &client_id).await? else { return Ok(None) };
            let incarnation = follow(&inner.db, seen.holder).await?.holder();
            Ok(Some(Holder { id: seen.id, incarnation }))
        })
    }

    fn take(
        &self,
        client_id: Arc<str>,
        from: Holder,
        until: u64,
    ) -> StoreFuture<Option<StoredSession>> {
        let inner = Arc::clone(&self.inner);
        self.run(async move { inner.take(&client_id, from, until).await })
    }

    fn give_up(&self, id: SessionId) -> u64 {
        self.inner.memory.lock().give_up(id);
        let timestamp = self.inner.incarnation.timestamps().next();
        if !self.inner.memory.lock().adopted.is_empty() {
            let inner = Arc::clone(&self.inner);
            drop(self.run(async move {
                inner.clear_up();
                Ok(())
            }));
        }
        timestamp
    }

    fn seal(&self, incarnation: u64) -> StoreFuture<Sealing> {
        let inner = Arc::clone(&self.inner);
        self.run(async move { inner.seal(incarnation).await })
    }
}

/// What became of an attempt to take a session.
enum Taking {
    Over(Option<StoredSession>),
    /// Its row changed meanwhile: it has to be looked at again.
    Changed,
}

impl Inner {
    async fn take(
        &self,
        client_id: &str,
        from: Holder,
        until: u64,
    ) -> Result<Option<StoredSession>, StoreError> {
        for _ in 0..ATTEMPTS {
            match self.try_take(client_id, from, until).await? {
                Taking::Over(session) => return Ok(session),
                Taking::Changed => {}
            }
        }
        Err(StoreError::Unavailable(format!(
            "the session of client {client_id:?} changes again and again"
        )))
    }

    async fn try_take(
        &self,
        client_id: &str,
        from: Holder,
        until: u64,
    ) -> Result<Taking, StoreError> {
        const NO: Result<Taking, StoreError> = Ok(Taking::Over(None));
        let (db, me) = (&self.db, &self.incarnation);
        let Some(seen) = holder::seen(db, client_id).await? else { return NO };
        let chain = follow(db, seen.holder).await?;
        let holder = chain.holder();
        let sealed_by_us = holder == me.number && chain.numbers.contains(&from.incarnation);
        // Every change raises the fence, also that of a holder that takes it back.
        if seen.fence > until {
            return NO;
        }
        if seen.id != from.id || (holder != from.incarnation && !sealed_by_us) {
            return NO;
        }
        if self.memory.lock().owned_sessions.is_none() {
            let why = "this node has the keyspace for itself: nobody gives it a session";
            return Err(StoreError::Unusable(why.to_owned()));
        }
        let last = chain.end.as_ref().map(|found| found.timestamps);
        let theirs = last.unwrap_or(first_until(seen.holder));
        me.raise(db, theirs.max(seen.fence)).await?;
        let (lineage, timestamps, id) = (me.lineage(), me.timestamps(), seen.id);
        let mark = |lineage| db.write(held_put(lineage, (id, client_id), true, timestamps.next()));
        try_join(mark(seen.holder), mark(lineage)).await?;
        // Whoever seals it after this finds the mark.
        if holder != me.number && chain.end.is_some() {
            let now = read(db, holder).await?;
            if now.is_none_or(|now| now.is_sealed()) {
                return NO;
            }
        }
        self.may_begin()?;
        if !holder::give(db, client_id, seen, lineage, timestamps.next()).await? {
            if lineage != seen.holder {
                db.write(held_delete(lineage, id, timestamps.next())).await?;
            }
            // By another who takes it, or only its fence.
            return Ok(Taking::Changed);
        }
        self.admit(client_id, id, (seen.holder, lineage)).await.map(Taking::Over)
    }

    /// Reads a session that is this node's, and indexes it for good.
    async fn admit(
        &self,
        client_id: &str,
        id: SessionId,
        (before, lineage): (u64, u64),
    ) -> Result<Option<StoredSession>, StoreError> {
        let (db, timestamps) = (&self.db, self.incarnation.timestamps());
        let index = async {
            db.write(held_put(lineage, (id, client_id), false, timestamps.next())).await?;
            if before != lineage {
                db.write(held_delete(before, id, timestamps.next())).await?;
            }
            Ok(())
        };
        let read = async {
            let mut loaded = sessions::load(db, Which::These(&[id])).await?;
            sessions::count(db, &mut loaded).await?;
            Ok(loaded)
        };
        let ((), mut loaded) = try_join(index, read).await?;
        let Some(session) = loaded.sessions.get(&id).cloned() else {
            // It was never begun, or its end was not finished.
            let mut entries = vec![session_index::Entry::new(lineage, id, client_id)];
            session_index::load(db, &timestamps, &mut entries).await?;
            return Ok(None);
        };
        loaded.sessions.retain(|found, _| *found == id);
        let mut memory = self.memory.lock();
        if !memory.holds(id) {
            loaded.remember(&mut memory);
        }
        if let Some(owned) = &mut memory.owned_sessions {
            owned.admit(id, lineage);
        }
        Ok(Some(session))
    }

    async fn seal(&self, incarnation: u64) -> Result<Sealing, StoreError> {
        let dead = match self.incarnation.seal_other(&self.db, incarnation).await? {
            Sealed::Ours(dead) => dead,
            Sealed::Others(number) => return Ok(Sealing::Others(number)),
            Sealed::Alive => return Ok(Sealing::Alive),
        };
        let _one = self.sealing.lock().await;
        let known = self.memory.lock().dead.clone();
        let dead: Vec<Predecessor> =
            dead.into_iter().filter(|one| !known.contains(&one.number)).collect();
        // An attempt may end behind the move of some of them.
        let heads = dead::Heads::default();
        let mut orphaned = patiently(|| self.take_over(&dead, &heads)).await?;
        orphaned.dead_letters = heads.into_inner().into_iter().collect();
        Ok(Sealing::Ours(Box::new(orphaned)))
    }

    /// Takes over what sealed incarnations had. Done twice, it changes nothing more; known in memory
    /// only when all of it is done.
    async fn take_over(
        &self,
        dead: &[Predecessor],
        heads: &dead::Heads,
    ) -> Result<OrphanedState, StoreError> {
        let (db, timestamps) = (&self.db, self.incarnation.timestamps());
        let highest = dead.iter().map(|one| one.timestamps).max().unwrap_or_default();
        self.incarnation.raise(db, highest).await?;
        recover::redo_all(db, &timestamps, dead).await?;
        dead::take_over(db, self.incarnation.number, &timestamps, dead, heads).await?;
        let wills = recover::wills(db, dead).await?;
        let (batches, highest) = recover::peer_batches(db, dead).await?;
        let prepared = recover::prepared_publishes(db, dead).await?;
        let groups = recover::by_lineage(dead);
        let mut lanes: Vec<(u64, Vec<u64>, BTreeMap<u16, Lane>)> = Vec::new();
        for (lineage, numbers) in groups {
            let found = recover::lanes(db, &numbers, timestamps.next()).await?;
            lanes.push((lineage, numbers, found));
        }
        let lineages: BTreeSet<u64> = lanes.iter().map(|(lineage, ..)| *lineage).collect();
        let mut entries = session_index::held(db, &timestamps, &lineages).await?;
        let mut loaded = session_index::load(db, &timestamps, &mut entries).await?;
        sessions::count(db, &mut loaded).await?;
        orphaned::settle(db, &timestamps, &mut loaded).await?;
        let fence = timestamps.next();
        self.fence(fence, entries.clone());
        let mut memory = self.memory.lock();
        loaded.remember(&mut memory);
        if let Some(owned) = &mut memory.owned_sessions {
            entries.iter().for_each(|entry| owned.admit(entry.id, entry.lineage));
        }
        let wills = recover::remember_wills(&mut memory, wills);
        memory.prepared.extend(prepared.iter().map(|prepared| prepared.id.incarnation));
        memory.batches.extend(highest);
        let mut fresh = Lanes::new();
        for (lineage, numbers, found) in lanes {
            for number in memory.adopt((lineage, numbers), found, self.first_lane) {
                let lane = memory.lane(number);
                let (cursor, end, bytes) = (lane.cursor, lane.end, lane.bytes);
                fresh.push(LaneState { lane: number, cursor, end, bytes });
            }
        }
        let incarnations = dead.iter().map(Predecessor::sealed).collect();
        let sessions = loaded.sessions.into_values().collect();
        let dead_letters = Vec::new();
        Ok(OrphanedState {
            incarnations,
            sessions,
            wills,
            batches,
            prepared,
            lanes: fresh,
            dead_letters,
        })
    }

    /// Fences in the background what was taken over.
    fn fence(&self, fence: u64, entries: Vec<session_index::Entry>) {
        let db = self.db.clone();
        tokio::spawn(async move {
            if let Err(error) = orphaned::fence(&db, fence, entries).await {
                say::warn!("not every session of a sealed incarnation is fenced: {error}");
            }
        });
    }

    /// Forgets in the background what is drained.
    pub(super) fn clear_up(self: &Arc<Self>) {
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            let cleared = recover::clear_up(&inner.db, &inner.incarnation, &inner.memory).await;
            if let Err(error) = cleared {
                log::debug!("what a dead incarnation left is not removed yet: {error}");
            }
        });
    }
}
