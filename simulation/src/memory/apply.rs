//! What the operations of a write do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hydrant_engine::ports::{
    ClusterOp, LogOp, SessionId, SessionOp, StoreOp, StoredBatch, StoredSubscription,
};
use hydrant_protocol::Message;
use hydrant_protocol::cluster::message::PublishId;

use super::{Kept, Store};

impl Store {
    /// One operation of an incarnation that is not sealed.
    pub(super) fn apply(&mut self, me: u64, op: StoreOp) {
        match op {
            StoreOp::Session(op) => self.apply_session(me, op),
            StoreOp::Log(op) => self.apply_log(me, op),
            StoreOp::Cluster(op) => self.apply_cluster(me, op),
            StoreOp::PutRetained { message, version } => {
                let topic = Arc::clone(&message.topic);
                self.retain(topic, Some(message), version);
            }
            StoreOp::DeleteRetained { topic, version } => self.retain(topic, None, version),
            StoreOp::PutWill { will } => drop(self.wills.insert(will.connection, (me, will))),
            StoreOp::DeleteWill { connection, .. } => {
                self.wills.retain(|number, (of, _)| *number != connection || *of != me);
            }
        }
    }

    fn apply_session(&mut self, me: u64, op: SessionOp) {
        match op {
            SessionOp::PutSession { id, client_id, epoch, disconnected_ms } => {
                self.put_session(me, id, client_id, epoch, disconnected_ms);
            }
            SessionOp::DeleteSession { id, .. } => {
                if self.held(me, id, "DeleteSession").is_some() {
                    self.sessions.remove(&id);
                }
            }
            SessionOp::PutSubscription { id, filter, qos, owes } => {
                if let Some(kept) = self.held(me, id, "PutSubscription") {
                    let new = StoredSubscription { filter: Arc::clone(&filter), qos, owes };
                    kept.subscriptions.insert(filter, new);
                }
            }
            SessionOp::DeleteSubscription { id, filter } => {
                if let Some(kept) = self.held(me, id, "DeleteSubscription") {
                    kept.subscriptions.remove(&filter);
                }
            }
            SessionOp::PutQueued { id, entry } => {
                if let Some(kept) = self.held(me, id, "PutQueued") {
                    kept.last = kept.last.max(entry.sequence);
                    kept.queue.insert(entry.sequence, entry);
                }
            }
            SessionOp::PutOutgoing { id, sequence, packet_id, stage } => {
                if let Some(kept) = self.held(me, id, "PutOutgoing")
                    && let Some(entry) = kept.queue.get_mut(&sequence)
                {
                    entry.outgoing = Some((packet_id, stage));
                }
            }
            SessionOp::DeleteQueued { id, sequence } => {
                if let Some(kept) = self.held(me, id, "DeleteQueued") {
                    kept.queue.remove(&sequence);
                }
            }
            SessionOp::PutReceipt { id, packet_id } => {
                if let Some(kept) = self.held(me, id, "PutReceipt") {
                    kept.receipts.insert(packet_id.get());
                }
            }
            SessionOp::DeleteReceipt { id, packet_id } => {
                if let Some(kept) = self.held(me, id, "DeleteReceipt") {
                    kept.receipts.remove(&packet_id.get());
                }
            }
        }
    }

    fn apply_log(&mut self, me: u64, op: LogOp) {
        match op {
            LogOp::PutOutbox { record, position } => {
                let lane = self.outbox.entry((me, position.lane)).or_default();
                lane.end = lane.end.max(position.position + 1);
                if position.position >= lane.cursor {
                    lane.records.insert(position.position, record);
                }
            }
            LogOp::MoveCursor { lane, position } => {
                let lane = self.outbox.entry((me, lane)).or_default();
                lane.cursor = lane.cursor.max(position);
                lane.records = lane.records.split_off(&lane.cursor);
            }
            LogOp::PutDeadLetter { letter } => drop(self.letters.insert(letter.id, letter)),
            LogOp::DropDeadLetter { id } => drop(self.letters.remove(&id)),
        }
    }

    fn apply_cluster(&mut self, me: u64, op: ClusterOp) {
        match op {
            ClusterOp::PutPeerBatch { origin, batch, prepared } => {
                self.batch(me, (origin, batch)).prepared = prepared;
            }
            ClusterOp::ExceptPeerBatch { origin, batch, client_id } => {
                self.batch(me, (origin, batch)).except.push(client_id);
            }
            ClusterOp::CompletePeerBatch { origin, batch, client_id } => {
                let except = &mut self.batch(me, (origin, batch)).except;
                except.retain(|client| *client != client_id);
            }
            ClusterOp::ForgetPeerBatches { origin, below } => {
                let batches = self.batches.entry(me).or_default();
                batches.retain(|(of, batch), _| *of != origin || *batch >= below);
            }
            ClusterOp::Prepare(prepared) => drop(self.prepared.insert(prepared.id, *prepared)),
            ClusterOp::Committed { id } => {
                if let Some(prepared) = self.prepared.get_mut(&id) {
                    prepared.queued = true;
                }
            }
            ClusterOp::ForgetPrepared { incarnation, router, below } => {
                let its = |id: &PublishId| {
                    id.incarnation == incarnation
                        && router.is_none_or(|router| id.router == router)
                        && id.number < below
                };
                self.prepared.retain(|id, _| !its(id));
            }
        }
    }

    fn put_session(
        &mut self,
        me: u64,
        id: SessionId,
        client_id: Arc<str>,
        epoch: u64,
        disconnected_ms: Option<u64>,
    ) {
        let lineage = self.lineage(me);
        let kept = self.sessions.entry(id).or_insert_with(|| Kept {
            client_id,
            epoch,
            disconnected_ms,
            holder: me,
            lineage,
            taken: 0,
            subscriptions: BTreeMap::new(),
            receipts: BTreeSet::new(),
            queue: BTreeMap::new(),
            last: 0,
        });
        (kept.epoch, kept.disconnected_ms) = (epoch, disconnected_ms);
        self.held(me, id, "PutSession");
    }

    /// A session that this incarnation may write.
    fn held(&mut self, me: u64, id: SessionId, what: &str) -> Option<&mut Kept> {
        let kept = self.sessions.get_mut(&id)?;
        if kept.holder != me {
            let (client, holder) = (&kept.client_id, kept.holder);
            self.violation.get_or_insert_with(|| {
                format!("{what}: the session of {client} is written by {me} and held by {holder}")
            });
            return None;
        }
        Some(kept)
    }

    fn retain(&mut self, topic: Arc<str>, message: Option<Arc<Message>>, version: u64) {
        let kept = self.retained.entry(topic).or_default();
        if version >= kept.1 {
            *kept = (message, version);
        }
    }

    fn batch(&mut self, of: u64, key: (u64, u64)) -> &mut StoredBatch {
        let (origin, number) = key;
        let new = StoredBatch { origin, number, prepared: Vec::new(), except: Vec::new() };
        self.batches.entry(of).or_default().entry(key).or_insert(new)
    }
}
