//! Supervision with real actors: every way to end, nothing lost, the tree whole again.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actix::{Actor, ActorContext, AsyncContext, Context, Handler, StreamHandler};
use actix_rt::{Arbiter, System};
use parking_lot::Mutex;

use super::*;
use crate::inbox::{Inbox, Work};
use crate::metrics::Metrics;
use crate::settings::SupervisionSettings;

const DEADLINE: Duration = Duration::from_secs(20);

/// Copies numbers from its inbox to `done`.
struct Worker {
    cell: Arc<ActorCell>,
    inbox: Inbox<u64>,
    done: Arc<Mutex<Vec<u64>>>,
}

impl Actor for Worker {
    type Context = Context<Self>;
    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.add_stream(self.inbox.stream());
    }
}

impl StreamHandler<Work> for Worker {
    fn handle(&mut self, _: Work, _: &mut Self::Context) {
        let mut taken = self.inbox.take(8);
        let _entered = self.cell.enter(taken.len() as u64);
        while let Some(number) = taken.front_mut() {
            let number = *number;
            self.cell.fault_point();
            self.done.lock().push(number);
            taken.pop();
        }
    }
}

impl Handler<Ping> for Worker {
    type Result = ();
    fn handle(&mut self, _: Ping, ctx: &mut Self::Context) {
        on_ping(&self.cell, ctx);
    }
}

/// A node with one supervisor and one worker on an arbiter of its own.
struct Node {
    metrics: Arc<Metrics>,
    registry: Arc<Registry>,
    supervisor: SupervisorHandle,
    worker: Arc<ActorCell>,
    inbox: Inbox<u64>,
    done: Arc<Mutex<Vec<u64>>>,
    escalated: Arc<Mutex<Vec<String>>>,
    /// So many builds panic.
    break_factory: Arc<AtomicUsize>,
    builds: Arc<AtomicUsize>,
    arbiter: Arbiter,
}

fn settings() -> SupervisionSettings {
    SupervisionSettings {
        restart_min: Duration::from_millis(1),
        restart_max: Duration::from_millis(10),
        max_restarts: 4,
        restart_window: Duration::from_secs(600),
        stall_timeout: Duration::from_millis(400),
        watchdog_warn: Duration::from_millis(100),
        watchdog_exit: Duration::ZERO,
    }
}

impl Node {
    fn start() -> Self {
        install_panic_hook();
        let metrics = Metrics::new(1);
        let registry = Registry::new("n1");
        let escalated = Arc::<Mutex<Vec<String>>>::default();
        let cell = ActorCell::new("supervisor", "Supervisor").shared();
        registry.add(Arc::clone(&cell));
        let sink = Arc::clone(&escalated);
        let supervisor = Supervisor::start(
            cell,
            settings(),
            Arc::clone(&metrics),
            Box::new(move |why| sink.lock().push(why)),
        );
        let inbox = Inbox::new(1000, 1000);
        let depth = inbox.clone();
        let worker = ActorCell::new("worker/0", "Worker").with_depth(move || depth.len()).shared();
        registry.add(Arc::clone(&worker));
        let node = Self {
            metrics,
            registry,
            supervisor,
            worker,
            inbox,
            done: Arc::default(),
            escalated,
            break_factory: Arc::default(),
            builds: Arc::default(),
            arbiter: Arbiter::new(),
        };
        let (inbox, done) = (node.inbox.clone(), Arc::clone(&node.done));
        let (broken, builds) = (Arc::clone(&node.break_factory), Arc::clone(&node.builds));
        node.supervisor.add(Child {
            cell: Arc::clone(&node.worker),
            arbiter: node.arbiter.handle(),
            factory: Arc::new(move |cell| {
                builds.fetch_add(1, Ordering::SeqCst);
                let left =
                    broken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
                assert!(left.is_err(), "the factory is broken");
                let (cell, inbox, done) = (Arc::clone(cell), inbox.clone(), Arc::clone(&done));
                Running::new(Worker { cell, inbox, done }, |_| ())
            }),
        });
        node
    }

    async fn whole(&self) {
        until("the tree is whole", || self.supervisor.is_whole()).await;
    }

    /// Pushes 100 numbers and waits until exactly these came out, in order.
    async fn work(&self) {
        let from = self.done.lock().len() as u64;
        (from..from + 100).for_each(|n| self.inbox.push(n, 1));
        self.all_done(from + 100).await;
    }

    async fn all_done(&self, count: u64) {
        until("the work is done", || self.done.lock().len() as u64 >= count).await;
        assert!(self.done.lock().iter().copied().eq(0..count), "lost, doubled or out of order");
    }
}

