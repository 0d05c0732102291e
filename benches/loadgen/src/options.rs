//! The command line.

use std::net::{Ipv4Addr, SocketAddr};

use clap::{ArgAction, Args, Parser, Subcommand};

/// Drives an MQTT broker and measures it; prints one JSON object.
#[derive(Debug, Parser)]
#[command(name = "loadgen", version)]
pub struct Cli {
    /// The scenario.
    #[command(subcommand)]
    pub command: Command,
}

/// The scenarios.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Many publishers, one topic each (bench/I/t), every subscriber reads bench/#.
    Throughput(Throughput),
    /// One publisher, many subscribers of its topic.
    Fanout(Fanout),
    /// Pairs of one publisher and one subscriber, a topic each.
    Pairs(Pairs),
    /// Open loop at a fixed rate: latency from the time a message was due.
    Latency(Latency),
    /// Connections that do nothing: memory, and CPU per connect and subscribe.
    Idle(Idle),
    /// Connections that are kept: each publishes at an interval, and sends a PINGREQ between. Prints a
    /// line when all are open, and the report when its standard input ends.
    Hold(Hold),
    /// Subscribes to many filters and keeps the connections; prints its report when all are
    /// acknowledged, and ends with its standard input.
    Filters(Filters),
    /// No subscriber: counts PUBACKs (PUBCOMPs). For storage and Kafka.
    PublishOnly(PublishOnly),
    /// The persistent session of `publish-only --offline-filter` comes back and takes its queue.
    Resume(Resume),
    /// Retains messages, a topic each (retained/I); then a new connection subscribes to all and reads them.
    Retained(Retained),
    /// Reads a Kafka topic back: nothing lost, order per key kept.
    #[cfg(feature = "kafka")]
    VerifyKafka(VerifyKafka),
}

/// What every scenario over MQTT takes.
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// The broker's MQTT listener.
    #[arg(long)]
    pub address: SocketAddr,
    /// Another node of the same cluster, for the subscribers.
    #[arg(long)]
    pub subscribe_address: Option<SocketAddr>,
    /// Process id of the broker: its CPU time and memory are read from /proc.
    #[arg(long)]
    pub pid: Option<u32>,
    /// Seconds after which the run fails instead of waiting longer.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub deadline: u64,
    /// First part of every client id.
    #[arg(long, default_value = "lg")]
    pub client_prefix: String,
    /// CleanSession; `--clean=false` makes persistent sessions.
    #[arg(long, default_value_t = true, action = ArgAction::Set)]
    pub clean: bool,
}

/// What every scenario that publishes takes.
#[derive(Debug, Clone, Args)]
pub struct Load {
    /// Quality of service of publishes and subscriptions.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// Payload, bytes; the first 20 carry publisher, sequence and time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(20..=1_000_000))]
    pub payload: u32,
    /// Messages to publish, over all publishers.
    #[arg(long, default_value_t = 1_000_000)]
    pub count: u64,
    /// Messages of one publisher on their way: not acknowledged (QoS 1-2) or not yet received by
    /// every subscriber. So nothing needs to be dropped at QoS 0.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    pub window: u16,
}

/// See [`Command::Throughput`].
#[derive(Debug, Args)]
pub struct Throughput {
    /// Where to.
    #[command(flatten)]
    pub target: Target,
    /// What to send.
    #[command(flatten)]
    pub load: Load,
    /// Publishers.
    #[arg(long, default_value_t = 50)]
    pub publishers: u32,
    /// Subscribers of bench/#.
    #[arg(long, default_value_t = 1)]
    pub subscribers: u32,
}

/// See [`Command::Fanout`].
#[derive(Debug, Args)]
pub struct Fanout {
    /// Where to.
    #[command(flatten)]
    pub target: Target,
    /// What to send.
    #[command(flatten)]
    pub load: Load,
    /// Subscribers.
    #[arg(long, default_value_t = 50)]
    pub subscribers: u32,
}

/// See [`Command::Pairs`].
#[derive(Debug, Args)]
pub struct Pairs {
    /// Where to.
    #[command(flatten)]
    pub target: Target,
    /// What to send.
    #[command(flatten)]
    pub load: Load,
    /// Pairs.
    #[arg(long, default_value_t = 100)]
    pub pairs: u32,
    /// Messages a second of all of them, in an open loop; the window is not used then.
    #[arg(long)]
    pub rate: Option<u64>,
}

/// See [`Command::Latency`].
#[derive(Debug, Args)]
pub struct Latency {
    /// Where to.
    #[command(flatten)]
    pub target: Target,
    /// What to send; the window is not used.
    #[command(flatten)]
    pub load: Load,
    /// Messages a second.
    #[arg(long, default_value_t = 10_000)]
    pub rate: u64,
    /// Publishers.
    #[arg(long, default_value_t = 50)]
    pub publishers: u32,
}

