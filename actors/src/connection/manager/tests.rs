//! What a panic in the middle of the manager's work leaves to its successor.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::driver::tests::driver;
use crate::messages::ManagerWork;
use crate::metrics::CloseReason;
use crate::worker::testing::{conn, connect, contains, publish, queued, store, subscribe};
use hydrant_protocol::QoS;

fn manager(driver: &Rc<WorkerDriver>) -> ConnectionManager {
    let cell = ActorCell::new("manager", "ConnectionManager").shared();
    ConnectionManager { driver: Rc::clone(driver), cell, ticks: 0 }
}

/// Two entries, the second in flight, a connection that wants them, and the page with them
/// in the manager's inbox.
fn page(driver: &Rc<WorkerDriver>) -> Rc<crate::worker::Conn> {
    let worker = &driver.worker;
    let first = connect(worker, false, None);
    store(worker);
    subscribe(worker, &first, "t", QoS::AtLeastOnce);
    publish(worker, &conn(worker), "t", b"one", false);
    publish(worker, &conn(worker), "t", b"two", false);
    let mut entries = queued(&store(worker).0);
    assert!(entries.len() == 2 && entries[1].outgoing.is_some());
    entries[0].outgoing = None;
    worker.detach(&first, CloseReason::Eof);
    let second = connect(worker, false, None);
    store(worker);
    let (slot, request, _) = store(worker).1[0];
    driver.mailboxes.managers[0].push(ManagerWork::QueuePage { slot, request, entries }.into(), 0);
    second
}

fn panics(manager: &ConnectionManager) -> bool {
    catch_unwind(AssertUnwindSafe(|| manager.work())).is_err()
}

#[test]
fn a_page_is_taken_back_once_although_a_panic_came_in_between() {
    let driver = driver(1);
    let worker = &driver.worker;
    let second = page(&driver);
    {
        // Nothing can be written to it.
        let _held = second.out.borrow_mut();
        assert!(panics(&manager(&driver)));
    }
    assert_eq!(driver.mailboxes.managers[0].len(), 1, "the page is lost");
    assert!(!panics(&manager(&driver)));
    assert!(driver.mailboxes.managers[0].is_empty() && second.phase().closing().is_none());
    assert!(contains(&second, b"one") && contains(&second, b"two"));
    assert_eq!(worker.session_load(&second).0, 2, "in flight once each");
}

#[test]
fn a_page_that_ends_every_manager_is_given_up_with_its_connection() {
    let driver = driver(1);
    let second = page(&driver);
    let held = second.out.borrow_mut();
    for _ in 0..=GIVEN_UP_AFTER {
        assert!(panics(&manager(&driver)));
    }
    assert!(second.phase().closing().is_none());
    assert!(!panics(&manager(&driver)));
    assert!(second.phase().closing().is_some() && driver.mailboxes.managers[0].is_empty());
    drop(held);
}
