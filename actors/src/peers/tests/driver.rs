//! What drives the coordinator, when a step of it panics, and when what is due is handled by nobody.

use std::io::Write;
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use actix_rt::Arbiter;
use hydrant_protocol::cluster::link::{Class, Config, Identity, Link, Role};
use hydrant_protocol::cluster::message::{self, Control};
use hydrant_protocol::cluster::{Load, Member, MembershipView};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream as Stream;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::*;
use crate::clock;
use crate::cluster::coordinator::Coordinator;
use crate::messages::PeerWork;
use crate::metrics::Metrics;
use crate::peers::driver::{Driver, Handle};
use crate::peers::parts::{AtOnce, beginning};
use crate::peers::{OnFailure, PeersActor, io};
use crate::ports::SharedStore;
use crate::supervision::{ActorCell, Child, Fault, Supervisor};

/// The driver of node n1, whose actor is not there.
fn driver(world: &World) -> Handle {
    let node = world.node("n1", INCARNATIONS.fetch_add(1, Ordering::SeqCst));
    let store = Arc::clone(&node) as Arc<dyn SharedStore>;
    let at_once = Arc::new(AtOnce(Arc::clone(&store)));
    let settings = cluster_settings(String::new(), Vec::new());
    let cluster =
        crate::cluster::Cluster::new(&"n1".into(), beginning(&*store), &at_once, settings);
    let settings = Arc::new(settings_of("n1", 1));
    let shared = crate::node_tables::NodeTables::for_tests(
        &settings,
        crate::log::Gate::default(),
        crate::clock::now(),
    );
    let mailboxes = Mailboxes::new(&settings, 1 << 20);
    let coordinator = Coordinator::new(&cluster, &shared, clock::now());
    let ends: OnFailure = Arc::new(|why: String| panic!("{why}"));
    Driver::new(coordinator, &cluster, &mailboxes, &store, &ends)
}

/// The members are these, each at this address.
fn sees(driver: &Handle, members: &[&str], address: &str) {
    let member = |id: &&str| Member {
        node_id: (*id).into(),
        incarnation: 1,
        peer: address.to_owned(),
        mqtt: Vec::new(),
        version: String::new(),
        protocol: (1, 1),
        load: Load::default(),
        draining: false,
    };
    let members = members.iter().map(member).collect();
    let view = MembershipView { generation: 1, members, current: true };
    driver.step(|coordinator, now| coordinator.handle_message(now, PeerWork::Members(view)));
}

/// Another node's end of its link, once that is up at both.
async fn comes_up(driver: &Handle, id: &str, stream: &mut Stream) -> Link {
    let cluster = Arc::clone(&driver.cluster.settings.id);
    let me = Identity { cluster, node_id: id.into(), incarnation: 1 };
    let mut link = Link::new(Config::default(), me, "n1".into());
    link.connected(0, Role::Acceptor);
    let (mut read, mut out) = (vec![0; 1 << 16], Vec::new());
    loop {
        out.clear();
        link.transmit(0, &mut out, usize::MAX);
        stream.write_all(&out).await.unwrap();
        if link.is_up() {
            break;
        }
        let n = stream.read(&mut read).await.unwrap();
        link.receive(0, &read[..n]).unwrap();
    }
    when("it is up", || driver.cluster.is_up(1)).await;
    link
}

/// Control frames, all in one write.
async fn send(link: &mut Link, stream: &mut Stream, frames: usize) {
    let frame = message::encode(&[Control::InterestWhole]);
    for _ in 0..frames {
        link.send(Class::Control, message::CONTROL, frame.clone()).unwrap();
    }
    let mut out = Vec::new();
    link.transmit(0, &mut out, usize::MAX);
    stream.write_all(&out).await.unwrap();
}

