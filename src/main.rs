//! `broker`: parses the command line and hands over.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use hydrant::admin::{self, DrainAction, DrainState, TailRequest, TreeRequest};
use hydrant::cli::{self, Cli, Command, ConfigAction, DrainArgs};
use hydrant::node;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[cfg(all(feature = "mimalloc", not(feature = "jemalloc")))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
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
        Some(Command::Route { topic }) => cli::run_route(&cli, topic, &mut out, &mut err),
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
            ask(&cli, |dir| Ok(admin::client::tail(dir, &request, &mut out, &mut err)?))
        }
        Some(Command::Drain(DrainArgs { cancel: true, .. })) => ask(&cli, |dir| {
            admin::client::drain(dir, DrainAction::Cancel)?;
            writeln!(out, "the node takes clients again").map_err(Into::into)
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
        Some(Command::Storage { action }) => {
            prepare("warn", None);
            cli::run_storage(&cli, action, &mut out, &mut err)
        }
        Some(Command::Fault { action, path }) => {
            ask(&cli, |dir| Ok(admin::client::fault(dir, *action, path)?))
        }
    }
}

/// A command that asks a running node through its admin socket.
fn ask(
    cli: &Cli,
    command: impl FnOnce(&std::path::Path) -> Result<(), Box<dyn std::error::Error>>,
) -> ExitCode {
    let dir: PathBuf = match cli::load(cli) {
        Ok(config) => config.data_dir,
        Err(errors) => return fail(&errors),
    };
    match command(&dir) {
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
    prepare("info,fjall=warn,lsm_tree=warn", Some(config.settings.limits.max_connections));
    match actix_rt::System::new().block_on(node::run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Logs to standard error, and raises the limit on open files; `wanted` connections are compared
/// with it.
fn prepare(filter: &str, wanted: Option<usize>) {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(filter))
        .format_timestamp_millis()
        .init();
    // As many sockets as the system allows: the soft limit of 1,024 is a default, not a choice.
    match (rlimit::increase_nofile_limit(u64::MAX), wanted) {
        (Ok(files), Some(wanted)) if (files as usize) < wanted => log::info!(
            "this process may open {files} files: fewer connections than limits.max_connections = {wanted}"
        ),
        (Ok(_), _) => {}
        (Err(error), _) => log::warn!("the limit on open files stays as it is: {error}"),
    }
}
