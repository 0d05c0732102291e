//! The command line as data: what clap reads, and what it prints as help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use hydrant_actors::ports::DeadId;

use crate::admin::{FaultAction, MAX_PAGE_SIZE};

/// Below `broker --help`.
const HELP: &str = "\
Each key of the configuration is also an environment variable: HYDRANT__LOG__KIND=none is log.kind.
Later wins: default, file, environment, --set, the other options. RUST_LOG sets what a node says
(info; RUST_LOG=debug says more).

Commands that ask a running node find it by its data directory (data in the working directory, or
--data-dir).

Examples:
  broker                                     # a node: MQTT on port 1883
  broker --listen 127.0.0.1:1884 --set log.kind=none
  broker config default > config.toml        # every key with its default
  broker route device/42/thermo              # where a topic goes
  broker tail device-thermo --from-start";

/// Below the help of a command that asks a running node.
const ASKS: &str =
    "The node is found by its data directory: data in the working directory, or --data-dir.";

/// Hydrant, an MQTT broker for the fire hose. Without a command it runs a node.
#[derive(Debug, Clone, Parser)]
#[command(name = "broker", version, propagate_version = true, after_help = HELP)]
pub struct Cli {
    /// Where the configuration comes from.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// None runs a node.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Where the configuration comes from; the same for every command.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Configuration")]
pub struct ConfigArgs {
    /// Configuration file [default: config.toml of the working directory, where there is one]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Name of this node (node.id)
    #[arg(long, global = true, value_name = "ID")]
    pub node_id: Option<String>,
    /// IP address (or localhost) and port for MQTT over TCP (listener.address)
    #[arg(long, global = true, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Directory of the store, the log and the admin socket (node.data_dir)
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Any other key, as in --set log.kind=none; can be repeated. As an environment variable: HYDRANT__LOG__KIND=none
    #[arg(long, global = true, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
}

/// What to do instead of running a node.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// The configuration a node would start with
    Config {
        /// Which way.
        #[command(subcommand)]
        action: ConfigAction,
    },
    /// Explain where an MQTT topic goes: Kafka topic, key, acknowledgement, and by which rule
    Route(RouteArgs),
    /// Print records of a running node's embedded log and follow its end
    #[command(after_help = ASKS)]
    Tail(TailArgs),
    /// Print the actor tree of a running node
    #[command(after_help = ASKS)]
    Tree(TreeArgs),
    /// Print a running node's state in a few figures
    #[command(after_help = ASKS)]
    Status,
    /// Print the nodes of a running node's cluster, as it sees them
    #[command(after_help = ASKS)]
    Nodes,
    /// Empty a running node for a restart: no new clients, those it has are closed at a bounded rate
    #[command(after_help = ASKS)]
    Drain(DrainArgs),
    /// List, replay or drop a running node's dead letters: records that the log refused for good
    Dead {
        /// What to do with them.
        #[command(subcommand)]
        action: DeadAction,
    },
    /// Check the session store, or move what it holds to a file and back
    Storage {
        /// Which way.
        #[command(subcommand)]
        action: StorageAction,
    },
    /// Check the Kafka that log.kind = "kafka" uses
    Kafka {
        /// Which way.
        #[command(subcommand)]
        action: KafkaAction,
    },
    /// Make an actor of a running node panic, stall or fail (needs debug.faults)
    #[command(hide = true)]
    Fault {
        /// panic, stall or fail
        action: FaultAction,
        /// Path of the actor, as `tree` prints it
        path: String,
    },
}

/// `broker config ...`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum ConfigAction {
    /// Report at once every mistake, and what else a start would refuse, short of asking a server
    Check,
    /// Print every key's value, where it came from, and what it comes to in bytes or seconds
    Print,
    /// Print a config.toml with every key, its default and what it means
    Default,
}

/// `broker storage ...`
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum StorageAction {
    /// Check whether the configured store is fit for use: one line a finding, exit code 1 when something does not work
    Check,
    /// Write sessions, queues, retained messages, wills and outbox to a new file (the node stopped)
    Export {
        /// The file
        file: PathBuf,
    },
    /// Read such a file into the configured store, which must be empty (the node stopped)
    Import {
        /// The file
        file: PathBuf,
    },
}

/// `broker kafka ...`
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum KafkaAction {
    /// Look over Kafka: a line each, exit code 1 when something does not work. A node may run meanwhile
    Check {
        /// Topics to look at, besides the fixed ones of the routes
        topics: Vec<String>,
    },
}

/// `broker dead ...`
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum DeadAction {
    /// Print id, time, client, MQTT topic, log topic, QoS, bytes and reason of each, oldest first
    List {
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=MAX_PAGE_SIZE as u64))]
        count: u64,
        /// Those behind this one
        #[arg(long, value_name = "ID")]
        after: Option<DeadId>,
    },
    /// Send them to the log again, behind what their topics have got since; each goes once the log has it
    Replay(DeadArgs),
    /// Remove them for good
    Drop(DeadArgs),
}

/// Which dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[group(required = true, multiple = false)]
pub struct DeadArgs {
    /// Their ids, as `list` shows them
    #[arg(value_name = "ID")]
    pub ids: Vec<DeadId>,
    /// All of them
    #[arg(long)]
    pub all: bool,
}

/// `broker tail`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct TailArgs {
    /// Topic of the log, as `broker route` shows it; no MQTT topic
    pub topic: String,
    /// Go on where this group left off
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// Begin with the oldest record there is, not with the next one
    #[arg(long)]
    pub from_start: bool,
    /// End after so many records
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
}

/// `broker drain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args)]
pub struct DrainArgs {
    /// Connections closed a second (node.drain_rate)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
    /// Return when the last client is gone, and show now and then how many are left; an error when none goes any more
    #[arg(long)]
    pub wait: bool,
    /// Take clients again
    #[arg(long, conflicts_with_all = ["rate", "wait"])]
    pub cancel: bool,
}

/// `broker tree`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct TreeArgs {
    /// Also list connections, a page at a time
    #[arg(long)]
    pub connections: bool,
    /// Page of the connections, from 1
    #[arg(long, value_name = "N", default_value_t = 1, requires = "connections", value_parser = clap::value_parser!(u64).range(1..))]
    pub page: u64,
}

/// `broker route`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct RouteArgs {
    /// A topic name, without wildcards
    pub topic: String,
    /// Only the topic of the log, key and acknowledgement, separated by tabs
    #[arg(short, long, conflicts_with = "json")]
    pub quiet: bool,
    /// The same as a JSON object
    #[arg(long)]
    pub json: bool,
}
