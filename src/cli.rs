//! The command line of `broker`, and the commands that need no node: `config check`,
//! `config print`, `config default`, `storage` and `kafka`.
//!
//! - `route`: `broker route`, and where the topic of a `broker tail` goes.
//! - `args`: the options and commands.
//! - `hints`: what was meant by an option or a command that there is not.
//!
//! [`load`] is the only place that reads `config.toml` and the environment.

mod args;
mod hints;
mod route;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use crate::cassandra::check::{Finding, Grade};
use crate::config::{self, Config, ConfigErrors, Loaded, Origin, Sources};
use crate::{embedded, kafka, transfer};
pub use args::{
    Cli, Command, ConfigAction, ConfigArgs, DeadAction, DeadArgs, DrainArgs, KafkaAction,
    RouteArgs, StorageAction, TailArgs, TreeArgs,
};
pub use hints::parse;
pub use route::{check_log_topic, run_route};

/// The file read from the working directory when `--config` names none.
const DEFAULT_FILE: &str = "config.toml";

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
    let checked = load_with_origins(cli).and_then(|loaded| loaded.preflight().map(|()| loaded));
    match checked {
        Ok(loaded) => {
            for note in loaded.notes() {
                let _ = writeln!(err, "{note}"); // nobody reads it: fine
            }
            written(writeln!(out, "the configuration is ok"), err)
        }
        Err(errors) => {
            let _ = writeln!(err, "{errors}");
            ExitCode::FAILURE
        }
    }
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

/// `broker storage`: findings go to `out`, progress and errors to `err`.
pub fn run_storage(
    cli: &Cli,
    action: &StorageAction,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> ExitCode {
    let config = match load_with_origins(cli) {
        Ok(loaded) => of_its_node(loaded),
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

/// Where no node id is given, the one that the data directory belongs to.
fn of_its_node(loaded: Loaded) -> Config {
    let given = loaded.is_set("node.id");
    let mut config = loaded.config;
    if !given && let Some(id) = embedded::node_of(&config.data_dir) {
        config.settings.node_id = id.into();
    }
    config
}

/// `broker kafka`: findings go to `out`, errors to `err`.
pub fn run_kafka(
    cli: &Cli,
    action: &KafkaAction,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> ExitCode {
    let KafkaAction::Check { topics } = action;
    let config = match load(cli) {
        Ok(config) => config,
        Err(errors) => return failed(err, &errors),
    };
    let Some(options) = &config.kafka else {
        return failed(
            err,
            &"log.kind is not \"kafka\", so there is no Kafka to check: set log.kind = \"kafka\"",
        );
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(err, &error),
    };
    let mut code = ExitCode::SUCCESS;
    let mut found = |finding: Finding| {
        if finding.grade == Grade::Fail {
            code = ExitCode::FAILURE;
        }
        // Who closed the pipe has seen enough; the exit code is still right.
        let _ = writeln!(out, "{finding}");
    };
    let max_packet_size = config.settings.limits.max_packet_size;
    runtime.block_on(kafka::check::run(options, max_packet_size, topics, &mut found));
    code
}

fn failed(err: &mut dyn Write, error: &dyn std::fmt::Display) -> ExitCode {
    let _ = writeln!(err, "broker: {error}");
    ExitCode::FAILURE
}

/// Runs `f` on the configuration, or reports its mistakes.
fn with_config(
    cli: &Cli,
    err: &mut dyn Write,
    f: impl FnOnce(&Loaded) -> std::io::Result<()>,
) -> ExitCode {
    match load_with_origins(cli).map(|loaded| f(&loaded)) {
        Ok(result) => written(result, err),
        Err(errors) => {
            let _ = writeln!(err, "{errors}");
            ExitCode::FAILURE
        }
    }
}

/// The exit code of an answer. A closed pipe is no error.
fn written(result: std::io::Result<()>, err: &mut dyn Write) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(err, "cannot write the answer: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use clap::Parser as _;

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
        let id = "19a3f2c1b40-2-1f-00001d9e02a4b8f6";
        for right in
            [&["list"][..], &["replay", "--all"], &["drop", id, id], &["list", "--after", id]]
        {
            assert!(
                Cli::try_parse_from([&["broker", "dead"], right].concat()).is_ok(),
                "{right:?}"
            );
        }
        for wrong in
            [&["drop"][..], &["drop", "x"], &["replay", "--all", id], &["list", "--count=0"]]
        {
            assert!(
                Cli::try_parse_from([&["broker", "dead"], wrong].concat()).is_err(),
                "{wrong:?}"
            );
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
    fn check_print_and_default() {
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

        std::fs::write(&file, "[log]\nknid = 1\n[limits]\nconnect_rate = 0\n").unwrap();
        let (ok, out, err) = run(|o, e| run_config_check(&good, o, e));
        assert!(!ok && out.is_empty());
        assert_eq!(err.lines().count(), 2, "{err}");
        assert!(err.contains("c.toml:2: ") && err.contains("c.toml:4: "), "{err}");
    }
}
