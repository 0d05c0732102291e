//! What waits for what, in which order batches are answered, and what the tests below are made of.

use std::sync::Arc;

use super::*;
use crate::messages::CompletionToken;
use crate::ports::{LogOp, LogRecord, OutboxPosition, QueueEntry, SessionId, SessionOp};
use bytes::Bytes;
use hydrant_protocol::{Message, QoS};

mod gathering;
mod hand_out;
mod held_back;
mod histories;
mod reads;
mod retries;

impl Outbox for std::cell::RefCell<&mut crate::log::OutboxProgress> {
    fn lanes<R>(&self, act: impl FnOnce(&mut crate::log::OutboxProgress) -> R) -> R {
        act(&mut self.borrow_mut())
    }
}

/// A full batch is of 80 operations or 80,000 bytes; a failure is waited out for 1 s, then 2, 4, 5.
fn queue() -> WriteQueue {
    let storage = crate::settings::Settings::for_tests(1).storage;
    let (retry_min, retry_max) = (Duration::from_secs(1), Duration::from_secs(5));
    WriteQueue::new(&StorageSettings {
        batch_max_ops: 80,
        batch_max_bytes: 80_000,
        max_in_flight: 3,
        retry_min,
        retry_max,
        ..storage
    })
}

/// So many milliseconds after the beginning.
fn at(ms: u64) -> Now {
    Now { boot: Boot(ms * 1000), ..Now::default() }
}

/// One lane with room for 100 bytes.
fn progress() -> OutboxProgress {
    OutboxProgress::new(1, 100, &[])
}

/// A batch in the store's hands.
#[derive(Debug)]
struct Formed {
    id: WriteId,
    ops: Arc<Vec<StoreOp>>,
    tokens: Vec<CompletionToken>,
}

/// What is gathered is handed to the store.
fn form(queue: &mut WriteQueue) -> Option<Formed> {
    if !queue.has_next() {
        return None;
    }
    queue.form(at(0), &mut progress());
    let (id, ops) = queue.in_flight.write(at(0).boot)?;
    let tokens = queue.in_flight.batches.back().unwrap().tokens.clone();
    Some(Formed { id, ops, tokens })
}

fn message(topic: &str) -> Arc<Message> {
    Arc::new(Message {
        topic: topic.into(),
        payload: Bytes::new(),
        qos: QoS::AtLeastOnce,
        retain: false,
        properties: None,
    })
}

fn queued(session: SessionId, sequence: u64) -> StoreOp {
    let message = message("t");
    let entry =
        QueueEntry { sequence, qos: QoS::AtLeastOnce, retain: false, message, outgoing: None };
    StoreOp::Session(SessionOp::PutQueued { id: session, entry })
}

fn outbox() -> StoreOp {
    let record = LogRecord::for_tests(0);
    StoreOp::Log(LogOp::PutOutbox { record, position: OutboxPosition { lane: 0, position: 0 } })
}

fn write(ops: Vec<StoreOp>, transaction: Option<Transaction>) -> StorageWork {
    StorageWork::Write { ops, tokens: Vec::new(), transaction, origin: None }
}

/// By worker `origin`, for itself.
fn own(origin: u16, ops: Vec<StoreOp>, transaction: Option<Transaction>) -> StorageWork {
    StorageWork::Write { ops, tokens: Vec::new(), transaction, origin: Some(origin) }
}

/// Everything that may leave its line does.
fn advance(queue: &mut WriteQueue) {
    while queue.advance(false) {}
}

/// What is gathered, written at once: sequences of the queue entries, in order.
fn written(queue: &mut WriteQueue) -> Vec<u64> {
    let Some(batch) = form(queue) else { return Vec::new() };
    done(queue, batch.id);
    sequences(&batch.ops)
}

/// Sequences of the queue entries, in order.
fn sequences(ops: &[StoreOp]) -> Vec<u64> {
    let sequences = ops.iter().filter_map(|op| match op {
        StoreOp::Session(SessionOp::PutQueued { entry, .. }) => Some(entry.sequence),
        _ => None,
    });
    sequences.collect()
}

