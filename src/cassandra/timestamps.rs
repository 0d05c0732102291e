//! Write timestamps: the logical clock that decides which of two writes to a cell is the later one.
//!
//! An incarnation begins with its number above [`COUNTER_BITS`], so that it is above every one
//! before it. Where it takes something over from one whose write timestamps are higher still, its clock jumps
//! above them (a Lamport clock). How far an incarnation's write timestamps may reach stands in its row before
//! it gives them, so that whoever takes over from it knows above what to begin.
//!
//! Invariants: [`Timestamps::next`] rises; below [`Timestamps::until`], as long as its callers ask
//! [`Timestamps::left`] first. Two living incarnations may give the same write timestamp, but not for the same
//! session: whoever takes one is above all that its holder gave.
//! Bounds: 63 bits.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bits below an incarnation's number: 1.8e13 write timestamps, 200 days of a million a second.
pub(super) const COUNTER_BITS: u32 = 44;
/// Bits of an incarnation's number: half a million starts in a keyspace. A write timestamp is positive.
pub(super) const NUMBER_BITS: u32 = 63 - COUNTER_BITS;
/// What is reserved at once, after a jump and when half of it is given: ten minutes of a million a
/// second, renewed with the lease. There is room for 8.6e9 of them.
pub(super) const RESERVE: u64 = 1 << 30;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Timestamps {
    last: AtomicU64,
    until: AtomicU64,
}

/// Up to where an incarnation's write timestamps may reach that never reserved any.
pub(super) const fn first_until(number: u64) -> u64 {
    ((number + 1) << COUNTER_BITS) - 1
}

impl Timestamps {
    /// Of an incarnation that begins.
    pub(super) const fn new(number: u64) -> Self {
        Self {
            last: AtomicU64::new(number << COUNTER_BITS),
            until: AtomicU64::new(first_until(number)),
        }
    }

    /// The next write timestamp.
    pub(super) fn next(&self) -> u64 {
        self.last.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The write timestamp that was given last: no one is below what comes next.
    pub(super) fn last(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    /// The highest that may be given.
    pub(super) fn until(&self) -> u64 {
        self.until.load(Ordering::Acquire)
    }

    /// How many may still be given.
    pub(super) fn left(&self) -> u64 {
        self.until().saturating_sub(self.last())
    }

    /// All that come next are above `above`, which is reserved.
    pub(super) fn jump(&self, above: u64) {
        self.last.fetch_max(above, Ordering::AcqRel);
    }

    /// They are reserved up to here.
    pub(super) fn reserved(&self, until: u64) {
        self.until.fetch_max(until, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_start_is_above_and_a_jump_goes_only_up() {
        let (old, new) = (Timestamps::new(7), Timestamps::new(8));
        assert!(new.next() > old.until() && new.until() > new.last());
        assert_eq!(old.left(), (1 << COUNTER_BITS) - 1);
        // A session moves to the older one, and back.
        old.reserved(new.until() + RESERVE);
        old.jump(new.until());
        assert!(old.next() > new.until() && old.left() == RESERVE - 1);
        new.reserved(old.until() + RESERVE);
        new.jump(old.until());
        assert!(new.next() > old.until());
        let last = new.last();
        new.jump(5);
        new.reserved(5);
        assert_eq!((new.last(), new.left()), (last, RESERVE - 1));
    }
}
