//! Who owns what: consistent hashing with virtual nodes (Karger et al., 1997).
//!
//! Every node computes the same answer from the same members, in whatever order it learnt of them.
//! A member that joins takes its share of every other's keys, and no key moves between two others;
//! one that leaves gives its keys to all others.
//!
//! Invariant: the hash is XXH3-64 of fixed bytes and the points of a member depend on its id alone,
//! for ever, so that nodes of two versions agree.
//! Bounds: [`VIRTUAL_NODES`] points of 12 bytes a member; a look-up is one binary search.

use std::sync::Arc;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Points of one member on the ring. The share of a member scatters by about one in the square root
/// of this: 6 %.
pub const VIRTUAL_NODES: u32 = 256;

/// What is owned. Client ids and filters are hashed apart, so that a filter like a client id need
/// not have that client's owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key<'a> {
    /// A client identifier: its owner knows where it is connected.
    Client(&'a str),
    /// A topic filter without wildcard: its owner knows which nodes want it.
    Filter(&'a str),
}

impl Key<'_> {
    /// Its place on the ring.
    pub fn hash(self) -> u64 {
        let (kind, text) = match self {
            Self::Client(id) => (b'c', id),
            Self::Filter(filter) => (b'f', filter),
        };
        let mut hasher = Xxh3::new();
        hasher.update(&[kind]);
        hasher.update(text.as_bytes());
        hasher.digest()
    }
}

/// The members of a cluster, on a circle.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ring {
    /// Sorted, without a repetition.
    members: Vec<Arc<str>>,
    /// Sorted by place; the index of its member beside it. A place that two members share belongs
    /// to the one with the lower id.
    points: Vec<(u64, u32)>,
}

impl Ring {
    /// The ring of these members; one that is named twice counts once.
    pub fn new(members: impl IntoIterator<Item = Arc<str>>) -> Self {
        let mut members: Vec<Arc<str>> = members.into_iter().collect();
        members.sort_unstable();
        members.dedup();
        let mut points = Vec::with_capacity(members.len() * VIRTUAL_NODES as usize);
        let mut text = Vec::new();
        for (index, member) in (0_u32..).zip(&members) {
            text.clear();
            text.extend_from_slice(member.as_bytes());
            // An id has no zero byte, so no two pairs of id and number are the same bytes.
            text.push(0);
            for number in 0..VIRTUAL_NODES {
                text.truncate(member.len() + 1);
                text.extend_from_slice(&number.to_be_bytes());
                points.push((xxh3_64(&text), index));
            }
        }
        points.sort_unstable();
        points.dedup_by_key(|(place, _)| *place);
        Self { members, points }
    }

    /// Its members, in the order of their ids.
    pub fn members(&self) -> &[Arc<str>] {
        &self.members
    }

    /// Who owns it; `None` without members.
    pub fn owner(&self, key: Key<'_>) -> Option<&Arc<str>> {
        let place = key.hash();
        let at = self.points.partition_point(|(point, _)| *point < place);
        let (_, index) = self.points.get(at).or_else(|| self.points.first())?;
        self.members.get(*index as usize)
    }

    /// Whether this member owns it.
    pub fn owns(&self, member: &str, key: Key<'_>) -> bool {
        self.owner(key).is_some_and(|owner| **owner == *member)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    const KEYS: u32 = 20_000;

    fn ids(count: usize, salt: u64) -> Vec<Arc<str>> {
        (0..count).map(|n| format!("node-{salt:x}-{n}").into()).collect()
    }

    fn owners(ring: &Ring) -> Vec<Arc<str>> {
        (0..KEYS)
            .map(|n| Arc::clone(ring.owner(Key::Client(&format!("device-{n}"))).unwrap()))
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// Joining or leaving moves at most 1.5/N of the keys, all of them to or from that member.
        #[test]
        fn a_join_moves_its_share_and_nothing_else(count in 1_usize..20, salt: u64, which: Index) {
            let all = ids(count + 1, salt);
            let joining = which.get(&all).clone();
            let before = Ring::new(all.iter().filter(|id| **id != joining).cloned());
            let after = Ring::new(all.clone());
            let mut moved = 0;
            for (old, new) in owners(&before).iter().zip(owners(&after)) {
                if *old != new {
                    prop_assert_eq!(&new, &joining);
                    moved += 1;
                }
            }
            let share = f64::from(moved) / f64::from(KEYS);
            prop_assert!(share <= 1.5 / (count + 1) as f64, "{} of {}", share, count + 1);
        }

        #[test]
        fn the_order_in_which_members_are_learnt_does_not_matter(
            members in Just(ids(7, 1)).prop_shuffle(),
            twice: Index,
        ) {
            let again = Arc::clone(twice.get(&members));
            prop_assert_eq!(Ring::new(members.into_iter().chain([again])), Ring::new(ids(7, 1)));
        }
    }

    #[test]
    fn every_member_has_about_its_share() {
        let ring = Ring::new(ids(5, 3));
        let owners = owners(&ring);
        for member in ring.members() {
            let share = owners.iter().filter(|owner| *owner == member).count() as f64 * 5.0;
            let share = share / f64::from(KEYS);
            assert!((0.75..1.25).contains(&share), "{member}: {share}");
        }
    }

    /// A change of these moves every session of a cluster that is upgraded node by node.
    #[test]
    fn the_answers_never_change() {
        let ring = Ring::new(["n1", "n2", "n3"].map(Arc::from));
        let of = |key: Key<'_>| ring.owner(key).unwrap().to_string();
        let clients: Vec<String> =
            (0..8).map(|n| of(Key::Client(&format!("device-{n}")))).collect();
        assert_eq!(clients.join(" "), "n2 n2 n2 n2 n2 n1 n3 n3");
        assert_eq!(of(Key::Filter("device-0")), "n2");
    }

    #[test]
    fn nobody_owns_anything_without_members() {
        assert_eq!(Ring::default().owner(Key::Client("c")), None);
        let alone = Ring::new(["n1".into()]);
        assert!(alone.owns("n1", Key::Filter("f")) && !alone.owns("n2", Key::Filter("f")));
    }
}
