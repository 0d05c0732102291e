//! What the log says of messages that are dropped: a line a reason every 10 s, with how many there were since the last
//! one and an example.
//!
//! The counters of [`WorkerMetrics`] count, by the methods that are here; a look at them every quarter of a second makes
//! the lines. A drop costs one load here, unless it is the first since its reason's last line: that one is the example.
//!
//! Bounds: one example of `EXAMPLE` bytes a reason.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::metrics::{DropReason, Metrics, WorkerMetrics};
use crate::say::{self, Level, PAUSE_MS, cut};

const REASONS: usize = DropReason::ALL.len();
/// Bytes of an example.
const EXAMPLE: usize = 256;

/// Whether there is an example since the last line.
static KNOWN: [AtomicBool; REASONS] = [const { AtomicBool::new(false) }; REASONS];
static EXAMPLES: Mutex<[String; REASONS]> = Mutex::new([const { String::new() }; REASONS]);

/// A message is dropped: `of` says whose, and is read for the first one only.
pub fn example(reason: DropReason, of: fmt::Arguments<'_>) {
    let known = &KNOWN[reason as usize];
    if !known.load(Ordering::Relaxed) && !known.swap(true, Ordering::Relaxed) {
        EXAMPLES.lock()[reason as usize] = say::one_line(of, EXAMPLE);
    }
}

impl WorkerMetrics {
    /// Counts dropped messages. `of`: whose they are, for the log.
    pub fn drop_messages(&self, reason: DropReason, n: u64, of: fmt::Arguments<'_>) {
        if n > 0 {
            example(reason, of);
        }
        self.dropped[reason as usize].add(n);
    }

    /// Counts one dropped message.
    pub fn drop_one(&self, reason: DropReason, client: &str, topic: &str) {
        self.drop_messages(reason, 1, format_args!("client {}, topic {}", cut(client), cut(topic)));
    }
}

/// What the log has been told of one node's drops.
#[derive(Debug, Default)]
pub struct DropLines {
    told: [u64; REASONS],
    next_ms: [u64; REASONS],
}

impl DropLines {
    /// Says what is to be said.
    pub fn look(&mut self, metrics: &Metrics) {
        for &reason in DropReason::ALL {
            let Some((level, what)) = wording(reason) else { continue };
            let total = metrics.sum(|worker| &worker.dropped[reason as usize]);
            let Some(new) = self.due(reason, total, say::now_ms()) else { continue };
            let example = std::mem::take(&mut EXAMPLES.lock()[reason as usize]);
            KNOWN[reason as usize].store(false, Ordering::Relaxed);
            ::log::log!(
                target: "hydrant::router", level,
                "dropped {new} {what} ({}); the first: {example}", reason.label()
            );
        }
    }

    /// How many were dropped since the last line, when one is due.
    fn due(&mut self, reason: DropReason, total: u64, now: u64) -> Option<u64> {
        let reason = reason as usize;
        let new = total.saturating_sub(self.told[reason]);
        if new == 0 || now < self.next_ms[reason] {
            return None;
        }
        (self.told[reason], self.next_ms[reason]) = (total, now + PAUSE_MS);
        Some(new)
    }
}

/// What is dropped, and which key says when. `None`: whoever drops it says so, with the cause.
fn wording(reason: DropReason) -> Option<(Level, &'static str)> {
    Some(match reason {
        DropReason::SlowSubscriber => (
            Level::Warn,
            "QoS 0 messages for subscribers that read too slowly, past limits.max_output_bytes",
        ),
        DropReason::QueueFull => (
            Level::Warn,
            "messages for sessions whose queue is full, past session.max_queued_messages or \
             session.max_queued_bytes",
        ),
        DropReason::Offline => {
            (Level::Info, "QoS 0 messages for sessions that are offline (see session.queue_qos0)")
        }
        DropReason::LogFull => {
            (Level::Warn, "QoS 0 records that the log had no room for: it is slow or away")
        }
        DropReason::RetainedFull => (
            Level::Warn,
            "retained messages past limits.max_retained_messages or limits.max_retained_bytes; \
             they were delivered and not retained",
        ),
        DropReason::NoRoute => {
            (Level::Info, "publishes of clients below $SYS/, where only the node publishes")
        }
        DropReason::SessionExpired => {
            (Level::Info, "queued messages of sessions that were offline past session.expiry")
        }
        DropReason::PeerSlow => (
            Level::Warn,
            "messages for subscribers of a node that takes too little, past cluster.max_link_bytes",
        ),
        DropReason::SessionEnded => {
            (Level::Info, "messages that waited for clean sessions, which have ended")
        }
        DropReason::LogRefused | DropReason::Poisoned | DropReason::TopicCap => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_has_a_line_in_ten_seconds_with_all_that_were_dropped() {
        let mut lines = DropLines::default();
        let full = DropReason::QueueFull;
        assert_eq!(lines.due(full, 0, 0), None, "none was dropped");
        assert_eq!(lines.due(full, 3, 1), Some(3));
        assert_eq!(lines.due(full, 50, PAUSE_MS), None);
        assert_eq!(lines.due(DropReason::Offline, 1, 2), Some(1), "another reason");
        assert_eq!(lines.due(full, 60, 1 + PAUSE_MS), Some(57));
        assert_eq!(lines.due(full, 60, 9 * PAUSE_MS), None);
    }

    #[test]
    fn the_first_one_is_the_example_and_the_next_line_has_a_new_one() {
        let metrics = Metrics::new(1);
        let mut lines = DropLines::default();
        // The examples are the process's: no other test drops for this reason.
        let reason = DropReason::NoRoute;
        metrics.workers[0].drop_messages(reason, 2, format_args!("node a"));
        metrics.workers[0].drop_messages(reason, 1, format_args!("node b"));
        assert_eq!(EXAMPLES.lock()[reason as usize], "node a");
        lines.look(&metrics);
        metrics.workers[0].drop_messages(reason, 0, format_args!("nothing"));
        metrics.workers[0].drop_messages(reason, 1, format_args!("node {}", "c".repeat(9999)));
        let example = EXAMPLES.lock()[reason as usize].clone();
        assert!(example.starts_with("node cc") && example.len() <= EXAMPLE, "{example}");
    }
}
