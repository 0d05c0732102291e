//! ConnectionManager: owns the connection actors of its worker. It starts them, hands them what
//! store and log have answered, and looks at their clocks.
//!
//! Their tasks live in the worker and their state in the [`Worker`]: a rebuilt manager has its
//! connections back, no socket closes.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Context, Handler, StreamHandler};

use crate::connection;
use crate::driver::WorkerDriver;
use crate::every::every;
use crate::inbox::Work;
use crate::messages::{ConnectionInfo, ManagerTask};
use crate::supervision::{ActorCell, Ping, Running, on_ping};
use crate::worker::{Conn, SocketState, Worker};

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;

/// How often clocks are looked at; keep-alive and time-outs are late by at most this.
const TICK: Duration = Duration::from_millis(250);
/// Work items handled before other actors of the worker get their turn.
const AT_ONCE: usize = 256;
/// A page of a queue that ended so many managers is given up, with its connection.
const GIVEN_UP_AFTER: u32 = 2;

/// See the module.
pub struct ConnectionManager {
    driver: Rc<WorkerDriver>,
    cell: Arc<ActorCell>,
    ticks: u64,
}

impl ConnectionManager {
    /// Prepares the manager of a worker; on its thread.
    pub fn build(driver: &Rc<WorkerDriver>, cell: &Arc<ActorCell>) -> Running {
        let work = driver.mailboxes.managers[usize::from(driver.worker.index)].stream();
        let manager = Self { driver: Rc::clone(driver), cell: Arc::clone(cell), ticks: 0 };
        Running::new(manager, |ctx| {
            ConnectionManager::add_stream(work, ctx);
            every(ctx, TICK, |manager, _| manager.tick());
        })
    }

    fn tick(&mut self) {
        let _entered = self.cell.enter(0);
        let (worker, links) = (self.driver.step(), &self.driver.links);
        self.ticks += 1;
        let (settings, now) = (&worker.shared.settings, worker.now_ms());
        worker.handle_tick(self.ticks, |conn, stood_still| match links.get(conn.id()) {
            Some(link) => link.look(settings, now, stood_still),
            None => SocketState::Goes,
        });
        self.driver.report_drained();
    }

    /// Works off what is in the inbox.
    fn work(&self) {
        let mut entered = self.cell.enter(0);
        let worker = self.driver.step();
        let inbox = self.driver.mailboxes.managers[usize::from(worker.index)].clone();
        let mut taken = inbox.take(AT_ONCE);
        loop {
            self.cell.fault_point();
            let given_up = taken.attempts() > GIVEN_UP_AFTER;
            // What must not be lost is handled in place and popped afterwards. A panic repeats it.
            let is_done = match taken.front_mut() {
                None => break,
                Some(ManagerTask::Worker(work)) if work.is_repeated() => {
                    entered.add(worker.handle_message(work, given_up));
                    true
                }
                Some(_) => false,
            };
            entered.add(1);
            match taken.pop().filter(|_| !is_done) {
                Some(ManagerTask::Worker(mut work)) => {
                    worker.handle_message(&mut work, false);
                }
                Some(ManagerTask::Told { mut work, done }) => {
                    worker.handle_message(&mut work, false);
                    let _ = done.send(());
                }
                Some(ManagerTask::Accept(socket)) => connection::start(&self.driver, socket),
                Some(ManagerTask::List { skip, limit, reply }) => {
                    let _ = reply.send(self.list(skip, limit));
                }
                Some(ManagerTask::Fault { client_id, fault }) => self.fault(&client_id, fault),
                Some(ManagerTask::Connected { reply }) => {
                    let _ = reply.send(worker.connected());
                }
                Some(ManagerTask::Drain { done }) => self.driver.drain(done),
                None => {}
            }
        }
        drop(taken);
        worker.flush();
        worker.resume_paused();
    }

    fn list(&self, skip: usize, limit: usize) -> Vec<ConnectionInfo> {
        let worker = &self.driver.worker;
        let conns = worker.conns.borrow();
        conns.iter().skip(skip).take(limit).map(|(_, conn)| connection_info(worker, conn)).collect()
    }

    fn fault(&self, client_id: &str, fault: crate::messages::ConnectionFault) {
        let worker = &self.driver.worker;
        let conns = worker.conns.borrow();
        let found = conns
            .iter()
            .find(|(_, conn)| conn.client_id.borrow().as_deref().is_some_and(|id| id == client_id));
        if let Some((_, conn)) = found {
            if let Some(link) = self.driver.links.get(conn.id()) {
                link.fault.set(Some(fault));
            }
            worker.wake(conn);
        }
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

fn connection_info(worker: &Worker, conn: &Conn) -> ConnectionInfo {
    let (inflight, queued, clean) = worker.session_load(conn);
    ConnectionInfo {
        client_id: conn.client_id.borrow().as_deref().unwrap_or_default().to_owned(),
        manager: usize::from(worker.index),
        address: conn.peer.get().to_string(),
        clean,
        connected_ms: worker.now_ms().saturating_sub(conn.accepted_ms),
        inflight,
        queued,
        output_bytes: conn.out.borrow().len(),
    }
}
