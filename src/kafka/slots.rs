//! The producers: one for all topics, and one for each class of smaller batches that a topic in
//! trouble needs.
//!
//! A producer closed by a topic's trouble is replaced once nothing is outstanding in it. What it
//! kept goes back to the backlogs of its topics, and from there to the new producer or, for the
//! topic in trouble, to one of its class. The log actor does not learn of it.
//!
//! Bounds: [`CLASSES`] producers, and those that are being replaced.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hydrant_actors::say;
use rdkafka::error::KafkaError;

use super::options::KafkaOptions;
use super::producer::{KafkaProducer, Sent};
use super::reporter::Reporter;
use super::topics::Topics;
use super::trouble::{CLASSES, Kind, LAST};
use super::waiting::Waiting;

/// Kafka has so long to answer for what it has when a producer is closed; then that is sent again
/// and may come twice.
const PATIENCE: Duration = Duration::from_secs(5);
/// A producer of topics in trouble is not replaced again for so long.
const BREATH: Duration = Duration::from_millis(50);
/// Where no producer can be made, it is tried again after so long.
const RETRY: Duration = Duration::from_secs(1);
/// How often the log is told which topics are in trouble, at most.
const LINE: Duration = Duration::from_secs(10);
/// One that no topic needs is ended after so long.
const IDLE: Duration = Duration::from_secs(60);

struct Slot {
    producer: Arc<KafkaProducer>,
    closing: Option<Closing>,
    /// When it was made.
    made: Instant,
    used: Instant,
}

/// A producer waits for its last reports.
struct Closing {
    since: Instant,
    /// It connects meanwhile.
    next: Arc<KafkaProducer>,
}

impl Slot {
    fn new(producer: Arc<KafkaProducer>, now: Instant) -> Self {
        Self { producer, closing: None, made: now, used: now }
    }

    /// It, and the one that was to take its place.
    fn producers(self) -> impl Iterator<Item = Arc<KafkaProducer>> {
        std::iter::once(self.producer).chain(self.closing.map(|closing| closing.next))
    }
}

/// See the module.
pub(super) struct Slots {
    main: Slot,
    /// By class, from 1 on.
    others: [Option<Slot>; CLASSES - 1],
    /// Producers replaced by a reset or ended; not all of their records are reported.
    retired: Vec<Arc<KafkaProducer>>,
    maker: Maker,
    /// When the log was told of a topic in trouble, and of how many it was not told since.
    told: (Option<Instant>, u64),
}

/// Makes producers, with a pause after each that could not be made.
#[derive(Default)]
struct Maker {
    failed: Option<Instant>,
}

impl Maker {
    fn make(
        &mut self,
        options: &KafkaOptions,
        class: usize,
        reporter: &Arc<Reporter>,
        now: Instant,
    ) -> Option<Arc<KafkaProducer>> {
        if self.failed.is_some_and(|failed| now.duration_since(failed) < RETRY) {
            return None;
        }
        match KafkaProducer::new(options, class, reporter) {
            Ok(producer) => Some(Arc::new(producer)),
            Err(error) => {
                self.failed = Some(now);
                say::error!(
                    "kafka: no producer can be made for topics in trouble: {error}; it is tried again"
                );
                None
            }
        }
    }
}

/// Says which topic is in trouble; where the log was told a moment ago, counts it.
fn tell(told: &mut (Option<Instant>, u64), topic: &str, kind: &Kind, now: Instant) {
    let what = match kind {
        Kind::Split(Some(bytes)) => format!(
            "takes no batch of {bytes} bytes: it gets smaller ones for a while; raise its max.message.bytes"
        ),
        Kind::Split(None) => {
            "refused a record of a batch: its records go one by one for a while".into()
        }
        Kind::Aside => "refused a record: its others go by themselves for a while".into(),
        // Those that are parked have a line of their own.
        Kind::Park { .. } => return,
        Kind::Look => "or a partition of it is gone: Kafka is asked again".into(),
    };
    if told.0.is_some_and(|told| now.duration_since(told) < LINE) {
        told.1 += 1;
        log::debug!("kafka: topic {topic} {what}");
        return;
    }
    let left_out = match std::mem::take(&mut told.1) {
        0 => String::new(),
        count => format!(" ({count} such lines were left out)"),
    };
    told.0 = Some(now);
    say::warn!("kafka: topic {topic} {what}{left_out}");
}

impl Slots {
    pub fn new(main: KafkaProducer) -> Self {
        Self {
            main: Slot::new(Arc::new(main), Instant::now()),
            others: Default::default(),
            retired: Vec::new(),
            maker: Maker::default(),
            told: (None, 0),
        }
    }

    /// The producer for all topics that are not in trouble.
    pub fn main(&self) -> &Arc<KafkaProducer> {
        &self.main.producer
    }

