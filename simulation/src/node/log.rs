//! The log queue's steps, as LogActor has them done. There is no log yet: no route has records.

use hydrant_engine::log::queue::ReadId;
use hydrant_engine::ports::{DeadLetter, LogRecord, StoreError};

use super::Node;

impl Node {
    pub(super) fn log_has_work(&self) -> bool {
        false
    }

    pub(super) fn step_log(&mut self) {}

    pub(super) fn log_deadline(&mut self) {}

    pub(super) fn outbox_page(&mut self, _: ReadId, _: Result<Vec<LogRecord>, StoreError>) {}

    pub(super) fn letters(&mut self, _: ReadId, _: Result<Vec<DeadLetter>, StoreError>) {}
}
