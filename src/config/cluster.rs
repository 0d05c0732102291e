//! `[cluster]` and `[zookeeper]`: from values to [`ClusterConfig`].
//!
//! The sections are checked whatever `cluster.kind` says, and handed on only with "zookeeper".

use std::path::PathBuf;

use super::checked::ClusterConfig;
use super::reader::Reader;
use super::servers;
use super::value::host_port;
use crate::zookeeper::{ZookeeperOptions, ZookeeperTls};

/// Where ZooKeeper listens for its clients.
const PORT: u16 = 2181;
const KIND: &str = "cluster.kind";
const SERVERS: &str = "zookeeper.servers";
const ADVERTISE: &str = "cluster.advertise";
const ADVERTISE_MQTT: &str = "cluster.advertise_mqtt";

/// Reads every key of the two sections; `None` for a single node.
pub(super) fn options(r: &mut Reader<'_>) -> Option<ClusterConfig> {
    let wanted = r.text(KIND) == "zookeeper" && !r.effective.bad.contains(KIND);
    let cassandra = r.text("storage.kind") == "cassandra";
    r.cross(
        !wanted || cassandra,
        [KIND, "storage.kind"],
        "a cluster cannot use the embedded store, whose state dies with its node: storage.kind must be \"cassandra\"",
    );
    let zookeeper = zookeeper(r);
    let advertise = text_or_none(r, ADVERTISE);
    let advertise_mqtt: Vec<String> = match text_or_none(r, ADVERTISE_MQTT) {
        Some(text) => text.split(',').map(|part| part.trim().to_owned()).collect(),
        None => Vec::new(),
    };
    for (key, text) in advertise
        .iter()
        .map(|text| (ADVERTISE, text))
        .chain(advertise_mqtt.iter().map(|text| (ADVERTISE_MQTT, text)))
    {
        if host_port(text, None).is_none() {
            let origin = r.origin(key);
            r.errors.push(
                origin,
                format!("{key}: \"{text}\" is not right: it must be \"host:port\", as the others reach this node"),
            );
        }
    }
    let listen = r.address("cluster.listen");
    // Nobody can connect to "every address of this machine".
    r.cross(
        !wanted || !listen.ip().is_unspecified() || advertise.is_some(),
        ["cluster.listen", ADVERTISE],
        "cluster.listen takes every address of this machine, and the other nodes need one: set cluster.advertise to \"host:port\"",
    );
    let cluster = ClusterConfig {
        id: r.text("cluster.id").into(),
        listen,
        advertise,
        advertise_mqtt,
        max_link_bytes: r.number("cluster.max_link_bytes"),
        zookeeper,
    };
    wanted.then_some(cluster)
}

fn zookeeper(r: &mut Reader<'_>) -> ZookeeperOptions {
    let servers = servers::list(r, SERVERS, Some(PORT));
    let [username, password] = ["zookeeper.username", "zookeeper.password"];
    let credentials = (r.text(username).to_string(), r.text(password).to_string());
    r.cross(
        credentials.0.is_empty() == credentials.1.is_empty(),
        [password, username],
        "zookeeper.username and zookeeper.password go together: set both or none",
    );
    let [ca, cert, key] = ["zookeeper.tls_ca", "zookeeper.tls_cert", "zookeeper.tls_key"];
    let path = |r: &mut Reader<'_>, key| text_or_none(r, key).map(PathBuf::from);
    let (ca_file, cert_file, key_file) = (path(r, ca), path(r, cert), path(r, key));
    r.cross(
        cert_file.is_some() == key_file.is_some(),
        [cert, key],
        "zookeeper.tls_cert and zookeeper.tls_key go together: set both or none",
    );
    r.cross(
        ca_file.is_some() || cert_file.is_none(),
        [cert, ca],
        "zookeeper.tls_cert without zookeeper.tls_ca: set zookeeper.tls_ca too, or none of the three",
    );
    ZookeeperOptions {
        servers,
        chroot: r.text("zookeeper.chroot").to_owned(),
        session_timeout: r.time("zookeeper.session_timeout"),
        connect_timeout: r.time("zookeeper.connect_timeout"),
        credentials: Some(credentials).filter(|(username, _)| !username.is_empty()),
        tls: ca_file.map(|ca| ZookeeperTls { ca, identity: cert_file.zip(key_file) }),
    }
}

