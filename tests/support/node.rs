//! A node of the real binary, in a process and a folder of its own, on free ports.
//!
//! The node dies with the test process, however that ends: a small shell waits for the end of a
//! pipe and kills by id. A node is stopped when its [`Node`] is dropped; a failed test prints the
//! node's log.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::SOON;
use super::client::{Client, Connect};
use super::command::broker;
pub use super::process::signal;
use super::process::{Log, guard, release, wait_exit};

/// How a node is started.
#[derive(Debug, Clone)]
pub struct Builder {
    id: String,
    listen: String,
    sets: Vec<String>,
    args: Vec<String>,
    env: Vec<(String, String)>,
    config: Option<String>,
    data: Option<PathBuf>,
}

/// A started node.
#[derive(Debug)]
pub struct Node {
    builder: Builder,
    folder: Arc<tempfile::TempDir>,
    child: Child,
    guard: Child,
    log: Arc<Log>,
    /// Where it takes MQTT.
    pub mqtt: SocketAddr,
    /// Where it takes HTTP.
    pub admin: SocketAddr,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            id: "n1".to_owned(),
            listen: "127.0.0.1:0".to_owned(),
            sets: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            config: None,
            data: None,
        }
    }
}

impl Builder {
    /// `--set key=value`.
    pub fn set(mut self, key: &str, value: impl std::fmt::Display) -> Self {
        self.sets.push(format!("{key}={value}"));
        self
    }

    /// One more argument.
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// An environment variable of the node.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// `--node-id`; n1 otherwise.
    pub fn id(mut self, id: &str) -> Self {
        self.id = id.to_owned();
        self
    }

    /// `--listen`; a free port of 127.0.0.1 otherwise.
    pub fn listen(mut self, address: &str) -> Self {
        self.listen = address.to_owned();
        self
    }

    /// The `config.toml` of the working directory.
    pub fn config(mut self, text: &str) -> Self {
        self.config = Some(text.to_owned());
        self
    }

    /// `--data-dir`; below a temporary folder otherwise.
    pub fn data_dir(mut self, data: &Path) -> Self {
        self.data = Some(data.to_owned());
        self
    }

    /// Starts and waits until the node is ready.
    ///
    /// # Panics
    /// With the node's log when it does not get ready.
    #[track_caller]
    pub fn start(self) -> Node {
        let folder =
            tempfile::Builder::new().prefix("hydrant-").tempdir().expect("a temporary folder");
        self.start_in(Arc::new(folder))
    }

    #[track_caller]
    fn start_in(self, folder: Arc<tempfile::TempDir>) -> Node {
        let mut child = self.spawn(folder.path());
        let log = Arc::new(Log::default());
        log.follow(child.stderr.take().expect("stderr"));
        let guard = guard(child.id(), folder.path());
        let ready = log.wait(0, |line| line.contains("ready node="));
        let Some(ready) = ready else {
            let _ = child.kill();
            let _ = child.wait();
            release(guard);
            panic!("the node did not get ready:\n{}", log.lock().0.join("\n"));
        };
        Node {
            mqtt: address(&ready, "tcp="),
            admin: address(&ready, "admin="),
            builder: self,
            folder,
            child,
            guard,
            log,
        }
    }

    fn spawn(&self, folder: &Path) -> Child {
        if let Some(text) = &self.config {
            std::fs::write(folder.join("config.toml"), text).expect("config.toml");
        }
        let mut command = broker(folder);
        command.args(["--node-id", &self.id, "--listen", &self.listen, "--data-dir"]);
        command.arg(self.data.clone().unwrap_or_else(|| folder.join("data")));
        command.args(["--set", "admin.address=127.0.0.1:0"]);
        for set in &self.sets {
            command.args(["--set", set]);
        }
        command.args(&self.args).envs(self.env.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().expect("the broker starts")
    }

    /// Starts a node that is expected to end by itself; its exit code and what it said.
    #[track_caller]
    pub fn fails(self) -> (Option<i32>, String) {
        let folder =
            tempfile::Builder::new().prefix("hydrant-").tempdir().expect("a temporary folder");
        self.fails_in(folder.path())
    }

    /// The same in a folder that exists.
    #[track_caller]
    pub fn fails_in(self, folder: &Path) -> (Option<i32>, String) {
        self.ends_in(folder, |_| ())
    }

    /// Starts a node that ends because of what is done to it, given its process, before it is ready.
    #[track_caller]
    pub fn ends(self, by: impl FnOnce(u32)) -> (Option<i32>, String) {
        let folder =
            tempfile::Builder::new().prefix("hydrant-").tempdir().expect("a temporary folder");
        self.ends_in(folder.path(), by)
    }

    #[track_caller]
    fn ends_in(self, folder: &Path, by: impl FnOnce(u32)) -> (Option<i32>, String) {
        let mut child = self.spawn(folder);
        let log = Arc::new(Log::default());
        log.follow(child.stderr.take().expect("stderr"));
        by(child.id());
        let code = wait_exit(&mut child, SOON);
        log.wait(usize::MAX, |_| false);
        let text = log.lock().0.join("\n");
        match code {
            Some(code) => (code, text),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                panic!("the node runs on:\n{text}");
            }
        }
    }
}