    /// All in use.
    pub fn live(&self) -> Vec<Arc<KafkaProducer>> {
        let others = self.others.iter().flatten().map(|slot| slot.producer.clone());
        std::iter::once(self.main.producer.clone()).chain(others).collect()
    }

    /// Gives a record that waited to the producer of its class.
    pub fn send(
        &mut self,
        class: usize,
        record: &Waiting,
        node_id: &str,
        options: &KafkaOptions,
        reporter: &Arc<Reporter>,
    ) -> Sent {
        let Some(at) = class.min(LAST).checked_sub(1) else {
            return self.main.producer.send_waiting(record, node_id);
        };
        let now = Instant::now();
        let slot = match &mut self.others[at] {
            Some(slot) => slot,
            empty => match self.maker.make(options, class, reporter, now) {
                Some(producer) => empty.insert(Slot::new(producer, now)),
                None => return Sent::Full,
            },
        };
        slot.used = now;
        slot.producer.send_waiting(record, node_id)
    }

    /// Tells topics what was reported, and replaces producers that were closed and have
    /// nothing outstanding any more. True when Kafka has to be asked about a topic.
    pub fn serve(
        &mut self,
        topics: &mut Topics,
        options: &KafkaOptions,
        reporter: &Arc<Reporter>,
    ) -> bool {
        let now = Instant::now();
        let mut ask = false;
        let slots = std::iter::once(Some(&mut self.main));
        for (class, slot) in slots.chain(self.others.iter_mut().map(Option::as_mut)).enumerate() {
            let Some(slot) = slot else { continue };
            for settled in slot.producer.take_settled() {
                topics.settled(class, &settled, now);
            }
            if !slot.producer.is_closed() {
                continue;
            }
            let Some(closing) = &slot.closing else {
                if class > 0 && now.duration_since(slot.made) < BREATH {
                    continue;
                }
                if let Some(next) = self.maker.make(options, class, reporter, now) {
                    slot.closing = Some(Closing { since: now, next });
                    slot.producer.take_back(false);
                }
                continue;
            };
            if slot.producer.in_flight() > 0 {
                slot.producer.take_back(now.duration_since(closing.since) >= PATIENCE);
                continue;
            }
            let counters = &reporter.counters;
            counters.replaced.fetch_add(1, Ordering::Relaxed);
            counters.main_replaced.fetch_add(u64::from(class == 0), Ordering::Relaxed);
            let next = closing.next.clone();
            let old = std::mem::replace(slot, Slot::new(next, now)).producer;
            let kept = old.take_kept();
            self.retired.push(old);
            let records = kept.records.into_iter().map(|back| Waiting::Back(Box::new(back)));
            topics.put_back(records);
            for (topic, kind) in kept.troubles {
                tell(&mut self.told, &topic, &kind, now);
                ask |= kind == Kind::Look;
                topics.add_trouble(&topic, &kind, class, options.batch_size, now);
            }
        }
        for slot in &mut self.others {
            if let Some(idle) = slot.take_if(|slot| {
                now.duration_since(slot.used) >= IDLE && slot.producer.in_flight() == 0
            }) {
                self.retired.push(idle.producer);
            }
        }
        ask
    }

    /// Puts a new producer in the place of all; what the old ones have is reported as unavailable
    /// once they are purged. Returns those, and why there is no new one: then the old one stays,
    /// broken.
    pub fn reset(
        &mut self,
        options: &KafkaOptions,
        reporter: &Arc<Reporter>,
    ) -> (Vec<Arc<KafkaProducer>>, Result<(), KafkaError>) {
        let mut old = Vec::new();
        for slot in &mut self.others {
            old.extend(slot.take().into_iter().flat_map(Slot::producers));
        }
        let result = KafkaProducer::new(options, 0, reporter).map(|new| {
            let new = Slot::new(Arc::new(new), Instant::now());
            old.extend(std::mem::replace(&mut self.main, new).producers());
        });
        self.retired.extend(old.iter().cloned());
        if result.is_err() {
            old.push(self.main.producer.clone());
        }
        (old, result)
    }

    /// Serves the last callbacks of replaced producers; ends those that have none left.
    pub fn end_retired(&mut self, poll: Duration) {
        self.retired.retain(|producer| {
            producer.poll(poll);
            if producer.in_flight() > 0 {
                return true;
            }
            // Closing waits for librdkafka's threads: not here.
            let producer = producer.clone();
            let closing = std::thread::Builder::new()
                .name("kafka-close".into())
                .spawn(move || drop(producer));
            if let Err(error) = closing {
                say::warn!("kafka: no thread to close a producer: {error}");
            }
            false
        });
    }

    /// Whether a producer is being replaced, or ended.
    pub fn is_closing(&self) -> bool {
        let mut slots = std::iter::once(&self.main).chain(self.others.iter().flatten());
        !self.retired.is_empty() || slots.any(|slot| slot.producer.is_closed())
    }
}