/// See [`Command::PublishOnly`].
#[derive(Debug, Args)]
pub struct PublishOnly {
    /// Where to.
    #[command(flatten)]
    pub target: Target,
    /// What to send.
    #[command(flatten)]
    pub load: Load,
    /// Publishers; key K belongs to publisher K modulo this.
    #[arg(long, default_value_t = 100)]
    pub publishers: u32,
    /// Distinct values of {key}.
    #[arg(long, default_value_t = 5_000)]
    pub keys: u32,
    /// MQTT topic, with {key} where the key goes.
    #[arg(long, default_value = "device/{key}/thermo")]
    pub topic_pattern: String,
    /// Messages a second, open loop; without it as fast as the window lets it.
    #[arg(long)]
    pub rate: Option<u64>,
    /// First make an offline persistent session with this filter, so that everything is queued.
    #[arg(long)]
    pub offline_filter: Option<String>,
    /// Every second message of each publisher is for a live subscriber, and waits for it too.
    #[arg(long, conflicts_with_all = ["offline_filter", "rate"])]
    pub half: bool,
}

/// See [`Command::Hold`].
#[derive(Debug, Args)]
pub struct Hold {
    /// Where to.
    #[command(flatten)]
    pub target: Target,
    /// Connections; the process may open 20,000 files.
    #[arg(long, default_value_t = 19_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections: u32,
    /// Connects a second.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    pub connect_rate: u64,
    /// Seconds between two publishes of a connection.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub interval: u64,
    /// Keep-alive of the connections, seconds; more than half the interval.
    #[arg(long, default_value_t = 45)]
    pub keep_alive: u16,
    /// First source address of the connections; each is used 2,000 times.
    #[arg(long, default_value = "127.0.0.2")]
    pub source: Ipv4Addr,
}

/// See [`Command::Filters`].
#[derive(Debug, Args)]
pub struct Filters {
    /// Where to.
    #[command(flatten)]
    pub target: Target,
    /// Connections that share the filters.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: u32,
    /// Filters over all connections.
    #[arg(long)]
    pub count: u32,
    /// Number of the first filter.
    #[arg(long, default_value_t = 0)]
    pub first: u32,
    /// Filters in one SUBSCRIBE.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub per_packet: u32,
    /// A filter, with {n} where its number goes (seven digits).
    #[arg(long, default_value = "device/{n}/command")]
    pub pattern: String,
}

/// See [`Command::Idle`].
#[derive(Debug, Args)]
pub struct Idle {
    /// Where to.
    #[command(flatten)]
    pub target: Target,
    /// Connections; the process may open 20,000 files.
    #[arg(long, default_value_t = 19_000)]
    pub connections: u32,
    /// Subscribe each to a topic of its own (idle/I/t, QoS 1).
    #[arg(long)]
    pub subscribe: bool,
    /// Times to connect all and disconnect all.
    #[arg(long, default_value_t = 1)]
    pub cycles: u32,
    /// Connections being opened at one time.
    #[arg(long, default_value_t = 50)]
    pub parallel: u32,
}

/// See [`Command::Resume`].
#[derive(Debug, Args)]
pub struct Resume {
    /// Where to.
    #[command(flatten)]
    pub target: Target,
    /// Messages that wait.
    #[arg(long)]
    pub count: u64,
    /// Publishers they came from.
    #[arg(long, default_value_t = 100)]
    pub publishers: u32,
}

/// See [`Command::Retained`].
#[derive(Debug, Args)]
pub struct Retained {
    /// Where to.
    #[command(flatten)]
    pub target: Target,
    /// Quality of service of the messages and the subscription.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// Payload, bytes.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(20..=1_000_000))]
    pub payload: u32,
    /// Messages.
    #[arg(long, default_value_t = 200_000)]
    pub count: u64,
}

/// See [`Command::VerifyKafka`].
#[cfg(feature = "kafka")]
#[derive(Debug, Args)]
pub struct VerifyKafka {
    /// bootstrap.servers.
    #[arg(long)]
    pub bootstrap: String,
    /// The Kafka topic.
    #[arg(long)]
    pub topic: String,
    /// Messages that were published.
    #[arg(long)]
    pub count: u64,
    /// Publishers they came from.
    #[arg(long, default_value_t = 100)]
    pub publishers: u32,
    /// Seconds after which what has not come is lost.
    #[arg(long, default_value_t = 120)]
    pub deadline: u64,
}
