//! Tests of the whole of `config`: texts in, a checked configuration or all its mistakes out.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::ffi::OsString;
use std::time::Duration;

use hydrant_actors::settings::{LogKind, Overflow};
use hydrant_protocol::AckLevel;

use super::keys::KEYS;
use super::*;
use crate::admin::AdminLimits;
use crate::embedded::SyncPolicy;
use crate::embedded::{LogOptions, StoreOptions};
use crate::kafka::KafkaOptions;

mod kafka;
mod layers;
mod listener;
mod mistakes;
mod routes;
mod strict;

pub fn from(file: &str) -> Sources {
    Sources { file: Some(("c.toml".into(), file.into())), ..Sources::default() }
}

/// The mistakes, a line each.
fn mistakes(sources: &Sources) -> Vec<String> {
    load(sources).unwrap_err().0.iter().map(ToString::to_string).collect()
}

pub fn env(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

#[track_caller]
fn assert_mistakes(file: &str, expected: &[&str]) {
    let found = mistakes(&from(file));
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\nis not\n{expected}");
    }
}

#[test]
fn defaults_are_a_whole_configuration() {
    let config = load(&Sources::default()).unwrap().config;
    let s = &config.settings;
    assert_eq!(&*s.node_id, "n1");
    assert!(s.workers >= 1);
    assert_eq!(s.limits.max_packet_size, 1 << 20);
    assert_eq!(s.limits.connect_timeout, Duration::from_secs(10));
    assert_eq!(s.session.expiry, Duration::from_secs(7 * 24 * 3600));
    assert_eq!(s.session.overflow, Overflow::DropNew);
    assert_eq!(s.storage.outbox_max_bytes, 4 << 30);
    assert_eq!(s.log.kind, LogKind::Embedded);
    assert_eq!(s.mapping.map("a/b/c").ack, AckLevel::Stored);
    assert_eq!(config.listener.address, "0.0.0.0:1883".parse().unwrap());
    assert_eq!(config.listener.send_buffer, None);
    assert_eq!(config.admin, Some("127.0.0.1:9883".parse().unwrap()));
    assert_eq!(config.store.sync, SyncPolicy::Always);
    assert!(config.kafka.is_none() && config.cassandra.is_none() && !s.faults);
    assert_eq!(s.storage.max_in_flight, 1);
}

/// What a test or a benchmark builds on its own is what a node runs with.
#[test]
fn the_defaults_of_each_part_are_those_of_the_table() {
    let kafka = "[log]\nkind = \"kafka\"\n[kafka]\nbootstrap_servers = \"127.0.0.1:9092\"\n";
    let config = load(&from(kafka)).unwrap().config;
    assert_eq!(config.kafka, Some(KafkaOptions::default()));
    assert_eq!(config.store, StoreOptions::default());
    assert_eq!(config.log, LogOptions::default());
    assert_eq!(config.admin_limits, AdminLimits::default());
}

#[test]
fn every_key_is_read() {
    let mut errors = ConfigErrors::default();
    let effective = source::resolve(&Sources::default(), &mut errors);
    let (_, read) = check::build(&effective, errors).unwrap();
    let unread: Vec<_> = KEYS.iter().map(|k| k.path).filter(|path| !read.contains(path)).collect();
    assert_eq!(unread, Vec::<&str>::new(), "in the table and read by nobody");
    assert_eq!(read.len(), KEYS.len(), "read and not in the table");
}

#[test]
fn what_must_hold_between_keys() {
    assert_mistakes(
        "[log]\nkind = \"kafka\"\n",
        &["c.toml:2: log.kind = \"kafka\" needs kafka.bootstrap_servers"],
    );
    assert_mistakes(
        "[log]\nkind = \"none\"\n[route_default]\nack = \"kafka\"\n[[route]]\nfilter = \"a/{x}\"\ntopic = \"t.a\"\nkey = \"{x}\"\nack = \"kafka\"\n",
        &[
            "c.toml:4: route_default.ack = \"kafka\" needs a log",
            "c.toml:5: ack = \"kafka\" of this route needs a log",
        ],
    );
    assert_mistakes(
        "[cluster]\nkind = \"zookeeper\"\n",
        &["c.toml:2: a cluster cannot use the embedded store"],
    );
    assert_mistakes(
        "[supervision]\nwatchdog_exit = \"10ms\"\n",
        &["c.toml:2: supervision.watchdog_exit"],
    );
    assert_mistakes(
        "[admin]\nmax_tails = 32\n",
        &["c.toml:2: admin.max_tails must be below admin.max_socket_connections"],
    );
    assert_mistakes(
        "[admin]\naddress = \"0.0.0.0:1883\"\n",
        &["c.toml:2: listener.address and admin.address"],
    );
    let kafka = "[log]\nkind = \"kafka\"\n[kafka]\nbootstrap_servers = [\"a:1\", \"b:2\"]\n";
    assert_eq!(load(&from(kafka)).unwrap().config.kafka.unwrap().bootstrap_servers, "a:1,b:2");
    let large = format!("{kafka}[limits]\nmax_packet_size = \"2MiB\"\n");
    assert_mistakes(&large, &["c.toml:6: limits.max_packet_size = 2097152 can make a record of "]);
    #[cfg(not(feature = "kafka-tls"))]
    {
        let tls = format!("{kafka}security_protocol = \"ssl\"\n");
        let found = mistakes(&from(&tls));
        assert!(
            found.len() == 1
                && found[0].starts_with("c.toml:5: ")
                && found[0].contains("kafka-tls"),
            "{found:?}"
        );
    }
}
