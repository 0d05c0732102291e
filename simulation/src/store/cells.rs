//! A table of cells as Cassandra keeps it: of two writes of one cell the one with the higher stamp counts, in whatever
//! order they come.
//!
//! Invariants: what a delete removed is not brought back by a write with a lower stamp that comes later. Iteration is
//! in the order of the keys.
//! Bounds: deletes of single cells stay for ever, as if `gc_grace_seconds` were never over; so do deletes of ranges, of
//! which one that holds the one before takes its place.

use std::collections::BTreeMap;
use std::ops::{Bound, Range, RangeBounds};

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Cells<K, V> {
    rows: BTreeMap<K, (u64, Option<V>)>,
    deleted: Vec<(Range<K>, u64)>,
    /// The highest stamp of `deleted`.
    highest: u64,
}

impl<K, V> Default for Cells<K, V> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), deleted: Vec::new(), highest: 0 }
    }
}

impl<K: Ord + Clone, V> Cells<K, V> {
    /// Writes a cell.
    pub(super) fn put(&mut self, key: K, value: V, stamp: u64) {
        self.set(key, Some(value), stamp);
    }

    /// Deletes a cell.
    pub(super) fn delete(&mut self, key: K, stamp: u64) {
        self.set(key, None, stamp);
    }

    fn set(&mut self, key: K, value: Option<V>, stamp: u64) {
        let is_deleted = |(range, above): &(Range<K>, u64)| stamp <= *above && range.contains(&key);
        if stamp <= self.highest && self.deleted.iter().any(is_deleted) {
            return;
        }
        match self.rows.get(&key) {
            Some((known, _)) if *known > stamp => {}
            // Of equal stamps the delete counts.
            Some((known, _)) if *known == stamp && value.is_some() => {}
            _ => drop(self.rows.insert(key, (stamp, value))),
        }
    }

    /// Deletes every cell of a range.
    pub(super) fn delete_range(&mut self, range: Range<K>, stamp: u64) {
        if range.start >= range.end {
            return;
        }
        let bounds = (Bound::Included(&range.start), Bound::Excluded(&range.end));
        let gone = self.rows.range::<K, _>(bounds).filter(|(_, (written, _))| *written <= stamp);
        let gone: Vec<K> = gone.map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.rows.remove(&key);
        }
        self.highest = self.highest.max(stamp);
        self.deleted.retain(|(known, before)| {
            *before > stamp || known.start < range.start || known.end > range.end
        });
        self.deleted.push((range, stamp));
    }

    /// The value of a cell.
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.rows.get(key).and_then(|(_, value)| value.as_ref())
    }

    /// The stamp of a cell that has a value.
    pub(super) fn stamp(&self, key: &K) -> Option<u64> {
        self.rows.get(key).filter(|(_, value)| value.is_some()).map(|(stamp, _)| *stamp)
    }

    /// The cells of a range that have a value.
    pub(super) fn range(&self, range: impl RangeBounds<K>) -> impl Iterator<Item = (&K, &V)> {
        self.rows.range(range).filter_map(|(key, (_, value))| Some((key, value.as_ref()?)))
    }

    /// All cells that have a value.
    pub(super) fn all(&self) -> impl Iterator<Item = (&K, &V)> {
        self.range(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(cells: &Cells<u8, &'static str>) -> Vec<(u8, &'static str)> {
        cells.all().map(|(key, value)| (*key, *value)).collect()
    }

    #[test]
    fn the_higher_stamp_counts_in_any_order() {
        let mut cells = Cells::default();
        cells.put(1, "later", 5);
        cells.put(1, "earlier", 4);
        cells.put(2, "gone", 3);
        cells.delete(2, 6);
        cells.put(2, "late", 6);
        cells.delete(3, 9);
        cells.put(3, "again", 10);
        assert_eq!(of(&cells), [(1, "later"), (3, "again")]);
        assert_eq!((cells.stamp(&1), cells.stamp(&2)), (Some(5), None));
    }

    #[test]
    fn a_deleted_range_takes_what_comes_late_and_nothing_newer() {
        let mut cells = Cells::default();
        for key in 0..6 {
            cells.put(key, "x", u64::from(key));
        }
        cells.delete_range(1..4, 2);
        assert_eq!(of(&cells), [(0, "x"), (3, "x"), (4, "x"), (5, "x")]);
        cells.put(2, "late", 2);
        cells.put(1, "new", 3);
        assert_eq!(cells.get(&2), None);
        assert_eq!(cells.get(&1), Some(&"new"));
        // A wider and later one takes the place of the first.
        cells.delete_range(0..5, 9);
        assert_eq!((of(&cells), cells.deleted.len()), (vec![(5, "x")], 1));
        cells.delete_range(3..3, 9);
        assert_eq!(cells.deleted.len(), 1);
    }
}
