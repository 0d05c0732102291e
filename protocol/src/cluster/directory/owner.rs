//! What the owner of a client id does with claims and with what holders say: one handover after
//! another.

use std::sync::Arc;

use super::entries::{Holder, Moving, Owned, Waiter};
use super::{Directory, MembershipView, NOBODY, REMEMBERED};
use crate::cluster::message::{Control, Handed};

impl Directory {
    pub(super) fn grant_early(&mut self) {
        if self.early.is_empty() || !self.is_synced() {
            return;
        }
        for (node, message) in std::mem::take(&mut self.early) {
            // Who has left has no use for an answer.
            if let Some(incarnation) = self.view.member(&node).map(|member| member.incarnation) {
                self.receive(&Holder { node, incarnation }, message);
            }
        }
    }

    fn node(&self, node: &Arc<str>) -> Option<Holder> {
        let incarnation = self.view.member(node)?.incarnation;
        Some(Holder { node: Arc::clone(node), incarnation })
    }

    pub(super) fn is_member(&self, holder: &Holder) -> bool {
        self.view.member(&holder.node).is_some_and(|m| m.incarnation == holder.incarnation)
    }

    /// The holder that the store has named to a claimant, unless that was itself. Used up by this.
    fn hinted(&self, claimant: &Holder, hint: &mut Option<u64>) -> Option<Holder> {
        // Of one that has a successor, the store says otherwise by now: it is asked again.
        let hint = hint.take().filter(|hint| ![NOBODY, claimant.incarnation].contains(hint))?;
        if self.taken_over.contains(&hint) {
            return None;
        }
        let node = self.view.members.iter().find(|member| member.incarnation == hint);
        // Not a member: lost, and waited for until somebody has taken it over.
        let node = node.map_or_else(|| Arc::from(""), |node| Arc::clone(&node.node_id));
        Some(Holder { node, incarnation: hint })
    }

    /// A claim at its owner.
    pub(super) fn claimed(&mut self, client: &Arc<str>, mut waiter: Waiter) {
        let Some(claimant) = self.node(&waiter.node) else { return };
        let hint = waiter.hint;
        // The store knows better than we do: it was granted to the claimant as nobody's.
        let nobodys = self
            .owned
            .get(client)
            .is_none_or(|owned| owned.moving.is_none() && owned.holder == claimant);
        let lost = self.owned.get(client).is_some_and(|owned| !self.is_member(&owned.holder));
        if lost && hint == Some(claimant.incarnation) {
            // It has it already, by a claim before this one.
            if let Some(owned) = self.owned.get_mut(client) {
                owned.holder = claimant.clone();
            }
        }
        if lost && hint == Some(NOBODY) {
            // The node that took over what it held found nothing of it.
            if let Some(owned) = self.owned.get_mut(client) {
                owned.clean = true;
            }
        }
        if (nobodys || lost)
            && let Some(holder) = self.hinted(&claimant, &mut waiter.hint)
        {
            let moving = self.owned.get_mut(client).and_then(|owned| owned.moving.take());
            self.owned
                .insert(Arc::clone(client), Owned { holder, clean: false, moving, doubted: None });
        }
        match self.owned.get_mut(client) {
            None => self.grant(client, &claimant, &waiter, None),
            Some(owned) if owned.moving.is_none() && owned.holder == claimant => {
                self.grant(client, &claimant, &waiter, None);
            }
            Some(owned) => match &mut owned.moving {
                Some(moving) => {
                    let same = |known: &&mut Waiter| {
                        known.node == waiter.node && known.request == waiter.request
                    };
                    match moving.waiters.iter_mut().find(same) {
                        Some(known) => known.hint = waiter.hint,
                        None => moving.waiters.push_back(waiter),
                    }
                    if lost {
                        self.go_on(client);
                    }
                }
                None => {
                    owned.moving = Some(Box::new(Moving::of(waiter)));
                    self.go_on(client);
                }
            },
        }
    }

