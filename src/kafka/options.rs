//! What `[kafka]` in config.toml says, and the librdkafka configuration made of it.
//!
//! What the promises of docs/semantics.md rest on (idempotence, acks, partitioner, no time-out of
//! librdkafka's own) is set here and nowhere else, and `kafka.properties` cannot change it.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};

/// Settings that `kafka.properties` must not touch, each with the reason or the key to use.
const RESERVED: &[(&str, &str)] = &[
    ("acks", "it is always all"),
    ("request.required.acks", "acks is always all"),
    ("enable.idempotence", "it is always true"),
    ("enable.gapless.guarantee", "it is always true"),
    ("transactional.id", "Hydrant does not use transactions"),
    ("partitioner", "it is always the Java client's murmur2"),
    ("message.timeout.ms", "Hydrant itself decides when to send again"),
    ("delivery.timeout.ms", "Hydrant itself decides when to send again"),
    ("message.send.max.retries", "Hydrant itself decides when to send again"),
    ("retries", "Hydrant itself decides when to send again"),
    ("max.in.flight", "it is always 5"),
    ("max.in.flight.requests.per.connection", "it is always 5"),
    ("allow.auto.create.topics", "use kafka.create_topics"),
    ("bootstrap.servers", "use kafka.bootstrap_servers"),
    ("metadata.broker.list", "use kafka.bootstrap_servers"),
    ("security.protocol", "use kafka.security_protocol"),
    ("linger.ms", "use kafka.linger"),
    ("queue.buffering.max.ms", "use kafka.linger"),
    ("batch.size", "use kafka.batch_size"),
    ("batch.num.messages", "use kafka.batch_num_messages"),
    ("compression.codec", "use kafka.compression"),
    ("compression.type", "use kafka.compression"),
    ("queue.buffering.max.messages", "use kafka.queue_max_messages"),
    ("queue.buffering.max.kbytes", "use kafka.queue_max_bytes"),
    ("message.max.bytes", "use kafka.message_max_bytes"),
    ("request.timeout.ms", "use kafka.request_timeout"),
];

/// `[kafka]`. Every field is the key of the same name.
#[derive(Debug, Clone, PartialEq)]
pub struct KafkaOptions {
    /// `kafka.bootstrap_servers`: `host:port,host:port`.
    pub bootstrap_servers: String,
    /// `kafka.security_protocol`: `plaintext`, `ssl`, `sasl_plaintext` or `sasl_ssl`.
    pub security_protocol: String,
    /// `kafka.linger`: how long a batch waits for company.
    pub linger: Duration,
    /// `kafka.batch_size`: bytes of one batch before compression.
    pub batch_size: usize,
    /// `kafka.batch_num_messages`: records of one batch.
    pub batch_num_messages: usize,
    /// `kafka.compression`: `none`, `gzip`, `snappy`, `lz4` or `zstd`.
    pub compression: String,
    /// `kafka.queue_max_messages`: records handed over and not reported yet, waiting for a topic
    /// or in librdkafka.
    pub queue_max_messages: usize,
    /// `kafka.queue_max_bytes`: bytes in librdkafka's queue, and as much again for records that
    /// wait for a topic to be made.
    pub queue_max_bytes: usize,
    /// `kafka.message_max_bytes`: one record with key and headers; larger ones are refused.
    pub message_max_bytes: usize,
    /// `kafka.create_topics`: topics are made on first use; false: they are required to exist.
    pub create_topics: bool,
    /// `kafka.partitions` of a topic that is made.
    pub partitions: u32,
    /// `kafka.replication_factor` of a topic that is made; 0 is the Kafka cluster's default.
    pub replication_factor: u16,
    /// `kafka.max_topics_created`: topics this node makes between start and stop.
    pub max_topics_created: usize,
    /// `kafka.max_topics_per_client`: the same by the client whose publish was the first.
    pub max_topics_per_client: usize,
    /// `kafka.request_timeout`: an unanswered request to Kafka is given up and sent again.
    pub request_timeout: Duration,
    /// Not a key: librdkafka's own time-out of a record, for tests. Zero is none.
    pub message_timeout: Duration,
    /// Topics looked at when Kafka is first reached (the fixed topics of the routes): a warning
    /// for each whose acks=all means one copy. Other topics are looked at on first use.
    pub expected_topics: Vec<String>,
    /// `kafka.properties`: any further librdkafka setting, by librdkafka's name.
    pub properties: BTreeMap<String, String>,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        Self {
            bootstrap_servers: "127.0.0.1:9092".into(),
            security_protocol: "plaintext".into(),
            linger: Duration::from_millis(5),
            batch_size: 1 << 20,
            batch_num_messages: 10_000,
            compression: "lz4".into(),
            queue_max_messages: 500_000,
            queue_max_bytes: 256 << 20,
            message_max_bytes: 1 << 20,
            create_topics: true,
            partitions: 12,
            replication_factor: 1,
            max_topics_created: 1_000,
            max_topics_per_client: 20,
            request_timeout: Duration::from_secs(30),
            message_timeout: Duration::ZERO,
            expected_topics: Vec::new(),
            properties: BTreeMap::new(),
        }
    }
}

