//! What is wrong with one Kafka topic, and where its records go meanwhile.
//!
//! A topic in trouble leaves the producer that all share. Where its batches are too large, by what
//! Kafka says about it or because one was refused, its records go through a producer with smaller
//! ones, the last of which sends each record by itself; after a while Kafka is asked again, and each
//! time that it comes back in vain the while is twice as long. Where it takes nothing at all it is *parked*: its records wait, and now and then the first one is
//! tried. A topic changes its producer only when nothing of it is outstanding in the one before, so
//! its order holds.

use std::sync::Arc;
use std::time::{Duration, Instant};

/// Producers there can be: one for all, then ones with batches of an eighth and a 64th, then one
/// that sends each record by itself.
pub(super) const CLASSES: usize = 4;
/// The class of the producer that sends each record by itself.
pub(super) const LAST: usize = CLASSES - 1;
/// A topic stays with smaller batches for so long, the first time and at most.
const HOLD: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));
/// A parked topic is tried after so long, at first and at most.
const PROBE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Bytes that a batch of the class may have, where a batch of all has `batch_size`.
pub(super) fn batch_bytes(class: usize, batch_size: usize) -> usize {
    (batch_size >> (3 * class)).max(1)
}

/// The class for a topic that takes batches of at most so many bytes.
pub(super) fn fitting(limit: Option<usize>, batch_size: usize) -> usize {
    let Some(limit) = limit else { return 0 };
    (0..LAST).find(|class| batch_bytes(*class, batch_size) <= limit).unwrap_or(LAST)
}

/// What happened to a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A batch of so many bytes was too large; `None`: one of its records is not acceptable, and
    /// nobody knows which.
    Split(Option<usize>),
    /// One of its records was refused, and more may be: each stops the producer it came through.
    Aside,
    /// It takes nothing, for this reason; `limited`: its records wait for `kafka.park_time` only.
    Park { why: Arc<str>, limited: bool },
    /// Kafka has to be asked about it.
    Look,
}

/// A topic takes nothing for now.
#[derive(Debug)]
pub(super) struct Parked {
    pub why: Arc<str>,
    /// Its records wait for `kafka.park_time` only.
    pub limited: bool,
    /// Since when the records that wait do so, at most.
    pub since: Instant,
    /// When it is tried next.
    pub probe: Instant,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Trouble {
    /// The producer its records go to.
    class: usize,
    /// When Kafka is asked what it takes now.
    until: Instant,
    hold: Duration,
    wait: Duration,
    /// Records of it that a producer of its own class has and has not reported.
    pub outstanding: usize,
    pub parked: Option<Parked>,
    /// When Kafka was last asked about it because of a failure.
    looked: Option<Instant>,
}

/// Where the records of a topic go now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// To the producer of this class.
    Class(usize),
    /// The first one to the producer of this class, to see whether it is taken.
    Probe(usize),
    /// Nowhere yet.
    Nowhere,
    /// Nowhere before Kafka was asked about it.
    Ask,
}

impl Trouble {
    pub fn new(now: Instant) -> Self {
        Self {
            class: 0,
            until: now,
            hold: Duration::ZERO,
            wait: PROBE.0,
            outstanding: 0,
            parked: None,
            looked: None,
        }
    }

    /// Something happened in the producer of class `from`.
    pub fn add(&mut self, kind: &Kind, from: usize, batch_size: usize, now: Instant) {
        match kind {
            Kind::Split(bytes) => {
                let fits = |class: &usize| {
                    bytes.is_some_and(|bytes| batch_bytes(*class, batch_size) < bytes)
                };
                self.class = (from + 1..LAST).find(fits).unwrap_or(LAST);
                self.hold(from, now);
            }
            Kind::Aside if from == 0 => {
                self.class = 1;
                self.hold(from, now);
            }
            Kind::Aside => {}
            Kind::Park { why, limited } => self.park(why, *limited, now),
            Kind::Look => {
                // Once more at once, then no more often than a parked topic is tried.
                let again = self.looked.is_some_and(|at| now.duration_since(at) < PROBE.1);
                self.looked = Some(now);
                if again {
                    self.park(
                        &Arc::from("Kafka does not know it, or one of its partitions"),
                        false,
                        now,
                    );
                }
            }
        }
    }

    /// It stays away from the producer of all, longer each time that it comes from there.
    fn hold(&mut self, from: usize, now: Instant) {
        if from == 0 {
            self.hold = (self.hold * 2).clamp(HOLD.0, HOLD.1);
        }
        self.until = now + self.hold;
    }

    /// It takes nothing, or still nothing.
    pub fn park(&mut self, why: &Arc<str>, limited: bool, now: Instant) {
        let since = match &self.parked {
            Some(parked) => {
                self.wait = (self.wait * 2).min(PROBE.1);
                parked.since
            }
            None => {
                self.wait = PROBE.0;
                now
            }
        };
        self.parked = Some(Parked { why: why.clone(), limited, since, probe: now + self.wait });
    }

