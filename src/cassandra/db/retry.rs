//! Which requests are sent again, to another node.
//!
//! Bounds: `cassandra.retries` a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use cdrs_tokio::error::Error;
use cdrs_tokio::frame::message_error::ErrorType;
use cdrs_tokio::retry::{QueryInfo, RetryDecision, RetryPolicy, RetrySession};

/// What is tried on another node: where nothing came of it, or it does no harm twice.
#[derive(Clone)]
pub(super) struct Retry {
    pub(super) limit: u32,
    /// Requests that were sent again.
    pub(super) retries: Arc<AtomicU64>,
}

impl RetryPolicy for Retry {
    fn new_session(&self) -> Box<dyn RetrySession + Send + Sync> {
        Box::new(self.clone())
    }
}

impl RetrySession for Retry {
    fn decide(&mut self, query_info: QueryInfo<'_>) -> RetryDecision {
        let elsewhere = match query_info.error {
            Error::Server { body, .. } => matches!(
                body.ty,
                ErrorType::Overloaded | ErrorType::IsBootstrapping | ErrorType::Server
            ),
            _ => true,
        };
        if !query_info.is_idempotent || !elsewhere || self.limit == 0 {
            return RetryDecision::DontRetry;
        }
        self.limit -= 1;
        self.retries.fetch_add(1, Relaxed);
        RetryDecision::RetryNextNode
    }
}
