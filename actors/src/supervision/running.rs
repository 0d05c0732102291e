//! A built actor, not yet running: the future of its context and the way to ping it. And how a
//! temporary actor runs: watched, never rebuilt.
//!
//! Invariant: an actor that panicked or was killed runs no more code of its own but its drop
//! (actix would poll it once more from the context's drop, and call `stopping` and `stopped`).

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{self, Poll};

use actix::dev::ContextFut;
use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Recipient};

use tokio::task::AbortHandle;

use super::cell::Ping;
use super::exit::{Caught, ExitStatus};

/// What a child's factory returns.
pub struct Running {
    pub(super) future: Pin<Box<dyn Future<Output = ()>>>,
    pub(super) ping: Recipient<Ping>,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Running")
    }
}

impl Running {
    /// Prepares `actor`; `build` sees its context first (to publish `ctx.address()`, say).
    pub fn new<A>(actor: A, build: impl FnOnce(&mut Context<A>)) -> Self
    where
        A: Actor<Context = Context<A>> + Handler<Ping>,
    {
        Self::create(|ctx| {
            build(ctx);
            actor
        })
    }

    /// Prepares the actor that `build` makes, knowing its context.
    pub fn create<A>(build: impl FnOnce(&mut Context<A>) -> A) -> Self
    where
        A: Actor<Context = Context<A>> + Handler<Ping>,
    {
        let mut ctx = Context::new();
        let actor = build(&mut ctx);
        let ping = ctx.address().recipient();
        Self { future: Box::pin(ActorRun(ctx.into_future(actor))), ping }
    }
}

struct ActorRun<A: Actor<Context = Context<A>>>(ContextFut<A, Context<A>>);

impl<A: Actor<Context = Context<A>>> Future for ActorRun<A> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<()> {
        Pin::new(&mut self.get_mut().0).poll(cx)
    }
}

impl<A: Actor<Context = Context<A>>> Drop for ActorRun<A> {
    fn drop(&mut self) {
        self.0.ctx().terminate();
    }
}

/// Runs a temporary actor (a connection) as a task of its own on the current arbiter; one
/// allocation. `on_end` learns how it ended, also when it is aborted; [`ExitStatus::Failed`] is
/// its owner's to tell, a temporary actor has no cell.
pub fn spawn_temporary<A>(
    ctx: Context<A>,
    actor: A,
    on_end: impl FnOnce(ExitStatus) + 'static,
) -> AbortHandle
where
    A: Actor<Context = Context<A>>,
{
    let mut end = OnEnd(Some(on_end));
    let run = Caught::new(ActorRun(ctx.into_future(actor)));
    let task = tokio::task::spawn_local(async move {
        let status = run.await.err().unwrap_or(ExitStatus::Stopped);
        end.tell(status);
    });
    task.abort_handle()
}

struct OnEnd<F: FnOnce(ExitStatus)>(Option<F>);

impl<F: FnOnce(ExitStatus)> OnEnd<F> {
    fn tell(&mut self, status: ExitStatus) {
        if let Some(on_end) = self.0.take() {
            on_end(status);
        }
    }
}

impl<F: FnOnce(ExitStatus)> Drop for OnEnd<F> {
    fn drop(&mut self) {
        self.tell(ExitStatus::Killed("its task was aborted".into()));
    }
}
