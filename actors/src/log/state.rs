//! What the log actor knows about records under way. It lives outside the actor, so that a rebuilt
//! one loses none.
//!
//! What reports have said is kept here too ([`Owed`]) until it was handed on: answering and moving
//! cursors twice changes nothing, forgetting either would leave somebody waiting for ever.
//!
//! Bounds: `log.max_pending_messages` and `log.max_pending_bytes` outstanding records; what is owed
//! stems from records that were outstanding, and is handed on at the end of each handler.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::ports::{LogError, LogRecord, OutboxPosition, Report};
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
    /// The log has it; after how long.
    Acknowledged(Duration),
    /// The log refuses it for good; dropped.
    Refused(LogRecord, String),
    /// Not now: everything outstanding has to be sent again, in order.
    Failed,
    /// A second report, or of a record nobody knows any more.
    Unknown,
}

/// What reports have said and nobody has been told yet.
#[derive(Debug, Default)]
pub struct Owed {
    /// Who waited for a record that the log has.
    pub answers: VecDeque<Token>,
    /// Who waited for one that it refuses.
    pub refusals: VecDeque<Token>,
    /// Places in the outbox that are over.
    pub done: Vec<OutboxPosition>,
    /// Records acknowledged, for the metrics.
    pub acknowledged: u64,
    /// Everything is to be sent again, and why.
    pub failure: Option<String>,
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
    /// What was reported and not handed on.
    pub owed: Owed,
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

    /// The log had no room for the records from id `from` on, the tail of what it was given; or
    /// nobody knows which of them it took.
    pub fn give_back(&mut self, from: u64) {
        let from = from.max(self.first);
        let at = (from - self.first) as usize;
        let given = self.next.saturating_sub(from) as usize;
        for outstanding in self.records.iter_mut().skip(at).take(given) {
            if outstanding.sent.take().is_some() {
                self.in_log -= 1;
            }
        }
        self.next = self.next.min(from);
    }

    /// One report. What follows from it is added to [`Self::owed`]; a second one of the same record
    /// adds nothing.
    pub fn report(&mut self, report: Report, now: Instant) -> Outcome {
        let at = report.id.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        let Some(outstanding) = at.and_then(|at| self.records.get_mut(at)) else {
            return Outcome::Unknown;
        };
        let Some(sent) = outstanding.sent.take() else { return Outcome::Unknown };
        self.in_log -= 1;
        let refused = match report.result {
            Err(LogError::Unavailable(why)) => {
                self.owed.failure = Some(why);
                return Outcome::Failed;
            }
            Err(LogError::Refused(why)) => Some(why),
            Ok(()) => None,
        };
        outstanding.done = true;
        self.owed.done.extend(outstanding.record.outbox);
        let token = outstanding.token.take();
        let outcome = match refused {
            Some(why) => {
                self.owed.refusals.extend(token);
                Outcome::Refused(outstanding.record.clone(), why)
            }
            None => {
                self.owed.answers.extend(token);
                self.owed.acknowledged += 1;
                Outcome::Acknowledged(now.duration_since(sent))
            }
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
            Outcome::Failed
        ));
        // One behind the failed one got through all the same.
        assert!(matches!(
            state.report(Report { id: 2, result: Ok(()) }, now),
            Outcome::Acknowledged(..)
        ));
        assert!(matches!(
            state.report(Report { id: 3, result: unavailable() }, now),
            Outcome::Failed
        ));
        assert_eq!(state.in_log(), 1);
        assert!(matches!(
            state.report(Report { id: 4, result: unavailable() }, now),
            Outcome::Failed
        ));
        assert_eq!(state.in_log(), 0);
        state.rewind();
        assert_eq!(ids(&state.take_unsent(10, now)), [1, 3, 4]);
        assert!(matches!(state.report(Report { id: 0, result: Ok(()) }, now), Outcome::Unknown));
        assert_eq!((state.owed.acknowledged, state.owed.failure.as_deref()), (2, Some("gone")));
    }

    #[test]
    fn what_the_log_gives_back_is_next() {
        let mut state = LogState::default();
        let now = Instant::now();
        for n in 0..4 {
            state.push(record(n), None);
        }
        let sent = state.take_unsent(10, now);
        state.give_back(sent[2].id);
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
