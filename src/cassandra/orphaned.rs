//! The sessions of dead incarnations: which they are, what a write that comes late may change of
//! them, and those of a keyspace that one node had for itself.
//!
//! Each lineage has an index of its sessions. An entry without a mark is true. One that is marked as
//! moving may be held under another lineage: who wants to take a session marks it before it asks, for
//! the last time, whether its holder is alive; so who seals the holder after that finds the mark, and
//! both contend for the session by a conditional write.
//!
//! Bounds: [`PARALLEL`] requests at once.

use std::collections::BTreeMap;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use hydrant_actors::ports::{SessionId, StoreError, StoredSession};

use super::columns::{
    blob, encode_receipts, held_delete, held_put, int, keep_subscription, long, session_shard,
    signed, text,
};
use super::db::{Applied, Bound, Db};
use super::holder;
use super::incarnation::{ALONE, Incarnation, Predecessor, patiently};
use super::queue::{Base, BucketState};
use super::read::PARALLEL;
use super::recover;
use super::session_index::{ATTEMPTS, Entry};
use super::sessions::{self, Loaded, Which};
use super::statements::Statement as S;
use super::timestamps::Timestamps;

/// Sessions of a sealed incarnation that are fenced at once.
const FENCED: usize = 16;

/// Writes what was read of these sessions again, with write timestamps above those of who held them: what it
/// had under way and comes late changes nothing. Their queues get a [`Base`] for the same end.
pub(super) async fn settle(
    db: &Db,
    timestamps: &Timestamps,
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
        let [before, timestamp] = [timestamps.next(), timestamps.next()];
        let base = Base { timestamp, sequence: session.last_sequence };
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
    let (id, timestamp) = (session.id, base.timestamp);
    let shard = session_shard(id);
    let since = session.disconnected_ms.map_or(-1, |ms| i64::try_from(ms).unwrap_or(i64::MAX));
    let record = vec![
        int(shard),
        long(id),
        text(&session.client_id),
        long(session.epoch),
        signed(since),
        long(timestamp),
    ];
    let receipts = session.receipts.iter().map(|id| id.get()).collect();
    let receipts = blob(encode_receipts(&receipts));
    let based = vec![
        long(timestamp),
        receipts,
        long(base.timestamp),
        long(base.sequence),
        int(shard),
        long(id),
    ];
    let mut bounds = vec![
        Bound {
            statement: S::DeleteSubscriptions,
            values: vec![long(before), int(shard), long(id)],
        },
        Bound { statement: S::PutSession, values: record },
        Bound { statement: S::PutBase, values: based },
    ];
    for subscription in &session.subscriptions {
        let owes = subscription.owes.as_deref();
        let (filter, qos) = (&subscription.filter, subscription.qos);
        bounds.push(keep_subscription(id, filter, qos, owes, timestamp));
    }
    for (bucket, state) in states {
        let state = blob(state);
        let values = vec![int(shard), long(id), long(bucket), state, long(timestamp)];
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
            let key = [text(&entry.client_id), long(entry.id), long(entry.lineage), long(fence)];
            let values = [&[long(fence)][..], &key].concat();
            db.conditional(Bound { statement: S::FenceHeld, values })
        })
        .await
        .map(drop)
    });
    stream::iter(writes).buffer_unordered(FENCED).try_collect::<()>().await
}

/// Whoever had the keyspace for itself and is dead held every session that it or one before it
/// wrote: they go under this incarnation's lineage. Once; a conditional write a session.
pub(super) async fn convert(
    db: &Db,
    me: &Incarnation,
    dead: &mut [Predecessor],
) -> Result<(), StoreError> {
    let alone: Vec<&mut Predecessor> = dead.iter_mut().filter(|one| one.lineage == ALONE).collect();
    let (Some(first), Some(last)) =
        (alone.iter().map(|one| one.number).min(), alone.iter().map(|one| one.timestamps).max())
    else {
        return Ok(());
    };
    for one in &alone {
        recover::redo_and_clear(db, me.timestamps().next(), one.number).await?;
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
        me.set_lineage(db, one.number, first).await?;
        one.lineage = first;
    }
    Ok(())
}

async fn convert_one(db: &Db, me: &Incarnation, session: &StoredSession) -> Result<(), StoreError> {
    let (timestamps, lineage) = (me.timestamps(), me.lineage());
    let (id, client_id) = (session.id, &*session.client_id);
    db.write(held_put(lineage, (id, client_id), false, timestamps.next())).await?;
    for _ in 0..ATTEMPTS {
        let done = match holder::seen(db, client_id).await? {
            Some(seen) if seen.id == id => {
                holder::give(db, client_id, seen, lineage, timestamps.next()).await?
            }
            // The record of one that is over.
            Some(_) => return db.write(held_delete(lineage, id, timestamps.next())).await,
            None => {
                let fence = long(timestamps.next());
                let values =
                    vec![text(client_id), long(id), long(session.epoch), fence, long(lineage)];
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
