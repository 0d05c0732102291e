//! The journal: the statements of a write that must be done whole or not at all, in rows of their
//! own, before any of them is done. A node that dies in between leaves them; who seals its
//! incarnation does the statements again. Their write timestamps are in them, so doing again what was done,
//! or what later writes have replaced, changes nothing.
//!
//! Such writes are done one after another ([`super::order`]). One that fails when it stands here
//! may be half done: it is done again from here before another is begun, so two slots are enough and
//! none is written over while its entry is needed. Entries are removed when nothing follows them,
//! because the tombstones of what they wrote do not last for ever.
//!
//! Bounds: a row has [`PART`] bytes; an entry as many rows as its write needs, the first written
//! last.

use cdrs_tokio::types::value::Value;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use hydrant_actors::ports::StoreError;

use super::columns::{blob, int, long};
use super::db::Bound;
use super::inner::Inner;
use super::planned::Plan;
use super::read::PARALLEL;
use super::statements::Statement;
use crate::rows::{RowError, damaged, decode, encode};

/// Entries that an incarnation's journal holds at most.
pub(super) const SLOTS: i32 = 2;
/// Bytes of an entry in one row.
const PART: usize = 1 << 20;
/// Before them: the entry's write timestamp and how many parts it has.
const HEADER: usize = 12;

type Stored = Vec<(u8, Vec<serde_bytes::ByteBuf>)>;

/// The statements of a plan, as the rows of an entry.
pub(super) fn pack(plan: &Plan, entry: u64) -> Result<Vec<Vec<u8>>, RowError> {
    let batches = plan.batches.iter().chain(&plan.last).flatten();
    let stored: Stored = plan
        .single
        .iter()
        .chain(batches)
        .map(|bound| {
            let values = bound.values.iter().map(|value| match value {
                Value::Some(bytes) => serde_bytes::ByteBuf::from(bytes.clone()),
                _ => serde_bytes::ByteBuf::new(),
            });
            (bound.statement as u8, values.collect())
        })
        .collect();
    let bytes = encode(&stored)?;
    let parts = u32::try_from(bytes.len().div_ceil(PART)).unwrap_or(u32::MAX);
    let row = |part: &[u8]| [&entry.to_be_bytes()[..], &parts.to_be_bytes(), part].concat();
    Ok(bytes.chunks(PART).map(row).collect())
}

/// What [`pack`] wrote, of the rows of a slot in their order: the entry's write timestamp and its statements.
/// `None`: there is no entry that is whole, so nothing of it was begun.
pub(super) fn unpack(rows: &[Vec<u8>]) -> Result<Option<(u64, Vec<Bound>)>, RowError> {
    let Some((header, _)) = rows.first().and_then(|row| row.split_at_checked(HEADER)) else {
        return Ok(None);
    };
    let (entry, parts) = header.split_at(8);
    let mut number = [0; 8];
    number.copy_from_slice(entry);
    let parts = parts.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    // Behind them may stand what is left of a longer entry before.
    let rows = rows.iter().take(parts).filter(|row| row.starts_with(header));
    let rows: Vec<&[u8]> = rows.map(|row| &row[HEADER..]).collect();
    if rows.len() < parts {
        return Ok(None);
    }
    let stored: Stored = decode(&rows.concat())?;
    let bounds = stored.into_iter().map(|(number, values)| {
        let (statement, _) = Statement::ALL.get(usize::from(number)).ok_or(RowError::Short)?;
        let values = values.into_iter().map(|value| Value::Some(value.into_vec()));
        Ok(Bound { statement: *statement, values: values.collect() })
    });
    Ok(Some((u64::from_be_bytes(number), bounds.collect::<Result<_, RowError>>()?)))
}

impl Inner {
    /// Puts a plan into the journal; it may be begun then. Its turn has come. The slot.
    pub(super) async fn journal(&self, plan: &Plan) -> Result<i32, StoreError> {
        let (slot, timestamp) = {
            let mut memory = self.memory.lock();
            memory.last_slot = (memory.last_slot + 1) % SLOTS;
            memory.journal_used = true;
            (memory.last_slot, memory.timestamp())
        };
        let rows = pack(plan, timestamp).map_err(damaged)?;
        let put = |(part, row): (i32, Vec<u8>)| {
            let key = [long(self.incarnation.number), int(slot), int(part)];
            let values = [&key[..], &[blob(row), long(timestamp)]].concat();
            self.db.write(Bound { statement: Statement::PutJournal, values })
        };
        let mut rows = (0..).zip(rows);
        let first = rows.next();
        stream::iter(rows).map(put).buffer_unordered(PARALLEL).try_collect::<()>().await?;
        // With it the entry is whole.
        if let Some(first) = first {
            put(first).await?;
        }
        Ok(slot)
    }

    /// Everything that went by way of the journal is done, and nothing else is under way.
    pub(super) async fn clear_journal(&self, timestamp: u64) {
        for slot in 0..SLOTS {
            let values = vec![long(timestamp), long(self.incarnation.number), int(slot)];
            let cleared =
                self.db.write(Bound { statement: Statement::DeleteJournal, values }).await;
            if cleared.is_err() {
                self.memory.lock().journal_used = true;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cassandra::columns::{blob, long};

    fn plan(bytes: usize) -> Plan {
        let values = vec![long(7), blob(vec![5; bytes])];
        Plan {
            single: vec![Bound { statement: Statement::PutQueue, values: values.clone() }],
            last: vec![vec![Bound { statement: Statement::DeleteQueue, values }]],
            ..Plan::default()
        }
    }

    #[test]
    fn an_entry_is_whole_or_not_there() {
        let rows = pack(&plan(3 << 19), 9).unwrap();
        assert_eq!(rows.len(), 4);
        let (entry, bounds) = unpack(&rows).unwrap().unwrap();
        assert_eq!((entry, bounds.len()), (9, 2));
        assert_eq!(bounds[1].statement, Statement::DeleteQueue);
        assert_eq!(
            format!("{:?}", bounds[0].values),
            format!("{:?}", plan(3 << 19).single[0].values)
        );
        assert!(unpack(&[]).unwrap().is_none());
        assert!(unpack(&rows[..3]).unwrap().is_none(), "the end is missing");
        // A shorter entry over a longer one, and one that is half written over it.
        let short = pack(&plan(10), 10).unwrap();
        let over = [&short[..], &rows[1..]].concat();
        assert_eq!(unpack(&over).unwrap().unwrap().0, 10);
        let mut half = pack(&plan(3 << 19), 11).unwrap();
        half[0] = rows[0].clone();
        assert!(unpack(&half).unwrap().is_none());
    }
}
