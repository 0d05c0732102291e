//! A real Kafka (KRaft, broker and controller in one process) in a temporary folder on free ports,
//! and a consumer that reads everything.
//!
//! The jars come from `scripts/setup-jars kafka`; the process is a [`Server`].

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::ops::{Deref, DerefMut};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::Message as _;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Headers as _;

use super::eventually;
use super::node::Builder;
use super::server::{PATIENCE, Server, class_path, free_port};

/// A Kafka of this test's own.
pub struct Kafka {
    server: Server,
    port: u16,
    controller: u16,
}

/// One record as a consumer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
    pub timestamp: i64,
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Record {
    /// The first header of this name, as text.
    pub fn header(&self, name: &str) -> Option<String> {
        let (_, value) = self.headers.iter().find(|(key, _)| key == name)?;
        Some(String::from_utf8_lossy(value).into_owned())
    }

    /// The payload, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.payload.as_deref().unwrap_or_default()).into_owned()
    }
}

impl Kafka {
    /// Installs nothing; formats a new folder, starts, waits until ready.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// The same with further lines of server.properties.
    pub fn start_with(properties: &str) -> Self {
        let mut kafka = Self::prepare();
        let config = kafka.server.folder().join("server.properties");
        let text = std::fs::read_to_string(&config).expect("server.properties");
        std::fs::write(&config, text + properties).expect("server.properties");
        kafka.restart();
        kafka
    }

    /// Changes the rules for a topic, with `kafka-acls`.
    pub fn acl(&self, args: &[&str], topic: &str) {
        let output = Command::new("java")
            .args(["-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"])
            .arg(class_path("kafka"))
            .args(["kafka.admin.AclCommand", "--bootstrap-server", &self.address()])
            .args(args)
            .args(["--topic", topic])
            .output()
            .expect("java on the PATH");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !text.contains("Error"), "AclCommand: {text} {errors}");
    }

    /// The same without the start, for a Kafka that is absent at first. `restart` starts it.
    pub fn prepare() -> Self {
        let (port, controller) = (free_port(), free_port());
        let listeners = format!("PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}");
        Self::format(1, "broker,controller", controller, port, &listeners)
    }

    /// A second broker of its cluster.
    pub fn second(&self) -> Self {
        let port = free_port();
        let listeners = format!("PLAINTEXT://127.0.0.1:{port}");
        let mut second = Self::format(2, "broker", self.controller, port, &listeners);
        second.restart();
        let metadata = || self.admin().inner().fetch_metadata(None, Duration::from_secs(2));
        eventually(PATIENCE, "the cluster has two brokers", || {
            metadata().is_ok_and(|data| data.brokers().len() == 2)
        });
        second
    }

    fn format(node: u32, roles: &str, controller: u16, port: u16, listeners: &str) -> Self {
        let server = Server::new("kafka");
        let config = server.folder().join("server.properties");
        // Records of the tests are years old by their own time stamps: none may expire.
        let text = format!(
            "process.roles={roles}\n\
             node.id={node}\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners={listeners}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
             controller.listener.names=CONTROLLER\n\
             log.dirs={}\n\
             auto.create.topics.enable=false\n\
             offsets.topic.replication.factor=1\n\
             offsets.topic.num.partitions=4\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n\
             group.initial.rebalance.delay.ms=0\n\
             log.retention.ms=-1\n",
            server.folder().join("data").display()
        );
        std::fs::write(&config, text).expect("server.properties");
        let output = Command::new("java")
            .args(["-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"])
            .arg(class_path("kafka"))
            .args(["kafka.tools.StorageTool", "format", "-t", "AAAAAAAAAAAAAAAAAAAAAQ", "-c"])
            .arg(&config)
            .output()
            .expect("java on the PATH");
        assert!(
            output.status.success(),
            "StorageTool: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Self { server, port, controller }
    }

    /// `host:port` for clients.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts it (again): same data, same port. Waits until it serves metadata.
    pub fn restart(&mut self) {
        let config = self.server.folder().join("server.properties");
        let options = ["-Xmx512m", "-Xms256m", "-XX:+UseG1GC"];
        self.server.run(&options, None, &["kafka.Kafka", &config.to_string_lossy()]);
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        self.server.await_ready("Kafka's port is open", || {
            TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
        });
        let admin = self.admin();
        eventually(PATIENCE, "Kafka serves metadata", || {
            admin
                .inner()
                .fetch_metadata(None, Duration::from_secs(2))
                .is_ok_and(|data| !data.brokers().is_empty())
        });
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new()
            .set("bootstrap.servers", self.address())
            .set("log_level", "0")
            .create()
            .expect("an admin client")
    }

    /// Makes a topic with settings of its own.
    pub fn create_topic(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        self.create_topic_with(name, partitions, 1, settings);
    }

    /// The same with more than one replica.
    pub fn create_topic_with(
        &self,
        name: &str,
        partitions: i32,
        replicas: i32,
        settings: &[(&str, &str)],
    ) {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replicas));
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        let results =
            block_on(self.admin().create_topics([&topic], &options())).expect("create topics");
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        self.await_partitions(name, partitions as usize);
    }

    /// Gives a topic more partitions.
    pub fn add_partitions(&self, name: &str, total: usize) {
        let results = block_on(
            self.admin().create_partitions([&NewPartitions::new(name, total)], &options()),
        );
        let results = results.expect("create partitions");
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        self.await_partitions(name, total);
    }

    /// Replaces a topic's settings.
    pub fn alter_topic(&self, name: &str, settings: &[(&str, &str)]) {
        let mut config = AlterConfig::new(ResourceSpecifier::Topic(name));
        for (key, value) in settings {
            config = config.set(key, value);
        }
        block_on(self.admin().alter_configs([&config], &options())).expect("alter configs");
    }

    /// Deletes a topic.
    pub fn delete_topic(&self, name: &str) {
        block_on(self.admin().delete_topics(&[name], &options())).expect("delete topics");
        eventually(PATIENCE, "the topic is gone", || self.partitions(name) == 0);
    }

    /// Partitions of a topic; 0 when it does not exist.
    pub fn partitions(&self, name: &str) -> usize {
        let metadata =
            self.admin().inner().fetch_metadata(None, Duration::from_secs(10)).expect("metadata");
        metadata
            .topics()
            .iter()
            .find(|topic| topic.name() == name)
            .map_or(0, |topic| topic.partitions().len())
    }

    fn await_partitions(&self, name: &str, partitions: usize) {
        eventually(PATIENCE, "the topic has its partitions", || {
            self.partitions(name) == partitions
        });
    }

    /// A consumer in a group, from the start of the topics.
    pub fn consumer(&self, group: &str, topics: &[&str]) -> Reader {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.address())
            .set("group.id", group)
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "true")
            .set("auto.commit.interval.ms", "100")
            .set("session.timeout.ms", "6000")
            .set("topic.metadata.refresh.interval.ms", "500")
            .set("isolation.level", "read_committed")
            .set("log_level", "3")
            .create()
            .expect("a consumer");
        consumer.subscribe(topics).expect("subscribe");
        Reader { consumer }
    }

    /// Every record of a topic from its start to the ends seen now, in order per partition.
    pub fn read_all(&self, topic: &str) -> Vec<Record> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.address())
            .set("group.id", "read-all")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .set("log_level", "3")
            .create()
            .expect("a consumer");
        let mut left: BTreeMap<i32, i64> = BTreeMap::new();
        let mut list = rdkafka::TopicPartitionList::new();
        for partition in 0..self.partitions(topic) as i32 {
            let mut marks = None;
            // A Kafka that was just started may not lead its partitions yet.
            eventually(PATIENCE, "the partition has its ends", || {
                let found = consumer.fetch_watermarks(topic, partition, Duration::from_secs(10));
                marks = found.ok();
                marks.is_some()
            });
            let (low, high) = marks.expect("watermarks");
            list.add_partition_offset(topic, partition, rdkafka::Offset::Beginning)
                .expect("a partition");
            if high > low {
                left.insert(partition, high);
            }
        }
        consumer.assign(&list).expect("assign");
        let mut records = Vec::new();
        let end = Instant::now() + PATIENCE;
        while !left.is_empty() {
            assert!(
                Instant::now() < end,
                "{} of {topic} could not be read to the end: {left:?}",
                records.len()
            );
            let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else {
                continue;
            };
            if left.get(&message.partition()).is_some_and(|high| message.offset() + 1 >= *high) {
                left.remove(&message.partition());
            }
            records.push(record(&message));
        }
        records
    }
}

