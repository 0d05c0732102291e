//! Incarnations: every start of a node has a number of its own, above all numbers before it, and a
//! lease. Who comes after it seals it, and from then on owns what it left.
//!
//! Invariants:
//! - A number is taken by a conditional write, and is never given twice.
//! - The row of an incarnation is written conditionally only. `owner` is its own number while it is
//!   alive; it renews its lease by raising `renewal` where it still is the owner. A successor seals
//!   it by becoming the owner where `renewal` is what it saw, after which no renewal succeeds.
//! - The lease ends one `lease_ms` after the last renewal that is known to have succeeded was
//!   *sent*, by the boot-time clock, which goes on while the machine sleeps. A successor that does
//!   not know the process to be dead watches `renewal` stand still for longer than that, by its own
//!   monotonic clock: no two clocks are ever compared.
//! - What a conditional write that timed out has done is asked of a serial read, not guessed.
//!
//! Bounds: one row an incarnation, until what it left is drained ([`Incarnation::forget`]).

mod record;
mod sealing;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use hydrant_actors::ports::{SealedIncarnation, StoreError};
use hydrant_actors::say;
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use super::columns::{int, long, text};
use super::db::{Applied, Bound, CassandraError, Db};
use super::statements::Statement as S;
use super::timestamps::{RESERVE, Timestamps};
pub(super) use record::{ALONE, follow, patiently, read};
use record::{Ended, Found};
use record::{PAUSE, RELEASED, big, next_number, owner, reason};
pub(super) use sealing::Sealed;

/// A start that is so many starts ago and has no row will not write one any more.
const ABANDONED: u64 = 1000;
/// Said of a node id that another has.
pub const IN_USE: &str = "is in use by another running broker";
/// Rows read at once.
const PARALLEL: usize = 16;

/// A sealed incarnation whose outbox, wills and journal are now ours to drain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Predecessor {
    /// Its number.
    pub number: u64,
    /// How many lanes of its own it had.
    pub lanes: u16,
    /// Which node it was.
    pub node_id: String,
    /// The first of those that followed each other, this one the last or in between; zero of one
    /// that had the keyspace for itself. Its sessions are held under this number.
    pub lineage: u64,
    /// The highest write timestamp that it may have given.
    pub timestamps: u64,
}

impl Predecessor {
    /// As the actors know it.
    pub fn sealed(&self) -> SealedIncarnation {
        SealedIncarnation { number: self.number, lineage: self.lineage }
    }
}

/// One start of this node.
#[derive(Debug)]
pub struct Incarnation {
    /// Its number: greater than that of every incarnation before it.
    pub number: u64,
    node_id: String,
    instance: String,
    lease: Duration,
    /// Under it its sessions are held and its lanes go on: see [`Predecessor::lineage`].
    lineage: AtomicU64,
    timestamps: Arc<Timestamps>,
    /// The write timestamps that its row says. Held while more are reserved.
    reserved: tokio::sync::Mutex<u64>,
    /// End of the lease, boot time in nanoseconds.
    until: AtomicU64,
    /// The last renewal that was sent. Held while one is under way.
    renewal: tokio::sync::Mutex<i64>,
    released: AtomicBool,
    /// Renews no more: as if its process were frozen.
    frozen: AtomicBool,
    lost: Mutex<Option<String>>,
}

impl Incarnation {
    /// Takes the next number and a lease.
    ///
    /// `instance` names what at most one living process has (the data directory, by its lock);
    /// `shared`: other nodes live in this keyspace.
    ///
    /// # Errors
    /// Cassandra does not answer, or all numbers are used up.
    pub async fn begin(
        db: &Db,
        node_id: &str,
        instance: &str,
        lanes: u16,
        lease: Duration,
        shared: bool,
    ) -> Result<Arc<Self>, CassandraError> {
        let begun = Self::try_begin(db, node_id, instance, lanes, lease, shared).await;
        begun.map(Arc::new).map_err(|error| {
            CassandraError(format!(
                "no incarnation can be begun in Cassandra: {}; see that a majority of the replicas \
                 is up, and start again",
                reason(error)
            ))
        })
    }

