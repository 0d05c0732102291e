//! What `broker kafka check` looks at: whether Kafka answers, with which brokers, what this broker
//! may do, and whether sizes and copies of brokers and topics fit `[kafka]` and `[limits]`.
//!
//! Invariants: nothing is made and nothing is written, so a node may run meanwhile. Whether a topic
//! may be written to is therefore not known; everything else a first record needs is asked for.
//! Bounds: the fixed topics of the routes and those that are named are looked at.

use std::collections::BTreeSet;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::metadata::{Metadata, MetadataTopic};
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;

use super::errors::text;
use super::options::KafkaOptions;
use crate::cassandra::check::{Finding, Grade};

/// One question has so long.
const PATIENCE: Duration = Duration::from_secs(10);
/// No topic of anybody's.
const PROBE: &str = "hydrant-check-makes-no-topic";

type Found<'a> = &'a mut dyn FnMut(Finding);

fn ok(name: &'static str, sentence: impl Into<String>) -> Finding {
    Finding::new(Grade::Ok, name, sentence)
}

fn warn(name: &'static str, sentence: impl Into<String>) -> Finding {
    Finding::new(Grade::Warn, name, sentence)
}

fn fail(name: &'static str, sentence: impl Into<String>) -> Finding {
    Finding::new(Grade::Fail, name, sentence)
}

/// Keeps what librdkafka says about the way to Kafka.
#[derive(Default)]
struct Said(Mutex<Option<String>>);

impl ClientContext for Said {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}
    fn error(&self, error: KafkaError, reason: &str) {
        // That all brokers are down follows from what was said before.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *self.0.lock() = Some(reason.to_owned());
        }
    }
}

impl ProducerContext for Said {
    type DeliveryOpaque = ();
    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

/// Looks at everything; each finding goes to `found` as it is made. `topics` are looked at besides
/// the fixed ones of the routes; `max_packet_size` is `limits.max_packet_size`.
pub async fn run(
    options: &KafkaOptions,
    max_packet_size: usize,
    topics: &[String],
    found: Found<'_>,
) {
    let client = match options
        .admin_config()
        .create_with_context::<_, BaseProducer<Said>>(Said::default())
    {
        Ok(client) => client,
        Err(error) => {
            let sentence = format!("librdkafka cannot work with [kafka]: {error}");
            return found(fail("client", sentence));
        }
    };
    let mechanism =
        options.properties.get("sasl.mechanism").or(options.properties.get("sasl.mechanisms"));
    let mechanism = mechanism.map_or(String::new(), |mechanism| format!(", SASL {mechanism}"));
    found(ok("client", format!("this build can do {}{mechanism}", options.security_protocol)));
    let metadata = match client.client().fetch_metadata(None, PATIENCE) {
        Ok(metadata) => metadata,
        Err(error) => {
            for _ in 0..100 {
                client.poll(Duration::ZERO);
            }
            let said = client.context().0.lock().take();
            let why = said.unwrap_or_else(|| error.to_string());
            let servers = &options.bootstrap_servers;
            return found(fail("connection", format!("no answer from {servers}: {why}")));
        }
    };
    let brokers = metadata.brokers().len();
    found(ok("connection", format!("Kafka answers: {brokers} brokers")));
    let admin = match options.admin_config().create::<AdminClient<DefaultClientContext>>() {
        Ok(admin) => admin,
        Err(error) => return found(fail("client", error.to_string())),
    };
    let check = Check { options, max_packet_size, admin, metadata };
    check.create(topics, found).await;
    check.brokers(found).await;
    check.topics(topics, found).await;
}

struct Check<'a> {
    options: &'a KafkaOptions,
    max_packet_size: usize,
    admin: AdminClient<DefaultClientContext>,
    metadata: Metadata,
}

/// A number among a topic's or a broker's settings.
fn number(resource: &ConfigResource, name: &str) -> Option<usize> {
    resource.get(name).and_then(|entry| entry.value.as_deref())?.parse().ok()
}

