//! From a store to items, in the order of a file, and into a file.
//!
//! Invariant: the same content makes the same items in the same order, whichever store holds it.
//! Bounds: sessions and retained messages are read as a node reads them at start; of queues,
//! outbox and dead letters a page ([`PAGE`], [`PAGE_BYTES`]).

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, ErrorKind};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use hydrant_actors::ports::{
    DeadId, OutgoingStage, SessionStore, StoreError, StoredSession, UNFINISHED, UNFINISHED_WHY,
};
use hydrant_protocol::Message;

use super::error::TransferError;
use super::format::{Counts, FormatError, Item, ItemWriter};
use super::progress::Progress;
use crate::rows::{RowBuilder, damaged, encode_dead_letter, encode_message};

/// Entries read at once.
const PAGE: usize = 500;
/// And their bytes, about.
const PAGE_BYTES: usize = 1 << 20;

/// Writes all that a store holds into a file, which must not be there yet. It has its name only
/// once it is whole and on disk.
///
/// # Errors
/// [`TransferError`]; what was begun is removed.
pub(super) async fn export(
    store: &dyn SessionStore,
    node_id: &str,
    file: &Path,
    progress: &mut Progress<'_>,
) -> Result<Counts, TransferError> {
    // A name of its own: two exports to one place do not meet before one of them is whole.
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:08x}.part", rand::random::<u32>()));
    let part = file.with_file_name(name);
    let result = write(store, node_id, &part, progress).await.and_then(|counts| {
        // Unlike a rename, it replaces nothing.
        fs::hard_link(&part, file).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => TransferError::Exists(file.to_owned()),
            _ => TransferError::file(file, error.into()),
        })?;
        Ok(counts)
    });
    match result {
        Ok(counts) => {
            fs::remove_file(&part).map_err(|error| TransferError::file(&part, error.into()))?;
            let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = File::open(folder.unwrap_or(Path::new(".")));
            let synced = folder.and_then(|folder| folder.sync_all());
            synced.map_err(|error| TransferError::file(file, error.into()))?;
            Ok(counts)
        }
        Err(error) => {
            // It may not be there.
            let _ = fs::remove_file(&part);
            Err(error)
        }
    }
}

async fn write(
    store: &dyn SessionStore,
    node_id: &str,
    part: &Path,
    progress: &mut Progress<'_>,
) -> Result<Counts, TransferError> {
    let failed = |error: FormatError| TransferError::file(part, error);
    // Messages and client ids are nobody else's business.
    let out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(part);
    let out = out.map_err(|error| failed(error.into()))?;
    let mut writer = ItemWriter::new(BufWriter::new(out)).map_err(failed)?;
    let made_ms = hydrant_actors::clock::unix_ms();
    let broker = env!("CARGO_PKG_VERSION");
    writer.put(&Item::Head { node_id, broker, made_ms }).map_err(failed)?;
    walk(store, progress, &mut |item| writer.put(item).map_err(failed)).await?;
    let (out, counts) = writer.finish().map_err(failed)?;
    let out = out.into_inner().map_err(|error| failed(error.into_error().into()))?;
    out.sync_all().map_err(|error| failed(error.into()))?;
    Ok(counts)
}

