//! Where wills stand: one row each, by the connection that left it, so that one client's several stand side by side.
//!
//! A row of this incarnation is a *place*: the smallest number that was free when the will came, after NUL in the
//! column `client_id`, which no client id can hold. So a client that comes and goes leaves neither a row nor a
//! tombstone behind: the end of a will empties its place, and another will gets it. Rows of schema version 4 are keyed
//! by client id.
//!
//! Whose they are: the rows of an incarnation are written and read by its owner alone, which changes by a conditional
//! write (see [`super::incarnation`]). Of two that seal it one succeeds, and only that one reads the wills. So a will
//! is claimed with its incarnation, once. An incarnation that was sealed and comes back late writes nothing and lets
//! nothing leave it: its lease is over. What it had under way then can only be what it wrote before: a will that
//! nobody was told of, or an end that nobody waits for.
//!
//! Invariants: a place is given again only when no plan that wrote it can be planned again. A will that has ended is
//! not put again by such a plan.
//! Bounds: an entry a will that is kept or was found, and one for each that ended within [`SETTLED`](super::memory)
//! plans.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use ahash::AHashMap;
use hydrant_actors::ports::StoredWill;

use super::columns::WILL_SHARDS;

/// A will that schema version 4 has left has the number of its incarnation, shifted by so much.
const UNNUMBERED: u32 = 40;

/// Client id and connection.
pub(super) type Name = (Arc<str>, u64);

/// A row of the table `will`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) incarnation: u64,
    pub(super) shard: i32,
    /// The column `client_id`.
    pub(super) key: String,
}

impl Place {
    fn of(incarnation: u64, slot: u32) -> Self {
        #[allow(clippy::cast_possible_wrap, reason = "below WILL_SHARDS")]
        let shard = (slot % WILL_SHARDS.unsigned_abs()) as i32;
        Self { incarnation, shard, key: format!("\0{slot}") }
    }

    /// Whose will stands there, by the columns that schema version 4 has not.
    pub(super) fn holds(&self, name: Option<String>, connection: Option<u64>) -> Name {
        match (name, connection) {
            (Some(name), Some(connection)) => (name.into(), connection),
            _ => (Arc::from(&*self.key), self.incarnation << UNNUMBERED),
        }
    }
}

#[derive(Debug)]
struct Known {
    place: Place,
    /// Its number among the places of this incarnation.
    slot: Option<u32>,
    /// It has ended, durably.
    ended: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Wills {
    known: AHashMap<Name, Known>,
    /// Places that were used and are free; the first that was never used.
    free: Vec<u32>,
    next: u32,
    /// How many are left of each dead incarnation.
    left: BTreeMap<u64, usize>,
    /// Those that ended, and by which plan.
    ended: VecDeque<(u64, Name)>,
}

impl Wills {
    /// Where this will is to stand; `None`: it has ended, and this is an earlier plan that is made again.
    pub(super) fn put(&mut self, me: u64, name: &Name) -> Option<Place> {
        if let Some(known) = self.known.get(name) {
            return (!known.ended).then(|| known.place.clone());
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        });
        let place = Place::of(me, slot);
        let known = Known { place: place.clone(), slot: Some(slot), ended: false };
        self.known.insert(name.clone(), known);
        Some(place)
    }

    /// Where it stands, to be emptied. `None`: it never stood anywhere, or has ended.
    pub(super) fn end(&self, name: &Name) -> Option<Place> {
        self.known.get(name).filter(|known| !known.ended).map(|known| known.place.clone())
    }

    /// A dead incarnation has left it.
    pub(super) fn found(&mut self, place: Place, will: &StoredWill) {
        let name = (Arc::clone(&will.client_id), will.connection);
        let incarnation = place.incarnation;
        let known = Known { place, slot: None, ended: false };
        if self.known.insert(name, known).is_none() {
            *self.left.entry(incarnation).or_default() += 1;
        }
    }

    /// Something is left of a dead incarnation.
    pub(super) fn has(&self, incarnation: u64) -> bool {
        self.left.contains_key(&incarnation)
    }

    /// The end of it is durable.
    pub(super) fn ended(&mut self, name: &Name, plan: u64) {
        let Some(known) = self.known.get_mut(name).filter(|known| !known.ended) else { return };
        known.ended = true;
        let incarnation = known.place.incarnation;
        if known.slot.is_none()
            && let Some(left) = self.left.get_mut(&incarnation)
        {
            *left -= 1;
            if *left == 0 {
                self.left.remove(&incarnation);
            }
        }
        self.ended.push_back((plan, name.clone()));
    }