fn read(session: SessionId) -> StorageWork {
    let (from, until, limit, max_bytes) = (0, 100, 10, 1000);
    StorageWork::ReadQueue {
        worker: 0,
        slot: 0,
        request: 0,
        session,
        from,
        until,
        limit,
        max_bytes,
    }
}

fn done(queue: &mut WriteQueue, write: WriteId) {
    assert_eq!(queue.handle_written(at(0), write, true), None);
    while queue.in_flight.oldest_written().is_some() {
        queue.in_flight.forget_oldest();
    }
}

/// A page is found and has left.
fn paged(queue: &mut WriteQueue, read: ReadId) {
    queue.handle_page(read, Vec::new());
    while queue.poll_page().is_some() {}
}

#[test]
fn a_transaction_is_written_when_its_last_part_is_here() {
    let mut queue = queue();
    let both = Some(Transaction { id: 9, parts: 2 });
    queue.admit(write(vec![queued(1, 1)], both), false);
    queue.admit(read(1), false);
    assert!(!queue.has_next());
    assert!(queue.poll_reads().is_empty(), "its session's entry is held back");
    queue.admit(write(vec![queued(2, 1)], both), false);
    let batch = form(&mut queue).unwrap();
    assert_eq!(batch.ops.len(), 2);
    done(&mut queue, batch.id);
    assert_eq!(queue.poll_reads().len(), 1);
    assert!(!queue.is_idle(), "the read is not answered");
}

#[test]
fn a_full_outbox_parks_those_who_need_it_in_order_and_nobody_else() {
    let mut queue = queue();
    queue.admit(write(vec![outbox(), queued(1, 1)], None), true);
    queue.admit(write(vec![queued(2, 1)], None), true);
    // Room again, but one is parked: order among those with an outbox entry is kept.
    queue.admit(write(vec![outbox()], None), false);
    assert_eq!((queue.gathered(), queue.parked()), (1, 2));
    queue.admit(read(1), false);
    let batch = form(&mut queue).unwrap();
    done(&mut queue, batch.id);
    assert!(queue.poll_reads().is_empty(), "an entry of its session is parked");
    assert!(queue.resume() && queue.resume() && !queue.resume());
    let batch = form(&mut queue).unwrap();
    assert_eq!(batch.ops.len(), 3);
    done(&mut queue, batch.id);
    assert_eq!(queue.poll_reads().len(), 1);
}

#[test]
fn batches_are_answered_in_order_and_written_again_from_the_oldest() {
    let mut queue = queue();
    let mut ids = Vec::new();
    for sequence in 1..=3 {
        queue.admit(write(vec![queued(1, sequence)], None), false);
        ids.push(form(&mut queue).unwrap().id);
    }
    assert_eq!(queue.handle_written(at(0), ids[1], true), None);
    assert!(queue.in_flight.oldest_written().is_none(), "the first is not durable yet");
    assert_eq!(queue.handle_written(at(0), ids[0], false), None);
    assert!(
        queue.has_failed() && queue.poll_deadline().is_none(),
        "the third is in the store's hands"
    );
    assert_eq!(queue.handle_written(at(0), ids[2], true), Some(Duration::from_secs(1)));
    assert!(queue.poll_deadline().is_some() && queue.in_flight.oldest_written().is_none());
    queue.handle_deadline(at(1000));
    let again: Vec<_> =
        std::iter::from_fn(|| queue.poll_write(at(1000), &mut progress())).collect();
    let sequences: Vec<_> = again.iter().flat_map(|(_, ops)| sequences(ops)).collect();
    assert_eq!(sequences, [1, 2, 3], "also what was written behind the one that failed");
    again.iter().for_each(|(write, _)| done(&mut queue, *write));
    assert!(queue.is_idle());
}

