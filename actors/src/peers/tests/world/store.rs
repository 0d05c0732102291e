//! The store of one start of a node, as the others share it.

use std::collections::BTreeSet;
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hydrant_protocol::Message;

use super::{Kept, Node, World, found};
use crate::ports::{
    DeadId, DeadLetter, Holder, KnownIncarnation, Lanes, LogRecord, PreparedPublish, QueueEntry,
    SealedIncarnation, Sealing, SessionId, SessionStore, SharedStore, StoreError, StoreFuture,
    StoreOp, StoredBatch, StoredSession, StoredWill,
};

/// What a write takes, and what it takes to take a session over unless a test says otherwise: long enough
/// for much to come meanwhile.
const WRITE: Duration = Duration::from_millis(1);
const TAKE: Duration = Duration::from_millis(20);

async fn while_held(flag: impl Fn() -> bool) {
    while flag() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

impl Node {
    fn now<T: Send + 'static>(answer: Result<T, StoreError>) -> StoreFuture<T> {
        Box::pin(ready(answer))
    }
}

impl SessionStore for Node {
    fn write(&self, ops: Arc<Vec<StoreOp>>) -> StoreFuture<()> {
        if self.cut.load(Ordering::SeqCst) {
            return Box::pin(std::future::pending());
        }
        if self.stalled.load(Ordering::SeqCst) {
            return Self::now(Err(StoreError::Unavailable("stalled".to_owned())));
        }
        let (world, me) = (self.world.clone(), self.incarnation);
        let (mute, late) = (Arc::clone(&self.mute), Arc::clone(&self.late));
        let write = move |world: &World| {
            let mut state = world.0.lock();
            if state.sealed.contains_key(&me) {
                return Err(StoreError::Unavailable("sealed".to_owned()));
            }
            ops.iter().for_each(|op| Self::apply(me, &mut state, op.clone()));
            Ok(())
        };
        let held = move |world: &World| world.1.hold_writes_of.load(Ordering::SeqCst) == me;
        // At once: what is killed after it has begun a write may have written it.
        let now = (!held(&world)).then(|| write(&world));
        Box::pin(async move {
            if let Some(written) = now {
                written?;
            } else {
                while_held(|| held(&world)).await;
                write(&world)?;
            }
            tokio::time::sleep(WRITE).await;
            while_held(|| late.load(Ordering::SeqCst)).await;
            if mute.load(Ordering::SeqCst) {
                return std::future::pending().await;
            }
            Ok(())
        })
    }

    fn sessions(&self) -> StoreFuture<Vec<StoredSession>> {
        let state = self.world.0.lock();
        let mine = state.sessions.iter().filter(|(_, kept)| kept.holder == self.incarnation);
        Self::now(Ok(mine.map(|(id, kept)| found(*id, kept)).collect()))
    }

    fn retained(&self) -> StoreFuture<Vec<(Arc<Message>, u64)>> {
        let (world, found) = (self.world.clone(), self.world.0.lock().retained.clone());
        world.1.reads.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            while_held(|| world.1.hold_retained.load(Ordering::SeqCst)).await;
            Ok(found.into_values().collect())
        })
    }

    fn wills(&self) -> StoreFuture<Vec<StoredWill>> {
        Self::now(Ok(self.continued.wills.clone()))
    }

    fn read_queue(
        &self,
        id: SessionId,
        from: u64,
        limit: usize,
        _: usize,
    ) -> StoreFuture<Vec<QueueEntry>> {
        let state = self.world.0.lock();
        let queue = state.sessions.get(&id).map(|kept| &kept.queue);
        let page = queue.into_iter().flat_map(|queue| queue.range(from..)).take(limit);
        Self::now(Ok(page.map(|(_, entry)| entry.clone()).collect()))
    }

    fn lanes(&self) -> StoreFuture<Lanes> {
        Self::now(Ok(Vec::new()))
    }

    fn read_outbox(&self, _: u16, _: u64, _: usize, _: usize) -> StoreFuture<Vec<LogRecord>> {
        Self::now(Ok(Vec::new()))
    }

    fn dead_letters(&self, _: DeadId, _: usize, _: usize) -> StoreFuture<Vec<DeadLetter>> {
        Self::now(Ok(Vec::new()))
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}

impl SharedStore for Node {
    fn incarnation(&self) -> u64 {
        self.incarnation
    }

