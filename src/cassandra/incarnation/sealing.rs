//! What an incarnation does about those of other nodes: it claims the dead of a keyspace that it has
//! for itself, or seals one on demand; it follows the one before it, and reserves stamps above those
//! of whom it takes over from.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hydrant_actors::ports::StoreError;

use super::record::{ALONE, Found, owner};
use super::{Incarnation, Predecessor, RESERVE, S, Stamps, cannot_claim, patiently, read};
use crate::cassandra::db::{Applied, Bound, CassandraError, Db};
use crate::cassandra::plan::long;

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
        self.claim_with(db, |found| found.line == ALONE, in_use).await
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
    /// Among them may be some with higher stamps than ours: see `raise`.
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
        let sealed = self.seal_dead(db, others.collect()).await?;
        let alive = sealed.iter().find(|(sealed, _)| !sealed);
        let alive = alive.map(|(_, found)| found.node_id.clone());
        let dead = sealed.into_iter().filter(|(sealed, _)| *sealed);
        let dead = dead.map(|(_, found)| found.number).collect();
        Ok((self.take_chain(db, &all, dead).await?, alive))
    }

    /// The number under which its sessions are held; [`ALONE`] where it has the keyspace for itself.
    pub(in crate::cassandra) fn line(&self) -> u64 {
        self.line.load(Ordering::Acquire)
    }

    /// Its clock.
    pub(in crate::cassandra) fn stamps(&self) -> Arc<Stamps> {
        Arc::clone(&self.stamps)
    }

    /// Renews its lease no more, as a frozen process would not.
    pub(in crate::cassandra) fn freeze(&self) {
        self.frozen.store(true, Ordering::Release);
    }

    /// Whether [`Self::freeze`] was called.
    pub(in crate::cassandra) fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire)
    }

    /// Goes on with the line of its node: the first of those that are among `dead`, so that one which
    /// did not get beyond its start begins no other.
    ///
    /// # Errors
    /// It is not known to be written, or this incarnation is sealed.
    pub(in crate::cassandra) async fn join_line(
        &self,
        db: &Db,
        dead: &[Predecessor],
    ) -> Result<(), StoreError> {
        // Without the row of its first nobody would find who has it.
        let has_first = |line| dead.iter().any(|one| one.number == line);
        let lines = dead.iter().filter(|one| one.node_id == self.node_id && one.line != ALONE);
        let Some(line) = lines.map(|one| one.line).filter(|line| has_first(*line)).min() else {
            return Ok(());
        };
        self.set_line(db, self.number, line).await?;
        self.line.store(line, Ordering::Release);
        Ok(())
    }

    /// The line of an incarnation that this one is, or has sealed.
    ///
    /// # Errors
    /// It is not known to be written, or not ours any more.
    pub(in crate::cassandra) async fn set_line(
        &self,
        db: &Db,
        of: u64,
        line: u64,
    ) -> Result<(), StoreError> {
        patiently(|| async {
            let values = vec![long(line), long(of), long(self.number)];
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

    /// Makes every stamp from now on higher than `above`, and sees that there are enough. It is in
    /// the row before one of them is given.
    ///
    /// # Errors
    /// It is not known to be in the row; `Unusable`: there are none left, or this one is sealed.
    pub(in crate::cassandra) async fn raise(&self, db: &Db, above: u64) -> Result<(), StoreError> {
        let mut reserved = self.reserved.lock().await;
        let base = above.max(self.stamps.last());
        if base + RESERVE / 2 <= self.stamps.until() {
            self.stamps.jump(above);
            return Ok(());
        }
        let until = base + RESERVE;
        if i64::try_from(until).is_err() {
            let why = "the keyspace has no stamps left: use a new keyspace";
            return Err(StoreError::Unusable(why.to_owned()));
        }
        // What an earlier attempt wrote that was not answered is learnt from a refusal.
        for _ in 0..3 {
            let values = vec![long(until), long(self.number), long(self.number), long(*reserved)];
            let now = match db.conditional(Bound { statement: S::IncarnationStamps, values }).await
            {
                Ok(Applied::Yes) => until,
                Ok(Applied::No(row)) => {
                    if owner(row.as_ref())? != Some(self.number) {
                        return Err(self.not_ours());
                    }
                    let stamps = row.map(|row| row.u64("stamps")).transpose()?;
                    stamps.unwrap_or_default()
                }
                Err(error) => match read(db, self.number).await? {
                    Some(now) if now.is_sealed() => return Err(self.not_ours()),
                    Some(now) if now.stamps == until => until,
                    _ => return Err(error),
                },
            };
            *reserved = now;
            if now >= until {
                self.stamps.reserved(now);
                self.stamps.jump(above);
                return Ok(());
            }
        }
        Err(StoreError::Unavailable("no stamps could be reserved".to_owned()))
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
        if !found.is_sealed() && !self.seal_when_dead(db, &found).await? {
            return Ok(match patiently(|| read(db, number)).await? {
                None => Sealed::Others(0),
                Some(now) if now.owner == self.number => return Err(undecided(number)),
                Some(now) if now.is_sealed() => Sealed::Others(now.owner),
                Some(_) => Sealed::Alive,
            });
        }
        if found.is_sealed() && found.owner != self.number {
            return Ok(Sealed::Others(found.owner));
        }
        let all = self.all(db).await?;
        // Of what was ours before, and of which nothing is to be done, too.
        Ok(Sealed::Ours(self.take_chain(db, &all, [number].into()).await?))
    }
}

fn undecided(number: u64) -> StoreError {
    StoreError::Unavailable(format!("incarnation {number} was sealed by two attempts at once"))
}
