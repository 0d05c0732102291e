//! From store operations to CQL statements. Pure: what is known is in [`Memory`], what has to be
//! written comes out as a [`Plan`] (`planned`). Each table's statements are bound in its own file; here is which of
//! them an operation is for, and in which order they are finished.
//!
//! Invariants: operations are planned in the order of the calls, so write timestamps rise with them and it
//! does not matter in which order the server sees the statements. Planning the same operations
//! again gives statements that write the same again. What a plan takes for granted (a bucket is in
//! its directory, a bucket is dropped) was written by an earlier plan that succeeded.
//! Bounds: one row of the outbox or a queue as `outbox` and `queues` say, one batch of statements as `batches` says.

mod batches;
mod dead_letters;
mod draft;
mod outbox;
mod peer_batches;
mod prepared;
mod queues;
pub(super) mod receipts;
mod retained;
mod sessions;
mod subscriptions;
mod wills;

use std::sync::Arc;

use hydrant_actors::ports::{ClusterOp, LogOp, SessionId, SessionOp, StoreError, StoreOp};

use super::memory::Memory;
use super::planned::Plan;
use super::queue::EntryState;
use crate::rows::{RowError, damaged};
use draft::Draft;
use outbox::Outbox;
use prepared::Prepared;
use queues::Queues;

/// Makes one plan.
struct Planner<'a> {
    draft: Draft<'a>,
    queues: Queues,
    outbox: Outbox,
    prepared: Prepared,
}

/// Plans the operations; `memory` is as after them.
///
/// # Errors
/// A value that cannot be encoded.
pub(super) fn plan(memory: &mut Memory, ops: &[StoreOp]) -> Result<Plan, StoreError> {
    memory.begins()?;
    let mut planner = Planner {
        draft: Draft::new(memory),
        queues: Queues::default(),
        outbox: Outbox::default(),
        prepared: Prepared::default(),
    };
    for op in ops {
        planner.op(op).map_err(damaged)?;
    }
    Ok(planner.finish())
}

/// The session that an operation is for, where that is another node's.
fn refused(memory: &mut Memory, op: &StoreOp) -> Option<SessionId> {
    let id = op.session()?;
    if let StoreOp::Session(SessionOp::PutSession { .. }) = op {
        // It may be new.
        return memory.owned_sessions.as_mut()?.put(id).is_none().then_some(id);
    }
    (!memory.holds(id)).then_some(id)
}

