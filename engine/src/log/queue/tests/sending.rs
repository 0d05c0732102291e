//! Sending, failures and answers.

use super::*;

#[test]
fn the_pause_doubles_up_to_its_maximum_and_is_the_shortest_again_after_an_answer() {
    let mut log = Driver::new(|_| {});
    log.admit(vec![publish(0)]);
    assert_eq!(log.sent, [0]);
    for pause in [100, 200, 400, 400].map(|ms| ms * MS) {
        log.report(vec![(0, away())]);
        assert_eq!((&*log.orders, log.pause()), (&[LogOrder::Reset][..], Some(pause)));
        log.pass(pause - Duration::from_micros(1));
        assert_eq!((log.sent.len(), log.queue.in_log()), (0, 0), "too early");
        log.pass(Duration::from_micros(1));
        assert_eq!((&*log.sent, log.pause()), (&[0][..], None));
    }
    log.report(vec![(0, Ok(()))]);
    assert_eq!(log.inboxes.pushed, [Pushed::Completed(0, vec![0])]);
    log.admit(vec![publish(1)]);
    log.report(vec![(1, away())]);
    assert_eq!(log.pause(), Some(100 * MS));
}

#[test]
fn a_refusal_is_an_answer_too() {
    let mut log = Driver::new(|_| {});
    log.admit(vec![publish(0)]);
    log.report(vec![(0, away())]);
    log.pass(100 * MS);
    let happened = log.queue.poll_happened();
    assert_eq!((happened.readiness, happened.resets), (Some(Err("away".into())), 1));
    log.report(vec![(0, refused())]);
    assert_eq!(log.queue.poll_happened().readiness, Some(Ok(())));
    log.admit(vec![publish(1)]);
    log.report(vec![(1, away())]);
    assert_eq!(log.pause(), Some(100 * MS));
}

#[test]
fn after_a_failure_nothing_is_sent_until_everything_in_the_logs_hands_is_reported() {
    let mut log = Driver::new(|_| {});
    log.admit((0..4).map(publish).collect());
    log.report(vec![(0, Ok(())), (1, away())]);
    assert_eq!((&*log.orders, log.pause()), (&[LogOrder::Reset][..], None));
    log.admit(vec![publish(4)]);
    assert!(log.sent.is_empty() && log.orders.is_empty());
    log.report(vec![(2, away())]);
    assert_eq!((log.orders.len(), log.pause()), (0, None), "the log is told once");
    log.pass(10_000 * MS);
    assert!(log.sent.is_empty(), "3 is still in the log's hands");
    log.report(vec![(3, Ok(()))]);
    assert_eq!(log.pause(), Some(100 * MS));
    log.pass(100 * MS);
    assert_eq!(log.sent, [1, 2, 4], "in order, and not 3");
    let happened = log.queue.poll_happened();
    assert_eq!((happened.acknowledged, happened.failed, happened.resets), (2, 2, 1));
}

#[test]
fn a_second_report_changes_nothing() {
    let mut log = Driver::new(|_| {});
    let work = vec![log.stored(0, "t"), publish(1)];
    log.admit(work);
    let ids = [0, 1].map(|sequence| log.in_log[&sequence]);
    log.report(vec![(0, Ok(())), (1, Ok(()))]);
    assert_eq!(log.kinds(), ["cursors", "completed"]);
    for result in [Ok(()), away(), refused()] {
        log.step(|queue, now, _| {
            for id in ids {
                let outcome = queue.handle_report(now, Report { id, result: result.clone() });
                assert!(matches!(outcome, Outcome::Unknown), "{outcome:?}");
            }
        });
        assert!(log.inboxes.pushed.is_empty() && log.orders.is_empty() && log.pause().is_none());
    }
    assert_eq!((log.queue.len(), log.queue.bytes(), log.queue.in_log()), (0, 0, 0));
}