    fn continues(&self) -> Vec<SealedIncarnation> {
        self.continued.incarnations.clone()
    }

    fn lineage(&self) -> u64 {
        self.world.0.lock().starts[&self.incarnation].1
    }

    fn incarnations(&self) -> StoreFuture<Vec<KnownIncarnation>> {
        let state = self.world.0.lock();
        let others = state.starts.iter().filter(|(number, _)| **number != self.incarnation);
        let known = others.map(|(number, (node, lineage))| KnownIncarnation {
            number: *number,
            node: Arc::clone(node),
            lineage: *lineage,
            owner: state.owner(*number),
            released: state.released.contains(number),
            lease: Duration::from_millis(self.world.1.lease.load(Ordering::SeqCst)),
        });
        Self::now(Ok(known.collect()))
    }

    fn wanted(&self, lineage: u64) -> StoreFuture<Vec<Arc<str>>> {
        let state = self.world.0.lock();
        let its = |kept: &&Kept| kept.lineage == lineage;
        let filters =
            state.sessions.values().filter(its).flat_map(|kept| kept.subscriptions.keys());
        Self::now(Ok(filters.cloned().collect::<BTreeSet<_>>().into_iter().collect()))
    }

    fn stored_batches(&self) -> Vec<StoredBatch> {
        self.continued.batches.clone()
    }

    fn prepared_publishes(&self) -> Vec<PreparedPublish> {
        self.continued.prepared.clone()
    }

    fn holds_lease(&self) -> bool {
        let away = self.cut.load(Ordering::SeqCst) || self.stalled.load(Ordering::SeqCst);
        !away && !self.world.0.lock().dead.contains(&self.incarnation)
    }

    fn locate(&self, client_id: Arc<str>) -> StoreFuture<Option<Holder>> {
        let world = self.world.clone();
        world.1.locates.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            while_held(|| world.1.hold_locate.load(Ordering::SeqCst)).await;
            let fails = &world.1.fail_locates;
            let left = fails.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            if left.is_ok() {
                return Err(StoreError::Unavailable("away".to_owned()));
            }
            let state = world.0.lock();
            let found = state.sessions.iter().find(|(_, kept)| kept.client_id == client_id);
            Ok(found.map(|(id, kept)| Holder { id: *id, incarnation: kept.holder }))
        })
    }

    fn take(&self, _: Arc<str>, from: Holder, until: u64) -> StoreFuture<Option<StoredSession>> {
        let (world, me) = (self.world.clone(), self.incarnation);
        let cut = Arc::clone(&self.cut);
        world.1.takes.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            tokio::time::sleep(TAKE).await;
            while_held(|| {
                let faults = &world.1;
                let all = faults.hold_take.load(Ordering::SeqCst);
                all || faults.hold_take_of.load(Ordering::SeqCst) == me
            })
            .await;
            if cut.load(Ordering::SeqCst) {
                return std::future::pending().await;
            }
            world.1.takes_ended.fetch_add(1, Ordering::SeqCst);
            let mut state = world.0.lock();
            let lineage = state.starts.get(&me).map_or(me, |start| start.1);
            let kept = state.sessions.get_mut(&from.id);
            let as_said = |kept: &&mut Kept| kept.holder == from.incarnation && kept.taken <= until;
            Ok(kept.filter(as_said).map(|kept| {
                (kept.holder, kept.lineage) = (me, lineage);
                kept.taken += 1;
                found(from.id, kept)
            }))
        })
    }

    fn give_up(&self, id: SessionId) -> u64 {
        self.world.0.lock().sessions.get(&id).map_or(0, |kept| kept.taken)
    }

    fn seal(&self, incarnation: u64) -> StoreFuture<Sealing> {
        let mut state = self.world.0.lock();
        if let Some(by) = state.sealed.get(&incarnation) {
            return Self::now(Ok(Sealing::Others(*by)));
        }
        let held = self.world.1.hold_seal.load(Ordering::SeqCst);
        if held || !state.dead.contains(&incarnation) {
            return Self::now(Ok(Sealing::Alive));
        }
        let (orphaned, world) = (state.seal(incarnation, self.incarnation), self.world.clone());
        Box::pin(async move {
            while_held(|| world.1.hold_sealed.load(Ordering::SeqCst)).await;
            Ok(Sealing::Ours(Box::new(orphaned)))
        })
    }
}
