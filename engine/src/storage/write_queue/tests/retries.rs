//! Failures of the store, in virtual time.

use super::*;

/// Gathers a write and hands it to the store.
fn begin(queue: &mut WriteQueue, sequence: u64) -> WriteId {
    queue.admit(write(vec![queued(1, sequence)], None), false);
    form(queue).unwrap().id
}

/// What the store is given in this moment: the write of each batch, and the sequences in it.
fn handed(queue: &mut WriteQueue, now: Now) -> Vec<(WriteId, Vec<u64>)> {
    queue.handle_deadline(now);
    let writes = std::iter::from_fn(|| queue.poll_write(now, &mut progress()));
    writes.map(|(write, ops)| (write, sequences(&ops))).collect()
}

#[test]
fn the_wait_after_a_failure_doubles_up_to_its_limit_and_an_answer_ends_that() {
    let mut queue = queue();
    let mut write = begin(&mut queue, 1);
    let mut now = 0;
    for wait in [1, 2, 4, 5, 5] {
        assert_eq!(
            queue.handle_written(at(now), write, false),
            Some(Duration::from_secs(wait)),
            "at {now} ms"
        );
        assert!(!queue.takes(), "nothing new before it");
        assert_eq!(queue.poll_deadline(), Some(at(now + wait * 1000).boot));
        assert!(handed(&mut queue, at(now + wait * 1000 - 1)).is_empty(), "not before its time");
        now += wait * 1000;
        let again = handed(&mut queue, at(now));
        assert_eq!((again.len(), queue.poll_deadline()), (1, None));
        assert_eq!(again[0].1, [1]);
        assert!(!queue.takes(), "the store has not answered yet");
        write = again[0].0;
    }
    done(&mut queue, write);
    assert!(queue.takes() && queue.is_idle());
    let write = begin(&mut queue, 2);
    assert_eq!(queue.handle_written(at(now), write, false), Some(Duration::from_secs(1)));
}

#[test]
fn an_answer_that_comes_twice_or_late_or_for_nothing_changes_nothing() {
    let mut queue = queue();
    let (first, second) = (begin(&mut queue, 1), begin(&mut queue, 2));
    assert_eq!(queue.handle_written(at(0), WriteId(99), false), None);
    assert_eq!(queue.handle_written(at(0), WriteId(99), true), None);
    assert!(!queue.has_failed() && queue.in_flight.oldest_written().is_none());
    // Twice: the first word stands.
    assert_eq!(queue.handle_written(at(0), second, true), None);
    assert_eq!(queue.handle_written(at(0), second, false), None);
    assert!(!queue.has_failed());
    assert_eq!(queue.handle_written(at(0), first, false), Some(Duration::from_secs(1)));
    assert_eq!(queue.handle_written(at(0), first, true), None);
    assert_eq!(queue.handle_written(at(500), first, false), None, "the wait does not begin anew");
    assert!(queue.has_failed() && queue.in_flight.oldest_written().is_none());
    assert_eq!(queue.poll_deadline(), Some(at(1000).boot));
    let again = handed(&mut queue, at(1000));
    assert_eq!(again.iter().map(|(_, ops)| ops[0]).collect::<Vec<_>>(), [1, 2]);
    // Late, about the writes before.
    for late in [first, second] {
        assert_eq!(queue.handle_written(at(1000), late, true), None);
        assert_eq!(queue.handle_written(at(1000), late, false), None);
    }
    assert!(queue.in_flight.oldest_written().is_none() && queue.poll_deadline().is_none());
    again.iter().for_each(|(write, _)| done(&mut queue, *write));
    assert!(queue.is_idle());
    // It is over.
    assert_eq!(queue.handle_written(at(1000), again[0].0, false), None);
    assert!(queue.is_idle() && queue.takes());
}