impl Node {
    /// How it shall be started.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.builder.data.clone().unwrap_or_else(|| self.folder.path().join("data"))
    }

    /// The folder it was started in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A connected client with a clean session.
    #[track_caller]
    pub fn client(&self, id: &str) -> Client {
        Client::connect(self.mqtt, &Connect::new(id))
    }

    /// A connected client with a persistent session.
    #[track_caller]
    pub fn persistent(&self, id: &str) -> Client {
        Client::connect(self.mqtt, &Connect::new(id).persistent())
    }

    /// The same, and whether the node had the session already.
    #[track_caller]
    pub fn persistent_present(&self, id: &str) -> (Client, bool) {
        Client::connect_present(self.mqtt, &Connect::new(id).persistent())
    }

    /// A persistent session with these subscriptions, whose client has disconnected.
    #[track_caller]
    pub fn offline(&self, id: &str, filters: &[(&str, u8)]) {
        let mut client = self.persistent(id);
        for (filter, qos) in filters {
            client.subscribe(filter, *qos);
        }
        client.disconnect();
    }

    /// A socket without CONNECT.
    #[track_caller]
    pub fn socket(&self) -> Client {
        Client::open(self.mqtt)
    }

    /// SIGKILL, and gone.
    pub fn kill9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal by name, as in `TERM`.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// SIGTERM; the exit code once it has ended.
    #[track_caller]
    pub fn terminate(&mut self) -> Option<i32> {
        self.signal("TERM");
        self.wait_exit(SOON)
    }

    /// The exit code (`None` after a signal) once it has ended.
    #[track_caller]
    pub fn wait_exit(&mut self, deadline: Duration) -> Option<i32> {
        match wait_exit(&mut self.child, deadline) {
            Some(code) => code,
            None => panic!("the node did not end in {deadline:?}"),
        }
    }

    /// Whether the process is there.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it if it runs (SIGTERM) and starts it again in its folder, on new ports.
    #[track_caller]
    pub fn restart(self) -> Self {
        self.restart_with(|builder| builder)
    }

    /// The same with other settings.
    #[track_caller]
    pub fn restart_with(mut self, change: impl FnOnce(Builder) -> Builder) -> Self {
        if self.is_running() {
            let code = self.terminate();
            assert_eq!(code, Some(0), "exit code after SIGTERM");
        }
        let builder = change(self.builder.clone());
        let folder = Arc::clone(&self.folder);
        drop(self);
        builder.start_in(folder)
    }

    /// Lines of its log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().0.clone()
    }

    /// Nobody reads its log from now on.
    pub fn pause_log(&self) {
        self.log.pause();
    }

    /// Its log is read again.
    pub fn resume_log(&self) {
        self.log.resume();
    }

    /// Waits for a line of its log with this text.
    #[track_caller]
    pub fn wait_log(&self, text: &str) -> String {
        match self.log.wait(0, |line| line.contains(text)) {
            Some(line) => line,
            None => panic!("no line with '{text}' in the node's log"),
        }
    }

    /// Where it answers HAProxy's agent-check; the node needs `admin.agent_listen`.
    #[track_caller]
    pub fn agent(&self) -> SocketAddr {
        address(&self.wait_log("ready node="), "agent=")
    }

    /// Status code and body of a GET.
    #[track_caller]
    pub fn http(&self, path: &str) -> (u16, String) {
        http(self.admin, path).unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// One value of `/metrics`, by its name with labels as it stands there.
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        let (status, body) = self.http("/metrics");
        assert_eq!(status, 200);
        body.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
            .unwrap_or_else(|| panic!("no metric {name} in:\n{body}"))
    }

    /// Connections closed for a reason.
    #[track_caller]
    pub fn closed(&self, reason: &str) -> f64 {
        self.metric(&format!("hydrant_connections_closed_total{{reason=\"{reason}\"}}"))
    }

    /// Waits until so many connections are counted as closed for a reason: a socket ends a moment
    /// before it is counted.
    #[track_caller]
    pub fn wait_closed(&self, reason: &str, count: f64) {
        super::eventually(SOON, &format!("{count} closed for {reason}"), || {
            self.closed(reason) >= count
        });
    }

    /// Messages dropped for a reason.
    #[track_caller]
    pub fn dropped(&self, reason: &str) -> f64 {
        self.metric(&format!("hydrant_messages_dropped_total{{reason=\"{reason}\"}}"))
    }

    /// Resident memory in bytes.
    #[track_caller]
    pub fn rss(&self) -> u64 {
        self.metric("process_resident_memory_bytes") as u64
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(stdin) = &mut self.guard.stdin {
            let _ = stdin.write_all(b"done\n");
        }
        let _ = self.guard.wait();
        if std::thread::panicking() {
            let lines = self.log();
            let from = lines.len().saturating_sub(60);
            eprintln!("--- the node's log, its last lines ---\n{}", lines[from..].join("\n"));
        }
    }
}

/// A GET over a connection of its own.
pub fn http(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SOON))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let bad = || std::io::Error::new(std::io::ErrorKind::InvalidData, "not HTTP");
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(bad)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(bad)?;
    Ok((status, body.to_owned()))
}

fn address(ready: &str, name: &str) -> SocketAddr {
    ready
        .split_whitespace()
        .find_map(|word| word.strip_prefix(name)?.parse().ok())
        .unwrap_or_else(|| panic!("no {name} in '{ready}'"))
}
