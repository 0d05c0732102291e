//! Asks Kafka about topics and makes those that are missing, on a thread of its own.
//!
//! Works only while records wait for a topic (and once at the start, until Kafka is reached). A
//! topic is made at most as often as the caps allow. Topics that Kafka makes us wait for (too few
//! brokers, a time-out) are tried again for ever: nothing is refused that may succeed later.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaResult;
use rdkafka::metadata::{Metadata, MetadataTopic};
use rdkafka::types::RDKafkaErrorCode;

use super::Shared;
use super::errors::{Verdict, judge, refused};
use super::topics::Caps;

/// A topic that has to exist is refused when Kafka did not know it for so long: what one broker
/// says just after a change can be behind the others.
const MISSING_GRACE: Duration = Duration::from_secs(3);
/// A topic that was made is not made again for so long, even if a broker does not know it yet.
const PROPAGATION: Duration = Duration::from_secs(30);
/// Topics asked for in one pass.
const PASS: usize = 256;
/// Past so many topics, one request for all of them is cheaper than one each.
const ASK_EACH: usize = 8;
/// One attempt to reach Kafka; the thread sees a stop in between.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Between attempts that brought nothing.
const PAUSE: Duration = Duration::from_millis(50);

type Admin = AdminClient<DefaultClientContext>;

/// What Kafka says about one topic.
#[derive(Debug, Clone, Copy)]
enum Answer {
    Exists { replication: usize },
    Missing,
    Refused(&'static str),
}

/// The thread's state.
pub(super) struct TopicMaker {
    shared: Arc<Shared>,
    runtime: tokio::runtime::Runtime,
    caps: Caps,
    /// Since when a pending topic is known to be missing.
    missing: AHashMap<Arc<str>, Instant>,
    /// Topics just made, and when: what a broker says about them can be behind.
    made: AHashMap<Arc<str>, Instant>,
    /// When the same complaint may be logged again.
    quiet_until: Instant,
}

impl TopicMaker {
    pub fn new(shared: Arc<Shared>) -> std::io::Result<Self> {
        // rdkafka's administrative requests are futures; this only blocks on them.
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        Ok(Self {
            shared,
            runtime,
            caps: Caps::default(),
            missing: AHashMap::new(),
            made: AHashMap::new(),
            quiet_until: Instant::now(),
        })
    }

    /// Works until the log is dropped.
    pub fn run(mut self) {
        let mut client: Option<Admin> = None;
        let mut reached = false;
        while !self.shared.stopping.load(Ordering::Acquire) {
            let pending = self.shared.state.lock().topics.pending(PASS);
            if pending.is_empty() && reached {
                // An idle client would only keep a connection.
                client = None;
                self.missing.clear();
                self.made.clear();
                self.shared.wait_for_topics(Duration::from_secs(60));
                continue;
            }
            let admin = match client.take() {
                Some(admin) => admin,
                None => match self.shared.options.admin_config().create::<Admin>() {
                    Ok(admin) => admin,
                    Err(error) => {
                        self.complain(&format_args!("no Kafka client can be made: {error}"));
                        self.shared.wait_for_topics(Duration::from_secs(1));
                        continue;
                    }
                },
            };
            match self.pass(&admin, &pending, &mut reached) {
                Ok(true) => {}
                Ok(false) => self.shared.pause(PAUSE),
                Err(error) => {
                    self.complain(&format_args!(
                        "Kafka cannot be asked for its topics: {error}; records wait"
                    ));
                    self.shared.pause(PAUSE);
                }
            }
            client = Some(admin);
        }
    }

