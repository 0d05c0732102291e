//! The layers: file, environment, `--set` and flags.

use std::time::Duration;

use hydrant_actors::settings::LogKind;

use super::super::{Sources, load};
use super::{env, from, mistakes};

#[test]
fn each_layer_wins_over_those_before_it() {
    let mut sources = from(
        "[limits]\nmax_subscriptions = 1\nmax_connections = 1\nconnect_rate = 1\n[listener]\naddress = \"127.0.0.1:1\"\n",
    );
    let at = |sources: &Sources| {
        let c = load(sources).unwrap().config;
        let l = c.settings.limits;
        (l.max_subscriptions, l.max_connections, l.connect_rate, c.listener.address.port())
    };
    assert_eq!(at(&Sources::default()), (10_000, 100_000, 5000, 1883));
    assert_eq!(at(&sources), (1, 1, 1, 1));
    sources.env = env(&[
        ("HYDRANT__LIMITS__MAX_CONNECTIONS", "2"),
        ("HYDRANT__LIMITS__CONNECT_RATE", "2"),
        ("HYDRANT__LISTENER__ADDRESS", "127.0.0.1:2"),
        ("OTHER_HYDRANT", "x"),
        ("PATH", "/bin"),
    ]);
    assert_eq!(at(&sources), (1, 2, 2, 2));
    sources.set = vec!["limits.connect_rate=3".into(), "listener.address=\"127.0.0.1:3\"".into()];
    assert_eq!(at(&sources), (1, 2, 3, 3));
    sources.flags = vec![("--listen", "listener.address", "127.0.0.1:4".into())];
    assert_eq!(at(&sources), (1, 2, 3, 4));
}

#[test]
fn overrides_are_toml_or_else_text() {
    let sources = Sources {
        set: [
            "node.id=007",
            "node.data_dir='a b'",
            "log.kind=none",
            "session.expiry=2h 30m",
            "node.workers=3",
            "limits.max_packet_size=64KiB",
            "storage.cache_size=2097152",
            "debug.faults=true",
        ]
        .map(String::from)
        .into(),
        ..Sources::default()
    };
    let c = load(&sources).unwrap().config;
    assert_eq!(&*c.settings.node_id, "007");
    assert_eq!(c.data_dir.to_str(), Some("a b"));
    assert_eq!(c.settings.log.kind, LogKind::None);
    assert_eq!(c.settings.session.expiry, Duration::from_secs(9000));
    assert_eq!(c.settings.workers, 3);
    assert_eq!(c.settings.limits.max_packet_size, 65_536);
    assert_eq!(c.store.cache_size, 2 << 20);
    assert!(c.settings.faults);
}

#[test]
fn mistakes_in_overrides_name_variable_and_flag() {
    let mut sources = from("[log]\nkind = 1\n");
    sources.env = env(&[
        ("HYDRANT__LOG__KNID", "none"),
        ("HYDRANT__LIMITS__CONNECT_RATE", "fast"),
        ("HYDRANT__ROUTE__KEY", "x"),
    ]);
    sources.set = ["log.kind=none", "sessoin.expiry=1h", "nonsense", "node.workers=0"]
        .map(String::from)
        .into();
    sources.flags = vec![("--listen", "listener.address", "1883".into())];
    let found = mistakes(&sources);
    let expected = [
        "c.toml:2: log.kind must be one of",
        "environment HYDRANT__LIMITS__CONNECT_RATE: limits.connect_rate must be a whole number, not a string \"fast\"",
        "environment HYDRANT__LOG__KNID: unknown key \"log.knid\", the nearest is \"log.kind\"",
        "environment HYDRANT__ROUTE__KEY: routes are read from the file only",
        "--set node.workers: node.workers = 0 is out of range: 1 to 256 threads, or \"auto\"",
        "--set nonsense: must be section.key=value",
        "--set sessoin.expiry: unknown key \"sessoin.expiry\", the nearest is \"session.expiry\"",
        "--listen: listener.address = \"1883\" is not right: it must be an IP address and a port",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\nis not\n{expected}");
    }
}
