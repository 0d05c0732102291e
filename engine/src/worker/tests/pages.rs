//! What comes back from a session's queue in the store, and in which order.

use super::retained::{Queue, read_all, subscribe_to};
use super::*;
use crate::ports::SessionOp;

#[test]
fn what_is_queued_while_an_empty_page_is_on_its_way_is_read_next() {
    let worker = worker(1);
    let first = connect(&worker, false, None);
    store(&worker);
    subscribe(&worker, &first, "t", QoS::AtLeastOnce);
    worker.detach(&first, CloseReason::Eof);
    let second = connect(&worker, false, None);
    store(&worker);
    let (_, reads) = store(&worker);
    let [(slot, request, _)] = reads[..] else { panic!("{reads:?}") };
    publish(&worker, &conn(&worker), "t", b"meanwhile", false);
    let entries = queued(&store(&worker).0);
    assert_eq!(entries.len(), 1);
    worker.queue_page(slot, request, &[]);
    let (_, reads) = store(&worker);
    let [(slot, request, from)] = reads[..] else { panic!("the entry is forgotten: {reads:?}") };
    assert!(from <= entries[0].sequence);
    worker.queue_page(slot, request, &entries);
    assert!(contains(&second, b"meanwhile"));
    assert!(store(&worker).1.is_empty(), "nothing is left to be read");
}

#[test]
fn a_page_that_a_connection_before_asked_for_is_not_taken_for_the_new_ones() {
    let worker = worker(1);
    let first = connect(&worker, false, None);
    store(&worker);
    subscribe(&worker, &first, "t", QoS::AtLeastOnce);
    worker.detach(&first, CloseReason::Eof);
    let _second = connect(&worker, false, None);
    store(&worker);
    let stale = store(&worker).1[0];
    publish(&worker, &conn(&worker), "t", b"x", false);
    let entries = queued(&store(&worker).0);
    let third = connect(&worker, false, None);
    store(&worker);
    let fresh = store(&worker).1[0];
    assert_ne!(stale.1, fresh.1);
    worker.queue_page(stale.0, stale.1, &entries);
    assert!(!contains(&third, b"\x01tx"), "taken for the new one's");
    worker.queue_page(fresh.0, fresh.1, &entries);
    assert!(third.out.borrow().ends_with(b"x"));
}

#[test]
fn a_page_that_shows_more_than_was_asked_for_hides_nothing() {
    let worker = worker(1);
    let first = connect(&worker, false, None);
    store(&worker);
    subscribe(&worker, &first, "t", QoS::AtLeastOnce);
    worker.detach(&first, CloseReason::Eof);
    publish(&worker, &conn(&worker), "t", b"one", false);
    let mut entries = queued(&store(&worker).0);
    let second = connect(&worker, false, None);
    store(&worker);
    let (slot, request, _) = store(&worker).1[0];
    publish(&worker, &conn(&worker), "t", b"two", false);
    publish(&worker, &conn(&worker), "t", b"three", false);
    let later = queued(&store(&worker).0);
    // Two batches are under way and the store shows the second first.
    entries.push(later[1].clone());
    worker.queue_page(slot, request, &entries);
    assert!(contains(&second, b"one") && !contains(&second, b"three"));
    let (slot, request, from) = store(&worker).1[0];
    assert_eq!(from, later[0].sequence);
    // Nothing of what was asked for, and something that came since.
    publish(&worker, &conn(&worker), "t", b"four", false);
    let since = queued(&store(&worker).0);
    worker.queue_page(slot, request, &since);
    assert!(!contains(&second, b"four"));
    let (slot, request, from) = store(&worker).1[0];
    assert_eq!(from, since[0].sequence, "its own page was empty below what it saw");
    worker.queue_page(slot, request, &since);
    assert!(contains(&second, b"four"));
}

#[test]
fn a_qos_2_message_that_finds_no_window_comes_back_from_the_store() {
    let mut settings = settings(1);
    settings.session.max_inflight = 1;
    let worker = worker_with(settings);
    let subscriber = connect(&worker, false, None);
    store(&worker);
    subscribe(&worker, &subscriber, "t", QoS::ExactlyOnce);
    let publisher = conn(&worker);
    publish(&worker, &publisher, "t", b"one", false);
    store(&worker);
    // Its entry is handed to the store, which holds it back: nothing is answered.
    publish_at(QoS::ExactlyOnce, &worker, &publisher, "t", b"two", false);
    let mut taken = worker.take_storage(10);
    let Some(StorageWork::Write { ops, tokens, .. }) = taken.pop_front() else { panic!() };
    assert!(taken.pop_front().is_none());
    let entries = queued(&ops);
    assert_eq!(entries.len(), 1);
    // The window is free: no packet id is given to what is not stored.
    worker.handle_puback(&subscriber, PacketId::MIN).unwrap();
    worker.flush();
    let (ops, reads) = store(&worker);
    assert!(
        !ops.iter().any(|op| matches!(op, StoreOp::Session(SessionOp::PutOutgoing { .. }))),
        "{ops:?}"
    );
    assert!(!contains(&subscriber, b"two"));
    let [(slot, request, from)] = reads[..] else { panic!("{reads:?}") };
    assert_eq!(from, entries[0].sequence);
    tokens.into_iter().for_each(|token| worker.complete(token));
    worker.queue_page(slot, request, &entries);
    worker.flush();
    store(&worker);
    assert!(contains(&subscriber, b"two"));
}

/// What was in flight is sent again as the socket takes it, not all at once.
#[test]
fn what_is_sent_again_fills_the_buffer_to_its_bound() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let mut settings = settings(1);
        settings.session.max_inflight = 40;
        settings.session.max_queued_messages = 50;
        settings.session.max_queued_bytes = 10_000;
        let worker = worker_with(settings);
        let queue = &mut Queue::default();
        let first = connect(&worker, false, None);
        queue.answer(&worker);
        subscribe_to(&worker, &first, "t/#", qos, queue);
        let send = |n: usize| {
            let topic = format!("t/{n:02}");
            publish_at(qos, &worker, &conn(&worker), &topic, &[b'x'; 60], false);
            worker.flush();
        };
        for n in 0..45 {
            send(n);
            queue.answer(&worker);
            // It reads and acknowledges nothing.
            first.out.take();
        }
        assert_eq!(queue.0.values().filter(|entry| entry.outgoing.is_some()).count(), 40);
        worker.detach(&first, CloseReason::Eof);
        let second = connect(&worker, false, None);
        queue.answer(&worker);
        assert!(second.replaying.get(), "there is more of it");
        assert!(second.out.borrow().len() < 1100, "{}", second.out.borrow().len());
        send(45);
        let got = read_all(&worker, &second, queue);
        let topics: Vec<_> = got.into_iter().map(|(topic, ..)| topic).collect();
        assert_eq!(topics, (0..46).map(|n| format!("t/{n:02}")).collect::<Vec<_>>(), "{qos:?}");
        assert!(!second.replaying.get() && queue.0.is_empty());
    }
}
