//! What an incarnation does about those of other nodes: it claims the dead of a keyspace that it has
//! for itself, or seals one on demand; it follows the one before it, and reserves write timestamps above those
//! of whom it takes over from.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::try_join_all;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use hydrant_actors::ports::{KnownIncarnation, StoreError};
use tokio::time::{Instant, sleep};

use super::record::{ALONE, Ended, Found, big, chain, owner};
use super::{
    Incarnation, PARALLEL, Predecessor, RELEASED, RESERVE, S, Timestamps, cannot_claim, ours,
    patiently, read,
};
use crate::cassandra::columns::long;
use crate::cassandra::db::{Applied, Bound, CassandraError, Db};

/// How [`Incarnation::seal_other`] ended.
#[derive(Debug)]
pub(in crate::cassandra) enum Sealed {
    /// It is ours, and what it had sealed itself; oldest first.
    Ours(Vec<Predecessor>),
    /// It is another one's; zero: nothing is left of it.
    Others(u64),
    /// It renews its lease.
    Alive,
}

impl Incarnation {
    /// Each one that nobody had sealed, and how that ended. All are watched at once.
    pub(super) async fn seal_dead(
        &self,
        db: &Db,
        open: Vec<Found>,
    ) -> Result<Vec<(Ended, Found)>, StoreError> {
        let attempts = open.into_iter().filter(|found| !found.is_sealed()).map(|found| async {
            let ended = self.seal_when_dead(db, &found).await?;
            Ok((ended, found))
        });
        try_join_all(attempts).await
    }

    /// Watches an incarnation that nobody had sealed until it is surely dead, and seals it. Its next start and
    /// its successor on another node may both do so: one of them wins, and the other goes on without.
    pub(super) async fn seal_when_dead(&self, db: &Db, first: &Found) -> Result<Ended, StoreError> {
        let mut found = first.clone();
        let mut watched = Instant::now() + first.watch();
        let pause = (first.lease / 20).clamp(Duration::from_millis(20), Duration::from_secs(1));
        while !self.is_dead(&found) && Instant::now() < watched {
            sleep(pause).await;
            let asked = Instant::now();
            let now = patiently(|| read(db, found.number)).await?;
            if asked.elapsed() > pause * 4 {
                // The store was away, also for the one that is watched: it gets its time again.
                watched = Instant::now() + first.watch();
            }
            match now {
                Some(now) if !now.is_sealed() => {
                    if now.renewal != found.renewal && now.renewal != RELEASED {
                        return Ok(Ended::Alive);
                    }
                    found = now;
                }
                now => return Ok(Ended::of(now.as_ref(), self.number)),
            }
        }
        self.seal(db, &found).await
    }

    /// Becomes the owner where nothing has changed since `found` was read.
    pub(super) async fn seal(&self, db: &Db, found: &Found) -> Result<Ended, StoreError> {
        if !self.may_acknowledge() {
            let why = "the lease of this node is over".to_owned();
            return Err(StoreError::Unavailable(why));
        }
        patiently(|| async {
            let values =
                vec![long(self.number), long(found.number), long(found.owner), big(found.renewal)];
            match db.conditional(Bound { statement: S::IncarnationSeal, values }).await {
                Ok(Applied::Yes) => Ok(Ended::Ours),
                Ok(Applied::No(_)) => {
                    let now = read(db, found.number).await?;
                    Ok(Ended::of(now.as_ref(), self.number))
                }
                Err(error) => match read(db, found.number).await? {
                    Some(now) if now == *found => Err(error),
                    now => Ok(Ended::of(now.as_ref(), self.number)),
                },
            }
        })
        .await
    }

    /// [`Self::claim`] and [`Self::claim_dead`], for a broker that has the keyspace for itself: every
    /// session in it is this node's, so nobody else may write there.
    ///
    /// # Errors
    /// As [`Self::claim`]; another broker, with another node id, is running on this keyspace.
    pub async fn claim_alone(&self, db: &Db) -> Result<Vec<Predecessor>, CassandraError> {
        let in_use = |alive: &str| {
            format!(
                "keyspace {} is in use by the running node \"{alive}\": give each node its own \
                 (cassandra.keyspace), or stop that one",
                db.keyspace()
            )
        };
        self.claim_with(db, |_| true, in_use).await
    }

    /// [`Self::claim`] for a broker that shares the keyspace: of other node ids only those that had
    /// it for themselves are taken over.
    ///
    /// # Errors
    /// As [`Self::claim`]; one that has the keyspace for itself is running.
    pub async fn claim_shared(&self, db: &Db) -> Result<Vec<Predecessor>, CassandraError> {
        let in_use = |alive: &str| {
            format!(
                "keyspace {} is in use by the running node \"{alive}\", which is in no cluster and \
                 has it for itself: stop that one, or give this cluster another keyspace \
                 (cassandra.keyspace)",
                db.keyspace()
            )
        };
        self.claim_with(db, |found| found.lineage == ALONE, in_use).await
    }

