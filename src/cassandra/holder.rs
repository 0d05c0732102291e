//! `session_epoch`: who holds a client's session. Written conditionally only.
//!
//! Invariant: every change raises the fence, to a write timestamp of who makes it; so the fence tells one
//! state of a row from every other, and who has lost a session can never win it back by a write
//! that comes late.

use std::collections::BTreeSet;

use hydrant_actors::ports::{SessionId, StoreError};
use hydrant_actors::say;

use super::columns::{long, text};
use super::db::{Applied, Bound, Db};
use super::incarnation::ALONE;
use super::inner::Inner;
use super::owned_sessions::OwnedSessions;
use super::planned::Epoch;
use super::statements::Statement as S;
use super::timestamps::COUNTER_BITS;

/// A row as it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) id: SessionId,
    pub(super) fence: u64,
    /// The lineage under which it is held.
    pub(super) holder: u64,
}

/// A serial read: it sees every change that ended before.
pub(super) async fn seen(db: &Db, client_id: &str) -> Result<Option<Seen>, StoreError> {
    let bound = Bound { statement: S::EpochRead, values: vec![text(client_id)] };
    let rows = db.rows(bound).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let fence = row.u64("fence")?;
    // Null before schema version 2, when a fence had the incarnation's number above its counter.
    let holder = row.optional_i64("holder")?.map(i64::cast_unsigned);
    let holder = holder.unwrap_or(fence >> COUNTER_BITS);
    Ok(Some(Seen { id: row.u64("id")?, fence, holder }))
}

/// Gives a session to `holder` where nothing has changed since it was seen. Whether it is done.
///
/// # Errors
/// Nobody knows.
pub(super) async fn give(
    db: &Db,
    client_id: &str,
    before: Seen,
    holder: u64,
    fence: u64,
) -> Result<bool, StoreError> {
    let key = [text(client_id), long(before.id), long(before.fence)];
    let values = [&[long(holder), long(fence)][..], &key].concat();
    match db.conditional(Bound { statement: S::TakeEpoch, values }).await {
        Ok(Applied::Yes) => Ok(true),
        Ok(Applied::No(row)) => {
            let found = row.map(|row| row.optional_i64("fence")).transpose()?.flatten();
            Ok(found.map(i64::cast_unsigned) == Some(fence))
        }
        Err(error) => match seen(db, client_id).await? {
            Some(now) if now.fence == fence => Ok(true),
            Some(now) if now == before => Err(error),
            _ => Ok(false),
        },
    }
}

impl Inner {
    /// The session belongs to this incarnation from here on; one that comes later wins. After a
    /// time-out nobody knows: StorageActor writes the batch again, with a higher fence.
    pub(super) async fn raise(&self, epoch: &Epoch) -> Result<(), StoreError> {
        let (key, fence) = (text(&epoch.client_id), long(epoch.fence));
        let id_and_epoch = [long(epoch.id), long(epoch.epoch)];
        let alone = self.incarnation.lineage() == ALONE;
        // In a keyspace that is shared only what is ours is raised.
        let mut from = epoch.holder;
        let mut is_first = epoch.index.is_some();
        loop {
            if is_first {
                let first = [fence.clone(), long(epoch.holder)];
                let values = [&[key.clone()][..], &id_and_epoch, &first].concat();
                let first = self.db.conditional(Bound { statement: S::FirstEpoch, values }).await?;
                if matches!(first, Applied::Yes) {
                    return Ok(());
                }
            }
            let set = [fence.clone(), long(epoch.holder), key.clone()];
            let mut values = [&id_and_epoch[..], &set].concat();
            let statement = if alone { S::RaiseEpoch } else { S::RaiseHeld };
            values.extend((!alone).then(|| long(from)));
            values.push(fence.clone());
            let raised = self.db.conditional(Bound { statement, values }).await?;
            let Applied::No(found) = raised else { return Ok(()) };
            let column = |name| match &found {
                Some(row) => Ok(row.optional_i64(name)?.map(i64::cast_unsigned)),
                None => Ok(None),
            };
            if let Some(known) = column("fence")? {
                let holder = column("holder")?.unwrap_or(epoch.holder);
                let ours = self.lineages().is_none_or(|lineages| lineages.contains(&holder));
                // Our own, by a write before this one that was given up, or after it. Whoever
                // took it from us is above all that we ever gave.
                if ours && known >= epoch.fence && known <= self.incarnation.timestamps().last() {
                    return Ok(());
                }
                if ours && known < epoch.fence {
                    // Of another session of this client, held under another lineage of ours.
                    (from, is_first) = (holder, false);
                    continue;
                }
                return Err(self.not_ours(epoch));
            }
            is_first = true;
        }
    }

    /// The lineages under which this node holds sessions; `None`: the keyspace is its own.
    fn lineages(&self) -> Option<BTreeSet<u64>> {
        self.memory.lock().owned_sessions.as_ref().map(OwnedSessions::lineages)
    }

    /// Another holds a session of this client. One that is new here is given up: written again,
    /// the batch is without it.
    fn not_ours(&self, epoch: &Epoch) -> StoreError {
        let client_id = &epoch.client_id;
        if epoch.index.is_some() && self.incarnation.lost().is_none() {
            say::error!(
                "the session of client {client_id:?} is held by another node: its new one \
                         here is dropped"
            );
            self.memory.lock().give_up(epoch.id);
            return StoreError::Unavailable(format!(
                "client {client_id:?} has a session elsewhere"
            ));
        }
        taken_over(client_id)
    }
}

/// Whoever is told so writes nothing any more.
pub(super) fn taken_over(client_id: &str) -> StoreError {
    StoreError::Unusable(format!(
        "session {client_id:?} was taken over by another broker: without a cluster give each \
         broker a keyspace of its own; in one, start this broker again"
    ))
}
