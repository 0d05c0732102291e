//! Records that the log refuses.

use super::*;

fn fates(queue: &mut LogQueue) -> Vec<Fate> {
    let notices = std::iter::from_fn(|| queue.poll_notice());
    let fate = |notice| match notice {
        Notice::Refused { fate, .. } => Some(fate),
        _ => None,
    };
    notices.filter_map(fate).collect()
}

fn id(sequence: u64) -> DeadId {
    DeadId::of(&record(sequence))
}

#[test]
fn a_refused_record_is_a_dead_letter_and_the_cursor_passes_it_once_that_is_durable() {
    let mut log = Driver::new(|_| {});
    let work = vec![log.stored(0, "t"), log.stored(1, "t"), publish(2)];
    log.admit(work);
    log.report(vec![(0, refused()), (1, Ok(())), (2, refused())]);
    let writing = Some(DeadState::Writing);
    let letter = |sequence, cursor, tokens| Pushed::Letter(sequence, writing, cursor, tokens);
    assert_eq!(log.inboxes.pushed, [letter(0, Some(1), vec![]), letter(2, None, vec![2])]);
    assert_eq!(fates(&mut log.queue), [Fate::DeadLetter; 2]);
    let outbox = Some(OutboxPosition { lane: 0, position: 0 });
    log.step(|queue, _, world| {
        queue.handle_dead_work(world, DeadWork::Written { id: id(0), outbox });
    });
    assert_eq!(log.inboxes.pushed, [Pushed::Cursors(vec![(0, 2)])]);
    let happened = log.queue.poll_happened();
    assert_eq!((happened.failed, happened.written, happened.letters_changed), (2, 1, true));
    // The log has refused a record that an earlier start had made a dead letter.
    let again = vec![log.stored(0, "t")];
    log.admit(again);
    log.report(vec![(0, refused())]);
    assert_eq!(log.inboxes.pushed, [Pushed::Cursors(vec![(0, 3)])]);
}

#[test]
fn without_room_a_record_is_held_and_tried_again_when_there_is_some() {
    let cost = record(0).cost() as u64;
    let mut log = Driver::new(|settings| settings.dead_letter_max_bytes = cost);
    let mut work: Vec<_> = (0..4).map(|n| log.stored(n, "t")).collect();
    work.extend([publish(4), waited_for(5, OnRefused::Disconnect)]);
    let records: Vec<_> = work.iter().map(|work| work.record.clone()).collect();
    log.admit(work);
    log.report((0..6).map(|n| (n, refused())).collect());
    assert_eq!(log.kinds(), ["letter", "refused", "refused"]);
    let stays = Fate::StaysInOutbox;
    let expected = [Fate::DeadLetter, stays, stays, stays, Fate::NoRoom, Fate::NotKept];
    assert_eq!(fates(&mut log.queue), expected);
    assert_eq!((log.queue.held(), log.queue.tried(), log.orders.len()), (3, 0, 0));
    let happened = log.queue.poll_happened();
    assert_eq!((happened.full, happened.dropped), (4, 2));
    let outbox = records[0].outbox;
    log.step(|queue, _, world| {
        queue.handle_dead_work(world, DeadWork::Written { id: id(0), outbox });
        queue.handle_dead_work(world, DeadWork::Dropped { id: id(0) });
    });
    for (n, record) in (1..).zip(&records[1..4]) {
        // Room for one: the oldest that is held is read, alone.
        assert_eq!((log.queue.held() as u64, log.queue.tried()), (3 - n, 1));
        let [LogOrder::ReadOutbox { from, records: 1, .. }] = log.orders[..] else {
            panic!("{:?}", log.orders)
        };
        assert_eq!(from, n);
        log.page(log.orders[0], Ok(vec![record.clone()]));
        assert_eq!(log.sent, [n]);
        log.report(vec![(n, Ok(()))]);
        assert_eq!(log.inboxes.pushed, [Pushed::Cursors(vec![(0, n + 1)])]);
    }
    assert_eq!((log.queue.held(), log.queue.tried(), log.orders.len()), (0, 0, 0));
    assert_eq!(log.world.lanes.borrow().backlog(), (0, 0));
}

/// `broker dead drop` may come from another thread at any time: it is refused while the letter is written.
#[test]
fn a_dead_letter_that_is_refused_again_is_written_before_anybody_may_drop_it() {
    let mut log = Driver::new(|_| {});
    let letters: Vec<_> = (0..2).map(|n| DeadLetter::new(record(n), "no", 1)).collect();
    log.world.book.borrow_mut().found(&[(id(0), 1), (id(1), 1), (id(2), 1)]);
    log.world.book.borrow_mut().replay(&crate::log::Which::All);
    log.step(|queue, _, world| queue.handle_dead_work(world, DeadWork::Replay));
    let [LogOrder::ReadLetters { id: read, from, .. }] = log.orders[..] else {
        panic!("{:?}", log.orders)
    };
    assert_eq!(from, id(0));
    log.step(|queue, now, world| queue.handle_letters(now, world, read, Ok(letters)));
    assert_eq!(log.sent, [0, 1]);
    let [LogOrder::ReadLetters { id: read, from, .. }] = log.orders[..] else {
        panic!("{:?}", log.orders)
    };
    assert_eq!(from, id(2), "it is next");
    log.report(vec![(0, refused()), (1, Ok(()))]);
    let again = Pushed::Letter(0, Some(DeadState::Sending), None, vec![]);
    assert_eq!(log.inboxes.pushed, [again, Pushed::Removals(vec![id(1)])]);
    let state = |sequence| log.world.book.borrow().state(id(sequence));
    assert_eq!((state(0), state(1)), (Some(DeadState::Kept), Some(DeadState::Dropping)));
    assert_eq!(log.queue.poll_happened().replayed, 1);
    // 2 is not in the store.
    log.step(|queue, now, world| queue.handle_letters(now, world, read, Ok(Vec::new())));
    assert!(
        matches!(log.queue.poll_notice(), Some(Notice::LetterMissing { id: missing }) if missing == id(2))
    );
    assert_eq!(log.world.book.borrow().state(id(2)), Some(DeadState::Kept));
}

#[test]
fn an_answer_of_the_store_is_handed_out_before_anybody_is_told() {
    let mut log = Driver::new(|_| {});
    log.world.book.borrow_mut().found(&[(id(7), 1)]);
    log.world.book.borrow_mut().replay(&crate::log::Which::All);
    log.step(|queue, _, world| queue.handle_dead_work(world, DeadWork::Replay));
    let LogOrder::ReadLetters { id: read, .. } = log.orders[0] else { panic!() };
    let letter = DeadLetter::new(record(7), "no", 1);
    log.step(|queue, now, world| queue.handle_letters(now, world, read, Ok(vec![letter])));
    let mut work = vec![log.stored(0, "t")];
    work.extend([publish(1), publish(2), publish(3), waited_for(5, OnRefused::Disconnect)]);
    log.admit(work);
    let results =
        vec![(1, Ok(())), (2, Ok(())), (7, Ok(())), (0, Ok(())), (5, refused()), (3, refused())];
    log.report(results);
    let kinds = ["letter", "removals", "cursors", "refused", "completed", "completed"];
    assert_eq!(log.kinds(), kinds);
}
