//! The node as the admin endpoints see it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hydrant_actors::clock;
use hydrant_actors::cluster::LostNode;
use hydrant_actors::mailboxes::Mailboxes;
use hydrant_actors::metrics::Metrics;
use hydrant_actors::node_tables::NodeTables;
use hydrant_actors::ports::{MessageLog, SessionStore};
use hydrant_actors::settings::LogKind;
use hydrant_actors::supervision::{ActorState, Fault, Registry};
use hydrant_actors::system::ActorSystem;
use hydrant_protocol::cluster;
use tokio::sync::watch;

use super::dead;
use crate::admin::{
    ActorRow, ConnectionRow, DeadRequest, DrainAction, DrainState, FAULTS_OFF, FaultAction,
    Identity, NO_CLUSTER, NodeView, Nodes, Reply, TailRow, TailSource, ViewFuture,
};
use crate::embedded::EmbeddedLog;

/// Bytes of one page of `broker tail`.
const TAIL_BYTES: usize = 1024 * 1024;

/// See the module.
pub struct NodeStatus {
    pub shared: Arc<NodeTables>,
    pub mailboxes: Arc<Mailboxes>,
    pub registry: Arc<Registry>,
    pub tail: Option<Arc<dyn TailSource>>,
    pub store: Arc<dyn SessionStore>,
    /// The log, to be described.
    pub log: Arc<dyn MessageLog>,
    /// The listener for clients, as the tree calls it.
    pub listener: String,
    /// The members of the cluster; `None` for a single node.
    pub members: Option<watch::Receiver<cluster::MembershipView>>,
}

impl NodeView for NodeStatus {
    fn identity(&self) -> Identity {
        let kind = match self.shared.settings.log.kind {
            LogKind::Kafka => "kafka",
            LogKind::Embedded => "embedded",
            LogKind::None => "none",
        };
        Identity {
            node_id: self.registry.node().to_string(),
            listeners: vec![self.listener.clone()],
            log_kind: kind.to_owned(),
            log: self.log.describe(),
        }
    }

    fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.shared.metrics)
    }

    fn actors(&self) -> Vec<ActorRow> {
        let rows = self.registry.snapshot().into_iter().map(|row| ActorRow {
            path: row.path.to_string(),
            indent: row.depth_in_tree,
            state: row.state.label().to_owned(),
            mailbox: row.mailbox as u64,
            restarts: row.restarts,
            handled: row.handled,
            longest_us: row.longest_us,
            detail: row.detail,
            last_exit: (!row.last_exit.is_empty()).then_some(row.last_exit),
        });
        let node = ActorRow {
            path: format!("node {}", self.registry.node()),
            state: ActorState::Running.label().to_owned(),
            ..ActorRow::default()
        };
        std::iter::once(node).chain(rows).collect()
    }

    fn connections(&self, page: usize, page_size: usize) -> ViewFuture<Vec<ConnectionRow>> {
        let (shared, mailboxes) = (Arc::clone(&self.shared), Arc::clone(&self.mailboxes));
        Box::pin(async move {
            let skip = page.saturating_mul(page_size);
            let rows = ActorSystem::connections(&shared, &mailboxes, skip, page_size).await;
            rows.into_iter()
                .map(|row| ConnectionRow {
                    client_id: row.client_id,
                    manager: row.manager,
                    address: row.address,
                    clean: row.clean,
                    connected_ms: row.connected_ms,
                    inflight: row.inflight as u64,
                    queued: row.queued as u64,
                    output_bytes: row.output_bytes as u64,
                })
                .collect()
        })
    }

    fn ready(&self) -> Result<(), Vec<String>> {
        let mut why = self.unwilling();
        why.extend(self.down(|state| state != ActorState::Running));
        if why.is_empty() { Ok(()) } else { Err(why) }
    }

    fn takes_clients(&self) -> bool {
        self.unwilling().is_empty() && self.healthy().is_ok()
    }

    fn healthy(&self) -> Result<(), Vec<String>> {
        let why = self.down(|state| state == ActorState::Failed);
        if why.is_empty() { Ok(()) } else { Err(why) }
    }

    fn draining(&self) -> bool {
        self.shared.draining.load(Ordering::Relaxed)
    }

    fn spare_percent(&self) -> u64 {
        let max = self.shared.settings.limits.max_connections.max(1) as u64;
        let open = self.shared.connections.load(Ordering::Relaxed) as u64;
        100 * max.saturating_sub(open) / max
    }

    fn drain(&self, action: DrainAction) -> ViewFuture<DrainState> {
        let (shared, mailboxes) = (Arc::clone(&self.shared), Arc::clone(&self.mailboxes));
        Box::pin(async move {
            match action {
                DrainAction::Start(rate) => {
                    shared.start_drain(hydrant_actors::clock::now().boot, rate)
                }
                DrainAction::Cancel => shared.cancel_drain(),
                DrainAction::Look => {}
            }
            DrainState {
                draining: shared.draining.load(Ordering::SeqCst),
                left: mailboxes.connected().await,
                rate: shared.drain_rate.load(Ordering::Relaxed),
                deadline_s: shared.settings.shutdown_deadline.as_secs(),
            }
        })
    }

    fn dead(&self, request: DeadRequest) -> ViewFuture<Result<Vec<Reply>, String>> {
        let (shared, mailboxes) = (Arc::clone(&self.shared), Arc::clone(&self.mailboxes));
        Box::pin(dead::answer(shared, mailboxes, Arc::clone(&self.store), request))
    }

    fn fault(&self, action: FaultAction, path: &str) -> Result<(), String> {
        if !self.shared.settings.faults {
            return Err(FAULTS_OFF.to_owned());
        }
        let fault = match action {
            FaultAction::Panic => Fault::Panic,
            FaultAction::Stall => Fault::Stall,
            FaultAction::Fail => Fault::Fail,
        };
        ActorSystem::fault(&self.shared, &self.mailboxes, &self.registry, path, fault)
    }

    fn nodes(&self) -> Result<Nodes, String> {
        match &self.members {
            Some(members) => {
                let mut nodes = Nodes::from(&*members.borrow());
                nodes.add_lost(self.lost());
                Ok(nodes)
            }
            None => Err(NO_CLUSTER.to_owned()),
        }
    }

    fn tail(&self) -> Option<Arc<dyn TailSource>> {
        self.tail.clone()
    }
}

