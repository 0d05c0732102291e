//! What nodes ask of the store, on its way there and back: late, never, or done and not answered.

use hydrant_engine::cluster::state::requests::Request;
use hydrant_engine::messages::Answer;
use hydrant_engine::ports::{ClusterOp, Sealing, SessionOp, StoreError, StoreOp};
use hydrant_protocol::cluster::message::PublishId;

use crate::clock::MS;
use crate::event::{Event, NodeEvent};
use crate::network::Process;
use crate::node::{Ask, Reply};
use crate::world::World;

fn unavailable() -> StoreError {
    StoreError::Unavailable("simulated".to_owned())
}

/// The answer that it could not be done, as far as anybody knows.
fn failed(ask: &Ask) -> Option<Reply> {
    Some(match ask {
        Ask::Write(id, _) => Reply::Written(*id, false),
        Ask::Page(read) => Reply::Page(read.id, None),
        Ask::Outbox { id, .. } => Reply::Outbox(*id, Err(unavailable())),
        Ask::Letters { id, .. } => Reply::Letters(*id, Err(unavailable())),
        Ask::Renew(_) => Reply::NotRenewed,
        Ask::Release => return None,
        Ask::Peers(id, request) => {
            let why = unavailable();
            let answer = match request {
                Request::Incarnations => Answer::Incarnations(Err(why)),
                Request::Wanted { .. } => Answer::Wanted(Err(why)),
                Request::Retained => Answer::Retained(Err(why)),
                Request::Locate { .. } => Answer::Located(Err(why)),
                Request::Take { .. } => Answer::Taken(Err(why)),
                Request::Seal { .. } => Answer::Sealed(Err(why)),
                Request::TakeOver { .. } => return None,
            };
            Reply::Peers(*id, answer)
        }
    })
}

impl World {
    /// A process asks.
    pub fn ask(&mut self, process: Process, ask: Ask) {
        let slot = &mut self.nodes[process.0];
        if slot.isolated || slot.no_store {
            return slot.held.push((process, ask));
        }
        let delay = self.store_delay();
        let mut at = self.clock.now + delay;
        if matches!(ask, Ask::Write(..)) {
            // Writes of one process come in their order.
            let slot = &mut self.nodes[process.0];
            at = at.max(slot.last_write + 1);
            slot.last_write = at;
        }
        self.clock.at(at, Event::Apply(process, ask));
    }

    fn store_delay(&mut self) -> u64 {
        let slow = if self.random.one_in(10) { 10 * MS } else { MS };
        200 + self.random.below(slow as usize) as u64 + self.slow_store
    }

    /// What waited for the way to the store comes late, or not at all.
    pub fn hold_no_more(&mut self, index: usize) {
        let held = std::mem::take(&mut self.nodes[index].held);
        // Of the writes of a process a first part comes: they are in order.
        let comes = self.random.below(held.len() + 1);
        for (at, (process, ask)) in held.into_iter().enumerate() {
            if at < comes {
                self.ask(process, ask);
            } else if let Some(reply) = failed(&ask) {
                let delay = self.store_delay();
                self.later(delay, process, NodeEvent::Reply(reply));
            }
        }
    }

    /// It comes to the store.
    pub fn apply(&mut self, process: Process, ask: Ask) {
        let lossy = self.begun
            && !self.healed
            && self.kinds.lossy_store
            && matches!(
                ask,
                Ask::Write(..) | Ask::Peers(_, Request::Take { .. } | Request::Seal { .. })
            );
        let unlucky = lossy && self.random.one_in(40);
        if unlucky && let Some(reply) = failed(&ask) {
            let done = self.random.one_in(2);
            self.counts.store_failures += 1;
            self.note(|| format!("store: n{} has no answer, done: {done}", process.0 + 1));
            if done {
                self.act(process, ask);
            }
            return self.later(100 * MS, process, NodeEvent::Reply(reply));
        }
        if let Some(reply) = self.act(process, ask) {
            let delay = self.store_delay();
            self.later(delay, process, NodeEvent::Reply(reply));
        }
    }

