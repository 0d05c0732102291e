//! The rows of an answer and their columns.

use cdrs_tokio::error::Error;
use cdrs_tokio::frame::Envelope;
use cdrs_tokio::frame::message_response::ResponseBody;
use cdrs_tokio::frame::message_result::ResResultBody;
use cdrs_tokio::types::blob::Blob;
use cdrs_tokio::types::{ByName, CBytes};
use hydrant_actors::ports::StoreError;

use super::error::unavailable;

/// A row of an answer. A column that is missing or of another type is an error that says so.
#[derive(Debug, Clone)]
pub struct Row(cdrs_tokio::types::rows::Row);

impl Row {
    fn column<T>(&self, column: &str, found: Result<Option<T>, Error>) -> Result<T, StoreError> {
        self.optional(column, found)?.ok_or_else(|| {
            StoreError::Unusable(format!("column {column} of a row in Cassandra is null"))
        })
    }

    fn optional<T>(
        &self,
        column: &str,
        found: Result<Option<T>, Error>,
    ) -> Result<Option<T>, StoreError> {
        if !self.0.contains_column(column) {
            return Ok(None);
        }
        found.map_err(|error| {
            StoreError::Unusable(format!("column {column} of a row in Cassandra: {error}"))
        })
    }

    /// A bigint; an error where it is null.
    pub fn i64(&self, column: &str) -> Result<i64, StoreError> {
        self.column(column, self.0.by_name(column))
    }

    /// A bigint as it is used here: never negative.
    pub fn u64(&self, column: &str) -> Result<u64, StoreError> {
        u64::try_from(self.i64(column)?).map_err(|_| {
            StoreError::Unusable(format!("column {column} of a row in Cassandra is negative"))
        })
    }

    /// An int.
    pub fn i32(&self, column: &str) -> Result<i32, StoreError> {
        self.column(column, self.0.by_name(column))
    }

    /// A text.
    pub fn text(&self, column: &str) -> Result<String, StoreError> {
        self.column(column, self.0.by_name(column))
    }

    /// A blob.
    pub fn blob(&self, column: &str) -> Result<Vec<u8>, StoreError> {
        Ok(self.column(column, self.0.by_name::<Blob>(column))?.into_vec())
    }

    /// A bigint or null.
    pub fn optional_i64(&self, column: &str) -> Result<Option<i64>, StoreError> {
        self.optional(column, self.0.by_name(column))
    }

    /// An int or null.
    pub fn optional_i32(&self, column: &str) -> Result<Option<i32>, StoreError> {
        self.optional(column, self.0.by_name(column))
    }

    /// A text or null.
    pub fn optional_text(&self, column: &str) -> Result<Option<String>, StoreError> {
        self.optional(column, self.0.by_name(column))
    }

    /// A blob or null; an empty blob counts as null.
    pub fn optional_blob(&self, column: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let blob = self.optional(column, self.0.by_name::<Blob>(column))?;
        Ok(blob.map(Blob::into_vec).filter(|bytes| !bytes.is_empty()))
    }

    /// A boolean.
    pub(super) fn flag(&self, column: &str) -> Result<bool, StoreError> {
        self.column(column, self.0.by_name(column))
    }
}

/// The rows of an answer and where the next page begins.
pub(super) fn rows_of(answer: Envelope) -> Result<(Vec<Row>, Option<CBytes>), StoreError> {
    let body = answer.response_body().map_err(|error| unavailable(&error))?;
    match body {
        ResponseBody::Result(ResResultBody::Rows(rows)) => {
            let next = rows.metadata.paging_state.clone();
            let rows = cdrs_tokio::types::rows::Row::from_body(rows);
            Ok((rows.into_iter().map(Row).collect(), next))
        }
        _ => Ok((Vec::new(), None)),
    }
}
