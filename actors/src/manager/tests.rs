//! What a panic in the middle of the manager's work leaves to its successor.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::metrics::CloseReason;
use crate::shard::tests::{conn, connect, contains, publish, queued, shard, store, subscribe};
use hydrant_protocol::QoS;

fn manager(shard: &Rc<Shard>) -> ConnectionManager {
    let cell = ActorCell::new("manager", "ConnectionManager").shared();
    ConnectionManager { shard: Rc::clone(shard), cell, ticks: 0 }
}

/// Two entries, the second in flight, a connection that wants them, and the page with them
/// in the manager's inbox.
fn page(shard: &Rc<Shard>) -> Rc<crate::shard::Conn> {
    let first = connect(shard, false, None);
    store(shard);
    subscribe(shard, &first, "t", QoS::AtLeastOnce);
    publish(shard, &conn(shard), "t", b"one", false);
    publish(shard, &conn(shard), "t", b"two", false);
    let mut entries = queued(&store(shard).0);
    assert!(entries.len() == 2 && entries[1].outgoing.is_some());
    entries[0].outgoing = None;
    shard.detach(&first, CloseReason::Eof);
    let second = connect(shard, false, None);
    store(shard);
    let (slot, stamp, _) = store(shard).1[0];
    shard.shared.managers[0].push(ManagerWork::QueuePage { slot, stamp, entries }, 0);
    second
}

fn panics(manager: &ConnectionManager) -> bool {
    catch_unwind(AssertUnwindSafe(|| manager.work())).is_err()
}

#[test]
fn a_page_is_taken_back_once_although_a_panic_came_in_between() {
    let shard = shard(1);
    let second = page(&shard);
    {
        // Nothing can be written to it.
        let _held = second.out.borrow_mut();
        assert!(panics(&manager(&shard)));
    }
    assert_eq!(shard.shared.managers[0].len(), 1, "the page is lost");
    assert!(!panics(&manager(&shard)));
    assert!(shard.shared.managers[0].is_empty() && second.closing.get().is_none());
    assert!(contains(&second, b"one") && contains(&second, b"two"));
    assert_eq!(shard.session_load(&second).0, 2, "in flight once each");
}

#[test]
fn a_page_that_ends_every_manager_is_given_up_with_its_connection() {
    let shard = shard(1);
    let second = page(&shard);
    let held = second.out.borrow_mut();
    for _ in 0..=GIVEN_UP_AFTER {
        assert!(panics(&manager(&shard)));
    }
    assert!(second.closing.get().is_none());
    assert!(!panics(&manager(&shard)));
    assert!(second.closing.get().is_some() && shard.shared.managers[0].is_empty());
    drop(held);
}
