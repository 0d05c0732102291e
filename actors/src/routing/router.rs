//! TopicRouter: from a publish to its Kafka topic and key, and to its subscribers here and on
//! other workers. One a worker; its work stands in the `Worker` and in its inbox, so a rebuilt
//! one goes on where its predecessor was.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use actix::{Actor, Context, Handler, StreamHandler};
use futures_util::Stream;

use crate::driver::WorkerDriver;
use crate::inbox::{InboxStream, Work};
use crate::messages::RouterWork;
use crate::supervision::{ActorCell, Ping, Running, on_ping};

/// A publish that ended so many routers is given up.
const POISONED_AFTER: u8 = 2;

/// See the module.
pub struct TopicRouter {
    driver: Rc<WorkerDriver>,
    cell: Arc<ActorCell>,
}

impl TopicRouter {
    /// Prepares the router of a worker; on its thread.
    pub fn build(driver: &Rc<WorkerDriver>, cell: &Arc<ActorCell>) -> Running {
        let worker = driver.step();
        if worker.router_died_on_the_same(POISONED_AFTER) {
            worker.skip_poisoned();
        }
        let work = RouterStream {
            inbox: driver.mailboxes.routers[usize::from(worker.index)].stream(),
            driver: Rc::clone(driver),
            had_turn: false,
        };
        let router = Self { driver: Rc::clone(driver), cell: Arc::clone(cell) };
        Running::new(router, |ctx| {
            TopicRouter::add_stream(work, ctx);
        })
    }
}

impl Actor for TopicRouter {
    type Context = Context<Self>;
}

impl StreamHandler<Work> for TopicRouter {
    fn handle(&mut self, _: Work, _: &mut Self::Context) {
        let mut entered = self.cell.enter(0);
        let worker = self.driver.step();
        entered.add(worker.route_all(|| self.cell.fault_point()));
        let inbox = &self.driver.mailboxes.routers[usize::from(worker.index)];
        let mut taken = inbox.take(64);
        let poisoned = taken.attempts() > u32::from(POISONED_AFTER);
        if poisoned && let Some(work) = taken.front_mut() {
            worker.skip_poisoned_message(work);
        }
        while let Some(work) = taken.front_mut() {
            entered.add(worker.handle_router_message(work, || self.cell.fault_point()));
            taken.pop();
        }
        drop(taken);
        worker.send_retained();
        worker.resume_paused();
    }
}

impl Handler<Ping> for TopicRouter {
    type Result = ();
    fn handle(&mut self, _: Ping, ctx: &mut Self::Context) {
        on_ping(&self.cell, ctx);
    }
}

/// Yields while publishes wait here or in the inbox, and once a poll for retained messages: connections and other
/// actors have their turn before the next.
struct RouterStream {
    driver: Rc<WorkerDriver>,
    inbox: InboxStream<RouterWork>,
    had_turn: bool,
}

impl Stream for RouterStream {
    type Item = Work;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Work>> {
        let (worker, routers) = (&self.driver.worker, &self.driver.mailboxes.routers);
        self.driver.links.set_router(cx.waker());
        worker.router_polled();
        let may_route = worker.has_router_work() && worker.may_route();
        let wait = |full: u16| routers[usize::from(full)].wait_room(cx.waker());
        if may_route || worker.poll_remote_room(wait) {
            return Poll::Ready(Some(Work));
        }
        if !worker.has_retained_to_send() {
            self.had_turn = false;
        } else if !std::mem::replace(&mut self.had_turn, true) {
            return Poll::Ready(Some(Work));
        }
        let polled = Pin::new(&mut self.inbox).poll_next(cx);
        if polled.is_pending() && std::mem::take(&mut self.had_turn) {
            cx.waker().wake_by_ref();
        }
        polled
    }
}
