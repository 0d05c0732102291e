//! What an incarnation that shares its keyspace does beyond living: it follows the one before it,
//! reserves stamps above those of whom it takes over from, and seals others on demand.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hydrant_actors::ports::StoreError;

use super::record::{ALONE, owner};
use super::{Incarnation, Predecessor, RESERVE, S, Stamps, patiently, read};
use crate::cassandra::db::{Applied, Bound, Db};
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
