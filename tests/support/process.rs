//! A process that a test started: what it says, its signals, its end, and the guard that ends it
//! with the test process.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::SOON;

/// What a process has said on stderr.
#[derive(Debug, Default)]
pub struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
    /// Nobody reads the stream.
    paused: Mutex<bool>,
    resumed: Condvar,
}

impl Log {
    /// Keeps every line of the stream.
    pub fn follow(self: &Arc<Self>, stream: impl Read + Send + 'static) {
        let log = Arc::clone(self);
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                log.lock().0.push(line);
                log.changed.notify_all();
                let paused = log.paused.lock().unwrap_or_else(PoisonError::into_inner);
                drop(log.resumed.wait_while(paused, |paused| *paused));
            }
            log.lock().1 = true;
            log.changed.notify_all();
        });
    }

    /// From the next line on nobody reads the stream.
    pub fn pause(&self) {
        *self.paused.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// The stream is read again.
    pub fn resume(&self) {
        *self.paused.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.resumed.notify_all();
    }

    /// The lines so far, and whether the stream has ended.
    pub fn lock(&self) -> std::sync::MutexGuard<'_, (Vec<String>, bool)> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first line from `from` on that satisfies `wanted`; `None` at the end of the stream.
    pub fn wait(&self, from: usize, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let end = Instant::now() + 2 * SOON;
        let mut lines = self.lock();
        let mut seen = from;
        loop {
            if let Some(line) = lines.0.iter().skip(seen).find(|line| wanted(line)) {
                return Some(line.clone());
            }
            seen = lines.0.len().max(from);
            let left = end.saturating_duration_since(Instant::now());
            if lines.1 || left.is_zero() {
                return None;
            }
            let waited = self.changed.wait_timeout(lines, left);
            lines = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Sends a signal to a process this test started.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("sh")
        .args(["-c", "kill -s \"$1\" \"$2\"", "sh", name, &pid.to_string()])
        .status();
    assert!(status.is_ok_and(|status| status.success()), "kill -s {name} {pid}");
}

/// Kills the process and removes its folder once our end of the pipe is closed without a word.
pub fn guard(pid: u32, folder: &Path) -> Child {
    let script = "read -r word && exit; kill -9 \"$1\" 2>/dev/null; n=0; \
        while kill -0 \"$1\" 2>/dev/null && [ $n -lt 50 ]; do sleep 0.1; n=$((n+1)); done; rm -rf -- \"$2\"";
    Command::new("sh")
        .args(["-c", script, "sh", &pid.to_string()])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("sh")
}

/// Ends a guard that is not needed any more.
pub fn release(mut guard: Child) {
    if let Some(stdin) = &mut guard.stdin {
        let _ = stdin.write_all(b"done\n");
    }
    let _ = guard.wait();
}

/// The exit code of a child, `Some(None)` when a signal ended it; `None` when it runs on.
pub fn wait_exit(child: &mut Child, deadline: Duration) -> Option<Option<i32>> {
    let end = Instant::now() + deadline;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status.code()),
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
            _ => return None,
        }
    }
}