/// It is ended, frozen and read as every [`Server`] is.
impl Deref for Kafka {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for Kafka {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

impl Builder {
    /// With a log in this Kafka.
    pub fn kafka(self, kafka: &Kafka) -> Self {
        self.set("log.kind", "kafka").set("kafka.bootstrap_servers", kafka.address())
    }
}

/// A Kafka that all tests of this binary may use and none may disturb.
pub fn shared() -> &'static Kafka {
    static SHARED: OnceLock<Kafka> = OnceLock::new();
    SHARED.get_or_init(|| {
        let mut kafka = Kafka::prepare();
        kafka.server.immortal();
        kafka.restart();
        kafka
    })
}

/// One member of a consumer group.
pub struct Reader {
    consumer: BaseConsumer,
}

impl Reader {
    /// What comes within the time, at most `limit` records.
    pub fn read(&self, limit: usize, time: Duration) -> Vec<Record> {
        let end = Instant::now() + time;
        let mut records = Vec::new();
        while records.len() < limit && Instant::now() < end {
            match self.consumer.poll(Duration::from_millis(50)) {
                Some(Ok(message)) => records.push(record(&message)),
                Some(Err(error)) => eprintln!("consumer: {error}"),
                None => {}
            }
        }
        records
    }

    /// Partitions this member has now.
    pub fn assigned(&self) -> usize {
        self.consumer.assignment().map_or(0, |list| list.count())
    }
}

fn record(message: &rdkafka::message::BorrowedMessage<'_>) -> Record {
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        headers
            .iter()
            .map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec()))
            .collect()
    });
    Record {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(<[u8]>::to_vec),
        payload: message.payload().map(<[u8]>::to_vec),
        timestamp: message.timestamp().to_millis().unwrap_or(-1),
        headers,
    }
}

fn options() -> AdminOptions {
    let timeout = Duration::from_secs(30);
    AdminOptions::new().request_timeout(Some(timeout)).operation_timeout(Some(timeout))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}
