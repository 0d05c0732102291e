//! What the store says of every incarnation, read after this node's own entry in ZooKeeper stands, with each view
//! and every few seconds (decision 0015): which are lost although this node never met them, and what their sessions
//! want while nobody has announced it.
//!
//! Invariant: before this node is synced, whatever a persistent session of the cluster wants is known here, from its
//! holder's link or from the store.
//! Bounds: one survey at a time; one read a lineage.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::coordinator::Coordinator;
use super::state::link::PeerLink;
use super::state::lost::Lost;
use super::state::requests::{Purpose, Request};
use super::state::survey::Untold;
use super::{NodeIndex, Recipient};
use crate::now::Boot;
use crate::ports::KnownIncarnation;

/// Ticks of PeersActor between two surveys: five seconds.
const EVERY: u32 = 10;
/// The interest of a member whose link is down for so long is read from the store.
const UNREACHED: Duration = Duration::from_secs(5);

impl Coordinator {
    /// The members have changed, or some time has passed.
    pub(super) fn begin_survey(&mut self) {
        if std::mem::replace(&mut self.survey.running, true) {
            self.survey.again = true;
            return;
        }
        (self.survey.again, self.survey.ticks) = (false, 0);
        self.ask(Purpose::Survey, Request::Incarnations);
    }

    pub(super) fn survey_tick(&mut self) {
        if self.directory.view().members.is_empty() {
            return;
        }
        self.survey.ticks += 1;
        if self.survey.ticks >= EVERY || (self.survey.again && !self.survey.running) {
            self.begin_survey();
        }
        self.find_lost();
        self.read_wanted();
    }

    /// The store has answered.
    pub(super) fn surveyed(&mut self, rows: Option<Vec<KnownIncarnation>>) {
        self.survey.running = false;
        let Some(rows) = rows else {
            self.survey.again = true;
            return;
        };
        (self.survey.rows, self.survey.done) = (rows, true);
        if self.survey.again {
            self.begin_survey();
        }
        self.find_lost();
        self.read_wanted();
        self.read_again();
        let rows: BTreeSet<u64> = self.survey.rows.iter().map(|row| row.number).collect();
        self.forget_origins(|origin| rows.contains(&origin));
    }

    /// What is only found in the store is read again with each survey: the incarnation may live, out of sight.
    fn read_again(&mut self) {
        let found = |row: &&KnownIncarnation| {
            self.wants.is_found(row.number) && !self.survey.reading.contains(&row.number)
        };
        let again = self.survey.rows.iter().filter(found).cloned();
        let again: Vec<Untold> =
            again.map(|of| Untold { lineages: self.wants.lineages_of(of.number), of }).collect();
        again.into_iter().for_each(|untold| self.read(untold));
    }

    /// Incarnations at the end of a chain of owners that are no members are lost, whoever saw them be one.
    fn find_lost(&mut self) {
        let me = self.cluster.incarnation;
        let mut lost = Vec::new();
        for row in &self.survey.rows {
            // Or its owner is gone, and has not taken it along.
            let ownerless = row.owner != me
                && row.owner != row.number
                && !self.survey.rows.iter().any(|other| other.number == row.owner);
            let end = row.owner == row.number && row.number != me || ownerless;
            if end && !self.is_member(row.number) && !self.is_over(row.number) {
                // One that ended in order may be back soon, and this node never met it.
                let met = self.wants.is_whole(row.number);
                let wait = if row.released && !met { row.lease } else { Duration::ZERO };
                lost.push((row.number, Arc::clone(&row.node), wait));
            }
        }
        for recipient in self.wants.all() {
            let incarnation = recipient.incarnation;
            let up = self
                .links
                .iter()
                .any(|link| link.link.is_up() && link.link.peer_incarnation() == Some(incarnation));
            let sealed = self
                .survey
                .rows
                .iter()
                .any(|row| row.number == incarnation && row.owner != row.number);
            let gone = !up && !sealed && !self.is_member(incarnation) && !self.is_over(incarnation);
            if gone && self.wants.is_whole(incarnation) {
                lost.push((incarnation, self.name(recipient.node), Duration::ZERO));
            }
        }
        for (incarnation, node, wait) in lost {
            self.lost.entry(incarnation).or_insert_with(|| Lost::after(node, self.now.boot, wait));
        }
    }

    fn is_member(&self, incarnation: u64) -> bool {
        self.directory.view().members.iter().any(|member| member.incarnation == incarnation)
    }

