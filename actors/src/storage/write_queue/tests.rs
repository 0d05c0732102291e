//! What is held back, in which order, and what a read sees.

use super::*;
use crate::ports::{LogRecord, OutboxPosition, OutgoingStage, QueueEntry, StoredWill};
use bytes::Bytes;
use hydrant_protocol::{Message, PacketId, QoS};

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
    StoreOp::PutQueued { id: session, entry }
}

pub(crate) fn outbox() -> StoreOp {
    let record = LogRecord {
        id: 0,
        topic: "t".into(),
        key: None,
        payload: Bytes::new(),
        mqtt_topic: "t".into(),
        qos: QoS::AtLeastOnce,
        retain: false,
        client_id: "c".into(),
        epoch: 0,
        sequence: 0,
        outbox: None,
        received_ms: 0,
        properties: None,
    };
    StoreOp::PutOutbox { record, position: OutboxPosition { lane: 0, position: 0 } }
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
    let Some(batch) = queue.form(|_| ()) else { return Vec::new() };
    done(queue, batch.id);
    let sequences = batch.ops.iter().filter_map(|op| match op {
        StoreOp::PutQueued { entry, .. } => Some(entry.sequence),
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

fn done(queue: &mut WriteQueue, id: u64) {
    queue.answered(id, true);
    while queue.oldest_written().is_some() {
        queue.forget_oldest();
    }
}

#[test]
fn a_read_waits_for_every_write_before_it() {
    let mut queue = WriteQueue::default();
    queue.admit(write(vec![queued(1, 1)], None), false);
    queue.admit(read(1), false);
    assert!(queue.ready_reads().is_empty(), "gathered, not written");
    let batch = queue.form(|_| ()).unwrap();
    assert!(queue.ready_reads().is_empty(), "under way");
    queue.admit(write(vec![queued(1, 2)], None), false);
    done(&mut queue, batch.id);
    assert_eq!(queue.ready_reads().len(), 1, "a write behind it does not hold it up");
    assert!(queue.ready_reads().is_empty(), "begun once");
    queue.read_again(None);
    assert_eq!(queue.ready_reads().len(), 1);
}

#[test]
fn a_transaction_is_written_when_its_last_part_is_here() {
    let mut queue = WriteQueue::default();
    let both = Some(Transaction { id: 9, parts: 2 });
    queue.admit(write(vec![queued(1, 1)], both), false);
    queue.admit(read(1), false);
    assert!(!queue.has_next());
    assert!(queue.ready_reads().is_empty(), "its session's entry is held back");
    queue.admit(write(vec![queued(2, 1)], both), false);
    let batch = queue.form(|_| ()).unwrap();
    assert_eq!(batch.ops.len(), 2);
    done(&mut queue, batch.id);
    assert_eq!(queue.ready_reads().len(), 1);
    assert!(!queue.is_idle(), "the read is not answered");
}

#[test]
fn a_full_outbox_parks_those_who_need_it_in_order_and_nobody_else() {
    let mut queue = WriteQueue::default();
    queue.admit(write(vec![outbox(), queued(1, 1)], None), true);
    queue.admit(write(vec![queued(2, 1)], None), true);
    // Room again, but one is parked: order among those with an outbox entry is kept.
    queue.admit(write(vec![outbox()], None), false);
    assert_eq!((queue.gathered(), queue.parked()), (1, 2));
    queue.admit(read(1), false);
    let batch = queue.form(|_| ()).unwrap();
    done(&mut queue, batch.id);
    assert!(queue.ready_reads().is_empty(), "an entry of its session is parked");
    assert!(queue.resume() && queue.resume() && !queue.resume());
    let batch = queue.form(|ops| assert_eq!(ops.len(), 3)).unwrap();
    done(&mut queue, batch.id);
    assert_eq!(queue.ready_reads().len(), 1);
}

#[test]
fn a_read_waits_for_what_was_held_back_when_it_was_asked_for() {
    let mut queue = WriteQueue::default();
    queue.admit(write(vec![outbox(), queued(1, 1)], None), true);
    queue.admit(write(vec![queued(1, 2)], None), true);
    let first = queue.form(|_| ()).unwrap();
    queue.admit(read(1), true);
    done(&mut queue, first.id);
    assert!(queue.ready_reads().is_empty(), "1 is parked");
    assert!(queue.resume());
    assert!(queue.ready_reads().is_empty(), "gathered");
    let second = queue.form(|_| ()).unwrap();
    assert!(queue.ready_reads().is_empty(), "under way");
    done(&mut queue, second.id);
    assert_eq!(queue.ready_reads().len(), 1);
}

fn will_of(client: &str, connection: u64) -> StoreOp {
    let (client_id, message) = (client.into(), message("w"));
    StoreOp::PutWill { will: StoredWill { client_id, connection, message } }
}

/// What leaves the parking place, without outbox entries.
fn resumed(queue: &mut WriteQueue) -> Vec<StoreOp> {
    while queue.resume() {}
    let batch = queue.form(|_| ()).unwrap();
    let ops = batch.ops.iter().filter(|op| !matches!(op, StoreOp::PutOutbox { .. }));
    ops.cloned().collect()
}

#[test]
fn a_retained_message_that_was_held_back_does_not_replace_a_newer_one() {
    let put = |topic| StoreOp::PutRetained { message: message(topic), version: 1 };
    let delete = |topic: &str| StoreOp::DeleteRetained { topic: topic.into(), version: 1 };
    let mut queue = WriteQueue::default();
    queue.admit(write(vec![outbox(), put("a"), delete("b"), put("c"), delete("d")], None), true);
    queue.admit(write(vec![delete("a"), put("b"), put("e")], None), true);
    // Newer still.
    queue.admit(write(vec![outbox(), delete("b")], None), true);
    queue.form(|_| ()).unwrap();
    let kept = resumed(&mut queue);
    let [StoreOp::PutRetained { message, .. }, StoreOp::DeleteRetained { topic: d, .. }, last] =
        &kept[..]
    else {
        panic!("{kept:?}")
    };
    assert_eq!((&*message.topic, &**d), ("c", "d"));
    assert!(matches!(last, StoreOp::DeleteRetained { topic, .. } if &**topic == "b"), "{kept:?}");
}

#[test]
fn nothing_that_was_held_back_of_a_session_outlives_it() {
    let receipt = |id| StoreOp::PutReceipt { id, packet_id: hydrant_protocol::PacketId::MIN };
    let mut queue = WriteQueue::default();
    queue.admit(write(vec![outbox(), queued(1, 1), queued(2, 1), receipt(1)], None), true);
    let end = StoreOp::DeleteSession { id: 1, client_id: "c".into() };
    queue.admit(write(vec![end], None), true);
    queue.form(|_| ()).unwrap();
    let kept = resumed(&mut queue);
    assert!(matches!(kept[..], [StoreOp::PutQueued { id: 2, .. }]), "{kept:?}");
}

#[test]
fn a_full_outbox_holds_up_only_what_belongs_to_a_publish() {
    use crate::ports::OutgoingStage::Publish;
    let packet_id = hydrant_protocol::PacketId::MIN;
    let other = hydrant_protocol::PacketId::MAX;
    let outgoing = |sequence| StoreOp::PutOutgoing { id: 1, sequence, packet_id, stage: Publish };
    let gone = |sequence| StoreOp::DeleteQueued { id: 1, sequence };
    let filter = || "f".into();
    let ops = vec![
        gone(1),
        StoreOp::PutSession { id: 1, client_id: "c".into(), epoch: 1, disconnected_ms: None },
        outbox(),
        queued(1, 3),
        outgoing(2),
        outgoing(3),
        StoreOp::PutSubscription { id: 1, filter: filter(), qos: QoS::AtLeastOnce, owes: None },
        queued(1, 4),
        gone(4),
        StoreOp::DeleteSubscription { id: 1, filter: filter() },
        StoreOp::PutReceipt { id: 1, packet_id },
        StoreOp::DeleteReceipt { id: 1, packet_id },
        StoreOp::DeleteReceipt { id: 1, packet_id: other },
        gone(2),
    ];
    let token = CompletionToken {
        worker: 0,
        source: crate::messages::AckSource::Store,
        pending: 0,
        generation: 0,
    };
    let mut queue = WriteQueue::default();
    let (tokens, transaction, origin) = (vec![token], None, Some(0));
    queue.admit(StorageWork::Write { ops, tokens, transaction, origin }, true);
    queue.admit(read(1), true);
    let batch = queue.form(|_| ()).unwrap();
    use StoreOp::{
        DeleteQueued, DeleteReceipt, DeleteSubscription, PutOutgoing, PutQueued, PutReceipt,
        PutSession, PutSubscription,
    };
    assert!(
        matches!(
            batch.ops[..],
            [
                DeleteQueued { sequence: 1, .. },
                PutSession { .. },
                PutOutgoing { sequence: 2, .. },
                PutSubscription { .. },
                DeleteSubscription { .. },
                DeleteReceipt { .. },
                DeleteQueued { sequence: 2, .. }
            ]
        ),
        "{batch:?}"
    );
    assert!(batch.tokens.is_empty(), "nobody is answered for half of it");
    done(&mut queue, batch.id);
    assert!(queue.ready_reads().is_empty(), "3 is parked");
    let kept = resumed(&mut queue);
    assert!(
        matches!(
            &kept[..],
            [
                PutQueued { entry, .. },
                PutOutgoing { sequence: 3, .. },
                PutReceipt { .. },
                DeleteReceipt { .. }
            ] if entry.sequence == 3
        ),
        "{kept:?}"
    );
    assert_eq!(queue.in_flight[0].tokens.len(), 1);
    done(&mut queue, 2);
    assert_eq!(queue.ready_reads().len(), 1);
}

#[test]
fn a_session_that_ends_in_a_parked_request_leaves_nothing() {
    let mut queue = WriteQueue::default();
    let end = StoreOp::DeleteSession { id: 1, client_id: "c".into() };
    queue.admit(write(vec![outbox(), queued(1, 1), queued(2, 1), end], None), true);
    assert!(matches!(queue.form(|_| ()).unwrap().ops[..], [StoreOp::DeleteSession { .. }]));
    let kept = resumed(&mut queue);
    assert!(matches!(kept[..], [StoreOp::PutQueued { id: 2, .. }]), "{kept:?}");
}

#[test]
fn a_will_that_was_held_back_does_not_come_back() {
    let mut queue = WriteQueue::default();
    queue.admit(write(vec![outbox(), will_of("a", 1)], None), true);
    let end = StoreOp::DeleteWill { client_id: "a".into(), connection: 1 };
    queue.admit(write(vec![end], None), true);
    queue.form(|_| ()).unwrap();
    assert_eq!(resumed(&mut queue).len(), 0);
}

#[test]
fn only_what_bears_on_something_held_back_is_noted() {
    let mut queue = WriteQueue::default();
    let put = |topic: &str| StoreOp::PutRetained { message: message(topic), version: 1 };
    queue.admit(write(vec![outbox(), will_of("a", 1), put("a"), queued(1, 1)], None), true);
    queue.admit(write(vec![outbox(), will_of("b", 2)], None), true);
    let rows = queue.deferred.rows();
    for other in 0..100 {
        let other = other.to_string();
        queue.admit(write(vec![put(&other), will_of(&other, 1), queued(2, 1)], None), true);
        let end = StoreOp::DeleteSession { id: 3, client_id: "c".into() };
        queue.admit(write(vec![put("a"), will_of("a", 1), end], None), true);
    }
    assert_eq!(queue.deferred.rows(), rows);
    assert!(queue.resume());
    assert_eq!(queue.deferred.rows(), 1, "what bore on the first only is gone");
    assert!(queue.resume());
    assert_eq!(queue.deferred.rows(), 0);
}

#[test]
fn what_was_held_back_does_not_undo_what_came_meanwhile() {
    let no_will = |connection| StoreOp::DeleteWill { client_id: "a".into(), connection };
    let mut queue = WriteQueue::default();
    queue.admit(write(vec![outbox(), queued(1, 1), queued(1, 2), no_will(1)], None), true);
    assert!(queue.parked_bytes() > 0);
    // Delivered before it was stored; and the client is back with another will, then gone again.
    queue.admit(
        write(vec![StoreOp::DeleteQueued { id: 1, sequence: 1 }, will_of("a", 2)], None),
        true,
    );
    queue.admit(write(vec![outbox(), no_will(2)], None), true);
    queue.form(|_| ()).unwrap();
    assert!(queue.resume() && queue.resume());
    let batch = queue.form(|_| ()).unwrap();
    let kept = batch.ops.iter().filter(|op| !matches!(op, StoreOp::PutOutbox { .. }));
    let kept: Vec<_> = kept.collect();
    assert!(matches!(kept[0], StoreOp::PutQueued { entry, .. } if entry.sequence == 2), "{kept:?}");
    for (at, connection) in [(1, 1), (2, 2)] {
        let StoreOp::DeleteWill { connection: of, .. } = kept[at] else { panic!("{kept:?}") };
        assert_eq!(*of, connection, "each will's own end: {kept:?}");
    }
    assert_eq!((kept.len(), queue.parked_bytes()), (3, 0));
}

#[test]
fn batches_are_answered_in_order_and_written_again_from_the_oldest() {
    let mut queue = WriteQueue::default();
    let mut ids = Vec::new();
    for sequence in 1..=3 {
        queue.admit(write(vec![queued(1, sequence)], None), false);
        ids.push(queue.form(|_| ()).unwrap().id);
    }
    queue.answered(ids[1], true);
    assert!(queue.oldest_written().is_none(), "the first is not durable yet");
    queue.answered(ids[0], false);
    assert!(queue.has_failed() && !queue.must_write_again(), "the third is in the store's hands");
    queue.answered(ids[2], true);
    assert!(queue.must_write_again() && queue.oldest_written().is_none());
    let again: Vec<_> = queue.write_again().iter().map(|batch| batch.id).collect();
    assert_eq!(again, ids, "also what was written behind the one that failed");
    ids.iter().for_each(|id| done(&mut queue, *id));
    assert!(queue.is_idle());
}

#[test]
fn a_read_looks_at_its_own_session_and_not_at_what_is_held_back() {
    // 2,000 reads behind 2,000 parked requests with 20 entries each, asked again and again: by
    // looking through the requests this is 80 million looks a round; by the session, 2,000.
    let mut queue = WriteQueue::default();
    for session in 0..2000 {
        let mut ops: Vec<_> = (0..20).map(|sequence| queued(session, sequence)).collect();
        ops.push(outbox());
        queue.admit(write(ops, None), true);
        queue.admit(read(session), true);
    }
    let started = Instant::now();
    for _ in 0..100 {
        assert!(queue.ready_reads().is_empty());
    }
    assert!(started.elapsed().as_secs() < 2, "{:?}", started.elapsed());
    for parked in 0..2000 {
        assert_eq!(queue.parked(), 2000 - parked);
        assert!(queue.resume());
        let batch = queue.form(|_| ()).unwrap();
        done(&mut queue, batch.id);
        let ready = queue.ready_reads();
        assert_eq!(ready.iter().map(|read| read.session).collect::<Vec<_>>(), [parked as u64]);
        queue.read_done(ready[0].id);
    }
    assert!(queue.is_idle());
}

#[test]
fn a_read_waits_until_all_that_is_held_back_of_its_session_is_written() {
    let mut queue = WriteQueue::default();
    let both = Some(Transaction { id: 1, parts: 2 });
    queue.admit(write(vec![outbox(), queued(1, 1), queued(1, 2)], None), true);
    queue.admit(write(vec![queued(1, 3)], both), true);
    queue.admit(read(1), true);
    queue.admit(read(2), true);
    assert_eq!(queue.ready_reads().len(), 1, "nothing of session 2 is held back");
    assert!(queue.resume());
    let batch = queue.form(|_| ()).unwrap();
    done(&mut queue, batch.id);
    assert!(queue.ready_reads().is_empty(), "one of two parts is here");
    queue.admit(write(Vec::new(), both), true);
    let batch = queue.form(|_| ()).unwrap();
    assert!(queue.ready_reads().is_empty(), "under way");
    done(&mut queue, batch.id);
    let ready = queue.ready_reads();
    assert_eq!(ready.len(), 1);
    queue.read_again(Some(ready[0].id));
    assert_eq!(queue.ready_reads().len(), 1, "it failed and begins again");
    queue.read_done(ready[0].id);
    queue.read_done(1);
    queue.read_done(2);
    assert!(queue.is_idle());
}

#[test]
fn gathered_bytes_are_those_of_the_next_batch() {
    let mut queue = WriteQueue::default();
    queue.admit(write(vec![queued(1, 1)], None), false);
    let one = queue.gathered_bytes();
    assert!(one > 0);
    queue.admit(write(vec![outbox(), queued(1, 2)], None), true);
    assert_eq!(queue.gathered_bytes(), one, "parked");
    assert!(queue.resume());
    assert!(queue.gathered_bytes() > 2 * one);
    queue.form(|_| ()).unwrap();
    assert_eq!(queue.gathered_bytes(), 0);
}

#[test]
fn nothing_of_its_worker_overtakes_a_transaction_that_waits_for_a_part() {
    let mut queue = WriteQueue::default();
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
    let mut queue = WriteQueue::default();
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
fn a_read_stands_in_line_behind_the_writes_of_its_worker() {
    let mut queue = WriteQueue::default();
    let both = Some(Transaction { id: 1, parts: 2 });
    let gone = |sequence| StoreOp::DeleteQueued { id: 1, sequence };
    queue.admit(own(0, vec![queued(7, 1)], both), false);
    queue.admit(own(0, vec![gone(1)], None), false);
    queue.admit(read(1), false);
    assert!(queue.ready_reads().is_empty(), "it would see what was delivered");
    queue.admit(write(Vec::new(), both), false);
    advance(&mut queue);
    assert!(queue.ready_reads().is_empty(), "gathered");
    written(&mut queue);
    assert_eq!(queue.ready_reads().len(), 1);
}

#[test]
fn what_stands_in_line_counts_as_held_back() {
    let mut queue = WriteQueue::default();
    let both = Some(Transaction { id: 1, parts: 2 });
    queue.admit(own(0, vec![queued(1, 1)], both), false);
    let one = queue.parked_bytes();
    assert!(one > 0, "a part of a transaction counts");
    queue.admit(own(0, vec![queued(1, 2)], None), false);
    assert_eq!(queue.parked_bytes(), 2 * one);
    // 1 drops the oldest of its queue in a part of another worker's: it is not put back.
    let gone = StoreOp::DeleteQueued { id: 1, sequence: 2 };
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

/// Entries that come after a read was asked for are none of its business.
#[test]
fn a_read_begins_although_the_queue_goes_on_growing() {
    let mut queue = WriteQueue::default();
    queue.admit(write(vec![queued(1, 1)], None), false);
    let mut before = queue.form(|_| ()).unwrap();
    queue.admit(read(1), false);
    for sequence in 100..103 {
        let both = Some(Transaction { id: sequence, parts: 2 });
        queue.admit(own(1, vec![], both), false);
        queue.admit(write(vec![queued(1, sequence)], both), false);
        let next = queue.form(|_| ()).unwrap();
        done(&mut queue, before.id);
        let ready = queue.ready_reads();
        assert_eq!(ready.len(), usize::from(sequence == 100), "{sequence}");
        before = next;
    }
}

#[test]
fn what_was_sent_before_it_was_stored_keeps_its_packet_id() {
    let mut queue = WriteQueue::default();
    queue.admit(write(vec![outbox(), queued(1, 5)], None), true);
    let (packet_id, stage) = (PacketId::new(7).unwrap(), OutgoingStage::Publish);
    let sent = StoreOp::PutOutgoing { id: 1, sequence: 5, packet_id, stage };
    queue.admit(write(vec![sent], None), true);
    queue.form(|_| ()).unwrap();
    assert!(queue.resume());
    let batch = queue.form(|_| ()).unwrap();
    let outgoing = batch.ops.iter().find_map(|op| match op {
        StoreOp::PutQueued { entry, .. } => entry.outgoing,
        _ => None,
    });
    assert_eq!(outgoing, Some((packet_id, stage)));
}