    async fn try_begin(
        db: &Db,
        node_id: &str,
        instance: &str,
        lanes: u16,
        lease: Duration,
        shared: bool,
    ) -> Result<Self, StoreError> {
        let number = next_number(db).await?;
        let (lineage, timestamps) = (if shared { number } else { ALONE }, Timestamps::new(number));
        patiently(|| db.write(Bound { statement: S::IndexPut, values: vec![long(number)] }))
            .await?;
        let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        let sent = boot_time();
        patiently(|| async {
            let values = vec![
                long(number),
                text(node_id),
                text(instance),
                int(lanes.into()),
                long(lease_ms),
                long(number),
                long(lineage),
                long(timestamps.until()),
            ];
            match db.conditional(Bound { statement: S::IncarnationFirst, values }).await {
                // The number is ours alone, so a row that is there is ours, too.
                Ok(_) => Ok(()),
                Err(error) => match read(db, number).await? {
                    Some(_) => Ok(()),
                    None => Err(error),
                },
            }
        })
        .await?;
        Ok(Self {
            number,
            node_id: node_id.to_owned(),
            instance: instance.to_owned(),
            lease,
            lineage: AtomicU64::new(lineage),
            reserved: tokio::sync::Mutex::new(timestamps.until()),
            timestamps: Arc::new(timestamps),
            until: AtomicU64::new(lease_end(sent, lease)),
            renewal: tokio::sync::Mutex::new(0),
            released: AtomicBool::new(false),
            frozen: AtomicBool::new(false),
            lost: Mutex::new(None),
        })
    }

    /// Seals the dead predecessors of the same node id, and what these had sealed and not drained.
    /// All that are ours to drain, oldest first. Takes a little more than their lease where the
    /// predecessor had another data directory and did not end cleanly.
    ///
    /// # Errors
    /// Another broker with this node id is running (this incarnation is released then), or
    /// Cassandra does not answer.
    pub async fn claim(&self, db: &Db) -> Result<Vec<Predecessor>, CassandraError> {
        let error = match self.try_claim(db).await {
            Ok(Ok(claimed)) => return Ok(claimed),
            Ok(Err(in_use)) => in_use,
            Err(error) => cannot_claim(error),
        };
        self.release(db).await;
        Err(error)
    }

    async fn try_claim(
        &self,
        db: &Db,
    ) -> Result<Result<Vec<Predecessor>, CassandraError>, StoreError> {
        let all = self.all(db).await?;
        let same: Vec<Found> =
            all.values().filter(|found| found.node_id == self.node_id).cloned().collect();
        // Of two that start together the later one goes on: both see each other here, because
        // each had written its row before it read.
        if let Some(later) = same.iter().find(|found| found.number > self.number) {
            return Ok(Err(self.in_use(later)));
        }
        let ended = self.seal_dead(db, same).await?;
        if let Some((_, alive)) = ended.iter().find(|(ended, _)| *ended == Ended::Alive) {
            return Ok(Err(self.in_use(alive)));
        }
        // Again: what these had sealed while they were watched.
        let all = self.all(db).await?;
        self.take_chain(db, &all, ours(ended)).await.map(Ok)
    }

    /// Every incarnation that has a row, but this.
    async fn all(&self, db: &Db) -> Result<BTreeMap<u64, Found>, StoreError> {
        let index = || db.rows(Bound { statement: S::IndexRead, values: vec![int(0)] });
        let rows = patiently(index).await?;
        let numbers = rows.iter().map(|row| row.u64("number")).collect::<Result<Vec<_>, _>>()?;
        let found = stream::iter(numbers.into_iter().filter(|number| *number != self.number))
            .map(|number| async move {
                let found = patiently(|| read(db, number)).await?;
                if found.is_none() && number + ABANDONED < self.number {
                    // It never began, or was forgotten.
                    let values = vec![long(number)];
                    db.write(Bound { statement: S::IndexDelete, values }).await?;
                }
                Ok::<_, StoreError>(found)
            })
            .buffered(PARALLEL)
            .try_collect::<Vec<_>>()
            .await?;
        Ok(found.into_iter().flatten().map(|found| (found.number, found)).collect())
    }

    /// Its process is surely dead: it ended cleanly, or had the data directory that we hold the
    /// lock of.
    fn is_dead(&self, found: &Found) -> bool {
        let ours = found.node_id == self.node_id && found.instance == self.instance;
        ours || found.renewal == RELEASED
    }

    fn in_use(&self, by: &Found) -> CassandraError {
        CassandraError(format!(
            "node id \"{}\" {IN_USE} (incarnation {}; this one is {}): give each node its own \
             --node-id",
            self.node_id, by.number, self.number
        ))
    }

