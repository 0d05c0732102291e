//! One librdkafka producer, and what it tells us about each record.
//!
//! A producer that failed a record takes nothing more, so that nothing overtakes it. It is either
//! *closed*: a topic is in trouble, and it keeps what comes back until it has nothing outstanding
//! and a new one takes its place; or *broken*: everybody is concerned, it reports all it has as
//! `Unavailable`, and only `reset` brings a new one.
//!
//! What is in Kafka's hands when a producer is closed is waited for, so that no other topic's
//! records are sent twice.
//!
//! Bounds: it keeps what was outstanding in it, so at most `kafka.queue_max_bytes`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hydrant_actors::ports::{LogError, LogRecord};
use hydrant_actors::say;
use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::Message as _;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::ToBytes;
use rdkafka::producer::{
    BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext, PurgeConfig,
};
use rdkafka::types::RDKafkaErrorCode;

use super::errors::{Decision, decision, refused, text, unavailable};
use super::headers::headers;
use super::options::KafkaOptions;
use super::reporter::Reporter;
use super::share::{Settled, Size};
use super::trouble::Kind;
use super::waiting::{Returned, Waiting};

/// It takes records.
const OPEN: u8 = 0;
/// A topic of it is in trouble.
const CLOSED: u8 = 1;
/// It waits for `reset`, or was replaced by one.
const BROKEN: u8 = 2;

/// What became of a record given to [`KafkaProducer::send`].
pub(super) enum Sent {
    /// librdkafka has it and will report it.
    Taken,
    /// librdkafka's queue is full.
    Full,
    /// A topic is in trouble: a new producer will take it.
    Closed,
    /// It fared like this; nothing will report it.
    Failed(LogError),
}

/// What a closed producer keeps until it is replaced.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// In no order.
    pub records: Vec<Returned>,
    pub troubles: Vec<(Arc<str>, Kind)>,
}

/// Receives librdkafka's callbacks, on the poll thread.
pub(super) struct Context {
    reporter: Arc<Reporter>,
    /// 0 serves all topics, others those in trouble.
    class: usize,
    /// [`OPEN`], [`CLOSED`] or [`BROKEN`]; it only rises.
    state: AtomicU8,
    purged: AtomicBool,
    /// Rises with every event, so that the poll thread sees whether a poll did something.
    events: AtomicU64,
    /// Failures of the event that is being served, which is one batch.
    failures: Mutex<Vec<(RDKafkaErrorCode, Returned)>>,
    kept: Mutex<Kept>,
    /// What was reported and [`super::topics`] was not told yet.
    settled: Mutex<Vec<Settled>>,
}

impl Context {
    fn event(&self) {
        self.events.fetch_add(1, Ordering::Relaxed);
    }

    fn is_broken(&self) -> bool {
        self.state.load(Ordering::Acquire) == BROKEN
    }

    fn is_closed(&self) -> bool {
        self.state.load(Ordering::Acquire) == CLOSED
    }

    /// Nothing more is sent, and all that comes back is `Unavailable`.
    fn break_off(&self, why: Option<&dyn std::fmt::Display>) {
        let mut kept = self.kept.lock();
        if self.state.swap(BROKEN, Ordering::AcqRel) != BROKEN
            && let Some(why) = why
        {
            say::warn!("kafka: nothing more is sent until the log is reset: {why}");
        }
        for record in std::mem::take(&mut *kept).records {
            let why = "a failure stopped the producer".into();
            self.reporter.failed(record.id, LogError::Unavailable(why));
        }
    }