    /// Lineages that are others' and whose wishes nobody has told, each group as one incarnation's. Of a member, the
    /// last of a lineage. What an owner that is no member has is one orphaned state, whoever announces it: one group,
    /// known as its first, so that a publish is kept for it once.
    fn untold(&self) -> Vec<Untold> {
        let me = self.cluster.incarnation;
        let mut ends: BTreeMap<u64, [&KnownIncarnation; 2]> = BTreeMap::new();
        for row in self.survey.rows.iter().filter(|row| row.owner != me) {
            let [first, last] = ends.entry(row.lineage).or_insert([row; 2]);
            if row.number < first.number {
                *first = row;
            }
            if row.number > last.number {
                *last = row;
            }
        }
        let mut untold: Vec<Untold> = Vec::new();
        for (lineage, [first, last]) in ends {
            let member = self.is_member(last.owner);
            let of = if member { last } else { first };
            if self.is_over(of.number) || self.wants.knows_of(lineage) {
                continue;
            }
            let its = |known: &&mut Untold| !member && known.of.owner == of.owner;
            match untold.iter_mut().find(its) {
                Some(group) => {
                    group.lineages.push(lineage);
                    if of.number < group.of.number {
                        group.of = of.clone();
                    }
                }
                None => untold.push(Untold { of: of.clone(), lineages: vec![lineage] }),
            }
        }
        untold
    }

    /// Whether nobody is going to tell it soon, so that it is read from the store.
    fn stays_untold(&self, row: &KnownIncarnation) -> bool {
        if !self.is_member(row.owner) {
            return true;
        }
        // A member tells what it began with in its greeting, and later what it has taken over since.
        let link = self.links.iter().find(|link| link.is_incarnation(row.owner));
        self.wants.is_whole(row.owner) || link.is_none_or(|link| is_unreached(link, self.now.boot))
    }

    fn read_wanted(&mut self) {
        let mut unread = self.untold();
        unread.retain(|untold| {
            !self.survey.reading.contains(&untold.of.number) && self.stays_untold(&untold.of)
        });
        unread.into_iter().for_each(|untold| self.read(untold));
    }

    fn read(&mut self, untold: Untold) {
        self.survey.reading.insert(untold.of.number);
        let lineages = untold.lineages.clone();
        self.ask(Purpose::Untold(untold), Request::Wanted { lineages });
    }

    /// The store has said what the sessions of an incarnation want: this node keeps for it from here on.
    pub(super) fn wanted_found(&mut self, untold: &Untold, filters: Option<Vec<Arc<str>>>) {
        let Untold { of, lineages } = untold;
        self.survey.reading.remove(&of.number);
        // Somebody has told it meanwhile. What is only found may be more by now.
        let told = |lineage: &u64| {
            let mut known = self.wants.of(*lineage);
            known.any(|known| known != of.number || !self.wants.is_found(known))
        };
        let told = self.is_over(of.number) || lineages.iter().any(told);
        let Some(filters) = filters.filter(|_| !told) else { return };
        let recipient = Recipient { node: self.place_of(&of.node), incarnation: of.number };
        let changes = self.wants.found(recipient, lineages, filters);
        self.apply(recipient, &changes);
    }

    /// The link to a node, a lost start of this one included: it is there only to keep what is for it.
    fn place_of(&mut self, node: &Arc<str>) -> NodeIndex {
        if self.link_of(node).is_none() {
            self.add(node);
        }
        self.link_of(node).map_or(NodeIndex::MAX, |link| link.index)
    }

    /// What this start waits for before clients may come; `None`: nothing.
    pub(super) fn waits_for(&self) -> Option<String> {
        let view = self.directory.view();
        if view.members.is_empty() {
            return Some("its own entry in ZooKeeper".to_owned());
        }
        if !self.survey.done {
            return Some("the store to say which incarnations there are".to_owned());
        }
        let silent = |link: &&PeerLink| {
            let told = link.member.as_ref().is_none_or(|member| self.wants.is_whole(member.1));
            let missing = self.directory.is_missing(&link.node.id);
            link.is_member() && (!told || missing) && !is_unreached(link, self.now.boot)
        };
        if let Some(link) = self.links.iter().find(silent) {
            return Some(format!("member {} to say what it wants and holds", link.node.id));
        }
        self.untold().first().map(|untold| {
            let KnownIncarnation { node, number, .. } = &untold.of;
            format!("the store to say what sessions of node {node} (incarnation {number}) want")
        })
    }

    /// Whether every session of the cluster is with a member that has told so.
    pub(super) fn nobody_is_absent(&self) -> bool {
        self.lost.is_empty()
            && self.wants.all().all(|recipient| self.is_member(recipient.incarnation))
    }
}

fn is_unreached(link: &PeerLink, now: Boot) -> bool {
    link.is_down_for(now, UNREACHED)
}