fn text_or_none<'a>(r: &mut Reader<'a>, path: &'a str) -> Option<String> {
    Some(r.text(path)).filter(|text| !text.is_empty()).map(str::to_owned)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{env, from};
    use super::super::{Loaded, load};
    use super::*;

    const BASE: &str = "[storage]\nkind = \"cassandra\"\n[cassandra]\ncontact_points = \"a\"\n[cluster]\nkind = \"zookeeper\"\n";

    fn mistakes(file: &str) -> Vec<String> {
        load(&from(file)).unwrap_err().0.iter().map(ToString::to_string).collect()
    }

    #[track_caller]
    fn assert_mistake(more: &str, expected: &str) {
        let found = mistakes(&format!("{BASE}{more}"));
        assert!(found.len() == 1 && found[0].starts_with(expected), "{found:#?}");
    }

    fn cluster(loaded: &Loaded) -> ClusterConfig {
        loaded.config.cluster.clone().unwrap()
    }

    #[test]
    fn defaults_are_those_of_the_adapter() {
        let c = cluster(&load(&from(BASE)).unwrap());
        assert_eq!((&*c.id, c.listen), ("hydrant", "127.0.0.1:7883".parse().unwrap()));
        assert!(c.advertise.is_none() && c.advertise_mqtt.is_empty());
        assert_eq!(c.max_link_bytes, 64 << 20);
        let (z, own) = (c.zookeeper, ZookeeperOptions::default());
        assert_eq!((z.servers, z.chroot), (own.servers, own.chroot));
        assert_eq!(z.session_timeout, own.session_timeout);
        assert_eq!(z.connect_timeout, own.connect_timeout);
        assert_eq!((z.credentials, z.tls), (own.credentials, own.tls));
        assert!(load(&Default::default()).unwrap().config.cluster.is_none());
    }

    #[test]
    fn every_key_has_its_place() {
        let file = format!(
            "{BASE}id = \"west\"\nlisten = \"0.0.0.0:0\"\nadvertise = \"a.example:7\"\n\
             advertise_mqtt = \"b:1, [::1]:2\"\nmax_link_bytes = \"1MiB\"\n[zookeeper]\n\
             servers = \"z1, z2:9\"\nchroot = \"/a/b\"\nsession_timeout = \"2s\"\n\
             connect_timeout = \"3s\"\ntls_ca = \"ca\"\ntls_cert = \"cert\"\ntls_key = \"key\"\n"
        );
        let c = cluster(&load(&from(&file)).unwrap());
        assert_eq!((&*c.id, c.listen), ("west", "0.0.0.0:0".parse().unwrap()));
        assert_eq!(c.advertise.as_deref(), Some("a.example:7"));
        assert_eq!(c.advertise_mqtt, ["b:1", "[::1]:2"]);
        assert_eq!(c.max_link_bytes, 1 << 20);
        let z = c.zookeeper;
        assert_eq!(z.to_string(), "z1:2181,z2:9/a/b");
        assert_eq!(z.session_timeout, Duration::from_secs(2));
        assert_eq!(z.connect_timeout, Duration::from_secs(3));
        let identity = Some(("cert".into(), "key".into()));
        assert_eq!(z.tls, Some(ZookeeperTls { ca: "ca".into(), identity }));
    }

    #[test]
    fn mistakes_are_named() {
        assert_mistake("id = \"a b\"\n", "c.toml:7: cluster.id = \"a b\" is not right");
        assert_mistake("advertise = \"a\"\n", "c.toml:7: cluster.advertise: \"a\" is not right");
        assert_mistake(
            "advertise_mqtt = \"a:1,b\"\n",
            "c.toml:7: cluster.advertise_mqtt: \"b\" is not right",
        );
        assert_mistake(
            "listen = \"0.0.0.0:7883\"\n",
            "c.toml:7: cluster.listen takes every address of this machine",
        );
        assert_mistake(
            "listen = \"0.0.0.0:1883\"\nadvertise = \"a:1883\"\n",
            "c.toml:7: cluster.listen and listener.address take the same port",
        );
        for chroot in ["", "/", "a", "/a/", "/a//b", "/a/../b", "/zookeeper", "/zookeeper/a"] {
            let found = mistakes(&format!("{BASE}[zookeeper]\nchroot = \"{chroot}\"\n"));
            assert!(
                found[0].starts_with(&format!("c.toml:8: zookeeper.chroot = \"{chroot}\"")),
                "{found:?}"
            );
        }
        for (more, expected) in [
            ("servers = \"a:b\"\n", "c.toml:8: zookeeper.servers: \"a:b\" is not right"),
            ("session_timeout = \"61s\"\n", "c.toml:8: zookeeper.session_timeout = \"61s\" is out"),
            ("username = \"u\"\n", "c.toml:8: zookeeper.username and zookeeper.password go"),
            ("tls_key = \"k\"\n", "c.toml:8: zookeeper.tls_cert and zookeeper.tls_key go"),
            ("tls_cert = \"k\"\ntls_key = \"k\"\n", "c.toml:8: zookeeper.tls_cert without"),
        ] {
            assert_mistake(&format!("[zookeeper]\n{more}"), expected);
        }
    }

    #[test]
    fn a_cluster_needs_a_store_that_its_nodes_share() {
        let found = mistakes(&BASE.replace("\"cassandra\"", "\"embedded\""));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("c.toml:4: cassandra.contact_points is set"), "{found:?}");
        assert!(found[1].starts_with("c.toml:6: a cluster cannot use the embedded"), "{found:?}");
    }

    #[test]
    fn the_password_is_shown_by_nothing() {
        let mut sources = from(&format!("{BASE}[zookeeper]\nusername = \"hydrant\"\n"));
        sources.env = env(&[("HYDRANT__ZOOKEEPER__PASSWORD", "[hush]")]);
        let loaded = load(&sources).unwrap();
        let c = cluster(&loaded);
        assert_eq!(c.zookeeper.credentials, Some(("hydrant".into(), "[hush]".into())));
        assert!(!loaded.print().contains("hush") && !format!("{c:?}").contains("hush"));
    }
}