impl Check<'_> {
    fn admin_options() -> AdminOptions {
        AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE))
    }

    fn wanted<'a>(&'a self, topics: &'a [String]) -> BTreeSet<&'a str> {
        self.options.expected_topics.iter().chain(topics).map(String::as_str).collect()
    }

    fn topic(&self, name: &str) -> Option<&MetadataTopic> {
        let mut topics = self.metadata.topics().iter();
        topics.find(|topic| topic.name() == name && !topic.partitions().is_empty())
    }

    /// Whether a topic could be made as `[kafka]` says, and how many may be.
    async fn create(&self, topics: &[String], found: Found<'_>) {
        let options = self.options;
        if !options.create_topics {
            return;
        }
        let factor = match options.replication_factor {
            0 => -1,
            factor => i32::from(factor),
        };
        let partitions = i32::try_from(options.partitions).unwrap_or(i32::MAX);
        let probe = NewTopic::new(PROBE, partitions, TopicReplication::Fixed(factor));
        let validate = Self::admin_options().validate_only(true);
        let result = self.admin.create_topics([&probe], &validate).await;
        let error = match result.map(|mut results| results.pop()) {
            Ok(Some(Err((_, code)))) => Some(code),
            Ok(_) => None,
            Err(error) => error.rdkafka_error_code().or(Some(RDKafkaErrorCode::Fail)),
        };
        use RDKafkaErrorCode as E;
        found(match error {
            None | Some(E::TopicAlreadyExists) => ok(
                "create",
                format!(
                    "topics can be made, {partitions} partitions each; this node makes at most {} between start \
                     and stop, and {} for one client",
                    options.max_topics_created, options.max_topics_per_client
                ),
            ),
            Some(E::TopicAuthorizationFailed | E::ClusterAuthorizationFailed) => fail(
                "create",
                "Kafka does not let this broker make topics: give it CREATE, or set kafka.create_topics = false and \
                 make them yourself",
            ),
            Some(E::InvalidReplicationFactor) => fail(
                "create",
                format!(
                    "kafka.replication_factor = {} is not possible with {} brokers: lower it or add brokers",
                    options.replication_factor,
                    self.metadata.brokers().len()
                ),
            ),
            Some(code) => fail("create", format!("Kafka would make no topic: {}", text(code))),
        });
        let missing = self.wanted(topics).into_iter().filter(|name| self.topic(name).is_none());
        let missing = missing.count();
        if missing > options.max_topics_created {
            found(fail(
                "caps",
                format!(
                    "{missing} topics of the routes are missing and kafka.max_topics_created = {}: raise it or make \
                     them yourself",
                    options.max_topics_created
                ),
            ));
        }
    }

    /// What the brokers say about topics that are made with their defaults.
    async fn brokers(&self, found: Found<'_>) {
        let ids: Vec<_> = self.metadata.brokers().iter().map(|broker| broker.id()).collect();
        let specifiers: Vec<_> = ids.iter().map(|id| ResourceSpecifier::Broker(*id)).collect();
        // Each broker answers for itself.
        let mut described = Vec::new();
        for (id, specifier) in ids.iter().zip(&specifiers) {
            let options = Self::admin_options().broker_id(*id);
            match self
                .admin
                .describe_configs([specifier], &options)
                .await
                .map(|mut found| found.pop())
            {
                Ok(Some(Ok(resource))) => described.push((*id, resource)),
                Ok(Some(Err(code))) => return found(Self::not_described(code)),
                Ok(None) => {}
                Err(error) => {
                    let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                    return found(Self::not_described(code));
                }
            }
        }
        let mut fits = true;
        for (id, resource) in &described {
            let name = format!("broker {id}: message.max.bytes");
            // Topics that this broker makes have a limit of their own.
            let limit =
                number(resource, "message.max.bytes").filter(|_| !self.options.create_topics);
            if let Some(finding) = limit.and_then(|limit| self.size("brokers", &name, limit)) {
                fits = false;
                found(finding);
            }
            let factor = match self.options.replication_factor {
                0 => number(resource, "default.replication.factor").unwrap_or(1),
                factor => usize::from(factor),
            };
            let least = number(resource, "min.insync.replicas").unwrap_or(1);
            if self.options.create_topics
                && let Some(finding) = copies(
                    "brokers",
                    &format!("a topic made with broker {id}'s defaults"),
                    factor,
                    least,
                )
            {
                fits = false;
                found(finding);
            }
        }
        if fits {
            found(ok("brokers", "sizes and copies of topics made with their defaults fit [kafka]"));
        }
    }

    fn not_described(code: RDKafkaErrorCode) -> Finding {
        let sentence = format!(
            "settings cannot be read ({}), so sizes and copies are not known: give this broker DESCRIBE_CONFIGS on \
             cluster and topics",
            text(code)
        );
        warn("describe", sentence)
    }

    /// A topic or broker takes records of at most `limit` bytes.
    fn size(&self, name: &'static str, what: &str, limit: usize) -> Option<Finding> {
        let (packet, message) = (self.max_packet_size, self.options.message_max_bytes);
        if limit < packet {
            Some(fail(
                name,
                format!(
                    "{what} = {limit} is below limits.max_packet_size = {packet}: larger messages are taken from \
                     devices and refused by Kafka; raise the one or lower the other"
                ),
            ))
        } else if limit < message {
            Some(warn(
                name,
                format!(
                    "{what} = {limit} is below kafka.message_max_bytes = {message}: a record that its key and \
                     headers make larger is refused by Kafka; raise the one"
                ),
            ))
        } else {
            None
        }
    }

    /// The topics that are known beforehand.
    async fn topics(&self, topics: &[String], found: Found<'_>) {
        let wanted = self.wanted(topics);
        let mut described = Vec::new();
        let mut missing = Vec::new();
        for name in &wanted {
            let metadata = self.metadata.topics().iter().find(|topic| topic.name() == *name);
            let code = metadata.and_then(|topic| topic.error()).map(RDKafkaErrorCode::from);
            if code == Some(RDKafkaErrorCode::TopicAuthorizationFailed) {
                let sentence = format!(
                    "topic {name}: Kafka does not let this broker see it: give it DESCRIBE and WRITE"
                );
                found(fail("topics", sentence));
            } else if self.topic(name).is_some() {
                described.push(ResourceSpecifier::Topic(name));
            } else {
                missing.push(*name);
            }
        }
        if !missing.is_empty() {
            let names = missing.join(", ");
            found(match self.options.create_topics {
                true => ok("topics", format!("not there yet, made on first use: {names}")),
                false => {
                    let sentence =
                        format!("missing: {names}; make them, or set kafka.create_topics = true");
                    fail("topics", sentence)
                }
            });
        }
        if described.is_empty() {
            return;
        }
        let looked_at = described.len();
        let resources = match self.admin.describe_configs(&described, &Self::admin_options()).await
        {
            Ok(resources) => resources,
            Err(error) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                return found(Self::not_described(code));
            }
        };
        let mut fits = true;
        for (specifier, resource) in described.iter().zip(resources) {
            let ResourceSpecifier::Topic(name) = specifier else { continue };
            let findings = match resource {
                Err(code) => vec![Self::not_described(code)],
                Ok(resource) => self.topic_findings(name, &resource),
            };
            fits &= findings.is_empty();
            findings.into_iter().for_each(&mut *found);
        }
        if fits {
            found(ok("topics", format!("sizes and copies of {looked_at} topics fit [kafka]")));
        }
    }

    fn topic_findings(&self, name: &str, resource: &ConfigResource) -> Vec<Finding> {
        let sizes = ["max.message.bytes", "segment.bytes"].into_iter().filter_map(|key| {
            self.size("topics", &format!("topic {name}: {key}"), number(resource, key)?)
        });
        let replicas = self.topic(name).and_then(|topic| topic.partitions().first());
        let replicas = replicas.map_or(0, |partition| partition.replicas().len());
        let least = number(resource, "min.insync.replicas").unwrap_or(1);
        sizes.chain(copies("topics", &format!("topic {name}"), replicas, least)).collect()
    }
}