impl KafkaOptions {
    /// Everything that is wrong, one sentence each; empty when [`super::KafkaLog::start`] can work.
    pub fn check(&self) -> Vec<String> {
        let mut errors = Vec::new();
        let protocol = self.security_protocol.to_ascii_lowercase();
        if !["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"].contains(&protocol.as_str()) {
            errors.push(format!(
                "kafka.security_protocol is {:?}: use plaintext, ssl, sasl_plaintext or sasl_ssl",
                self.security_protocol
            ));
        } else if protocol.ends_with("ssl") && !cfg!(feature = "kafka-tls") {
            errors.push(format!(
                "kafka.security_protocol is {protocol}, but this broker was built without Kafka's TLS: \
                 use a release package or build with --features kafka-tls"
            ));
        }
        if !["none", "gzip", "snappy", "lz4", "zstd"].contains(&self.compression.as_str()) {
            errors.push(format!(
                "kafka.compression is {:?}: use none, gzip, snappy, lz4 or zstd",
                self.compression
            ));
        }
        if self.bootstrap_servers.split(',').any(|server| !server.trim().contains(':')) {
            errors.push(format!(
                "kafka.bootstrap_servers is {:?}: give host:port, more than one separated by commas",
                self.bootstrap_servers
            ));
        }
        for key in self.properties.keys() {
            if let Some((_, why)) = RESERVED.iter().find(|(name, _)| name == key) {
                errors.push(format!("kafka.properties must not set {key}: {why}"));
            }
        }
        if errors.is_empty() {
            // librdkafka knows the names and ranges of its own settings.
            if let Err(error) = self.producer_config(self.batch_size).create_native_config() {
                errors.push(format!("[kafka] is refused by librdkafka: {error}"));
            }
        }
        errors
    }

    fn base_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (key, value) in &self.properties {
            config.set(key, value);
        }
        config
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set("security.protocol", self.security_protocol.to_ascii_lowercase())
            .set("allow.auto.create.topics", "false")
            .set("message.max.bytes", self.message_max_bytes.to_string());
        for (key, value) in [
            ("client.id", "hydrant"),
            // A Kafka that comes back is found within about a second.
            ("reconnect.backoff.ms", "100"),
            ("reconnect.backoff.max.ms", "1000"),
            // Partitions that are added are used this soon.
            ("topic.metadata.refresh.interval.ms", "10000"),
        ] {
            if !self.properties.contains_key(key) {
                config.set(key, value);
            }
        }
        config
    }

    /// Configuration of a client that only asks and makes topics. Nobody reads its log queue, so
    /// it must write nothing there.
    pub(super) fn admin_config(&self) -> ClientConfig {
        let mut config = self.base_config();
        config.set("log_level", "0").set_log_level(RDKafkaLogLevel::Emerg);
        config
    }

    /// Configuration of the producer, with batches of at most `batch_size` bytes.
    pub(super) fn producer_config(&self, batch_size: usize) -> ClientConfig {
        let mut config = self.base_config();
        config
            .set("enable.idempotence", "true")
            // A permanent error of one batch stops the producer instead of letting later records
            // of the same key overtake: `reset` then makes a new one.
            .set("enable.gapless.guarantee", "true")
            .set("acks", "all")
            .set("max.in.flight", "5")
            .set("partitioner", "murmur2_random")
            .set("message.timeout.ms", self.message_timeout.as_millis().to_string())
            .set("request.timeout.ms", self.request_timeout.as_millis().max(1).to_string())
            .set("linger.ms", format!("{:.3}", self.linger.as_secs_f64() * 1000.0))
            .set("batch.size", batch_size.to_string())
            .set("batch.num.messages", self.batch_num_messages.to_string())
            .set("compression.type", &self.compression)
            .set("queue.buffering.max.messages", self.queue_max_messages.to_string())
            .set("queue.buffering.max.kbytes", (self.queue_max_bytes / 1024).max(1).to_string());
        config
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_accepted() {
        assert_eq!(KafkaOptions::default().check(), Vec::<String>::new());
    }

    #[test]
    fn every_mistake_is_named() {
        let mut options = KafkaOptions {
            bootstrap_servers: "kafka".into(),
            security_protocol: "tls".into(),
            compression: "brotli".into(),
            ..KafkaOptions::default()
        };
        options.properties.insert("acks".into(), "1".into());
        let errors = options.check().join("\n");
        for key in ["bootstrap_servers", "security_protocol", "compression", "acks"] {
            assert!(errors.contains(key), "{key} is missing in: {errors}");
        }
    }

    #[test]
    fn an_unknown_property_is_an_error() {
        let mut options = KafkaOptions::default();
        options.properties.insert("linger.msec".into(), "1".into());
        assert!(options.check().join("\n").contains("linger.msec"));
    }

    #[cfg(not(feature = "kafka-tls"))]
    #[test]
    fn tls_needs_the_feature() {
        let options = KafkaOptions { security_protocol: "SSL".into(), ..KafkaOptions::default() };
        assert!(options.check().join("\n").contains("--features kafka-tls"));
    }
}
