//! What this node writes: the parents, the cluster's id, its own entry.

use hydrant_protocol::cluster::Member;
use hydrant_protocol::cluster::link::negotiate;
use zookeeper_client::{Client, CreateMode, Error};

use super::client::{acls, connect, sentence, tls};
use super::entry;
use super::options::ZookeeperOptions;

/// Where things stand.
pub(super) struct Paths {
    cluster: String,
    /// Holds the entries.
    pub(super) members: String,
    /// Our entry.
    pub(super) own: String,
}

impl Paths {
    pub(super) fn new(chroot: &str, node_id: &str) -> Self {
        let members = format!("{chroot}/members");
        let own = format!("{members}/{node_id}");
        Self { cluster: format!("{chroot}/cluster"), members, own }
    }
}

/// Why this node is not registered.
#[derive(Debug)]
pub(super) enum Refused {
    /// ZooKeeper did not do it; it may later.
    Failed(Error),
    /// Another session holds our node id; whose it is. It may end.
    Taken(String),
    /// It never will: one sentence that says what to do.
    Never(String),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// The parents, and the cluster's id if we are the first.
pub(super) async fn prepare(
    client: &Client,
    options: &ZookeeperOptions,
    paths: &Paths,
    cluster: &str,
) -> Result<(), Refused> {
    let persistent = CreateMode::Persistent.with_acls(acls(options));
    // Asked first: whoever may not make it need not if it is there.
    if client.check_stat(&paths.members).await?.is_none() {
        client.mkdir(&paths.members, &persistent).await?;
    }
    loop {
        match client.get_data(&paths.cluster).await {
            Ok((found, _)) if found == cluster.as_bytes() => return Ok(()),
            Ok((found, _)) => {
                return Err(Refused::Never(format!(
                    "ZooKeeper {options} belongs to cluster {:?} and cluster.id of this node is \
                     {cluster:?}: set cluster.id, or give each cluster a zookeeper.chroot of its own",
                    String::from_utf8_lossy(&found)
                )));
            }
            Err(Error::NoNode) => {}
            Err(error) => return Err(error.into()),
        }
        match client.create(&paths.cluster, cluster.as_bytes(), &persistent).await {
            Ok(_) => return Ok(()),
            // Another node was faster; what it wrote counts.
            Err(Error::NodeExists) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// What a node is, as far as others have to go with it.
#[derive(Debug, Clone, Copy)]
pub struct Release<'a> {
    /// Its node id.
    pub node_id: &'a str,
    /// For people.
    pub version: &'a str,
    /// Versions of the peer protocol that it speaks: the lowest and the highest.
    pub protocol: (u16, u16),
}

impl<'a> From<&'a Member> for Release<'a> {
    fn from(me: &'a Member) -> Self {
        Self { node_id: &me.node_id, version: &me.version, protocol: me.protocol }
    }
}

/// A member that speaks no version of the peer protocol that we speak: a cluster with both would be two.
pub(super) async fn foreign(
    client: &Client,
    paths: &Paths,
    cluster: &str,
    me: Release<'_>,
) -> Result<(), Refused> {
    let names = match client.list_children(&paths.members).await {
        Ok(names) => names,
        Err(Error::NoNode) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for name in names.iter().filter(|name| **name != *me.node_id) {
        let data = match client.get_data(&format!("{}/{name}", paths.members)).await {
            Ok((data, _)) => data,
            Err(Error::NoNode) => continue,
            Err(error) => return Err(error.into()),
        };
        // What is no member's is ignored, with a line of its own.
        let Ok(other) = entry::decode(cluster, name, &data) else { continue };
        let (ours, theirs) = (me.protocol, other.protocol);
        if negotiate(ours, theirs).is_none() {
            return Err(Refused::Never(format!(
                "node {name:?} of the cluster (version {}) speaks versions {} to {} of the peer \
                 protocol and this one (version {}) {} to {}: upgrade one release at a time",
                other.version, theirs.0, theirs.1, me.version, ours.0, ours.1
            )));
        }
    }
    Ok(())
}

/// Why this release does not go with a member of the cluster, so that nothing is changed in a store that they share.
/// `None`: it does, or ZooKeeper does not say so now, and is asked again when this node joins.
pub async fn refuses(options: &ZookeeperOptions, cluster: &str, me: Release<'_>) -> Option<String> {
    let tls = options.tls.as_ref().map(tls).transpose().ok()?;
    let client = connect(options, tls.as_ref()).await.ok()?;
    let paths = Paths::new(&options.chroot, me.node_id);
    match foreign(&client, &paths, cluster, me).await {
        Err(refused @ Refused::Never(_)) => Some(refused.sentence(options, me.node_id)),
        Ok(()) | Err(_) => None,
    }
}

/// Where a node of this id is, as ZooKeeper has it: for who finds its id taken.
pub async fn addresses_of(
    options: &ZookeeperOptions,
    cluster: &str,
    node_id: &str,
) -> Option<String> {
    let tls = options.tls.as_ref().map(tls).transpose().ok()?;
    let client = connect(options, tls.as_ref()).await.ok()?;
    let paths = Paths::new(&options.chroot, node_id);
    let (data, _) = client.get_data(&paths.own).await.ok()?;
    let other = entry::decode(cluster, node_id, &data).ok()?;
    Some(format!("peer address {}, MQTT address {}", other.peer, other.mqtt.join(" and ")))
}

/// Puts our entry under this session. An entry of an earlier session or an earlier start of ours is
/// replaced in one step, so that nobody sees us missing. The version of the entry.
pub(super) async fn register(
    client: &Client,
    options: &ZookeeperOptions,
    paths: &Paths,
    cluster: &str,
    me: &Member,
) -> Result<i32, Refused> {
    let data = entry::encode(cluster, me).map_err(Refused::Never)?;
    let ephemeral = CreateMode::Ephemeral.with_acls(acls(options));
    let session = client.session_id().0;
    match client.create(&paths.own, &data, &ephemeral).await {
        Ok((stat, _)) => return Ok(stat.version),
        Err(Error::NodeExists) => {}
        Err(error) => return Err(error.into()),
    }
    let (found, stat) = match client.get_data(&paths.own).await {
        Ok(found) => found,
        // It ended meanwhile.
        Err(Error::NoNode) => return Err(Refused::Taken("a node that just ended".to_owned())),
        Err(error) => return Err(error.into()),
    };
    if stat.ephemeral_owner == session {
        let stat = client.set_data(&paths.own, &data, Some(stat.version)).await?;
        return Ok(stat.version);
    }
    let other = entry::decode(cluster, &me.node_id, &found)
        .map_err(|why| Refused::Taken(format!("an entry that is none of this cluster's: {why}")))?;
    if other.peer != me.peer || other.incarnation > me.incarnation {
        return Err(Refused::Taken(format!(
            "a node with peer address {}, MQTT address {}, incarnation {}",
            other.peer,
            other.mqtt.join(" and "),
            other.incarnation
        )));
    }
    let mut step = client.new_multi_writer();
    step.add_delete(&paths.own, Some(stat.version))?;
    step.add_create(&paths.own, &data, &ephemeral)?;
    match step.commit().await.map_err(Error::from) {
        Ok(_) => Ok(0),
        Err(Error::BadVersion | Error::NoNode | Error::NodeExists) => {
            Err(Refused::Taken("a node that just changed its entry".to_owned()))
        }
        Err(error) => Err(error.into()),
    }
}

/// Takes our entry out; one of another session is not ours.
pub(super) async fn withdraw(client: &Client, paths: &Paths) -> Result<(), Refused> {
    let Some(stat) = client.check_stat(&paths.own).await? else { return Ok(()) };
    if stat.ephemeral_owner != client.session_id().0 {
        return Ok(());
    }
    match client.delete(&paths.own, Some(stat.version)).await {
        Ok(()) | Err(Error::NoNode) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl Refused {
    /// One sentence that says what to do.
    pub(super) fn sentence(self, options: &ZookeeperOptions, node_id: &str) -> String {
        match self {
            Self::Failed(error) => sentence(options, &error),
            Self::Taken(whose) => format!(
                "node id {node_id:?} is taken in ZooKeeper {options} by {whose}: give this node \
                 another node.id, or end that one"
            ),
            Self::Never(why) => why,
        }
    }
}
