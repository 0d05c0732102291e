//! The message log in Kafka.
//!
//! [`KafkaLog`] owns one idempotent librdkafka producer (acks=all), a thread that serves its
//! callbacks and a thread that asks for topics and makes them.
//!
//! Invariants:
//! - Every record taken by `append` is reported exactly once.
//! - Per topic and key, records reach Kafka in the order of `append`. After the first record that
//!   failed for now nothing more is sent until `reset`, so nothing overtakes it. librdkafka itself
//!   never gives up on a record: its time-out is off.
//! - The partition is librdkafka's murmur2 of the key over the topic's partitions as they are.
//!
//! Bounds: `kafka.queue_max_messages` records outstanding, `kafka.queue_max_bytes` in librdkafka
//! and as much again waiting for topics. What does not fit is given back.

mod admin;
mod errors;
mod headers;
mod options;
mod producer;
mod reporter;
mod topics;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hydrant_actors::ports::{LogError, LogRecord, MessageLog, Report};
use parking_lot::{Condvar, Mutex};

pub use options::KafkaOptions;
pub use reporter::KafkaCounters;

use admin::TopicMaker;
use errors::refused;
use producer::{KafkaProducer, Sent};
use reporter::Reporter;
use topics::{Topics, Way};

/// How often callbacks are served while records are outstanding and reports come.
const BUSY: Duration = Duration::from_millis(1);
/// The same while none come: Kafka is away.
const QUIET: Duration = Duration::from_millis(10);
/// The same while nothing is outstanding; `append` ends the wait.
const IDLE: Duration = Duration::from_millis(500);

/// Why there is no [`KafkaLog`].
#[derive(Debug, thiserror::Error)]
pub enum KafkaStartError {
    /// The options are wrong, or librdkafka cannot work with them.
    #[error("[kafka] cannot be used: {0}")]
    Options(String),
    /// The operating system gives no thread.
    #[error("no thread for Kafka: {0}")]
    Thread(#[from] std::io::Error),
}

/// What a lock protects: the producer in use and where each topic's records go.
struct State {
    producer: Arc<KafkaProducer>,
    /// Producers replaced by `reset` whose records are not all reported.
    retired: Vec<Arc<KafkaProducer>>,
    topics: Topics,
}

/// What the log and its two threads share.
struct Shared {
    options: KafkaOptions,
    node_id: Arc<str>,
    reporter: Arc<Reporter>,
    state: Mutex<State>,
    stopping: AtomicBool,
    brokers: AtomicUsize,
    /// Topics whose replication was looked at.
    looked_at: Mutex<HashSet<Arc<str>>>,
    poll_wake: (Mutex<bool>, Condvar),
    topics_wake: (Mutex<bool>, Condvar),
}

fn wake(signal: &(Mutex<bool>, Condvar)) {
    *signal.0.lock() = true;
    signal.1.notify_one();
}

fn wait(signal: &(Mutex<bool>, Condvar), at_most: Duration) {
    let mut woken = signal.0.lock();
    if !*woken {
        signal.1.wait_for(&mut woken, at_most);
    }
    *woken = false;
}

impl Shared {
    fn wake_poll_thread(&self) {
        wake(&self.poll_wake);
    }

    fn wait_for_topics(&self, at_most: Duration) {
        wait(&self.topics_wake, at_most);
    }

    /// Sleeps, whoever calls, but not through a stop.
    fn pause(&self, time: Duration) {
        if !self.stopping.load(Ordering::Acquire) {
            std::thread::sleep(time);
        }
    }

    /// Sends waiting records of topics that exist, as far as there is room.
    fn drain(&self, state: &mut State) {
        let State { producer, topics, .. } = state;
        topics.drain(|record| match producer.send(record, &self.node_id) {
            Sent::Taken => true,
            Sent::Full => false,
            Sent::Failed(error) => {
                self.reporter.failed(record.id, error);
                true
            }
        });
    }

    /// The poll thread: serves callbacks, hands reports over, ends producers.
    fn poll(&self) {
        let mut producer = self.state.lock().producer.clone();
        let mut purged = false;
        let mut quiet = 0u32;
        while !self.stopping.load(Ordering::Acquire) {
            let mut done = producer.poll(BUSY);
            if producer.is_broken() && !purged {
                purged = true;
                producer.purge();
                done = false;
            }
            let forget = std::mem::take(&mut *self.reporter.forget.lock());
            let closing = {
                let mut state = self.state.lock();
                for topic in &forget {
                    state.topics.forget(topic);
                }
                if !Arc::ptr_eq(&producer, &state.producer) {
                    producer = state.producer.clone();
                    purged = false;
                }
                self.end_retired(&mut state);
                if state.topics.waiting() > 0 {
                    self.drain(&mut state);
                }
                !state.retired.is_empty()
            };
            quiet = if self.reporter.hand_over() { 0 } else { quiet.saturating_add(1) };
            if !done {
                continue;
            }
            if self.reporter.outstanding() == 0 && !closing {
                wait(&self.poll_wake, IDLE);
            } else {
                std::thread::sleep(if closing || quiet < 50 { BUSY } else { QUIET });
            }
        }
    }

