//! What stands in Cassandra about incarnations: the counter that their numbers come from, and the
//! row of each; and how a request for it is made again.
//!
//! Bounds: [`ATTEMPTS`] of one request, [`CONTENDERS`] for one number.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cdrs_tokio::types::value::Value;
use hydrant_actors::ports::StoreError;
use tokio::time::sleep;

use crate::cassandra::columns::{long, text};
use crate::cassandra::db::{Applied, Bound, Db, Row};
use crate::cassandra::statements::Statement as S;
use crate::cassandra::timestamps::{NUMBER_BITS, first_until};

/// The row of the table `counter` that numbers are taken from.
const COUNTER: &str = "incarnation";
/// Numbers are below it: what a write timestamp has bits for.
const NUMBERS: u64 = 1 << NUMBER_BITS;
/// `renewal` of an incarnation that ended cleanly.
pub(super) const RELEASED: i64 = -1;
/// How often a request that Cassandra did not answer is made again.
const ATTEMPTS: u32 = 6;
/// Pause after the first of them; the next are longer.
pub(super) const PAUSE: Duration = Duration::from_millis(100);
/// How often somebody else may take the number that was wanted.
const CONTENDERS: u32 = 1000;
/// Owners that are followed, one to the next.
const LINKS: usize = 10_000;
/// `lineage` of an incarnation that has (or had) the keyspace for itself.
pub(in crate::cassandra) const ALONE: u64 = 0;

/// The row of an incarnation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cassandra) struct Found {
    pub(in crate::cassandra) number: u64,
    pub(super) node_id: String,
    pub(super) instance: String,
    pub(super) lanes: u16,
    pub(super) lease: Duration,
    pub(super) renewal: i64,
    pub(in crate::cassandra) owner: u64,
    /// The first of those that followed each other, or [`ALONE`].
    pub(super) lineage: u64,
    /// The highest write timestamp that it may have given.
    pub(in crate::cassandra) timestamps: u64,
}

impl Found {
    pub(in crate::cassandra) fn is_sealed(&self) -> bool {
        self.owner != self.number
    }

    /// How long `renewal` must stand still until its lease is surely over.
    pub(super) fn watch(&self) -> Duration {
        self.lease + self.lease / 10
    }
}

/// How an attempt to become the owner of an incarnation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// We own it.
    Ours,
    /// It renews its lease.
    Alive,
    /// This incarnation owns it: what it left is that one's to go on with.
    Others(u64),
    /// Its row is gone: nothing is left of it.
    Gone,
}

impl Ended {
    /// By its row as it stands now.
    pub(super) fn of(now: Option<&Found>, me: u64) -> Self {
        match now {
            None => Self::Gone,
            Some(now) if now.owner == me => Self::Ours,
            Some(now) if now.is_sealed() => Self::Others(now.owner),
            Some(_) => Self::Alive,
        }
    }
}

/// Those whose owner is in `heads` or among themselves, and those that are ours already.
pub(super) fn chain<'a>(
    all: &'a BTreeMap<u64, Found>,
    me: u64,
    heads: &BTreeSet<u64>,
) -> Vec<&'a Found> {
    let mut links: Vec<&Found> = Vec::new();
    let mut owners: BTreeSet<u64> = heads.iter().copied().chain([me]).collect();
    loop {
        let next: Vec<&Found> = all
            .values()
            .filter(|found| found.is_sealed() && owners.contains(&found.owner))
            .filter(|found| !owners.contains(&found.number))
            .collect();
        if next.is_empty() {
            return links;
        }
        owners.extend(next.iter().map(|found| found.number));
        links.extend(next);
    }
}

