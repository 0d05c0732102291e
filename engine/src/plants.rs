//! Mistakes that a test plants in a machine, to see that the simulation finds them. Only builds with the feature
//! `plants` have them, which no release has: in all others [`is`] is false, and the compiler leaves the mistake out.
//!
//! Invariant: a plant is one thread's. Histories are played on one thread each.

/// What is done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// Nothing.
    None,
    /// The store accepts writes from whoever sends them.
    NoFencing,
    /// The answer to one write stands for those behind it.
    EarlyAcknowledgement,
    /// A write that may not have been done counts as done.
    FailureIsDone,
    /// The answer to a batch for another node stands for those before it.
    PastHoles,
    /// A successor queues again what the lost node had stored.
    SuccessorDoubles,
    /// A source does not wait for the markers.
    NoMarkers,
}

#[cfg(feature = "plants")]
mod planted {
    use std::cell::Cell;

    use super::Plant;

    thread_local! {
        static PLANT: Cell<Plant> = const { Cell::new(Plant::None) };
    }

    /// From now on this is done wrong on this thread.
    pub fn plant(plant: Plant) {
        PLANT.set(plant);
    }

    /// Whether this is done wrong.
    pub fn is(plant: Plant) -> bool {
        PLANT.get() == plant
    }
}

#[cfg(feature = "plants")]
pub use planted::{is, plant};

/// Whether this is done wrong.
#[cfg(not(feature = "plants"))]
#[inline(always)]
pub const fn is(_: Plant) -> bool {
    false
}
