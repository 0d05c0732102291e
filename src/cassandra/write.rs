//! Does what a [`Plan`] says, in its order, while this incarnation's lease runs.

use futures_util::future::{try_join, try_join_all};
use futures_util::stream::{FuturesUnordered, TryStreamExt};
use hydrant_actors::ports::StoreError;

use super::columns::{held_delete, long, text};
use super::db::{Applied, Bound};
use super::inner::Inner;
use super::order::Place;
use super::owned_sessions::Holding;
use super::plan::receipts;
use super::planned::Plan;
use super::statements::Statement as S;
use super::{holder, read, recover};

impl Inner {
    /// Does what a plan says, once those are done that it follows.
    pub(super) async fn write(&self, plan: &mut Plan, place: &mut Place) -> Result<(), StoreError> {
        self.may_begin()?;
        for (id, timestamp) in std::mem::take(&mut plan.deleted) {
            for bucket in read::buckets_of(&self.db, id, 0).await?.into_keys() {
                let values = vec![long(timestamp), long(id), long(bucket)];
                plan.single.push(Bound { statement: S::DeleteQueue, values });
            }
        }
        let index = plan.epochs.iter().filter_map(|epoch| epoch.index.clone());
        let index = try_join_all(index.map(|bound| self.db.write(bound)));
        try_join(try_join_all(plan.epochs.iter().map(|epoch| self.raise(epoch))), index).await?;
        if !place.comes().await {
            let why = "a write that this one has to follow was not done";
            return Err(StoreError::Unavailable(why.to_owned()));
        }
        if place.in_turn {
            self.finish_half_done().await?;
        }
        receipts::bind(&self.memory.lock(), plan);
        if plan.atomic {
            plan.journaled = Some(self.journal(plan).await?);
        }
        let writes = FuturesUnordered::new();
        for bound in std::mem::take(&mut plan.single) {
            writes.push(self.request(vec![bound]));
        }
        for batch in std::mem::take(&mut plan.batches) {
            writes.push(self.request(batch));
        }
        let prepared = std::mem::take(&mut plan.prepared);
        let prepared = async {
            for batch in prepared {
                self.request(batch).await?;
            }
            Ok(())
        };
        try_join(writes.try_collect::<()>(), prepared).await?;
        for stage in std::mem::take(&mut plan.then) {
            try_join_all(stage.into_iter().map(|bound| self.db.write(bound))).await?;
        }
        let last = std::mem::take(&mut plan.last);
        try_join_all(last.into_iter().map(|batch| self.request(batch))).await?;
        for (client_id, id, timestamp) in &plan.ended {
            self.may_begin()?;
            let values = vec![text(client_id), long(*id), long(*timestamp)];
            let dropped = self.db.conditional(Bound { statement: S::DropHeld, values }).await?;
            if let Applied::No(Some(row)) = dropped
                && row.optional_i64("id")?.map(i64::cast_unsigned) == Some(*id)
            {
                return Err(holder::taken_over(client_id));
            }
            let holding =
                self.memory.lock().owned_sessions.as_ref().and_then(|owned| owned.get(*id));
            if let Some(Holding { lineage, .. }) = holding {
                self.db.write(held_delete(lineage, *id, *timestamp)).await?;
            }
        }
        self.check()
    }

    /// What stands in the journal and failed after that is done first: its receipts belong into
    /// what is written next, and its slot is not needed any more.
    async fn finish_half_done(&self) -> Result<(), StoreError> {
        let Some(half) = self.memory.lock().half_done.take() else { return Ok(()) };
        let slot = half.journaled.unwrap_or_default();
        let redone = recover::redo(&self.db, self.incarnation.number, &[slot]).await;
        let mut memory = self.memory.lock();
        match redone {
            Ok(()) => memory.succeeded(&half),
            Err(_) => memory.half_done = Some(half),
        }
        redone
    }

    async fn request(&self, mut bounds: Vec<Bound>) -> Result<(), StoreError> {
        match (bounds.len(), bounds.pop()) {
            (1, Some(bound)) => self.db.write(bound).await,
            (_, Some(last)) => {
                bounds.push(last);
                self.db.batch(bounds).await
            }
            (_, None) => Ok(()),
        }
    }

    /// Whoever wakes after its lease has ended begins nothing: what it would remove now may be
    /// another's.
    pub(super) fn may_begin(&self) -> Result<(), StoreError> {
        // In tests: frozen just behind this.
        if self.incarnation.is_frozen() { Ok(()) } else { self.check() }
    }

    /// A write that was done after the lease ended may have been overwritten by a successor.
    fn check(&self) -> Result<(), StoreError> {
        if let Some(why) = self.incarnation.lost() {
            return Err(StoreError::Unusable(why));
        }
        if self.incarnation.may_acknowledge() {
            return Ok(());
        }
        Err(StoreError::Unavailable(
            "this node's lease in Cassandra has ended and is not renewed yet".to_owned(),
        ))
    }
}
