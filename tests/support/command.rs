//! The commands of `broker`: run alone or for a node, and what they print.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use super::node::Node;
use super::process::Log;

/// The binary of this build, or that of `HYDRANT_BROKER`, such as a release build.
pub(super) fn broker(folder: &Path) -> Command {
    let built = || env!("CARGO_BIN_EXE_broker").into();
    let mut command = Command::new(std::env::var_os("HYDRANT_BROKER").unwrap_or_else(built));
    command.current_dir(folder).env_remove("RUST_LOG");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HYDRANT__") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs `broker` with these arguments in an empty folder.
#[track_caller]
pub fn run_broker<S: AsRef<OsStr>>(args: &[S]) -> Output {
    let folder = tempfile::tempdir().expect("a temporary folder");
    broker(folder.path()).args(args).stdin(Stdio::null()).output().expect("the broker starts")
}

/// What it printed to stdout.
#[track_caller]
pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// What it printed to stderr.
#[track_caller]
pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// What a command that ended well has printed.
#[track_caller]
pub fn success(output: &Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, stderr(output));
    // A tail prints payloads as they are.
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Node {
    /// Runs `broker` with these arguments and this node's data directory.
    #[track_caller]
    pub fn cli(&self, args: &[&str]) -> Output {
        let mut command = broker(self.folder());
        command.args(args).arg("--data-dir").arg(self.data_dir()).stdin(Stdio::null());
        command.output().expect("the broker starts")
    }

    /// What `broker tree` prints.
    #[track_caller]
    pub fn tree(&self) -> String {
        success(&self.cli(&["tree"]))
    }

    /// Makes an actor `panic`, `stall` or `fail`; the node needs `debug.faults`.
    #[track_caller]
    pub fn fault(&self, action: &str, path: &str) {
        success(&self.cli(&["fault", action, path]));
    }

    /// `broker tail TOPIC --from-start --count N`.
    #[track_caller]
    pub fn tail(&self, topic: &str, count: usize) -> String {
        success(&self.cli(&["tail", topic, "--from-start", "--count", &count.to_string()]))
    }

    /// Lines of `broker tail TOPIC --from-start` before the first one with `marker`.
    #[track_caller]
    pub fn tail_to(&self, topic: &str, marker: &str) -> Vec<String> {
        let mut command = broker(self.folder());
        command.args(["tail", topic, "--from-start", "--data-dir"]).arg(self.data_dir());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the broker starts");
        let log = Arc::new(Log::default());
        log.follow(child.stdout.take().expect("piped"));
        let found = log.wait(0, |line| line.contains(marker));
        let _ = child.kill();
        let _ = child.wait();
        let lines = log.lock().0.clone();
        assert!(found.is_some(), "no '{marker}' in {topic}: {} lines", lines.len());
        lines.into_iter().take_while(|line| !line.contains(marker)).collect()
    }

    /// `broker tree --connections`, its first page.
    #[track_caller]
    pub fn connections(&self) -> String {
        success(&self.cli(&["tree", "--connections"]))
    }

    /// What `broker dead` prints, and whether it says that all went well.
    #[track_caller]
    pub fn dead(&self, args: &[&str]) -> (bool, String) {
        let output = self.cli(&[&["dead"], args].concat());
        (output.status.success(), stdout(&output) + &stderr(&output))
    }

    /// The ids that `broker dead list` shows.
    #[track_caller]
    pub fn dead_ids(&self) -> Vec<String> {
        let (ok, shown) = self.dead(&["list"]);
        assert!(ok, "{shown}");
        let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
        shown.lines().skip(1).filter_map(first).collect()
    }
}
