//! A request that is held back undoes nothing that was written meanwhile.

use hydrant_protocol::PacketId;

use super::*;
use crate::ports::{LogOp, OutgoingStage, SessionOp, StoredWill};

fn will_of(client: &str, connection: u64) -> StoreOp {
    let (client_id, message) = (client.into(), message("w"));
    StoreOp::PutWill { will: StoredWill { client_id, connection, message } }
}

/// What leaves the parking place, without outbox entries.
fn resumed(queue: &mut WriteQueue) -> Vec<StoreOp> {
    while queue.resume() {}
    let batch = form(queue).unwrap();
    let ops = batch.ops.iter().filter(|op| !matches!(op, StoreOp::Log(LogOp::PutOutbox { .. })));
    ops.cloned().collect()
}

#[test]
fn a_retained_message_that_was_held_back_does_not_replace_a_newer_one() {
    let put = |topic| StoreOp::PutRetained { message: message(topic), version: 1 };
    let delete = |topic: &str| StoreOp::DeleteRetained { topic: topic.into(), version: 1 };
    let mut queue = queue();
    queue.admit(write(vec![outbox(), put("a"), delete("b"), put("c"), delete("d")], None), true);
    queue.admit(write(vec![delete("a"), put("b"), put("e")], None), true);
    // Newer still.
    queue.admit(write(vec![outbox(), delete("b")], None), true);
    form(&mut queue).unwrap();
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
    let receipt = |id| {
        StoreOp::Session(SessionOp::PutReceipt { id, packet_id: hydrant_protocol::PacketId::MIN })
    };
    let mut queue = queue();
    queue.admit(write(vec![outbox(), queued(1, 1), queued(2, 1), receipt(1)], None), true);
    let end = StoreOp::Session(SessionOp::DeleteSession { id: 1, client_id: "c".into() });
    queue.admit(write(vec![end], None), true);
    form(&mut queue).unwrap();
    let kept = resumed(&mut queue);
    assert!(matches!(kept[..], [StoreOp::Session(SessionOp::PutQueued { id: 2, .. })]), "{kept:?}");
}

#[test]
fn a_full_outbox_holds_up_only_what_belongs_to_a_publish() {
    use crate::ports::OutgoingStage::Publish;
    let packet_id = hydrant_protocol::PacketId::MIN;
    let other = hydrant_protocol::PacketId::MAX;
    let outgoing = |sequence| {
        StoreOp::Session(SessionOp::PutOutgoing { id: 1, sequence, packet_id, stage: Publish })
    };
    let gone = |sequence| StoreOp::Session(SessionOp::DeleteQueued { id: 1, sequence });
    let filter = || "f".into();
    let ops = vec![
        gone(1),
        SessionOp::PutSession { id: 1, client_id: "c".into(), epoch: 1, disconnected_ms: None }
            .into(),
        outbox(),
        queued(1, 3),
        outgoing(2),
        outgoing(3),
        SessionOp::PutSubscription { id: 1, filter: filter(), qos: QoS::AtLeastOnce, owes: None }
            .into(),
        queued(1, 4),
        gone(4),
        SessionOp::DeleteSubscription { id: 1, filter: filter() }.into(),
        SessionOp::PutReceipt { id: 1, packet_id }.into(),
        SessionOp::DeleteReceipt { id: 1, packet_id }.into(),
        SessionOp::DeleteReceipt { id: 1, packet_id: other }.into(),
        gone(2),
    ];
    let token = CompletionToken {
        worker: 0,
        source: crate::messages::AckSource::Store,
        pending: 0,
        generation: 0,
    };
    let mut queue = queue();
    let (tokens, transaction, origin) = (vec![token], None, Some(0));
    queue.admit(StorageWork::Write { ops, tokens, transaction, origin }, true);
    queue.admit(read(1), true);
    let batch = form(&mut queue).unwrap();
    use SessionOp::{
        DeleteQueued, DeleteReceipt, DeleteSubscription, PutOutgoing, PutQueued, PutReceipt,
        PutSession, PutSubscription,
    };
    assert!(
        matches!(
            batch.ops[..],
            [
                StoreOp::Session(DeleteQueued { sequence: 1, .. }),
                StoreOp::Session(PutSession { .. }),
                StoreOp::Session(PutOutgoing { sequence: 2, .. }),
                StoreOp::Session(PutSubscription { .. }),
                StoreOp::Session(DeleteSubscription { .. }),
                StoreOp::Session(DeleteReceipt { .. }),
                StoreOp::Session(DeleteQueued { sequence: 2, .. })
            ]
        ),
        "{batch:?}"
    );
    assert!(batch.tokens.is_empty(), "nobody is answered for half of it");
    done(&mut queue, batch.id);
    assert!(queue.poll_reads().is_empty(), "3 is parked");
    let kept = resumed(&mut queue);
    assert!(
        matches!(
            &kept[..],
            [
                StoreOp::Session(PutQueued { entry, .. }),
                StoreOp::Session(PutOutgoing { sequence: 3, .. }),
                StoreOp::Session(PutReceipt { .. }),
                StoreOp::Session(DeleteReceipt { .. })
            ] if entry.sequence == 3
        ),
        "{kept:?}"
    );
    assert_eq!(queue.in_flight.batches[0].tokens.len(), 1);
    done(&mut queue, WriteId(2));
    assert_eq!(queue.poll_reads().len(), 1);
}

