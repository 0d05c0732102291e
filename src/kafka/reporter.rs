//! Collects how records fared and hands it to the log actor in batches.
//!
//! Owns the reports not yet handed over, the count of outstanding records and the counters. Any
//! thread adds reports; only the poll thread hands them over, so the sink sees one batch at a time.
//! Bound: a report exists only for a record that was taken, so there are at most as many as
//! `kafka.queue_max_messages`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use hydrant_actors::ports::{LogError, Report};
use hydrant_actors::say;
use parking_lot::Mutex;

/// Where a batch of reports goes.
pub(super) type Sink = Box<dyn Fn(Vec<Report>) + Send + Sync>;

/// Counted since the start of the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KafkaCounters {
    /// Records that Kafka acknowledged.
    pub acknowledged: u64,
    /// Records given back for a later attempt.
    pub unavailable: u64,
    /// Records refused for good.
    pub refused: u64,
    /// Times that a topic was beyond a cap when a router asked for it.
    pub refused_by_topic_cap: u64,
    /// Topics made.
    pub topics_created: u64,
    /// Producers replaced by `reset`.
    pub resets: u64,
    /// Producers replaced because of one topic's trouble.
    pub replaced: u64,
    /// Those of them that all topics share.
    pub main_replaced: u64,
    /// Records handed over and not reported yet.
    pub outstanding: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    pub acknowledged: AtomicU64,
    pub unavailable: AtomicU64,
    pub refused: AtomicU64,
    pub refused_by_topic_cap: AtomicU64,
    pub topics_created: AtomicU64,
    pub resets: AtomicU64,
    pub replaced: AtomicU64,
    pub main_replaced: AtomicU64,
}

#[derive(Default)]
pub(super) struct Reporter {
    sink: OnceLock<Sink>,
    reports: Mutex<Vec<Report>>,
    /// Taken and not in a batch given to the sink: what the bounds count.
    outstanding: AtomicUsize,
    /// Taken and the sink has not returned: what `flush` waits for.
    unreported: AtomicUsize,
    pub counters: Counters,
    /// `kafka.bootstrap_servers`, for the log.
    servers: String,
    /// Kafka answered last time.
    pub up: AtomicBool,
}

impl Reporter {
    /// Of a Kafka that is asked for at these addresses.
    pub fn new(servers: &str) -> Self {
        Self { servers: servers.to_owned(), ..Self::default() }
    }

    pub fn set_sink(&self, sink: Sink) {
        if self.sink.set(sink).is_err() {
            say::error!("kafka: the report sink was set twice; the first stays");
        }
    }

    /// No broker answers.
    pub fn say_away(&self) {
        say::warn!(
            target: "hydrant::kafka",
            "Kafka cannot be reached at {}; {} records wait", self.servers, self.outstanding()
        );
    }

    /// Counts records as taken; true when none was outstanding before.
    pub fn take(&self, records: usize) -> bool {
        self.unreported.fetch_add(records, Ordering::AcqRel);
        self.outstanding.fetch_add(records, Ordering::AcqRel) == 0
    }

    /// Takes back [`Self::take`] for records that are given back to the caller.
    pub fn give_back(&self, records: usize) {
        self.outstanding.fetch_sub(records, Ordering::AcqRel);
        self.unreported.fetch_sub(records, Ordering::AcqRel);
    }

    pub fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Acquire)
    }

    pub fn unreported(&self) -> usize {
        self.unreported.load(Ordering::Acquire)
    }

    pub fn ok(&self, id: u64) {
        self.reports.lock().push(Report { id, result: Ok(()) });
    }

    pub fn failed(&self, id: u64, error: LogError) {
        let counter = match error {
            LogError::Unavailable(_) => &self.counters.unavailable,
            LogError::Refused(_) => &self.counters.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.reports.lock().push(Report { id, result: Err(error) });
    }

    /// Hands everything collected to the sink; false when there was nothing.
    pub fn hand_over(&self) -> bool {
        let Some(sink) = self.sink.get() else {
            return false;
        };
        let reports = {
            let mut reports = self.reports.lock();
            if reports.is_empty() {
                return false;
            }
            // The next batch is about as large as this one.
            let capacity = reports.len();
            std::mem::replace(&mut *reports, Vec::with_capacity(capacity))
        };
        let count = reports.len();
        // Before the sink runs: it may append at once, and the room has to be there.
        self.outstanding.fetch_sub(count, Ordering::AcqRel);
        if catch_unwind(AssertUnwindSafe(|| sink(reports))).is_err() {
            say::error!(
                "kafka: whoever takes the reports panicked; {count} reports are lost until the log is reset"
            );
        }
        self.unreported.fetch_sub(count, Ordering::AcqRel);
        true
    }

    pub fn snapshot(&self) -> KafkaCounters {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        KafkaCounters {
            acknowledged: get(&counters.acknowledged),
            unavailable: get(&counters.unavailable),
            refused: get(&counters.refused),
            refused_by_topic_cap: get(&counters.refused_by_topic_cap),
            topics_created: get(&counters.topics_created),
            resets: get(&counters.resets),
            replaced: get(&counters.replaced),
            main_replaced: get(&counters.main_replaced),
            outstanding: self.outstanding() as u64,
        }
    }
}
