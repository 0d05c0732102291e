//! Dead letters: a row each, spread over [`SHARDS`] partitions of the incarnation that has them.
//!
//! Whoever goes on after an incarnation copies its dead letters to its own partitions and removes
//! them there, before it knows of them: so one that is dropped afterwards is gone, and one that is
//! found in both places, because somebody died in between, is the same by its id.
//! Bounds: a page's heads and bodies; [`PARALLEL`] requests at once.

use std::collections::BTreeMap;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use hydrant_actors::ports::{DeadId, DeadLetter, StoreError};
use parking_lot::Mutex;

use super::columns::{blob, int, long};
use super::db::{Bound, Db, Row};
use super::incarnation::Predecessor;
use super::read::{PARALLEL, senseless};
use super::statements::Statement as S;
use super::timestamps::Timestamps;
use crate::rows::{RowError, damaged, decode_dead_letter, encode_dead_letter};

/// Partitions of an incarnation's dead letters.
pub(super) const SHARDS: i32 = 16;
/// Rows of the first page of a partition: each may be large.
const FIRST_PAGE: i32 = 16;
/// About what later pages carry.
const PAGE_BYTES: usize = 4 << 20;

/// Of dead letters that were taken over: their costs.
pub(super) type Heads = Mutex<BTreeMap<DeadId, u64>>;

fn key(incarnation: u64, id: DeadId) -> [cdrs_tokio::types::value::Value; 3] {
    #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "below SHARDS")]
    let shard = (id.hash % SHARDS.unsigned_abs() as u64) as i32;
    [long(incarnation), int(shard), blob(id.to_bytes().to_vec())]
}

/// Writes one into an incarnation's partitions.
pub(super) fn put(
    incarnation: u64,
    letter: &DeadLetter,
    timestamp: u64,
) -> Result<Bound, RowError> {
    Ok(put_row(incarnation, letter.id, letter.cost(), encode_dead_letter(letter)?, timestamp))
}

fn put_row(incarnation: u64, id: DeadId, cost: u64, letter: Vec<u8>, timestamp: u64) -> Bound {
    let values = [&key(incarnation, id)[..], &[long(cost), blob(letter), long(timestamp)]].concat();
    Bound { statement: S::PutDeadLetter, values }
}

/// Removes it there.
pub(super) fn remove(incarnation: u64, id: DeadId, timestamp: u64) -> Bound {
    let values = [&[long(timestamp)], &key(incarnation, id)[..]].concat();
    Bound { statement: S::DropDeadLetter, values }
}

fn id_of(row: &Row) -> Result<DeadId, StoreError> {
    let bytes = row.blob("id")?.try_into().map_err(|_| senseless("a dead letter"))?;
    Ok(DeadId::from_bytes(bytes))
}

/// See [`hydrant_actors::ports::SessionStore::dead_letters`].
pub(super) async fn page(
    db: &Db,
    incarnation: u64,
    from: DeadId,
    limit: usize,
    max_bytes: usize,
) -> Result<Vec<DeadLetter>, StoreError> {
    let rows = i32::try_from(limit).unwrap_or(i32::MAX);
    let mut heads = Vec::new();
    for shard in 0..SHARDS {
        let from = blob(from.to_bytes().to_vec());
        let values = vec![long(incarnation), int(shard), from, int(rows)];
        heads.push(db.rows(Bound { statement: S::DeadLetterHeads, values }));
    }
    let heads: Vec<Vec<Row>> = stream::iter(heads).buffered(PARALLEL).try_collect().await?;
    let head = |row: &Row| Ok::<_, StoreError>((id_of(row)?, row.u64("cost")? as usize));
    let mut heads = heads.iter().flatten().map(head).collect::<Result<Vec<_>, _>>()?;
    heads.sort_unstable();
    heads.truncate(limit);
    let mut bytes = 0;
    let fits = heads.iter().take_while(|(_, cost)| {
        let fits = bytes == 0 || bytes < max_bytes;
        bytes += cost;
        fits
    });
    let bodies: Vec<_> = fits.map(|(id, _)| body(db, incarnation, *id)).collect();
    let found: Vec<Option<DeadLetter>> =
        stream::iter(bodies).buffered(PARALLEL).try_collect().await?;
    // One may be removed in between.
    Ok(found.into_iter().flatten().collect())
}

async fn body(db: &Db, incarnation: u64, id: DeadId) -> Result<Option<DeadLetter>, StoreError> {
    let values = key(incarnation, id).to_vec();
    let rows = db.rows(Bound { statement: S::DeadLetter, values }).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    decode_dead_letter(&row.blob("letter")?).map(Some).map_err(damaged)
}

/// The dead letters of dead incarnations are those of `me`. Done twice, it changes nothing more;
/// `heads` are of both times.
pub(super) async fn take_over(
    db: &Db,
    me: u64,
    timestamps: &Timestamps,
    dead: &[Predecessor],
    heads: &Heads,
) -> Result<(), StoreError> {
    let mut moves = Vec::new();
    for one in dead {
        for shard in 0..SHARDS {
            moves.push(take_partition(db, me, timestamps, (one.number, shard), heads));
        }
    }
    stream::iter(moves).buffer_unordered(4).try_collect::<()>().await
}

async fn take_partition(
    db: &Db,
    me: u64,
    timestamps: &Timestamps,
    (number, shard): (u64, i32),
    heads: &Heads,
) -> Result<(), StoreError> {
    let values = vec![long(number), int(shard)];
    let mut pages = db.pages(Bound { statement: S::DeadLetters, values }, FIRST_PAGE);
    let mut any = false;
    while let Some(page) = pages.next().await? {
        let (mut size, mut puts) = (0, Vec::new());
        for row in &page {
            let (id, cost, letter) = (id_of(row)?, row.u64("cost")?, row.blob("letter")?);
            size += letter.len();
            heads.lock().insert(id, cost);
            puts.push(db.write(put_row(me, id, cost, letter, timestamps.next())));
            any = true;
        }
        let rows = PAGE_BYTES * page.len().max(1) / size.max(1);
        pages.set_size(i32::try_from(rows.min(1000)).unwrap_or(1000).max(FIRST_PAGE));
        stream::iter(puts).buffer_unordered(PARALLEL).try_collect::<()>().await?;
    }
    if any {
        // Only now: they stand in our own.
        let values = vec![long(timestamps.next()), long(number), int(shard)];
        db.write(Bound { statement: S::DropDeadLetters, values }).await?;
    }
    Ok(())
}