#[test]
fn a_log_without_room_is_asked_once_a_step_and_loses_no_order() {
    let mut log = Driver::new(|_| {});
    log.room = 2;
    log.admit((0..5).map(publish).collect());
    assert_eq!((&*log.sent, log.queue.in_log(), log.queue.waits()), (&[0, 1][..], 2, true));
    log.room = 1;
    log.report(vec![(0, Ok(()))]);
    assert_eq!(log.sent, [2]);
    log.room = 9;
    log.pass(20 * MS);
    assert_eq!((&*log.sent, log.queue.waits()), (&[3, 4][..], false));
}

#[test]
fn the_latency_of_a_record_is_that_between_two_steps() {
    let mut log = Driver::new(|_| {});
    log.admit(vec![publish(0)]);
    log.pass(7 * MS);
    let id = log.in_log[&0];
    log.step(|queue, now, _| {
        let outcome = queue.handle_report(now, Report { id, result: Ok(()) });
        assert!(matches!(outcome, Outcome::Acknowledged(took) if took == 7 * MS), "{outcome:?}");
    });
}

#[test]
fn nothing_is_admitted_past_the_bounds() {
    let mut log = Driver::new(|settings| settings.max_pending_messages = 2);
    log.admit(vec![publish(0), publish(1)]);
    assert!(!log.queue.has_room());
    log.report(vec![(1, Ok(()))]);
    assert!(log.queue.has_room(), "answered before one that is not");
    let mut log = Driver::new(|settings| settings.max_pending_bytes = record(0).cost());
    log.admit(vec![publish(0)]);
    assert!(!log.queue.has_room());
}

/// The actor died: its timer is gone, and perhaps nobody has told the log.
#[test]
fn a_new_driver_goes_on_with_a_reset() {
    let mut log = Driver::new(|_| {});
    log.admit(vec![publish(0), publish(1)]);
    log.report(vec![(0, away())]);
    log.step(|queue, _, _| queue.handle_restart());
    assert_eq!((&*log.orders, log.pause()), (&[LogOrder::Reset][..], None));
    log.report(vec![(1, away())]);
    assert_eq!(log.pause(), Some(100 * MS));
    log.pass(50 * MS);
    log.step(|queue, _, _| queue.handle_restart());
    assert_eq!((log.orders.len(), log.pause()), (0, Some(100 * MS)), "the pause begins anew");
    log.pass(100 * MS);
    assert_eq!(log.sent, [0, 1]);
}

/// Whichever push panics: everything is pushed once the driver comes back, and in order.
#[test]
fn a_panic_between_two_pushes_forgets_none() {
    let reported = |panics_in| {
        let mut log = Driver::new(|_| {});
        let mut work = vec![log.stored(0, "t"), log.stored(1, "t")];
        work.extend([publish(2), publish(3), waited_for(4, OnRefused::Disconnect)]);
        log.admit(work);
        log.inboxes.panics_in = panics_in;
        let (now, world) = (log.now, Rc::clone(&log.world));
        for (sequence, id) in std::mem::take(&mut log.in_log) {
            let result = if sequence == 1 || sequence == 4 { refused() } else { Ok(()) };
            log.queue.handle_report(now, Report { id, result });
        }
        log.queue.handle_turn(now, &*world);
        let mut push = || log.queue.hand_out(&*world, &mut log.inboxes);
        let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&mut push)).is_err();
        assert_eq!(died, panics_in.is_some());
        log.inboxes.panics_in = None;
        log.queue.handle_restart();
        log.queue.handle_turn(now, &*world);
        log.queue.hand_out(&*world, &mut log.inboxes);
        log
    };
    let whole = reported(None);
    assert_eq!(whole.kinds(), ["letter", "cursors", "refused", "completed", "completed"]);
    for n in 0..whole.inboxes.pushed.len() {
        let mut pushed = reported(Some(n)).inboxes.pushed;
        // Of answers, the first workers' may be pushed twice.
        pushed.dedup();
        assert_eq!(pushed, whole.inboxes.pushed, "{n}");
    }
}
