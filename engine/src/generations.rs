//! Which cached routes a change of subscriptions makes stale.
//!
//! A change of a filter without wildcards is about one topic, so it touches the routes of one stripe of topics. So a
//! storm of clients that subscribe to topics of their own leaves the cached routes of other topics alone. Any other
//! change touches every route.
//!
//! Invariants: a generation only rises. Whoever changes a table calls [`Generations::changed`] after it has left the
//! table's lock; whoever makes a route reads the generation before it looks at a table. So a route that lacks a change
//! has a generation below the present one. Two topics of one stripe cost a look-up more, and nothing else.
//! Bounds: `STRIPES` counters.

use std::sync::atomic::{AtomicU64, Ordering};

use ahash::RandomState;

/// Counters: a subscribe storm touches one of so many for each subscription.
const STRIPES: usize = 1024;

/// The stripe of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stripe(u16);

/// See the module.
#[derive(Debug)]
pub struct Generations {
    every: AtomicU64,
    stripes: Box<[AtomicU64]>,
    hasher: RandomState,
}

impl Default for Generations {
    fn default() -> Self {
        let stripes = (0..STRIPES).map(|_| AtomicU64::new(0)).collect();
        Self { every: AtomicU64::new(0), stripes, hasher: RandomState::new() }
    }
}

impl Generations {
    /// The stripe of a topic; the same for as long as this lives.
    #[inline]
    pub fn stripe(&self, topic: &str) -> Stripe {
        #[allow(clippy::cast_possible_truncation, reason = "below STRIPES")]
        Stripe((self.hasher.hash_one(topic) % STRIPES as u64) as u16)
    }

    /// The generation of the routes of a stripe. Both counters only rise, so their sum is the same only while both are.
    #[inline]
    pub fn of(&self, stripe: Stripe) -> u64 {
        let its = self.stripes.get(usize::from(stripe.0));
        let its = its.map_or(0, |its| its.load(Ordering::Acquire));
        its + self.every.load(Ordering::Acquire)
    }

    /// A subscription to this filter was made, changed or ended.
    #[inline]
    pub fn changed(&self, filter: &str) {
        if filter.contains(['+', '#']) {
            return self.all_changed();
        }
        let Stripe(stripe) = self.stripe(filter);
        if let Some(its) = self.stripes.get(usize::from(stripe)) {
            its.fetch_add(1, Ordering::Release);
        }
    }

    /// Something changed that concerns topics nobody names.
    #[inline]
    pub fn all_changed(&self) {
        self.every.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exact_filter_touches_its_own_topic_and_a_wildcard_all() {
        let generations = Generations::default();
        let topics: Vec<String> = (0..200).map(|n| format!("device/{n}/x")).collect();
        let stripes: Vec<Stripe> = topics.iter().map(|topic| generations.stripe(topic)).collect();
        let now = || stripes.iter().map(|stripe| generations.of(*stripe)).collect::<Vec<u64>>();
        let before = now();
        generations.changed(&topics[7]);
        let after = now();
        assert!(after[7] > before[7]);
        let touched = after.iter().zip(&before).filter(|(after, before)| after != before).count();
        assert!(touched < 20, "{touched} of 200");
        for wildcard in ["device/+/x", "#"] {
            let before = now();
            generations.changed(wildcard);
            assert!(now().iter().zip(&before).all(|(after, before)| after > before), "{wildcard}");
        }
        let before = now();
        generations.all_changed();
        assert!(now().iter().zip(&before).all(|(after, before)| after > before));
    }
}