    async fn claim_with(
        &self,
        db: &Db,
        concerns: impl Fn(&Found) -> bool,
        in_use: impl Fn(&str) -> String,
    ) -> Result<Vec<Predecessor>, CassandraError> {
        let mut claimed = self.claim(db).await?;
        let error = match self.claim_others(db, concerns).await {
            Ok((dead, None)) => {
                claimed.extend(dead);
                // Those that are ours already are found again.
                claimed.sort_unstable_by_key(|predecessor| predecessor.number);
                claimed.dedup_by_key(|predecessor| predecessor.number);
                return Ok(claimed);
            }
            Ok((_, Some(alive))) => CassandraError(in_use(&alive)),
            Err(error) => cannot_claim(error),
        };
        self.release(db).await;
        Err(error)
    }

    /// The same for dead incarnations of every other node id: watches for one lease. Who renews
    /// meanwhile is left alone; the node id of one of these, where there is one.
    ///
    /// Among them may be some with higher write timestamps than ours: see `raise`.
    ///
    /// # Errors
    /// Cassandra does not answer.
    pub async fn claim_dead(
        &self,
        db: &Db,
    ) -> Result<(Vec<Predecessor>, Option<String>), StoreError> {
        self.claim_others(db, |_| true).await
    }

    async fn claim_others(
        &self,
        db: &Db,
        concerns: impl Fn(&Found) -> bool,
    ) -> Result<(Vec<Predecessor>, Option<String>), StoreError> {
        let all = self.all(db).await?;
        let others = all.values().filter(|found| found.node_id != self.node_id && concerns(found));
        let others = others.cloned();
        let ended = self.seal_dead(db, others.collect()).await?;
        let alive = ended.iter().find(|(ended, _)| *ended == Ended::Alive);
        let alive = alive.map(|(_, found)| found.node_id.clone());
        // Again: what these had sealed while they were watched.
        let all = self.all(db).await?;
        Ok((self.take_chain(db, &all, ours(ended)).await?, alive))
    }

    /// The number under which its sessions are held; [`ALONE`] where it has the keyspace for itself.
    pub(in crate::cassandra) fn lineage(&self) -> u64 {
        self.lineage.load(Ordering::Acquire)
    }

    /// Its clock.
    pub(in crate::cassandra) fn timestamps(&self) -> Arc<Timestamps> {
        Arc::clone(&self.timestamps)
    }

    /// Renews its lease no more, as a frozen process would not.
    pub(in crate::cassandra) fn freeze(&self) {
        self.frozen.store(true, Ordering::Release);
    }

