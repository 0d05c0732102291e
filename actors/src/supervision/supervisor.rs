//! The supervisor: starts permanent actors on their arbiters, learns how each ended, rebuilds it
//! with back-off within a limit, kills what stalls, and escalates what does not stay up.
//!
//! Owns nothing itself: the list of children ([`Children`]) lives outside the actor, and
//! a child's end is written there by the child's own task. The actor only reconciles that list, so
//! that its own death (a keeper task rebuilds it) loses no child and no ending.
//! Invariant: nothing is spawned and nobody is called while the list is locked.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use actix::{Actor, AsyncContext, Context, Handler, SpawnHandle, StreamHandler};

use super::cell::{ActorState, Ping, on_ping};
use super::children::{Child, Children, Launch, Phase, Slot};
use crate::every::every;

/// The supervisor as seen by the rest of the node; any thread. Clones are the same supervisor.
#[derive(Clone)]
pub struct SupervisorHandle {
    pub(super) children: Arc<Children>,
}

impl fmt::Debug for SupervisorHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SupervisorHandle")
            .field("children", &self.children.slots.lock().len())
            .finish()
    }
}

impl SupervisorHandle {
    /// Takes a child on and starts it.
    pub fn add(&self, child: Child) {
        self.children.slots.lock().push(Slot::new(child));
        self.children.changed.notify_one();
    }

    /// Whether every child and the supervisor itself runs.
    pub fn is_whole(&self) -> bool {
        self.children.cell.state() == ActorState::Running
            && self
                .children
                .slots
                .lock()
                .iter()
                .all(|slot| slot.child.cell.state() == ActorState::Running)
    }

    /// From now on a child that stops in order stays stopped. What panics or fails is still
    /// rebuilt, because the drain needs it.
    pub fn begin_shutdown(&self) {
        self.children.shutting_down.store(true, Ordering::SeqCst);
    }

    /// Whether every child has stopped or was given up.
    pub fn all_stopped(&self) -> bool {
        self.children.slots.lock().iter().all(|slot| matches!(slot.phase, Phase::Done))
    }

    /// Ends every child that still runs, then the supervisor; nothing is rebuilt any more.
    pub fn finish(&self) {
        self.begin_shutdown();
        self.children.finished.store(true, Ordering::SeqCst);
        self.children.changed.notify_one();
        for slot in self.children.slots.lock().iter_mut() {
            slot.kill("the node ends");
        }
    }
}

impl Children {
    /// Brings every child forward; returns when to look again.
    fn reconcile(self: &Arc<Self>) -> Option<Instant> {
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        let (mut escalations, mut launches) = (Vec::new(), Vec::new());
        {
            let mut slots = self.slots.lock();
            for (index, slot) in slots.iter_mut().enumerate() {
                if let Phase::Ended(status) = &slot.phase {
                    slot.phase = match self.after_end(&slot.child.cell, &mut slot.history, status) {
                        Ok(Some(delay)) => Phase::BackingOff(now + delay),
                        Ok(None) => Phase::Done,
                        Err(why) => {
                            escalations.push(why);
                            Phase::Done
                        }
                    };
                }
                let finished = self.finished.load(Ordering::SeqCst);
                match slot.phase {
                    Phase::New | Phase::BackingOff(_) if finished => {
                        slot.child.cell.set_state(ActorState::Stopped);
                        slot.phase = Phase::Done;
                    }
                    Phase::New => launches.push(slot.begin(self, index)),
                    Phase::BackingOff(at) if at <= now => launches.push(slot.begin(self, index)),
                    Phase::BackingOff(at) => next = Some(next.map_or(at, |n| n.min(at))),
                    _ => {}
                }
            }
        }
        launches.into_iter().for_each(Launch::go);
        escalations.into_iter().for_each(|why| self.escalate(why));
        next
    }

    /// Pings every child and kills those that have been silent for too long.
    fn check_stalls(&self) {
        let now = Instant::now();
        let interval = self.interval();
        for slot in self.slots.lock().iter_mut() {
            if !matches!(slot.phase, Phase::Running(_)) {
                continue;
            }
            let answered = !slot.child.cell.awaits_pong();
            let thread_alive = !slot.probing.load(Ordering::SeqCst);
            let silent = slot.silence.look(now, interval, answered, thread_alive);
            if silent >= self.settings.stall_timeout {
                slot.kill(format!("stalled for {silent:.1?}"));
                continue;
            }
            // The ping goes by way of the arbiter, so that a thread which does not turn shows.
            if thread_alive {
                slot.probing.store(true, Ordering::SeqCst);
                let (probing, cell) = (Arc::clone(&slot.probing), Arc::clone(&slot.child.cell));
                slot.child.arbiter.spawn_fn(move || {
                    probing.store(false, Ordering::SeqCst);
                    if !cell.awaits_pong() {
                        cell.ping();
                    }
                });
            }
        }
    }
}

/// The actor that reconciles the children. Runs on the arbiter where it was started.
#[derive(Debug)]
pub struct Supervisor {
    handle: SupervisorHandle,
    timer: Option<SpawnHandle>,
}

/// A child's state changed.
struct Changed;

impl Supervisor {
    pub(super) fn new(children: Arc<Children>) -> Self {
        Self { handle: SupervisorHandle { children }, timer: None }
    }

    fn reconcile(&mut self, ctx: &mut Context<Self>) {
        let _entered = self.handle.children.cell.enter(1);
        let next = self.handle.children.reconcile();
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        self.timer = next.map(|at| {
            ctx.run_later(at.saturating_duration_since(Instant::now()), |this, ctx| {
                this.timer = None;
                this.reconcile(ctx);
            })
        });
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let children = Arc::clone(&self.handle.children);
        ctx.add_stream(futures_util::stream::unfold(children, |children| async {
            children.changed.notified().await;
            Some((Changed, children))
        }));
        every(ctx, self.handle.children.interval(), |this, _| this.handle.children.check_stalls());
        self.reconcile(ctx);
    }
}

impl StreamHandler<Changed> for Supervisor {
    fn handle(&mut self, _: Changed, ctx: &mut Self::Context) {
        self.reconcile(ctx);
    }
}

impl Handler<Ping> for Supervisor {
    type Result = ();

    fn handle(&mut self, _: Ping, ctx: &mut Self::Context) {
        on_ping(&self.handle.children.cell, ctx);
    }
}
