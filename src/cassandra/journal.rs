//! The journal: the statements of a write that must be done whole or not at all, in one row, before
//! any of them is done. A node that dies in between leaves the row; who seals its incarnation does
//! the statements again. Their stamps are in them, so doing again what was done, or what later
//! writes have replaced, changes nothing.

use cdrs_tokio::types::value::Value;

use super::db::Bound;
use super::plan::Plan;
use super::statements::Statement;
use crate::rows::{RowError, decode, encode};

type Stored = Vec<(u8, Vec<serde_bytes::ByteBuf>)>;

/// The statements of a plan.
pub(super) fn pack(plan: &Plan) -> Result<Vec<u8>, RowError> {
    let bounds = plan.single.iter().chain(plan.batches.iter().flatten());
    let stored: Stored = bounds
        .map(|bound| {
            let values = bound.values.iter().map(|value| match value {
                Value::Some(bytes) => serde_bytes::ByteBuf::from(bytes.clone()),
                _ => serde_bytes::ByteBuf::new(),
            });
            (bound.statement as u8, values.collect())
        })
        .collect();
    encode(&stored)
}

/// What [`pack`] wrote.
pub(super) fn unpack(bytes: &[u8]) -> Result<Vec<Bound>, RowError> {
    let stored: Stored = decode(bytes)?;
    stored
        .into_iter()
        .map(|(number, values)| {
            let (statement, _) = Statement::ALL.get(usize::from(number)).ok_or(RowError::Short)?;
            let values = values.into_iter().map(|value| Value::Some(value.into_vec()));
            Ok(Bound { statement: *statement, values: values.collect() })
        })
        .collect()
}
