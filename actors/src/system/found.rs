//! What is read of the store at start.
//!
//! Bounds: dead letters are read a page of 1000 or 4 MiB at a time; of each its id and cost is kept.

use std::sync::Arc;

use hydrant_protocol::topic::Retained;

use crate::node_tables::Found;
use crate::ports::{DeadId, SessionStore, StoreError, UNFINISHED, UNFINISHED_WHY};

pub(super) async fn read(
    store: &Arc<dyn SessionStore>,
    clustered: bool,
) -> Result<Found, StoreError> {
    let (mut retained, mut retained_clock) = (Retained::new(), 0);
    if !clustered {
        for (message, version) in store.retained().await? {
            retained.insert(message);
            retained_clock = version.max(retained_clock);
        }
    }
    let sessions = store.sessions().await?;
    if sessions.iter().any(|session| &*session.client_id == UNFINISHED) {
        return Err(StoreError::Unusable(UNFINISHED_WHY.to_owned()));
    }
    let (wills, lanes) = (store.wills().await?, store.lanes().await?);
    let dead_letters = dead_letters(&**store).await?;
    Ok(Found { sessions, wills, retained, retained_clock, lanes, dead_letters })
}

/// Every dead letter, read a page at a time.
async fn dead_letters(store: &dyn SessionStore) -> Result<Vec<(DeadId, u64)>, StoreError> {
    let (mut found, mut from) = (Vec::new(), DeadId::default());
    loop {
        let page = store.dead_letters(from, 1000, 4 << 20).await?;
        let Some(last) = page.last() else { return Ok(found) };
        from = last.id.next();
        found.extend(page.iter().map(|letter| (letter.id, letter.cost())));
    }
}
