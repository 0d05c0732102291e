//! Reading what is in the outbox only: lanes that are behind, topics of which the log takes no more.

use super::*;

fn lane_read(orders: &[LogOrder]) -> Option<(u16, u64, usize)> {
    match orders {
        [] => None,
        [LogOrder::ReadOutbox { lane, from, records, .. }] => Some((*lane, *from, *records)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_lane_that_is_behind_is_read_once_half_the_room_is_free_and_its_inbox_is_empty() {
    let mut log = Driver::new(|settings| settings.max_pending_messages = 4);
    let handed = log.stored(0, "t");
    let behind: Vec<_> = (1..3).map(|n| log.store(n, "t", false)).collect();
    log.step(|_, _, _| {});
    assert_eq!(lane_read(&log.orders), None, "0 stands in the inbox");
    log.admit(vec![handed, publish(10), publish(11)]);
    assert_eq!((&*log.sent, lane_read(&log.orders)), (&[0, 10, 11][..], None), "no room");
    log.report(vec![(10, Ok(()))]);
    assert_eq!(lane_read(&log.orders), Some((0, 1, 4096)));
    let order = log.orders[0];
    log.step(|_, _, _| {});
    assert!(log.orders.is_empty(), "one at a time");
    log.page(order, Ok(behind.clone()));
    assert_eq!((&*log.sent, log.orders.len()), (&[1, 2][..], 0));
    assert!(!log.world.lanes.borrow().any_behind());
    log.page(order, Ok(behind));
    assert!(log.sent.is_empty(), "a second answer changes nothing");
    log.report(vec![(0, Ok(())), (1, Ok(())), (2, Ok(()))]);
    assert_eq!(log.inboxes.pushed, [Pushed::Cursors(vec![(0, 3)])]);
    assert_eq!(log.queue.poll_happened().backlog, Some((0, 0)));
}

#[test]
fn a_read_that_fails_or_finds_nothing_is_begun_again_after_a_pause() {
    let mut log = Driver::new(|_| {});
    let behind = log.store(0, "t", false);
    log.step(|_, _, _| {});
    for page in [Err(StoreError::Unavailable("away".into())), Ok(Vec::new())] {
        log.page(log.orders[0], page);
        assert_eq!((log.orders.len(), log.pause()), (0, Some(100 * MS)));
        assert!(matches!(log.queue.poll_notice(), Some(Notice::LaneUnread { lane: 0, .. })));
        log.pass(99 * MS);
        assert!(log.orders.is_empty());
        log.pass(MS);
        assert_eq!(lane_read(&log.orders), Some((0, 0, 4096)));
    }
    let old = log.orders[0];
    log.step(|queue, _, _| queue.handle_restart());
    assert_eq!(lane_read(&log.orders), Some((0, 0, 4096)), "nobody waits for the predecessor's");
    log.page(old, Ok(vec![behind.clone()]));
    assert!(log.sent.is_empty());
    log.step(|queue, _, _| queue.handle_restart());
    log.page(log.orders[0], Ok(vec![behind]));
    assert_eq!(log.sent, [0]);
}

#[test]
fn records_of_a_topic_that_the_log_takes_no_more_of_come_late_and_none_overtakes_them() {
    let mut log = Driver::new(|_| {});
    log.world.full.borrow_mut().push("bad");
    let work: Vec<_> =
        (0..4).map(|n| log.stored(n, if n % 2 == 0 { "bad" } else { "good" })).collect();
    let bad: Vec<_> = work.iter().step_by(2).map(|work| work.record.clone()).collect();
    log.admit(work);
    assert_eq!((&*log.sent, log.queue.late(), log.queue.len()), (&[1, 3][..], 2, 2));
    // Who waits for the log itself does not wait for more.
    let waited = LogWork { token: publish(9).token, ..log.stored(9, "bad") };
    log.admit(vec![waited]);
    assert_eq!((&*log.sent, log.queue.late(), log.orders.len()), (&[9][..], 2, 0));
    log.world.full.borrow_mut().clear();
    let work = log.stored(5, "bad");
    let later = work.record.clone();
    log.admit(vec![work]);
    assert_eq!((log.sent.len(), log.queue.late()), (0, 3), "it does not overtake");
    assert_eq!(lane_read(&log.orders), Some((0, 0, 4096)));
    let between = log.store(1, "good", true);
    log.page(log.orders[0], Ok(vec![bad[0].clone(), between, bad[1].clone()]));
    assert_eq!((&*log.sent, log.queue.late()), (&[0, 2][..], 1));
    // One that is not where it stood is looked for again.
    let order = log.orders[0];
    assert_eq!(lane_read(&log.orders), Some((0, 5, 4096)));
    log.page(order, Ok(vec![bad[0].clone()]));
    assert!(matches!(log.queue.poll_notice(), Some(Notice::Unread { .. })));
    log.pass(100 * MS);
    log.page(log.orders[0], Ok(vec![later]));
    assert_eq!((&*log.sent, log.queue.late(), log.queue.waits()), (&[5][..], 0, false));
}

#[test]
fn too_many_late_records_stop_everything_but_what_the_log_takes_again() {
    let mut log = Driver::new(|settings| settings.max_pending_bytes = 256);
    log.world.full.borrow_mut().push("bad");
    let work = vec![log.stored(0, "bad"), log.stored(1, "bad")];
    log.admit(work);
    assert!(!log.queue.has_room() && log.queue.is_empty());
    log.store(2, "good", false);
    log.step(|_, _, _| {});
    assert!(log.orders.is_empty(), "lanes are not read either");
    log.world.full.borrow_mut().clear();
    log.step(|_, _, _| {});
    assert_eq!(lane_read(&log.orders), Some((0, 0, 4096)));
}