impl Planner<'_> {
    fn op(&mut self, op: &StoreOp) -> Result<(), RowError> {
        let draft = &mut self.draft;
        if let Some(id) = refused(draft.memory, op) {
            log::debug!("what is written for session {id} is dropped: this node does not hold it");
            return Ok(());
        }
        match op {
            StoreOp::Session(op) => self.session(op)?,
            StoreOp::Log(op) => self.log(op)?,
            StoreOp::Cluster(op) => self.cluster(op)?,
            StoreOp::PutRetained { message, version } => retained::put(draft, message, *version)?,
            StoreOp::DeleteRetained { topic, version } => retained::delete(draft, topic, *version),
            StoreOp::PutWill { will } => wills::put(draft, will)?,
            StoreOp::DeleteWill { client_id, connection } => {
                wills::end(draft, (Arc::clone(client_id), *connection));
            }
        }
        Ok(())
    }

    /// A session's record, subscriptions, receipts and queue.
    fn session(&mut self, op: &SessionOp) -> Result<(), RowError> {
        let Self { draft, queues, .. } = self;
        match op {
            SessionOp::PutSession { id, client_id, epoch, disconnected_ms } => {
                sessions::put(draft, *id, client_id, *epoch, *disconnected_ms);
            }
            SessionOp::DeleteSession { id, client_id } => {
                let timestamp = draft.memory.timestamp();
                receipts::delete_all(draft, *id);
                queues.delete(draft, *id, timestamp);
                subscriptions::delete_all(draft, *id, timestamp);
                sessions::delete(draft, *id, client_id, timestamp);
            }
            SessionOp::PutSubscription { id, filter, qos, owes } => {
                subscriptions::put(draft, *id, filter, *qos, owes.as_deref());
            }
            SessionOp::DeleteSubscription { id, filter } => {
                subscriptions::delete(draft, *id, filter)
            }
            SessionOp::PutQueued { id, entry } => queues.put(draft, *id, entry)?,
            SessionOp::PutOutgoing { id, sequence, packet_id, stage } => {
                queues.set(draft, *id, *sequence, EntryState::Outgoing(*packet_id, *stage));
            }
            SessionOp::DeleteQueued { id, sequence } => {
                queues.set(draft, *id, *sequence, EntryState::Done);
            }
            SessionOp::PutReceipt { id, packet_id } => receipts::put(draft, *id, *packet_id),
            SessionOp::DeleteReceipt { id, packet_id } => receipts::delete(draft, *id, *packet_id),
        }
        Ok(())
    }

    /// The outbox and the dead letters.
    fn log(&mut self, op: &LogOp) -> Result<(), RowError> {
        let Self { draft, outbox, .. } = self;
        match op {
            LogOp::PutOutbox { record, position } => {
                outbox.put(draft, position.lane, position.position, record)?;
            }
            LogOp::MoveCursor { lane, position } => outbox.move_cursor(*lane, *position),
            LogOp::PutDeadLetter { letter } => dead_letters::put(draft, letter)?,
            LogOp::DropDeadLetter { id } => dead_letters::delete(draft, *id),
        }
        Ok(())
    }

    /// Batches of other nodes and prepared publishes.
    fn cluster(&mut self, op: &ClusterOp) -> Result<(), RowError> {
        let Self { draft, prepared: publishes, .. } = self;
        match op {
            ClusterOp::PutPeerBatch { origin, batch, prepared } => {
                peer_batches::put(draft, (*origin, *batch), prepared)?;
            }
            ClusterOp::ExceptPeerBatch { origin, batch, client_id } => {
                peer_batches::except(draft, (*origin, *batch), client_id);
            }
            ClusterOp::CompletePeerBatch { origin, batch, client_id } => {
                peer_batches::complete(draft, (*origin, *batch), client_id);
            }
            ClusterOp::ForgetPeerBatches { origin, below } => {
                peer_batches::forget(draft, *origin, *below);
            }
            ClusterOp::Prepare(publish) => publishes.put(draft, publish)?,
            ClusterOp::Committed { id } => prepared::committed(draft, *id),
            ClusterOp::ForgetPrepared { incarnation, router: Some(router), below } => {
                prepared::forget(draft, *incarnation, *router, *below);
            }
            ClusterOp::ForgetPrepared { incarnation, router: None, .. } => {
                prepared::forget_all(draft, *incarnation);
            }
        }
        Ok(())
    }

    /// Writes what is under way. A row's write timestamp is below that of the bucket which drops it.
    fn finish(self) -> Plan {
        let Self { mut draft, mut queues, outbox, prepared } = self;
        queues.end_runs(&mut draft);
        outbox.finish(&mut draft);
        queues.end_buckets(&mut draft);
        receipts::finish(&mut draft);
        let mut plan = draft.finish();
        prepared.finish(&mut plan);
        queues::finish(&mut plan);
        plan
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use hydrant_actors::ports::PreparedPublish;
    use hydrant_protocol::PacketId;
    use hydrant_protocol::cluster::message::PublishId;

    use super::super::owned_sessions::OwnedSessions;
    use super::super::timestamps::Timestamps;
    use super::batches::PREPARED;
    use super::*;
    use crate::embedded::suite::message;

    fn connect(id: SessionId, since: Option<u64>) -> StoreOp {
        StoreOp::Session(SessionOp::PutSession {
            id,
            client_id: "c".into(),
            epoch: 1,
            disconnected_ms: since,
        })
    }

    #[test]
    fn only_a_new_session_goes_into_the_index_and_what_was_given_up_is_dropped() {
        let mut memory = Memory::new(9, Arc::new(Timestamps::new(9)));
        memory.owned_sessions = Some(OwnedSessions::new(4));
        // Also one that is offline again before it was written.
        for since in [None, Some(5)] {
            let planned = plan(&mut memory, &[connect(1, since)]).unwrap();
            assert_eq!((planned.epochs.len(), planned.epochs[0].holder), (1, 4));
            assert!(planned.epochs[0].index.is_some());
        }
        let planned = plan(&mut memory, &[connect(1, None)]).unwrap();
        memory.succeeded(&planned);
        let planned = plan(&mut memory, &[connect(1, None)]).unwrap();
        assert!(planned.epochs.len() == 1 && planned.epochs[0].index.is_none());
        assert!(plan(&mut memory, &[connect(1, Some(5))]).unwrap().epochs.is_empty());
        memory.give_up(1);
        let ops = [
            connect(1, None),
            StoreOp::Session(SessionOp::PutSubscription {
                id: 1,
                filter: "a".into(),
                qos: hydrant_protocol::QoS::AtMostOnce,
                owes: None,
            }),
            StoreOp::Session(SessionOp::PutReceipt { id: 1, packet_id: PacketId::MIN }),
            StoreOp::Session(SessionOp::DeleteQueued { id: 1, sequence: 3 }),
            StoreOp::Session(SessionOp::DeleteSession { id: 1, client_id: "c".into() }),
        ];
        let planned = plan(&mut memory, &ops).unwrap();
        assert!(planned.epochs.is_empty() && planned.batches.is_empty() && !planned.atomic);
        assert!(planned.ended.is_empty() && planned.last.is_empty());
    }

    #[test]
    fn without_a_cluster_nothing_is_indexed() {
        let mut memory = Memory::new(9, Arc::new(Timestamps::new(9)));
        let planned = plan(&mut memory, &[connect(1, None), connect(2, Some(5))]).unwrap();
        assert_eq!((planned.epochs.len(), planned.epochs[0].holder), (1, 9));
        assert!(planned.epochs[0].index.is_none());
    }

    fn prepares(number: u64, session: SessionId, payload: &str) -> StoreOp {
        StoreOp::Cluster(ClusterOp::Prepare(Box::new(PreparedPublish {
            id: PublishId { incarnation: 1, router: 0, number },
            publisher: "p".into(),
            session: Some(session),
            packet_id: PacketId::MIN,
            record: None,
            message: message("t", payload, false),
            retain: false,
            queued: false,
        })))
    }

    #[test]
    fn of_a_publisher_no_publish_is_prepared_without_the_one_before_it() {
        let mut memory = Memory::new(1, Arc::new(Timestamps::new(1)));
        let ops: Vec<StoreOp> = (0..500).map(|n| prepares(n, 7 + n % 2, "x")).collect();
        let planned = plan(&mut memory, &ops).unwrap();
        // One mutation, so all of them or none; and the next plan waits for this one.
        assert_eq!(planned.prepared.iter().map(Vec::len).collect::<Vec<_>>(), [500]);
        assert!(planned.single.is_empty());
        assert_eq!(planned.sessions, BTreeSet::from([7, 8]));
        // More bytes than one may have: one after another.
        let large = "x".repeat(PREPARED.1 / 2);
        let ops: Vec<StoreOp> = (0..3).map(|n| prepares(n, 7, &large)).collect();
        let planned = plan(&mut memory, &ops).unwrap();
        assert_eq!(planned.prepared.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1]);
        // With what has to be whole they stand in the journal.
        let id = PublishId { incarnation: 1, router: 0, number: 0 };
        let ops = [prepares(9, 7, "x"), StoreOp::Cluster(ClusterOp::Committed { id })];
        let planned = plan(&mut memory, &ops).unwrap();
        assert!(planned.atomic && planned.prepared.is_empty() && planned.batches.len() == 1);
    }
}
