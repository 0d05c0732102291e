//! Nodes that start and end, are stopped or cut off, and how ZooKeeper tells the others.

use std::sync::Arc;

use super::clock::{MS, SECOND};
use super::event::{Event, NodeEvent};
use super::network::Process;
use super::node::{Effect, Node, Setup};
use super::store::{Answer, LEASE};
use super::world::World;
use crate::cluster::{Load, Member, MembershipView};

/// ZooKeeper's session time-out.
const SESSION: u64 = 2 * SECOND;

impl World {
    pub fn start(&mut self, index: usize) {
        if self.nodes[index].node.is_some() {
            return;
        }
        let now = self.clock.now;
        let open = |it: &&u64| !self.store.sealed.contains_key(*it);
        let open: Vec<u64> = self.nodes[index].starts.iter().filter(open).copied().collect();
        let over = |it: &u64| self.store.leases.get(it).is_none_or(|until| *until < now);
        if self.members.contains_key(&index) || !open.iter().all(over) {
            return self.clock.after(100 * MS, Event::Start(index));
        }
        self.incarnations += 1;
        let incarnation = self.incarnations;
        let (mut continued, mut sessions) = (Vec::new(), Vec::new());
        for before in open {
            if let Some(orphaned) = self.store.seal(now, incarnation, before) {
                continued.extend(orphaned.incarnations);
                sessions.extend(orphaned.sessions);
            }
        }
        self.store.leases.insert(incarnation, now + LEASE);
        self.note(|| format!("n{} starts as {incarnation}, goes on with {continued:?}", index + 1));
        let open = self.open(index);
        let slot = &mut self.nodes[index];
        let setup = Setup {
            index,
            names: Arc::clone(&self.names),
            incarnation,
            workers: slot.workers,
            config: self.config.clone(),
            mistake: self.mistake,
            lease_until: now + LEASE,
            traced: self.trace.is_some(),
            continued,
            sessions,
            open,
        };
        slot.node = Some(Node::new(setup, now));
        slot.incarnation = incarnation;
        slot.starts.push(incarnation);
        (slot.paused, slot.silent) = (false, None);
        (slot.isolated, slot.viewed) = (false, 0);
        slot.deferred.clear();
        slot.held.clear();
        slot.scheduled.clear();
        slot.timers.clear();
        slot.dialling.clear();
        let process = (index, incarnation);
        let delay = self.random.between(1, 500) * MS;
        self.later(delay, process, NodeEvent::Tick);
        self.later(LEASE / 4, process, NodeEvent::Renew);
        self.register(process);
        self.after(process);
    }

    /// Incarnations of others that nobody has sealed, and what living nodes have of sealed ones.
    fn open(&self, but: usize) -> Vec<(usize, u64)> {
        let nodes = self.nodes.iter().enumerate();
        let starts = nodes.flat_map(|(index, slot)| slot.starts.iter().map(move |it| (index, *it)));
        let lives = |by: u64| self.nodes.iter().any(|it| it.node.is_some() && it.incarnation == by);
        starts
            .filter(|(index, incarnation)| match self.store.sealed.get(incarnation) {
                Some(by) => lives(*by),
                None => *index != but,
            })
            .collect()
    }

    /// ZooKeeper has its entry, now or soon.
    pub fn register(&mut self, process: Process) {
        let slot = &self.nodes[process.0];
        let acts = slot.node.as_ref().is_some_and(|node| node.may_act());
        if self.members.get(&process.0) == Some(&process.1) {
            return;
        }
        if slot.isolated || !acts || self.members.contains_key(&process.0) {
            return self.later(100 * MS, process, NodeEvent::Register);
        }
        self.note(|| format!("n{} ({}) is a member", process.0 + 1, process.1));
        self.members.insert(process.0, process.1);
        self.send_members();
    }

    pub fn expire(&mut self, process: Process, since: u64) {
        let slot = &self.nodes[process.0];
        let silent = !self.lives(process) || slot.silent == Some(since);
        if silent && self.members.get(&process.0) == Some(&process.1) {
            self.members.remove(&process.0);
            self.note(|| format!("n{} ({}) is no member any more", process.0 + 1, process.1));
            self.send_members();
        }
    }

