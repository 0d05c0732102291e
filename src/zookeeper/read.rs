//! What is read from ZooKeeper: all of it after a reconnection, what changed otherwise.

use std::time::Instant;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use hydrant_protocol::cluster::Member;
use zookeeper_client::{Client, Error};

use super::dirty::Dirty;
use super::follow::Follower;
use super::register::Refused;
use super::{TARGET, entry};
use hydrant_actors::say;

/// Entries that are read; more are ignored.
const MAX_MEMBERS: usize = 1024;
/// Entries read at once.
const PARALLEL: usize = 32;

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
                say::warn!(target: TARGET, "{path} in ZooKeeper has {count} entries: the last {} by name are ignored", count - MAX_MEMBERS);
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
                    say::warn!(by: self.shared.said.ignored.of(name), target: TARGET, "entry {}/{name} in ZooKeeper is ignored: {why}", self.paths.members);
                    self.ignored.insert(name.to_owned(), why);
                }
                None
            }
        }
    }
}
