//! What a cluster needs from outside, and what of the shared store the rest of a node is given: data, and answers that
//! nobody waits for.

use std::net::TcpListener;
use std::sync::Arc;

use crate::cluster::{Beginning, ClusterSettings, GiveUp, Lease};
use crate::ports::{Membership, SessionId, SharedStore};

/// What a cluster needs from outside.
pub struct ClusterParts {
    /// Who else there is.
    pub membership: Arc<dyn Membership>,
    /// The store that all nodes share.
    pub store: Arc<dyn SharedStore>,
    /// The bound socket for the other nodes, non-blocking.
    pub listener: Arc<TcpListener>,
    /// Choices and bounds.
    pub settings: ClusterSettings,
}

/// Ends the node with a sentence that says why.
pub type OnFailure = Arc<dyn Fn(String) + Send + Sync>;

/// The shared store, as far as it answers at once.
pub(crate) struct AtOnce(pub Arc<dyn SharedStore>);

impl Lease for AtOnce {
    fn holds(&self) -> bool {
        self.0.holds_lease()
    }
}

impl GiveUp for AtOnce {
    fn give_up(&self, session: SessionId) -> u64 {
        self.0.give_up(session)
    }
}

/// What this start is and goes on with.
pub(crate) fn beginning(store: &dyn SharedStore) -> Beginning {
    Beginning {
        incarnation: store.incarnation(),
        lineage: store.lineage(),
        continued: store.continues(),
        batches: store.stored_batches(),
        prepared: store.prepared_publishes(),
    }
}