#[test]
fn a_session_that_ends_in_a_parked_request_leaves_nothing() {
    let mut queue = queue();
    let end = StoreOp::Session(SessionOp::DeleteSession { id: 1, client_id: "c".into() });
    queue.admit(write(vec![outbox(), queued(1, 1), queued(2, 1), end], None), true);
    assert!(matches!(
        form(&mut queue).unwrap().ops[..],
        [StoreOp::Session(SessionOp::DeleteSession { .. })]
    ));
    let kept = resumed(&mut queue);
    assert!(matches!(kept[..], [StoreOp::Session(SessionOp::PutQueued { id: 2, .. })]), "{kept:?}");
}

#[test]
fn a_will_that_was_held_back_does_not_come_back() {
    let mut queue = queue();
    queue.admit(write(vec![outbox(), will_of("a", 1)], None), true);
    let end = StoreOp::DeleteWill { client_id: "a".into(), connection: 1 };
    queue.admit(write(vec![end], None), true);
    form(&mut queue).unwrap();
    assert_eq!(resumed(&mut queue).len(), 0);
}

#[test]
fn only_what_bears_on_something_held_back_is_noted() {
    let mut queue = queue();
    let put = |topic: &str| StoreOp::PutRetained { message: message(topic), version: 1 };
    queue.admit(write(vec![outbox(), will_of("a", 1), put("a"), queued(1, 1)], None), true);
    queue.admit(write(vec![outbox(), will_of("b", 2)], None), true);
    let rows = queue.deferred.rows();
    for other in 0..100 {
        let other = other.to_string();
        queue.admit(write(vec![put(&other), will_of(&other, 1), queued(2, 1)], None), true);
        let end = StoreOp::Session(SessionOp::DeleteSession { id: 3, client_id: "c".into() });
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
    let mut queue = queue();
    queue.admit(write(vec![outbox(), queued(1, 1), queued(1, 2), no_will(1)], None), true);
    assert!(queue.parked_bytes() > 0);
    // Delivered before it was stored; and the client is back with another will, then gone again.
    queue.admit(
        write(vec![SessionOp::DeleteQueued { id: 1, sequence: 1 }.into(), will_of("a", 2)], None),
        true,
    );
    queue.admit(write(vec![outbox(), no_will(2)], None), true);
    form(&mut queue).unwrap();
    assert!(queue.resume() && queue.resume());
    let batch = form(&mut queue).unwrap();
    let kept = batch.ops.iter().filter(|op| !matches!(op, StoreOp::Log(LogOp::PutOutbox { .. })));
    let kept: Vec<_> = kept.collect();
    assert!(
        matches!(kept[0], StoreOp::Session(SessionOp::PutQueued { entry, .. }) if entry.sequence == 2),
        "{kept:?}"
    );
    for (at, connection) in [(1, 1), (2, 2)] {
        let StoreOp::DeleteWill { connection: of, .. } = kept[at] else { panic!("{kept:?}") };
        assert_eq!(*of, connection, "each will's own end: {kept:?}");
    }
    assert_eq!((kept.len(), queue.parked_bytes()), (3, 0));
}

#[test]
fn what_was_sent_before_it_was_stored_keeps_its_packet_id() {
    let mut queue = queue();
    queue.admit(write(vec![outbox(), queued(1, 5)], None), true);
    let (packet_id, stage) = (PacketId::new(7).unwrap(), OutgoingStage::Publish);
    let sent = StoreOp::Session(SessionOp::PutOutgoing { id: 1, sequence: 5, packet_id, stage });
    queue.admit(write(vec![sent], None), true);
    form(&mut queue).unwrap();
    assert!(queue.resume());
    let batch = form(&mut queue).unwrap();
    let outgoing = batch.ops.iter().find_map(|op| match op {
        StoreOp::Session(SessionOp::PutQueued { entry, .. }) => entry.outgoing,
        _ => None,
    });
    assert_eq!(outgoing, Some((packet_id, stage)));
}
