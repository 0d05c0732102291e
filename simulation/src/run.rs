//! What happens next, and to whom: the loop, the steps of nodes, and what follows from each.

use crate::clients::state::{Client, Role};
use crate::clock::{MS, SECOND};
use crate::event::{ClientEvent, Event, NodeEvent};
use crate::network::{Chunk, Process};
use crate::node::{Ask, Effect, Node};
use crate::settings::LEASE;
use crate::world::World;

impl World {
    /// To its end.
    pub fn run(&mut self) {
        while self.failure.is_none()
            && let Some(event) = self.clock.next_event()
        {
            self.counts.events += 1;
            self.trace.mix(self.clock.now);
            if self.clock.now > self.deadline {
                let open = self.unfinished().unwrap_or_default();
                for index in 0..self.nodes.len() {
                    let node = self.nodes[index].node.as_ref();
                    if let Some(line) = node.map(|node| node.describe_open()) {
                        self.note(|| format!("n{} waits: {line}", index + 1));
                    }
                }
                return self.fail(format!("it does not come to an end: {open}"));
            }
            if matches!(event, Event::Check) {
                if self.check() {
                    return self.check_all();
                }
                continue;
            }
            self.handle(event);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::At(process, event) => self.node_event(process, event),
            Event::Start(node) => self.start(node),
            Event::Apply(process, ask) => self.come_to_store(process, ask),
            Event::Append(process, resets, records) => self.append(process, resets, records),
            Event::Expire { process, since } => self.expire(process, since),
            Event::Arrive { connection, end } => self.arrive(connection, end),
            Event::Client(client, event) => self.client_event(client, event),
            Event::Fault(fault) => self.fault(fault),
            Event::Check => {}
        }
    }

    fn come_to_store(&mut self, process: Process, ask: Ask) {
        let slot = &mut self.nodes[process.0];
        if slot.paused && slot.stuck && slot.incarnation == process.1 {
            return slot.held.push((process, ask));
        }
        self.apply(process, ask);
    }

    fn node_event(&mut self, process: Process, event: NodeEvent) {
        let index = process.0;
        if !self.lives(process) {
            return;
        }
        if self.nodes[index].paused {
            return self.nodes[index].deferred.push(event);
        }
        self.counts.steps += 1;
        self.begin_step(index);
        let most = if self.random.one_in(4) { 256 } else { 1 + self.random.below(8) };
        let slot = &mut self.nodes[index];
        let Some(node) = &mut slot.node else { return };
        match event {
            NodeEvent::Run(machine) => {
                slot.scheduled.remove(&machine);
                node.step(machine, most);
            }
            NodeEvent::Deadline(machine, at) => {
                if slot.deadlines.get(&machine) == Some(&at) {
                    slot.deadlines.remove(&machine);
                    node.deadline(machine);
                }
            }
            NodeEvent::Reply(reply) => node.reply(reply),
            NodeEvent::View(view) => {
                let generation = view.generation;
                node.view(view);
                self.has_seen(process, generation);
            }
            NodeEvent::TickWorker(worker) => {
                node.tick_worker(worker);
                self.later(250 * MS, process, NodeEvent::TickWorker(worker));
            }
            NodeEvent::TickCoordinator => {
                node.tick_coordinator();
                self.later(500 * MS, process, NodeEvent::TickCoordinator);
            }
            NodeEvent::Renew => {
                node.renew();
                self.later(LEASE.as_micros() as u64 / 3, process, NodeEvent::Renew);
            }
            NodeEvent::Look => {
                let may_act = node.may_act();
                self.present(process, may_act);
                self.later(SECOND, process, NodeEvent::Look);
            }
            NodeEvent::Link(number, at) => self.link_timer(process, number, at),
            NodeEvent::Dial(peer) => self.dial(process, peer),
            NodeEvent::Heard(number, end, chunk) => self.heard_at(process, number, end, chunk),
            NodeEvent::Accept(socket) => {
                let worker = self.random.below(usize::from(node.workers())) as u16;
                node.accept(socket, worker);
            }
            NodeEvent::Reports(reports) => node.reported(reports),
            NodeEvent::TickLog => {
                node.tick_log();
                if self.random.one_in(20) {
                    self.give_up_unreported(process);
                }
                self.later(20 * MS, process, NodeEvent::TickLog);
            }
            NodeEvent::Register => self.register(process),
            NodeEvent::Stop => self.stop_step(process),
        }
        self.after(process);
    }

    fn begin_step(&mut self, index: usize) {
        let (now, slot) = (self.clock.now, &mut self.nodes[index]);
        let (boot, wall) =
            (now + slot.boot, (1_700_000_000_000 + slot.skew) * 1_000_000 + now * 1000);
        if let Some(node) = &mut slot.node {
            node.begin(boot, wall);
        }
    }

