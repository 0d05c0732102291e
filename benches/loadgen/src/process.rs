//! CPU time and memory of a process, from /proc.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Linux counts in units of 1/100 s on every architecture (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// One process.
#[derive(Debug, Clone, Copy)]
pub struct Process(Option<u32>);

impl Process {
    /// The process with this id; with None every figure is 0.
    pub fn new(pid: Option<u32>) -> Process {
        Process(pid)
    }

    /// This process.
    pub fn own() -> Process {
        Process(Some(std::process::id()))
    }

    /// User and system time so far, seconds, in steps of 10 ms.
    pub fn cpu_seconds(self) -> f64 {
        let text = self.0.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok());
        text.as_deref().and_then(cpu_ticks).map_or(0.0, |ticks| ticks as f64 / TICKS_PER_SECOND)
    }

    /// Voluntary context switches of all its threads so far; those of a thread that has ended are gone.
    pub fn voluntary_switches(self) -> u64 {
        let tasks = self.0.and_then(|pid| fs::read_dir(format!("/proc/{pid}/task")).ok());
        let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).ok();
        let tasks = tasks.into_iter().flatten().flatten();
        tasks.filter_map(status).filter_map(|text| number(&text, "voluntary_ctxt_switches:")).sum()
    }

    /// Resident memory, KiB.
    pub fn rss_kb(self) -> u64 {
        let text = self.0.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok());
        text.as_deref().and_then(|text| number(text, "VmRSS:")).unwrap_or(0)
    }

    /// Waits until the process has nothing left to do (at most 20 ms of CPU in 200 ms), so that
    /// what it put off is counted too. At most 10 s.
    pub fn settle(self) {
        if self.0.is_none() {
            return;
        }
        let end = Instant::now() + Duration::from_secs(10);
        let mut before = self.cpu_seconds();
        while Instant::now() < end {
            sleep(Duration::from_millis(200));
            let now = self.cpu_seconds();
            if now - before < 0.025 {
                return;
            }
            before = now;
        }
    }
}

/// utime + stime: fields 14 and 15 of /proc/PID/stat, counted behind the command's last ')'.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// The number behind a name in /proc/PID/status.
fn number(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_spaces_and_brackets_does_not_shift_the_fields() {
        let stat = "12 (a) b) S 1 2 3 4 5 6 7 8 9 10 300 20 0 0 20 0 3 0 1";
        assert_eq!(cpu_ticks(stat), Some(320));
    }

    #[test]
    fn memory_and_switches_are_read_from_their_own_lines() {
        let status = "Name:\tx\nVmHWM:\t 9 kB\nVmRSS:\t   1234 kB\nvoluntary_ctxt_switches:\t5\nnonvoluntary_ctxt_switches:\t9\n";
        assert_eq!(number(status, "VmRSS:"), Some(1234));
        assert_eq!(number(status, "voluntary_ctxt_switches:"), Some(5));
        assert!(Process::own().rss_kb() > 100);
        sleep(Duration::from_millis(1));
        assert!(Process::own().voluntary_switches() > 0);
    }
}
