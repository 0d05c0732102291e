//! What is asked of the store and of this node's workers, and what each answer is for. The thinking holds no future and
//! never waits: its driver carries a request out, and the answer is a message with the request's number.
//!
//! Invariant: an answer counts once, and only for the request whose number it bears. What is asked again has another
//! number, so an answer that comes late, a second time or for nothing changes nothing.
//! Bounds: one request a claim and one more a second for a claim that waits long; one a session that is to be
//! recovered, a lost incarnation and a lineage; one survey and two reads of the retained messages.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::survey::Untold;
use crate::now::Boot;
use crate::ports::{
    Holder, PreparedPublish, SealedIncarnation, SessionId, StoredBatch, StoredSession, StoredWill,
};

/// The number of a request.
pub type RequestId = u64;

/// What the driver is asked for. Each has one answer, of the same name.
#[derive(Debug)]
pub enum Request {
    /// All incarnations that share the store.
    Incarnations,
    /// The filters of these lineages with QoS 1-2.
    Wanted {
        /// See above.
        lineages: Vec<u64>,
    },
    /// All retained messages.
    Retained,
    /// Who holds a client's session.
    Locate {
        /// Client id.
        client: Arc<str>,
    },
    /// To take a session, as `SharedStore::take` says.
    Take {
        /// Client id.
        client: Arc<str>,
        /// Whose it is.
        from: Holder,
        /// Not if it was taken after that.
        until: u64,
    },
    /// To seal a lost incarnation.
    Seal {
        /// See above.
        incarnation: u64,
    },
    /// To give the workers what a lost incarnation held; answered when each has it in force, or is gone.
    TakeOver {
        /// The incarnation.
        incarnation: u64,
        /// Batches of other nodes that it had stored.
        batches: Arc<[StoredBatch]>,
        /// One for each worker, by index.
        parts: Vec<TakeOverPart>,
    },
}

/// What a lost incarnation held of one worker's clients.
#[derive(Debug)]
pub struct TakeOverPart {
    /// Sessions.
    pub sessions: Vec<StoredSession>,
    /// Wills whose connections the lost node did not see end.
    pub wills: Vec<StoredWill>,
    /// QoS 2 publishes of theirs that it had begun.
    pub prepared: Vec<PreparedPublish>,
}

/// What an answer is for.
#[derive(Debug)]
pub enum Purpose {
    /// Which incarnations there are.
    Survey,
    /// What the sessions of an incarnation want that nobody has told.
    Untold(Untold),
    /// The retained messages at the start; clients may come behind them.
    FirstRetained,
    /// The retained messages of a round of [`Refresh`](super::refresh::Refresh).
    RetainedAgain,
    /// A claim that was granted: who holds its session, or the session.
    Lookup(Lookup),
    /// A claim that has waited long: who holds its session.
    LongClaim {
        /// Its number.
        claim: u64,
    },
    /// A session that was given up to a node that is lost.
    Recover(Recover),
    /// A lost incarnation is to be sealed.
    Seal {
        /// Which.
        incarnation: u64,
    },
    /// What a lost incarnation held is to be in force here.
    TakeOver {
        /// Which.
        incarnation: u64,
        /// It, and those that it had sealed itself.
        incarnations: Vec<SealedIncarnation>,
        /// Client ids of the sessions.
        clients: Vec<Arc<str>>,
    },
}

/// The session of a claim that was granted.
#[derive(Debug, Clone)]
pub struct Lookup {
    /// Number of the claim.
    pub claim: u64,
    /// Client id.
    pub client: Arc<str>,
    /// The incarnation that was asked to give it up.
    pub asked: Option<u64>,
}

/// A session that was given up to a node that is lost: whose is it?
#[derive(Debug, Clone)]
pub struct Recover {
    /// Index of its worker.
    pub worker: u16,
    /// Number of the handover.
    pub id: u64,
    /// Client id.
    pub client: Arc<str>,
    /// Its number in the store.
    pub session: SessionId,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Requests {
    last: RequestId,
    /// To be carried out at a time.
    later: BTreeMap<(Boot, RequestId), (Purpose, Request)>,
    /// Not answered yet.
    open: BTreeMap<RequestId, Purpose>,
}

impl Requests {
    /// The number of a request that is carried out now.
    pub fn open(&mut self, purpose: Purpose) -> RequestId {
        self.last += 1;
        self.open.insert(self.last, purpose);
        self.last
    }

    /// It is carried out when this time has come.
    pub fn open_at(&mut self, at: Boot, purpose: Purpose, request: Request) {
        self.last += 1;
        self.later.insert((at, self.last), (purpose, request));
    }

    /// When something is due.
    pub fn poll_deadline(&self) -> Option<Boot> {
        self.later.first_key_value().map(|((at, _), _)| *at)
    }

    /// What is due and is carried out now.
    pub fn poll_due(&mut self, now: Boot) -> Option<(RequestId, Request)> {
        let first = self.later.first_entry().filter(|first| first.key().0 <= now)?;
        let ((_, id), (purpose, request)) = first.remove_entry();
        self.open.insert(id, purpose);
        Some((id, request))
    }

    /// An answer has come: what it is for. `None`: nobody waits for it.
    pub fn answered(&mut self, id: RequestId) -> Option<Purpose> {
        self.open.remove(&id)
    }

    /// It was no answer to that request, which is still open.
    pub fn put_back(&mut self, id: RequestId, purpose: Purpose) {
        self.open.insert(id, purpose);
    }
}
