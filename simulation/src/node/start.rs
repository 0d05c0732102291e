//! A start of a node: what it finds in the store, and the machines that it makes of that.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use hydrant_actors::mailboxes::Mailboxes;
use hydrant_engine::cluster::coordinator::Coordinator;
use hydrant_engine::cluster::{Beginning, Cluster, EARLIER_STARTS};
use hydrant_engine::log::{Gate, LogQueue};
use hydrant_engine::messages::PeerWork;
use hydrant_engine::node_tables::{Found, NodeTables};
use hydrant_engine::now::{Boot, Now, Wall};
use hydrant_engine::ports::{LaneState, StoredBatch, StoredSession, StoredWill};
use hydrant_engine::settings::Settings;
use hydrant_engine::storage::WriteQueue;
use hydrant_engine::worker::Worker;
use hydrant_protocol::Message;
use hydrant_protocol::topic::Retained;
use parking_lot::Mutex;

use super::Node;
use super::reach::Reach;
use crate::memory::{Handle, Store};
use crate::settings::of_cluster;

/// What a start is given.
pub struct Setup {
    /// Which node.
    pub index: usize,
    pub settings: Settings,
    /// There are other nodes.
    pub clustered: bool,
    /// The start, as the store has it.
    pub beginning: Beginning,
    /// Its sessions.
    pub sessions: Vec<StoredSession>,
    /// Wills whose connections the node did not see end.
    pub wills: Vec<StoredWill>,
    /// Retained messages; of a node in a cluster none, it asks for them.
    pub retained: Vec<(Arc<Message>, u64)>,
    /// The lanes of its outbox.
    pub lanes: Vec<LaneState>,
    /// Both clocks.
    pub now: (u64, u64),
    /// The end of its lease by the first of them.
    pub lease: u64,
    /// Somebody reads what its machines are told.
    pub traced: bool,
}

impl Node {
    /// Starts.
    pub fn new(store: &Arc<Mutex<Store>>, setup: Setup) -> Self {
        let Setup {
            index,
            settings,
            clustered,
            beginning,
            sessions,
            wills,
            retained,
            lanes,
            now,
            lease,
            traced,
        } = setup;
        let incarnation = beginning.incarnation;
        let handle = Arc::new(Handle::new(store));
        handle.set_now(now.0);
        handle.set_lease(lease);
        let now = Now { boot: Boot(now.0), wall: Wall(now.1) };
        let settings = Arc::new(settings);
        let cluster = clustered.then(|| {
            let settings_of = of_cluster(&settings.node_id);
            Cluster::new(&settings.node_id, beginning.clone(), &handle, settings_of)
        });
        let mut kept = Retained::new();
        let retained_clock = retained.iter().map(|(_, version)| *version).max().unwrap_or(0);
        retained.into_iter().for_each(|(message, _)| drop(kept.insert(message)));
        let dead_letters = Vec::new();
        let found = Found { sessions, wills, retained: kept, retained_clock, lanes, dead_letters };
        let tables = NodeTables::new(&settings, &found, cluster.clone(), Gate::default(), now);
        let mailboxes = Mailboxes::new(&settings, 1 << 24);
        let coordinator = cluster.as_ref().map(|cluster| Coordinator::new(cluster, &tables, now));
        let mut node = Self {
            index,
            incarnation,
            write_queue: WriteQueue::new(&settings.storage),
            log_queue: LogQueue::new(&settings.log, settings.workers),
            tables,
            mailboxes,
            cluster,
            workers: Vec::new(),
            ticks: 0,
            coordinator,
            handle,
            now,
            sockets: BTreeMap::new(),
            peers: BTreeMap::new(),
            taking_over: Vec::new(),
            effects: Vec::new(),
            has_room: BTreeSet::new(),
            stop: None,
            unread: Rc::default(),
            told: traced.then(Vec::new),
            reports: Vec::new(),
        };
        node.restore(found, beginning);
        node
    }

    /// Makes the workers and gives each the sessions and wills whose home it is, as `ActorSystem::restore` does.
    fn restore(&mut self, found: Found, beginning: Beginning) {
        let tables = Arc::clone(&self.tables);
        let held: Vec<Arc<str>> =
            found.sessions.iter().map(|session| Arc::clone(&session.client_id)).collect();
        let mut sessions = tables.by_home(found.sessions, |session| &session.client_id);
        let mut wills = tables.by_home(found.wills, |will| &will.client_id);
        let mut prepared = std::collections::HashMap::new();
        let batches: Vec<StoredBatch> = beginning.batches;
        if self.cluster.is_some() {
            self.mailboxes.peers.push(PeerWork::Holds(held), 1024);
            prepared = tables.by_home(beginning.prepared, |publish| &publish.publisher);
        }
        for index in 0..tables.workers() as u16 {
            let reach = Reach::new(index, &self.mailboxes, &self.unread);
            let worker = Worker::new(index, Arc::clone(&tables), Box::new(reach), self.now);
            for session in &sessions.remove(&index).unwrap_or_default() {
                worker.restore_session(session, EARLIER_STARTS);
            }
            worker.await_own_markers();
            if let Some(cluster) = &self.cluster
                && let Some(predecessor) = cluster.predecessor()
            {
                worker.begin_dedup(predecessor, &batches);
            }
            worker.hold_prepared(&prepared.remove(&index).unwrap_or_default());
            for will in wills.remove(&index).unwrap_or_default() {
                match self.cluster.is_some() {
                    true => worker.hold_will(will),
                    false => worker.restore_will(&will),
                }
            }
            self.workers.push(Rc::clone(&worker));
        }
    }
}
