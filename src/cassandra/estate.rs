//! The sessions of dead incarnations: which they are, what a write that comes late may change of
//! them, and those of a keyspace that one node had for itself.
//!
//! Each line has an index of its sessions. An entry without a mark is true. One that is marked as
//! moving may be held under another line: who wants to take a session marks it before it asks, for
//! the last time, whether its holder is alive; so who seals the holder after that finds the mark, and
//! both contend for the session by a conditional write.
//!
//! Bounds: [`PARALLEL`] requests at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use hydrant_actors::ports::{SessionId, StoreError, StoredSession};

use super::db::{Applied, Bound, Db};
use super::holder;
use super::incarnation::{ALONE, Incarnation, Predecessor, patiently};
use super::plan::{
    HELD_SHARDS, encode_receipts, held_delete, held_put, int, long, session_shard, text,
};
use super::queue::{Base, BucketState};
use super::read::{PARALLEL, all_shards};
use super::recover;
use super::sessions::{self, Loaded, Which};
use super::stamps::Stamps;
use super::statements::Statement as S;

/// Sessions of a sealed incarnation that are fenced at once.
const FENCED: usize = 16;
/// How often a session is looked at again that changes hands meanwhile.
const ATTEMPTS: u32 = 10;

/// A session in the index of a line.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) line: u64,
    pub(super) id: SessionId,
    pub(super) client_id: Arc<str>,
    moving: bool,
}

impl Entry {
    pub(super) fn new(line: u64, id: SessionId, client_id: &str) -> Self {
        Self { line, id, client_id: client_id.into(), moving: false }
    }
}

/// The sessions that are held under these lines, which are ours: everything that has to be known of
/// who held them is settled.
pub(super) async fn held(
    db: &Db,
    stamps: &Stamps,
    lines: &BTreeSet<u64>,
) -> Result<Vec<Entry>, StoreError> {
    let mut sure = BTreeMap::new();
    let mut moving = Vec::new();
    for line in lines {
        for entry in index(db, *line).await? {
            if entry.moving {
                moving.push(entry);
            } else {
                sure.insert(entry.id, entry);
            }
        }
    }
    let settled = moving.into_iter().map(|entry| settle_move(db, stamps, lines, entry));
    let settled: Vec<Option<Entry>> =
        stream::iter(settled).buffer_unordered(PARALLEL).try_collect().await?;
    sure.extend(settled.into_iter().flatten().map(|entry| (entry.id, entry)));
    Ok(sure.into_values().collect())
}

/// The index of a line.
pub(super) async fn index(db: &Db, line: u64) -> Result<Vec<Entry>, StoreError> {
    let values = |shard| vec![long(line), int(shard)];
    let rows = all_shards(db, S::HeldRead, HELD_SHARDS, values).await?;
    let entry = |row: &super::db::Row| {
        let client_id = row.optional_text("client_id")?.unwrap_or_default().into();
        let moving = row.optional_i32("moving")? != Some(0);
        Ok(Entry { line, id: row.u64("id")?, client_id, moving })
    };
    rows.iter().map(entry).collect()
}

