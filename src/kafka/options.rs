//! What `[kafka]` in config.toml says, and the librdkafka configuration made of it.
//!
//! What the promises of docs/semantics.md rest on (idempotence, acks, partitioner, no time-out of
//! librdkafka's own) is set here and nowhere else, and `kafka.properties` cannot change it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::producer::BaseProducer;

use super::share::Size;
use super::trouble::{CLASSES, LAST, batch_bytes};

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

/// What to do where librdkafka was built without OpenSSL; there are no packages.
pub const BUILD: &str = "build one with `cargo build --release --features kafka-tls`";

/// Whether this build of librdkafka has a feature, by librdkafka's own list.
fn built_in(feature: &str) -> bool {
    let native = ClientConfig::new().create_native_config();
    let features = native.and_then(|config| config.get("builtin.features")).unwrap_or_default();
    features.split(',').any(|known| known.trim() == feature)
}

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
    /// that is not stuck or in librdkafka.
    pub queue_max_messages: usize,
    /// `kafka.queue_max_bytes`: bytes in librdkafka's queue (an eighth of it more for each kind of
    /// smaller batches that a topic in trouble needs), and as much again for records that wait for
    /// their topic.
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
    /// `kafka.overflow_topic`: made in addition to those within the caps; `None`: there is none.
    pub overflow_topic: Option<Arc<str>>,
    /// `kafka.request_timeout`: an unanswered request to Kafka is given up and sent again.
    pub request_timeout: Duration,
    /// `kafka.park_time`: records of a topic that takes nothing until somebody mends it (it does not
    /// exist, or this broker may not write to it) wait for so long, then they are refused.
    pub park_time: Duration,
    /// `log.max_pending_messages` and `log.max_pending_bytes`: what whoever hands records over keeps
    /// of them at most, until they are reported.
    pub pending_max: (usize, usize),
    /// Not a key: records of such topics that wait at most. A quarter of `queue_max_bytes` is the
    /// other bound. Past either they are refused at once.
    pub parked_max_messages: usize,
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
            message_max_bytes: 1152 << 10,
            create_topics: true,
            partitions: 12,
            replication_factor: 1,
            max_topics_created: 1_000,
            max_topics_per_client: 20,
            overflow_topic: Some("mqtt.overflow".into()),
            request_timeout: Duration::from_secs(30),
            park_time: Duration::from_secs(30),
            pending_max: (200_000, 128 << 20),
            parked_max_messages: 50_000,
            message_timeout: Duration::ZERO,
            expected_topics: Vec::new(),
            properties: BTreeMap::new(),
        }
    }
}

impl KafkaOptions {
    /// Everything that is wrong, one sentence each; empty when [`super::KafkaLog::start`] can work.
    pub fn check(&self) -> Vec<String> {
        let mut errors = self.mistakes();
        errors.extend(self.unsupported());
        errors
    }

