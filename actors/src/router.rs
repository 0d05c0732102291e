//! TopicRouter: from a publish to its Kafka topic and key, and to its subscribers here and on
//! other arbiters. One an arbiter; its work stands in the [`Shard`] and in its inbox, so a rebuilt
//! one goes on where its predecessor was.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use actix::{Actor, Context, Handler, StreamHandler};
use futures_util::Stream;

use crate::inbox::{InboxStream, Work};
use crate::shard::Shard;
use crate::shared::RouterWork;
use crate::supervision::{ActorCell, Ping, Running, on_ping};

/// A publish that ended so many routers is given up.
const POISONED_AFTER: u8 = 2;

/// See the module.
pub struct TopicRouter {
    shard: Rc<Shard>,
    cell: Arc<ActorCell>,
}

impl TopicRouter {
    /// Prepares the router of an arbiter; on its thread.
    pub fn build(shard: &Rc<Shard>, cell: &Arc<ActorCell>) -> Running {
        if shard.router_died_on_the_same(POISONED_AFTER) {
            shard.skip_poisoned();
        }
        let work = RouterStream {
            inbox: shard.shared.routers[usize::from(shard.index)].stream(),
            shard: Rc::clone(shard),
        };
        let router = Self { shard: Rc::clone(shard), cell: Arc::clone(cell) };
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
        let shard = &self.shard;
        entered.add(shard.route_all(|| self.cell.fault_point()));
        let inbox = &shard.shared.routers[usize::from(shard.index)];
        let mut taken = inbox.take(64);
        let poisoned = taken.attempts() > u32::from(POISONED_AFTER);
        if poisoned {
            match taken.front_mut() {
                Some(RouterWork::Deliver(batch)) => shard.skip_poisoned_remote(batch),
                Some(RouterWork::FromPeer(batch)) => shard.skip_poisoned_peer(batch),
                _ => {}
            }
        }
        while let Some(work) = taken.front_mut() {
            entered.add(match work {
                RouterWork::Deliver(batch) => shard.route_remote(batch, || self.cell.fault_point()),
                RouterWork::FromPeer(batch) => shard.route_peer(batch, || self.cell.fault_point()),
                RouterWork::Barrier(barrier) => {
                    shard.pass(barrier);
                    1
                }
                RouterWork::Mark { id, client, lane, lanes } => {
                    shard.pass_on(*id, client, *lane, *lanes);
                    1
                }
                RouterWork::Marked { id, client, lane, lanes } => {
                    shard.marked(*id, client, *lane, *lanes);
                    1
                }
                RouterWork::Resent { incarnation, lane, lanes } => {
                    shard.pass_on_resent(*incarnation, *lane, *lanes);
                    1
                }
                RouterWork::ResentHere { incarnation, lane, lanes } => {
                    shard.resent(*incarnation, *lane, *lanes);
                    1
                }
                RouterWork::Forget { client } => {
                    shard.forget_expected(client);
                    1
                }
                RouterWork::Expect { id, client, filters } => {
                    shard.expect(*id, client, filters);
                    1
                }
            });
            taken.pop();
        }
        drop(taken);
        shard.resume_paused();
    }
}

impl Handler<Ping> for TopicRouter {
    type Result = ();
    fn handle(&mut self, _: Ping, ctx: &mut Self::Context) {
        on_ping(&self.cell, ctx);
    }
}

/// Yields while publishes wait here or in the inbox.
struct RouterStream {
    shard: Rc<Shard>,
    inbox: InboxStream<RouterWork>,
}

impl Stream for RouterStream {
    type Item = Work;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Work>> {
        self.shard.set_router_waker(cx.waker());
        let may_route = self.shard.has_router_work() && self.shard.may_route();
        if may_route || self.shard.poll_remote_room(cx.waker()) {
            return Poll::Ready(Some(Work));
        }
        Pin::new(&mut self.inbox).poll_next(cx)
    }
}