/// Whether a session that was about to move is ours; then it is, for good.
async fn settle_move(
    db: &Db,
    stamps: &Stamps,
    lines: &BTreeSet<u64>,
    entry: Entry,
) -> Result<Option<Entry>, StoreError> {
    for _ in 0..ATTEMPTS {
        let seen = holder::seen(db, &entry.client_id).await?;
        let ours = seen.filter(|seen| seen.id == entry.id && lines.contains(&seen.holder));
        let Some(seen) = ours else {
            db.write(held_delete(entry.line, entry.id, stamps.next())).await?;
            return Ok(None);
        };
        if holder::give(db, &entry.client_id, seen, seen.holder, stamps.next()).await? {
            let put = (entry.id, &*entry.client_id);
            db.write(held_put(seen.holder, put, false, stamps.next())).await?;
            if seen.holder != entry.line {
                db.write(held_delete(entry.line, entry.id, stamps.next())).await?;
            }
            return Ok(Some(Entry { line: seen.holder, moving: false, ..entry }));
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
    stamps: &Stamps,
    entries: &mut Vec<Entry>,
) -> Result<Loaded, StoreError> {
    let ids: Vec<SessionId> = entries.iter().map(|entry| entry.id).collect();
    let loaded = sessions::load(db, Which::These(&ids)).await?;
    let (found, gone): (Vec<Entry>, Vec<Entry>) =
        std::mem::take(entries).into_iter().partition(|e| loaded.sessions.contains_key(&e.id));
    *entries = found;
    let clear = gone.into_iter().map(|entry| async move {
        let values = vec![text(&entry.client_id), long(entry.id), long(stamps.next())];
        db.conditional(Bound { statement: S::DropHeld, values }).await?;
        db.write(held_delete(entry.line, entry.id, stamps.next())).await
    });
    stream::iter(clear).buffer_unordered(PARALLEL).try_collect::<()>().await?;
    Ok(loaded)
}

/// Writes what was read of these sessions again, with stamps above those of who held them: what it
/// had under way and comes late changes nothing. Their queues get a [`Base`] for the same end.
pub(super) async fn settle(
    db: &Db,
    stamps: &Stamps,
    loaded: &mut Loaded,
) -> Result<(), StoreError> {
    let mut states: BTreeMap<SessionId, Vec<(u64, Vec<u8>)>> = BTreeMap::new();
    for (id, bucket, state) in &loaded.buckets {
        let bytes =
            state.as_ref().map_or_else(|| BucketState::new(*bucket).encode(), |s| s.encode());
        states.entry(*id).or_default().push((*bucket, bytes));
    }
    let mut writes = Vec::new();
    for (id, session) in &loaded.sessions {
        let [before, stamp] = [stamps.next(), stamps.next()];
        let base = Base { stamp, sequence: session.last_sequence };
        let states = states.remove(id).unwrap_or_default();
        // One partition, and so one mutation: all of it or nothing.
        writes.push(db.batch(again(session, base, before, states)));
        loaded.bases.insert(*id, base);
    }
    stream::iter(writes).buffer_unordered(PARALLEL).try_collect::<()>().await
}

fn again(
    session: &StoredSession,
    base: Base,
    before: u64,
    states: Vec<(u64, Vec<u8>)>,
) -> Vec<Bound> {
    let (id, stamp) = (session.id, base.stamp);
    let shard = session_shard(id);
    let since = session.disconnected_ms.map_or(-1, |ms| i64::try_from(ms).unwrap_or(i64::MAX));
    let record = vec![
        int(shard),
        long(id),
        text(&session.client_id),
        long(session.epoch),
        super::plan::signed(since),
        long(stamp),
    ];
    let receipts = session.receipts.iter().map(|id| id.get()).collect();
    let receipts = super::plan::blob(encode_receipts(&receipts));
    let based =
        vec![long(stamp), receipts, long(base.stamp), long(base.sequence), int(shard), long(id)];
    let mut bounds = vec![
        Bound {
            statement: S::DeleteSubscriptions,
            values: vec![long(before), int(shard), long(id)],
        },
        Bound { statement: S::PutSession, values: record },
        Bound { statement: S::PutBase, values: based },
    ];
    for subscription in &session.subscriptions {
        let qos = int(subscription.qos as i32);
        let values = vec![int(shard), long(id), text(&subscription.filter), qos, long(stamp)];
        bounds.push(Bound { statement: S::PutSubscription, values });
    }
    for (bucket, state) in states {
        let state = super::plan::blob(state);
        let values = vec![int(shard), long(id), long(bucket), state, long(stamp)];
        bounds.push(Bound { statement: S::PutQueueState, values });
    }
    bounds
}

/// Raises the fences of sessions that were taken from a dead incarnation, so that no conditional
/// write of it that comes late finds them as it left them. `fence` is below what this node itself
/// raises them to, and above everything of the dead.
pub(super) async fn fence(db: &Db, fence: u64, entries: Vec<Entry>) -> Result<(), StoreError> {
    let writes = entries.into_iter().map(|entry| async move {
        patiently(|| {
            let key = [text(&entry.client_id), long(entry.id), long(entry.line), long(fence)];
            let values = [&[long(fence)][..], &key].concat();
            db.conditional(Bound { statement: S::FenceHeld, values })
        })
        .await
        .map(drop)
    });
    stream::iter(writes).buffer_unordered(FENCED).try_collect::<()>().await
}

/// Whoever had the keyspace for itself and is dead held every session that it or one before it
/// wrote: they go under this incarnation's line. Once; a conditional write a session.
pub(super) async fn convert(
    db: &Db,
    me: &Incarnation,
    dead: &mut [Predecessor],
) -> Result<(), StoreError> {
    let alone: Vec<&mut Predecessor> = dead.iter_mut().filter(|one| one.line == ALONE).collect();
    let (Some(first), Some(last)) =
        (alone.iter().map(|one| one.number).min(), alone.iter().map(|one| one.stamps).max())
    else {
        return Ok(());
    };
    for one in &alone {
        recover::redo_and_clear(db, me.stamps().next(), one.number).await?;
    }
    let loaded = sessions::load(db, Which::All).await?;
    // Others that share it may have begun to write.
    let theirs = loaded
        .sessions
        .values()
        .filter(|session| loaded.written.get(&session.id).is_some_and(|written| *written <= last));
    let theirs: Vec<&StoredSession> = theirs.collect();
    if !theirs.is_empty() {
        log::info!("{} sessions of a node without a cluster become this node's", theirs.len());
    }
    let writes = theirs.into_iter().map(|session| convert_one(db, me, session));
    stream::iter(writes).buffer_unordered(PARALLEL).try_collect::<()>().await?;
    for one in alone {
        me.set_line(db, one.number, first).await?;
        one.line = first;
    }
    Ok(())
}

async fn convert_one(db: &Db, me: &Incarnation, session: &StoredSession) -> Result<(), StoreError> {
    let (stamps, line) = (me.stamps(), me.line());
    let (id, client_id) = (session.id, &*session.client_id);
    db.write(held_put(line, (id, client_id), false, stamps.next())).await?;
    for _ in 0..ATTEMPTS {
        let done = match holder::seen(db, client_id).await? {
            Some(seen) if seen.id == id => {
                holder::give(db, client_id, seen, line, stamps.next()).await?
            }
            // The record of one that is over.
            Some(_) => return db.write(held_delete(line, id, stamps.next())).await,
            None => {
                let fence = long(stamps.next());
                let values =
                    vec![text(client_id), long(id), long(session.epoch), fence, long(line)];
                let first = db.conditional(Bound { statement: S::FirstEpoch, values }).await?;
                matches!(first, Applied::Yes)
            }
        };
        if done {
            return Ok(());
        }
    }
    Err(StoreError::Unavailable(format!("the session of client {client_id:?} is not taken over")))
}