    fn grant(
        &mut self,
        client: &Arc<str>,
        claimant: &Holder,
        waiter: &Waiter,
        from: Option<Handed>,
    ) {
        let owned = self.owned.entry(Arc::clone(client)).or_insert_with(|| Owned {
            holder: claimant.clone(),
            clean: waiter.clean,
            moving: None,
            doubted: None,
        });
        owned.holder = claimant.clone();
        owned.clean = waiter.clean;
        owned.doubted = None;
        self.answer(&waiter.node, Control::Granted { request: waiter.request, from });
    }

    /// Has the present holder give up what others wait for, or grants what nobody holds.
    pub(super) fn go_on(&mut self, client: &Arc<str>) {
        loop {
            let Some(owned) = self.owned.get(client) else { return };
            let Some(moving) = &owned.moving else { return };
            let Some(first) = moving.waiters.front() else {
                if let Some(owned) = self.owned.get_mut(client) {
                    owned.moving = None;
                }
                return;
            };
            let Some(claimant) = self.node(&Arc::clone(&first.node)) else {
                // Who has left has no use for it.
                self.next_waiter(client);
                continue;
            };
            let free = owned.clean && !self.is_member(&owned.holder);
            if owned.holder == claimant || free {
                let Some(mut waiter) = self.next_waiter(client) else { return };
                if self.is_elsewhere(client, &claimant, &mut waiter) {
                    self.wait_first(client, waiter);
                    continue;
                }
                self.grant(client, &claimant, &waiter, None);
                continue;
            }
            if !self.is_member(&owned.holder) {
                // Lost: until somebody has taken it over.
                return;
            }
            let (holder, to) = (owned.holder.node.clone(), Arc::clone(&claimant.node));
            let ticket = self.next_ticket;
            self.next_ticket += 1;
            if let Some(moving) = self.owned.get_mut(client).and_then(|owned| owned.moving.as_mut())
            {
                moving.ticket = ticket;
                moving.to = Some(claimant);
            }
            let client = Arc::clone(client);
            return self.send(&holder, Control::Release { ticket, client, to });
        }
    }

    fn next_waiter(&mut self, client: &str) -> Option<Waiter> {
        self.owned.get_mut(client)?.moving.as_mut()?.waiters.pop_front()
    }

    /// The store has named a holder to who is next, and that one has not been asked yet.
    fn is_elsewhere(&mut self, client: &str, claimant: &Holder, waiter: &mut Waiter) -> bool {
        let Some(holder) = self.hinted(claimant, &mut waiter.hint) else { return false };
        if let Some(owned) = self.owned.get_mut(client) {
            (owned.holder, owned.clean) = (holder, false);
        }
        true
    }

    /// A holder has said itself that it has the session: what the store had said before is over.
    fn forget_hints(&mut self, client: &str) {
        if let Some(moving) = self.owned.get_mut(client).and_then(|owned| owned.moving.as_mut()) {
            moving.waiters.iter_mut().for_each(|waiter| waiter.hint = None);
        }
    }

    fn wait_first(&mut self, client: &str, waiter: Waiter) {
        if let Some(moving) = self.owned.get_mut(client).and_then(|owned| owned.moving.as_mut()) {
            moving.waiters.push_front(waiter);
        }
    }

    pub(super) fn moved(&mut self, ticket: u64, client: &Arc<str>, handed: Option<Handed>) {
        let under_way = |owned: &Owned| owned.moving.as_ref().is_some_and(|m| m.ticket == ticket);
        if !self.owned.get(client).is_some_and(under_way) {
            return;
        }
        if handed.is_some() {
            self.forget_hints(client);
        }
        let moving = self.owned.get_mut(client).and_then(|owned| owned.moving.as_mut());
        let to = moving.and_then(|moving| moving.to.take());
        while let Some(mut waiter) = self.next_waiter(client) {
            if let Some(claimant) = self.node(&waiter.node) {
                if handed.is_some() && to.as_ref() != Some(&claimant) {
                    // What its holder keeps until it is taken is kept for the one that was lost: it takes
                    // it back, and gives it up again.
                    self.wait_first(client, waiter);
                    return self.go_on(client);
                }
                if handed.is_none() && self.is_elsewhere(client, &claimant, &mut waiter) {
                    self.wait_first(client, waiter);
                    return self.go_on(client);
                }
                self.grant(client, &claimant, &waiter, handed);
                return self.go_on(client);
            }
        }
        // Nobody is left who wants it, and its holder has given it up: who comes next finds it in
        // the store.
        self.owned.remove(client);
    }