    fn members(&self) -> MembershipView {
        let member = |(index, incarnation): (&usize, &u64)| Member {
            node_id: Arc::clone(&self.names[*index]),
            incarnation: *incarnation,
            peer: String::new(),
            mqtt: Vec::new(),
            version: String::new(),
            protocol: (1, 1),
            load: Load::default(),
            draining: false,
        };
        let members = self.members.iter().map(member).collect();
        MembershipView { generation: self.generation, members, current: true }
    }

    /// Each learns of it in its own time.
    fn send_members(&mut self) {
        self.generation += 1;
        for index in 0..self.nodes.len() {
            if self.nodes[index].node.is_some() && !self.nodes[index].isolated {
                self.send_member(index);
            }
        }
    }

    /// What ZooKeeper has now; not of a node that it does not know.
    pub fn send_member(&mut self, index: usize) {
        let process = self.process(index);
        if self.members.get(&index) != Some(&process.1) {
            return;
        }
        let view = self.members();
        let late = if self.random.one_in(4) { 300 } else { 20 };
        let delay = self.random.between(MS, late * MS);
        let at = (self.clock.now + delay).max(self.nodes[index].viewed);
        self.nodes[index].viewed = at;
        self.clock.at(at, Event::At(process, NodeEvent::Members(view)));
    }

    /// Its process ends, and with it its connections.
    pub fn crash(&mut self, index: usize) {
        let process = self.process(index);
        if self.nodes[index].node.take().is_none() {
            return;
        }
        for (connection, _) in self.network.of(process) {
            self.close(connection, process);
        }
        let delay = self.random.between(SESSION / 2, SESSION);
        self.clock.after(delay, Event::Expire { process, since: 0 });
        self.clients_lose(process, MS);
    }

    /// It is heard of again, or no longer.
    pub fn hear(&mut self, index: usize) {
        let silent = self.nodes[index].paused || self.nodes[index].isolated;
        let process = self.process(index);
        if silent && self.nodes[index].silent.is_none() {
            let since = self.clock.now;
            self.nodes[index].silent = Some(since);
            let delay = self.random.between(SESSION / 2, SESSION);
            self.clock.after(delay, Event::Expire { process, since });
            if self.random.one_in(2) {
                self.clients_lose(process, 1500 * MS);
            }
        }
        if !silent && self.nodes[index].silent.take().is_some() && self.lives(process) {
            if self.members.get(&index) != Some(&process.1) {
                // Others have gone on without its markers.
                self.effect(process, Effect::Exit("it is no member any more"));
            } else {
                self.send_member(index);
            }
        }
    }

    pub fn resume(&mut self, index: usize) {
        if !std::mem::replace(&mut self.nodes[index].paused, false) {
            return;
        }
        let process = self.process(index);
        self.note(|| format!("n{} goes on", index + 1));
        for event in std::mem::take(&mut self.nodes[index].deferred) {
            self.later(0, process, event);
        }
        self.later(0, process, NodeEvent::Renew);
        self.hear(index);
    }

    /// What stood in the pipes between two goes on.
    pub fn flow(&mut self, a: usize, b: usize) {
        for number in self.network.heal(a, b) {
            let Some(connection) = self.network.connections.get(&number) else { continue };
            for end in [0, 1] {
                let (to, count) = (connection.ends[end], connection.pipes[end].len());
                for _ in 0..count {
                    let event = NodeEvent::Arrive { connection: number, end };
                    self.clock.after(MS, Event::At(to, event));
                }
            }
        }
    }

    /// Its requests come late, or not at all.
    pub fn join(&mut self, index: usize) {
        if !std::mem::replace(&mut self.nodes[index].isolated, false) {
            return;
        }
        for (process, op, request) in std::mem::take(&mut self.nodes[index].held) {
            let delay = self.store_delay();
            if self.random.one_in(2) {
                self.clock.after(delay, Event::Apply { process, op, request });
            } else {
                let event = NodeEvent::Answer { op, answer: Answer::Failed };
                self.later(delay, process, event);
            }
        }
        self.hear(index);
    }
}
