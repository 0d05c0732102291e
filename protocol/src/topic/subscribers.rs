//! The subscribers of one filter. Mostly one, kept in place; past [`MANY`] a hash map, so that ten
//! thousand subscribers of one filter come and go without a scan each.

use std::hash::Hash;

use ahash::AHashMap;
use smallvec::SmallVec;

use crate::QoS;

/// Up to here a list is searched from the front. A map is given up at half of it.
const MANY: usize = 64;

#[derive(Debug)]
pub(super) enum Subscribers<S> {
    Few(SmallVec<[(S, QoS); 1]>),
    Many(Box<AHashMap<S, QoS>>),
}

impl<S> Default for Subscribers<S> {
    fn default() -> Self {
        Self::Few(SmallVec::new())
    }
}

impl<S: Copy + Eq + Hash> Subscribers<S> {
    /// Adds, or replaces the QoS; true when it was not there.
    pub fn insert(&mut self, subscriber: S, qos: QoS) -> bool {
        match self {
            Self::Few(list) => {
                if let Some(entry) = list.iter_mut().find(|(s, _)| *s == subscriber) {
                    entry.1 = qos;
                    return false;
                }
                if list.len() < MANY {
                    list.push((subscriber, qos));
                } else {
                    let mut map: AHashMap<S, QoS> = list.drain(..).collect();
                    map.insert(subscriber, qos);
                    *self = Self::Many(Box::new(map));
                }
                true
            }
            Self::Many(map) => map.insert(subscriber, qos).is_none(),
        }
    }

    /// True when it was there.
    pub fn remove(&mut self, subscriber: S) -> bool {
        match self {
            Self::Few(list) => match list.iter().position(|(s, _)| *s == subscriber) {
                Some(at) => {
                    list.swap_remove(at);
                    true
                }
                None => false,
            },
            Self::Many(map) => {
                let removed = map.remove(&subscriber).is_some();
                if map.len() <= MANY / 2 {
                    *self = Self::Few(map.drain().collect());
                }
                removed
            }
        }
    }

    pub fn get(&self, subscriber: S) -> Option<QoS> {
        match self {
            Self::Few(list) => list.iter().find(|(s, _)| *s == subscriber).map(|(_, qos)| *qos),
            Self::Many(map) => map.get(&subscriber).copied(),
        }
    }

    pub fn is_empty(&self) -> bool {
        match self {
            Self::Few(list) => list.is_empty(),
            Self::Many(map) => map.is_empty(),
        }
    }

    pub fn collect_into(&self, out: &mut Vec<(S, QoS)>) {
        match self {
            Self::Few(list) => out.extend_from_slice(list),
            Self::Many(map) => out.extend(map.iter().map(|(s, qos)| (*s, *qos))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_and_shrinks() {
        let mut subscribers = Subscribers::default();
        for s in 0..1000u32 {
            assert!(subscribers.insert(s, QoS::AtMostOnce));
            assert!(!subscribers.insert(s, QoS::AtLeastOnce));
        }
        assert!(matches!(subscribers, Subscribers::Many(_)));
        let mut out = Vec::new();
        subscribers.collect_into(&mut out);
        out.sort();
        let expected: Vec<_> = (0..1000).map(|s| (s, QoS::AtLeastOnce)).collect();
        assert_eq!(out, expected);
        for s in 0..1000 {
            assert!(!subscribers.is_empty());
            assert!(subscribers.remove(s));
            assert!(!subscribers.remove(s));
        }
        assert!(subscribers.is_empty());
        assert!(matches!(subscribers, Subscribers::Few(_)));
    }

    #[test]
    fn one_subscriber_is_kept_in_place() {
        assert!(std::mem::size_of::<Subscribers<u64>>() <= 32);
        let mut subscribers = Subscribers::default();
        subscribers.insert(1u64, QoS::AtMostOnce);
        assert!(matches!(&subscribers, Subscribers::Few(list) if !list.spilled()));
    }
}