    /// No plan before this one can be made again.
    pub(super) fn settled(&mut self, before: u64) {
        while let Some((_, name)) = self.ended.pop_front_if(|(plan, _)| *plan < before) {
            self.free.extend(self.known.remove(&name).and_then(|known| known.slot));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use cdrs_tokio::types::value::Value;
    use hydrant_actors::ports::StoreOp;

    use super::super::db::Bound;
    use super::super::memory::Memory;
    use super::super::plan::plan;
    use super::super::planned::Plan;
    use super::super::recover::remember_wills;
    use super::super::statements::Statement;
    use super::super::timestamps::Timestamps;
    use super::*;

    fn name(connection: u64) -> Name {
        ("c".into(), connection)
    }

    #[test]
    fn wills_of_one_client_stand_side_by_side_and_places_are_given_again() {
        let mut wills = Wills::default();
        let first = wills.put(9, &name(1)).unwrap();
        let second = wills.put(9, &name(2)).unwrap();
        assert_ne!(first, second);
        assert_eq!(wills.put(9, &name(1)).as_ref(), Some(&first), "planned again");
        assert_eq!(wills.end(&name(1)).as_ref(), Some(&first));
        wills.ended(&name(1), 5);
        assert_eq!((wills.end(&name(1)), wills.end(&name(3))), (None, None));
        assert_eq!(wills.put(9, &name(1)), None, "an earlier plan does not bring it back");
        wills.settled(5);
        assert_ne!(wills.put(9, &name(3)).unwrap(), first);
        wills.settled(6);
        assert_eq!(wills.put(9, &name(4)).unwrap(), first);
        assert_eq!((wills.known.len(), wills.next), (3, 3));
    }

    #[test]
    fn a_place_is_read_as_it_was_written_and_so_is_a_row_of_before() {
        let place = Wills::default().put(9, &name(7)).unwrap();
        assert!(place.key.starts_with('\0'));
        assert_eq!(place.holds(Some("c".into()), Some(7)), name(7));
        let old = Place { incarnation: 9, shard: 3, key: "c".into() };
        assert_eq!(old.holds(None, None), name(9 << 40));
    }

    fn will(connection: u64) -> StoredWill {
        let message = hydrant_protocol::Message {
            topic: "t".into(),
            payload: connection.to_be_bytes().to_vec().into(),
            qos: hydrant_protocol::QoS::AtMostOnce,
            retain: false,
            properties: None,
        };
        StoredWill { client_id: "c".into(), connection, message: message.into() }
    }

    #[test]
    fn what_the_dead_have_left_is_counted_until_it_ends() {
        let mut wills = Wills::default();
        for connection in [1, 2] {
            let place = Place::of(4, u32::try_from(connection).unwrap());
            // Found again, it is the same.
            wills.found(place.clone(), &will(connection));
            wills.found(place, &will(connection));
        }
        wills.ended(&name(1), 1);
        assert!(wills.has(4) && !wills.has(5));
        wills.ended(&name(1), 2);
        wills.ended(&name(2), 2);
        assert!(!wills.has(4));
        wills.settled(9);
        assert!(wills.free.is_empty() && wills.known.is_empty(), "their places are not ours");
    }

    /// Incarnations in whose rows a plan writes wills, and whether it puts one.
    fn written(plan: &Plan) -> Vec<(u64, bool)> {
        let bounds = plan.single.iter().chain(plan.batches.iter().flatten());
        let of = |bound: &Bound| match (&bound.values[0], bound.statement) {
            (Value::Some(number), Statement::PutWill | Statement::KeepWill) => Some((
                u64::from_be_bytes(number[..].try_into().unwrap()),
                bound.statement == Statement::KeepWill,
            )),
            _ => None,
        };
        bounds.filter_map(of).collect()
    }

    /// The client is back with another will: what lost nodes have left of it is due all the same, all of it.
    #[test]
    fn a_new_will_leaves_those_of_lost_incarnations() {
        let mut memory = Memory::new(9, Arc::new(Timestamps::new(9)));
        let left = [(5, 3), (4, 1), (4, 2)]
            .map(|(incarnation, connection)| (Place::of(incarnation, 0), will(connection)));
        let due = remember_wills(&mut memory, left.into());
        assert_eq!(due, [will(1), will(2), will(3)]);
        let put = plan(&mut memory, &[StoreOp::PutWill { will: will(7) }]).unwrap();
        assert_eq!(written(&put), [(9, true)]);
        memory.succeeded(&put);
        let mut end = |connection| {
            let op = StoreOp::DeleteWill { client_id: "c".into(), connection };
            let planned = plan(&mut memory, &[op]).unwrap();
            memory.succeeded(&planned);
            (written(&planned), [4, 5].map(|dead| memory.wills.has(dead)))
        };
        assert_eq!(end(1), (vec![(4, false)], [true, true]));
        assert_eq!(end(3), (vec![(5, false)], [true, false]));
        assert_eq!(end(2), (vec![(4, false)], [false, false]));
        assert_eq!(end(7), (vec![(9, false)], [false, false]));
        // Planned again, behind a write that failed: neither comes back.
        assert_eq!(end(7).0, []);
        assert_eq!(written(&plan(&mut memory, &[StoreOp::PutWill { will: will(7) }]).unwrap()), []);
    }
}
