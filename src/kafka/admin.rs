//! Asks Kafka about topics and makes those that are missing, on a thread of its own.
//!
//! Works only while records wait for a topic or somebody is beyond a cap (and once at the start, until
//! Kafka is reached). It makes what records need: the caps were held against before
//! ([`super::admission`]). Topics that Kafka makes us wait for (too few
//! brokers, a time-out) are tried again for ever: nothing is refused that may succeed later.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use hydrant_actors::say;
use rdkafka::admin::{
    AdminClient, AdminOptions, NewTopic, OwnedResourceSpecifier, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::metadata::{Metadata, MetadataTopic};
use rdkafka::types::RDKafkaErrorCode;

use super::copies::Copies;
use super::errors::{Decision, decision, refused};
use super::shared::{LogThreads, State};

/// A topic that was made is not made again for so long, even if a broker does not know it yet.
const PROPAGATION: Duration = Duration::from_secs(30);
/// Topics asked for in one pass.
const PASS: usize = 256;
/// Past so many topics, one request for all of them is cheaper than one each.
const ASK_EACH: usize = 8;
/// One attempt to reach Kafka; the thread sees a stop in between.
const ATTEMPT: Duration = Duration::from_secs(2);
/// How soon a topic is seen that is due to be asked for again.
const PARKED: Duration = Duration::from_millis(200);
/// While somebody is beyond a cap, Kafka's list of topics is looked at again after so long.
const LOOK: Duration = Duration::from_secs(10);
/// What Kafka takes by default in one batch (`message.max.bytes`).
const KAFKA_MAX_BYTES: usize = 1_048_588;
/// Between attempts that brought nothing.
const PAUSE: Duration = Duration::from_millis(50);

type Admin = AdminClient<DefaultClientContext>;

/// What Kafka says about one topic.
#[derive(Debug, Clone, Copy)]
enum Answer {
    Exists {
        replication: usize,
    },
    Missing,
    /// Until somebody mends it.
    Parked(&'static str),
    Refused(&'static str),
}

/// What Kafka's settings of one topic are.
struct Described {
    /// Bytes of a batch that it takes.
    limit: Option<usize>,
    /// `min.insync.replicas`.
    least_in_sync: Option<usize>,
}

/// The thread's state.
pub(super) struct TopicMaker {
    shared: Arc<LogThreads>,
    runtime: tokio::runtime::Runtime,
    /// When Kafka's list of topics was looked at; `None`: never.
    looked: Option<Instant>,
    /// Topics just made, and when: what a broker says about them can be behind.
    made: AHashMap<Arc<str>, Instant>,
    /// Topics with one replica, and those where one in-sync replica is enough.
    single: Copies,
    /// See `single`.
    insync: Copies,
}

impl TopicMaker {
    pub fn new(shared: Arc<LogThreads>) -> std::io::Result<Self> {
        // rdkafka's administrative requests are futures; this only blocks on them.
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        Ok(Self {
            shared,
            runtime,
            looked: None,
            made: AHashMap::new(),
            single: Copies::default(),
            insync: Copies::default(),
        })
    }

    /// Works until the log is dropped.
    pub fn run(mut self) {
        let mut client: Option<Admin> = None;
        while !self.shared.stopping.load(Ordering::Acquire) {
            let (pending, waiting) = {
                let topics = &self.shared.state.lock().topics;
                (topics.pending(PASS, Instant::now()), topics.waiting() > 0)
            };
            if pending.is_empty() && !self.must_look() {
                if waiting {
                    // Some may be parked, and asked for again.
                    self.shared.wait_for_topics(PARKED);
                    continue;
                }
                // An idle client would only keep a connection.
                client = None;
                self.made.clear();
                let wanted = self.shared.admissions.wants_a_look();
                self.shared.wait_for_topics(if wanted { LOOK / 10 } else { LOOK * 6 });
                continue;
            }
            let admin = match client.take() {
                Some(admin) => admin,
                None => match self.shared.options.admin_config().create::<Admin>() {
                    Ok(admin) => admin,
                    Err(error) => {
                        Self::complain(&format_args!("no Kafka client can be made: {error}"));
                        self.shared.wait_for_topics(Duration::from_secs(1));
                        continue;
                    }
                },
            };
            match self.pass(&admin, &pending) {
                Ok(true) => {}
                Ok(false) => self.shared.pause(PAUSE),
                Err(error) => {
                    if is_away(&error) {
                        self.shared.reporter.say_away();
                    } else {
                        Self::complain(&format_args!(
                            "Kafka cannot be asked for its topics: {error}; records wait"
                        ));
                    }
                    self.shared.pause(PAUSE);
                }
            }
            client = Some(admin);
        }
    }

    /// Whether Kafka's list of topics is to be looked at: at the start, and while somebody is beyond a
    /// cap.
    fn must_look(&self) -> bool {
        let wanted = self.shared.admissions.wants_a_look();
        self.looked.is_none_or(|looked| wanted && looked.elapsed() >= LOOK)
    }

    /// Asks, makes, releases. True when something was settled.
    fn pass(&mut self, admin: &Admin, pending: &[Arc<str>]) -> KafkaResult<bool> {
        let attempt = ATTEMPT.min(self.shared.options.request_timeout);
        let mut answers: AHashMap<Arc<str>, Answer> = AHashMap::with_capacity(pending.len());
        if self.must_look() || pending.len() > ASK_EACH {
            let metadata = admin.inner().fetch_metadata(None, attempt)?;
            let topics: AHashMap<&str, &MetadataTopic> =
                metadata.topics().iter().map(|topic| (topic.name(), topic)).collect();
            for topic in pending {
                answers.insert(topic.clone(), answer(topics.get(&**topic).copied()));
            }
            self.shared.admissions.look(topics.iter().filter_map(|(name, topic)| {
                matches!(answer(Some(topic)), Answer::Exists { .. }).then_some(*name)
            }));
            if self.looked.replace(Instant::now()).is_none() {
                self.first_contact(admin, &metadata, &topics);
            }
            self.shared.brokers.store(metadata.brokers().len(), Ordering::Relaxed);
        } else {
            for topic in pending {
                let metadata = admin.inner().fetch_metadata(Some(topic), attempt)?;
                answers.insert(topic.clone(), answer(metadata.topics().first()));
            }
        }
        self.shared.reporter.up.store(true, Ordering::Release);

        let mut found = Vec::new();
        for (topic, answer) in &answers {
            if let Answer::Exists { replication } = answer {
                found.push((topic.clone(), *replication));
            }
        }
        let described = self.describe(admin, found.iter().map(|(topic, _)| topic));
        let now = Instant::now();
        let mut settled = false;
        let mut to_make: Vec<(Arc<str>, Arc<str>)> = Vec::new();
        {
            let mut state = self.shared.state.lock();
            state.topics.expire(now);
            for (topic, answer) in answers {
                match answer {
                    Answer::Exists { .. } => {
                        self.shared.admissions.exists(&topic);
                        let limit = described.get(&topic).and_then(|described| described.limit);
                        let batch_size = self.shared.options.batch_size;
                        state.topics.exists(&topic, limit, batch_size, now);
                        self.made.remove(&topic);
                    }
                    Answer::Refused(why) => {
                        settled = true;
                        self.shared.admissions.not_made(&topic);
                        self.shared.refuse_waiting(&mut state, &topic, why, now);
                    }
                    Answer::Missing
                        if self
                            .made
                            .get(&topic)
                            .is_some_and(|made| now.duration_since(*made) < PROPAGATION) => {}
                    Answer::Missing if self.shared.options.create_topics => {
                        let client = state.topics.client(&topic);
                        self.shared.admissions.need(&topic, &client);
                        to_make.push((topic, client));
                    }
                    Answer::Missing => {
                        settled = true;
                        let why = "it does not exist: make it, or set kafka.create_topics = true";
                        state.topics.park(&topic, why, now);
                    }
                    Answer::Parked(why) => {
                        settled = true;
                        state.topics.park(&topic, why, now);
                    }
                }
            }
            self.shared.drain(&mut state);
        }
        self.shared.wake_poll_thread();
        self.make(admin, &to_make);
        self.tell_of_single_copies(&found, &described);
        Ok(settled || !found.is_empty() || !to_make.is_empty())
    }

    /// Makes topics; the next pass finds them.
    fn make(&mut self, admin: &Admin, topics: &[(Arc<str>, Arc<str>)]) {
        if topics.is_empty() {
            return;
        }
        let options = &self.shared.options;
        let replication = match options.replication_factor {
            0 => -1,
            factor => i32::from(factor),
        };
        let partitions = i32::try_from(options.partitions).unwrap_or(i32::MAX);
        let largest = options.message_max_bytes.to_string();
        let new: Vec<NewTopic<'_>> = topics
            .iter()
            .map(|(topic, _)| {
                let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(replication));
                // What a client was allowed to send fits.
                match options.message_max_bytes > KAFKA_MAX_BYTES {
                    true => new.set("max.message.bytes", &largest),
                    false => new,
                }
            })
            .collect();
        let result = self.runtime.block_on(admin.create_topics(&new, &self.admin_options()));
        let results = match result {
            Ok(results) => results,
            Err(error) => {
                Self::complain(&format_args!("Kafka makes no topics: {error}; their records wait"));
                return;
            }
        };
        let mut failed = false;
        for result in results {
            let name = match &result {
                Ok(name) | Err((name, _)) => name.as_str(),
            };
            let Some((topic, client)) = topics.iter().find(|(topic, _)| **topic == *name) else {
                continue;
            };
            let Err((_, code)) = &result else {
                self.shared.reporter.counters.topics_created.fetch_add(1, Ordering::Relaxed);
                self.shared.admissions.made(topic);
                self.made.insert(topic.clone(), Instant::now());
                say::info!(
                    "kafka: made topic {topic} with {partitions} partitions for client {client:?}"
                );
                continue;
            };
            match (code, decision(*code)) {
                (RDKafkaErrorCode::TopicAlreadyExists, _) => {
                    self.made.insert(topic.clone(), Instant::now());
                }
                (_, Decision::Refuse(why)) => self.refuse(topic, why),
                (_, Decision::Park(_)) => self.refuse(
                    topic,
                    "Kafka does not let this broker make it: give it CREATE, or make the topic yourself",
                ),
                (RDKafkaErrorCode::ClusterAuthorizationFailed, _) => self.refuse(
                    topic,
                    "Kafka does not let this broker make it: give it CREATE, or make the topic yourself",
                ),
                _ => {
                    failed = true;
                    Self::complain(&format_args!("topic {topic} cannot be made yet: {code}; its records wait"));
                }
            }
        }
        if failed {
            self.shared.pause(PAUSE * 10);
        }
    }

    fn refuse(&self, topic: &str, why: &str) {
        self.shared.admissions.not_made(topic);
        self.shared.refuse_waiting(&mut self.shared.state.lock(), topic, why, Instant::now());
    }

    fn first_contact(
        &mut self,
        admin: &Admin,
        metadata: &Metadata,
        topics: &AHashMap<&str, &MetadataTopic>,
    ) {
        say::info!("kafka: reached, {} brokers, {} topics", metadata.brokers().len(), topics.len());
        let expected: Vec<(Arc<str>, usize)> = self
            .shared
            .options
            .expected_topics
            .iter()
            .filter_map(|topic| match answer(topics.get(topic.as_str()).copied()) {
                Answer::Exists { replication } => Some((topic.as_str().into(), replication)),
                _ => None,
            })
            .collect();
        let described = self.describe(admin, expected.iter().map(|(topic, _)| topic));
        self.tell_of_single_copies(&expected, &described);
    }

    /// What Kafka says about topics that exist; nothing about those it does not let this broker
    /// describe.
    fn describe<'a>(
        &self,
        admin: &Admin,
        topics: impl Iterator<Item = &'a Arc<str>>,
    ) -> AHashMap<Arc<str>, Described> {
        let topics: Vec<_> = topics.map(|topic| ResourceSpecifier::Topic(topic)).collect();
        if topics.is_empty() {
            return AHashMap::new();
        }
        let described =
            self.runtime.block_on(admin.describe_configs(&topics, &self.admin_options()));
        let described = described.inspect_err(|error| {
            log::debug!("kafka: topics cannot be described: {error}");
        });
        let described = described.into_iter().flatten().flatten();
        described
            .filter_map(|resource| {
                let OwnedResourceSpecifier::Topic(topic) = &resource.specifier else { return None };
                let number = |name| -> Option<usize> {
                    resource.get(name).and_then(|entry| entry.value.as_deref())?.parse().ok()
                };
                let sizes = [number("max.message.bytes"), number("segment.bytes")];
                let described = Described {
                    limit: sizes.into_iter().flatten().min(),
                    least_in_sync: number("min.insync.replicas"),
                };
                Some((topic.as_str().into(), described))
            })
            .collect()
    }

    /// Says which topics' acks=all means one copy (KIP-966 and the documentation of `min.insync.replicas`): one line
    /// for all that are found at once, and ever more seldom for those that come one by one.
    fn tell_of_single_copies(
        &mut self,
        topics: &[(Arc<str>, usize)],
        described: &AHashMap<Arc<str>, Described>,
    ) {
        let new: Vec<&(Arc<str>, usize)> = {
            let mut looked_at = self.shared.looked_at.lock();
            topics.iter().filter(|(topic, _)| looked_at.insert(topic.clone())).collect()
        };
        let (replicated, single): (Vec<_>, Vec<_>) =
            new.into_iter().map(|(topic, n)| (topic, *n)).partition(|(_, n)| *n > 1);
        let single: Vec<&str> = single.iter().map(|(topic, _)| &***topic).collect();
        if let Some(topics) = self.single.tell(&single) {
            say::info!(
                "kafka: one replica: {topics}. What Kafka acknowledges of them is lost with that broker; in \
                 production use replication factor 3 and min.insync.replicas=2"
            );
        }
        let least = replicated.iter().filter_map(|(topic, _)| {
            let least = described.get(*topic).and_then(|described| described.least_in_sync);
            (least == Some(1)).then_some(&***topic)
        });
        let least: Vec<&str> = least.collect();
        if let Some(topics) = self.insync.tell(&least) {
            say::warn!(
                "kafka: min.insync.replicas=1: {topics}. acks=all can mean one copy of theirs; set \
                 min.insync.replicas=2"
            );
        }
    }

    fn admin_options(&self) -> AdminOptions {
        let timeout = self.shared.options.request_timeout.min(Duration::from_secs(10));
        AdminOptions::new().request_timeout(Some(timeout)).operation_timeout(Some(timeout))
    }

    /// Logs what keeps records waiting, at most every 10 s.
    fn complain(what: &dyn std::fmt::Display) {
        say::warn!("kafka: {what}");
    }
}

/// Nobody answers, rather than that somebody refuses.
fn is_away(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::OperationTimedOut
        )
    )
}

fn answer(topic: Option<&MetadataTopic>) -> Answer {
    let Some(topic) = topic else {
        return Answer::Missing;
    };
    let replication = topic.partitions().first().map_or(0, |partition| partition.replicas().len());
    match topic.error().map(RDKafkaErrorCode::from) {
        Some(code) => match decision(code) {
            Decision::Refuse(why) => Answer::Refused(why),
            Decision::Park(why) => Answer::Parked(why),
            Decision::Look => Answer::Missing,
            // It exists; a leader is being elected, say.
            _ => Answer::Exists { replication },
        },
        None if topic.partitions().is_empty() => Answer::Missing,
        None => Answer::Exists { replication },
    }
}

impl LogThreads {
    /// Refuses every record that waits for the topic.
    fn refuse_waiting(&self, state: &mut State, topic: &str, why: &str, now: Instant) {
        for record in state.topics.refuse(topic, why, now) {
            self.reporter.failed(record.id(), refused(topic, why));
        }
    }
}