#[test]
fn gathered_bytes_are_those_of_the_next_batch() {
    let mut queue = queue();
    queue.admit(write(vec![queued(1, 1)], None), false);
    let one = queue.gathered_bytes();
    assert!(one > 0);
    queue.admit(write(vec![outbox(), queued(1, 2)], None), true);
    assert_eq!(queue.gathered_bytes(), one, "parked");
    assert!(queue.resume());
    assert!(queue.gathered_bytes() > 2 * one);
    form(&mut queue).unwrap();
    assert_eq!(queue.gathered_bytes(), 0);
}

#[test]
fn nothing_of_its_worker_overtakes_a_transaction_that_waits_for_a_part() {
    let mut queue = queue();
    let (first, second) = (Transaction { id: 1, parts: 2 }, Transaction { id: 2, parts: 2 });
    queue.admit(own(0, vec![queued(1, 1)], Some(first)), false);
    queue.admit(own(0, vec![queued(1, 2)], None), false);
    queue.admit(own(0, vec![queued(1, 3)], Some(second)), false);
    queue.admit(own(0, vec![queued(1, 4)], None), false);
    assert!(!queue.advance(false) && !queue.has_next(), "overtaken");
    // Another worker is not held up.
    queue.admit(own(1, vec![queued(2, 9)], None), false);
    assert_eq!(written(&mut queue), [9]);
    // The second is whole before the first: it waits all the same.
    queue.admit(write(vec![queued(3, 30)], Some(second)), false);
    advance(&mut queue);
    assert!(!queue.has_next());
    queue.admit(write(vec![queued(3, 10)], Some(first)), false);
    advance(&mut queue);
    assert_eq!(written(&mut queue), [1, 10, 2, 3, 30, 4]);
    assert_eq!(queue.parked_bytes(), 0);
    assert!(queue.is_idle());
}

#[test]
fn two_workers_with_a_part_in_each_others_transaction_do_not_wait_for_each_other() {
    let mut queue = queue();
    let (a, b) = (Transaction { id: 1, parts: 2 }, Transaction { id: 2, parts: 2 });
    queue.admit(own(0, vec![queued(1, 1)], Some(a)), false);
    queue.admit(own(1, vec![queued(2, 1)], Some(b)), false);
    queue.admit(own(0, vec![queued(1, 2)], None), false);
    queue.admit(own(1, vec![queued(2, 2)], None), false);
    queue.admit(write(vec![queued(1, 3)], Some(b)), false);
    queue.admit(write(vec![queued(2, 3)], Some(a)), false);
    advance(&mut queue);
    assert_eq!(written(&mut queue).len(), 6);
    assert!(queue.is_idle());
}

#[test]
fn what_stands_in_line_counts_as_held_back() {
    let mut queue = queue();
    let both = Some(Transaction { id: 1, parts: 2 });
    queue.admit(own(0, vec![queued(1, 1)], both), false);
    let one = queue.parked_bytes();
    assert!(one > 0, "a part of a transaction counts");
    queue.admit(own(0, vec![queued(1, 2)], None), false);
    assert_eq!(queue.parked_bytes(), 2 * one);
    // 1 drops the oldest of its queue in a part of another worker's: it is not put back.
    let gone = StoreOp::Session(SessionOp::DeleteQueued { id: 1, sequence: 2 });
    queue.admit(own(1, vec![gone], None), false);
    written(&mut queue);
    queue.admit(write(Vec::new(), both), false);
    assert_eq!(written(&mut queue), [1]);
    advance(&mut queue);
    assert_eq!(written(&mut queue), []);
    // A full outbox parks what leaves its line.
    queue.admit(own(0, vec![queued(1, 3)], both), false);
    queue.admit(own(0, vec![outbox()], None), false);
    queue.admit(write(Vec::new(), both), true);
    while queue.advance(true) {}
    assert_eq!((written(&mut queue), queue.parked()), (vec![3], 1));
    assert!(queue.resume() && queue.parked_bytes() == 0);
}
