//! One session after the other: registers this node, follows the others, tells what it sees.
//!
//! One recursive watch stands on the entries. It loses what happens while the connection is down
//! (ZOOKEEPER-4698), so it is set and everything is read again after each reconnection; otherwise
//! only what changed is read. Nothing waits for ZooKeeper without looking at the connection's state and at `leave`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use hydrant_protocol::cluster::{Load, Member};
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, sleep_until, timeout};
use zookeeper_client::{
    AddWatchMode, Client, Error, EventType, PersistentWatcher, SessionState, StateWatcher,
    TlsOptions,
};

use super::client::{connect, sentence, tls, waits};
use super::dirty::Dirty;
use super::options::ZookeeperOptions;
use super::register::{Paths, Refused, foreign, prepare, register, withdraw};
use super::roster::{Change, Roster};
use super::shared::FollowerState;
use super::{TARGET, entry};
use hydrant_actors::say;

/// Between two writes of what [`Membership::update`](hydrant_actors::ports::Membership::update) says.
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// How often a node id that is taken is tried again.
const TAKEN_EVERY: Duration = Duration::from_millis(250);
/// How long the end of the session may take.
const CLOSE: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Follower {
    options: ZookeeperOptions,
    pub(super) cluster: Arc<str>,
    pub(super) paths: Paths,
    tls: Option<TlsOptions>,
    pub(super) roster: Roster,
    pub(super) shared: Arc<FollowerState>,
    /// What stands in ZooKeeper, by name; `None` is none of this cluster's.
    pub(super) entries: BTreeMap<String, Option<Member>>,
    pub(super) cversion: i32,
    /// Why an entry is ignored, said once.
    pub(super) ignored: BTreeMap<String, String>,
    /// Of our own entry.
    version: i32,
    /// It was said that our node id is taken.
    told: bool,
    joined: bool,
}

/// How a session ended.
enum End {
    /// ZooKeeper or the client gave it up.
    Expired,
    /// This node leaves.
    Left,
}

/// What a session looks at besides ZooKeeper.
struct Signals {
    state: StateWatcher,
    leave: watch::Receiver<bool>,
    load: watch::Receiver<Option<(Load, bool)>>,
    present: watch::Receiver<bool>,
}

impl Follower {
    pub(super) fn new(
        options: ZookeeperOptions,
        cluster: Arc<str>,
        me: Member,
        shared: Arc<FollowerState>,
    ) -> Self {
        let paths = Paths::new(&options.chroot, &me.node_id);
        Self {
            options,
            cluster,
            paths,
            tls: None,
            roster: Roster::new(me),
            shared,
            entries: BTreeMap::new(),
            cversion: 0,
            ignored: BTreeMap::new(),
            version: 0,
            told: false,
            joined: false,
        }
    }

    /// Until this node leaves. `answer`: it is registered and has its first view, or why not.
    pub(super) async fn run(
        mut self,
        answer: oneshot::Sender<Result<(), String>>,
    ) -> Result<(), String> {
        // However this ends, nobody takes the members for current after it.
        let _over = Over(Arc::clone(&self.shared));
        let mut leave = self.shared.leave.subscribe();
        let joined = tokio::select! {
            joined = self.join() => joined,
            () = leaving(&mut leave) => Err("this node leaves".to_owned()),
        };
        let mut client = match joined {
            Ok(client) => client,
            Err(why) => {
                let _ = answer.send(Err(why));
                return Ok(());
            }
        };
        let mut answer = Some(answer);
        loop {
            if let End::Left = self.session(&client, &mut answer).await {
                return self.depart(client).await;
            }
            self.away("its session ended");
            client = tokio::select! {
                client = self.connect_again() => client,
                () = leaving(&mut leave) => return Err(away_sentence(&self.options)),
            };
        }
    }

    /// A session with our entry in it.
    async fn join(&mut self) -> Result<Client, String> {
        self.tls = self.options.tls.as_ref().map(tls).transpose()?;
        let deadline = tokio::time::Instant::now() + self.options.connect_timeout;
        let mut last = Error::Timeout;
        let mut waits = waits();
        let client = loop {
            let attempt = connect(&self.options, self.tls.as_ref());
            match tokio::time::timeout_at(deadline, attempt).await {
                Ok(Ok(client)) => break client,
                Ok(Err(error @ (Error::AuthFailed | Error::BadArguments(_)))) => {
                    return Err(sentence(&self.options, &error));
                }
                Ok(Err(error)) => last = error,
                Err(_) => return Err(sentence(&self.options, &last)),
            }
            sleep(waits.next().unwrap_or(WRITE_EVERY)).await;
        };
        let found = foreign(&client, &self.paths, &self.cluster, self.roster.me().into()).await;
        found.map_err(|why| why.sentence(&self.options, &self.roster.me().node_id))?;
        let patience = client.session_timeout() + Duration::from_secs(1);
        let mut taken: Option<Instant> = None;
        loop {
            let refused = match self.register(&client).await {
                Ok(()) => return Ok(client),
                Err(refused) => refused,
            };
            let node_id = self.roster.me().node_id.clone();
            if !matches!(refused, Refused::Taken(_)) {
                return Err(refused.sentence(&self.options, &node_id));
            }
            let since = *taken.get_or_insert_with(|| {
                log::info!(target: TARGET, "node id {node_id} is still registered; waiting up to {} s for that session to end", patience.as_secs());
                Instant::now()
            });
            if since.elapsed() >= patience {
                return Err(refused.sentence(&self.options, &node_id));
            }
            sleep(TAKEN_EVERY).await;
        }
    }

