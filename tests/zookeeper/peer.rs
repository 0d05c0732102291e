//! What the tests of this tier share: a member by way of the adapter, a raw client beside it, and
//! the log lines of this process.

use std::future::Future;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use hydrant::zookeeper::{ZookeeperMembership, ZookeeperOptions};
use hydrant_actors::ports::Membership as _;
use hydrant_protocol::cluster::{Load, Member, MembershipView};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use zookeeper_client::{Acls, Client, CreateMode};

use crate::support::zookeeper::Zookeeper;
use crate::support::{SOON, eventually, unique};

/// The cluster of all tests here; each test has a chroot of its own.
pub const CLUSTER: &str = "test";

/// Where a test keeps its cluster.
#[derive(Clone)]
pub struct Place {
    pub options: ZookeeperOptions,
}

impl Place {
    /// A new chroot on this ZooKeeper. Sessions time out after `seconds` (1 to 10).
    pub fn new(zookeeper: &Zookeeper, seconds: u64) -> Self {
        let options = ZookeeperOptions {
            servers: vec![zookeeper.address()],
            chroot: format!("/tests/{}", unique("place")),
            session_timeout: Duration::from_secs(seconds),
            connect_timeout: SOON,
            credentials: None,
            tls: None,
        };
        Self { options }
    }

    /// The full path of an entry.
    pub fn entry(&self, name: &str) -> String {
        format!("{}/members/{name}", self.options.chroot)
    }

    /// Joins; the test fails when it cannot.
    #[track_caller]
    pub fn join(&self, node_id: &str, incarnation: u64) -> Peer {
        self.try_join(CLUSTER, member(node_id, incarnation)).expect("it joins")
    }

    /// Joins, or says why not.
    pub fn try_join(&self, cluster: &str, me: Member) -> Result<Peer, String> {
        capture();
        let membership = ZookeeperMembership::new(self.options.clone(), cluster)?;
        let view = runtime().block_on(membership.join(me))?;
        Ok(Peer { membership, view })
    }

    /// A session of ZooKeeper's own client; dropped, it does not end but times out.
    pub fn raw(&self, seconds: u64) -> Client {
        runtime().block_on(async {
            let connector = Client::connector().with_detached();
            let timeout = Duration::from_secs(seconds);
            connector
                .with_session_timeout(timeout)
                .connect(&self.options.servers.join(","))
                .await
                .expect("a session")
        })
    }

    /// Writes an entry under a session.
    pub fn put(&self, client: &Client, name: &str, data: &str) {
        runtime().block_on(async {
            let members = format!("{}/members", self.options.chroot);
            let persistent = CreateMode::Persistent.with_acls(Acls::anyone_all());
            client.mkdir(&members, &persistent).await.expect("the parents");
            let ephemeral = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
            client.create(&self.entry(name), data.as_bytes(), &ephemeral).await.expect("an entry");
        });
    }
}

/// One member, by way of the adapter.
pub struct Peer {
    pub membership: ZookeeperMembership,
    pub view: watch::Receiver<MembershipView>,
}

impl Peer {
    /// The members it sees, as "n1/7 n2/9".
    pub fn sees(&self) -> String {
        shown(&self.view.borrow())
    }

    /// Waits until it sees these, and takes them for current.
    #[track_caller]
    pub fn await_members(&self, expected: &str) {
        eventually(SOON, &format!("the members are {expected}"), || {
            self.sees() == expected && self.current()
        });
    }

    pub fn current(&self) -> bool {
        self.view.borrow().current
    }

    pub fn leave(&self) -> Result<(), String> {
        runtime().block_on(self.membership.leave())
    }

    /// Every view from now on until `done`.
    pub fn record(&self) -> Recorder {
        let mut view = self.view.clone();
        let (stop, mut stopped) = watch::channel(false);
        let task = runtime().spawn(async move {
            let mut views = vec![view.borrow_and_update().clone()];
            loop {
                tokio::select! {
                    biased;
                    changed = view.changed() => {
                        if changed.is_err() {
                            return views;
                        }
                        views.push(view.borrow_and_update().clone());
                    }
                    _ = stopped.changed() => return views,
                }
            }
        });
        Recorder { stop, task }
    }
}

/// See [`Peer::record`].
pub struct Recorder {
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<Vec<MembershipView>>,
}

impl Recorder {
    pub fn done(self) -> Vec<MembershipView> {
        self.stop.send_replace(true);
        runtime().block_on(self.task).expect("the views")
    }
}

/// "n1/7 n2/9".
pub fn shown(view: &MembershipView) -> String {
    let members = view.members.iter().map(|m| format!("{}/{}", m.node_id, m.incarnation));
    members.collect::<Vec<_>>().join(" ")
}

pub fn member(node_id: &str, incarnation: u64) -> Member {
    Member {
        node_id: node_id.into(),
        incarnation,
        peer: format!("{node_id}.example:7883"),
        mqtt: vec![format!("{node_id}.example:1883")],
        version: "0.1.0".to_owned(),
        protocol: (1, 1),
        load: Load { connections: 0, max_connections: 100 },
        draining: false,
    }
}

/// The JSON of a member's entry.
pub fn json(cluster: &str, node_id: &str, incarnation: u64, peer: &str) -> String {
    format!(
        "{{\"format\":1,\"cluster\":\"{cluster}\",\"node\":\"{node_id}\",\"incarnation\":{incarnation},\
         \"peer\":\"{peer}\",\"mqtt\":[\"m:1\"],\"version\":\"0\",\"protocol\":[1,1],\
         \"connections\":0,\"max_connections\":0,\"draining\":false}}"
    )
}

pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime")
    })
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    runtime().block_on(future)
}

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Capture;

impl log::Log for Capture {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target() == "hydrant::discovery"
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = format!("{} {}", record.level(), record.args());
            eprintln!("{line}");
            LINES.lock().expect("the lines").push(line);
        }
    }

    fn flush(&self) {}
}

fn capture() {
    // Err: it is set already.
    if log::set_logger(&Capture).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
}

/// How many lines of all tests so far contain this.
pub fn logged(text: &str) -> usize {
    LINES.lock().expect("the lines").iter().filter(|line| line.contains(text)).count()
}
