//! Each lineage's index of its sessions. An entry without a mark is true. One that is marked as moving may be held under
//! another lineage: `orphaned` says why.
//!
//! Bounds: [`PARALLEL`] requests at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use hydrant_actors::ports::{SessionId, StoreError};

use super::columns::{HELD_SHARDS, held_delete, held_put, int, long, text};
use super::db::{Bound, Db};
use super::holder;
use super::read::{PARALLEL, all_shards};
use super::sessions::{self, Loaded, Which};
use super::statements::Statement as S;
use super::timestamps::Timestamps;

/// How often a session is looked at again that changes hands meanwhile.
pub(super) const ATTEMPTS: u32 = 10;

/// A session in the index of a lineage.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) lineage: u64,
    pub(super) id: SessionId,
    pub(super) client_id: Arc<str>,
    moving: bool,
}

impl Entry {
    pub(super) fn new(lineage: u64, id: SessionId, client_id: &str) -> Self {
        Self { lineage, id, client_id: client_id.into(), moving: false }
    }
}

/// The sessions that are held under these lineages, which are ours: everything that has to be known of
/// who held them is settled.
pub(super) async fn held(
    db: &Db,
    timestamps: &Timestamps,
    lineages: &BTreeSet<u64>,
) -> Result<Vec<Entry>, StoreError> {
    let mut sure = BTreeMap::new();
    let mut moving = Vec::new();
    for lineage in lineages {
        for entry in index(db, *lineage).await? {
            if entry.moving {
                moving.push(entry);
            } else {
                sure.insert(entry.id, entry);
            }
        }
    }
    let settled = moving.into_iter().map(|entry| settle_move(db, timestamps, lineages, entry));
    let settled: Vec<Option<Entry>> =
        stream::iter(settled).buffer_unordered(PARALLEL).try_collect().await?;
    sure.extend(settled.into_iter().flatten().map(|entry| (entry.id, entry)));
    Ok(sure.into_values().collect())
}

/// The index of a lineage.
pub(super) async fn index(db: &Db, lineage: u64) -> Result<Vec<Entry>, StoreError> {
    let values = |shard| vec![long(lineage), int(shard)];
    let rows = all_shards(db, S::HeldRead, HELD_SHARDS, values).await?;
    let entry = |row: &super::db::Row| {
        let client_id = row.optional_text("client_id")?.unwrap_or_default().into();
        let moving = row.optional_i32("moving")? != Some(0);
        Ok(Entry { lineage, id: row.u64("id")?, client_id, moving })
    };
    rows.iter().map(entry).collect()
}

/// Whether a session that was about to move is ours; then it is, for good.
async fn settle_move(
    db: &Db,
    timestamps: &Timestamps,
    lineages: &BTreeSet<u64>,
    entry: Entry,
) -> Result<Option<Entry>, StoreError> {
    for _ in 0..ATTEMPTS {
        let seen = holder::seen(db, &entry.client_id).await?;
        let ours = seen.filter(|seen| seen.id == entry.id && lineages.contains(&seen.holder));
        let Some(seen) = ours else {
            db.write(held_delete(entry.lineage, entry.id, timestamps.next())).await?;
            return Ok(None);
        };
        if holder::give(db, &entry.client_id, seen, seen.holder, timestamps.next()).await? {
            let put = (entry.id, &*entry.client_id);
            db.write(held_put(seen.holder, put, false, timestamps.next())).await?;
            if seen.holder != entry.lineage {
                db.write(held_delete(entry.lineage, entry.id, timestamps.next())).await?;
            }
            return Ok(Some(Entry { lineage: seen.holder, moving: false, ..entry }));
        }
    }
    Err(StoreError::Unavailable(format!(
        "the session of client {:?} changes hands again and again",
        entry.client_id
    )))
}

/// Reads these sessions. Those that have no record are over, or were never begun: what is left of
/// them is removed.
pub(super) async fn load(
    db: &Db,
    timestamps: &Timestamps,
    entries: &mut Vec<Entry>,
) -> Result<Loaded, StoreError> {
    let ids: Vec<SessionId> = entries.iter().map(|entry| entry.id).collect();
    let loaded = sessions::load(db, Which::These(&ids)).await?;
    let (found, gone): (Vec<Entry>, Vec<Entry>) =
        std::mem::take(entries).into_iter().partition(|e| loaded.sessions.contains_key(&e.id));
    *entries = found;
    let clear = gone.into_iter().map(|entry| async move {
        let values = vec![text(&entry.client_id), long(entry.id), long(timestamps.next())];
        db.conditional(Bound { statement: S::DropHeld, values }).await?;
        db.write(held_delete(entry.lineage, entry.id, timestamps.next())).await
    });
    stream::iter(clear).buffer_unordered(PARALLEL).try_collect::<()>().await?;
    Ok(loaded)
}
