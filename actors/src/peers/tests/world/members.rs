//! The membership of the nodes of a test, as ZooKeeper would tell it, at once.

use std::future::ready;
use std::sync::Arc;

use hydrant_protocol::cluster::{Load, Member, MembershipView};
use tokio::sync::watch;

use super::{Node, State, World};
use crate::ports::{Membership, MembershipFuture};

impl World {
    pub(super) fn tell(state: &mut State) {
        state.generation += 1;
        for (observer, sender) in &state.views {
            let shown = |member: &Member| {
                let way = (Arc::clone(observer), Arc::clone(&member.node_id));
                let peer = state.ways.get(&way).unwrap_or(&member.peer).clone();
                Member { peer, ..member.clone() }
            };
            let members = state.members.values().map(shown).collect();
            sender.send_replace(MembershipView {
                generation: state.generation,
                members,
                current: true,
            });
        }
    }

    /// From here on a node reaches another there.
    pub fn way(&self, from: &str, to: &str, peer: String) {
        self.0.lock().ways.insert((from.into(), to.into()), peer);
    }

    /// The node is dead: it is no member any more and its lease has ended.
    pub fn bury(&self, node_id: &str, incarnation: u64) {
        let mut state = self.0.lock();
        state.members.remove(node_id);
        state.dead.insert(incarnation);
        state.views.retain(|(id, _)| **id != *node_id);
        Self::tell(&mut state);
    }

    /// A node that the membership has lost and that lives: it stands there no longer.
    pub fn hide(&self, node_id: &str) -> Option<Member> {
        let mut state = self.0.lock();
        let member = state.members.remove(node_id);
        Self::tell(&mut state);
        member
    }

    /// It is back, in the same start.
    pub fn show(&self, member: Member) {
        let mut state = self.0.lock();
        state.members.insert(Arc::clone(&member.node_id), member);
        Self::tell(&mut state);
    }
}

impl Membership for Node {
    fn join(&self, me: Member) -> MembershipFuture<watch::Receiver<MembershipView>> {
        let mut state = self.world.0.lock();
        let (sender, receiver) = watch::channel(MembershipView::default());
        state.views.push((Arc::clone(&me.node_id), sender));
        // Whoever was started anew is dead.
        let before = state.members.insert(Arc::clone(&me.node_id), me);
        state.dead.extend(before.map(|before| before.incarnation));
        World::tell(&mut state);
        Box::pin(ready(Ok(receiver)))
    }

    fn update(&self, _: Load, _: bool) {}

    fn present(&self, present: bool) {
        let mut state = self.world.0.lock();
        let me = self.incarnation;
        if present {
            let Some(member) = state.withdrawn.remove(&me) else { return };
            state.members.insert(Arc::clone(&member.node_id), member);
        } else {
            let mine = state.members.values().find(|member| member.incarnation == me).cloned();
            let Some(member) = mine else { return };
            state.members.remove(&member.node_id);
            state.withdrawn.insert(me, member);
        }
        World::tell(&mut state);
    }

    fn leave(&self) -> MembershipFuture<()> {
        Box::pin(ready(Ok(())))
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}
