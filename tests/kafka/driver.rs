//! Drives a [`MessageLog`] the way the log actor does: records in order, given-back ones again
//! when a report comes, and after an `Unavailable` a reset and everything without an `Ok` again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hydrant::kafka::{KafkaLog, KafkaOptions};
use hydrant_actors::ports::{LogError, LogRecord, MessageLog, Report};
use hydrant_protocol::QoS;

/// Options against a server, quick to report.
pub fn options(address: &str) -> KafkaOptions {
    KafkaOptions {
        bootstrap_servers: address.into(),
        partitions: 3,
        replication_factor: 1,
        ..KafkaOptions::default()
    }
}

/// A record with the payload `text`, published by `client`.
pub fn record(id: u64, topic: &str, key: Option<&str>, text: &str, client: &str) -> LogRecord {
    LogRecord {
        id,
        topic: topic.into(),
        key: key.map(|key| Bytes::copy_from_slice(key.as_bytes())),
        payload: Bytes::copy_from_slice(text.as_bytes()),
        mqtt_topic: format!("device/{}/{topic}", key.unwrap_or("-")).into(),
        qos: QoS::AtLeastOnce,
        retain: false,
        client_id: client.into(),
        epoch: 7,
        sequence: id,
        outbox: None,
        received_ms: 1_700_000_000_000 + id,
        properties: None,
    }
}

pub struct Driver {
    pub log: Arc<KafkaLog>,
    reports: Receiver<Vec<Report>>,
    /// Not handed over.
    queue: VecDeque<LogRecord>,
    /// Handed over, no report.
    outstanding: BTreeMap<u64, LogRecord>,
    /// Reported as unavailable, to be sent again.
    failed: BTreeMap<u64, LogRecord>,
    pub acknowledged: u64,
    pub refused: Vec<(u64, String)>,
    pub resets: u64,
    /// Whether `Unavailable` is answered with a reset.
    pub resets_itself: bool,
    pub largest_batch: usize,
    blocked: bool,
}

impl Driver {
    pub fn new(options: KafkaOptions) -> Self {
        let log = Arc::new(KafkaLog::start(options, "n1").expect("the log starts"));
        let (sender, reports) = channel();
        log.on_report(Box::new(move |batch| {
            let _ = sender.send(batch);
        }));
        Self {
            log,
            reports,
            queue: VecDeque::new(),
            outstanding: BTreeMap::new(),
            failed: BTreeMap::new(),
            acknowledged: 0,
            refused: Vec::new(),
            resets: 0,
            resets_itself: true,
            largest_batch: 0,
            blocked: false,
        }
    }

    /// Puts records behind what is there. Ids rise.
    pub fn push(&mut self, records: impl IntoIterator<Item = LogRecord>) {
        self.queue.extend(records);
    }

    /// Records without an `Ok` or a refusal.
    pub fn left(&self) -> usize {
        self.queue.len() + self.outstanding.len() + self.failed.len()
    }

    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// Hands over what fits, then takes reports for at most `time` (returns at the first batch).
    pub fn step(&mut self, time: Duration) {
        if self.failed.is_empty() && !self.blocked && !self.queue.is_empty() {
            let batch: Vec<LogRecord> = self.queue.drain(..self.queue.len().min(1000)).collect();
            for record in &batch {
                self.outstanding.insert(record.id, record.clone());
            }
            let back = self.log.append(batch);
            self.blocked = !back.is_empty();
            for record in back.into_iter().rev() {
                self.outstanding.remove(&record.id);
                self.queue.push_front(record);
            }
        }
        let wait = if self.blocked || self.queue.is_empty() { time } else { Duration::ZERO };
        let batch = self.reports.recv_timeout(wait);
        // Without a report the log actor tries again every 20 ms.
        self.blocked = false;
        let Ok(batch) = batch else {
            return;
        };
        self.largest_batch = self.largest_batch.max(batch.len());
        for report in batch {
            let record =
                self.outstanding.remove(&report.id).expect("one report for each record taken");
            match report.result {
                Ok(()) => self.acknowledged += 1,
                Err(LogError::Refused(why)) => self.refused.push((report.id, why)),
                Err(LogError::Unavailable(_)) => {
                    if self.failed.is_empty() && self.resets_itself {
                        self.resets += 1;
                        self.log.reset();
                    }
                    self.failed.insert(report.id, record);
                }
            }
        }
        if !self.failed.is_empty() && self.outstanding.is_empty() {
            for (_, record) in std::mem::take(&mut self.failed).into_iter().rev() {
                self.queue.push_front(record);
            }
        }
    }

    /// Steps until the condition holds.
    pub fn until(
        &mut self,
        what: &str,
        patience: Duration,
        mut condition: impl FnMut(&Self) -> bool,
    ) {
        let end = Instant::now() + patience;
        while !condition(self) {
            assert!(
                Instant::now() < end,
                "waited {patience:?} in vain until {what}: {} acknowledged, {} left, {:?}, {}",
                self.acknowledged,
                self.left(),
                self.refused.last(),
                self.log.describe()
            );
            self.step(Duration::from_millis(20));
        }
    }

    /// Steps until every record has an `Ok` or a refusal.
    pub fn finish(&mut self, patience: Duration) {
        self.until("everything is settled", patience, |driver| driver.left() == 0);
    }
}

/// Payloads `key:number` for several keys, `number` rising per key.
pub fn numbered(
    topic: &str,
    keys: u64,
    ids: std::ops::Range<u64>,
) -> impl Iterator<Item = LogRecord> {
    ids.map(move |id| {
        let key = format!("k{}", id % keys);
        record(id, topic, Some(&key), &format!("{key}:{}", id / keys), "c")
    })
}

/// Asserts that every number of every key is there, first occurrences in order; returns how many
/// records came more than once.
pub fn assert_complete_and_in_order(
    records: &[crate::support::kafka::Record],
    keys: u64,
    count: u64,
) -> usize {
    let mut next: BTreeMap<String, u64> = BTreeMap::new();
    let mut repeated = 0;
    for record in records {
        let text = record.text();
        let (key, number) = text.split_once(':').expect("key:number");
        let number: u64 = number.parse().expect("a number");
        let next = next.entry(key.to_owned()).or_default();
        if number == *next {
            *next += 1;
        } else {
            assert!(number < *next, "key {key}: {number} came where {next} was due");
            repeated += 1;
        }
    }
    for id in 0..keys {
        let want = (count + keys - 1 - id) / keys;
        let key = format!("k{id}");
        assert_eq!(next.get(&key).copied().unwrap_or(0), want, "numbers of key {key}");
    }
    repeated
}