    /// The store does it.
    fn act(&mut self, process: Process, ask: Ask) -> Option<Reply> {
        let (now, (index, me)) = (self.clock.now, process);
        let store = std::sync::Arc::clone(&self.store);
        let mut store = store.lock();
        let reply = match ask {
            Ask::Write(id, ops) => {
                let written = store.write(me, &ops);
                self.counts.writes += 1;
                self.trace.mix(ops.len() as u64);
                let done = written.is_ok();
                self.note(|| {
                    format!("store: n{} ({me}) writes {id:?}, {done}: {}", index + 1, brief(&ops))
                });
                Reply::Written(id, done)
            }
            Ask::Page(read) => {
                let page = store.read_queue(read.session, read.from, read.limit);
                let (session, from, count) = (read.session, read.from, page.len());
                self.note(|| {
                    format!("store: n{} ({me}) reads {count} of {session:x} from {from}", index + 1)
                });
                Reply::Page(read.id, Some(page))
            }
            Ask::Outbox { id, lane, from, records } => {
                let page = store.read_outbox(me, lane, from, records);
                let count = page.len();
                self.note(|| {
                    format!("store: n{} ({me}) reads {count} of lane {lane} from {from}", index + 1)
                });
                Reply::Outbox(id, Ok(page))
            }
            Ask::Letters { id, from, letters } => {
                Reply::Letters(id, Ok(store.dead_letters(from, letters)))
            }
            Ask::Renew(sent) => Reply::Renewed(sent, store.renew(now, me)),
            Ask::Release => {
                store.release(me);
                return None;
            }
            Ask::Peers(id, request) => {
                if let Request::Seal { incarnation } = request
                    && !store.is_sealed(incarnation)
                    && store.sealable(incarnation) > now
                {
                    // It is watched until its lease is over, or is renewed.
                    let until = store.sealable(incarnation);
                    if self
                        .watches
                        .insert((process, incarnation), until)
                        .is_none_or(|it| it == until)
                    {
                        let ask = Ask::Peers(id, Request::Seal { incarnation });
                        self.clock.at(until + 1, Event::Apply(process, ask));
                        return None;
                    }
                    self.watches.remove(&(process, incarnation));
                    return Some(Reply::Peers(id, Answer::Sealed(Ok(Sealing::Alive))));
                }
                let said = self.trace.is_read().then(|| format!("{request:?}"));
                let answer = match request {
                    Request::Incarnations => Answer::Incarnations(Ok(store.incarnations(me))),
                    Request::Wanted { lineages } => {
                        let wanted = lineages.into_iter().flat_map(|it| store.wanted(it));
                        Answer::Wanted(Ok(wanted.collect()))
                    }
                    Request::Retained => Answer::Retained(Ok(store.retained())),
                    Request::Locate { client } => Answer::Located(Ok(store.locate(&client))),
                    Request::Take { from, until, .. } => {
                        let taken = store.take(me, from, until);
                        self.counts.takes += u64::from(matches!(taken, Ok(Some(_))));
                        Answer::Taken(taken.map(|taken| taken.map(Box::new)))
                    }
                    Request::Seal { incarnation } => {
                        self.watches.remove(&(process, incarnation));
                        let sealed = store.seal(now, me, incarnation);
                        self.counts.seals += u64::from(matches!(sealed, Ok(Sealing::Ours(_))));
                        Answer::Sealed(sealed)
                    }
                    Request::TakeOver { .. } => return None,
                };
                if let Some(said) = said {
                    self.note(|| {
                        format!("store: n{} ({me}) {said:.200}: {}", index + 1, outcome(&answer))
                    });
                }
                Reply::Peers(id, answer)
            }
        };
        let violation = store.violation.take();
        drop(store);
        if let Some(why) = violation {
            self.fail(why);
        }
        Some(reply)
    }
}

fn outcome(answer: &Answer) -> String {
    let text = format!("{answer:?}");
    text.chars().take(1500).collect()
}

/// The operations of a write, without what is long.
fn brief(ops: &[StoreOp]) -> String {
    let one = |op: &StoreOp| match op {
        StoreOp::Session(SessionOp::PutQueued { id, entry }) => {
            let payload = String::from_utf8_lossy(&entry.message.payload);
            let outgoing = entry.outgoing.map(|(id, _)| id.get());
            format!("queue {id:x} #{} {payload} {:?} as {outgoing:?}", entry.sequence, entry.qos)
        }
        StoreOp::Session(SessionOp::PutOutgoing { id, sequence, packet_id, stage }) => {
            format!("{id:x} #{sequence} as {packet_id} {stage:?}")
        }
        StoreOp::Session(SessionOp::DeleteQueued { id, sequence }) => {
            format!("{id:x} #{sequence} done")
        }
        StoreOp::Session(SessionOp::PutReceipt { id, packet_id }) => {
            format!("{id:x} receipt {packet_id}")
        }
        StoreOp::Session(SessionOp::DeleteReceipt { id, packet_id }) => {
            format!("{id:x} no receipt {packet_id}")
        }
        StoreOp::Session(SessionOp::PutSession { id, client_id, disconnected_ms, .. }) => {
            format!("session {id:x} of {client_id}, connected {}", disconnected_ms.is_none())
        }
        StoreOp::Cluster(ClusterOp::PutPeerBatch { origin, batch, prepared }) => {
            format!("batch {origin}/{batch} {}", ids(prepared))
        }
        StoreOp::Cluster(ClusterOp::ExceptPeerBatch { origin, batch, client_id }) => {
            format!("batch {origin}/{batch} but for {client_id}")
        }
        StoreOp::Cluster(ClusterOp::CompletePeerBatch { origin, batch, client_id }) => {
            format!("batch {origin}/{batch} also for {client_id}")
        }
        StoreOp::Cluster(ClusterOp::Prepare(it)) => {
            let payload = String::from_utf8_lossy(&it.message.payload).into_owned();
            format!("prepare {} {payload}", ids(&[it.id]))
        }
        StoreOp::Cluster(ClusterOp::Committed { id }) => format!("committed {}", ids(&[*id])),
        other => format!("{other:?}").chars().take(160).collect(),
    };
    ops.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn ids(ids: &[PublishId]) -> String {
    let one = |id: &PublishId| format!("{}.{}.{}", id.incarnation, id.router, id.number);
    ids.iter().map(one).collect::<Vec<_>>().join(" ")
}
