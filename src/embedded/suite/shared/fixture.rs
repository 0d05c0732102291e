//! Where the nodes of a case are opened, and what they write.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use hydrant_actors::ports::{
    Holder, LogOp, OrphanedState, OutboxPosition, QueueEntry, Sealing, SessionId, SessionOp,
    SharedStore, StoreError, StoreFuture, StoreOp, StoredSession, StoredWill,
};
use hydrant_protocol::{PacketId, QoS};

use super::super::fixture::{message, record, wait};

/// A place where stores are opened that share what they have, and what a case does there beside.
pub trait Nodes: Sync {
    /// Opens the store as a node with this data directory would. `lease`: another than the short one of the place.
    ///
    /// # Errors
    /// Why it does not start.
    fn open(&self, node: &str, instance: &str, lease: Option<Duration>) -> Result<Node, String>;
    /// Lanes that a node has of its own.
    fn lanes(&self) -> u16;
    /// Lets a little time pass.
    fn pass(&self);
    /// Nothing is left of an incarnation.
    fn is_forgotten(&self, incarnation: u64) -> bool;
    /// The fences of all sessions are above a stamp.
    fn are_fenced_above(&self, stamp: u64) -> bool;
    /// Marks a session as moving in the index of a lineage, as a move that was cut short has left it.
    fn mark(&self, lineage: u64, id: SessionId, client_id: &str, stamp: u64);
    /// A session is marked as moving.
    fn is_any_marked(&self) -> bool;
    /// Leaves a copy of a client's will as an older release did, where there was one that did so otherwise.
    fn leave_old_will(&self, incarnation: u64, of: &str) -> Option<StoredWill>;
}

/// What a case does with a place.
pub type Case = fn(&dyn Nodes);

/// The store of one node. Its process ends with it.
pub struct Node {
    /// The store.
    pub store: Arc<dyn SharedStore>,
    /// Ends the incarnation in order.
    pub release: Box<dyn Fn() + Send + Sync>,
    /// From now on it renews its lease no more.
    pub freeze: Box<dyn Fn() + Send + Sync>,
}

impl Deref for Node {
    type Target = dyn SharedStore;

    fn deref(&self) -> &Self::Target {
        &*self.store
    }
}

pub(super) fn open(nodes: &dyn Nodes, node: &str) -> Node {
    nodes.open(node, &format!("data directory of {node}"), None).unwrap()
}

/// Waits until a condition holds.
pub(super) fn eventually(nodes: &dyn Nodes, what: &str, condition: impl Fn() -> bool) {
    for _ in 0..3000 {
        if condition() {
            return;
        }
        nodes.pass();
    }
    panic!("waited in vain until {what}");
}

pub(super) fn ended<T>(future: StoreFuture<T>) -> Result<T, StoreError> {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

pub(super) fn write(store: &Node, ops: Vec<StoreOp>) {
    wait(store.write(Arc::new(ops)));
}

pub(super) fn packet(id: u16) -> PacketId {
    PacketId::new(id).unwrap()
}

pub(super) fn client(id: SessionId) -> Arc<str> {
    format!("client{id}").into()
}

pub(super) fn connect(id: SessionId, epoch: u64) -> StoreOp {
    StoreOp::Session(SessionOp::PutSession {
        id,
        client_id: client(id),
        epoch,
        disconnected_ms: None,
    })
}

pub(super) fn entry(sequence: u64) -> QueueEntry {
    let message = message("q/topic", &format!("message {sequence}"), false);
    QueueEntry { sequence, qos: QoS::AtLeastOnce, retain: false, message, outgoing: None }
}

pub(super) fn queued(id: SessionId, sequences: std::ops::RangeInclusive<u64>) -> Vec<StoreOp> {
    sequences
        .map(|sequence| StoreOp::Session(SessionOp::PutQueued { id, entry: entry(sequence) }))
        .collect()
}

pub(super) fn delivered(id: SessionId, sequence: u64) -> StoreOp {
    StoreOp::Session(SessionOp::DeleteQueued { id, sequence })
}

/// It is owed retained messages behind the topic that is named as its filter.
pub(super) fn subscription(id: SessionId, filter: &str) -> StoreOp {
    let owes = Some(filter.into());
    StoreOp::Session(SessionOp::PutSubscription {
        id,
        filter: filter.into(),
        qos: QoS::AtLeastOnce,
        owes,
    })
}

pub(super) fn sequences(store: &Node, id: SessionId) -> Vec<u64> {
    let queue = wait(store.read_queue(id, 0, usize::MAX, usize::MAX));
    queue.into_iter().map(|entry| entry.sequence).collect()
}

pub(super) fn ids(sessions: &[StoredSession]) -> Vec<SessionId> {
    let mut ids: Vec<SessionId> = sessions.iter().map(|session| session.id).collect();
    ids.sort_unstable();
    ids
}

pub(super) fn filters(session: &StoredSession) -> Vec<&str> {
    for known in &session.subscriptions {
        assert_eq!(known.owes.as_ref(), Some(&known.filter));
    }
    session.subscriptions.iter().map(|subscription| &*subscription.filter).collect()
}

pub(super) fn holder(store: &Node, id: SessionId) -> Option<Holder> {
    wait(store.locate(client(id)))
}

/// Gives a session of one to the other.
pub(super) fn moves(from: &Node, to: &Node, id: SessionId) -> StoredSession {
    let until = from.give_up(id);
    let before = Holder { id, incarnation: from.incarnation() };
    assert_eq!(holder(to, id), Some(before));
    let session = wait(to.take(client(id), before, until)).expect("it is taken");
    assert_eq!(holder(from, id), Some(Holder { id, incarnation: to.incarnation() }));
    session
}

/// The orphaned state of an incarnation whose store was just dropped.
pub(super) fn sealed(store: &Node, incarnation: u64) -> OrphanedState {
    // One renewal that was still on its way counts as a sign of life.
    for _ in 0..3 {
        match wait(store.seal(incarnation)) {
            Sealing::Ours(state) => return *state,
            Sealing::Alive => {}
            other => panic!("{other:?}"),
        }
    }
    panic!("it is alive")
}

pub(super) fn outbox(lane: u16, positions: std::ops::Range<u64>) -> Vec<StoreOp> {
    let put = |position| {
        StoreOp::Log(LogOp::PutOutbox {
            record: record("t", position),
            position: OutboxPosition { lane, position },
        })
    };
    positions.map(put).collect()
}

pub(super) fn will(id: SessionId) -> StoredWill {
    nth_will(id, 1)
}

/// Of a client's wills the one that this connection has left.
pub(super) fn nth_will(id: SessionId, connection: u64) -> StoredWill {
    let message = message("w", &format!("gone {connection}"), false);
    StoredWill { client_id: client(id), connection, message }
}

pub(super) fn end(id: SessionId, connection: u64) -> StoreOp {
    StoreOp::DeleteWill { client_id: client(id), connection }
}
