//! How a start begins: the connection, the schema, an incarnation, and what the dead ones left that it goes on with.
//!
//! Invariants: what a dead incarnation had under way is done before anything of it is read.
//! Bounds: [`AGAIN`] more attempts where Cassandra does not answer.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use hydrant_actors::ports::{StoreError, StoredWill};
use hydrant_actors::say;
use parking_lot::Mutex;

use super::db::{CassandraError, Db};
use super::incarnation::{ALONE, Incarnation, Predecessor};
use super::inner::{Continued, Inner};
use super::memory::Memory;
use super::options::CassandraOptions;
use super::{dead, orphaned, recover, schema};

/// How often a start begins again that Cassandra did not answer.
const AGAIN: usize = 4;

/// Why an incarnation has not begun.
#[derive(Debug, Clone)]
enum NotBegun {
    /// Cassandra did not answer while it was read.
    Unanswered(String),
    Refused(CassandraError),
}

impl From<CassandraError> for NotBegun {
    fn from(error: CassandraError) -> Self {
        Self::Refused(error)
    }
}

impl From<NotBegun> for CassandraError {
    fn from(error: NotBegun) -> Self {
        match error {
            NotBegun::Unanswered(why) => unread(&why),
            NotBegun::Refused(error) => error,
        }
    }
}

fn unread(why: &str) -> CassandraError {
    CassandraError(format!("what stands in Cassandra cannot be read: {why}"))
}

impl Inner {
    /// See [`CassandraStore::open`](super::CassandraStore::open).
    pub(super) async fn open(
        options: &CassandraOptions,
        node_id: &str,
        instance: &str,
    ) -> Result<Self, CassandraError> {
        let db = Db::connect(options).await?;
        schema::ensure(&db, options).await?;
        db.prepare().await?;
        // As the next start of this node would do; a Cassandra with too much to do need not end this one.
        let again = ExponentialBuilder::new().with_min_delay(Duration::from_secs(1));
        let begins = || Self::begin(&db, options, node_id, instance);
        begins
            .retry(again.with_max_times(AGAIN))
            .when(|error| matches!(error, NotBegun::Unanswered(_)))
            .notify(|error, pause| {
                let error = CassandraError::from(error.clone());
                say::warn!("{error}; this start tries it again in {pause:?}");
            })
            .await
            .map_err(CassandraError::from)
    }

    /// Begins an incarnation, and takes over what dead ones left.
    async fn begin(
        db: &Db,
        options: &CassandraOptions,
        node_id: &str,
        instance: &str,
    ) -> Result<Self, NotBegun> {
        let (lanes, lease) = (options.outbox_lanes, options.lease);
        let incarnation =
            Incarnation::begin(db, node_id, instance, lanes, lease, options.shared).await?;
        incarnation.spawn_renewal(db.clone());
        let dead = if options.shared {
            incarnation.claim_shared(db).await?
        } else {
            incarnation.claim_alone(db).await?
        };
        let (memory, wills, continued) = match Self::succeed(db, &incarnation, dead, lanes).await {
            Ok(recovered) => recovered,
            Err(error) => {
                incarnation.release(db).await;
                return Err(match error {
                    StoreError::Unavailable(why) => NotBegun::Unanswered(why),
                    StoreError::Unusable(why) => NotBegun::Refused(unread(&why)),
                });
            }
        };
        let (memory, sealing) = (Mutex::new(memory), tokio::sync::Mutex::new(()));
        let db = db.clone();
        Ok(Self { db, incarnation, continued, memory, sealing, first_lane: lanes, wills })
    }

    /// Goes on where the dead ended.
    async fn succeed(
        db: &Db,
        incarnation: &Incarnation,
        mut dead: Vec<Predecessor>,
        first_lane: u16,
    ) -> Result<(Memory, Vec<StoredWill>, Continued), StoreError> {
        let highest = dead.iter().map(|one| one.timestamps).max().unwrap_or_default();
        incarnation.raise(db, highest).await?;
        if incarnation.lineage() != ALONE {
            incarnation.join_lineage(db, &dead).await?;
            orphaned::convert(db, incarnation, &mut dead).await?;
        }
        // First what they were about to write: it may be of these.
        let timestamps = incarnation.timestamps();
        recover::redo_all(db, &timestamps, &dead).await?;
        dead::take_over(db, incarnation.number, &timestamps, &dead, &dead::Heads::default())
            .await?;
        let (batches, highest) = recover::peer_batches(db, &dead).await?;
        let continued = Continued {
            incarnations: dead.iter().map(Predecessor::sealed).collect(),
            batches,
            prepared: recover::prepared_publishes(db, &dead).await?,
        };
        let prepared = &continued.prepared;
        let (memory, wills) =
            recover::recover(db, incarnation, &dead, first_lane, prepared, highest).await?;
        Ok((memory, wills, continued))
    }
}