    /// Puts our entry there, or takes it out where this node is no member for now.
    pub(super) async fn register(&mut self, client: &Client) -> Result<(), Refused> {
        let present = *self.shared.present.borrow();
        if !present {
            withdraw(client, &self.paths).await?;
            self.stands(false);
            return Ok(());
        }
        prepare(client, &self.options, &self.paths, &self.cluster).await?;
        let me = self.roster.me();
        self.version = register(client, &self.options, &self.paths, &self.cluster, me).await?;
        self.told = false;
        self.stands(true);
        Ok(())
    }

    fn stands(&mut self, present: bool) {
        if self.roster.stands(present) && self.joined {
            self.publish(true, Vec::new());
        }
    }

    async fn connect_again(&self) -> Client {
        let mut waits = waits();
        loop {
            match connect(&self.options, self.tls.as_ref()).await {
                Ok(client) => return client,
                Err(error) => log::debug!(target: TARGET, "{}", sentence(&self.options, &error)),
            }
            sleep(waits.next().unwrap_or(WRITE_EVERY)).await;
        }
    }

    /// Follows the members until the session ends.
    async fn session(
        &mut self,
        client: &Client,
        answer: &mut Option<oneshot::Sender<Result<(), String>>>,
    ) -> End {
        let mut signals = Signals {
            state: client.state_watcher(),
            leave: self.shared.leave.subscribe(),
            load: self.shared.load.subscribe(),
            present: self.shared.present.subscribe(),
        };
        let mut watcher = None;
        let mut waits = waits();
        loop {
            let state = signals.state.state();
            if state.is_terminated() {
                return End::Expired;
            }
            if state != SessionState::SyncConnected {
                self.away("connection lost");
                tokio::select! {
                    _ = signals.state.changed() => continue,
                    () = leaving(&mut signals.leave) => return End::Left,
                }
            }
            let Signals { state, leave, load, present } = &mut signals;
            present.mark_unchanged();
            let mut result = tokio::select! {
                synced = self.sync(client, &mut watcher, load) => synced,
                _ = state.changed() => continue,
                () = leaving(leave) => return End::Left,
            };
            if result.is_ok() {
                waits = self::waits();
                self.back();
                if let Some(answer) = answer.take() {
                    // Nobody waits any more: nobody would leave either.
                    if answer.send(Ok(())).is_err() {
                        return End::Left;
                    }
                }
                let Some(watcher) = &mut watcher else { continue };
                match self.follow(client, watcher, &mut signals).await {
                    Ok(Some(end)) => return end,
                    Ok(None) => continue,
                    Err(refused) => result = Err(refused),
                }
            }
            if let Err(refused) = result {
                self.refused(refused);
            }
            tokio::select! {
                () = sleep(waits.next().unwrap_or(WRITE_EVERY)) => {}
                _ = signals.state.changed() => {}
                () = leaving(&mut signals.leave) => return End::Left,
            }
        }
    }

    /// Registers this node and reads all there is.
    async fn sync(
        &mut self,
        client: &Client,
        watcher: &mut Option<PersistentWatcher>,
        load: &mut watch::Receiver<Option<(Load, bool)>>,
    ) -> Result<(), Refused> {
        self.take_load(load);
        self.register(client).await?;
        // Each time: zookeeper-client 0.11.2 does not set it again after a reconnection. The one
        // before goes after this one stands, so that the client does not take it off the server.
        let watched = client.watch(&self.paths.members, AddWatchMode::PersistentRecursive);
        *watcher = Some(watched.await?);
        // After a reconnection to a server that lags behind, it catches up first.
        client.sync(&self.paths.members).await?;
        self.roster.reconnected(Instant::now(), client.session_timeout());
        self.read(client, &Dirty { list: true, ..Dirty::default() }, true).await?;
        self.joined = true;
        Ok(())
    }