    /// Whether the lease still runs: what was written may be acknowledged.
    pub fn may_acknowledge(&self) -> bool {
        boot_time() < self.until.load(Ordering::Acquire) && !self.released.load(Ordering::Acquire)
    }

    /// Why it is over for good, once it is.
    pub fn lost(&self) -> Option<String> {
        self.lost.lock().clone()
    }

    /// Renews every third of the lease in the background, until dropped, released or lost.
    pub fn spawn_renewal(self: &Arc<Self>, db: Db) {
        let (weak, period) = (Arc::downgrade(self), self.lease / 3);
        tokio::spawn(async move {
            let (mut pause, mut failing) = (period, false);
            loop {
                sleep(pause).await;
                let Some(me) = weak.upgrade() else { return };
                if me.frozen.load(Ordering::Acquire) {
                    return;
                }
                match me.renew(&db).await {
                    Ok(true) => {
                        if let Err(error) = me.raise(&db, 0).await {
                            say::warn!(
                                "no write timestamps are reserved in Cassandra: {}",
                                reason(error)
                            );
                        }
                        if std::mem::take(&mut failing) {
                            say::info!("the lease in Cassandra is renewed again");
                        }
                        pause = period;
                    }
                    Ok(false) => return,
                    Err(error) => {
                        // Once, not at every attempt.
                        if !std::mem::replace(&mut failing, true) {
                            say::warn!("the lease in Cassandra is not renewed: {}", reason(error));
                        }
                        pause = (PAUSE * 5).min(period);
                    }
                }
            }
        });
    }

    /// Whether to go on renewing. Errors leave the lease as it was; the next attempt has a higher
    /// number, so that a serial read tells one from the other.
    async fn renew(&self, db: &Db) -> Result<bool, StoreError> {
        let mut last = self.renewal.lock().await;
        if self.released.load(Ordering::Acquire) || self.lost().is_some() {
            return Ok(false);
        }
        *last += 1;
        let renewal = *last;
        let sent = boot_time();
        let values = vec![big(renewal), long(self.number), long(self.number)];
        match db.conditional(Bound { statement: S::IncarnationRenew, values }).await {
            Ok(Applied::Yes) => self.extend(sent),
            Ok(Applied::No(row)) => self.sealed_by(owner(row.as_ref())?),
            Err(error) => match read(db, self.number).await? {
                Some(now) if now.is_sealed() => self.sealed_by(Some(now.owner)),
                Some(now) if now.renewal == renewal => self.extend(sent),
                Some(_) => return Err(error),
                None => self.sealed_by(None),
            },
        }
        Ok(self.lost().is_none())
    }

    fn extend(&self, sent: u64) {
        self.until.store(lease_end(sent, self.lease), Ordering::Release);
    }

    fn sealed_by(&self, owner: Option<u64>) {
        if owner == Some(self.number) {
            return;
        }
        self.until.store(0, Ordering::Release);
        let by = owner.map_or_else(String::new, |owner| format!(" by incarnation {owner}"));
        *self.lost.lock() = Some(format!(
            "incarnation {} of node \"{}\" was sealed{by}: another broker took over what it stored \
             when it had not renewed its lease of {:?} in time; start this one again, with a node \
             id that no other has",
            self.number, self.node_id, self.lease
        ));
    }

    /// A clean stop: nothing is acknowledged any more, and a successor need not wait for the lease
    /// to end. Takes one lease at most; without an answer the successor waits.
    pub async fn release(&self, db: &Db) {
        self.released.store(true, Ordering::Release);
        let release = async {
            // Not before a renewal that is under way: that would take the mark back.
            let _last = self.renewal.lock().await;
            if self.lost().is_some() {
                return;
            }
            let values = vec![big(RELEASED), long(self.number), long(self.number)];
            let released = db.conditional(Bound { statement: S::IncarnationRenew, values }).await;
            if let Err(error) = released {
                say::warn!(
                    "Cassandra does not say whether this incarnation is released ({}): the next \
                     start of this node may have to wait for {:?}",
                    reason(error),
                    self.lease
                );
            }
        };
        let _ = timeout(self.lease, release).await;
    }

