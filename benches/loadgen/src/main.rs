//! `loadgen`: drives any MQTT 3.1.1 broker and says what the work cost the broker.
//!
//! One thread and one epoll, so that on a small machine the generator stays out of the way: PUBLISH
//! packets are encoded once and patched, writes are large, incoming bytes are scanned where they
//! lie. It shares no code with the broker: a mistake in the broker's codec must not be answered by
//! the same mistake here.
//!
//! Every scenario prints one JSON object on standard output and ends within `--deadline`. The exit
//! code is 1 when the run could not be finished and 2 when it was finished and something promised
//! was broken (a lost QoS 1-2 message, a wrong order, a second copy at QoS 2).

mod client;
mod error;
mod filters;
mod hold;
mod idle;
#[cfg(feature = "kafka")]
mod kafka;
mod options;
mod pace;
mod process;
mod publisher;
mod report;
mod resume;
mod retained;
mod run;
mod subscriber;
mod wire;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use serde::Serialize;

use crate::error::Error;
use crate::options::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match execute(cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(2),
        Err(error) => {
            eprintln!("loadgen: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the scenario and prints its report; false when a promise was broken.
fn execute(cli: Cli) -> Result<bool, Error> {
    match cli.command {
        Command::Idle(options) => {
            print(&idle::run(&options)?)?;
            Ok(true)
        }
        Command::Hold(options) => {
            let report = hold::run(&options, print)?;
            print(&report)?;
            Ok(report.problems.is_empty())
        }
        Command::Filters(options) => {
            filters::run(&options, print)?;
            Ok(true)
        }
        Command::Resume(options) => {
            let report = resume::run(&options)?;
            print(&report)?;
            Ok(report.problems.is_empty())
        }
        Command::Retained(options) => {
            let report = retained::run(&options)?;
            print(&report)?;
            Ok(report.problems.is_empty())
        }
        #[cfg(feature = "kafka")]
        Command::VerifyKafka(options) => {
            let report = kafka::verify(&options)?;
            print(&report)?;
            Ok(report.problems.is_empty())
        }
        flow => {
            let plan = run::Plan::from_command(&flow)?;
            let report = run::run(&plan)?;
            print(&report)?;
            Ok(report.problems.is_empty())
        }
    }
}

fn print<T: Serialize>(report: &T) -> Result<(), Error> {
    let mut text = serde_json::to_string(report).map_err(|e| Error::Output(e.to_string()))?;
    text.push('\n');
    std::io::stdout().write_all(text.as_bytes()).map_err(|e| Error::Output(e.to_string()))
}
