//! The admin endpoints over real sockets, with a node that is only figures.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod agent;
mod dead;
mod http;
mod socket;
mod tail;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hydrant_actors::metrics::Metrics;
use tokio::sync::watch;

use super::*;

/// What the fake node answers; change it through its mutexes.
#[derive(Default)]
struct Fake {
    metrics: Option<Arc<Metrics>>,
    not_ready: Mutex<Vec<String>>,
    not_healthy: Mutex<Vec<String>>,
    unwilling: Mutex<bool>,
    faults: Mutex<Option<Vec<(FaultAction, String)>>>,
    nodes: Mutex<Option<Nodes>>,
    log: Option<Arc<FakeLog>>,
    drain: Mutex<DrainState>,
    spare: Mutex<u64>,
}

impl Fake {
    fn new() -> Self {
        Self { metrics: Some(Metrics::new(2)), ..Self::default() }
    }

    fn bad_requests(&self) -> u64 {
        self.metrics().admin_bad_requests.get()
    }
}

fn verdict(reasons: &Mutex<Vec<String>>) -> Result<(), Vec<String>> {
    let reasons = reasons.lock().unwrap().clone();
    if reasons.is_empty() { Ok(()) } else { Err(reasons) }
}

impl NodeView for Fake {
    fn identity(&self) -> Identity {
        Identity {
            node_id: "n1".to_owned(),
            listeners: vec!["tcp/127.0.0.1:1883".to_owned()],
            log_kind: "kafka".to_owned(),
            log: "kafka 127.0.0.1:9092 up".to_owned(),
        }
    }
    fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone().unwrap()
    }
    fn actors(&self) -> Vec<ActorRow> {
        let row = |indent, path: &str, restarts| ActorRow {
            path: path.to_owned(),
            indent,
            state: "running".to_owned(),
            mailbox: 3,
            restarts,
            handled: 1_234,
            longest_us: 1_500,
            detail: String::new(),
            last_exit: (restarts > 0).then(|| "panicked: boom".to_owned()),
        };
        let mut rows = vec![
            row(0, "n1", 0),
            row(1, "supervisor", 0),
            row(2, "supervisor/connection-manager/0", 0),
            row(2, "supervisor/topic-router/0", 0),
            row(1, "storage", 2),
        ];
        rows[2].detail = "7 connections".to_owned();
        rows
    }
    fn connections(&self, page: usize, page_size: usize) -> ViewFuture<Vec<ConnectionRow>> {
        let all = 0..250_usize;
        let rows = all.skip(page * page_size).take(page_size);
        let rows = rows.map(|i| ConnectionRow {
            client_id: format!("c{i}"),
            manager: i % 2,
            ..Default::default()
        });
        let rows = rows.collect();
        Box::pin(async move { rows })
    }
    fn ready(&self) -> Result<(), Vec<String>> {
        verdict(&self.not_ready)
    }
    fn takes_clients(&self) -> bool {
        !*self.unwilling.lock().unwrap()
    }
    fn healthy(&self) -> Result<(), Vec<String>> {
        verdict(&self.not_healthy)
    }
    fn draining(&self) -> bool {
        self.drain.lock().unwrap().draining
    }
    fn spare_percent(&self) -> u64 {
        *self.spare.lock().unwrap()
    }
    fn drain(&self, action: DrainAction) -> ViewFuture<DrainState> {
        let mut state = self.drain.lock().unwrap();
        match action {
            DrainAction::Start(rate) => {
                let rate = rate.unwrap_or(7);
                *state = DrainState { draining: true, left: 2, rate, deadline_s: 0 };
            }
            DrainAction::Cancel => state.draining = false,
            DrainAction::Look => state.left = state.left.saturating_sub(1),
        }
        let state = *state;
        Box::pin(async move { state })
    }
    fn dead(&self, request: DeadRequest) -> ViewFuture<Result<Vec<Reply>, String>> {
        let answer = match request {
            DeadRequest::List { after: None, count } => {
                let row =
                    |n: usize| DeadRow { id: format!("{n:x}-{n:016x}"), ..DeadRow::default() };
                Ok((0..count.min(3)).map(row).map(Reply::DeadLetter).collect())
            }
            DeadRequest::List { .. } => Err("the store is away".to_owned()),
            DeadRequest::Replay { ids } | DeadRequest::Drop { ids } => {
                let (ids, gone) = (ids.clone().unwrap_or_default(), ids.map_or(7, |ids| ids.len()));
                Ok(vec![Reply::DeadDone(DeadDone {
                    gone: gone as u64 - 1,
                    unknown: ids.into_iter().take(1).collect(),
                    ..DeadDone::default()
                })])
            }
        };
        Box::pin(async move { answer })
    }
    fn fault(&self, action: FaultAction, path: &str) -> Result<(), String> {
        let mut faults = self.faults.lock().unwrap();
        faults.as_mut().ok_or(FAULTS_OFF)?.push((action, path.to_owned()));
        Ok(())
    }
    fn nodes(&self) -> Result<Nodes, String> {
        self.nodes.lock().unwrap().clone().ok_or_else(|| NO_CLUSTER.to_owned())
    }
    fn tail(&self) -> Option<Arc<dyn TailSource>> {
        self.log.clone().map(|log| log as Arc<dyn TailSource>)
    }
}

