//! [`ZookeeperMembership`]: the port, and the thread that keeps the session.

use std::sync::Arc;
use std::time::Duration;

use hydrant_actors::ports::{Membership, MembershipFuture};
use hydrant_protocol::cluster::{Load, Member, MembershipView};
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::follow::Follower;
use super::options::ZookeeperOptions;
use super::shared::{FollowerState, Said};

/// How long leaving may take; then the session's time-out does it.
const LEAVE: Duration = Duration::from_secs(2);

/// See the module.
pub struct ZookeeperMembership {
    options: ZookeeperOptions,
    cluster: Arc<str>,
    shared: Arc<FollowerState>,
    task: Mutex<Option<JoinHandle<Result<(), String>>>>,
    /// Carries the session; `None` once dropped.
    runtime: Option<Runtime>,
}

impl ZookeeperMembership {
    /// Starts the thread; nothing is connected to before [`Membership::join`]. `cluster`:
    /// `cluster.id`.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn new(options: ZookeeperOptions, cluster: &str) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("zookeeper")
            .enable_all()
            .build()
            .map_err(|error| format!("no thread can be started: {error}"))?;
        let shared = Arc::new(FollowerState {
            view: watch::Sender::new(MembershipView::default()),
            load: watch::Sender::new(None),
            present: watch::Sender::new(true),
            leave: watch::Sender::new(false),
            away: Mutex::new(None),
            said: Said::default(),
        });
        let (cluster, task) = (cluster.into(), Mutex::new(None));
        Ok(Self { options, cluster, shared, task, runtime: Some(runtime) })
    }
}

impl Membership for ZookeeperMembership {
    fn join(&self, me: Member) -> MembershipFuture<watch::Receiver<MembershipView>> {
        let mut task = self.task.lock();
        let (Some(runtime), None) = (&self.runtime, &*task) else {
            return Box::pin(async { Err("this node has joined its cluster already".to_owned()) });
        };
        let (answer, answered) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        let follower = Follower::new(self.options.clone(), Arc::clone(&self.cluster), me, shared);
        *task = Some(runtime.spawn(follower.run(answer)));
        let view = self.shared.view.subscribe();
        Box::pin(async move {
            match answered.await {
                Ok(joined) => joined.map(|()| view),
                Err(_) => Err("joining the cluster ended early".to_owned()),
            }
        })
    }

    fn update(&self, load: Load, draining: bool) {
        self.shared.load.send_replace(Some((load, draining)));
    }

    fn present(&self, present: bool) {
        self.shared.present.send_if_modified(|is| std::mem::replace(is, present) != present);
    }

    fn leave(&self) -> MembershipFuture<()> {
        self.shared.leave.send_replace(true);
        let task = self.task.lock().take();
        // A timer of the runtime of whoever waits would tie this port to it.
        let Some((runtime, task)) = self.runtime.as_ref().zip(task) else {
            return Box::pin(async { Ok(()) });
        };
        let left = runtime.spawn(async move { tokio::time::timeout(LEAVE, task).await });
        Box::pin(async move {
            match left.await {
                Ok(Ok(Ok(left))) => left,
                Ok(Err(_)) => Err(
                    "ZooKeeper does not answer: this node's entry goes when its session times out"
                        .to_owned(),
                ),
                Ok(Ok(Err(error))) | Err(error) => Err(error.to_string()),
            }
        })
    }

    fn describe(&self) -> String {
        let members = self.shared.view.borrow().members.len();
        let noun = if members == 1 { "member" } else { "members" };
        let options = &self.options;
        match *self.shared.away.lock() {
            _ if members == 0 => format!("zookeeper {options}, not joined"),
            None => format!("zookeeper {options}, {members} {noun}"),
            Some(since) => format!(
                "zookeeper {options} away for {} s; {members} {noun} known",
                since.elapsed().as_secs()
            ),
        }
    }
}

impl Drop for ZookeeperMembership {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
