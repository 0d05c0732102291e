//! `verify-kafka`: reads a topic from its beginning and compares it with what was published.
//!
//! A publisher's sequence has no gaps, so a bit per message says what is missing. A key belongs to
//! one publisher, so its records must come with rising sequence; a second copy of a record is
//! counted and is no break of order (at least once).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use serde::Serialize;

use crate::error::Error;
use crate::options::VerifyKafka;
use crate::wire::Stamp;

/// Without a new record for so long, after the end was seen, nothing more comes.
const SILENCE: Duration = Duration::from_secs(5);

/// Report of verify-kafka.
#[derive(Debug, Serialize)]
pub struct Report {
    scenario: &'static str,
    records: u64,
    distinct: u64,
    duplicates: u64,
    loss: u64,
    out_of_order: u64,
    keys: usize,
    partitions: usize,
    seconds: f64,
    /// Broken promises; empty is good.
    pub problems: Vec<String>,
}

struct Quiet;
impl ClientContext for Quiet {}
impl ConsumerContext for Quiet {}

/// Reads and checks.
pub fn verify(options: &VerifyKafka) -> Result<Report, Error> {
    let kafka = |e: rdkafka::error::KafkaError| Error::Kafka(e.to_string());
    let consumer: BaseConsumer<Quiet> = ClientConfig::new()
        .set("bootstrap.servers", &options.bootstrap)
        .set("group.id", "loadgen-verify")
        .set("enable.auto.commit", "false")
        .set("fetch.wait.max.ms", "50")
        .create_with_context(Quiet)
        .map_err(kafka)?;
    let begin = Instant::now();
    let metadata =
        consumer.fetch_metadata(Some(&options.topic), Duration::from_secs(10)).map_err(kafka)?;
    let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
    if partitions == 0 {
        return Err(Error::Kafka(format!("topic {} does not exist", options.topic)));
    }
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        let partition = i32::try_from(partition).unwrap_or(i32::MAX);
        list.add_partition_offset(&options.topic, partition, Offset::Beginning).map_err(kafka)?;
    }
    consumer.assign(&list).map_err(kafka)?;
    let deadline = Duration::from_secs(options.deadline);
    let mut check = Check::new(options.publishers);
    let mut last = Instant::now();
    while begin.elapsed() < deadline {
        match consumer.poll(Duration::from_millis(100)) {
            None if check.distinct >= options.count && last.elapsed() > SILENCE / 5 => break,
            None if last.elapsed() > SILENCE && check.records > 0 => break,
            None => {}
            Some(Err(error)) => return Err(kafka(error)),
            Some(Ok(record)) => {
                last = Instant::now();
                check.record(record.key().unwrap_or_default(), record.payload());
            }
        }
    }
    let loss = options.count.saturating_sub(check.distinct);
    let mut problems = Vec::new();
    for (count, what) in [
        (loss, "lost"),
        (check.out_of_order, "out of order within their key"),
        (check.foreign, "not published by this run"),
    ] {
        if count > 0 {
            problems.push(format!("{count} records {what}"));
        }
    }
    Ok(Report {
        scenario: "verify-kafka",
        records: check.records,
        distinct: check.distinct,
        duplicates: check.duplicates,
        loss,
        out_of_order: check.out_of_order,
        keys: check.keys.len(),
        partitions,
        seconds: begin.elapsed().as_secs_f64(),
        problems,
    })
}

struct Check {
    /// A bit per sequence, by publisher.
    seen: Vec<Vec<u64>>,
    /// The highest sequence of each key.
    keys: HashMap<Vec<u8>, (u32, u64)>,
    records: u64,
    distinct: u64,
    duplicates: u64,
    out_of_order: u64,
    foreign: u64,
}

impl Check {
    fn new(publishers: u32) -> Check {
        Check {
            seen: vec![Vec::new(); publishers as usize],
            keys: HashMap::new(),
            records: 0,
            distinct: 0,
            duplicates: 0,
            out_of_order: 0,
            foreign: 0,
        }
    }

    fn record(&mut self, key: &[u8], payload: Option<&[u8]>) {
        self.records += 1;
        let stamp = payload.and_then(Stamp::read);
        let Some((stamp, seen)) =
            stamp.and_then(|stamp| Some((stamp, self.seen.get_mut(stamp.publisher as usize)?)))
        else {
            self.foreign += 1;
            return;
        };
        let (word, bit) = ((stamp.sequence / 64) as usize, 1u64 << (stamp.sequence % 64));
        if seen.len() <= word {
            seen.resize(word + 1, 0);
        }
        if seen[word] & bit != 0 {
            self.duplicates += 1;
            return;
        }
        seen[word] |= bit;
        self.distinct += 1;
        match self.keys.get_mut(key) {
            None => {
                self.keys.insert(key.to_vec(), (stamp.publisher, stamp.sequence));
            }
            Some((publisher, highest)) => {
                if *publisher != stamp.publisher || stamp.sequence < *highest {
                    self.out_of_order += 1;
                } else {
                    *highest = stamp.sequence;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(publisher: u32, sequence: u64) -> Vec<u8> {
        let mut bytes = publisher.to_le_bytes().to_vec();
        bytes.extend_from_slice(&sequence.to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes
    }

    #[test]
    fn copies_and_breaks_of_order_are_told_apart() {
        let mut check = Check::new(2);
        for (key, publisher, sequence) in
            [("a", 0, 0), ("b", 0, 1), ("a", 0, 2), ("a", 0, 0), ("b", 0, 5), ("b", 0, 3)]
        {
            check.record(key.as_bytes(), Some(&payload(publisher, sequence)));
        }
        check.record(b"a", Some(&payload(9, 0)));
        check.record(b"a", None);
        assert_eq!((check.records, check.distinct, check.duplicates), (8, 5, 1));
        assert_eq!((check.out_of_order, check.foreign), (1, 2));
    }
}