impl NodeStatus {
    fn lost(&self) -> Vec<LostNode> {
        let cluster = self.shared.cluster.as_ref();
        let rows = cluster.map(|cluster| {
            cluster.status.lost_nodes.rows(clock::now().boot, cluster.settings.take_over)
        });
        rows.unwrap_or_default()
    }

    /// Why the node wants no clients, but for its actors.
    fn unwilling(&self) -> Vec<String> {
        let not_ready = self.shared.not_ready.lock();
        let mut why: Vec<String> =
            not_ready.iter().map(|(part, why)| format!("{part}: {why}")).collect();
        drop(not_ready);
        if self.shared.lanes.lock().is_full() {
            why.push(
                "outbox: full, stored publishes are not acknowledged until Kafka takes records"
                    .to_owned(),
            );
        }
        why
    }

    fn down(&self, is_down: impl Fn(ActorState) -> bool) -> Vec<String> {
        let cells = self.registry.cells();
        let down = cells.iter().filter(|cell| is_down(cell.state()));
        down.map(|cell| format!("actor {} is {}", cell.path(), cell.state().label())).collect()
    }
}

/// The embedded log for `broker tail`.
pub struct LogTail(pub Arc<EmbeddedLog>);

impl TailSource for LogTail {
    fn read(&self, topic: &str, from: u64, limit: usize) -> Result<Vec<TailRow>, String> {
        let records =
            self.0.read(topic, from, limit, TAIL_BYTES).map_err(|error| error.to_string())?;
        Ok(records
            .into_iter()
            .map(|(offset, record)| TailRow {
                offset,
                timestamp_ms: i64::try_from(record.received_ms).unwrap_or(i64::MAX),
                key: record.key.as_ref().map(|key| key.to_vec()),
                mqtt_topic: record.mqtt_topic.to_string(),
                qos: record.qos as u8,
                retain: record.retain,
                client_id: record.client_id.to_string(),
                payload: record.payload.to_vec(),
            })
            .collect())
    }

    fn first(&self, topic: &str) -> u64 {
        self.0.first_offset(topic).ok().flatten().unwrap_or(0)
    }

    fn end(&self, topic: &str) -> u64 {
        self.0.end_offset(topic).ok().flatten().unwrap_or(0)
    }

    fn committed(&self, group: &str, topic: &str) -> Option<u64> {
        self.0.committed(group, topic).ok().flatten()
    }

    fn commit(&self, group: &str, topic: &str, offset: u64) -> Result<(), String> {
        self.0.commit(group, topic, offset).map_err(|error| error.to_string())
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }

    fn topics(&self) -> Vec<String> {
        let topics = self.0.topics().unwrap_or_default();
        topics.into_iter().map(|info| info.name.to_string()).collect()
    }
}