async fn when(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The actor dies and is rebuilt: what it had decided does not wait for another step.
#[test]
fn what_was_decided_before_a_panic_is_carried_out() {
    actix_rt::System::new().block_on(async {
        let world = World::default();
        let driver = driver(&world);
        let step = || {
            driver.step(|coordinator, now| {
                let (worker, id, client, session) = (0, 9, "c".into(), 5);
                coordinator.handle_message(now, PeerWork::Recover { worker, id, client, session });
                panic!("as a fault would");
            });
        };
        assert!(catch_unwind(AssertUnwindSafe(step)).is_err());
        let asked = || world.1.locates.load(Ordering::SeqCst);
        when("it is answered", || asked() == 1 && driver.mailboxes.peers.len() == 1).await;
        driver.step(|_, _| {});
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!((asked(), driver.mailboxes.peers.len()), (1, 1), "once");
    });
}

/// What was due when the actor died is due for the next one.
#[test]
fn a_deadline_whose_handling_panics_comes_again() {
    actix_rt::System::new().block_on(async {
        let world = World::default();
        let driver = driver(&world);
        PeersActor::keep(&driver);
        let metrics = Metrics::new(1);
        let supervisor = Supervisor::start(
            ActorCell::new("supervisor", "Supervisor").shared(),
            settings_of("n1", 1).supervision,
            Arc::clone(&metrics),
            Box::new(|why| panic!("{why}")),
        );
        let cell = ActorCell::new("peers", "PeersActor").shared();
        let (arbiter, factory) = (Arbiter::current(), Arc::new(PeersActor::build));
        supervisor.add(Child { cell: Arc::clone(&cell), arbiter, factory });
        world.1.fail_locates.store(1, Ordering::SeqCst);
        let (worker, id, client, session) = (0, 9, "c".into(), 5);
        driver.mailboxes.peers.push(PeerWork::Recover { worker, id, client, session }, 1);
        when("it is to be asked again", || driver.deadline().is_some()).await;
        cell.arm(Fault::Panic);
        when("the actor died", || cell.restarts() == 1).await;
        when("it is asked again", || !driver.mailboxes.managers[0].is_empty()).await;
        assert_eq!(world.1.locates.load(Ordering::SeqCst), 2);
        assert_eq!((driver.deadline(), cell.restarts()), (None, 1));
    });
}

/// Its node is dialled again, or dials.
#[test]
fn a_connection_whose_handling_panics_ends_and_its_task_goes_on() {
    actix_rt::System::new().block_on(async {
        let driver = driver(&World::default());
        sees(&driver, &["n0", "n1"], "");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut other = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let stream = tokio::net::TcpStream::from_std(stream).unwrap();
        let its = Rc::clone(&driver);
        let run = spawn_local(async move { io::run(&its, 1, stream, Role::Acceptor, &[]).await });
        tokio::task::yield_now().await;
        driver.panics.set(true);
        other.write_all(b"x").unwrap();
        when("the connection has ended", || run.is_finished()).await;
        assert!(!run.await.unwrap(), "it was never up");
        assert!(!driver.panics.get());
    });
}

/// One frame is handled as it comes, one as its connection ends, and one as the next begins.
#[test]
fn a_node_whose_frames_panic_one_after_another_is_down_and_dialled_again() {
    actix_rt::System::new().block_on(async {
        let driver = driver(&World::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        sees(&driver, &["n1", "n2"], &listener.local_addr().unwrap().to_string());
        assert_eq!(driver.take_to_dial(), [1]);
        spawn_local(io::dial(Rc::clone(&driver), 1));
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut link = comes_up(&driver, "n2", &mut stream).await;
        driver.step(|coordinator, _| coordinator.panics = 3);
        send(&mut link, &mut stream, 3).await;
        when("its connection has ended", || driver.look(|c| c.panics) <= 1).await;
        assert!(!driver.cluster.is_up(1));
        for _ in 0..2 {
            let (dialled, _) = timeout(DEADLINE, listener.accept()).await.unwrap().unwrap();
            when("the rest is handled", || driver.look(|c| c.panics) == 0).await;
            drop(dialled);
        }
        assert!(!driver.cluster.is_up(1));
    });
}

/// Whoever dials waits longer from one to the next, as where the connection never was up.
#[test]
fn a_connection_that_was_up_and_panics_does_not_count_as_one() {
    actix_rt::System::new().block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        for panics in [0, 1] {
            let driver = driver(&World::default());
            sees(&driver, &["n1", "n2"], "");
            let stream = Stream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut other, _) = listener.accept().await.unwrap();
            let its = Rc::clone(&driver);
            let run = spawn_local(async move { io::run(&its, 1, stream, Role::Dialer, &[]).await });
            let mut link = comes_up(&driver, "n2", &mut other).await;
            driver.step(|coordinator, _| coordinator.panics = panics);
            send(&mut link, &mut other, 1).await;
            drop(other);
            when("the connection has ended", || run.is_finished()).await;
            assert_eq!(run.await.unwrap(), panics == 0);
        }
    });
}
