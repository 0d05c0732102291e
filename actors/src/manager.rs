//! ConnectionManager: owns the connection actors of its arbiter. It starts them, hands them what
//! store and log have answered, and looks at their clocks.
//!
//! Their tasks live in the arbiter and their state in the [`Shard`]: a rebuilt manager has its
//! connections back, no socket closes.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Context, Handler, StreamHandler};
use tokio::sync::oneshot;

use crate::connection;
use crate::every::every;
use crate::inbox::Work;
use crate::shard::Shard;
use crate::shared::{ConnectionInfo, ManagerWork};
use crate::supervision::{ActorCell, Ping, Running, on_ping};

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;

/// How often clocks are looked at; keep-alive and time-outs are late by at most this.
const TICK: Duration = Duration::from_millis(250);
/// Session expiry is looked at every so many ticks.
const EXPIRY_TICKS: u64 = 40;
/// The gauges over sessions are set at each tick below so many sessions, else with expiry.
const COUNTED_EACH_TICK: usize = 10_000;
/// Work items handled before other actors of the arbiter get their turn.
const AT_ONCE: usize = 256;
/// A page of a queue that ended so many managers is given up, with its connection.
const GIVEN_UP_AFTER: u32 = 2;

/// See the module.
pub struct ConnectionManager {
    shard: Rc<Shard>,
    cell: Arc<ActorCell>,
    ticks: u64,
}

impl ConnectionManager {
    /// Prepares the manager of an arbiter; on its thread.
    pub fn build(shard: &Rc<Shard>, cell: &Arc<ActorCell>) -> Running {
        let work = shard.shared.managers[usize::from(shard.index)].stream();
        let manager = Self { shard: Rc::clone(shard), cell: Arc::clone(cell), ticks: 0 };
        Running::new(manager, |ctx| {
            ConnectionManager::add_stream(work, ctx);
            every(ctx, TICK, |manager, _| manager.tick());
        })
    }

    fn tick(&mut self) {
        let _entered = self.cell.enter(0);
        self.ticks += 1;
        self.shard.check_timers();
        // A rebuilt router or a store that came back may have left credit nobody was told of.
        self.shard.resume_paused();
        if self.ticks.is_multiple_of(EXPIRY_TICKS) {
            self.shard.expire_sessions();
            self.shard.forget_stays();
        }
        // A walk over all sessions: seldom where there are many.
        if self.ticks.is_multiple_of(EXPIRY_TICKS) || self.shard.session_count() < COUNTED_EACH_TICK
        {
            self.shard.count_sessions();
        }
        self.shard.drain_some();
        self.shard.forget_open();
        self.shard.flush();
        self.shard.report_drained();
    }

    /// Works off what is in the inbox.
    fn work(&self) {
        let mut entered = self.cell.enter(0);
        let shard = &self.shard;
        let inbox = shard.shared.managers[usize::from(shard.index)].clone();
        let mut taken = inbox.take(AT_ONCE);
        loop {
            self.cell.fault_point();
            let given_up = taken.attempts() > GIVEN_UP_AFTER;
            // What must not be lost is handled in place and popped afterwards. A panic repeats it:
            // a token that was completed changes nothing the second time, and a page goes on
            // behind the last entry that was taken back.
            match taken.front_mut() {
                None => break,
                Some(ManagerWork::Completed(tokens)) => {
                    while let Some(token) = tokens.front().copied() {
                        shard.complete(token);
                        tokens.pop_front();
                        entered.add(1);
                    }
                }
                Some(ManagerWork::Refused(token)) => shard.refuse(*token),
                Some(ManagerWork::QueuePage { slot, stamp, .. }) if given_up => {
                    shard.give_up_page(*slot, *stamp);
                }
                Some(ManagerWork::QueuePage { slot, stamp, entries }) => {
                    shard.queue_page(*slot, *stamp, entries);
                }
                Some(_) => {}
            }
            entered.add(1);
            match taken.pop() {
                Some(ManagerWork::Accept(socket)) => self.accept(socket),
                Some(ManagerWork::List { skip, limit, reply }) => {
                    let _ = reply.send(self.list(skip, limit));
                }
                Some(ManagerWork::Fault { client_id, fault }) => self.fault(&client_id, fault),
                Some(ManagerWork::Connected { reply }) => {
                    let _ = reply.send(shard.connected());
                }
                Some(ManagerWork::Drain { done }) => self.drain(done),
                Some(ManagerWork::Granted { conn, client, taken, admission }) => {
                    shard.granted(conn, &client, taken.as_deref(), admission);
                }
                Some(ManagerWork::Release { owner, ticket, client, to }) => {
                    shard.give_up_session(&owner, ticket, &client, &to);
                }
                Some(ManagerWork::AllMarked { id, client }) => shard.all_marked(id, &client),
                Some(ManagerWork::Stays { id, client }) => shard.stays(id, &client),
                Some(ManagerWork::Taken { id, client }) => shard.taken(id, &client),
                Some(ManagerWork::Recovered { id, client, taken }) => {
                    shard.recovered(id, &client, taken.as_deref());
                }
                Some(ManagerWork::Settled { incarnation }) => shard.settled(incarnation),
                Some(ManagerWork::Inherit { sessions, wills, open, incarnation, done }) => {
                    shard.inherit(&sessions, &wills, &open, incarnation, done);
                }
                Some(ManagerWork::Stayed { client, stays }) => shard.has_stayed(&client, stays),
                Some(ManagerWork::FinishOpen) => shard.finish_open(),
                Some(
                    ManagerWork::Completed(_)
                    | ManagerWork::Refused(_)
                    | ManagerWork::QueuePage { .. },
                )
                | None => {}
            }
        }
        drop(taken);
        shard.flush();
        shard.resume_paused();
    }

    fn accept(&self, socket: crate::shared::NewSocket) {
        connection::start(&self.shard, socket);
    }

    fn list(&self, skip: usize, limit: usize) -> Vec<ConnectionInfo> {
        let conns = self.shard.conns.borrow();
        conns
            .iter()
            .skip(skip)
            .take(limit)
            .map(|(_, conn)| self.shard.connection_info(conn))
            .collect()
    }

    fn fault(&self, client_id: &str, fault: crate::shared::ConnectionFault) {
        let conns = self.shard.conns.borrow();
        let found = conns
            .iter()
            .find(|(_, conn)| conn.client_id.borrow().as_deref().is_some_and(|id| id == client_id));
        if let Some((_, conn)) = found {
            conn.fault.set(Some(fault));
            conn.wake();
        }
    }

    fn drain(&self, done: oneshot::Sender<()>) {
        self.shard.start_draining(done);
        self.shard.report_drained();
    }
}

impl Actor for ConnectionManager {
    type Context = Context<Self>;
}

impl StreamHandler<Work> for ConnectionManager {
    fn handle(&mut self, _: Work, _: &mut Self::Context) {
        self.work();
    }
}

impl Handler<Ping> for ConnectionManager {
    type Result = ();
    fn handle(&mut self, _: Ping, ctx: &mut Self::Context) {
        on_ping(&self.cell, ctx);
    }
}

impl Shard {
    fn connection_info(&self, conn: &crate::shard::Conn) -> ConnectionInfo {
        let (inflight, queued, clean) = self.session_load(conn);
        ConnectionInfo {
            client_id: conn.client_id.borrow().as_deref().unwrap_or_default().to_owned(),
            manager: usize::from(self.index),
            address: conn.peer.get().to_string(),
            clean,
            connected_ms: self.now_ms().saturating_sub(conn.accepted_ms),
            inflight,
            queued,
            output_bytes: conn.out.borrow().len(),
        }
    }
}