    /// Whether [`Self::freeze`] was called.
    pub(in crate::cassandra) fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire)
    }

    /// Goes on with the lineage of its node: the first of those that are among `dead`, so that one which
    /// did not get beyond its start begins no other.
    ///
    /// # Errors
    /// It is not known to be written, or this incarnation is sealed.
    pub(in crate::cassandra) async fn join_lineage(
        &self,
        db: &Db,
        dead: &[Predecessor],
    ) -> Result<(), StoreError> {
        // Without the row of its first nobody would find who has it.
        let has_first = |lineage| dead.iter().any(|one| one.number == lineage);
        let lineages =
            dead.iter().filter(|one| one.node_id == self.node_id && one.lineage != ALONE);
        let Some(lineage) =
            lineages.map(|one| one.lineage).filter(|lineage| has_first(*lineage)).min()
        else {
            return Ok(());
        };
        self.set_lineage(db, self.number, lineage).await?;
        self.lineage.store(lineage, Ordering::Release);
        Ok(())
    }

    /// The lineage of an incarnation that this one is, or has sealed.
    ///
    /// # Errors
    /// It is not known to be written, or not ours any more.
    pub(in crate::cassandra) async fn set_lineage(
        &self,
        db: &Db,
        of: u64,
        lineage: u64,
    ) -> Result<(), StoreError> {
        patiently(|| async {
            let values = vec![long(lineage), long(of), long(self.number)];
            match db.conditional(Bound { statement: S::IncarnationLine, values }).await? {
                Applied::Yes => Ok(()),
                Applied::No(_) => Err(StoreError::Unusable(format!(
                    "incarnation {of} does not belong to incarnation {} any more",
                    self.number
                ))),
            }
        })
        .await
    }

    /// Makes every write timestamp from now on higher than `above`, and sees that there are enough. It is in
    /// the row before one of them is given.
    ///
    /// # Errors
    /// It is not known to be in the row; `Unusable`: there are none left, or this one is sealed.
    pub(in crate::cassandra) async fn raise(&self, db: &Db, above: u64) -> Result<(), StoreError> {
        let mut reserved = self.reserved.lock().await;
        let base = above.max(self.timestamps.last());
        if base + RESERVE / 2 <= self.timestamps.until() {
            self.timestamps.jump(above);
            return Ok(());
        }
        let until = base + RESERVE;
        if i64::try_from(until).is_err() {
            let why = "the keyspace has no write timestamps left: use a new keyspace";
            return Err(StoreError::Unusable(why.to_owned()));
        }
        // What an earlier attempt wrote that was not answered is learnt from a refusal.
        for _ in 0..3 {
            let values = vec![long(until), long(self.number), long(self.number), long(*reserved)];
            let now =
                match db.conditional(Bound { statement: S::IncarnationTimestamps, values }).await {
                    Ok(Applied::Yes) => until,
                    Ok(Applied::No(row)) => {
                        if owner(row.as_ref())? != Some(self.number) {
                            return Err(self.not_ours());
                        }
                        let timestamps = row.map(|row| row.u64("stamps")).transpose()?;
                        timestamps.unwrap_or_default()
                    }
                    Err(error) => match read(db, self.number).await? {
                        Some(now) if now.is_sealed() => return Err(self.not_ours()),
                        Some(now) if now.timestamps == until => until,
                        _ => return Err(error),
                    },
                };
            *reserved = now;
            if now >= until {
                self.timestamps.reserved(now);
                self.timestamps.jump(above);
                return Ok(());
            }
        }
        Err(StoreError::Unavailable("no write timestamps could be reserved".to_owned()))
    }

    fn not_ours(&self) -> StoreError {
        StoreError::Unusable(format!("incarnation {} is sealed by another", self.number))
    }

    /// Seals another incarnation once it is dead, and what it had sealed.
    ///
    /// # Errors
    /// Cassandra does not answer.
    pub(in crate::cassandra) async fn seal_other(
        &self,
        db: &Db,
        number: u64,
    ) -> Result<Sealed, StoreError> {
        let Some(found) = patiently(|| read(db, number)).await? else {
            return Ok(Sealed::Others(0));
        };
        if number == self.number {
            return Ok(Sealed::Alive);
        }
        let ended = match found.is_sealed() {
            true => Ended::of(Some(&found), self.number),
            false => self.seal_when_dead(db, &found).await?,
        };
        match ended {
            Ended::Ours => {}
            Ended::Alive => return Ok(Sealed::Alive),
            Ended::Others(owner) => {
                let all = self.all(db).await?;
                let end = end_of(&all, &found);
                // Its owner was sealed by us, or is forgotten, and did not take it along.
                if end != self.number && all.contains_key(&end) {
                    return Ok(Sealed::Others(owner));
                }
                let found = patiently(|| read(db, number)).await?;
                if let Some(found) = found
                    && self.seal(db, &found).await? != Ended::Ours
                {
                    return Ok(Sealed::Others(owner));
                }
            }
            Ended::Gone => return Ok(Sealed::Others(0)),
        }
        let all = self.all(db).await?;
        // Of what was ours before, and of which nothing is to be done, too.
        Ok(Sealed::Ours(self.take_chain(db, &all, [number].into()).await?))
    }

    /// Seals again, for us, what those in `heads` had sealed themselves; the latter included.
    pub(super) async fn take_chain(
        &self,
        db: &Db,
        all: &BTreeMap<u64, Found>,
        heads: BTreeSet<u64>,
    ) -> Result<Vec<Predecessor>, StoreError> {
        let mut ours = heads;
        for found in chain(all, self.number, &ours) {
            if found.owner == self.number || self.seal(db, found).await? == Ended::Ours {
                ours.insert(found.number);
            }
        }
        // Read again: a row says for good how far its write timestamps reach only when it is sealed.
        let found = stream::iter(ours)
            .map(|number| patiently(move || read(db, number)))
            .buffered(PARALLEL)
            .try_collect::<Vec<_>>()
            .await?;
        let predecessor = |found: Found| Predecessor {
            number: found.number,
            lanes: found.lanes,
            node_id: found.node_id,
            lineage: found.lineage,
            timestamps: found.timestamps,
        };
        Ok(found.into_iter().flatten().map(predecessor).collect())
    }

    /// Every other incarnation with a part in a shared keyspace, and the end of its chain of owners.
    ///
    /// # Errors
    /// Cassandra does not answer.
    pub(in crate::cassandra) async fn known(
        &self,
        db: &Db,
    ) -> Result<Vec<KnownIncarnation>, StoreError> {
        let all = self.all(db).await?;
        let shared = all.values().filter(|found| found.lineage != ALONE);
        let known = shared.map(|found| KnownIncarnation {
            number: found.number,
            node: found.node_id.as_str().into(),
            lineage: found.lineage,
            owner: end_of(&all, found),
            released: found.renewal == RELEASED,
            lease: found.lease,
        });
        Ok(known.collect())
    }
}

/// The end of a chain of owners: one that nobody has sealed, or this incarnation itself, which has no row in `all`.
fn end_of(all: &BTreeMap<u64, Found>, first: &Found) -> u64 {
    let mut end = first;
    // Who seals has a higher number than those that it seals, so there is an end.
    for _ in 0..all.len() {
        match all.get(&end.owner) {
            Some(owner) if owner.number != end.number => end = owner,
            Some(_) => break,
            None => return end.owner,
        }
    }
    end.owner
}
