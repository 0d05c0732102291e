//! Dead letters on disk: a row each in the keyspace `dead_letters`, by [`DeadId::to_bytes`].

use fjall::UserKey;
use hydrant_actors::ports::{DeadId, DeadLetter, StoreError};

use super::database::store_error;
use super::row::Row;
use super::tables::Engine;
use crate::rows::{RowError, damaged, decode_dead_letter, encode_dead_letter};

fn key(id: DeadId) -> UserKey {
    id.to_bytes().into()
}

impl Engine {
    pub(super) fn put_dead_letter(
        &self,
        letter: &DeadLetter,
        rows: &mut Vec<Row>,
    ) -> Result<(), StoreError> {
        let value = encode_dead_letter(letter).map_err(damaged)?;
        rows.push(Row::put(&self.dead_letters, key(letter.id), value.into()));
        Ok(())
    }

    pub(super) fn drop_dead_letter(&self, id: DeadId, rows: &mut Vec<Row>) {
        rows.push(Row::remove(&self.dead_letters, key(id)));
    }

    /// See [`hydrant_actors::ports::SessionStore::dead_letters`].
    pub(super) fn dead_letters(
        &self,
        from: DeadId,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        for guard in self.dead_letters.range(from.to_bytes()..) {
            if found.len() >= limit || (!found.is_empty() && bytes >= max_bytes) {
                break;
            }
            let (key, value) = guard.into_inner().map_err(store_error)?;
            let letter = decode_dead_letter(&value).map_err(damaged)?;
            if *key != letter.id.to_bytes() {
                // Whoever reads on behind its id would read it again for ever.
                return Err(damaged(RowError::Key));
            }
            bytes += letter.record.cost();
            found.push(letter);
        }
        Ok(found)
    }
}