/// A log in memory, with retention by [`FakeLog::trim`].
struct FakeLog {
    records: Mutex<HashMap<String, Vec<TailRow>>>,
    first: AtomicU64,
    groups: Mutex<HashMap<(String, String), u64>>,
    changed: watch::Sender<u64>,
}

impl FakeLog {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            records: Mutex::default(),
            first: AtomicU64::new(0),
            groups: Mutex::default(),
            changed: watch::Sender::new(0),
        })
    }
    fn append(&self, topic: &str, payload: &[u8]) {
        let mut records = self.records.lock().unwrap();
        let records = records.entry(topic.to_owned()).or_default();
        records.push(TailRow {
            offset: records.len() as u64,
            timestamp_ms: 1_700_000_000_123,
            key: Some(b"42".to_vec()),
            mqtt_topic: "device/42/thermo".to_owned(),
            qos: 1,
            retain: false,
            client_id: "dev".to_owned(),
            payload: payload.to_vec(),
        });
        self.changed.send_modify(|n| *n += 1);
    }
    fn trim(&self, first: u64) {
        self.first.store(first, Ordering::Relaxed);
    }
}

impl TailSource for FakeLog {
    fn read(&self, topic: &str, from: u64, limit: usize) -> Result<Vec<TailRow>, String> {
        let from = from.max(self.first(topic)) as usize;
        let records = self.records.lock().unwrap();
        Ok(records
            .get(topic)
            .map(|all| all.iter().skip(from).take(limit).cloned().collect())
            .unwrap_or_default())
    }
    fn first(&self, _topic: &str) -> u64 {
        self.first.load(Ordering::Relaxed)
    }
    fn end(&self, topic: &str) -> u64 {
        self.records.lock().unwrap().get(topic).map_or(0, |all| all.len() as u64)
    }
    fn committed(&self, group: &str, topic: &str) -> Option<u64> {
        self.groups.lock().unwrap().get(&(group.to_owned(), topic.to_owned())).copied()
    }
    fn commit(&self, group: &str, topic: &str, offset: u64) -> Result<(), String> {
        self.groups.lock().unwrap().insert((group.to_owned(), topic.to_owned()), offset);
        Ok(())
    }
    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
    fn topics(&self) -> Vec<String> {
        self.records.lock().unwrap().keys().cloned().collect()
    }
}

/// A running server, its node and its data directory.
struct Running {
    server: AdminServer,
    node: Arc<Fake>,
    dir: tempfile::TempDir,
}

impl Running {
    fn start(node: Fake, limits: AdminLimits) -> Self {
        let (node, dir) = (Arc::new(node), tempfile::tempdir().unwrap());
        let server = serve(options(dir.path(), limits), node.clone()).unwrap();
        Self { server, node, dir }
    }
    fn http(&self) -> SocketAddr {
        self.server.bound_address().unwrap()
    }
    fn dir(&self) -> &Path {
        self.dir.path()
    }
}

fn serve(options: AdminOptions, node: Arc<Fake>) -> std::io::Result<AdminServer> {
    AdminServer::start(AdminPorts::bind(options)?, node)
}

fn options(dir: &Path, limits: AdminLimits) -> AdminOptions {
    let any = Some(([127, 0, 0, 1], 0).into());
    AdminOptions { http: any, agent: any, socket: socket_path(dir), limits }
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