    /// A drained predecessor's row and index entry are removed.
    ///
    /// # Errors
    /// It is not known to be removed: do it again. `Unusable`: it is not ours any more.
    pub async fn forget(&self, db: &Db, predecessor: u64) -> Result<(), StoreError> {
        let values = || vec![long(predecessor), long(self.number)];
        patiently(|| async {
            let bound = Bound { statement: S::IncarnationDelete, values: values() };
            let owner = match db.conditional(bound).await {
                Ok(Applied::Yes) => return Ok(()),
                Ok(Applied::No(row)) => owner(row.as_ref())?,
                Err(error) => match read(db, predecessor).await?.map(|found| found.owner) {
                    Some(owner) if owner == self.number => return Err(error),
                    owner => owner,
                },
            };
            owner.map_or(Ok(()), |owner| {
                Err(StoreError::Unusable(format!(
                    "incarnation {predecessor} belongs to incarnation {owner}, not to this one"
                )))
            })
        })
        .await?;
        let index = || Bound { statement: S::IndexDelete, values: vec![long(predecessor)] };
        patiently(|| db.write(index())).await
    }
}

/// Those that are ours now.
fn ours(ended: Vec<(Ended, Found)>) -> BTreeSet<u64> {
    let ours = ended.into_iter().filter(|(ended, _)| *ended == Ended::Ours);
    ours.map(|(_, found)| found.number).collect()
}

fn cannot_claim(error: StoreError) -> CassandraError {
    CassandraError(format!(
        "what earlier incarnations left in Cassandra cannot be claimed: {}; see that a majority of \
         the replicas is up, and start again",
        reason(error)
    ))
}

/// Boot time in nanoseconds; the end of a lease whose last renewal was sent at `sent`.
fn lease_end(sent: u64, lease: Duration) -> u64 {
    sent.saturating_add(u64::try_from(lease.as_nanos()).unwrap_or(u64::MAX))
}

/// Nanoseconds since the machine was started, sleep included.
fn boot_time() -> u64 {
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::Boottime;
    // Nearest to it elsewhere: for development only.
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    let now = rustix::time::clock_gettime(clock);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::record::tests::row;
    use super::*;

    fn me(number: u64) -> Incarnation {
        Incarnation {
            number,
            node_id: "a".to_owned(),
            instance: "here".to_owned(),
            lease: Duration::from_secs(10),
            lineage: AtomicU64::new(number),
            timestamps: Arc::new(Timestamps::new(number)),
            reserved: tokio::sync::Mutex::new(0),
            until: AtomicU64::new(lease_end(boot_time(), Duration::from_secs(10))),
            renewal: tokio::sync::Mutex::new(0),
            released: AtomicBool::new(false),
            frozen: AtomicBool::new(false),
            lost: Mutex::new(None),
        }
    }

    #[test]
    fn a_lease_ends_after_its_renewal_was_sent() {
        assert_eq!(lease_end(5, Duration::from_nanos(7)), 12);
        assert_eq!(lease_end(5, Duration::MAX), u64::MAX);
        let me = me(9);
        assert!(me.may_acknowledge());
        me.until.store(boot_time(), Ordering::Release);
        assert!(!me.may_acknowledge());
        me.extend(boot_time() - 9_000_000_000);
        assert!(me.may_acknowledge());
        me.extend(boot_time() - 10_000_000_000);
        assert!(!me.may_acknowledge());
    }

    #[test]
    fn who_watches_waits_longer_than_the_lease() {
        assert_eq!(row(1, "a", "here", 1).watch(), Duration::from_secs(11));
    }

    #[test]
    fn the_same_data_directory_or_a_clean_stop_is_dead() {
        let me = me(9);
        assert!(me.is_dead(&row(1, "a", "here", 1)));
        assert!(!me.is_dead(&row(1, "a", "there", 1)));
        // A data directory belongs to a node id.
        assert!(!me.is_dead(&row(1, "b", "here", 1)));
        let released = Found { renewal: RELEASED, ..row(1, "b", "there", 1) };
        assert!(me.is_dead(&released));
    }

    #[test]
    fn a_sealed_one_is_lost_and_acknowledges_nothing() {
        let sealed = me(9);
        sealed.sealed_by(Some(9));
        assert!(sealed.lost().is_none() && sealed.may_acknowledge());
        sealed.sealed_by(Some(10));
        assert!(!sealed.may_acknowledge());
        assert!(sealed.lost().unwrap().contains("sealed by incarnation 10"));
        let forgotten = me(9);
        forgotten.sealed_by(None);
        assert!(forgotten.lost().is_some());
    }
}