/// Polls a condition; the sleep only yields.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn run(test: impl Future<Output = ()>) {
    System::new().block_on(test);
}

#[test]
fn a_panic_under_work_loses_nothing() {
    run(async {
        let node = Node::start();
        node.whole().await;
        node.worker.arm(Fault::Panic);
        node.work().await;
        node.whole().await;
        assert_eq!((node.worker.restarts(), node.metrics.restarts.get()), (1, 1));
        let Some(ExitStatus::Panicked(why)) = node.worker.last_exit() else {
            panic!("{:?}", node.worker)
        };
        assert!(why.starts_with("injected panic at ") && why.contains("cell.rs:"), "{why}");
        assert!(why.contains("on thread actix-rt"), "{why}");
        node.work().await;
        until("it is counted", || node.worker.handled() >= 200).await;
        assert!(node.worker.longest_us() > 0 && node.worker.depth() == 0);
    });
}

#[test]
fn idle_actors_panic_fail_and_stall_on_demand() {
    run(async {
        let node = Node::start();
        node.whole().await;
        let faults = [Fault::Panic, Fault::Fail, Fault::Stall];
        for (n, fault) in faults.into_iter().enumerate() {
            node.registry.arm_fault("worker/0", fault).unwrap();
            until("it came back", || node.worker.restarts() == n as u64 + 1).await;
            node.whole().await;
            let why = node.worker.last_exit().unwrap();
            match fault {
                Fault::Panic => assert!(matches!(why, ExitStatus::Panicked(_)), "{why}"),
                Fault::Fail => assert_eq!(why, ExitStatus::Failed("injected failure".into())),
                Fault::Stall => {
                    assert!(why.to_string().starts_with("was killed: stalled for"), "{why}")
                }
            }
            node.work().await;
        }
        assert!(node.registry.arm_fault("nobody", Fault::Panic).is_err());
        assert!(node.escalated.lock().is_empty());
    });
}

#[test]
fn past_the_limit_the_parent_is_told_once() {
    run(async {
        let node = Node::start();
        node.whole().await;
        node.break_factory.store(usize::MAX, Ordering::SeqCst);
        node.registry.arm_fault("worker/0", Fault::Panic).unwrap();
        until("it escalates", || !node.escalated.lock().is_empty()).await;
        let why = node.escalated.lock().clone();
        assert_eq!(why.len(), 1);
        assert!(
            why[0].starts_with("actor worker/0 panicked: the factory is broken at "),
            "{}",
            why[0]
        );
        // The first life, and one for each of the four restarts, all in the factory.
        assert_eq!(node.builds.load(Ordering::SeqCst), 5);
        assert_eq!((node.metrics.restarts.get(), node.metrics.escalations.get()), (4, 1));
        assert_eq!(node.worker.state(), ActorState::Failed);
    });
}

#[test]
fn a_broken_factory_that_heals_is_a_restart() {
    run(async {
        let node = Node::start();
        node.whole().await;
        node.break_factory.store(2, Ordering::SeqCst);
        node.registry.arm_fault("worker/0", Fault::Fail).unwrap();
        until("it was built", || node.worker.restarts() == 3).await;
        node.whole().await;
        node.work().await;
    });
}

#[test]
fn the_supervisor_itself_is_killed() {
    run(async {
        let node = Node::start();
        node.whole().await;
        let own = node.registry.get("supervisor").unwrap();
        for (n, fault) in [Fault::Panic, Fault::Fail, Fault::Stall].into_iter().enumerate() {
            node.registry.arm_fault("supervisor", fault).unwrap();
            // A child that dies meanwhile is not forgotten.
            node.registry.arm_fault("worker/0", Fault::Panic).unwrap();
            until("both came back", || {
                own.restarts() == n as u64 + 1 && node.worker.restarts() == n as u64 + 1
            })
            .await;
            node.whole().await;
            node.work().await;
        }
        assert_eq!(node.builds.load(Ordering::SeqCst), 4, "a living child is left alone");
    });
}

#[test]
fn shutdown_rebuilds_what_dies_but_not_what_stops() {
    run(async {
        let node = Node::start();
        node.whole().await;
        node.supervisor.begin_shutdown();
        node.registry.arm_fault("worker/0", Fault::Panic).unwrap();
        until("it was rebuilt for the drain", || node.worker.restarts() == 1).await;
        node.whole().await;
        assert!(!node.supervisor.all_stopped());
        node.supervisor.finish();
        until("all stopped", || node.supervisor.all_stopped()).await;
        assert_eq!(node.worker.state(), ActorState::Stopped);
        assert_eq!(node.worker.last_exit(), Some(ExitStatus::Killed("the node ends".into())));
        assert_eq!(node.worker.restarts(), 1);
    });
}

