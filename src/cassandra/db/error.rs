//! What goes wrong with a request, in a sentence for a user or a log line.

use std::time::Duration;

use cdrs_tokio::error::Error;
use cdrs_tokio::frame::message_error::ErrorType;
use hydrant_actors::ports::StoreError;
use tokio::time::timeout;

/// Why the store cannot be used at start: one sentence that says what to do.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct CassandraError(pub String);

/// What the driver answers, or a sentence that says why it does not.
pub(super) async fn in_time<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, String> {
    match timeout(limit, answer).await {
        Ok(answer) => answer.map_err(|error| sentence(&error)),
        Err(_) => Err(format!("Cassandra did not answer within {limit:?}")),
    }
}

pub(super) fn unavailable(error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

/// What went wrong, in a sentence for a log line.
pub(in super::super) fn sentence(error: &Error) -> String {
    let Error::Server { body, addr } = error else { return error.to_string() };
    let what = match &body.ty {
        ErrorType::Unavailable(e) => {
            format!("needs {} live replicas and has {}", e.required, e.alive)
        }
        ErrorType::WriteTimeout(e) => {
            format!("{} of {} replicas confirmed the write in time", e.received, e.block_for)
        }
        ErrorType::ReadTimeout(e) => {
            format!("{} of {} replicas answered the read in time", e.received, e.block_for)
        }
        ErrorType::Overloaded => "is overloaded".to_owned(),
        ErrorType::IsBootstrapping => "is still starting".to_owned(),
        _ => return format!("Cassandra node {addr}: {}", body.message),
    };
    format!("Cassandra node {addr} {what}")
}
