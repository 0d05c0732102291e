//! The message log: Kafka, or the embedded log where there is none. Its records and reports are data of the engine.

use std::sync::Arc;

use hydrant_engine::ports::{Admission, LogRecord, Report};

/// An append-only log with topics and keys.
///
/// Order: records of one topic and key are kept in the order of `append`. After one record got
/// [`LogError::Unavailable`](hydrant_engine::ports::LogError::Unavailable), records behind it may still be accepted; so the caller stops, calls
/// [`MessageLog::reset`], waits until every outstanding record is reported, and sends again from
/// the first that has no `Ok`.
pub trait MessageLog: Send + Sync + 'static {
    /// Takes records in order. Never blocks. What does not fit now is given back (the tail of the
    /// input, in order); room is announced by the next report.
    fn append(&self, records: Vec<LogRecord>) -> Vec<LogRecord>;

    /// Whether a topic may have records of its own: asked before a publish is acknowledged, so that
    /// nothing acknowledged is refused for a cap. From any thread; never blocks. The topic of a record
    /// that is appended without having been asked about counts as admitted: an earlier start of the
    /// node, or another node, has asked.
    fn admit(&self, _topic: &Arc<str>, _client: &Arc<str>) -> Admission {
        Admission::Own
    }

    /// Rises when a topic that was beyond a cap may be asked about again.
    fn admissions(&self) -> u64 {
        0
    }

    /// Whether more records of this topic may be appended now. Where not, those that stand in the
    /// outbox stay there until it says so again, and take no room in memory from other topics;
    /// what has no other place is appended all the same. Never blocks.
    fn takes(&self, _topic: &str) -> bool {
        true
    }

    /// Whether `append` costs next to nothing. Then workers call it themselves, and the thread that reports hands the
    /// reports on itself, so it must hold no lock that `append` takes.
    fn append_is_cheap(&self) -> bool {
        false
    }

    /// Where reports go, in batches, from any thread. Set once before the first `append`.
    fn on_report(&self, sink: Box<dyn Fn(Vec<Report>) + Send + Sync>);

    /// Gives up on everything outstanding: each such record is reported soon, `Ok` or
    /// `Unavailable`. The log is usable again afterwards (a fatal producer is replaced by a new one).
    fn reset(&self);

    /// Waits until everything appended so far is reported, at most until the deadline; blocking,
    /// for shutdown. False when something is still outstanding.
    fn flush(&self, deadline: std::time::Duration) -> bool;

    /// Whether the log answers now. While it does not, a shutdown does not wait for it.
    fn is_up(&self) -> bool;

    /// One line for `broker tree`: kind, state, outstanding.
    fn describe(&self) -> String;
}
