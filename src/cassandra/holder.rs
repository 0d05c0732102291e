//! `session_epoch`: who holds a client's session. Written conditionally only.
//!
//! Invariant: every change raises the fence, to a stamp of who makes it; so the fence tells one
//! state of a row from every other, and who has lost a session can never win it back by a write
//! that comes late.

use hydrant_actors::ports::{SessionId, StoreError};

use super::db::{Applied, Bound, Db};
use super::plan::{long, text};
use super::stamps::COUNTER_BITS;
use super::statements::Statement as S;

/// A row as it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) id: SessionId,
    pub(super) fence: u64,
    /// The line under which it is held.
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
