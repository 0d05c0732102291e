//! What the operations of a write do to the state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hydrant_protocol::cluster::message::PublishId;

use super::{Kept, Node, State};
use crate::ports::{ClusterOp, SessionId, SessionOp, StoreOp, StoredBatch, StoredSubscription};

impl Node {
    pub(super) fn apply(me: u64, state: &mut State, op: StoreOp) {
        let lineage = state.starts.get(&me).map_or(me, |start| start.1);
        let kept = |state: &mut State, id: SessionId, act: &dyn Fn(&mut Kept)| {
            if let Some(kept) = state.sessions.get_mut(&id).filter(|kept| kept.holder == me) {
                act(kept);
            }
        };
        match op {
            StoreOp::Session(SessionOp::PutSession { id, client_id, epoch, disconnected_ms }) => {
                let kept = state.sessions.entry(id).or_insert_with(|| Kept {
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
                assert_eq!(kept.holder, me, "written by who does not hold it");
                (kept.epoch, kept.disconnected_ms) = (epoch, disconnected_ms);
            }
            StoreOp::Session(SessionOp::DeleteSession { id, .. }) => {
                drop(state.sessions.remove(&id))
            }
            StoreOp::Session(SessionOp::PutSubscription { id, filter, qos, owes }) => {
                kept(state, id, &|kept| {
                    let filter = Arc::clone(&filter);
                    let owes = owes.clone();
                    let new = StoredSubscription { filter: Arc::clone(&filter), qos, owes };
                    kept.subscriptions.insert(filter, new);
                })
            }
            StoreOp::Session(SessionOp::DeleteSubscription { id, filter }) => {
                kept(state, id, &|kept| {
                    kept.subscriptions.remove(&filter);
                })
            }
            StoreOp::Session(SessionOp::PutQueued { id, entry }) => kept(state, id, &|kept| {
                kept.last = kept.last.max(entry.sequence);
                kept.queue.insert(entry.sequence, entry.clone());
            }),
            StoreOp::Session(SessionOp::PutOutgoing { id, sequence, packet_id, stage }) => {
                kept(state, id, &|kept| {
                    if let Some(entry) = kept.queue.get_mut(&sequence) {
                        entry.outgoing = Some((packet_id, stage));
                    }
                })
            }
            StoreOp::Session(SessionOp::DeleteQueued { id, sequence }) => {
                kept(state, id, &|kept| {
                    kept.queue.remove(&sequence);
                })
            }
            StoreOp::Session(SessionOp::PutReceipt { id, packet_id }) => kept(state, id, &|kept| {
                kept.receipts.insert(packet_id.get());
            }),
            StoreOp::Session(SessionOp::DeleteReceipt { id, packet_id }) => {
                kept(state, id, &|kept| {
                    kept.receipts.remove(&packet_id.get());
                })
            }
            StoreOp::PutRetained { message, version } => {
                let topic = Arc::clone(&message.topic);
                state.retained.insert(topic, (message, version));
            }
            StoreOp::DeleteRetained { topic, .. } => drop(state.retained.remove(&topic)),
            StoreOp::PutWill { will } => {
                state.wills.insert(will.connection, (me, will));
            }
            StoreOp::DeleteWill { connection, .. } => {
                if state.wills.get(&connection).is_some_and(|(of, _)| *of == me) {
                    state.wills.remove(&connection);
                }
            }
            StoreOp::Cluster(ClusterOp::PutPeerBatch { origin, batch, prepared }) => {
                Self::batch(state, me, (origin, batch)).prepared = prepared;
            }
            StoreOp::Cluster(ClusterOp::ExceptPeerBatch { origin, batch, client_id }) => {
                Self::batch(state, me, (origin, batch)).except.push(client_id);
            }
            StoreOp::Cluster(ClusterOp::CompletePeerBatch { origin, batch, client_id }) => {
                let except = &mut Self::batch(state, me, (origin, batch)).except;
                except.retain(|client| *client != client_id);
            }
            StoreOp::Cluster(ClusterOp::ForgetPeerBatches { origin, below }) => {
                let batches = state.batches.entry(me).or_default();
                batches.retain(|(of, batch), _| *of != origin || *batch >= below);
            }
            StoreOp::Cluster(ClusterOp::Prepare(prepared)) => {
                drop(state.prepared.insert(prepared.id, *prepared))
            }
            StoreOp::Cluster(ClusterOp::Committed { id }) => {
                if let Some(prepared) = state.prepared.get_mut(&id) {
                    prepared.queued = true;
                }
            }
            StoreOp::Cluster(ClusterOp::ForgetPrepared { incarnation, router, below }) => {
                let its = |id: &PublishId| {
                    id.incarnation == incarnation
                        && router.is_none_or(|router| id.router == router)
                        && id.number < below
                };
                state.prepared.retain(|id, _| !its(id));
            }
            // Its nodes have no log.
            StoreOp::Log(_) => {}
        }
    }

    fn batch(state: &mut State, of: u64, key: (u64, u64)) -> &mut StoredBatch {
        let (origin, number) = key;
        let new = StoredBatch { origin, number, prepared: Vec::new(), except: Vec::new() };
        state.batches.entry(of).or_default().entry(key).or_insert(new)
    }
}
