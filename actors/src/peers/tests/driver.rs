//! What drives the coordinator, when a step of it panics.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::clock;
use crate::cluster::coordinator::Coordinator;
use crate::messages::PeerWork;
use crate::peers::OnFailure;
use crate::peers::driver::{Driver, Handle};
use crate::peers::parts::{AtOnce, beginning};
use crate::ports::SharedStore;

/// The driver of node n1, whose actor is not there.
fn driver(world: &World) -> Handle {
    let node = world.node("n1", INCARNATIONS.fetch_add(1, Ordering::SeqCst));
    let store = Arc::clone(&node) as Arc<dyn SharedStore>;
    let at_once = Arc::new(AtOnce(Arc::clone(&store)));
    let settings = cluster_settings(String::new(), Vec::new());
    let cluster =
        crate::cluster::Cluster::new(&"n1".into(), beginning(&*store), &at_once, settings);
    let settings = Arc::new(settings_of("n1", 1));
    let shared = crate::system::shared_for_tests(&settings);
    let mailboxes = Mailboxes::new(&settings, 1 << 20);
    let coordinator = Coordinator::new(&cluster, &shared, clock::now());
    let ends: OnFailure = Arc::new(|why: String| panic!("{why}"));
    Driver::new(coordinator, &cluster, &mailboxes, &store, &ends)
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
        while asked() == 0 {
            tokio::task::yield_now().await;
        }
        while driver.mailboxes.peers.len() == 0 {
            tokio::task::yield_now().await;
        }
        driver.step(|_, _| {});
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!((asked(), driver.mailboxes.peers.len()), (1, 1), "once");
    });
}