/// Numbers that are taken and not used do no harm.
pub(super) async fn next_number(db: &Db) -> Result<u64, StoreError> {
    for _ in 0..CONTENDERS {
        let read = || Bound { statement: S::CounterRead, values: vec![text(COUNTER)] };
        let rows = patiently(|| db.rows(read())).await?;
        let value = rows.first().map(|row| row.u64("value")).transpose()?;
        let next = value.unwrap_or(0) + 1;
        if next >= NUMBERS {
            let why = "the keyspace has no number left for another start: use a new keyspace";
            return Err(StoreError::Unusable(why.to_owned()));
        }
        let bound = match value {
            None => Bound { statement: S::CounterFirst, values: vec![text(COUNTER), long(next)] },
            Some(value) => {
                let values = vec![long(next), text(COUNTER), long(value)];
                Bound { statement: S::CounterNext, values }
            }
        };
        match db.conditional(bound).await {
            Ok(Applied::Yes) => return Ok(next),
            // Somebody else was faster, or it is not known who has the number: so nobody has.
            Ok(Applied::No(_)) | Err(StoreError::Unavailable(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(StoreError::Unavailable("too many brokers start at the same time".to_owned()))
}

/// Who has now what an incarnation had.
#[derive(Debug)]
pub(in crate::cassandra) struct Chain {
    /// It, its owner, that one's owner …: up to the one that nobody has sealed.
    pub(in crate::cassandra) numbers: Vec<u64>,
    /// The row of the last; `None`: it is gone, so nobody has it.
    pub(in crate::cassandra) end: Option<Found>,
}

impl Chain {
    /// The last one; where nothing is left of it, the first.
    pub(in crate::cassandra) fn holder(&self) -> u64 {
        let at = if self.end.is_some() { self.numbers.last() } else { self.numbers.first() };
        at.copied().unwrap_or_default()
    }
}

/// Follows the owners of an incarnation.
pub(in crate::cassandra) async fn follow(db: &Db, first: u64) -> Result<Chain, StoreError> {
    let mut numbers = vec![first];
    while numbers.len() < LINKS {
        let number = numbers.last().copied().unwrap_or_default();
        match read(db, number).await? {
            Some(found) if found.is_sealed() => numbers.push(found.owner),
            end => return Ok(Chain { numbers, end }),
        }
    }
    Err(StoreError::Unusable(format!("the owners of incarnation {first} come to no end")))
}

pub(in crate::cassandra) async fn read(db: &Db, number: u64) -> Result<Option<Found>, StoreError> {
    let bound = Bound { statement: S::IncarnationRead, values: vec![long(number)] };
    let rows = db.rows(bound).await?;
    rows.first().map(|row| found(number, row)).transpose()
}

fn found(number: u64, row: &Row) -> Result<Found, StoreError> {
    let lanes = row.i32("lanes")?;
    Ok(Found {
        number,
        node_id: row.text("node_id")?,
        instance: row.text("instance")?,
        lanes: u16::try_from(lanes).map_err(|_| {
            StoreError::Unusable(format!("incarnation {number} in Cassandra has {lanes} lanes"))
        })?,
        lease: Duration::from_millis(row.u64("lease_ms")?),
        renewal: row.i64("renewal")?,
        owner: row.u64("owner")?,
        // Null before schema version 2.
        lineage: row.optional_i64("line")?.map_or(ALONE, i64::cast_unsigned),
        timestamps: row.optional_i64("stamps")?.map_or(first_until(number), i64::cast_unsigned),
    })
}

/// The owner that a refused conditional write met; `None`: there is no row.
pub(super) fn owner(row: Option<&Row>) -> Result<Option<u64>, StoreError> {
    let owner = row.map(|row| row.optional_i64("owner")).transpose()?.flatten();
    Ok(owner.map(i64::cast_unsigned))
}

/// Makes a request again that was not answered. Only for what may be done twice.
pub(in crate::cassandra) async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(
    mut request: impl FnMut() -> F,
) -> Result<T, StoreError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        match request().await {
            Err(StoreError::Unavailable(_)) if attempt < ATTEMPTS => sleep(PAUSE * attempt).await,
            answer => return answer,
        }
    }
}

/// What went wrong, without what kind of thing it was.
pub(super) fn reason(error: StoreError) -> String {
    match error {
        StoreError::Unavailable(why) | StoreError::Unusable(why) => why,
    }
}

/// A bigint column that may be negative.
pub(super) fn big(value: i64) -> Value {
    Value::Some(value.to_be_bytes().to_vec())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn row(number: u64, node_id: &str, instance: &str, owner: u64) -> Found {
        Found {
            number,
            node_id: node_id.to_owned(),
            instance: instance.to_owned(),
            lanes: 4,
            lease: Duration::from_secs(10),
            renewal: 3,
            owner,
            lineage: number,
            timestamps: first_until(number),
        }
    }

    #[test]
    fn a_chain_of_owners_is_followed_to_its_end() {
        // 1 was sealed by 2, 2 by 3, which died; 4 belongs to 5, which is alive; 6 is ours already,
        // and had sealed 7.
        let rows = [(1, 2), (2, 3), (3, 3), (4, 5), (5, 5), (6, 9), (7, 6)];
        let all: BTreeMap<u64, Found> =
            rows.into_iter().map(|(n, owner)| (n, row(n, "a", "here", owner))).collect();
        let links: BTreeSet<u64> =
            chain(&all, 9, &[3].into()).iter().map(|found| found.number).collect();
        assert_eq!(links, [1, 2, 6, 7].into());
        assert_eq!(chain(&all, 8, &BTreeSet::new()), Vec::<&Found>::new());
    }
}
