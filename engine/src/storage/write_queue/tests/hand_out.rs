//! What leaves the queue, and in which order.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::vec::Drain;

use super::*;
use crate::messages::{AckSource, DeadWork, LogWork};
use crate::ports::{DeadId, DeadLetter, LogOp};

/// Notes what comes, in order; may panic at one of the calls.
#[derive(Default)]
struct Noted {
    all: Vec<Out>,
    panics_at: Option<usize>,
}

#[derive(Debug, PartialEq, Eq)]
enum Out {
    /// Positions in the outbox.
    Log(Vec<u64>),
    Dead,
    /// The worker, and the slots of its pending acks.
    Tokens(u16, Vec<u32>),
}

impl Noted {
    fn note(&mut self, out: Out) {
        if self.panics_at == Some(self.all.len()) {
            self.panics_at = None;
            panic!("played");
        }
        self.all.push(out);
    }
}

impl Push for Noted {
    fn log(&mut self, work: Drain<'_, (LogWork, usize)>) {
        let positions = work.map(|(work, _)| work.record.outbox.unwrap().position).collect();
        self.note(Out::Log(positions));
    }
    fn dead_letter(&mut self, _: DeadWork) {
        self.note(Out::Dead);
    }
    fn worker(&mut self, to: u16, work: ManagerWork) {
        let ManagerWork::Completed(tokens) = work else { panic!("{work:?}") };
        self.note(Out::Tokens(to, tokens.iter().map(|token| token.pending).collect()));
    }
}

/// Somebody of a worker waits for it.
fn token(worker: u16, pending: u32) -> CompletionToken {
    CompletionToken { worker, source: AckSource::Store, pending, generation: 0 }
}

fn asked(ops: Vec<StoreOp>, tokens: Vec<CompletionToken>) -> StorageWork {
    StorageWork::Write { ops, tokens, transaction: None, origin: None }
}

fn dead() -> [StoreOp; 2] {
    let StoreOp::Log(LogOp::PutOutbox { record, .. }) = outbox() else { panic!() };
    let id = DeadId::of(&record);
    let letter = DeadLetter::new(record, "r", 0);
    [
        StoreOp::Log(LogOp::PutDeadLetter { letter: Arc::new(letter) }),
        StoreOp::Log(LogOp::DropDeadLetter { id }),
    ]
}

/// Room for all that these tests write.
fn wide() -> OutboxProgress {
    OutboxProgress::new(1, 1 << 20, &[])
}

fn begin(queue: &mut WriteQueue, outbox: &mut OutboxProgress, work: Vec<StorageWork>) -> WriteId {
    work.into_iter().for_each(|work| queue.handle_request(work));
    queue.form(at(0), outbox);
    queue.poll_write(at(0), outbox).unwrap().0
}

fn hand_out(queue: &mut WriteQueue, outbox: &mut OutboxProgress, room: bool) -> Vec<Out> {
    let mut to = Noted::default();
    while queue.hand_out(at(0), &RefCell::new(&mut *outbox), room, &mut to).is_some() {}
    to.all
}

#[test]
fn batches_leave_in_their_order_records_before_tokens_and_one_message_a_worker() {
    let (mut queue, mut lanes) = (queue(), wide());
    let [put, drop] = dead();
    let work = vec![
        asked(vec![outbox()], vec![token(1, 10), token(0, 11)]),
        asked(vec![put, outbox(), drop], vec![token(1, 12), token(3, 13)]),
    ];
    let first = begin(&mut queue, &mut lanes, work);
    let second = begin(&mut queue, &mut lanes, vec![asked(vec![outbox()], vec![token(1, 14)])]);
    assert_eq!(queue.handle_written(at(5), second, true), None);
    assert_eq!(hand_out(&mut queue, &mut lanes, true), [], "the first is not durable");
    assert_eq!(queue.handle_written(at(7), first, true), None);
    let mut to = Noted::default();
    let answered = queue.hand_out(at(7), &RefCell::new(&mut lanes), true, &mut to);
    assert_eq!(answered, Some(Answered { ops: 4, took: Duration::from_millis(7) }));
    let tokens = [(0, vec![11]), (1, vec![10, 12]), (3, vec![13])];
    let tokens = tokens.map(|(worker, slots)| Out::Tokens(worker, slots));
    assert_eq!(to.all[..3], [Out::Dead, Out::Dead, Out::Log(vec![0, 1])]);
    assert_eq!(to.all[3..], tokens);
    assert_eq!(
        hand_out(&mut queue, &mut lanes, true),
        [Out::Log(vec![2]), Out::Tokens(1, vec![14])]
    );
    assert!(queue.is_idle() && !lanes.any_behind());
}