#[test]
fn a_dead_arbiter_escalates() {
    run(async {
        let node = Node::start();
        node.whole().await;
        node.arbiter.stop();
        until("it escalates", || !node.escalated.lock().is_empty()).await;
        assert!(
            node.escalated.lock()[0].contains("its arbiter has ended"),
            "{:?}",
            node.escalated.lock()
        );
    });
}

#[test]
fn a_blocked_thread_is_the_watchdogs_and_kills_no_actor() {
    run(async {
        let node = Node::start();
        node.whole().await;
        let mut settings = settings();
        settings.watchdog_warn = Duration::from_millis(300);
        settings.watchdog_exit = Duration::from_millis(900);
        let exits = Arc::<Mutex<Vec<String>>>::default();
        let sink = Arc::clone(&exits);
        let watchdog = Watchdog::start(
            &settings,
            Arc::clone(&node.metrics),
            Box::new(move |why| sink.lock().push(why)),
        )
        .unwrap();
        watchdog.watch("worker/0", &node.arbiter.handle());
        let (free, blocked) = std::sync::mpsc::channel::<()>();
        node.arbiter.spawn_fn(move || {
            let _ = blocked.recv_timeout(DEADLINE);
        });
        until("the exit is called for", || !exits.lock().is_empty()).await;
        assert!(exits.lock()[0].starts_with("thread worker/0 was blocked for "));
        assert_eq!(node.metrics.blocked_threads.get(), 1, "one report an episode");
        free.send(()).unwrap();
        node.work().await;
        assert_eq!(node.worker.restarts(), 0, "past the stall time-out, but not stalled");
    });
}

/// Stops or panics in `started`, or waits for ever.
struct Temporary(&'static str);

impl Actor for Temporary {
    type Context = Context<Self>;
    fn started(&mut self, ctx: &mut Self::Context) {
        match self.0 {
            "stop" => ctx.stop(),
            "panic" => panic!("started"),
            _ => ctx.wait(actix::fut::wrap_future(std::future::pending::<()>())),
        }
    }
    fn stopped(&mut self, _: &mut Self::Context) {
        assert_eq!(self.0, "stop", "neither a panicked nor a killed actor runs on");
    }
}

#[test]
fn a_temporary_actor_tells_how_it_ended() {
    run(async {
        install_panic_hook();
        let ends = Arc::<Mutex<Vec<String>>>::default();
        for kind in ["stop", "panic", "abort"] {
            let sink = Arc::clone(&ends);
            let task = spawn_temporary(Context::new(), Temporary(kind), move |end| {
                sink.lock().push(end.to_string())
            });
            tokio::task::yield_now().await;
            if kind == "abort" {
                task.abort();
            }
            until("it ended", || task.is_finished()).await;
        }
        let ends = ends.lock().clone();
        assert_eq!((&*ends[0], &*ends[2]), ("stopped", "was killed: its task was aborted"));
        assert!(ends[1].starts_with("panicked: started at "), "{ends:?}");
    });
}

#[test]
fn the_tree_is_drawn() {
    let registry = Registry::new("n1");
    for path in [
        "supervisor",
        "connection-manager/0",
        "storage",
        "peers",
        "peers/n2",
        "connection-manager/0/c",
        "peers/n3",
    ] {
        registry.add(ActorCell::new(path, "T").with_detail(|| "9 connections".into()).shared());
    }
    let text = registry.print();
    let left: Vec<&str> =
        text.lines().map(|line| line.split("  starting").next().unwrap().trim_end()).collect();
    let expected = [
        "node n1",
        "|- supervisor",
        "|- connection-manager/0",
        "|  `- connection-manager/0/c",
        "|- storage",
        "`- peers",
        "   |- peers/n2",
        "   `- peers/n3",
    ];
    assert_eq!(left, expected);
    assert!(
        text.lines().nth(2).unwrap().contains("mailbox 0      restarts 0   handled 0"),
        "{text}"
    );
    assert!(text.contains("longest 0 us  9 connections"), "{text}");
}

#[test]
fn panics_are_caught_with_their_place() {
    install_panic_hook();
    let Err(ExitStatus::Panicked(why)) = catch(|| panic!("number {}", 7)) else {
        panic!("not caught")
    };
    assert!(why.starts_with("number 7 at ") && why.contains("tests.rs:"), "{why}");
    let Err(ExitStatus::Panicked(why)) = catch(|| std::panic::panic_any(7)) else {
        panic!("not caught")
    };
    assert!(why.starts_with("a payload that is not text at "), "{why}");
}
