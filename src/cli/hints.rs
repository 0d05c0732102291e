//! What was meant by an option or a command that there is not: other brokers' words for ours.

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::Cli;

/// Other programs' words, and ours.
const MEANT: [(&str, &str); 11] = [
    ("--port", "a node's port is the end of --listen, as in --listen 0.0.0.0:1884"),
    ("-p", "a node's port is the end of --listen, as in --listen 0.0.0.0:1884"),
    ("--host", "a node's address is --listen, as in --listen 127.0.0.1:1883"),
    ("-v", "the version is -V; RUST_LOG=debug makes a node say more"),
    ("--verbose", "RUST_LOG=debug makes a node say more"),
    ("-d", "a node stays in the foreground; a service manager can run it, see docs/operations.md"),
    (
        "--daemon",
        "a node stays in the foreground; a service manager can run it, see docs/operations.md",
    ),
    ("version", "the version is --version"),
    ("run", "a node runs without a command: broker --node-id n1"),
    ("start", "a node runs without a command: broker --node-id n1"),
    ("stop", "a node ends by SIGTERM or Ctrl-C"),
];

/// The command line, or the end of the program with what is wrong with it.
pub fn parse() -> Cli {
    Cli::try_parse().unwrap_or_else(|error| hinted(error).exit())
}

/// With our word beside the one that there is not.
fn hinted(mut error: clap::Error) -> clap::Error {
    let kind = match error.kind() {
        ErrorKind::UnknownArgument => ContextKind::InvalidArg,
        ErrorKind::InvalidSubcommand => ContextKind::InvalidSubcommand,
        _ => return error,
    };
    let Some(ContextValue::String(word)) = error.get(kind) else { return error };
    let word = word.split('=').next().unwrap_or_default();
    if let Some((_, meant)) = MEANT.iter().find(|(theirs, _)| *theirs == word) {
        let text = clap::builder::StyledStr::from(*meant);
        // What only looks alike ("start": storage, status) is left out.
        error.remove(ContextKind::SuggestedArg);
        error.remove(ContextKind::SuggestedSubcommand);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![text]));
    }
    error
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn words_of_other_brokers_are_answered_with_ours() {
        for (args, meant) in [
            (&["--port", "1884"][..], "tip: a node's port is the end of --listen"),
            (&["--port=1884"], "tip: a node's port is the end of --listen"),
            (&["-p", "1884"], "tip: a node's port is the end of --listen"),
            (&["-v"], "tip: the version is -V"),
            (&["version"], "tip: the version is --version"),
            (&["start"], "tip: a node runs without a command"),
            (&["run"], "tip: a node runs without a command"),
        ] {
            let error = Cli::try_parse_from([&["broker"], args].concat()).unwrap_err();
            let said = hinted(error).to_string();
            assert!(said.contains(meant), "{args:?}: {said}");
            assert_eq!(said.matches("tip:").count(), 1, "{said}");
        }
        let other = Cli::try_parse_from(["broker", "--nod-id", "n1"]).unwrap_err();
        assert!(hinted(other).to_string().contains("--node-id"));
    }

    #[test]
    fn own_options_come_first_and_the_global_ones_under_a_heading() {
        for command in ["tail", "tree", "drain"] {
            let said = Cli::try_parse_from(["broker", command, "--help"]).unwrap_err().to_string();
            let (own, global) = said.split_once("Configuration:").unwrap();
            assert!(!own.contains("--listen") && global.contains("--listen"), "{said}");
            assert!(!global.contains("--page") && !global.contains("--group"), "{said}");
            assert!(said.contains("found by its data directory"), "{said}");
        }
        let said = Cli::try_parse_from(["broker", "--help"]).unwrap_err().to_string();
        assert!(said.contains("HYDRANT__LOG__KIND") && said.contains("data directory"), "{said}");
    }

    #[test]
    fn the_file_has_a_short_option() {
        let cli = Cli::try_parse_from(["broker", "tree", "-c", "x.toml"]).unwrap();
        assert_eq!(cli.config.config.as_deref().and_then(std::path::Path::to_str), Some("x.toml"));
    }
}