    /// Asks, makes, releases. True when something was settled.
    fn pass(
        &mut self,
        admin: &Admin,
        pending: &[Arc<str>],
        reached: &mut bool,
    ) -> KafkaResult<bool> {
        let attempt = ATTEMPT.min(self.shared.options.request_timeout);
        let mut answers: AHashMap<Arc<str>, Answer> = AHashMap::with_capacity(pending.len());
        if !*reached || pending.len() > ASK_EACH {
            let metadata = admin.inner().fetch_metadata(None, attempt)?;
            let topics: AHashMap<&str, &MetadataTopic> =
                metadata.topics().iter().map(|topic| (topic.name(), topic)).collect();
            for topic in pending {
                answers.insert(topic.clone(), answer(topics.get(&**topic).copied()));
            }
            if !*reached {
                *reached = true;
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

        let now = Instant::now();
        let mut found = Vec::new();
        let mut settled = false;
        let mut to_make: Vec<(Arc<str>, Arc<str>)> = Vec::new();
        {
            let mut state = self.shared.state.lock();
            state.topics.expire(now);
            for (topic, answer) in answers {
                match answer {
                    Answer::Exists { replication } => {
                        state.topics.exists(&topic);
                        self.missing.remove(&topic);
                        self.made.remove(&topic);
                        found.push((topic, replication));
                    }
                    Answer::Refused(why) => {
                        settled = true;
                        self.shared.refuse_waiting(&mut state, &topic, why, now, true);
                    }
                    Answer::Missing
                        if self
                            .made
                            .get(&topic)
                            .is_some_and(|made| now.duration_since(*made) < PROPAGATION) => {}
                    Answer::Missing if self.shared.options.create_topics => {
                        let options = &self.shared.options;
                        let clients = state.topics.clients(&topic);
                        match self.caps.creator(
                            &clients,
                            options.max_topics_created,
                            options.max_topics_per_client,
                        ) {
                            Ok(client) => {
                                self.caps.made(&client);
                                to_make.push((topic, client));
                            }
                            Err(why) => {
                                settled = true;
                                let refused = self
                                    .shared
                                    .refuse_waiting(&mut state, &topic, &why, now, false);
                                let counter = &self.shared.reporter.counters.refused_by_topic_cap;
                                counter.fetch_add(refused as u64, Ordering::Relaxed);
                            }
                        }
                    }
                    Answer::Missing => {
                        let since = *self.missing.entry(topic.clone()).or_insert(now);
                        if now.duration_since(since) >= MISSING_GRACE {
                            settled = true;
                            self.missing.remove(&topic);
                            let why =
                                "it does not exist: make it, or set kafka.create_topics = true";
                            self.shared.refuse_waiting(&mut state, &topic, why, now, true);
                        }
                    }
                }
            }
            self.shared.drain(&mut state);
        }
        self.shared.wake_poll_thread();
        self.make(admin, &to_make);
        self.warn_of_single_copies(admin, &found);
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
        let new: Vec<NewTopic<'_>> = topics
            .iter()
            .map(|(topic, _)| {
                NewTopic::new(topic, partitions, TopicReplication::Fixed(replication))
            })
            .collect();
        let result = self.runtime.block_on(admin.create_topics(&new, &self.admin_options()));
        let results = match result {
            Ok(results) => results,
            Err(error) => {
                self.complain(&format_args!("Kafka makes no topics: {error}; their records wait"));
                topics.iter().for_each(|(_, client)| self.caps.not_made(client));
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
                self.made.insert(topic.clone(), Instant::now());
                log::info!(
                    "kafka: made topic {topic} with {partitions} partitions for client {client:?}"
                );
                continue;
            };
            self.caps.not_made(client);
            match (code, judge(*code)) {
                (RDKafkaErrorCode::TopicAlreadyExists, _) => {
                    self.made.insert(topic.clone(), Instant::now());
                }
                (_, Verdict::Refused(why)) => self.refuse(topic, why),
                (RDKafkaErrorCode::ClusterAuthorizationFailed, _) => self.refuse(
                    topic,
                    "Kafka does not let this broker make it: give it CREATE, or make the topic yourself",
                ),
                _ => {
                    failed = true;
                    self.complain(&format_args!("topic {topic} cannot be made yet: {code}; its records wait"));
                }
            }
        }
        if failed {
            self.shared.pause(PAUSE * 10);
        }
    }

    fn refuse(&self, topic: &str, why: &str) {
        self.shared.refuse_waiting(&mut self.shared.state.lock(), topic, why, Instant::now(), true);
    }

    fn first_contact(
        &self,
        admin: &Admin,
        metadata: &Metadata,
        topics: &AHashMap<&str, &MetadataTopic>,
    ) {
        log::info!("kafka: reached, {} brokers, {} topics", metadata.brokers().len(), topics.len());
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
        self.warn_of_single_copies(admin, &expected);
    }

    /// One warning for each topic, the first time, whose acks=all means one copy (KIP-966 and the
    /// documentation of `min.insync.replicas`).
    fn warn_of_single_copies(&self, admin: &Admin, topics: &[(Arc<str>, usize)]) {
        let new: Vec<&(Arc<str>, usize)> = {
            let mut looked_at = self.shared.looked_at.lock();
            topics.iter().filter(|(topic, _)| looked_at.insert(topic.clone())).collect()
        };
        let mut replicated = Vec::new();
        for (topic, replication) in new {
            if *replication > 1 {
                replicated.push(ResourceSpecifier::Topic(topic));
            } else {
                log::warn!(
                    "kafka: topic {topic} has one replica: what Kafka acknowledges is lost with that broker; use \
                     replication factor 3 and min.insync.replicas=2"
                );
            }
        }
        if replicated.is_empty() {
            return;
        }
        let described =
            self.runtime.block_on(admin.describe_configs(&replicated, &self.admin_options()));
        for resource in described.into_iter().flatten().flatten() {
            let least =
                resource.get("min.insync.replicas").and_then(|entry| entry.value.as_deref());
            if least == Some("1")
                && let rdkafka::admin::OwnedResourceSpecifier::Topic(topic) = &resource.specifier
            {
                log::warn!(
                    "kafka: topic {topic} has min.insync.replicas=1: acks=all can mean one copy; set \
                     min.insync.replicas=2"
                );
            }
        }
    }

    fn admin_options(&self) -> AdminOptions {
        let timeout = self.shared.options.request_timeout.min(Duration::from_secs(10));
        AdminOptions::new().request_timeout(Some(timeout)).operation_timeout(Some(timeout))
    }

    /// Logs what keeps records waiting, at most every 10 s.
    fn complain(&mut self, what: &dyn std::fmt::Display) {
        let now = Instant::now();
        if now >= self.quiet_until {
            self.quiet_until = now + Duration::from_secs(10);
            log::warn!("kafka: {what}");
        }
    }
}

fn answer(topic: Option<&MetadataTopic>) -> Answer {
    let Some(topic) = topic else {
        return Answer::Missing;
    };
    let replication = topic.partitions().first().map_or(0, |partition| partition.replicas().len());
    match topic.error().map(RDKafkaErrorCode::from) {
        Some(code) => match judge(code) {
            Verdict::Refused(why) => Answer::Refused(why),
            Verdict::UnknownTopic => Answer::Missing,
            // It exists; a leader is being elected, say.
            _ => Answer::Exists { replication },
        },
        None if topic.partitions().is_empty() => Answer::Missing,
        None => Answer::Exists { replication },
    }
}

impl Shared {
    /// Refuses every record that waits for the topic; returns how many.
    fn refuse_waiting(
        &self,
        state: &mut super::State,
        topic: &str,
        why: &str,
        now: Instant,
        remember: bool,
    ) -> usize {
        let records = state.topics.refuse(topic, why, now, remember);
        for record in &records {
            self.reporter.failed(record.id, refused(topic, why));
        }
        records.len()
    }
}
