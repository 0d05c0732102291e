//! The inboxes through which the actors of one node give each other work, one a reader.
//!
//! They outlive every actor, so that a rebuilt one finds its work as it was. What the actors read and
//! write together stands in [`NodeTables`](crate::node_tables::NodeTables), which knows no inbox.
//! Bounds: each inbox has its own, kept by who pushes ([`crate::inbox`]).

use std::sync::Arc;

use tokio::sync::watch;

use crate::inbox::Inbox;
use crate::messages::DeadWork;
use crate::messages::{LogWork, ManagerTask, PeerWork, RouterWork, StorageWork};
use crate::settings::Settings;

/// See the module.
#[derive(Debug)]
pub struct Mailboxes {
    /// Inboxes of the ConnectionManagers, by worker.
    pub managers: Vec<Inbox<ManagerTask>>,
    /// Inboxes of the TopicRouters, by worker.
    pub routers: Vec<Inbox<RouterWork>>,
    /// StorageActor's inbox.
    pub storage: Inbox<StorageWork>,
    /// The log actor's inbox.
    pub log: Inbox<LogWork>,
    /// What the log actor hears about dead letters.
    pub dead_letters: Inbox<DeadWork>,
    /// Something has become of dead letters.
    pub dead_letters_changed: watch::Sender<()>,
    /// PeersActor's inbox; a node that is alone puts nothing into it.
    pub peers: Inbox<PeerWork>,
}

impl Mailboxes {
    /// Empty ones with the bounds of `settings`, and `max_link_bytes` for PeersActor's.
    pub fn new(settings: &Settings, max_link_bytes: usize) -> Arc<Self> {
        let limits = &settings.limits;
        let workers = 0..settings.workers.max(1);
        let manager = |_| Inbox::new(limits.max_connections, usize::MAX);
        let router = |_| Inbox::new(usize::MAX, limits.max_router_bytes);
        Arc::new(Self {
            managers: workers.clone().map(manager).collect(),
            routers: workers.map(router).collect(),
            storage: Inbox::new(usize::MAX, settings.storage.max_pending_bytes),
            log: Inbox::new(settings.log.max_pending_messages, settings.log.max_pending_bytes),
            dead_letters: Inbox::new(usize::MAX, usize::MAX),
            dead_letters_changed: watch::Sender::new(()),
            peers: Inbox::new(usize::MAX, max_link_bytes),
        })
    }
}
