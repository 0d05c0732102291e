//! The message log in Kafka.
//!
//! [`KafkaLog`] owns an idempotent librdkafka producer (acks=all), further ones for topics in
//! trouble, a thread that serves their callbacks and a thread that asks for topics and makes them.
//!
//! Invariants:
//! - Every record taken by `append` is reported exactly once.
//! - Per topic and key, records reach Kafka in the order of `append`. After the first record that
//!   failed its producer sends nothing more, so nothing overtakes it: where the failure is
//!   everybody's until `reset`, where it is one topic's until a new producer has taken its place.
//!   librdkafka itself never gives up on a record: its time-out is off.
//! - One topic's trouble is that topic's alone: no record of another is sent twice for it, and
//!   nothing is reported as unavailable.
//! - The partition is librdkafka's murmur2 of the key over the topic's partitions as they are.
//!
//! Bounds: `kafka.queue_max_messages` records outstanding, `kafka.queue_max_bytes` in librdkafka
//! and as much again waiting for topics. What does not fit is given back. What came back from a
//! producer waits beyond that bound until it is sent again, and so does what waits for a topic that
//! is stuck: who handed it over bounds it.

mod admin;
mod admission;
pub mod check;
mod copies;
mod errors;
mod headers;
mod options;
mod producer;
mod reporter;
mod share;
mod shared;
mod size;
mod slots;
mod topics;
mod trouble;
mod waiting;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hydrant_actors::ports::{Admission, LogError, LogRecord, MessageLog, Report};
use hydrant_actors::say;
use parking_lot::Mutex;

pub use options::{BUILD, KafkaOptions};
pub use reporter::KafkaCounters;
pub use size::overhead;

use admin::TopicMaker;
use admission::Admissions;
use errors::refused;
use producer::{KafkaProducer, Sent};
use reporter::Reporter;
use shared::{LogThreads, State, wait, wake};
use slots::Slots;
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

/// How often the log is told of parked topics, at most.
const PARKED_LINE: Duration = Duration::from_secs(10);

