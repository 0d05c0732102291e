//! What the log actor knows about records under way. It lives outside the actor, so that a rebuilt
//! one loses none.
//!
//! Bounds: `log.max_pending_messages` and `log.max_pending_bytes` outstanding records.

use std::collections::VecDeque;
use std::time::Instant;

use crate::ports::{LogError, LogRecord, Report};
use crate::shared::Token;

#[derive(Debug)]
struct Outstanding {
    record: LogRecord,
    token: Option<Token>,
    cost: usize,
    /// When it was handed to the log; `None` while it was not, or not again.
    sent: Option<Instant>,
    done: bool,
}

/// What one report did.
#[derive(Debug)]
pub enum Outcome {
    /// The log has it; with who waits for it and its place in the outbox.
    Acknowledged(Option<Token>, Option<crate::ports::OutboxPosition>, std::time::Duration),
    /// The log refuses it for good; dropped.
    Refused(Option<Token>, Option<crate::ports::OutboxPosition>, LogRecord, String),
    /// Not now: everything outstanding has to be sent again, in order.
    Failed(String),
    /// A second report, or of a record nobody knows any more.
    Unknown,
}

/// See the module.
#[derive(Debug, Default)]
pub struct LogState {
    /// In the order of ids, without gaps: the front's id is `first`.
    records: VecDeque<Outstanding>,
    first: u64,
    /// Id of the next record to hand to the log.
    next: u64,
    /// Records in the log's hands.
    in_log: usize,
    bytes: usize,
    /// A record failed: nothing is sent until every one in the log's hands is reported.
    pub resetting: bool,
}

impl LogState {
    /// Records outstanding or waiting.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Their bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Records in the log's hands.
    pub fn in_log(&self) -> usize {
        self.in_log
    }

    /// True while there are records to hand to the log.
    pub fn has_unsent(&self) -> bool {
        self.next < self.first + self.records.len() as u64
    }

    /// Takes a record up; it is sent after all before it.
    pub fn push(&mut self, mut record: LogRecord, token: Option<Token>) {
        record.id = self.first + self.records.len() as u64;
        let cost = record.cost();
        self.bytes += cost;
        self.records.push_back(Outstanding { record, token, cost, sent: None, done: false });
    }

    /// Up to `limit` records to hand to the log now, in order; they count as handed over.
    pub fn take_unsent(&mut self, limit: usize, now: Instant) -> Vec<LogRecord> {
        let mut batch = Vec::new();
        while batch.len() < limit {
            let at = (self.next - self.first) as usize;
            let Some(outstanding) = self.records.get_mut(at) else { break };
            self.next += 1;
            if outstanding.done {
                continue;
            }
            outstanding.sent = Some(now);
            self.in_log += 1;
            batch.push(outstanding.record.clone());
        }
        batch
    }

    /// The log had no room for these, the tail of what it was given.
    pub fn give_back(&mut self, records: &[LogRecord]) {
        if let Some(first) = records.first() {
            self.next = first.id;
            self.in_log -= records.len();
            for record in records {
                if let Some(outstanding) = self.records.get_mut((record.id - self.first) as usize) {
                    outstanding.sent = None;
                }
            }
        }
    }

    /// One report.
    pub fn report(&mut self, report: Report, now: Instant) -> Outcome {
        let at = report.id.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        let Some(outstanding) = at.and_then(|at| self.records.get_mut(at)) else {
            return Outcome::Unknown;
        };
        let Some(sent) = outstanding.sent.take() else { return Outcome::Unknown };
        self.in_log -= 1;
        if let Err(LogError::Unavailable(why)) = report.result {
            return Outcome::Failed(why);
        }
        outstanding.done = true;
        let token = outstanding.token.take();
        let outbox = outstanding.record.outbox;
        let outcome = match report.result {
            Err(LogError::Refused(why)) => {
                Outcome::Refused(token, outbox, outstanding.record.clone(), why)
            }
            _ => Outcome::Acknowledged(token, outbox, now.duration_since(sent)),
        };
        while self.records.front().is_some_and(|front| front.done) {
            if let Some(front) = self.records.pop_front() {
                self.bytes -= front.cost;
                self.first += 1;
            }
        }
        self.next = self.next.max(self.first);
        outcome
    }

    /// Everything without an acknowledgement is sent again, from the first.
    pub fn rewind(&mut self) {
        self.next = self.first;
        self.resetting = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use hydrant_protocol::QoS;

    fn record(n: u64) -> LogRecord {
        LogRecord {
            id: 0,
            topic: "t".into(),
            key: None,
            payload: Bytes::from(n.to_string()),
            mqtt_topic: "t".into(),
            qos: QoS::AtLeastOnce,
            retain: false,
            client_id: "c".into(),
            epoch: 0,
            sequence: n,
            outbox: None,
            received_ms: 0,
            properties: None,
        }
    }

    fn ids(records: &[LogRecord]) -> Vec<u64> {
        records.iter().map(|record| record.sequence).collect()
    }

    #[test]
    fn after_a_failure_everything_unacknowledged_is_sent_again_in_order() {
        let mut state = LogState::default();
        let now = Instant::now();
        for n in 0..5 {
            state.push(record(n), None);
        }
        let sent = state.take_unsent(10, now);
        assert_eq!(ids(&sent), [0, 1, 2, 3, 4]);
        let unavailable = || Err(LogError::Unavailable("gone".into()));
        assert!(matches!(
            state.report(Report { id: 0, result: Ok(()) }, now),
            Outcome::Acknowledged(..)
        ));
        assert!(matches!(
            state.report(Report { id: 1, result: unavailable() }, now),
            Outcome::Failed(_)
        ));
        // One behind the failed one got through all the same.
        assert!(matches!(
            state.report(Report { id: 2, result: Ok(()) }, now),
            Outcome::Acknowledged(..)
        ));
        assert!(matches!(
            state.report(Report { id: 3, result: unavailable() }, now),
            Outcome::Failed(_)
        ));
        assert_eq!(state.in_log(), 1);
        assert!(matches!(
            state.report(Report { id: 4, result: unavailable() }, now),
            Outcome::Failed(_)
        ));
        assert_eq!(state.in_log(), 0);
        state.rewind();
        assert_eq!(ids(&state.take_unsent(10, now)), [1, 3, 4]);
        assert!(matches!(state.report(Report { id: 0, result: Ok(()) }, now), Outcome::Unknown));
    }

    #[test]
    fn what_the_log_gives_back_is_next() {
        let mut state = LogState::default();
        let now = Instant::now();
        for n in 0..4 {
            state.push(record(n), None);
        }
        let sent = state.take_unsent(10, now);
        state.give_back(&sent[2..]);
        assert_eq!(state.in_log(), 2);
        assert!(state.has_unsent());
        assert_eq!(ids(&state.take_unsent(10, now)), [2, 3]);
        for id in 0..4 {
            state.report(Report { id, result: Ok(()) }, now);
        }
        assert!(state.is_empty());
        assert_eq!(state.bytes(), 0);
    }
}
