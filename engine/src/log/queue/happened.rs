//! What a step has done, for the driver's counters, its lines of the log, and the node's readiness.
//!
//! Bound: a line a refused record of the step, and one a read that failed.

use std::sync::Arc;

use crate::ports::{DeadId, StoreError};

/// What has happened since the driver asked last.
#[derive(Debug, Default)]
pub struct Happened {
    /// Records that the log has acknowledged.
    pub acknowledged: u64,
    /// Failures, and records that it has refused.
    pub failed: u64,
    /// Times that everything is sent again.
    pub resets: u64,
    /// Refused records for which there was no room among the dead letters.
    pub full: u64,
    /// Refused records that are kept nowhere.
    pub dropped: u64,
    /// Dead letters that became durable.
    pub written: u64,
    /// Dead letters that the log has after all.
    pub replayed: u64,
    /// Something is different among the dead letters.
    pub letters_changed: bool,
    /// The outbox's records and bytes, where a cursor has moved.
    pub backlog: Option<(u64, u64)>,
    /// The log answers; or it does not, and why.
    pub readiness: Option<Result<(), String>>,
}

/// Something that an operator is told.
#[derive(Debug)]
pub enum Notice {
    /// The log refuses a record.
    Refused {
        /// Its publisher.
        client: Arc<str>,
        /// Its MQTT topic.
        mqtt_topic: Arc<str>,
        /// Its Kafka topic.
        topic: Arc<str>,
        /// The log's words.
        why: String,
        /// What becomes of it.
        fate: Fate,
    },
    /// A record failed: everything without an acknowledgement is sent again.
    Reset {
        /// The log's words.
        why: String,
    },
    /// A lane that is behind could not be read.
    LaneUnread {
        /// Which.
        lane: u16,
        /// Why.
        error: StoreError,
    },
    /// What is to be sent again could not be read.
    Unread {
        /// Why.
        error: StoreError,
    },
    /// A dead letter that is to be sent again is not in the store.
    LetterMissing {
        /// Which.
        id: DeadId,
    },
}

/// What becomes of a refused record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is a dead letter.
    DeadLetter,
    /// It is kept nowhere, as its route wants it.
    NotKept,
    /// There is no room among the dead letters, and it stays in the outbox.
    StaysInOutbox,
    /// There is no room, and it is kept nowhere.
    NoRoom,
}