    /// What follows from anything that a node did.
    pub fn after(&mut self, process: Process) {
        if !self.lives(process) {
            return;
        }
        let index = process.0;
        let Some(node) = &mut self.nodes[index].node else { return };
        node.look_at_take_overs();
        for line in node.take_told() {
            self.note(|| format!("n{} {line}", index + 1));
        }
        let Some(node) = &mut self.nodes[index].node else { return };
        let links: Vec<u64> = node.peers.keys().copied().collect();
        for link in links {
            self.look_at_link(process, link);
        }
        let Some(node) = &mut self.nodes[index].node else { return };
        for effect in node.take_effects() {
            self.effect(process, effect);
        }
        if !self.lives(process) {
            return;
        }
        let Some(node) = &mut self.nodes[index].node else { return };
        let (busy, deadlines) = (node.busy(), node.deadlines());
        for machine in busy {
            if self.nodes[index].scheduled.insert(machine) {
                let slow = if self.random.one_in(20) { 5 * MS } else { 100 };
                let delay = 10 + self.random.below(slow as usize) as u64;
                self.later(delay, process, NodeEvent::Run(machine));
            }
        }
        for (machine, deadline) in deadlines {
            let Some(deadline) = deadline else { continue };
            if self.nodes[index].deadlines.insert(machine, deadline) != Some(deadline) {
                let at = self.at_boot(index, deadline);
                self.clock.at(at, Event::At(process, NodeEvent::Deadline(machine, deadline)));
            }
        }
    }

    fn effect(&mut self, process: Process, effect: Effect) {
        match effect {
            Effect::Ask(ask) => self.ask(process, ask),
            Effect::Write(socket, bytes) => {
                self.send_chunk(socket, 0, Chunk::Bytes(bytes));
            }
            Effect::Close(socket) => self.close_end(socket, 1),
            Effect::Append(records) => self.records_leave(process, records),
            Effect::ResetLog => self.reset_log(process),
            Effect::Dial(node) => self.later(100, process, NodeEvent::Dial(node)),
            Effect::End(why) => {
                self.counts.ends += 1;
                self.note(|| format!("n{} ({}) ends: {why}", process.0 + 1, process.1));
                self.crash(process.0);
                self.clock.after(300 * MS, Event::Start(process.0));
            }
        }
    }

    fn check(&mut self) -> bool {
        self.clock.after(100 * MS, Event::Check);
        let subscribed = |client: &Client| match &client.role {
            Role::Subscriber(subscriber) => subscriber.subscribed,
            Role::Publisher(_) => client.connected,
        };
        if !self.begun && self.clients.iter().all(subscribed) {
            self.begun = true;
            self.note(|| "everybody is subscribed".to_owned());
            self.begin();
            for client in 0..self.clients.len() {
                self.clock.after(0, Event::Client(client, ClientEvent::Publish));
                if self.kinds.roam {
                    let delay = self.random.between(0, 1500 * MS);
                    self.clock.after(delay, Event::Client(client, ClientEvent::Roam));
                }
                if self.kinds.churn {
                    let delay = self.random.between(0, 1500 * MS);
                    self.clock.after(delay, Event::Client(client, ClientEvent::Churn));
                }
            }
        }
        let done = self.healed && self.unfinished().is_none();
        self.quiet = if done { self.quiet + 1 } else { 0 };
        self.quiet > 3
    }

    /// What is not at its end; `None`: nothing.
    fn unfinished(&self) -> Option<String> {
        let mut open: Vec<String> = Vec::new();
        let store = self.store.lock();
        for client in &self.clients {
            let name = &client.name;
            if !client.connected {
                open.push(format!("{name} is not connected"));
            }
            match &client.role {
                Role::Publisher(it) => {
                    open.extend(it.unfinished().map(|why| format!("{name} {why}")))
                }
                Role::Subscriber(_) => {
                    let queued = store.queued(name);
                    if queued > 0 {
                        open.push(format!("{queued} wait for {name}"));
                    }
                }
            }
        }
        for (index, slot) in self.nodes.iter().enumerate() {
            match &slot.node {
                Some(node) if !node.listens() => {
                    open.push(format!("n{} waits to begin", index + 1))
                }
                Some(node) => open.extend(node.unfinished()),
                None if !slot.away => open.push(format!("n{} does not run", index + 1)),
                None => {}
            }
        }
        (!open.is_empty()).then(|| open.join("; "))
    }

    fn check_all(&mut self) {
        let mut lost = Vec::new();
        for (index, client) in self.clients.iter().enumerate() {
            if matches!(client.role, Role::Subscriber(_)) && !client.clean {
                let of = self.checks.lost(index);
                lost.extend(of.iter().map(|it| format!("{it} has not come to {}", client.name)));
            }
        }
        if self.kinds.log {
            lost.extend(self.checks.log(&self.log, !self.kinds.roam && !self.kinds.delays_nodes()));
        }
        for (topic, last) in self.checks.retained() {
            let of = |node: &Node| node.retained(&topic);
            let nodes = self.nodes.iter().filter_map(|slot| slot.node.as_ref());
            let have: Vec<Option<u32>> = nodes.map(of).collect();
            if have.iter().any(|number| *number != have[0]) || have[0].is_none_or(|it| it < last) {
                lost.push(format!("retained at {topic}: {have:?}, acknowledged {last}"));
            }
        }
        if !lost.is_empty() {
            self.fail(lost.join("; "));
        }
    }
}
