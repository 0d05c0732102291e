//! ZooKeeper: an entry a member, which ends when its node has not been heard of for the session time-out. It shows each
//! node its members late, leaves views out, and shows an old one where a newer one is on its way.

use hydrant_protocol::cluster::link::VERSIONS;
use hydrant_protocol::cluster::{Load, Member, MembershipView};

use crate::clock::MS;
use crate::event::{Event, NodeEvent};
use crate::network::Process;
use crate::roster::name;
use crate::world::World;

impl World {
    fn present_view(&self) -> MembershipView {
        let member = |(index, incarnation): (&usize, &u64)| Member {
            node_id: name(*index),
            incarnation: *incarnation,
            peer: name(*index).to_string(),
            mqtt: Vec::new(),
            version: "0".to_owned(),
            protocol: VERSIONS,
            load: Load::default(),
            draining: false,
        };
        let members = self.zookeeper.members.iter().map(member).collect();
        MembershipView { generation: self.zookeeper.generation, members, current: true }
    }

    /// A node wants its entry. It waits for the entry of an earlier start to end.
    pub fn register(&mut self, process: Process) {
        let (index, incarnation) = process;
        if self.zookeeper.members.get(&index) == Some(&incarnation)
            || self.zookeeper.withdrawn.contains(&process)
        {
            return;
        }
        let hidden = self.is_silent(index);
        if hidden || self.zookeeper.members.contains_key(&index) {
            return self.later(100 * MS, process, NodeEvent::Register);
        }
        self.note(|| format!("n{} ({incarnation}) is a member", index + 1));
        self.zookeeper.members.insert(index, incarnation);
        self.members_changed();
    }

    /// Its entry is to stand there, or not.
    pub fn present(&mut self, process: Process, present: bool) {
        let (index, incarnation) = process;
        if self.is_silent(index) {
            // It is done when it reaches ZooKeeper again; its entry ends meanwhile.
            if present {
                self.zookeeper.withdrawn.remove(&process);
            } else {
                self.zookeeper.withdrawn.insert(process);
            }
            return;
        }
        let is_member = self.zookeeper.members.get(&index) == Some(&incarnation);
        if !present && is_member {
            self.note(|| format!("n{} ({incarnation}) takes itself out of the members", index + 1));
            self.counts.withdrawn += 1;
            self.zookeeper.members.remove(&index);
            self.zookeeper.withdrawn.insert(process);
            self.members_changed();
        } else if present && self.zookeeper.withdrawn.remove(&process) {
            self.register(process);
        }
    }

    /// A node leaves, or has not been heard of.
    pub fn deregister(&mut self, process: Process) {
        let (index, incarnation) = process;
        if self.zookeeper.members.get(&index) == Some(&incarnation) {
            self.zookeeper.members.remove(&index);
            self.note(|| format!("n{} ({incarnation}) is no member any more", index + 1));
            self.members_changed();
        }
    }

    /// The session of a process ends, if it was not heard of since.
    pub fn expire(&mut self, process: Process, since: u64) {
        let silent = !self.lives(process) || self.zookeeper.silent.get(&process.0) == Some(&since);
        if silent {
            self.deregister(process);
        }
    }

    fn is_silent(&self, index: usize) -> bool {
        self.zookeeper.silent.contains_key(&index)
    }

    fn members_changed(&mut self) {
        self.zookeeper.generation += 1;
        for index in 0..self.nodes.len() {
            self.show_members(index);
        }
    }

    /// A node learns of it in its own time: of the members as they are now, or only of later ones.
    pub fn show_members(&mut self, index: usize) {
        let process = self.process(index);
        if self.nodes[index].node.is_none() || self.is_silent(index) {
            return;
        }
        // One that has never stood there follows nobody yet.
        let seen = self.zookeeper.seen.get(&process).copied();
        if seen.is_none() && self.zookeeper.members.get(&index) != Some(&process.1) {
            return;
        }
        if seen == Some(self.zookeeper.generation) || !self.zookeeper.pending.insert(index) {
            return;
        }
        let late = if self.random.one_in(4) { 300 } else { 20 };
        let delay = self.random.between(MS, late * MS);
        let view = self.present_view();
        self.later(delay, process, NodeEvent::View(view));
    }

    /// A view has come; where the members have changed since, another one follows.
    pub fn has_seen(&mut self, process: Process, generation: u64) {
        self.zookeeper.seen.insert(process, generation);
        self.zookeeper.pending.remove(&process.0);
        self.show_members(process.0);
    }

    /// Nobody waits for what was on its way to an earlier start.
    pub fn forget_views(&mut self, index: usize) {
        self.zookeeper.pending.remove(&index);
    }

    /// It is heard of again, or no longer.
    pub fn hear(&mut self, index: usize) {
        let silent = self.nodes[index].paused || self.nodes[index].isolated;
        let process = self.process(index);
        if silent && !self.is_silent(index) {
            let since = self.clock.now;
            self.zookeeper.silent.insert(index, since);
            let session = crate::settings::SESSION.as_micros() as u64;
            let delay = self.random.between(session / 2, session);
            self.clock.after(delay, Event::Expire { process, since });
        }
        if !silent && self.zookeeper.silent.remove(&index).is_some() && self.lives(process) {
            if self.zookeeper.members.get(&index) == Some(&process.1) {
                self.show_members(index);
            } else {
                // Its session has ended: it registers anew, in the same incarnation.
                self.later(MS, process, NodeEvent::Register);
            }
        }
    }
}
