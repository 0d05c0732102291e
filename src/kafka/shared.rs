//! What the log and its two threads share, and how they wake each other.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::admission::Admissions;
use super::errors::refused;
use super::options::KafkaOptions;
use super::producer::Sent;
use super::reporter::Reporter;
use super::slots::Slots;
use super::topics::{Offer, Topics};

/// What a lock protects: the producers in use and where each topic's records go.
pub(super) struct State {
    pub(super) slots: Slots,
    pub(super) topics: Topics,
}

/// What the log and its two threads share.
pub(super) struct LogThreads {
    pub(super) options: KafkaOptions,
    pub(super) node_id: Arc<str>,
    pub(super) reporter: Arc<Reporter>,
    pub(super) admissions: Admissions,
    pub(super) state: Mutex<State>,
    pub(super) stopping: AtomicBool,
    pub(super) brokers: AtomicUsize,
    /// Topics whose replication was looked at.
    pub(super) looked_at: Mutex<HashSet<Arc<str>>>,
    pub(super) poll_wake: (Mutex<bool>, Condvar),
    pub(super) topics_wake: (Mutex<bool>, Condvar),
    /// So many records wait that a topic may have its share of those that may.
    pub(super) crowded: AtomicBool,
}

pub(super) fn wake(signal: &(Mutex<bool>, Condvar)) {
    *signal.0.lock() = true;
    signal.1.notify_one();
}

pub(super) fn wait(signal: &(Mutex<bool>, Condvar), at_most: Duration) {
    let mut woken = signal.0.lock();
    if !*woken {
        signal.1.wait_for(&mut woken, at_most);
    }
    *woken = false;
}

impl LogThreads {
    pub(super) fn wake_poll_thread(&self) {
        wake(&self.poll_wake);
    }

    pub(super) fn wait_for_topics(&self, at_most: Duration) {
        wait(&self.topics_wake, at_most);
    }

    /// Sleeps, whoever calls, but not through a stop.
    pub(super) fn pause(&self, time: Duration) {
        if !self.stopping.load(Ordering::Acquire) {
            std::thread::sleep(time);
        }
    }

    /// Sends waiting records of topics that exist, as far as there is room.
    pub(super) fn drain(&self, state: &mut State) {
        let State { slots, topics } = state;
        let (reporter, options) = (&self.reporter, &self.options);
        let ask = topics.drain(Instant::now(), |class, record| {
            match slots.send(class, record, &self.node_id, options, reporter) {
                Sent::Taken => Offer::Sent,
                Sent::Full | Sent::Closed => Offer::Closed,
                Sent::Failed(error) => {
                    reporter.failed(record.id(), error);
                    Offer::Settled
                }
            }
        });
        if ask {
            wake(&self.topics_wake);
        }
    }

    pub(super) fn note_crowd(&self, state: &State) {
        let crowded = state.topics.is_crowded(self.options.shared_max());
        self.crowded.store(crowded, Ordering::Release);
    }

    /// Refuses the records of topics that nobody has mended.
    pub(super) fn give_up(&self, state: &mut State) {
        // While Kafka is away nobody can mend anything.
        if !self.reporter.up.load(Ordering::Acquire) {
            return;
        }
        for (why, records) in state.topics.give_up(self.options.park_time, Instant::now()) {
            for record in records {
                self.reporter.failed(record.id(), refused(record.topic(), &why));
            }
        }
    }
}