    /// Until the connection's state changes (`None`) or the session is over.
    async fn follow(
        &mut self,
        client: &Client,
        watcher: &mut PersistentWatcher,
        signals: &mut Signals,
    ) -> Result<Option<End>, Refused> {
        let mut dirty = Dirty::default();
        let (mut unwritten, mut written) = (false, Instant::now());
        loop {
            let grace = self.roster.deadline();
            let Signals { state, leave, load, present } = &mut *signals;
            tokio::select! {
                biased;
                () = leaving(leave) => return Ok(Some(End::Left)),
                _ = state.changed() => return Ok(None),
                event = watcher.changed() => {
                    let mut event = Some(event);
                    while let Some(now) = event.take() {
                        if now.event_type == EventType::Session && now.session_state.is_terminated() {
                            return Ok(Some(End::Expired));
                        }
                        dirty.note(&now, &self.paths);
                        event = watcher.changed().now_or_never();
                    }
                }
                _ = load.changed() => {
                    self.take_load(load);
                    unwritten = true;
                }
                _ = present.changed() => dirty.own = true,
                () = sleep_until((written + WRITE_EVERY).into()), if unwritten => {
                    let write = self.write(client);
                    tokio::select! {
                        done = write => dirty.own |= !done?,
                        _ = state.changed() => return Ok(None),
                        () = leaving(leave) => return Ok(Some(End::Left)),
                    }
                    (unwritten, written) = (false, Instant::now());
                }
                () = until(grace) => {
                    let changes = self.roster.tick(Instant::now());
                    self.publish(true, changes);
                }
            }
            let Signals { state, leave, .. } = &mut *signals;
            tokio::select! {
                done = self.read(client, &dirty, false) => done?,
                _ = state.changed() => return Ok(None),
                () = leaving(leave) => return Ok(Some(End::Left)),
            }
            dirty = Dirty::default();
        }
    }

    fn take_load(&mut self, load: &mut watch::Receiver<Option<(Load, bool)>>) {
        let told = *load.borrow_and_update();
        if let Some((load, draining)) = told {
            let me = self.roster.me_mut();
            (me.load, me.draining) = (load, draining);
            if self.joined {
                let current = self.shared.away.lock().is_none();
                self.publish(current, Vec::new());
            }
        }
    }

    /// Shows the others what was told last. False: our entry is not what we left there.
    async fn write(&mut self, client: &Client) -> Result<bool, Refused> {
        if !*self.shared.present.borrow() {
            return Ok(true);
        }
        let data = entry::encode(&self.cluster, self.roster.me()).map_err(Refused::Never)?;
        match client.set_data(&self.paths.own, &data, Some(self.version)).await {
            Ok(stat) => {
                self.version = stat.version;
                Ok(true)
            }
            Err(Error::BadVersion | Error::NoNode) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn publish(&self, current: bool, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Joined(member) => say::info!(
                    by: self.shared.said.joined.of(&format!("{}/{}", member.node_id, member.incarnation)),
                    target: TARGET,
                    "member {} joined (incarnation {}, peer {})",
                    member.node_id, member.incarnation, member.peer
                ),
                Change::Left(node_id) => {
                    say::info!(by: self.shared.said.left.of(&node_id), target: TARGET, "member {node_id} left")
                }
            }
        }
        let view = self.roster.view(current);
        self.shared.view.send_if_modified(|shown| {
            let differs = *shown != view;
            if differs {
                *shown = view;
            }
            differs
        });
    }

    /// Another node holds our id, or ZooKeeper refuses.
    fn refused(&mut self, refused: Refused) {
        let taken = !matches!(refused, Refused::Failed(_));
        let why = refused.sentence(&self.options, &self.roster.me().node_id);
        if taken && !self.told {
            self.told = true;
            say::error!(target: TARGET, "this node is not in the cluster: {why}");
        }
        self.away(&why);
    }

    fn away(&self, why: &str) {
        if !self.joined {
            return;
        }
        let first = {
            let mut away = self.shared.away.lock();
            let first = away.is_none();
            away.get_or_insert_with(Instant::now);
            first
        };
        if first {
            let members = self.roster.view(false).members.len();
            say::warn!(by: self.shared.said.away, target: TARGET, "ZooKeeper {} is away ({why}): the {members} members known last stay", self.options);
        }
        self.publish(false, Vec::new());
    }

    fn back(&self) {
        if let Some(since) = self.shared.away.lock().take() {
            let seconds = since.elapsed().as_secs();
            say::info!(by: self.shared.said.back, target: TARGET, "ZooKeeper {} is back after {seconds} s", self.options);
        }
    }

    /// Takes our entry out and ends the session.
    async fn depart(&mut self, client: Client) -> Result<(), String> {
        if client.state() != SessionState::SyncConnected {
            return Err(away_sentence(&self.options));
        }
        match client.delete(&self.paths.own, Some(self.version)).await {
            // Another start of ours has taken it over, or it is gone.
            Ok(()) | Err(Error::NoNode | Error::BadVersion) => {}
            Err(error) => return Err(sentence(&self.options, &error)),
        }
        let mut state = client.state_watcher();
        drop(client);
        let closed = async { while !state.changed().await.is_terminated() {} };
        // Our entry is gone; the session's own time-out would do the rest.
        let _ = timeout(CLOSE, closed).await;
        Ok(())
    }
}

/// See [`Follower::run`].
struct Over(Arc<FollowerState>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.view.send_if_modified(|view| std::mem::replace(&mut view.current, false));
    }
}

fn away_sentence(options: &ZookeeperOptions) -> String {
    format!("ZooKeeper {options} is away: this node's entry goes when its session times out")
}

/// Resolves once this node leaves.
async fn leaving(leave: &mut watch::Receiver<bool>) {
    if leave.wait_for(|leave| *leave).await.is_err() {
        // The port is dropped, and this runtime with it.
        std::future::pending::<()>().await;
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
