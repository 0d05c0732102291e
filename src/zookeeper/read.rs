//! What is read from ZooKeeper: all of it after a reconnection, what changed otherwise.

use std::collections::BTreeSet;
use std::time::Instant;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use hydrant_protocol::cluster::Member;
use zookeeper_client::{Client, Error, EventType, WatchedEvent};

use super::follow::Follower;
use super::register::{Paths, Refused};
use super::{TARGET, entry};

/// Entries that are read; more are ignored.
const MAX_MEMBERS: usize = 1024;
/// Entries read at once.
const PARALLEL: usize = 32;

/// What changed in ZooKeeper and was not read yet.
#[derive(Default)]
pub(super) struct Dirty {
    pub(super) names: BTreeSet<String>,
    /// Entries came or went.
    pub(super) list: bool,
    /// Ours went, alone or before the node that holds all.
    pub(super) own: bool,
}

impl Dirty {
    /// What an event of the watch means.
    pub(super) fn note(&mut self, event: &WatchedEvent, paths: &Paths) {
        let gone = event.event_type == EventType::NodeDeleted;
        if event.event_type == EventType::Session {
            return;
        }
        if event.path == paths.members {
            self.list = true;
            return;
        }
        if event.path == paths.own {
            self.own |= gone;
        }
        // Below an entry is nothing of ours.
        let name = event.path.strip_prefix(&paths.members).and_then(|rest| rest.strip_prefix('/'));
        if let Some(name) = name.filter(|name| !name.contains('/')) {
            self.list |= event.event_type != EventType::NodeDataChanged;
            self.names.insert(name.to_owned());
        }
    }
}

impl Follower {
    /// Reads what changed, or all there is, and tells it.
    pub(super) async fn read(
        &mut self,
        client: &Client,
        dirty: &Dirty,
        all: bool,
    ) -> Result<(), Refused> {
        if dirty.own {
            self.register(client).await?;
        }
        if !dirty.list && dirty.names.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = if dirty.list {
            let (mut names, stat) = client.get_children(&self.paths.members).await?;
            self.cversion = stat.cversion;
            names.sort_unstable();
            if names.len() > MAX_MEMBERS {
                let (path, count) = (&self.paths.members, names.len());
                log::warn!(target: TARGET, "{path} in ZooKeeper has {count} entries: the last {} by name are ignored", count - MAX_MEMBERS);
                names.truncate(MAX_MEMBERS);
            }
            names
        } else {
            self.entries.keys().cloned().collect()
        };
        let stale = names
            .iter()
            .filter(|name| all || dirty.names.contains(*name) || !self.entries.contains_key(*name));
        let fetch = stale.map(|name| {
            let data = client.get_data(&format!("{}/{name}", self.paths.members));
            async move {
                match data.await {
                    Ok((data, _)) => Ok((name.clone(), Some(data))),
                    Err(Error::NoNode) => Ok((name.clone(), None)),
                    Err(error) => Err(error),
                }
            }
        });
        let fetch: Vec<_> = fetch.collect();
        let fetched: Vec<(String, Option<Vec<u8>>)> =
            stream::iter(fetch).buffer_unordered(PARALLEL).try_collect().await?;
        self.entries.retain(|name, _| names.binary_search(name).is_ok());
        for (name, data) in fetched {
            match data {
                Some(data) => {
                    let member = self.decode(&name, &data);
                    self.entries.insert(name, member);
                }
                None => {
                    self.entries.remove(&name);
                }
            }
        }
        self.ignored.retain(|name, _| self.entries.contains_key(name));
        let found = self.entries.values().flatten().cloned().collect();
        let changes = self.roster.apply(found, self.cversion, Instant::now());
        self.publish(true, changes);
        Ok(())
    }

    /// The member in an entry; one that is none is reported once.
    fn decode(&mut self, name: &str, data: &[u8]) -> Option<Member> {
        match entry::decode(&self.cluster, name, data) {
            Ok(member) => {
                self.ignored.remove(name);
                Some(member)
            }
            Err(why) => {
                if self.ignored.get(name) != Some(&why) {
                    log::warn!(target: TARGET, "entry {}/{name} in ZooKeeper is ignored: {why}", self.paths.members);
                    self.ignored.insert(name.to_owned(), why);
                }
                None
            }
        }
    }
}
