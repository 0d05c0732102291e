//! How much of what all topics share one topic may have.
//!
//! librdkafka sends a batch again for as long as its topic has too few in-sync replicas, and says
//! nothing of it. So that such records do not fill the producer that all topics share, a topic has
//! at most [`PART`] times as many records and bytes there as are free; its later ones wait in its
//! backlog. Where n topics want more than that, one part of 1 + n x [`PART`] stays free for others
//! (Choudhury and Hahne, "Dynamic queue length thresholds", 1998). Of what waits in backlogs each
//! topic has at most as much as is free, where its records have another place: they stay in the
//! outbox.
//!
//! A topic with a backlog, of which Kafka has acknowledged nothing for [`SILENCE`] or which is parked
//! without an end, is *stuck*: its backlog takes no room from others until it is gone. Whoever hands
//! the records over keeps each until it is reported, so `log.max_pending_*` bounds that backlog.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::trouble::CLASSES;
use super::waiting::Waiting;

/// Of a producer a topic may have so many times what is free. One that Kafka takes is fastest without a
/// backlog, and may be the only one.
const PART: usize = 3;
/// A topic that records wait for is stuck after so long without an acknowledgement.
pub(super) const SILENCE: Duration = Duration::from_secs(1);

/// Records and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub records: usize,
    pub bytes: usize,
}

impl Size {
    pub const MAX: Self = Self { records: usize::MAX, bytes: usize::MAX };

    /// One record of so many bytes.
    pub fn one(bytes: usize) -> Self {
        Self { records: 1, bytes }
    }

    pub fn of(records: &VecDeque<Waiting>) -> Self {
        Self { records: records.len(), bytes: records.iter().map(Waiting::cost).sum() }
    }

    pub fn add(&mut self, other: Self) {
        self.records += other.records;
        self.bytes += other.bytes;
    }

    pub fn take(&mut self, other: Self) {
        self.records = self.records.saturating_sub(other.records);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

/// Records of one topic that a producer has reported, one after another. The bytes are those of the
/// payloads: what librdkafka counts.
#[derive(Debug)]
pub(super) struct Settled {
    pub topic: String,
    pub acknowledged: bool,
    pub size: Size,
}

/// What a topic has in the queues of producers and has no report of.
#[derive(Debug, Default)]
pub(super) struct Share {
    inside: Size,
    /// When one of these was acknowledged last, or the first of them was handed over.
    moved: Option<Instant>,
}

impl Share {
    /// One more is handed over.
    fn put(&mut self, bytes: usize, now: impl FnOnce() -> Instant) {
        if self.inside.records == 0 {
            self.moved = Some(now());
        }
        self.inside.add(Size::one(bytes));
    }

    /// Kafka has acknowledged some of it.
    pub fn acknowledged(&mut self, now: Instant) {
        self.moved = Some(now);
    }

    /// Kafka has acknowledged nothing for [`SILENCE`].
    pub fn is_silent(&self, now: Instant) -> bool {
        let silent = |moved: Instant| now.duration_since(moved) >= SILENCE;
        self.inside.records > 0 && self.moved.is_some_and(silent)
    }
}

/// The queues of the producers, by class.
#[derive(Debug)]
pub(super) struct Queues {
    max: [Size; CLASSES],
    inside: [Size; CLASSES],
}

impl Default for Queues {
    fn default() -> Self {
        Self::new([Size::MAX; CLASSES])
    }
}

impl Queues {
    pub fn new(max: [Size; CLASSES]) -> Self {
        Self { max, inside: [Size::default(); CLASSES] }
    }

    /// Whether one more record of so many bytes is within a topic's share. The first always is:
    /// the producer says whether there is room.
    pub fn takes(&self, class: usize, share: &Share, bytes: usize) -> bool {
        let mut free = self.max[class];
        free.take(self.inside[class]);
        let own = share.inside;
        own.records == 0
            || own.records < free.records.saturating_mul(PART)
                && own.bytes.saturating_add(bytes) <= free.bytes.saturating_mul(PART)
    }

    /// A producer has one more record of the topic.
    pub fn put(
        &mut self,
        class: usize,
        share: &mut Share,
        bytes: usize,
        now: impl FnOnce() -> Instant,
    ) {
        self.inside[class].add(Size::one(bytes));
        share.put(bytes, now);
    }

    /// A producer has so much less, of a topic that may be forgotten.
    pub fn settle(&mut self, class: usize, share: Option<&mut Share>, size: Size) {
        self.inside[class].take(size);
        if let Some(share) = share {
            share.inside.take(size);
        }
    }

    /// Nothing is in any producer that is in use.
    pub fn clear(&mut self) {
        self.inside = [Size::default(); CLASSES];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(queues: &mut Queues, share: &mut Share, bytes: usize, now: Instant) -> usize {
        let mut taken = 0;
        while queues.takes(0, share, bytes) {
            queues.put(0, share, bytes, || now);
            taken += 1;
        }
        taken
    }

    #[test]
    fn topics_that_nothing_is_acknowledged_of_leave_room_for_one_more() {
        let now = Instant::now();
        let mut queues = Queues::new([Size { records: 1_000, bytes: 1 << 30 }; CLASSES]);
        let mut taken = 0;
        for most in [750, 188, 47, 12] {
            let got = fill(&mut queues, &mut Share::default(), 10, now);
            assert_eq!(got, most);
            taken += got;
        }
        assert!(taken < 1_000);
        let mut bytes = Queues::new([Size { records: 1_000, bytes: 10_000 }; CLASSES]);
        assert_eq!(fill(&mut bytes, &mut Share::default(), 100, now), 75);
        assert_eq!(
            fill(&mut bytes, &mut Share::default(), 100_000, now),
            1,
            "the producer decides"
        );
    }

    #[test]
    fn what_is_reported_gives_the_share_back() {
        let now = Instant::now();
        let mut queues = Queues::new([Size { records: 10, bytes: 1_000 }; CLASSES]);
        let mut share = Share::default();
        assert_eq!(fill(&mut queues, &mut share, 10, now), 8);
        queues.settle(0, Some(&mut share), Size { records: 2, bytes: 20 });
        assert_eq!(fill(&mut queues, &mut share, 10, now), 2);
        // A topic that is forgotten leaves nothing behind.
        queues.settle(0, None, share.inside);
        assert_eq!(queues.inside[0], Size::default());
    }

    #[test]
    fn a_topic_is_silent_from_its_first_record_or_its_last_acknowledgement_on() {
        let start = Instant::now();
        let mut queues = Queues::default();
        let mut share = Share::default();
        assert!(!share.is_silent(start + SILENCE), "it has nothing there");
        queues.put(0, &mut share, 1, || start);
        queues.put(0, &mut share, 1, || start + SILENCE);
        assert!(!share.is_silent(start + SILENCE / 2));
        assert!(share.is_silent(start + SILENCE));
        share.acknowledged(start + SILENCE);
        assert!(!share.is_silent(start + SILENCE));
        queues.settle(0, Some(&mut share), Size { records: 2, bytes: 2 });
        assert!(!share.is_silent(start + SILENCE * 5));
        queues.put(0, &mut share, 1, || start + SILENCE * 5);
        assert!(!share.is_silent(start + SILENCE * 5), "a burst after a pause");
    }
}