/// What is wrong with so many copies of which so many have to be in sync.
fn copies(name: &'static str, what: &str, replicas: usize, least: usize) -> Option<Finding> {
    let sentence = |text: &str| {
        format!("{what} has {replicas} replicas and min.insync.replicas = {least}: {text}")
    };
    if replicas < least {
        Some(fail(
            name,
            sentence(
                "older Kafkas take no record of it, newer ones keep fewer copies; lower the one or raise the other",
            ),
        ))
    } else if replicas == 1 {
        Some(warn(
            name,
            sentence("what is acknowledged is lost with that Kafka broker; use 3 and 2"),
        ))
    } else if least == 1 {
        Some(warn(
            name,
            sentence("an acknowledgement can mean one copy; use min.insync.replicas = 2"),
        ))
    } else if replicas == least {
        Some(warn(name, sentence("Kafka takes no record while one of them is away; use 3 and 2")))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_judged_by_what_is_lost_and_what_stands_still() {
        let grade = |replicas, least| copies("t", "t", replicas, least).map(|found| found.grade);
        assert_eq!(grade(3, 2), None);
        assert_eq!(grade(3, 1), Some(Grade::Warn));
        assert_eq!(grade(2, 2), Some(Grade::Warn));
        assert_eq!(grade(1, 1), Some(Grade::Warn));
        assert_eq!(grade(1, 2), Some(Grade::Fail));
    }
}
