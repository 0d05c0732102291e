//! Joining that is refused, each with one sentence; and the login.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use hydrant::zookeeper::{Release, ZookeeperTls, refuses};
use zookeeper_client::Error;

use crate::peer::{CLUSTER, Place, block_on, json, member};
use crate::support::server::make_certificate;
use crate::support::zookeeper::{Zookeeper, shared};

fn refused(place: &Place, cluster: &str, node_id: &str) -> String {
    place.try_join(cluster, member(node_id, 9)).err().expect("it is refused")
}

#[test]
fn a_node_id_of_a_live_node_is_refused_with_its_addresses() {
    let place = Place::new(shared(), 1);
    let live = place.raw(1);
    place.put(&live, "taken-1", &json(CLUSTER, "taken-1", 3, "other:7"));
    let why = refused(&place, CLUSTER, "taken-1");
    assert!(why.starts_with("node id \"taken-1\" is taken in ZooKeeper"), "{why}");
    assert!(why.contains("peer address other:7, MQTT address m:1, incarnation 3"), "{why}");
    assert!(why.contains("another node.id"), "{why}");
    // A later start of ours is not ours to end.
    place.put(&live, "taken-2", &json(CLUSTER, "taken-2", 10, "taken-2.example:7883"));
    assert!(refused(&place, CLUSTER, "taken-2").contains("incarnation 10"));
    drop(live);
}

#[test]
fn a_node_id_is_waited_for_while_its_session_may_be_dead() {
    let place = Place::new(shared(), 1);
    let dead = place.raw(1);
    place.put(&dead, "wait-1", &json(CLUSTER, "wait-1", 3, "other:7"));
    drop(dead);
    assert_eq!(place.join("wait-1", 4).sees(), "wait-1/4");
}

#[test]
fn another_cluster_is_refused() {
    let place = Place::new(shared(), 1);
    let n1 = place.join("mine-1", 1);
    let why = refused(&place, "theirs", "mine-2");
    assert!(why.contains("belongs to cluster \"test\" and cluster.id of this node is \"theirs\""));
    assert_eq!(n1.sees(), "mine-1/1");
}

#[test]
fn a_cluster_of_a_release_too_far_off_is_refused() {
    let place = Place::new(shared(), 1);
    let live = place.raw(1);
    let other = json(CLUSTER, "old-1", 3, "other:7").replace("[1,1]", "[7,8]");
    place.put(&live, "old-1", &other);
    let why = refused(&place, CLUSTER, "old-2");
    assert!(why.contains("node \"old-1\"") && why.contains("speaks versions 7 to 8"), "{why}");
    assert!(why.contains("upgrade one release at a time"), "{why}");
    // A node asks before it raises the schema of the store that they share.
    let me = Release { node_id: "old-2", version: "0", protocol: (1, 1) };
    let early = block_on(refuses(&place.options, CLUSTER, me)).expect("it is refused");
    assert!(early.contains("speaks versions 7 to 8"), "{early}");
    let me = Release { protocol: (6, 7), ..me };
    assert_eq!(block_on(refuses(&place.options, CLUSTER, me)), None);
    drop(live);
}

#[test]
fn a_zookeeper_that_is_not_there_is_named() {
    let zookeeper = Zookeeper::prepare();
    let mut place = Place::new(&zookeeper, 1);
    place.options.connect_timeout = Duration::from_millis(300);
    let began = Instant::now();
    let why = refused(&place, CLUSTER, "nobody");
    assert!(why.contains(&zookeeper.address()) && why.contains("zookeeper.servers"), "{why}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[test]
fn a_user_owns_what_it_makes() {
    let mut place = Place::new(shared(), 1);
    let nobody = place.clone();
    place.options.credentials = Some(("hydrant".to_owned(), "hush".to_owned()));
    let n1 = place.join("login-1", 1);
    let n2 = place.join("login-2", 1);
    n1.await_members("login-1/1 login-2/1");
    n2.await_members("login-1/1 login-2/1");
    let raw = nobody.raw(1);
    let read = block_on(raw.get_data(&place.entry("login-1")));
    assert_eq!(read.map(|_| ()), Err(Error::NoAuth));
    let why = refused(&nobody, CLUSTER, "login-3");
    assert!(why.contains("zookeeper.username") && !why.contains("hush"), "{why}");
    place.options.credentials = Some(("hydrant".to_owned(), "wrong".to_owned()));
    let why = refused(&place, CLUSTER, "login-3");
    assert!(why.contains("zookeeper.password") && !why.contains("wrong"), "{why}");
}

#[test]
fn tls_with_the_right_authority_and_no_other() {
    let zookeeper = Zookeeper::start_tls();
    let mut place = Place::new(&zookeeper, 1);
    place.options.servers = vec![zookeeper.secure_address()];
    place.options.tls = Some(ZookeeperTls { ca: zookeeper.ca(), identity: None });
    assert_eq!(place.join("tls-1", 1).sees(), "tls-1/1");
    let folder = tempfile::tempdir().unwrap();
    make_certificate(folder.path(), Ipv4Addr::LOCALHOST);
    let other = ZookeeperTls { ca: folder.path().join("ca.pem"), identity: None };
    (place.options.tls, place.options.connect_timeout) = (Some(other), Duration::from_secs(1));
    let why = refused(&place, CLUSTER, "tls-2");
    assert!(why.contains("does not answer") && why.contains("zookeeper.tls_ca"), "{why}");
    place.options.tls = Some(ZookeeperTls { ca: "/nowhere/ca.pem".into(), identity: None });
    let why = refused(&place, CLUSTER, "tls-2");
    assert!(why.starts_with("zookeeper.tls_ca: /nowhere/ca.pem cannot be read"), "{why}");
}
