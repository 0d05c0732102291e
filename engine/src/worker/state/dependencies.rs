//! What has to be done before a publish is acknowledged.

use smallvec::SmallVec;

use crate::cluster::Recipient;

/// What of a publish is not over when it has been routed.
#[derive(Debug, Clone, Default)]
pub struct AckDependencies {
    /// The session store.
    pub store: bool,
    /// The log, by the index of its record among those that wait to be sent.
    pub log: Option<usize>,
    /// Incarnations of other nodes.
    pub peers: SmallVec<[Recipient; 2]>,
    /// Sessions that are on their way, by their slots.
    pub arriving: SmallVec<[u32; 1]>,
    /// Workers where there are such.
    pub late: SmallVec<[u16; 1]>,
}

impl AckDependencies {
    /// What is neither the store nor the log.
    #[inline]
    pub fn others(&self) -> usize {
        self.peers.len() + self.arriving.len() + self.late.len()
    }

    /// It is over already.
    #[inline]
    pub fn nothing(&self) -> bool {
        !self.store && self.log.is_none() && self.others() == 0
    }
}
