//! The command line of `broker`, and the commands that need no node: `config check`,
//! `config print`, `config default`, `route` and `storage`.
//!
//! [`load`] is the only place that reads `config.toml` and the environment.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use hydrant_protocol::topic::check_topic_name;
use hydrant_protocol::wire::Limits;

use crate::admin::FaultAction;
use crate::config::{self, Config, ConfigErrors, Loaded, Origin, Sources};
use crate::transfer;

/// The file read from the working directory when `--config` names none.
const DEFAULT_FILE: &str = "config.toml";

/// Hydrant, an MQTT broker for the fire hose. Without a command it runs a node.
#[derive(Debug, Clone, Parser)]
#[command(name = "broker", version, propagate_version = true)]
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
pub struct ConfigArgs {
    /// Configuration file [default: config.toml of the working directory, where there is one]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Name of this node (node.id)
    #[arg(long, global = true, value_name = "ID")]
    pub node_id: Option<String>,
    /// IP address and port for MQTT over TCP (listener.address)
    #[arg(long, global = true, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Directory of the store, the log and the admin socket (node.data_dir)
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Any other key, as in --set log.kind=none; can be repeated
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
    Route {
        /// A topic name, without wildcards
        topic: String,
    },
    /// Print records of a running node's embedded log and follow its end
    Tail(TailArgs),
    /// Print the actor tree of a running node
    Tree(TreeArgs),
    /// Print a running node's state in a few figures
    Status,
    /// Print the nodes of a running node's cluster, as it sees them
    Nodes,
    /// Empty a running node for a restart: no new clients, those it has are closed at a bounded rate
    Drain(DrainArgs),
    /// Check the session store, or move what it holds to a file and back
    Storage {
        /// Which way.
        #[command(subcommand)]
        action: StorageAction,
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
    /// Report every mistake at once
    Check,
    /// Print every key's value and where it came from
    Print,
    /// Print a config.toml with every key, its default and what it means
    Default,
}

/// `broker storage ...`
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum StorageAction {
    /// Look over the configured store: a line each, exit code 1 when something does not work
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

/// `broker tail`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct TailArgs {
    /// Topic of the log, as `broker route` shows it
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
    /// Return when the last client is gone; shows how many are left
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

/// The configuration of this command line, the environment and the file.
///
/// # Errors
/// Every mistake in any of them; a file that `--config` names and that cannot be read.
pub fn load(cli: &Cli) -> Result<Config, ConfigErrors> {
    load_with_origins(cli).map(|loaded| loaded.config)
}

fn load_with_origins(cli: &Cli) -> Result<Loaded, ConfigErrors> {
    let env = std::env::vars_os().collect();
    config::load(&sources(&cli.config, Path::new(DEFAULT_FILE), env)?)
}

type Environment = Vec<(std::ffi::OsString, std::ffi::OsString)>;

/// Everything that is read from outside. `default_file` may be missing.
fn sources(
    args: &ConfigArgs,
    default_file: &Path,
    env: Environment,
) -> Result<Sources, ConfigErrors> {
    let path = args.config.as_deref().unwrap_or(default_file);
    let name = path.display().to_string();
    let file = match std::fs::read(path) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Some((name, text)),
            Err(error) => {
                let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()]
                    .iter()
                    .filter(|b| **b == b'\n')
                    .count();
                return Err(ConfigErrors::one(
                    Origin::File { file: name, line },
                    "is not UTF-8 text",
                ));
            }
        },
        Err(error) if args.config.is_none() && error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            let origin = Origin::File { file: name, line: 0 };
            return Err(ConfigErrors::one(
                origin,
                format!("the configuration file cannot be read: {error}"),
            ));
        }
    };
    let flags = [
        ("--node-id", "node.id", &args.node_id),
        ("--listen", "listener.address", &args.listen),
        ("--data-dir", "node.data_dir", &args.data_dir),
    ];
    let flags = flags
        .into_iter()
        .filter_map(|(flag, key, value)| Some((flag, key, value.clone()?)))
        .collect();
    Ok(Sources { file, env, set: args.set.clone(), flags })
}

/// `broker config check`: "ok", or every mistake on a line of its own.
pub fn run_config_check(cli: &Cli, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    with_config(cli, err, |_| writeln!(out, "the configuration is ok"))
}

/// `broker config print`.
pub fn run_config_print(cli: &Cli, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    with_config(cli, err, |loaded| out.write_all(loaded.print().as_bytes()))
}

