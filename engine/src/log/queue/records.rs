//! Records under way: admitted, in the log's hands, or to be sent again.
//!
//! Invariants: records are sent in the order in which they were admitted. A record stays here until it is reported as
//! acknowledged or refused; a second report of it changes nothing.
//!
//! A record can wait for long while those behind it are acknowledged: its Kafka topic takes nothing for now. It is set
//! aside then, and takes no more room than itself.
//!
//! Bounds: `log.max_pending_messages` and `log.max_pending_bytes` outstanding records, kept by the log queue, and as
//! many places of acknowledged ones between them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use hydrant_protocol::OnRefused;

use super::held::Held;
use super::owed::{Kind, Owed, Refused};
use crate::messages::CompletionToken;
use crate::now::Boot;
use crate::ports::{DeadId, LogError, LogRecord, Report};

/// Places of acknowledged records that stand before one that is outstanding, besides as many as
/// there are outstanding ones.
const SPARE: usize = 1024;

#[derive(Debug)]
struct Outstanding {
    /// `None` once it was reported.
    record: Option<LogRecord>,
    token: Option<CompletionToken>,
    kind: Kind,
    cost: usize,
    /// When it was handed to the log; `None` while it was not, or not again.
    sent: Option<Boot>,
}

/// What one report did.
#[derive(Debug)]
pub enum Outcome {
    /// The log has it; after how long.
    Acknowledged(Duration),
    /// The log refuses it for good.
    Refused,
    /// Not now: everything outstanding has to be sent again, in order.
    Failed,
    /// A second report, or of a record nobody knows any more.
    Unknown,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Records {
    /// In the order of ids, without gaps: the front's id is `first`.
    records: VecDeque<Outstanding>,
    first: u64,
    /// Records in the log's hands whose ids are below `first`.
    aside: BTreeMap<u64, Outstanding>,
    /// Records that were not reported as acknowledged or refused.
    live: usize,
    /// Id of the next record to hand to the log.
    next: u64,
    /// Records in the log's hands.
    in_log: usize,
    bytes: usize,
}

impl Records {
    /// Records outstanding or waiting.
    pub fn len(&self) -> usize {
        self.live
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.live == 0
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

    /// Admits a record; it is sent after all before it.
    pub fn push(&mut self, record: LogRecord, token: Option<CompletionToken>) {
        self.push_as(record, token, Kind::Publish(OnRefused::DeadLetter));
    }

    /// The same with a dead letter.
    pub fn push_replay(&mut self, record: LogRecord) {
        self.push_as(record, None, Kind::Replay);
    }

    /// The same with a record from anywhere.
    pub fn push_as(&mut self, mut record: LogRecord, token: Option<CompletionToken>, kind: Kind) {
        record.id = self.first + self.records.len() as u64;
        let cost = record.cost();
        self.bytes += cost;
        self.live += 1;
        let record = Some(record);
        self.records.push_back(Outstanding { record, token, kind, cost, sent: None });
    }

    /// Up to `limit` records to hand to the log now, in order; they count as handed over.
    pub fn take_unsent(&mut self, limit: usize, now: Boot) -> Vec<LogRecord> {
        let mut batch = Vec::new();
        while batch.len() < limit {
            let at = (self.next - self.first) as usize;
            let Some(outstanding) = self.records.get_mut(at) else { break };
            self.next += 1;
            let Some(record) = &outstanding.record else { continue };
            outstanding.sent = Some(now);
            self.in_log += 1;
            batch.push(record.clone());
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

    /// One report. What follows from it is owed; a second one of the same record adds nothing.
    pub fn report(
        &mut self,
        report: Report,
        now: Boot,
        owed: &mut Owed,
        held: &mut Held,
    ) -> Outcome {
        let outstanding = match report.id.checked_sub(self.first) {
            Some(at) => usize::try_from(at).ok().and_then(|at| self.records.get_mut(at)),
            None => self.aside.get_mut(&report.id),
        };
        let Some(outstanding) = outstanding else { return Outcome::Unknown };
        let Some(sent) = outstanding.sent.take() else { return Outcome::Unknown };
        self.in_log -= 1;
        let refused = match report.result {
            Err(LogError::Unavailable(why)) => {
                owed.failure = Some(why);
                return Outcome::Failed;
            }
            Err(LogError::Refused(why)) => Some(why),
            Ok(()) => None,
        };
        let Some(record) = outstanding.record.take() else { return Outcome::Unknown };
        self.live -= 1;
        self.bytes -= outstanding.cost;
        let (token, kind) = (outstanding.token.take(), outstanding.kind);
        let outcome = match refused {
            Some(why) => {
                owed.refused.push_back(Refused { record, why, token, kind });
                Outcome::Refused
            }
            None => {
                let outbox = record.outbox;
                if let Some(at) = outbox {
                    held.answered(at, true);
                    owed.done.push(at);
                }
                owed.answers.extend(token);
                if kind == Kind::Replay {
                    owed.replayed.push(DeadId::of(&record));
                }
                owed.acknowledged += 1;
                Outcome::Acknowledged(now.since(sent))
            }
        };
        if report.id < self.first {
            self.aside.remove(&report.id);
        }
        self.shorten();
        outcome
    }

    /// Gives up the places of acknowledged records before the first that is outstanding; and where
    /// that one has stood for long, sets it aside.
    fn shorten(&mut self) {
        let long = |state: &Self| state.records.len() > 2 * state.live + SPARE;
        while let Some(front) = self.records.front()
            && (front.record.is_none() || front.sent.is_some() && long(self))
        {
            if let Some(front) = self.records.pop_front() {
                if front.record.is_some() {
                    self.aside.insert(self.first, front);
                }
                self.first += 1;
            }
        }
        self.next = self.next.max(self.first);
    }

    /// Everything without an acknowledgement is sent again, from the first.
    pub fn rewind(&mut self) {
        if !self.aside.is_empty() {
            // Their places are gone: all get new ids. Nothing is in the log's hands.
            let first = self.first + self.records.len() as u64;
            let aside = std::mem::take(&mut self.aside).into_values();
            let records = aside.chain(std::mem::take(&mut self.records));
            self.records = records.filter(|outstanding| outstanding.record.is_some()).collect();
            self.first = first;
            for (id, outstanding) in (first..).zip(&mut self.records) {
                if let Some(record) = &mut outstanding.record {
                    record.id = id;
                }
            }
        }
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hydrant_protocol::QoS;

    use super::*;

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
        let mut state = Records::default();
        let (mut owed, mut held) = (Owed::default(), Held::default());
        let now = Boot(1);
        for n in 0..5 {
            state.push(record(n), None);
        }
        let sent = state.take_unsent(10, now);
        assert_eq!(ids(&sent), [0, 1, 2, 3, 4]);
        let unavailable = || Err(LogError::Unavailable("gone".into()));
        assert!(matches!(
            state.report(Report { id: 0, result: Ok(()) }, now, &mut owed, &mut held),
            Outcome::Acknowledged(..)
        ));
        assert!(matches!(
            state.report(Report { id: 1, result: unavailable() }, now, &mut owed, &mut held),
            Outcome::Failed
        ));
        // One behind the failed one got through all the same.
        assert!(matches!(
            state.report(Report { id: 2, result: Ok(()) }, now, &mut owed, &mut held),
            Outcome::Acknowledged(..)
        ));
        assert!(matches!(
            state.report(Report { id: 3, result: unavailable() }, now, &mut owed, &mut held),
            Outcome::Failed
        ));
        assert_eq!(state.in_log(), 1);
        assert!(matches!(
            state.report(Report { id: 4, result: unavailable() }, now, &mut owed, &mut held),
            Outcome::Failed
        ));
        assert_eq!(state.in_log(), 0);
        state.rewind();
        assert_eq!(ids(&state.take_unsent(10, now)), [1, 3, 4]);
        assert!(matches!(
            state.report(Report { id: 0, result: Ok(()) }, now, &mut owed, &mut held),
            Outcome::Unknown
        ));
        assert_eq!((owed.acknowledged, owed.failure.as_deref()), (2, Some("gone")));
    }

    #[test]
    fn what_the_log_gives_back_is_next() {
        let mut state = Records::default();
        let (mut owed, mut held) = (Owed::default(), Held::default());
        let now = Boot(1);
        for n in 0..4 {
            state.push(record(n), None);
        }
        let sent = state.take_unsent(10, now);
        state.give_back(sent[2].id);
        assert_eq!(state.in_log(), 2);
        assert!(state.has_unsent());
        assert_eq!(ids(&state.take_unsent(10, now)), [2, 3]);
        for id in 0..4 {
            state.report(Report { id, result: Ok(()) }, now, &mut owed, &mut held);
        }
        assert!(state.is_empty());
        assert_eq!(state.bytes(), 0);
    }

    #[test]
    fn a_record_that_waits_for_long_takes_no_room_but_its_own_and_is_sent_first_again() {
        let mut state = Records::default();
        let (mut owed, mut held) = (Owed::default(), Held::default());
        let now = Boot(1);
        let cost = record(0).cost();
        for n in 0..10_000 {
            state.push(record(n), None);
            assert_eq!(state.take_unsent(10, now).len(), 1);
            // 3 and 70 have no answer yet.
            if n != 3 && n != 70 {
                state.report(Report { id: n, result: Ok(()) }, now, &mut owed, &mut held);
            }
        }
        assert_eq!((state.len(), state.in_log(), state.bytes() / cost), (2, 2, 2));
        assert!(state.records.len() <= SPARE + 4, "{} places", state.records.len());
        let refused = Err(LogError::Refused("no".into()));
        let outcome = state.report(Report { id: 3, result: refused }, now, &mut owed, &mut held);
        assert!(matches!(outcome, Outcome::Refused));
        let refused: Vec<u64> = owed.refused.iter().map(|one| one.record.sequence).collect();
        assert_eq!(refused, [3]);
        assert!(matches!(
            state.report(Report { id: 3, result: Ok(()) }, now, &mut owed, &mut held),
            Outcome::Unknown
        ));
        state.push(record(10_000), None);
        let unavailable = Err(LogError::Unavailable("gone".into()));
        state.report(Report { id: 70, result: unavailable }, now, &mut owed, &mut held);
        state.rewind();
        let again = state.take_unsent(10, now);
        assert_eq!(ids(&again), [70, 10_000]);
        for record in &again {
            state.report(Report { id: record.id, result: Ok(()) }, now, &mut owed, &mut held);
        }
        assert_eq!((state.len(), state.in_log(), state.bytes()), (0, 0, 0));
        assert_eq!(owed.acknowledged, 10_000);
    }
}