/// Hands everything that a store holds to `sink`.
///
/// # Errors
/// The store's, and the sink's.
pub(super) async fn walk(
    store: &dyn SessionStore,
    progress: &mut Progress<'_>,
    sink: &mut dyn FnMut(&Item<'_>) -> Result<(), TransferError>,
) -> Result<Counts, TransferError> {
    let mut counts = Counts::default();
    let mut sessions = store.sessions().await?;
    sessions.sort_unstable_by_key(|session| session.id);
    let mut lanes = store.lanes().await?;
    lanes.sort_unstable_by_key(|lane| lane.lane);
    if sessions.iter().any(|session| &*session.client_id == UNFINISHED) {
        return Err(StoreError::Unusable(UNFINISHED_WHY.to_owned()).into());
    }
    let total: u64 = sessions.iter().map(|s| 1 + s.subscriptions.len() as u64 + s.queued).sum();
    let total = total + lanes.iter().map(|lane| lane.end - lane.cursor).sum::<u64>();
    let mut sink = |item: &Item<'_>| {
        counts.count(item);
        progress.at(&counts, counts.sum(), total);
        sink(item)
    };
    for session in &mut sessions {
        session.subscriptions.sort_unstable_by(|one, other| one.filter.cmp(&other.filter));
        session.receipts.sort_unstable();
        put_session(session, &mut sink)?;
        put_queue(store, session.id, &mut sink).await?;
    }
    drop(sessions);
    let mut retained = store.retained().await?;
    retained.sort_unstable_by(|(one, _), (other, _)| one.topic.cmp(&other.topic));
    for (message, _) in retained {
        let message = encoded(&message)?;
        sink(&Item::Retained { message: serde_bytes::Bytes::new(&message) })?;
    }
    let mut wills = store.wills().await?;
    wills.sort_by_key(|will| will.connection);
    for will in wills {
        let message = encoded(&will.message)?;
        let message = serde_bytes::Bytes::new(&message);
        sink(&Item::Will { client_id: &will.client_id, message })?;
    }
    for lane in lanes {
        put_lane(store, (lane.lane, lane.cursor, lane.end), &mut sink).await?;
    }
    put_dead_letters(store, &mut sink).await?;
    Ok(counts)
}

fn put_session(
    session: &StoredSession,
    sink: &mut impl FnMut(&Item<'_>) -> Result<(), TransferError>,
) -> Result<(), TransferError> {
    sink(&Item::Session {
        id: session.id,
        client_id: &session.client_id,
        epoch: session.epoch,
        disconnected_ms: session.disconnected_ms,
        receipts: session.receipts.iter().map(|id| id.get()).collect(),
    })?;
    for subscription in &session.subscriptions {
        let (filter, qos) = (&*subscription.filter, subscription.qos as u8);
        sink(&match &subscription.owes {
            None => Item::Subscription { filter, qos },
            Some(behind) => Item::OwedSubscription { filter, qos, behind },
        })?;
    }
    Ok(())
}

async fn put_queue(
    store: &dyn SessionStore,
    id: u64,
    sink: &mut impl FnMut(&Item<'_>) -> Result<(), TransferError>,
) -> Result<(), TransferError> {
    let mut from = 0;
    loop {
        let page = store.read_queue(id, from, PAGE, PAGE_BYTES).await?;
        let Some(last) = page.last() else { return Ok(()) };
        from = last.sequence + 1;
        for entry in page {
            let message =
                encode_message(&entry.message, entry.qos, entry.retain).map_err(damaged)?;
            let outgoing =
                entry.outgoing.map(|(id, stage)| (id.get(), stage == OutgoingStage::Release));
            let message = serde_bytes::Bytes::new(&message);
            sink(&Item::Queued { sequence: entry.sequence, outgoing, message })?;
        }
    }
}

async fn put_lane(
    store: &dyn SessionStore,
    (lane, cursor, end): (u16, u64, u64),
    sink: &mut impl FnMut(&Item<'_>) -> Result<(), TransferError>,
) -> Result<(), TransferError> {
    let mut next = cursor;
    while next < end {
        let page = store.read_outbox(lane, next, PAGE, PAGE_BYTES).await?;
        if page.is_empty() {
            let why = format!("lane {lane} of the outbox has no record at {next}, before its end");
            return Err(StoreError::Unusable(why).into());
        }
        for record in page {
            next += 1;
            let mut row = RowBuilder::new(0);
            row.push(&record, true).map_err(damaged)?;
            let row = row.finish();
            sink(&Item::Outbox { lane, record: serde_bytes::Bytes::new(&row) })?;
        }
    }
    Ok(())
}

async fn put_dead_letters(
    store: &dyn SessionStore,
    sink: &mut impl FnMut(&Item<'_>) -> Result<(), TransferError>,
) -> Result<(), TransferError> {
    let mut from = DeadId::default();
    loop {
        let page = store.dead_letters(from, PAGE, PAGE_BYTES).await?;
        let Some(last) = page.last() else { return Ok(()) };
        from = last.id.next();
        for letter in page {
            let letter = encode_dead_letter(&letter).map_err(damaged)?;
            let letter = serde_bytes::Bytes::new(&letter);
            sink(&Item::DeadLetter { letter })?;
        }
    }
}

fn encoded(message: &Message) -> Result<Vec<u8>, StoreError> {
    encode_message(message, message.qos, message.retain).map_err(damaged)
}