/// `broker config default`: needs no configuration, so that a broken one does not stop it.
pub fn run_config_default(out: &mut dyn Write) -> ExitCode {
    match out.write_all(config::shipped().as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

/// `broker route TOPIC`.
pub fn run_route(cli: &Cli, topic: &str, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    let mut illegal = None;
    let code = with_config(cli, err, |loaded| {
        let settings = &loaded.config.settings;
        let limits = Limits {
            max_topic_length: settings.limits.max_topic_length,
            max_topic_levels: settings.limits.max_topic_levels,
            ..Limits::PROTOCOL
        };
        match check_topic_name(topic, &limits) {
            Ok(()) => writeln!(out, "{}", settings.mapping.explain(topic).to_string().trim_end()),
            Err(violation) => {
                illegal = Some(violation);
                Ok(())
            }
        }
    });
    match illegal {
        Some(violation) => {
            let _ =
                writeln!(err, "\"{topic}\" is not a topic a client may publish to: {violation}");
            ExitCode::FAILURE
        }
        None => code,
    }
}

/// `broker storage`: findings go to `out`, progress and errors to `err`.
pub fn run_storage(
    cli: &Cli,
    action: &StorageAction,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> ExitCode {
    let config = match load(cli) {
        Ok(config) => config,
        Err(errors) => return failed(err, &errors),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(err, &error),
    };
    let result = match action {
        StorageAction::Check => {
            return match runtime.block_on(transfer::check(&config, out, err)) {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            };
        }
        StorageAction::Export { file } => runtime.block_on(transfer::export(&config, file, err)),
        StorageAction::Import { file } => runtime.block_on(transfer::import(&config, file, err)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(err, &error),
    }
}

fn failed(err: &mut dyn Write, error: &dyn std::fmt::Display) -> ExitCode {
    let _ = writeln!(err, "broker: {error}");
    ExitCode::FAILURE
}

/// Runs `f` on the configuration, or reports its mistakes. A closed pipe is no error.
fn with_config(
    cli: &Cli,
    err: &mut dyn Write,
    f: impl FnOnce(&Loaded) -> std::io::Result<()>,
) -> ExitCode {
    match load_with_origins(cli).map(|loaded| f(&loaded)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            let _ = writeln!(err, "cannot write the answer: {error}");
            ExitCode::FAILURE
        }
        Err(errors) => {
            let _ = writeln!(err, "{errors}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn cli(args: &[&str]) -> Cli {
        Cli::try_parse_from([&["broker"], args].concat()).unwrap()
    }

    fn run(f: impl FnOnce(&mut dyn Write, &mut dyn Write) -> ExitCode) -> (bool, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = f(&mut out, &mut err);
        let ok = format!("{code:?}") == format!("{:?}", ExitCode::SUCCESS);
        (ok, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn the_definition_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        let version = Cli::try_parse_from(["broker", "--version"]).unwrap_err().to_string();
        assert_eq!(version.trim(), concat!("broker ", env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn configuration_flags_stand_before_and_after_a_command() {
        for args in [
            [
                "--data-dir",
                "d",
                "--set",
                "log.kind=none",
                "tail",
                "t",
                "--group",
                "g",
                "--count",
                "3",
            ],
            [
                "tail",
                "t",
                "--group",
                "g",
                "--count",
                "3",
                "--data-dir",
                "d",
                "--set",
                "log.kind=none",
            ],
        ] {
            let cli = cli(&args);
            assert_eq!(cli.config.data_dir.as_deref(), Some("d"));
            assert_eq!(cli.config.set, ["log.kind=none"]);
            let Some(Command::Tail(tail)) = cli.command else { panic!("{:?}", cli.command) };
            assert_eq!((tail.topic.as_str(), tail.count), ("t", Some(3)));
        }
        assert!(cli(&["--node-id", "n1"]).command.is_none());
        assert!(Cli::try_parse_from(["broker", "tree", "--connections", "--page", "0"]).is_err());
        for wrong in [["--wait", "--cancel"], ["--cancel", "--rate=5"], ["--wait", "--rate=0"]] {
            assert!(Cli::try_parse_from([&["broker", "drain"], &wrong[..]].concat()).is_err());
        }
    }

    #[test]
    fn the_default_file_may_be_missing_and_a_named_one_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        let args = ConfigArgs::default();
        assert!(sources(&args, &file, Vec::new()).unwrap().file.is_none());
        std::fs::write(&file, "[log]\nkind = \"none\"\n").unwrap();
        assert!(sources(&args, &file, Vec::new()).unwrap().file.is_some());
        let named = ConfigArgs { config: Some(folder.path().join("other.toml")), ..args };
        let error = sources(&named, &file, Vec::new()).unwrap_err().to_string();
        assert!(error.contains("other.toml: the configuration file cannot be read"), "{error}");
        std::fs::write(folder.path().join("other.toml"), b"a = 1\n\xff").unwrap();
        let error = sources(&named, &file, Vec::new()).unwrap_err().to_string();
        assert!(error.contains("other.toml:2: is not UTF-8 text"), "{error}");
    }

    #[test]
    fn check_print_and_route() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.toml");
        let name = file.to_str().unwrap();
        std::fs::write(&file, "[[route]]\nfilter = \"device/{id}/thermo\"\ntopic = \"thermo.meters\"\nkey = \"{id}\"\n").unwrap();
        let good = cli(&["--config", name, "--node-id", "n9"]);
        assert_eq!(
            run(|o, e| run_config_check(&good, o, e)),
            (true, "the configuration is ok\n".into(), String::new())
        );
        let (ok, out, _) = run(|o, e| run_config_print(&good, o, e));
        assert!(ok && out.contains("id = \"n9\" # --node-id"), "{out}");
        let (ok, out, _) = run(|o, _| run_config_default(o));
        assert!(ok && out.contains("[node]"), "{out}");
        let (ok, out, err) = run(|o, e| run_route(&good, "device/42/thermo", o, e));
        assert!(ok && out.contains("thermo.meters") && out.contains("42"), "{out}{err}");
        let (ok, out, err) = run(|o, e| run_route(&good, "device/+/thermo", o, e));
        assert!(!ok && out.is_empty() && err.contains("device/+/thermo"), "{out}{err}");

        std::fs::write(&file, "[log]\nknid = 1\n[limits]\nconnect_rate = 0\n").unwrap();
        let (ok, out, err) = run(|o, e| run_config_check(&good, o, e));
        assert!(!ok && out.is_empty());
        assert_eq!(err.lines().count(), 2, "{err}");
        assert!(err.contains("c.toml:2: ") && err.contains("c.toml:4: "), "{err}");
    }
}
