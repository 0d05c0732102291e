//! Cuts the statements of one partition into batches.
//!
//! Bounds: a batch of [`STATEMENTS`] and [`BYTES`], one of prepared publishes of [`PREPARED`]; a statement that is
//! larger stands alone.

use cdrs_tokio::types::value::Value;

use super::super::db::Bound;

const STATEMENTS: usize = 64;
const BYTES: usize = 32 << 10;
/// The same of prepared publishes, whose batches wait for each other. Far below the 16 MiB of a Cassandra
/// mutation, whose batch thresholds do not count for one partition.
pub(super) const PREPARED: (usize, usize) = (4096, 1 << 20);

/// Statements of one partition, in batches.
pub(super) fn cut(group: Vec<Bound>) -> Vec<Vec<Bound>> {
    cut_at(group, (STATEMENTS, BYTES))
}

/// The same with batches of so many statements and bytes. None is empty.
pub(super) fn cut_at(group: Vec<Bound>, (statements, most): (usize, usize)) -> Vec<Vec<Bound>> {
    let mut batches = Vec::new();
    let mut batch = Vec::new();
    let mut bytes = 0;
    for bound in group {
        let size = size(&bound);
        if !batch.is_empty() && (batch.len() >= statements || bytes + size > most) {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        bytes += size;
        batch.push(bound);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

fn size(bound: &Bound) -> usize {
    let value = |value: &Value| match value {
        Value::Some(bytes) => bytes.len() + 4,
        _ => 4,
    };
    bound.values.iter().map(value).sum()
}