#[test]
fn a_record_that_finds_no_room_in_the_log_stays_in_the_outbox() {
    let (mut queue, mut lanes) = (queue(), wide());
    for room in [false, true] {
        let work = vec![asked(vec![outbox()], vec![token(0, 1)])];
        let write = begin(&mut queue, &mut lanes, work);
        assert_eq!(queue.handle_written(at(0), write, true), None);
        let out = hand_out(&mut queue, &mut lanes, room);
        assert_eq!(out, [Out::Tokens(0, vec![1])], "what is behind overtakes nothing");
    }
    assert_eq!(lanes.next_behind(0), Some((0, 0)));
}

#[test]
fn a_panic_anywhere_while_a_batch_is_handed_out_loses_nothing_and_doubles_no_record() {
    // Two dead letters, the records (whose push into an inbox does not panic), two workers.
    for panics_at in [0, 1, 3, 4] {
        let (mut queue, mut lanes) = (queue(), wide());
        let [put, drop] = dead();
        let ops = vec![put, outbox(), outbox(), drop];
        let work = vec![asked(ops, vec![token(0, 1), token(1, 2)])];
        let write = begin(&mut queue, &mut lanes, work);
        assert_eq!(queue.handle_written(at(0), write, true), None);
        let mut to = Noted { panics_at: Some(panics_at), ..Noted::default() };
        let step = || queue.hand_out(at(0), &RefCell::new(&mut lanes), true, &mut to);
        assert!(catch_unwind(AssertUnwindSafe(step)).is_err(), "at {panics_at}");
        let again = hand_out(&mut queue, &mut lanes, true);
        let records = |all: &[Out]| all.iter().filter(|out| **out == Out::Log(vec![0, 1])).count();
        // At 0 the lane was told of neither record, at 1 of both: those leave while the panic unwinds.
        let expected = if panics_at == 0 { (0, 1) } else { (1, 0) };
        assert_eq!((records(&to.all), records(&again)), expected, "at {panics_at}");
        let tokens: Vec<_> = again.iter().filter(|out| matches!(out, Out::Tokens(..))).collect();
        let all = [&Out::Tokens(0, vec![1]), &Out::Tokens(1, vec![2])];
        assert_eq!(tokens, all, "all who wait are told once more");
        assert!(queue.is_idle());
    }
}

#[test]
fn a_batch_that_is_written_again_keeps_its_places_in_the_outbox() {
    let (mut queue, mut lanes) = (queue(), wide());
    let work = vec![asked(vec![outbox(), outbox()], Vec::new())];
    let write = begin(&mut queue, &mut lanes, work);
    let backlog = lanes.backlog();
    assert_eq!(queue.handle_written(at(0), write, false), Some(Duration::from_secs(1)));
    queue.handle_deadline(at(1000));
    let (write, ops) = queue.poll_write(at(1000), &mut lanes).unwrap();
    let places = ops.iter().map(|op| match op {
        StoreOp::Log(LogOp::PutOutbox { record, position }) => (record.outbox, position.position),
        _ => panic!("{op:?}"),
    });
    let expected = [0, 1].map(|position| (Some(OutboxPosition { lane: 0, position }), position));
    assert_eq!(places.collect::<Vec<_>>(), expected);
    assert_eq!(lanes.backlog(), backlog);
    assert_eq!(queue.handle_written(at(1000), write, true), None);
    assert_eq!(hand_out(&mut queue, &mut lanes, true), [Out::Log(vec![0, 1])]);
}

#[test]
fn a_page_goes_once_to_who_asked_for_it_also_when_the_driver_dies_with_it() {
    let mut queue = queue();
    let page = |slot, request| StorageWork::ReadQueue {
        worker: 3,
        slot,
        request,
        session: u64::from(slot),
        from: 5,
        until: 9,
        limit: 7,
        max_bytes: 70,
    };
    queue.handle_request(page(1, 10));
    queue.handle_request(page(2, 20));
    let reads = queue.poll_reads();
    let wanted = (reads[0].session, reads[0].from, reads[0].limit, reads[0].max_bytes);
    assert_eq!(wanted, (1, 5, 7, 70));
    queue.handle_page(ReadId(99), Vec::new());
    assert!(queue.poll_page().is_none());
    queue.handle_page(reads[0].id, Vec::new());
    queue.handle_page(reads[0].id, Vec::new());
    queue.handle_restart();
    let again = queue.poll_reads();
    assert_eq!(again.iter().map(|read| read.id).collect::<Vec<_>>(), [reads[1].id]);
    let (to, work) = queue.poll_page().unwrap();
    let ManagerWork::QueuePage { slot, request, .. } = work else { panic!("{work:?}") };
    assert_eq!((to, slot, request), (3, 1, 10));
    assert!(queue.poll_page().is_none() && !queue.is_idle());
    // The answer to the first driver's read is as good as that to the second's.
    queue.handle_page(reads[1].id, Vec::new());
    queue.handle_read_failed(at(0), reads[1].id);
    assert!(queue.poll_page().is_some() && queue.poll_page().is_none());
    assert!(queue.is_idle());
}