    /// What is wrong with the options whatever the build and however they go together.
    pub fn mistakes(&self) -> Vec<String> {
        let mut errors = Vec::new();
        let protocol = self.security_protocol.to_ascii_lowercase();
        if !["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"].contains(&protocol.as_str()) {
            errors.push(format!(
                "kafka.security_protocol is {:?}: use plaintext, ssl, sasl_plaintext or sasl_ssl",
                self.security_protocol
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
            // Whether it knows the protocol is not a mistake of the options, see `unsupported`.
            let mut config = self.producer_config(0);
            config.set("security.protocol", "plaintext");
            if let Err(error) = config.create_native_config() {
                errors.push(format!("[kafka] is refused by librdkafka: {error}"));
            }
        }
        errors
    }

    /// What the caps can change of where an MQTT topic goes, for `broker route`: a line, or nothing.
    pub fn caps(&self, mqtt_topic: &str, topic: &str) -> String {
        let overflow = self.overflow_topic.as_deref();
        if !self.create_topics || overflow == Some(topic) {
            return String::new();
        }
        let (node, client) = (self.max_topics_created, self.max_topics_per_client);
        let caps = format!(
            "if Kafka does not have the topic, and the node has made kafka.max_topics_created = {node} topics \
             or kafka.max_topics_per_client = {client} for the client"
        );
        match overflow {
            Some(overflow) => {
                format!("caps         {caps}: {overflow} with the key '{mqtt_topic}'\n")
            }
            None => format!("caps         {caps}: the publish is refused\n"),
        }
    }

    /// What this build of librdkafka cannot do, or has not been told how to do: TLS and logging in.
    pub fn unsupported(&self) -> Vec<String> {
        let protocol = self.security_protocol.to_ascii_lowercase();
        let mut errors = Vec::new();
        if protocol.ends_with("ssl") && !built_in("ssl") {
            errors.push(format!(
                "kafka.security_protocol is {protocol}, but this broker was built without TLS for Kafka: {BUILD}"
            ));
        }
        if !protocol.starts_with("sasl") {
            return errors;
        }
        let names = ["sasl.mechanism", "sasl.mechanisms"];
        let mechanism = names.iter().find_map(|name| self.properties.get(*name));
        let Some(mechanism) = mechanism.map(|text| text.to_ascii_uppercase()) else {
            errors.push(format!(
                "kafka.security_protocol is {protocol}, and how to log in is not said: set \"sasl.mechanism\" in \
                 kafka.properties to \"PLAIN\", \"SCRAM-SHA-256\" or \"SCRAM-SHA-512\", with \"sasl.username\" and \
                 \"sasl.password\""
            ));
            return errors;
        };
        let (feature, advice) = match mechanism.as_str() {
            "GSSAPI" => (
                "sasl_gssapi",
                "Kerberos is in no build of Hydrant, use PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER",
            ),
            "OAUTHBEARER" => ("sasl_oauthbearer", BUILD),
            scram if scram.starts_with("SCRAM-") => ("sasl_scram", BUILD),
            _ => ("sasl_plain", BUILD),
        };
        if !built_in(feature) {
            errors.push(format!(
                "kafka.properties has sasl.mechanism = \"{mechanism}\", which this broker was built without: {advice}"
            ));
        }
        errors
    }

    /// Makes a client and drops it: certificates are read, and what librdkafka finds only when
    /// settings come together is found. It has no server to ask.
    ///
    /// # Errors
    /// librdkafka's own words.
    pub fn try_client(&self) -> Result<(), String> {
        // Its refresh asks a server for a token from the beginning.
        if self.properties.contains_key("sasl.oauthbearer.method") {
            return Ok(());
        }
        let mut config = self.producer_config(0);
        config.remove("bootstrap.servers").set("log_level", "0");
        config.set_log_level(RDKafkaLogLevel::Emerg);
        match config.create::<BaseProducer>() {
            Ok(_) => Ok(()),
            Err(KafkaError::ClientCreation(why)) => Err(why),
            Err(error) => Err(error.to_string()),
        }
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

    /// What records of topics that are parked until somebody mends them may have waiting.
    pub(super) fn parked_max(&self) -> Size {
        Size { records: self.parked_max_messages, bytes: self.queue_max_bytes / 4 }
    }

    /// What a producer of a class may have: those in trouble wait rather in their backlogs.
    fn queue(&self, class: usize) -> Size {
        let part = |whole: usize, least: usize| match class {
            0 => whole,
            _ => (whole / 8).max(least).min(whole),
        };
        Size {
            records: part(self.queue_max_messages, 1),
            bytes: part(self.queue_max_bytes, 2 * self.message_max_bytes),
        }
    }

    /// So many eighths of what all topics together may have: with three of them in producers and
    /// one waiting, whoever hands them over has half its room free. Then the log actor reads the
    /// outbox.
    fn eighths(&self, count: usize) -> Size {
        Size {
            records: self.queue_max_messages.min(self.pending_max.0) * count / 8,
            bytes: self.queue_max_bytes.min(self.pending_max.1) * count / 8,
        }
    }

    /// What all topics together may have waiting where each gets a share.
    pub(super) fn shared_max(&self) -> Size {
        self.eighths(1)
    }

    /// The same in the producer of each class.
    pub(super) fn queues(&self) -> [Size; CLASSES] {
        let max = self.eighths(3);
        std::array::from_fn(|class| {
            let queue = self.queue(class);
            Size { records: queue.records.min(max.records), bytes: queue.bytes.min(max.bytes) }
        })
    }

    /// Configuration of a producer of a class of [`super::trouble`].
    pub(super) fn producer_config(&self, class: usize) -> ClientConfig {
        let mut config = self.base_config();
        let batch_size = batch_bytes(class, self.batch_size);
        let queue = self.queue(class);
        // Batches behind one that was too large must not be there yet: Kafka takes them where it
        // had none of the producer before.
        let max_in_flight = if (1..LAST).contains(&class) { "1" } else { "5" };
        let (linger, batch_messages, batch_size) = match class {
            LAST => (Duration::ZERO, 1, self.batch_size),
            _ => (self.linger, self.batch_num_messages, batch_size),
        };
        config
            .set("enable.idempotence", "true")
            // A permanent error of one batch stops the producer instead of letting later records
            // of the same key overtake: `reset` then makes a new one.
            .set("enable.gapless.guarantee", "true")
            .set("acks", "all")
            .set("max.in.flight", max_in_flight)
            .set("partitioner", "murmur2_random")
            .set("message.timeout.ms", self.message_timeout.as_millis().to_string())
            .set("request.timeout.ms", self.request_timeout.as_millis().max(1).to_string())
            .set("linger.ms", format!("{:.3}", linger.as_secs_f64() * 1000.0))
            .set("batch.size", batch_size.to_string())
            .set("batch.num.messages", batch_messages.to_string())
            .set("compression.type", &self.compression)
            .set("queue.buffering.max.messages", queue.records.to_string())
            .set("queue.buffering.max.kbytes", (queue.bytes / 1024).max(1).to_string());
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
    fn topics_that_take_nothing_leave_half_the_room_of_the_log_actor() {
        for queue_max_messages in [1_000, 200_000, 500_000] {
            let options = KafkaOptions { queue_max_messages, ..KafkaOptions::default() };
            let (shared, queues) = (options.shared_max(), options.queues());
            assert!(queues[0].records + shared.records <= options.pending_max.0 / 2);
            assert!(queues[0].bytes + shared.bytes <= options.pending_max.1 / 2);
            assert!(queues[0].records <= queue_max_messages);
        }
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
    fn what_the_caps_can_change_is_a_line() {
        let mut options = KafkaOptions::default();
        let line = options.caps("a/1/b", "a-b");
        assert!(line.starts_with("caps         if Kafka does not have the topic"), "{line}");
        assert!(line.ends_with("for the client: mqtt.overflow with the key 'a/1/b'\n"), "{line}");
        assert_eq!(options.caps("a/1/b", "mqtt.overflow"), "", "no cap is held against it");
        options.overflow_topic = None;
        assert!(options.caps("a/1/b", "a-b").ends_with("for the client: the publish is refused\n"));
        options.create_topics = false;
        assert_eq!(options.caps("a/1/b", "a-b"), "");
    }

    #[test]
    fn an_unknown_property_is_an_error() {
        let mut options = KafkaOptions::default();
        options.properties.insert("linger.msec".into(), "1".into());
        assert!(options.check().join("\n").contains("linger.msec"));
    }

    fn sasl(protocol: &str, properties: &[(&str, &str)]) -> KafkaOptions {
        let properties = properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        KafkaOptions {
            security_protocol: protocol.into(),
            properties: properties.collect(),
            ..KafkaOptions::default()
        }
    }

    #[cfg(not(feature = "kafka-tls"))]
    #[test]
    fn tls_and_scram_need_the_feature() {
        let login = [("sasl.username", "u"), ("sasl.password", "p")];
        for (protocol, mechanism, said) in [
            ("SSL", None, 1),
            ("sasl_plaintext", Some("SCRAM-SHA-256"), 1),
            ("sasl_plaintext", Some("OAUTHBEARER"), 1),
            ("sasl_ssl", Some("SCRAM-SHA-512"), 2),
            ("sasl_ssl", Some("PLAIN"), 1),
        ] {
            let mechanism = mechanism.map(|name| ("sasl.mechanism", name));
            let with: Vec<_> = mechanism.into_iter().chain(login).collect();
            let errors = sasl(protocol, &with).check();
            assert_eq!(errors.len(), said, "{protocol}: {errors:#?}");
            assert!(
                errors.iter().all(|e| e.contains("cargo build --release --features kafka-tls"))
            );
            assert!(!errors.join("").contains("package"), "{errors:#?}");
        }
    }

    #[test]
    fn a_login_needs_a_mechanism_that_some_build_has() {
        let errors = sasl("sasl_plaintext", &[]).check();
        assert!(errors.len() == 1 && errors[0].contains("set \"sasl.mechanism\""), "{errors:#?}");
        let errors = sasl("sasl_plaintext", &[("sasl.mechanisms", "GSSAPI")]).check();
        assert!(errors.len() == 1 && errors[0].contains("Kerberos is in no build"), "{errors:#?}");
        let plain = [("sasl.mechanism", "PLAIN"), ("sasl.username", "u"), ("sasl.password", "p")];
        assert_eq!(sasl("sasl_plaintext", &plain).check(), Vec::<String>::new());
    }

    #[test]
    fn a_client_is_tried_without_a_server() {
        assert_eq!(KafkaOptions::default().try_client(), Ok(()));
        let half = sasl("sasl_plaintext", &[("sasl.mechanism", "PLAIN")]);
        assert_eq!(half.check(), Vec::<String>::new());
        let said = half.try_client().unwrap_err();
        assert!(said.contains("sasl.username"), "{said}");
    }
}
