//! Work at intervals, counted from its end.
//!
//! actix's `run_interval` makes up for what it missed: work that takes longer than its period then
//! never gives its thread back to the others.

use std::time::Duration;

use actix::{Actor, AsyncContext, Context};

/// Does `work` a `period` from now, and a `period` after each time it is done.
pub fn every<A: Actor<Context = Context<A>>>(
    ctx: &mut Context<A>,
    period: Duration,
    work: impl Fn(&mut A, &mut Context<A>) + 'static,
) {
    ctx.run_later(period, move |actor, ctx| {
        work(actor, ctx);
        every(ctx, period, work);
    });
}
