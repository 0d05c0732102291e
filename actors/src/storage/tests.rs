//! The write queue with a clock beside it, which the engine has not.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use hydrant_protocol::{Message, QoS};

use super::WriteQueue;
use crate::messages::StorageWork;
use crate::ports::{LogOp, LogRecord, OutboxPosition, QueueEntry, SessionId, SessionOp, StoreOp};

fn queued(id: SessionId, sequence: u64) -> StoreOp {
    let (qos, payload) = (QoS::AtLeastOnce, Bytes::new());
    let message =
        Arc::new(Message { topic: "t".into(), payload, qos, retain: false, properties: None });
    let entry = QueueEntry { sequence, qos, retain: false, message, outgoing: None };
    SessionOp::PutQueued { id, entry }.into()
}

pub fn outbox() -> StoreOp {
    let (record, position) = (LogRecord::for_tests(0), OutboxPosition { lane: 0, position: 0 });
    LogOp::PutOutbox { record, position }.into()
}

/// What a read waits for is looked up by its session: the queue is given a clock here, since the engine has none.
#[test]
fn reads_do_not_look_through_what_is_held_back() {
    // 2,000 reads behind 2,000 parked requests with 20 entries each, asked again and again: by
    // looking through the requests this is 80 million looks a round; by the session, 2,000.
    let mut queue = WriteQueue::new(&crate::settings::Settings::for_tests(1).storage);
    queue.handle_room(true);
    for session in 0..2000 {
        let mut ops: Vec<StoreOp> = (0..20).map(|sequence| queued(session, sequence)).collect();
        ops.push(outbox());
        let (tokens, transaction, origin) = (Vec::new(), None, None);
        queue.handle_request(StorageWork::Write { ops, tokens, transaction, origin });
        let (worker, slot, request, from, until) = (0, 0, 0, 0, 100);
        let (limit, max_bytes) = (10, 1000);
        queue.handle_request(StorageWork::ReadQueue {
            worker,
            slot,
            request,
            session,
            from,
            until,
            limit,
            max_bytes,
        });
    }
    assert_eq!(queue.parked(), 2000);
    let started = Instant::now();
    for _ in 0..100 {
        assert!(queue.poll_reads().is_empty());
    }
    assert!(started.elapsed().as_secs() < 2, "{:?}", started.elapsed());
}
