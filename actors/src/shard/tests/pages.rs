//! What comes back from a session's queue in the store, and in which order.

use super::*;

#[test]
fn what_is_queued_while_an_empty_page_is_on_its_way_is_read_next() {
    let shard = shard(1);
    let first = connect(&shard, false, None);
    store(&shard);
    subscribe(&shard, &first, "t", QoS::AtLeastOnce);
    shard.detach(&first, CloseReason::Eof);
    let second = connect(&shard, false, None);
    store(&shard);
    let (_, reads) = store(&shard);
    let [(slot, stamp, _)] = reads[..] else { panic!("{reads:?}") };
    publish(&shard, &conn(&shard), "t", b"meanwhile", false);
    let entries = queued(&store(&shard).0);
    assert_eq!(entries.len(), 1);
    shard.queue_page(slot, stamp, &[]);
    let (_, reads) = store(&shard);
    let [(slot, stamp, from)] = reads[..] else { panic!("the entry is forgotten: {reads:?}") };
    assert!(from <= entries[0].sequence);
    shard.queue_page(slot, stamp, &entries);
    assert!(contains(&second, b"meanwhile"));
    assert!(store(&shard).1.is_empty(), "nothing is left to be read");
}

#[test]
fn a_page_that_a_connection_before_asked_for_is_not_taken_for_the_new_ones() {
    let shard = shard(1);
    let first = connect(&shard, false, None);
    store(&shard);
    subscribe(&shard, &first, "t", QoS::AtLeastOnce);
    shard.detach(&first, CloseReason::Eof);
    let _second = connect(&shard, false, None);
    store(&shard);
    let stale = store(&shard).1[0];
    publish(&shard, &conn(&shard), "t", b"x", false);
    let entries = queued(&store(&shard).0);
    let third = connect(&shard, false, None);
    store(&shard);
    let fresh = store(&shard).1[0];
    assert_ne!(stale.1, fresh.1);
    shard.queue_page(stale.0, stale.1, &entries);
    assert!(!contains(&third, b"\x01tx"), "taken for the new one's");
    shard.queue_page(fresh.0, fresh.1, &entries);
    assert!(third.out.borrow().ends_with(b"x"));
}

#[test]
fn a_page_that_shows_more_than_was_asked_for_hides_nothing() {
    let shard = shard(1);
    let first = connect(&shard, false, None);
    store(&shard);
    subscribe(&shard, &first, "t", QoS::AtLeastOnce);
    shard.detach(&first, CloseReason::Eof);
    publish(&shard, &conn(&shard), "t", b"one", false);
    let mut entries = queued(&store(&shard).0);
    let second = connect(&shard, false, None);
    store(&shard);
    let (slot, stamp, _) = store(&shard).1[0];
    publish(&shard, &conn(&shard), "t", b"two", false);
    publish(&shard, &conn(&shard), "t", b"three", false);
    let later = queued(&store(&shard).0);
    // Two batches are under way and the store shows the second first.
    entries.push(later[1].clone());
    shard.queue_page(slot, stamp, &entries);
    assert!(contains(&second, b"one") && !contains(&second, b"three"));
    let (slot, stamp, from) = store(&shard).1[0];
    assert_eq!(from, later[0].sequence);
    // Nothing of what was asked for, and something that came since.
    publish(&shard, &conn(&shard), "t", b"four", false);
    let since = queued(&store(&shard).0);
    shard.queue_page(slot, stamp, &since);
    assert!(!contains(&second, b"four"));
    let (slot, stamp, from) = store(&shard).1[0];
    assert_eq!(from, since[0].sequence, "its own page was empty below what it saw");
    shard.queue_page(slot, stamp, &since);
    assert!(contains(&second, b"four"));
}

#[test]
fn a_qos_2_message_that_finds_no_window_comes_back_from_the_store() {
    let mut settings = settings(1);
    settings.session.max_inflight = 1;
    let shard = shard_with(settings);
    let subscriber = connect(&shard, false, None);
    store(&shard);
    subscribe(&shard, &subscriber, "t", QoS::ExactlyOnce);
    let publisher = conn(&shard);
    publish(&shard, &publisher, "t", b"one", false);
    store(&shard);
    // Its entry is handed to the store, which holds it back: nothing is answered.
    publish_at(QoS::ExactlyOnce, &shard, &publisher, "t", b"two", false);
    let mut taken = shard.shared.storage.take(10);
    let Some(StorageWork::Write { ops, tokens, .. }) = taken.pop() else { panic!() };
    assert!(taken.pop().is_none());
    drop(taken);
    let entries = queued(&ops);
    assert_eq!(entries.len(), 1);
    // The window is free: no packet id is given to what is not stored.
    shard.delivered(&subscriber, PacketId::MIN, QoS::AtLeastOnce).unwrap();
    shard.flush();
    let (ops, reads) = store(&shard);
    assert!(!ops.iter().any(|op| matches!(op, StoreOp::PutOutgoing { .. })), "{ops:?}");
    assert!(!contains(&subscriber, b"two"));
    let [(slot, stamp, from)] = reads[..] else { panic!("{reads:?}") };
    assert_eq!(from, entries[0].sequence);
    tokens.into_iter().for_each(|token| shard.complete(token));
    shard.queue_page(slot, stamp, &entries);
    shard.flush();
    store(&shard);
    assert!(contains(&subscriber, b"two"));
}
