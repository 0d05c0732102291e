//! What each incarnation of the other nodes wants, as PeersActor knows it: announced over its link, or read from
//! the store because there is no link to it (decision 0015).
//!
//! Invariant: what an incarnation wanted when it was lost stays until [`Wants::remove`], whatever a later start of
//! its node says.
//! Bounds: a filter of an incarnation once. An incarnation goes when its successor has announced it and every router
//! has passed its marker.

use std::collections::BTreeMap;
use std::sync::Arc;

use hydrant_protocol::cluster::message::Interest;

use crate::cluster::Recipient;

/// Changes of what an incarnation wants.
pub type Changes = Vec<(Arc<str>, Interest)>;

#[derive(Debug)]
struct Wanted {
    recipient: Recipient,
    /// Its own, and with what the store says also those that it has taken over.
    lineages: Vec<u64>,
    filters: BTreeMap<Arc<str>, Interest>,
    /// What it wants now, while it says so from the beginning.
    anew: Option<BTreeMap<Arc<str>, Interest>>,
    /// It has said everything.
    whole: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Wants(BTreeMap<u64, Wanted>);

impl Wants {
    fn entry(&mut self, recipient: Recipient) -> &mut Wanted {
        self.0.entry(recipient.incarnation).or_insert_with(|| Wanted {
            recipient,
            lineages: vec![recipient.incarnation],
            filters: BTreeMap::new(),
            anew: None,
            whole: false,
        })
    }

    /// It says from the beginning what it wants.
    pub fn begin(&mut self, recipient: Recipient, lineage: u64) {
        let wanted = self.entry(recipient);
        (wanted.lineages, wanted.anew) = (vec![lineage], Some(BTreeMap::new()));
    }

    /// It wants this from here on.
    pub fn change(&mut self, recipient: Recipient, changes: &[(Arc<str>, Interest)]) {
        let wanted = self.entry(recipient);
        for (filter, level) in changes {
            if *level == Interest::None {
                wanted.filters.remove(filter);
            } else {
                wanted.filters.insert(Arc::clone(filter), *level);
            }
            if let Some(anew) = &mut wanted.anew {
                anew.insert(Arc::clone(filter), *level);
            }
        }
    }

    /// It has said everything: what it has not said again, it does not want any more.
    pub fn end(&mut self, recipient: Recipient) -> Changes {
        let wanted = self.entry(recipient);
        wanted.whole = true;
        let Some(anew) = wanted.anew.take() else { return Vec::new() };
        let old = wanted.filters.extract_if(.., |filter, _| !anew.contains_key(filter));
        old.map(|(filter, _)| (filter, Interest::None)).collect()
    }

    /// The store says that its sessions want this.
    pub fn found(
        &mut self,
        recipient: Recipient,
        lineages: &[u64],
        filters: Vec<Arc<str>>,
    ) -> Changes {
        let wanted = self.entry(recipient);
        wanted.lineages = lineages.to_vec();
        let changes = filters.into_iter().map(|filter| (filter, Interest::Queues));
        let changes: Changes = changes.collect();
        self.change(recipient, &changes);
        changes
    }

    /// It is over, and its successor has all that it wanted.
    pub fn remove(&mut self, incarnation: u64) -> Option<(Recipient, Changes)> {
        let wanted = self.0.remove(&incarnation)?;
        let all = wanted.filters.into_keys().map(|filter| (filter, Interest::None)).collect();
        Some((wanted.recipient, all))
    }

    /// Whether anything is known of it.
    #[cfg(test)]
    pub fn knows(&self, incarnation: u64) -> bool {
        self.0.contains_key(&incarnation)
    }

    /// Whether it has announced everything itself.
    pub fn is_whole(&self, incarnation: u64) -> bool {
        self.0.get(&incarnation).is_some_and(|wanted| wanted.whole)
    }

    /// Every incarnation of which something is known.
    pub fn all(&self) -> impl Iterator<Item = Recipient> {
        self.0.values().map(|wanted| wanted.recipient)
    }

    /// The lineages that are known as one incarnation's.
    pub fn lineages_of(&self, incarnation: u64) -> Vec<u64> {
        self.0.get(&incarnation).map(|wanted| wanted.lineages.clone()).unwrap_or_default()
    }

    /// Those of a lineage that are known, below a number.
    pub fn before(&self, lineage: u64, number: u64) -> Vec<u64> {
        let its = self.0.range(..number).filter(|(_, wanted)| wanted.lineages.contains(&lineage));
        its.map(|(incarnation, _)| *incarnation).collect()
    }

    /// Those of a lineage.
    pub fn of(&self, lineage: u64) -> impl Iterator<Item = u64> {
        let its = self.0.iter().filter(move |(_, wanted)| wanted.lineages.contains(&lineage));
        its.map(|(incarnation, _)| *incarnation)
    }

    /// Whether one of this lineage is known.
    pub fn knows_of(&self, lineage: u64) -> bool {
        self.of(lineage).next().is_some()
    }

    /// Whether only the store has said what it wants.
    pub fn is_found(&self, incarnation: u64) -> bool {
        let found = |wanted: &Wanted| !wanted.whole && wanted.anew.is_none();
        self.0.get(&incarnation).is_some_and(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipient(incarnation: u64) -> Recipient {
        Recipient { node: 1, incarnation }
    }

    fn queues(filter: &str) -> (Arc<str>, Interest) {
        (filter.into(), Interest::Queues)
    }

    #[test]
    fn a_next_start_that_wants_nothing_takes_nothing_from_the_one_before() {
        let mut wants = Wants::default();
        wants.begin(recipient(1), 1);
        wants.change(recipient(1), &[queues("a")]);
        assert_eq!(wants.end(recipient(1)), []);
        wants.begin(recipient(2), 2);
        assert_eq!(wants.end(recipient(2)), []);
        assert!(wants.is_whole(2) && wants.knows(1));
        let (of, gone) = wants.remove(1).unwrap_or((recipient(0), Vec::new()));
        assert_eq!((of, gone), (recipient(1), vec![("a".into(), Interest::None)]));
        assert!(!wants.knows(1) && wants.knows(2));
    }

    #[test]
    fn what_is_not_said_again_is_not_wanted_any_more() {
        let mut wants = Wants::default();
        assert_eq!(wants.found(recipient(1), &[1], vec!["a".into(), "b".into()]).len(), 2);
        assert!(!wants.is_whole(1));
        wants.begin(recipient(1), 1);
        wants.change(recipient(1), &[queues("b")]);
        assert_eq!(wants.end(recipient(1)), [("a".into(), Interest::None)]);
        assert!(wants.is_whole(1));
    }

    #[test]
    fn the_earlier_ones_of_a_lineage_are_found() {
        let mut wants = Wants::default();
        wants.begin(recipient(3), 3);
        wants.begin(recipient(5), 3);
        wants.begin(recipient(7), 7);
        assert_eq!((wants.before(3, 9), wants.before(3, 5)), (vec![3, 5], vec![3]));
        assert!(wants.knows_of(7) && !wants.knows_of(5));
        assert_eq!(wants.of(3).collect::<Vec<_>>(), [3, 5]);
    }
}
