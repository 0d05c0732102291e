//! What the whole-program tests share: a node of the real binary ([`node`]), a raw MQTT client
//! that can also break every rule ([`client`]), and waiting for a condition without sleeping for
//! it ([`eventually`]).
//!
//! Every wait has a deadline. Processes end by their own id, also when the test process dies.

#![allow(dead_code)]

#[cfg(feature = "servers")]
pub mod cassandra;
pub mod client;
pub mod command;
#[cfg(feature = "servers")]
pub mod forwarder;
#[cfg(feature = "servers")]
pub mod haproxy;
#[cfg(feature = "servers")]
pub mod kafka;
#[cfg(feature = "servers")]
pub mod load;
pub mod node;
pub mod packets;
pub mod process;
#[cfg(feature = "servers")]
pub mod server;
#[cfg(feature = "servers")]
pub mod zookeeper;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub use client::{Client, Packet};
pub use node::Node;

/// How long anything may take that is expected to come soon. Generous: two cores are shared with
/// other tests.
pub const SOON: Duration = Duration::from_secs(30);

/// Polls until the condition holds.
///
/// # Panics
/// With `what` when it does not in time.
#[track_caller]
pub fn eventually(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !condition() {
        assert!(Instant::now() < end, "waited {deadline:?} in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Returns when this time is over, such as that of an outage.
pub fn wait_out(time: Duration) {
    let end = Instant::now() + time;
    eventually(2 * time + SOON, "the time is over", || Instant::now() >= end);
}

/// Each of these parts is in what was said.
///
/// # Panics
/// With the part that is not.
#[track_caller]
pub fn says(said: &str, parts: &[impl AsRef<str>]) {
    for part in parts {
        let part = part.as_ref();
        assert!(said.contains(part), "no '{part}' in:\n{said}");
    }
}

/// A name no other test uses, beginning with `prefix`.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("{prefix}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Random numbers from a printed seed: a failure can be repeated with `HYDRANT_SEED`.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// From `HYDRANT_SEED`, else from the clock; prints which.
    pub fn new() -> Self {
        let seed = std::env::var("HYDRANT_SEED").ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or_else(|| {
            #[allow(clippy::disallowed_methods)]
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(1, |since| since.as_nanos() as u64)
        });
        eprintln!("seed {seed}: HYDRANT_SEED={seed} repeats this");
        Self::seeded(seed)
    }

    /// From this seed.
    pub fn seeded(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// A number below `bound` (xorshift64*).
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % bound.max(1)
    }
}
