//! What is known about one actor from outside: its place in the tree, its state and counts, and
//! the switches by which a test makes it fail. Lives as long as the node, through all rebuilds.
//!
//! Invariants: handlers write with relaxed atomics, anybody reads. A fault fires once.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Instant;

use actix::{Actor, ActorContext, AsyncContext, Context, Message, Recipient};
use parking_lot::Mutex;

use super::exit::ExitStatus;
use crate::say::Reason;

/// Where an actor is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ActorState {
    /// Its factory was asked for it.
    Starting = 0,
    /// It runs.
    Running = 1,
    /// It ended and will be rebuilt.
    BackingOff = 2,
    /// It ended in order.
    Stopped = 3,
    /// It ended too often and was given up.
    Failed = 4,
}

impl ActorState {
    /// The word in `broker tree`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::BackingOff => "backing-off",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }

    const fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Starting,
            1 => Self::Running,
            2 => Self::BackingOff,
            3 => Self::Stopped,
            _ => Self::Failed,
        }
    }
}

/// What a test can make an actor do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// Panic in a handler.
    Panic = 1,
    /// Wait for ever, with its arbiter alive.
    Stall = 2,
    /// Report a failure and stop.
    Fail = 3,
}

/// Asks a supervised actor for a sign of life; its handler calls [`on_ping`].
#[derive(Debug, Clone, Copy)]
pub struct Ping;

impl Message for Ping {
    type Result = ();
}

type DepthFn = Box<dyn Fn() -> usize + Send + Sync>;
type DetailFn = Box<dyn Fn() -> String + Send + Sync>;

/// One actor as seen from outside.
pub struct ActorCell {
    path: Arc<str>,
    kind: &'static str,
    state: AtomicU8,
    fault: AtomicU8,
    awaiting_pong: AtomicBool,
    restarts: AtomicU64,
    handled: AtomicU64,
    longest_us: AtomicU64,
    depth: Option<DepthFn>,
    detail: Option<DetailFn>,
    failure: Mutex<Option<String>>,
    last_exit: Mutex<Option<ExitStatus>>,
    ping: Mutex<Option<Recipient<Ping>>>,
    /// Its lines in the log: how it ended, by the way it did, and that it was rebuilt.
    said: [Reason; 5],
}

impl fmt::Debug for ActorCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActorCell").field("path", &self.path).field("state", &self.state()).finish()
    }
}

impl ActorCell {
    /// A cell for the actor at `path`, as "connection-manager/0"; `kind` is its type's name.
    pub fn new(path: impl Into<Arc<str>>, kind: &'static str) -> Self {
        Self {
            path: path.into(),
            kind,
            state: AtomicU8::new(ActorState::Starting as u8),
            fault: AtomicU8::new(0),
            awaiting_pong: AtomicBool::new(false),
            restarts: AtomicU64::new(0),
            handled: AtomicU64::new(0),
            longest_us: AtomicU64::new(0),
            depth: None,
            detail: None,
            failure: Mutex::new(None),
            last_exit: Mutex::new(None),
            ping: Mutex::new(None),
            said: [const { Reason::new() }; 5],
        }
    }

    /// How many items wait for the actor; called by whoever prints the tree, from any thread.
    #[must_use]
    pub fn with_depth(mut self, depth: impl Fn() -> usize + Send + Sync + 'static) -> Self {
        self.depth = Some(Box::new(depth));
        self
    }