    /// Where its records go now.
    pub fn place(&mut self, now: Instant) -> Place {
        if let Some(parked) = &self.parked {
            let due = now >= parked.probe && self.outstanding == 0;
            return if due { Place::Probe(LAST) } else { Place::Nowhere };
        }
        if self.class > 0 && now >= self.until {
            return if self.outstanding > 0 { Place::Nowhere } else { Place::Ask };
        }
        Place::Class(self.class)
    }

    /// Kafka was asked: the topic takes batches of at most so many bytes, where it said so. Nothing
    /// of it is outstanding.
    pub fn told(&mut self, limit: Option<usize>, batch_size: usize, now: Instant) {
        self.parked = None;
        self.class = fitting(limit, batch_size);
        self.until = now + HOLD.1;
    }

    /// Its records may go where those of all go.
    pub fn is_over(&self) -> bool {
        self.parked.is_none() && self.class == 0
    }

    /// A record of it was acknowledged while it was parked: it takes records, by itself at first.
    pub fn probed(&mut self, now: Instant) {
        self.parked = None;
        self.class = LAST;
        self.until = now + PROBE.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BATCH: usize = 1 << 20;

    #[test]
    fn a_batch_that_was_too_large_goes_in_smaller_ones_down_to_one_record() {
        let now = Instant::now();
        let class_after = |bytes, from| {
            let mut trouble = Trouble::new(now);
            trouble.add(&Kind::Split(bytes), from, BATCH, now);
            trouble.class
        };
        assert_eq!(class_after(Some(BATCH), 0), 1);
        assert_eq!(class_after(Some(100_000), 0), 2);
        assert_eq!(class_after(Some(100_000), 1), 2);
        assert_eq!(class_after(Some(9_000), 0), LAST);
        assert_eq!(class_after(Some(BATCH), LAST), LAST);
        assert_eq!(class_after(None, 0), LAST, "one of the records, and nobody knows which");
        let mut trouble = Trouble::new(now);
        trouble.add(&Kind::Aside, 0, BATCH, now);
        assert_eq!(trouble.class, 1, "the record is known and refused, the topic goes aside");
    }

    #[test]
    fn what_a_topic_takes_says_where_it_goes() {
        for (limit, class) in
            [(1_048_588, 0), (1_000_000, 1), (131_072, 1), (20_000, 2), (600, LAST)]
        {
            assert_eq!(fitting(Some(limit), BATCH), class, "{limit}");
        }
        assert_eq!(fitting(None, BATCH), 0);
    }

    #[test]
    fn a_topic_comes_back_when_nothing_of_it_is_outstanding_and_stays_away_longer_each_time() {
        let mut now = Instant::now();
        let mut trouble = Trouble::new(now);
        for hold in [10, 20, 40] {
            trouble.add(&Kind::Split(Some(9_000)), 0, BATCH, now);
            trouble.outstanding = 1;
            assert_eq!(trouble.place(now), Place::Class(LAST));
            now += Duration::from_secs(hold - 1);
            assert_eq!(trouble.place(now), Place::Class(LAST));
            now += Duration::from_secs(1);
            assert_eq!(trouble.place(now), Place::Nowhere, "one is outstanding");
            trouble.outstanding = 0;
            assert_eq!(trouble.place(now), Place::Ask);
            trouble.told(None, BATCH, now);
            assert_eq!(trouble.place(now), Place::Class(0));
            assert!(trouble.is_over());
        }
        trouble.told(Some(200_000), BATCH, now);
        assert_eq!(trouble.place(now), Place::Class(1));
        assert_eq!(trouble.place(now + HOLD.1), Place::Ask);
    }

    #[test]
    fn a_parked_topic_is_tried_ever_more_seldom_and_counts_from_its_first_failure() {
        let start = Instant::now();
        let mut trouble = Trouble::new(start);
        let park = Kind::Park { why: "no".into(), limited: true };
        let mut now = start;
        for wait in [500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000] {
            trouble.add(&park, LAST, BATCH, now);
            assert_eq!(trouble.place(now), Place::Nowhere);
            now += Duration::from_millis(wait);
            assert_eq!(trouble.place(now), Place::Probe(LAST));
        }
        assert_eq!(trouble.parked.as_ref().map(|parked| parked.since), Some(start));
        trouble.probed(now);
        assert_eq!(trouble.place(now), Place::Class(LAST));
        assert_eq!(trouble.place(now + PROBE.0), Place::Ask);
    }

    #[test]
    fn a_topic_that_is_unknown_again_and_again_is_not_asked_for_without_a_pause() {
        let now = Instant::now();
        let mut trouble = Trouble::new(now);
        trouble.add(&Kind::Look, 0, BATCH, now);
        assert!(trouble.parked.is_none());
        trouble.add(&Kind::Look, 0, BATCH, now);
        assert!(trouble.parked.is_some_and(|parked| !parked.limited && parked.probe > now));
    }
}