    pub(super) fn held_by(&mut self, from: &Holder, client: &Arc<str>, clean: bool) {
        if !self.owns(client) {
            return;
        }
        let taken = self.owned.get(client).is_some_and(|owned| {
            owned.holder != *from && owned.moving.is_none() && self.is_member(&owned.holder)
                // It holds a persistent session all the same: what the other has said is older.
                && owned.doubted != Some(from.incarnation)
        });
        match self.owned.get_mut(client) {
            Some(owned) if taken => {
                // It has connected elsewhere while nobody knew of this session: that one is the
                // later one.
                owned.doubted = Some(from.incarnation);
                let (client, to) = (Arc::clone(client), Arc::clone(&owned.holder.node));
                self.send(&Arc::clone(&from.node), Control::Release { ticket: 0, client, to });
            }
            Some(owned) => {
                owned.holder = from.clone();
                owned.clean = clean;
                owned.doubted = None;
                self.forget_hints(client);
                self.go_on(client);
            }
            None => {
                let owned = Owned { holder: from.clone(), clean, moving: None, doubted: None };
                self.owned.insert(Arc::clone(client), owned);
            }
        }
    }

    pub(super) fn ended(&mut self, from: &Holder, client: &Arc<str>) {
        let Some(owned) = self.owned.get_mut(client) else { return };
        if owned.holder != *from {
            return;
        }
        match owned.moving.take() {
            None => drop(self.owned.remove(client)),
            Some(moving) => {
                // Those who wait for it need not wait: nobody holds it.
                self.owned.remove(client);
                for waiter in moving.waiters {
                    self.claimed(client, waiter);
                }
            }
        }
    }

    /// Everything that a lost incarnation held is another's, who has said so before this: what is
    /// left with it here was clean sessions.
    pub fn taken_over(&mut self, incarnation: u64) {
        if self.taken_over.contains(&incarnation) {
            return;
        }
        if self.taken_over.len() >= REMEMBERED {
            self.taken_over.pop_front();
        }
        self.taken_over.push_back(incarnation);
        self.refused.retain(|_, (of, _)| *of != incarnation);
        let mut left: Vec<Arc<str>> = self
            .owned
            .iter()
            .filter(|(_, owned)| owned.holder.incarnation == incarnation)
            .map(|(client, _)| Arc::clone(client))
            .collect();
        left.sort_unstable();
        for client in left {
            let waiting = self.owned.remove(&client).and_then(|owned| owned.moving);
            for waiter in waiting.into_iter().flat_map(|moving| moving.waiters) {
                self.claimed(&client, waiter);
            }
        }
    }

    /// Clean sessions of nodes that have left: nobody has to be asked. Holders that are back have not been.
    pub(super) fn retry(&mut self, before: &MembershipView) {
        let was = |holder: &Holder| {
            before.member(&holder.node).is_some_and(|m| m.incarnation == holder.incarnation)
        };
        for owned in self.owned.values_mut().filter(|owned| owned.holder.node.is_empty()) {
            // One that only the store had named.
            let incarnation = owned.holder.incarnation;
            let back = self.view.members.iter().find(|member| member.incarnation == incarnation);
            if let Some(member) = back {
                owned.holder.node = Arc::clone(&member.node_id);
            }
        }
        let mut stuck: Vec<Arc<str>> = self
            .owned
            .iter()
            .filter(|(_, owned)| owned.moving.is_some())
            .filter(|(_, owned)| !self.is_member(&owned.holder) || !was(&owned.holder))
            .map(|(client, _)| Arc::clone(client))
            .collect();
        stuck.sort_unstable();
        for client in stuck {
            self.go_on(&client);
        }
    }
}