    /// A few words shown at the end of its line in `broker tree`.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.detail = Some(Box::new(detail));
        self
    }

    /// Done building.
    pub fn shared(self) -> Arc<Self> {
        Arc::new(self)
    }

    /// Its place in the tree.
    pub fn path(&self) -> &Arc<str> {
        &self.path
    }

    /// Its type's name.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Where it is in its life.
    pub fn state(&self) -> ActorState {
        ActorState::from_u8(self.state.load(Ordering::SeqCst))
    }

    pub(super) fn set_state(&self, state: ActorState) {
        self.state.store(state as u8, Ordering::SeqCst);
    }

    /// How often it was rebuilt.
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::SeqCst)
    }

    pub(super) fn count_restart(&self) {
        self.restarts.fetch_add(1, Ordering::SeqCst);
    }

    /// Messages or items handled, over all its lives.
    pub fn handled(&self) -> u64 {
        self.handled.load(Ordering::Relaxed)
    }

    /// Its longest handler in microseconds, over all its lives.
    pub fn longest_us(&self) -> u64 {
        self.longest_us.load(Ordering::Relaxed)
    }

    /// Items waiting for it.
    pub fn depth(&self) -> usize {
        self.depth.as_ref().map_or(0, |depth| depth())
    }

    /// The words at the end of its line.
    pub fn detail(&self) -> String {
        self.detail.as_ref().map_or_else(String::new, |detail| detail())
    }

    /// How its last life ended.
    pub fn last_exit(&self) -> Option<ExitStatus> {
        self.last_exit.lock().clone()
    }

    pub(super) fn set_last_exit(&self, status: ExitStatus) {
        *self.last_exit.lock() = Some(status);
    }

    /// What limits the lines about an end of its.
    pub(super) fn said_of(&self, status: &ExitStatus) -> &Reason {
        let [stopped, failed, panicked, killed, _] = &self.said;
        match status {
            ExitStatus::Stopped => stopped,
            ExitStatus::Failed(_) => failed,
            ExitStatus::Panicked(_) => panicked,
            ExitStatus::Killed(_) => killed,
        }
    }

    /// The same for its new lives.
    pub(super) fn said_of_restarts(&self) -> &Reason {
        let [.., restarts] = &self.said;
        restarts
    }

    /// The actor calls this before `ctx.stop()` when it cannot go on; the first reason counts.
    pub fn fail(&self, reason: impl Into<String>) {
        self.failure.lock().get_or_insert_with(|| reason.into());
    }

    pub(super) fn take_failure(&self) -> Option<String> {
        self.failure.lock().take()
    }

    /// Measures one handler that works on `items` messages, until the guard is dropped.
    pub fn enter(&self, items: u64) -> Entered<'_> {
        Entered { cell: self, items, since: Instant::now() }
    }

    /// Arms `fault`; it fires at the actor's next [`on_ping`] (or [`ActorCell::fault_point`] for
    /// [`Fault::Panic`]), once.
    pub fn arm(&self, fault: Fault) {
        self.fault.store(fault as u8, Ordering::SeqCst);
    }

    /// Panics here when [`Fault::Panic`] is armed. To be called where a panic hurts most.
    pub fn fault_point(&self) {
        if self.fault.load(Ordering::Relaxed) == Fault::Panic as u8 && self.disarm(Fault::Panic) {
            panic!("injected panic");
        }
    }

    fn disarm(&self, fault: Fault) -> bool {
        self.fault.compare_exchange(fault as u8, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Records a sign of life.
    pub fn pong(&self) {
        self.awaiting_pong.store(false, Ordering::SeqCst);
    }

    pub(super) fn awaits_pong(&self) -> bool {
        self.awaiting_pong.load(Ordering::SeqCst)
    }

    pub(super) fn set_ping(&self, ping: Option<Recipient<Ping>>) {
        self.pong();
        *self.ping.lock() = ping;
    }

    /// Sends a ping that must be answered.
    pub(super) fn ping(&self) {
        self.awaiting_pong.store(true, Ordering::SeqCst);
        self.nudge();
    }

    /// Sends a ping that need not be answered, so that an idle actor acts on an armed fault.
    pub fn nudge(&self) {
        let ping = self.ping.lock().clone();
        if let Some(ping) = ping {
            ping.do_send(Ping);
        }
    }
}

/// Measures a handler; see [`ActorCell::enter`].
#[derive(Debug)]
pub struct Entered<'a> {
    cell: &'a ActorCell,
    items: u64,
    since: Instant,
}

impl Entered<'_> {
    /// Counts further items that turned up during the work.
    pub fn add(&mut self, items: u64) {
        self.items += items;
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let us = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.cell.handled.fetch_add(self.items, Ordering::Relaxed);
        if us > self.cell.longest_us.load(Ordering::Relaxed) {
            self.cell.longest_us.fetch_max(us, Ordering::Relaxed);
        }
    }
}

/// The body of every supervised actor's `Handler<Ping>`: a sign of life, and an armed fault acts.
pub fn on_ping<A>(cell: &ActorCell, ctx: &mut Context<A>)
where
    A: Actor<Context = Context<A>>,
{
    cell.pong();
    cell.fault_point();
    if cell.disarm(Fault::Stall) {
        ctx.wait(actix::fut::wrap_future(std::future::pending::<()>()));
    } else if cell.disarm(Fault::Fail) {
        cell.fail("injected failure");
        ctx.stop();
    }
}
