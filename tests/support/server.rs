//! A real server that a test started: its folder, its log, its signals, its end.
//!
//! The jars of one on the JVM come from `scripts/setup-jars NAME`. The process dies with the test process: a small
//! shell watches a pipe that closes with us, and kills by pid.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::eventually;
use super::process::signal;

/// How long a server may take to be ready or to stop.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Of a key store that lives as long as a test.
pub const KEYSTORE_PASSWORD: &str = "changeit";

/// One server: a folder that stays over restarts, and at most one process.
pub struct Server {
    name: &'static str,
    folder: tempfile::TempDir,
    child: Option<Child>,
    pid: u32,
    /// The guard removes the folder, because nobody drops this value.
    immortal: bool,
}

impl Server {
    /// A new folder without a process. `name` is that of the folder in scripts/servers.
    pub fn new(name: &'static str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix(&format!("hydrant-{name}-"))
            .tempdir()
            .expect("a temporary folder");
        Self { name, folder, child: None, pid: 0, immortal: false }
    }

    /// Lives in a static: the end of the test process removes its folder.
    pub fn immortal(&mut self) {
        self.immortal = true;
    }

    /// Where its configuration, data and log are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts `java` with its jars on the class path, after `conf` when there is one.
    pub fn run(&mut self, options: &[&str], conf: Option<&Path>, arguments: &[&str]) {
        let mut path = class_path(self.name);
        if let Some(conf) = conf {
            path = format!("{}:{path}", conf.display());
        }
        self.run_program(Path::new("java"), &[options, &["-cp", &path], arguments].concat());
    }

    /// Starts this program.
    pub fn run_program(&mut self, program: &Path, arguments: &[&str]) {
        assert!(self.child.is_none(), "{} is running", self.name);
        let log = File::options().create(true).append(true).open(self.log_file()).expect("a log");
        // Whatever ends this process closes the pipe, `cat` returns, and the server is killed.
        let guard = r#"exec 3>&1; "$@" >&2 3>&- </dev/null & child=$!; echo "$child" >&3; exec >&2 3>&-; cat >/dev/null; kill -9 "$child" 2>/dev/null; wait; [ -z "$REMOVE" ] || rm -rf "$REMOVE""#;
        let remove = if self.immortal { self.folder().as_os_str() } else { "".as_ref() };
        let mut child = Command::new("sh")
            .env("REMOVE", remove)
            .args(["-c", guard, "guard"])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("sh");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("the pid");
        self.pid = line.trim().parse().expect("a pid");
        self.child = Some(child);
    }

    /// Waits until it is ready.
    #[track_caller]
    pub fn await_ready(&self, what: &str, mut ready: impl FnMut() -> bool) {
        eventually(PATIENCE, what, || {
            assert!(self.is_alive(), "{} ended: {}", self.name, self.log());
            ready()
        });
    }

    /// The process id, of the last process when none runs.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    fn log_file(&self) -> PathBuf {
        self.folder().join("server.log")
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn is_alive(&self) -> bool {
        // A zombie is ended; its state follows the name in parentheses.
        std::fs::read_to_string(format!("/proc/{}/stat", self.pid))
            .ok()
            .and_then(|stat| {
                stat.rsplit_once(')').map(|(_, rest)| !rest.trim_start().starts_with('Z'))
            })
            .unwrap_or(false)
    }

    fn ended(&mut self) {
        eventually(PATIENCE, "the server has ended", || !self.is_alive());
        if let Some(mut child) = self.child.take() {
            drop(child.stdin.take());
            child.wait().expect("the guard ends");
        }
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self) {
        signal(self.pid, "TERM");
        self.ended();
    }

    /// SIGKILL, and waits for the end.
    pub fn kill9(&mut self) {
        signal(self.pid, "KILL");
        self.ended();
    }

    /// SIGSTOP: it holds its connections and answers nothing.
    pub fn pause(&self) {
        signal(self.pid, "STOP");
    }

    /// SIGCONT.
    pub fn resume(&self) {
        signal(self.pid, "CONT");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            let _ = writeln!(
                std::io::stderr(),
                "the end of the log of {}, newest first:\n{}",
                self.name,
                tail.join("\n")
            );
        }
        if let Some(mut child) = self.child.take() {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }
}

/// The jars of a server.
///
/// # Panics
/// When they are not installed.
pub fn class_path(name: &str) -> String {
    let work = work().join(name);
    assert!(
        work.join("pom.installed").is_file(),
        "the jars of {name} are not in {}: run scripts/setup-jars {name} (or scripts/test) first",
        work.display()
    );
    format!("{}/*", work.join("libs").display())
}

/// Where what the tests need is installed: `.work`, or `HYDRANT_WORK`.
pub fn work() -> PathBuf {
    std::env::var_os("HYDRANT_WORK")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".work"), PathBuf::from)
}

/// A port that is free now, below those that the kernel gives to outgoing connections: a server may take
/// most of a minute until it listens. Each process begins elsewhere.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(101);
    let next = || first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
    std::iter::repeat_with(|| 12_000 + u16::try_from(next()).unwrap_or_default())
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

/// A key with a self-signed certificate, by the JDK's own tool: the key store, and `ca.pem` beside
/// it.
pub fn make_certificate(conf: &Path, ip: Ipv4Addr) -> String {
    let store = conf.join("keystore.p12").display().to_string();
    let keytool = |arguments: &[&str]| {
        let common = ["-keystore", &store, "-storepass", KEYSTORE_PASSWORD, "-alias", "node"];
        let done = Command::new("keytool").args(arguments).args(common).output().expect("keytool");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
    };
    let name = format!("san=ip:{ip}");
    let key = ["-genkeypair", "-keyalg", "EC", "-storetype", "PKCS12", "-dname", "CN=node"];
    keytool(&[&key[..], &["-validity", "2", "-ext", &name]].concat());
    let ca = conf.join("ca.pem").display().to_string();
    keytool(&["-exportcert", "-rfc", "-file", &ca]);
    store
}