    fn close(&self) {
        let _ = self.state.compare_exchange(OPEN, CLOSED, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Keeps a record and what is wrong with its topic; where the producer broke meanwhile, the
    /// record is reported.
    fn keep(&self, record: Option<Returned>, trouble: Option<(Arc<str>, Kind)>) {
        let mut kept = self.kept.lock();
        self.close();
        match record {
            Some(record) if self.is_broken() => {
                let why = "the log was reset".into();
                self.reporter.failed(record.id, LogError::Unavailable(why));
            }
            record => kept.records.extend(record),
        }
        let Some((topic, kind)) = trouble else { return };
        match kept.troubles.iter_mut().find(|(known, _)| *known == topic) {
            // Whatever else is wrong says more.
            Some((_, known)) if *known == Kind::Aside => *known = kind,
            Some(_) => {}
            None => kept.troubles.push((topic, kind)),
        }
    }

    /// What is wrong with a topic when one of its records, not alone in its batch, has this error;
    /// `None` when nothing is. `Err`: everybody is concerned.
    fn trouble(&self, code: RDKafkaErrorCode, bytes: usize) -> Result<Option<Kind>, ()> {
        let park = |why: &str, limited| Ok(Some(Kind::Park { why: why.into(), limited }));
        match decision(code) {
            Decision::Again => Ok(None),
            Decision::Split(_) => Ok(Some(Kind::Split(Some(bytes)))),
            Decision::Refuse(_) => Ok(Some(Kind::Split(None))),
            Decision::Park(why) => park(why, true),
            Decision::Wait(why) => park(why, false),
            Decision::Look => Ok(Some(Kind::Look)),
            // What follows from the trouble it is closed for; else the new producer meets it again.
            Decision::Retry | Decision::Fatal if self.is_closed() => Ok(None),
            // A producer of topics in trouble serves no others.
            Decision::Retry | Decision::Fatal if self.class > 0 => park(&text(code), false),
            Decision::Retry | Decision::Fatal => Err(()),
        }
    }

    /// Judges the failures of one batch.
    fn judge(&self) {
        let failures = std::mem::take(&mut *self.failures.lock());
        if failures.is_empty() {
            return;
        }
        let alone = failures.len() == 1;
        // Kafka said which records of the batch are to blame.
        let named =
            failures.iter().any(|(code, _)| *code == RDKafkaErrorCode::InvalidDifferentRecord);
        let bytes = failures.iter().map(|(_, record)| record.size()).sum();
        for (code, record) in failures {
            let why = match decision(code) {
                Decision::Refuse(why) if alone || named => why,
                Decision::Split(why) if alone => why,
                _ => {
                    match self.trouble(code, bytes) {
                        Ok(kind) => {
                            let trouble = kind.map(|kind| (record.topic.clone(), kind));
                            self.keep(Some(record), trouble);
                        }
                        Err(()) => {
                            self.break_off(Some(&text(code)));
                            self.reporter.failed(record.id, unavailable(code));
                        }
                    }
                    continue;
                }
            };
            let size = record.size();
            let why = format!("a record of {size} bytes is refused: {why}");
            self.reporter.failed(record.id, refused(&record.topic, &why));
            // librdkafka sends nothing more, whatever else it has of the batch's partition.
            self.keep(None, Some((record.topic.clone(), Kind::Aside)));
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.event();
        // Each failed attempt to connect is a line here; `error` says it once.
        match level {
            // "FATAL": `poll` says so once.
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical
                if facility != "FATAL" =>
            {
                say::error!("kafka: librdkafka: {facility} {message}");
            }
            _ => log::debug!("kafka: librdkafka: {facility} {message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.event();
        match error.rdkafka_error_code() {
            // `poll` sees those that are fatal and says so.
            Some(RDKafkaErrorCode::Fatal | RDKafkaErrorCode::GaplessGuarantee) => {
                log::debug!("kafka: {reason}");
            }
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                if self.reporter.up.swap(false, Ordering::AcqRel) {
                    log::debug!("kafka: no broker can be reached: {reason}");
                    self.reporter.say_away();
                }
            }
            Some(
                RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::OperationTimedOut,
            ) => log::debug!("kafka: {reason}"),
            _ => say::warn!(each: &error.to_string(), "kafka: {error}: {reason}"),
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, id: usize) {
        self.event();
        let (message, acknowledged) = match result {
            Ok(message) => {
                self.reporter.counters.acknowledged.fetch_add(1, Ordering::Relaxed);
                if !self.reporter.up.load(Ordering::Relaxed) {
                    self.reporter.up.store(true, Ordering::Relaxed);
                    say::info!("kafka: acknowledges again");
                }
                self.reporter.ok(id as u64);
                (message, true)
            }
            Err((error, message)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                if self.is_broken() {
                    self.reporter.failed(id as u64, unavailable(code));
                } else {
                    self.failures.lock().push((code, Returned::new(id as u64, message)));
                }
                (message, false)
            }
        };
        let (topic, size) = (message.topic(), Size::one(message.payload_len()));
        let mut settled = self.settled.lock();
        match settled.last_mut() {
            // The records of a batch are reported one after another.
            Some(last) if last.acknowledged == acknowledged && last.topic == topic => {
                last.size.add(size);
            }
            _ => settled.push(Settled { topic: topic.to_owned(), acknowledged, size }),
        }
    }
}

pub(super) struct KafkaProducer {
    inner: BaseProducer<Context>,
}

impl KafkaProducer {
    /// A producer of a class of [`super::trouble`].
    pub fn new(
        options: &KafkaOptions,
        class: usize,
        reporter: &Arc<Reporter>,
    ) -> KafkaResult<Self> {
        let context = Context {
            reporter: reporter.clone(),
            class,
            state: AtomicU8::new(OPEN),
            purged: AtomicBool::new(false),
            events: AtomicU64::new(0),
            failures: Mutex::default(),
            kept: Mutex::default(),
            settled: Mutex::default(),
        };
        let inner = options.producer_config(class).create_with_context(context)?;
        Ok(Self { inner })
    }

    fn context(&self) -> &Context {
        self.inner.context()
    }

    /// Gives one record to librdkafka; never blocks.
    pub fn send(&self, record: &LogRecord, node_id: &str) -> Sent {
        if let Some(closed) = self.closed() {
            return closed;
        }
        let mut message: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(&record.topic, record.id as usize)
                .payload(&record.payload[..])
                .timestamp(i64::try_from(record.received_ms).unwrap_or(i64::MAX))
                .headers(headers(record, node_id));
        if let Some(key) = &record.key {
            message = message.key(&key[..]);
        }
        self.hand_over(message, &record.topic, record.cost())
    }

    /// The same with a record that waited.
    pub fn send_waiting(&self, record: &Waiting, node_id: &str) -> Sent {
        let back = match record {
            Waiting::Fresh(record) => return self.send(record, node_id),
            Waiting::Back(back) => back,
        };
        if let Some(closed) = self.closed() {
            return closed;
        }
        let mut message: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(&back.topic, back.id as usize).payload(&back.payload[..]);
        if let Some(timestamp) = back.timestamp {
            message = message.timestamp(timestamp);
        }
        if let Some(headers) = &back.headers {
            message = message.headers(headers.clone());
        }
        if let Some(key) = &back.key {
            message = message.key(&key[..]);
        }
        self.hand_over(message, &back.topic, record.cost())
    }

    fn closed(&self) -> Option<Sent> {
        match self.context().state.load(Ordering::Acquire) {
            OPEN => None,
            CLOSED => Some(Sent::Closed),
            _ => Some(Sent::Failed(LogError::Unavailable(
                "an earlier record failed; reset first".into(),
            ))),
        }
    }

    fn hand_over<K: ToBytes + ?Sized, P: ToBytes + ?Sized>(
        &self,
        message: BaseRecord<'_, K, P, usize>,
        topic: &Arc<str>,
        cost: usize,
    ) -> Sent {
        let Err((error, _)) = self.inner.send(message) else {
            return Sent::Taken;
        };
        let Some(code) = error.rdkafka_error_code() else {
            return Sent::Failed(refused(topic, &error.to_string()));
        };
        // librdkafka looked at this record alone.
        match (code, decision(code)) {
            (RDKafkaErrorCode::QueueFull, _) => Sent::Full,
            (_, Decision::Split(_)) => {
                let why =
                    format!("a record of {cost} bytes is larger than kafka.message_max_bytes");
                Sent::Failed(refused(topic, &why))
            }
            (_, Decision::Refuse(why)) => Sent::Failed(refused(topic, why)),
            _ => match self.context().trouble(code, 0) {
                // Records of the topic may be outstanding, and this one must not come before them.
                Ok(kind) => {
                    self.context().keep(None, kind.map(|kind| (topic.clone(), kind)));
                    Sent::Closed
                }
                Err(()) => {
                    self.context().break_off(Some(&text(code)));
                    Sent::Failed(unavailable(code))
                }
            },
        }
    }

    /// Serves the callbacks that are due, for at most about `time`; false when more may be due.
    pub fn poll(&self, time: Duration) -> bool {
        let context = self.context();
        let end = Instant::now() + time;
        // `poll(zero)` serves one event and returns; a longer one would wait its whole time and
        // spin through the last millisecond of it.
        let done = loop {
            let before = context.events.load(Ordering::Relaxed);
            self.inner.poll(Duration::ZERO);
            if context.events.load(Ordering::Relaxed) == before {
                break true;
            }
            context.judge();
            if Instant::now() >= end {
                break false;
            }
        };
        // Its event carries the underlying code, and records sent just then are never reported.
        if !self.is_broken()
            && let Some((code, reason)) = self.inner.client().fatal_error()
        {
            // librdkafka goes no further once a batch failed for good, whichever topic's it is.
            if code == RDKafkaErrorCode::GaplessGuarantee || context.class > 0 {
                context.close();
            } else {
                context.break_off(Some(&format_args!("fatal error {code}: {reason}")));
            }
        }
        if self.is_broken() && !context.purged.swap(true, Ordering::AcqRel) {
            self.purge();
            return false;
        }
        done
    }

    /// Fails everything that is not acknowledged; `poll` reports it.
    pub fn purge(&self) {
        self.context().break_off(None);
        self.inner.purge(PurgeConfig::default().queue().inflight());
    }

    /// Takes back what Kafka does not have in its hands, and with `inflight` that too; `poll` keeps
    /// it.
    pub fn take_back(&self, inflight: bool) {
        let purge = PurgeConfig::default().queue().non_blocking();
        self.inner.purge(if inflight { purge.inflight() } else { purge });
    }

    /// What was kept, in the order it was handed over, and what is wrong.
    pub fn take_kept(&self) -> Kept {
        let mut kept = std::mem::take(&mut *self.context().kept.lock());
        kept.records.sort_unstable_by_key(|record| record.id);
        kept
    }

    /// Records reported since the last call.
    pub fn take_settled(&self) -> Vec<Settled> {
        std::mem::take(&mut *self.context().settled.lock())
    }

    pub fn is_broken(&self) -> bool {
        self.context().is_broken()
    }

    /// A topic is in trouble: what is not acknowledged is kept, and a new producer is wanted.
    pub fn is_closed(&self) -> bool {
        self.context().is_closed()
    }

    /// Records that are not reported yet.
    pub fn in_flight(&self) -> i32 {
        self.inner.in_flight_count()
    }

    /// Makes librdkafka raise a fatal error, as it does when the idempotent producer cannot keep
    /// its promise.
    #[allow(unsafe_code)]
    pub fn raise_fatal_error(&self) {
        use rdkafka::bindings::{rd_kafka_resp_err_t, rd_kafka_test_fatal_error};
        // SAFETY: the pointer is valid while `self.inner` lives, the text is a C string that
        // librdkafka copies, and the function may be called from any thread.
        unsafe {
            rd_kafka_test_fatal_error(
                self.inner.client().native_ptr(),
                rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
                c"raised by a test".as_ptr(),
            );
        }
    }
}
