//! The prepared publishes of a worker.
//!
//! Bounds: as for the pending acks, whose publishes these are.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use hydrant_protocol::cluster::dedup::{DedupWindow, PreparedSequence};

use super::pending_acks::{Exact, Owed};
use super::sessions::SessionKey;
use crate::now::Boot;
use crate::ports::StoredWill;

/// A session, and its Last Will.
pub type Behind = (SessionKey, StoredWill);

/// What a worker keeps of its own ones, and of those it finishes.
#[derive(Debug, Default)]
pub struct PreparedPublishes {
    /// QoS 2 messages that are begun and whose turn the router has not come to.
    pub begun: RefCell<VecDeque<(Option<Owed>, Exact)>>,
    /// Those of lost nodes, or of earlier starts, while it is not known who wants them; among them what the same
    /// publishers publish here to the same topics, which comes behind.
    pub held: RefCell<Vec<(Option<Owed>, Exact)>>,
    /// Last Wills that were found at start, for as long.
    pub wills: RefCell<Vec<StoredWill>>,
    /// Those that other nodes want and may not all have.
    pub numbers: RefCell<PreparedSequence>,
    /// Of all that come here, what this worker has done for its sessions.
    pub handled: RefCell<DedupWindow>,
    /// Last Wills behind publishes of the same session that are being prepared.
    pub behind: RefCell<Vec<Behind>>,
    /// Below this the store was last told to forget them.
    pub forgot: Cell<u64>,
    /// Sessions that have come from other nodes a while ago, and when.
    pub roaming: RefCell<VecDeque<(Boot, SessionKey)>>,
}
