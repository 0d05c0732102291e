//! One librdkafka producer, and what it tells us about each record.
//!
//! A producer that once failed a record for now is *broken*: it takes nothing more and is purged,
//! so that nothing overtakes the failed record. Only `reset` brings a new one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hydrant_actors::ports::{LogError, LogRecord};
use rdkafka::ClientContext;
use rdkafka::Message as _;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::producer::{
    BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext, PurgeConfig,
};
use rdkafka::types::RDKafkaErrorCode;

use super::errors::{Verdict, judge, refused, unavailable};
use super::headers::headers;
use super::options::KafkaOptions;
use super::reporter::Reporter;

/// What became of a record given to [`KafkaProducer::send`].
pub(super) enum Sent {
    /// librdkafka has it and will report it.
    Taken,
    /// librdkafka's queue is full.
    Full,
    /// It fared like this; nothing will report it.
    Failed(LogError),
}

/// Receives librdkafka's callbacks, on the poll thread.
pub(super) struct Context {
    reporter: Arc<Reporter>,
    broken: AtomicBool,
    /// Rises with every event, so that the poll thread sees whether a poll did something.
    events: AtomicU64,
    /// `batch.size` of this producer.
    batch_size: usize,
}

impl Context {
    fn event(&self) {
        self.events.fetch_add(1, Ordering::Relaxed);
    }

    fn break_off(&self, why: &dyn std::fmt::Display) {
        if !self.broken.swap(true, Ordering::AcqRel) {
            log::warn!("kafka: nothing more is sent until the log is reset: {why}");
        }
    }

    /// What the error of a record with `size` bytes of key and payload means for its report.
    fn judge(&self, code: RDKafkaErrorCode, topic: &str, size: usize) -> LogError {
        match judge(code) {
            Verdict::Refused(why) => refused(topic, why),
            Verdict::TooLarge if size >= self.batch_size => refused(
                topic,
                &format!("the record's {size} bytes are more than its max.message.bytes allows"),
            ),
            Verdict::TooLarge => {
                // Perhaps only the batch was too large. Halving ends at the record's own size.
                let smaller = (self.batch_size / 2).max(1);
                if self.reporter.batch_size.fetch_min(smaller, Ordering::AcqRel) > smaller {
                    log::warn!(
                        "kafka: topic {topic} takes no batch of {} bytes: batches have at most {smaller} from now \
                         on; lower kafka.batch_size or raise the topic's max.message.bytes",
                        self.batch_size
                    );
                }
                self.break_off(&format_args!("a batch is too large for topic {topic}"));
                unavailable(code)
            }
            Verdict::UnknownTopic => {
                self.reporter.forget.lock().push(topic.to_owned());
                self.break_off(&format_args!("topic {topic} or a partition of it is gone"));
                unavailable(code)
            }
            Verdict::Unavailable => {
                self.break_off(&code);
                unavailable(code)
            }
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
                log::error!("kafka: librdkafka: {facility} {message}");
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
                    log::warn!("kafka: no broker can be reached ({reason}); records wait");
                }
            }
            Some(
                RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::OperationTimedOut,
            ) => log::debug!("kafka: {reason}"),
            _ => log::warn!("kafka: {error}: {reason}"),
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, id: usize) {
        self.event();
        match result {
            Ok(_) => {
                self.reporter.counters.acknowledged.fetch_add(1, Ordering::Relaxed);
                if !self.reporter.up.load(Ordering::Relaxed) {
                    self.reporter.up.store(true, Ordering::Relaxed);
                    log::info!("kafka: acknowledges again");
                }
                self.reporter.ok(id as u64);
            }
            Err((error, message)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                let size = message.payload_len() + message.key_len();
                self.reporter.failed(id as u64, self.judge(code, message.topic(), size));
            }
        }
    }
}

pub(super) struct KafkaProducer {
    inner: BaseProducer<Context>,
}

impl KafkaProducer {
    pub fn new(options: &KafkaOptions, reporter: &Arc<Reporter>) -> KafkaResult<Self> {
        let batch_size = reporter.batch_size.load(Ordering::Acquire);
        let context = Context {
            reporter: reporter.clone(),
            broken: AtomicBool::new(false),
            events: AtomicU64::new(0),
            batch_size,
        };
        let inner = options.producer_config(batch_size).create_with_context(context)?;
        Ok(Self { inner })
    }

    /// Gives one record to librdkafka; never blocks.
    pub fn send(&self, record: &LogRecord, node_id: &str) -> Sent {
        let context = self.inner.context();
        if context.broken.load(Ordering::Acquire) {
            return Sent::Failed(LogError::Unavailable(
                "an earlier record failed; reset first".into(),
            ));
        }
        let mut message: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(&record.topic, record.id as usize)
                .payload(&record.payload[..])
                .timestamp(i64::try_from(record.received_ms).unwrap_or(i64::MAX))
                .headers(headers(record, node_id));
        if let Some(key) = &record.key {
            message = message.key(&key[..]);
        }
        let Err((error, _)) = self.inner.send(message) else {
            return Sent::Taken;
        };
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) => Sent::Full,
            // librdkafka measured the record by itself, so no batch is to blame.
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => Sent::Failed(refused(
                &record.topic,
                &format!(
                    "a record of {} bytes is larger than kafka.message_max_bytes",
                    record.cost()
                ),
            )),
            Some(code) => Sent::Failed(context.judge(code, &record.topic, 0)),
            None => Sent::Failed(refused(&record.topic, &error.to_string())),
        }
    }

    /// Serves the callbacks that are due, for at most about `time`; false when more may be due.
    pub fn poll(&self, time: Duration) -> bool {
        let events = &self.inner.context().events;
        let end = Instant::now() + time;
        // `poll(zero)` serves one event and returns; a longer one would wait its whole time and
        // spin through the last millisecond of it.
        let done = loop {
            let before = events.load(Ordering::Relaxed);
            self.inner.poll(Duration::ZERO);
            if events.load(Ordering::Relaxed) == before {
                break true;
            }
            if Instant::now() >= end {
                break false;
            }
        };
        // Its event carries the underlying code, and records sent just then are never reported.
        if !self.is_broken()
            && let Some((code, reason)) = self.inner.client().fatal_error()
        {
            self.inner.context().break_off(&format_args!("fatal error {code}: {reason}"));
        }
        done
    }

    /// Fails everything that is not acknowledged; `poll` reports it.
    pub fn purge(&self) {
        self.inner.context().broken.store(true, Ordering::Release);
        self.inner.purge(PurgeConfig::default().queue().inflight());
    }

    pub fn is_broken(&self) -> bool {
        self.inner.context().broken.load(Ordering::Acquire)
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
