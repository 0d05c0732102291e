//! `broker`: parses the command line and hands over.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use hydrant::admin::{self, DrainAction, DrainState, TailRequest, TreeRequest};
use hydrant::cli::{self, Cli, Command, ConfigAction, DeadAction, DrainArgs};
use hydrant::config::Config;
use hydrant::{logging, node};
use hydrant_actors::say;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = cli::parse();
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    match &cli.command {
        None => run_node(&cli),
        Some(Command::Config { action: ConfigAction::Check }) => {
            cli::run_config_check(&cli, &mut out, &mut err)
        }
        Some(Command::Config { action: ConfigAction::Print }) => {
            cli::run_config_print(&cli, &mut out, &mut err)
        }
        Some(Command::Config { action: ConfigAction::Default }) => {
            cli::run_config_default(&mut out)
        }
        Some(Command::Route(args)) => cli::run_route(&cli, args, &mut out, &mut err),
        Some(Command::Tree(args)) => {
            let page = usize::try_from(args.page - 1).unwrap_or(usize::MAX);
            let request =
                TreeRequest { connections: args.connections, page, ..TreeRequest::default() };
            ask(&cli, |dir| {
                writeln!(out, "{}", admin::client::tree(dir, &request)?).map_err(Into::into)
            })
        }
        Some(Command::Status) => {
            ask(&cli, |dir| write!(out, "{}", admin::client::status(dir)?).map_err(Into::into))
        }
        Some(Command::Nodes) => {
            ask(&cli, |dir| write!(out, "{}", admin::client::nodes(dir)?).map_err(Into::into))
        }
        Some(Command::Tail(args)) => {
            let request = TailRequest {
                topic: args.topic.clone(),
                group: args.group.clone(),
                from_start: args.from_start,
                count: args.count,
            };
            ask_with(&cli, |config| {
                cli::check_log_topic(config, &args.topic)?;
                Ok(admin::client::tail(&config.data_dir, &request, &mut out, &mut err)?)
            })
        }
        Some(Command::Drain(DrainArgs { cancel: true, .. })) => ask(&cli, |dir| {
            let before = admin::client::drain(dir, DrainAction::Look)?;
            admin::client::drain(dir, DrainAction::Cancel)?;
            let said = match before.draining {
                true => "the node takes clients again",
                false => "the node was not draining: it takes clients",
            };
            writeln!(out, "{said}").map_err(Into::into)
        }),
        Some(Command::Drain(args)) => ask(&cli, |dir| {
            let state = admin::client::drain(dir, DrainAction::Start(args.rate))?;
            let DrainState { left, rate, .. } = state;
            writeln!(out, "the node drains: {left} connections, {rate} a second")?;
            if args.wait {
                admin::client::wait_drained(dir, &mut out)?;
            }
            Ok(())
        }),
        Some(Command::Dead { action: DeadAction::List { count, after } }) => ask(&cli, |dir| {
            let count = usize::try_from(*count).unwrap_or(usize::MAX);
            write!(out, "{}", admin::dead::list(dir, *after, count)?).map_err(Into::into)
        }),
        Some(Command::Dead { action: DeadAction::Replay(which) }) => {
            ask(&cli, |dir| settled(&mut out, &admin::dead::replay(dir, &which.ids)?, "delivered"))
        }
        Some(Command::Dead { action: DeadAction::Drop(which) }) => {
            ask(&cli, |dir| settled(&mut out, &admin::dead::remove(dir, &which.ids)?, "dropped"))
        }
        Some(Command::Storage { action }) => {
            prepare("warn");
            let code = cli::run_storage(&cli, action, &mut out, &mut err);
            logging::finish();
            code
        }
        Some(Command::Kafka { action }) => {
            prepare("warn");
            let code = cli::run_kafka(&cli, action, &mut out, &mut err);
            logging::finish();
            code
        }
        Some(Command::Fault { action, path }) => {
            ask(&cli, |dir| Ok(admin::client::fault(dir, *action, path)?))
        }
    }
}

/// Says what has become of dead letters; an error where that is not what was asked for.
fn settled(
    out: &mut impl Write,
    done: &admin::DeadDone,
    what: &str,
) -> Result<(), Box<dyn std::error::Error>> {
    let (said, wrong) = done.report(what);
    writeln!(out, "{said}")?;
    wrong.map_or(Ok(()), |wrong| Err(wrong.into()))
}

/// A command that asks a running node through its admin socket.
fn ask(
    cli: &Cli,
    command: impl FnOnce(&Path) -> Result<(), Box<dyn std::error::Error>>,
) -> ExitCode {
    ask_with(cli, |config| command(&config.data_dir))
}

fn ask_with(
    cli: &Cli,
    command: impl FnOnce(&Config) -> Result<(), Box<dyn std::error::Error>>,
) -> ExitCode {
    let config = match cli::load(cli) {
        Ok(config) => config,
        Err(errors) => return fail(&errors),
    };
    match command(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &impl std::fmt::Display) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "broker: {error}");
    ExitCode::FAILURE
}

fn run_node(cli: &Cli) -> ExitCode {
    let config = match cli::load(cli) {
        Ok(config) => config,
        Err(errors) => return fail(&errors),
    };
    prepare("info,fjall=warn,lsm_tree=warn");
    let _finish = Finish;
    match actix_rt::System::new().block_on(node::run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // By the log's own way: standard error may be a pipe that nobody reads.
            logging::last_line(&format!("broker: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// The log's last lines come out, also when a panic ends the process.
struct Finish;

impl Drop for Finish {
    fn drop(&mut self) {
        logging::finish();
    }
}

/// Logs to standard error, and raises the limit on open files.
fn prepare(filter: &str) {
    logging::start(filter);
    // As many sockets as the system allows: the soft limit of 1,024 is a default, not a choice.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        say::warn!("the limit on open files stays as it is: {error}");
    }
}