    /// Serves the last callbacks of replaced producers; ends those that have none left.
    fn end_retired(&self, state: &mut State) {
        state.retired.retain(|producer| {
            producer.poll(BUSY);
            if producer.in_flight() > 0 {
                return true;
            }
            // Closing waits for librdkafka's threads: not here.
            let producer = producer.clone();
            let closing = std::thread::Builder::new()
                .name("kafka-close".into())
                .spawn(move || drop(producer));
            if let Err(error) = closing {
                log::warn!("kafka: no thread to close a producer: {error}");
            }
            false
        });
    }
}

/// See the module.
pub struct KafkaLog {
    shared: Arc<Shared>,
    poll_thread: Option<JoinHandle<()>>,
}

impl KafkaLog {
    /// Starts the producer and its threads. Kafka need not be there: records wait for it.
    ///
    /// # Errors
    /// Options that cannot work, all of them named.
    pub fn start(options: KafkaOptions, node_id: &str) -> Result<Self, KafkaStartError> {
        let errors = options.check();
        if !errors.is_empty() {
            return Err(KafkaStartError::Options(errors.join("; ")));
        }
        let reporter = Arc::new(Reporter::default());
        reporter.batch_size.store(options.batch_size, Ordering::Release);
        let producer = KafkaProducer::new(&options, &reporter)
            .map_err(|error| KafkaStartError::Options(error.to_string()))?;
        let shared = Arc::new(Shared {
            options,
            node_id: node_id.into(),
            reporter,
            state: Mutex::new(State {
                producer: Arc::new(producer),
                retired: Vec::new(),
                topics: Topics::default(),
            }),
            stopping: AtomicBool::new(false),
            brokers: AtomicUsize::new(0),
            looked_at: Mutex::new(HashSet::new()),
            poll_wake: Default::default(),
            topics_wake: Default::default(),
        });
        let maker = TopicMaker::new(shared.clone())?;
        std::thread::Builder::new().name("kafka-topics".into()).spawn(move || maker.run())?;
        let polled = shared.clone();
        let poll_thread =
            std::thread::Builder::new().name("kafka-poll".into()).spawn(move || polled.poll())?;
        Ok(Self { shared, poll_thread: Some(poll_thread) })
    }

    /// What was counted since the start.
    pub fn counters(&self) -> KafkaCounters {
        self.shared.reporter.snapshot()
    }

    /// Makes the producer fail fatally, as it does when idempotence is lost. For tests.
    #[doc(hidden)]
    pub fn raise_fatal_error(&self) {
        self.shared.state.lock().producer.raise_fatal_error();
    }
}

impl MessageLog for KafkaLog {
    fn append(&self, records: Vec<LogRecord>) -> Vec<LogRecord> {
        let shared = &*self.shared;
        let reporter = &*shared.reporter;
        let count = records.len();
        let room = shared.options.queue_max_messages.saturating_sub(reporter.outstanding());
        let idle = reporter.take(count);
        let mut ask = false;
        let mut guard = shared.state.lock();
        let state = &mut *guard;
        let mut rest = records.into_iter();
        let mut given_back = Vec::new();
        for taken in 0..count {
            let Some(record) = rest.next() else { break };
            if taken >= room {
                given_back.push(record);
                break;
            }
            match state.topics.way(&record.topic, Instant::now) {
                Way::Send => match state.producer.send(&record, &shared.node_id) {
                    Sent::Taken => {}
                    Sent::Failed(error) => reporter.failed(record.id, error),
                    Sent::Full => {
                        given_back.push(record);
                        break;
                    }
                },
                Way::Wait if state.producer.is_broken() => reporter.failed(
                    record.id,
                    LogError::Unavailable("an earlier record failed; reset first".into()),
                ),
                Way::Wait => {
                    if !state.topics.has_room(record.cost(), shared.options.queue_max_bytes) {
                        given_back.push(record);
                        break;
                    }
                    ask |= state.topics.wait(record);
                }
                Way::Refuse(why) => reporter.failed(record.id, refused(&record.topic, &why)),
            }
        }
        drop(guard);
        given_back.extend(rest);
        reporter.give_back(given_back.len());
        if ask {
            wake(&shared.topics_wake);
        }
        if idle {
            shared.wake_poll_thread();
        }
        given_back
    }

    fn on_report(&self, sink: Box<dyn Fn(Vec<Report>) + Send + Sync>) {
        self.shared.reporter.set_sink(sink);
    }

    fn reset(&self) {
        let shared = &*self.shared;
        let reporter = &shared.reporter;
        let mut state = shared.state.lock();
        for record in state.topics.take_waiting() {
            reporter.failed(record.id, LogError::Unavailable("the log was reset".into()));
        }
        reporter.counters.resets.fetch_add(1, Ordering::Relaxed);
        let old = match KafkaProducer::new(&shared.options, reporter) {
            Ok(new) => {
                let old = std::mem::replace(&mut state.producer, Arc::new(new));
                state.retired.push(old.clone());
                old
            }
            // The old one stays, broken: the next reset tries again.
            Err(error) => {
                log::error!(
                    "kafka: no new producer can be made: {error}; it is tried again at the next reset"
                );
                state.producer.clone()
            }
        };
        drop(state);
        old.purge();
        shared.wake_poll_thread();
    }

    fn flush(&self, deadline: Duration) -> bool {
        let end = Instant::now() + deadline;
        while self.shared.reporter.unreported() > 0 {
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(BUSY);
        }
        true
    }

    fn is_up(&self) -> bool {
        self.shared.reporter.up.load(Ordering::Acquire)
    }

    fn describe(&self) -> String {
        let counters = self.counters();
        let state = self.shared.state.lock();
        let condition = if state.producer.is_broken() {
            "broken until reset"
        } else if self.is_up() {
            "up"
        } else {
            "away"
        };
        format!(
            "kafka {} {condition}, {} brokers, {} topics, outstanding {} ({} waiting for a topic), resets {}",
            self.shared.options.bootstrap_servers,
            self.shared.brokers.load(Ordering::Relaxed),
            state.topics.known(),
            counters.outstanding,
            state.topics.waiting(),
            counters.resets,
        )
    }
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.wake_poll_thread();
        wake(&self.shared.topics_wake);
        if let Some(thread) = self.poll_thread.take()
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            log::error!("kafka: the poll thread panicked");
        }
    }
}