#[test]
fn what_is_before_a_failure_is_answered_and_what_is_behind_it_waits_with_it() {
    let mut queue = queue();
    let writes = [begin(&mut queue, 1), begin(&mut queue, 2), begin(&mut queue, 3)];
    assert!(!queue.takes(), "three are the most");
    assert_eq!(queue.handle_written(at(0), writes[1], false), None);
    assert_eq!(queue.handle_written(at(0), writes[2], true), None);
    done_last(&mut queue, writes[0]);
    assert_eq!(queue.in_flight(), 2, "the third is durable and not answered");
    assert!(!queue.takes());
    let again = handed(&mut queue, at(1000));
    assert_eq!(again.iter().map(|(_, ops)| ops[0]).collect::<Vec<_>>(), [2, 3]);
    // The third is durable before the second: it is answered behind it all the same.
    assert_eq!(queue.handle_written(at(1000), again[1].0, true), None);
    assert!(queue.in_flight.oldest_written().is_none());
    assert!(queue.takes(), "the store answers again");
    done(&mut queue, again[0].0);
    assert!(queue.is_idle());
}

/// The last answer that a failure has waited for.
fn done_last(queue: &mut WriteQueue, write: WriteId) {
    assert_eq!(queue.handle_written(at(0), write, true), Some(Duration::from_secs(1)));
    assert!(queue.in_flight.oldest_written().is_some());
    queue.in_flight.forget_oldest();
    assert!(queue.in_flight.oldest_written().is_none());
}

#[test]
fn a_new_driver_does_again_what_was_under_way_and_knows_of_no_failure() {
    let mut queue = queue();
    let writes = [begin(&mut queue, 1), begin(&mut queue, 2)];
    queue.admit(read(7), false);
    assert_eq!(queue.poll_reads().len(), 0);
    assert_eq!(queue.handle_written(at(0), writes[1], true), None);
    assert_eq!(queue.handle_written(at(0), writes[0], false), Some(Duration::from_secs(1)));
    queue.handle_restart();
    assert!(queue.takes() && queue.poll_deadline().is_none());
    let again = handed(&mut queue, at(0));
    assert_eq!(
        again.iter().map(|(_, ops)| ops[0]).collect::<Vec<_>>(),
        [1, 2],
        "in order, at once"
    );
    assert_eq!(queue.handle_written(at(0), again[1].0, false), None);
    assert_eq!(
        queue.handle_written(at(0), again[0].0, false),
        Some(Duration::from_secs(1)),
        "the shortest wait again"
    );
    let again = handed(&mut queue, at(1000));
    again.iter().for_each(|(write, _)| done(&mut queue, *write));
    assert_eq!(queue.poll_reads().len(), 1);
}

#[test]
fn a_read_that_failed_rests_until_its_time_or_until_the_store_has_written() {
    let mut queue = queue();
    queue.admit(read(1), false);
    queue.admit(read(2), false);
    let ready = queue.poll_reads();
    assert_eq!(ready.len(), 2);
    queue.handle_read_failed(at(0), ready[0].id);
    queue.handle_read_failed(at(500), ready[1].id);
    assert!(queue.poll_reads().is_empty() && !queue.is_idle());
    assert_eq!(queue.poll_deadline(), Some(at(1000).boot));
    queue.admit(read(3), false);
    assert_eq!(queue.poll_reads().len(), 1, "another's does not wait");
    queue.handle_deadline(at(999));
    assert!(queue.poll_reads().is_empty());
    queue.handle_deadline(at(1000));
    let ready = queue.poll_reads();
    assert_eq!((ready.len(), queue.poll_deadline()), (2, None));
    queue.handle_read_failed(at(1000), ready[0].id);
    queue.handle_read_failed(at(1000), ready[0].id);
    assert!(queue.poll_reads().is_empty());
    let write = begin(&mut queue, 1);
    done(&mut queue, write);
    assert_eq!(queue.poll_reads().len(), 1, "once, although it has failed twice");
}