impl LogThreads {
    /// The poll thread: serves callbacks, hands reports over, replaces and ends producers.
    fn poll(&self) {
        let mut quiet = 0u32;
        let mut told = None;
        while !self.stopping.load(Ordering::Acquire) {
            let live = self.state.lock().slots.live();
            let mut done = true;
            for producer in &live {
                done &= producer.poll(BUSY);
            }
            drop(live);
            let closing = {
                let mut guard = self.state.lock();
                let state = &mut *guard;
                if state.slots.serve(&mut state.topics, &self.options, &self.reporter) {
                    wake(&self.topics_wake);
                }
                state.slots.end_retired(BUSY);
                if state.topics.waiting() > 0 {
                    self.give_up(state);
                    self.drain(state);
                    state.topics.find_stuck(Instant::now());
                    self.note_crowd(state);
                    self.tell_of_parked(state, &mut told);
                }
                state.slots.is_closing()
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

    /// Says which topics take nothing, in one line every [`PARKED_LINE`].
    fn tell_of_parked(&self, state: &State, told: &mut Option<Instant>) {
        let now = Instant::now();
        if told.is_some_and(|told| now.duration_since(told) < PARKED_LINE) {
            return;
        }
        let away = !self.reporter.up.load(Ordering::Acquire);
        let Some(parking) = state.topics.parking(away, now) else { return };
        *told = Some(now);
        let more = match parking.topics - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        say::warn!(
            "kafka: topic {}{more} takes nothing for now: {}; {} records wait",
            parking.topic,
            parking.why,
            parking.records
        );
    }
}

/// See the module.
pub struct KafkaLog {
    shared: Arc<LogThreads>,
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
        let reporter = Arc::new(Reporter::new(&options.bootstrap_servers));
        let producer = KafkaProducer::new(&options, 0, &reporter)
            .map_err(|error| KafkaStartError::Options(error.to_string()))?;
        let topics = Topics::new(options.queues());
        let shared = Arc::new(LogThreads {
            admissions: Admissions::new(&options),
            options,
            node_id: node_id.into(),
            reporter,
            state: Mutex::new(State { slots: Slots::new(producer), topics }),
            stopping: AtomicBool::new(false),
            brokers: AtomicUsize::new(0),
            looked_at: Mutex::new(HashSet::new()),
            poll_wake: Default::default(),
            topics_wake: Default::default(),
            crowded: AtomicBool::new(false),
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

    /// Whether Kafka's list of topics is known: until then every topic counts as one to be made.
    pub fn is_acquainted(&self) -> bool {
        self.shared.admissions.is_acquainted()
    }

    /// Makes the producer fail fatally, as it does when idempotence is lost. For tests.
    #[doc(hidden)]
    pub fn raise_fatal_error(&self) {
        self.shared.state.lock().slots.main().raise_fatal_error();
    }
}

impl MessageLog for KafkaLog {
    fn append(&self, records: Vec<LogRecord>) -> Vec<LogRecord> {
        let shared = &*self.shared;
        let reporter = &*shared.reporter;
        let count = records.len();
        let outstanding = reporter.outstanding();
        let idle = reporter.take(count);
        let mut ask = false;
        let mut guard = shared.state.lock();
        let state = &mut *guard;
        let mut rest = records.into_iter();
        let mut given_back = Vec::new();
        for taken in 0..count {
            let Some(record) = rest.next() else { break };
            let room = shared.options.queue_max_messages + state.topics.stuck();
            if outstanding + taken >= room && !state.topics.is_stuck(&record.topic) {
                given_back.push(record);
                break;
            }
            let bytes = record.payload.len();
            let record = match state.topics.way(&record.topic, bytes, Instant::now) {
                Way::Send => {
                    let sent = state.slots.main().send(&record, &shared.node_id);
                    if !matches!(sent, Sent::Taken) {
                        state.topics.not_sent(&record.topic, bytes);
                    }
                    match sent {
                        Sent::Taken => continue,
                        Sent::Failed(error) => {
                            reporter.failed(record.id, error);
                            continue;
                        }
                        Sent::Full => {
                            given_back.push(record);
                            break;
                        }
                        Sent::Closed => record,
                    }
                }
                Way::Wait => record,
                Way::Refuse(why) => {
                    reporter.failed(record.id, refused(&record.topic, &why));
                    continue;
                }
            };
            // It waits for its topic.
            if state.slots.main().is_broken() {
                let why = "an earlier record failed; reset first".into();
                reporter.failed(record.id, LogError::Unavailable(why));
            } else if let Some(why) =
                state.topics.is_full(&record.topic, record.cost(), shared.options.parked_max())
            {
                reporter.failed(record.id, refused(&record.topic, &why));
            } else if state.topics.has_room(
                &record.topic,
                record.cost(),
                shared.options.queue_max_bytes,
            ) {
                ask |= state.topics.wait(record);
            } else {
                given_back.push(record);
                break;
            }
        }
        shared.note_crowd(state);
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

    fn takes(&self, topic: &str) -> bool {
        let shared = &*self.shared;
        !shared.crowded.load(Ordering::Acquire)
            || shared.state.lock().topics.takes(topic, shared.options.shared_max())
    }

    fn admit(&self, topic: &Arc<str>, client: &Arc<str>) -> Admission {
        let shared = &*self.shared;
        let looks = shared.admissions.wants_a_look();
        let admission = shared.admissions.admit(topic, client);
        if admission != Admission::Own {
            shared.reporter.counters.refused_by_topic_cap.fetch_add(1, Ordering::Relaxed);
            if !looks {
                wake(&shared.topics_wake);
            }
        }
        admission
    }

    fn admissions(&self) -> u64 {
        self.shared.admissions.generation()
    }

    fn on_report(&self, sink: Box<dyn Fn(Vec<Report>) + Send + Sync>) {
        self.shared.reporter.set_sink(sink);
    }

    fn reset(&self) {
        let shared = &*self.shared;
        let reporter = &shared.reporter;
        let mut state = shared.state.lock();
        for record in state.topics.take_waiting() {
            reporter.failed(record.id(), LogError::Unavailable("the log was reset".into()));
        }
        reporter.counters.resets.fetch_add(1, Ordering::Relaxed);
        let (old, made) = state.slots.reset(&shared.options, reporter);
        if let Err(error) = made {
            // The old one stays, broken: the next reset tries again.
            say::error!(
                "kafka: no new producer can be made: {error}; it is tried again at the next reset"
            );
        }
        drop(state);
        for old in old {
            old.purge();
        }
        shared.wake_poll_thread();
    }

    fn flush(&self, deadline: Duration) -> bool {
        let end = Instant::now() + deadline;
        // What waits for somebody to mend its topic is not waited for.
        while self.shared.reporter.unreported() > self.shared.state.lock().topics.parked() {
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
        let condition = if state.slots.main().is_broken() {
            "broken until reset"
        } else if self.is_up() {
            "up"
        } else {
            "away"
        };
        let parking = state.topics.parking(!self.is_up(), Instant::now());
        let parked = parking.map_or(String::new(), |parking| {
            format!(" ({} parked: {}: {})", parking.topics, parking.topic, parking.why)
        });
        format!(
            "kafka {} {condition}, {} brokers, {} topics{parked}, outstanding {} ({} waiting for a topic), resets {}",
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
            say::error!("kafka: the poll thread panicked");
        }
    }
}
