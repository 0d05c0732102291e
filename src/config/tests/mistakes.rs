//! Mistakes of a file: all at once, each with its line and what is nearest.

use super::assert_mistakes;

#[test]
fn all_mistakes_of_a_file_at_once() {
    let file = r#"
[node]
id = "no spaces please"
[lisener]
address = "0.0.0.0:1883"
[log]
retntion = "1h"
kind = "kafak"
max_pending_messages = "many"
max_inflight = 3
[limits]
max_connections = 0
connect_timeout = 10
max_packet_size = "64 kilos"
nodelay = { a = 1 }
[storage]
retry_min = "3s"
retry_max = "1s"
[[route]]
filter = "a/{x}"
topik = "t"
ack = "stord"
"#;
    assert_mistakes(
        file,
        &[
            r#"c.toml:3: node.id = "no spaces please" is not right: it must be 1 to 64 of"#,
            r#"c.toml:4: unknown section [lisener], the nearest is [listener]"#,
            r#"c.toml:7: unknown key "log.retntion", the nearest is "log.retention""#,
            r#"c.toml:8: log.kind = "kafak" is not one of "embedded", "kafka", "none"; the nearest is "kafka""#,
            r#"c.toml:9: log.max_pending_messages must be a whole number, not a string "many""#,
            r#"c.toml:10: unknown key "log.max_inflight", the nearest is "session.max_inflight""#,
            "c.toml:12: limits.max_connections = 0 is out of range: 1 to 10000000 connections",
            "c.toml:13: limits.connect_timeout = 10 has no unit: 10 of what? Write \"10s\" or \"10m\"",
            r#"c.toml:14: limits.max_packet_size must be a size, as in "64KiB" or 65536, not a string "64 kilos""#,
            r#"c.toml:15: unknown key "limits.nodelay", the nearest is "listener.nodelay""#,
            "c.toml:18: storage.retry_min must not be above storage.retry_max",
            "c.toml:19: this route has no topic",
            r#"c.toml:21: unknown key "topik" of a route, the nearest is "topic""#,
            r#"c.toml:22: ack = "stord" is not one of "accepted", "stored", "kafka"; the nearest is "stored""#,
        ],
    );
}

#[test]
fn broken_toml_hides_no_other_mistake() {
    assert_mistakes(
        "[node]\nid = \n[log]\nretntion = \"1h\"\nkind = \"none\"\nkind = \"none\"\nmax_topics = [1\n",
        &[
            "c.toml:2: not TOML",
            "c.toml:4: unknown key \"log.retntion\"",
            "c.toml:6: not TOML",
            "c.toml:",
        ],
    );
}

#[test]
fn misplaced_things_are_named() {
    assert_mistakes("log = 3\n", &["c.toml:1: log is a section: write [log]"]);
    assert_mistakes("[[log]]\nkind = \"none\"\n", &["c.toml:1: log is a section"]);
    assert_mistakes(
        "kind = \"none\"\nbootstrap_servers = \"a:1\"\n[xyzzy]\na = 1",
        &[
            "c.toml:1: key \"kind\" is in no section, the nearest is \"",
            "c.toml:2: key \"bootstrap_servers\" is in no section, the nearest is \"kafka.bootstrap_servers\"",
            "c.toml:3: unknown section [xyzzy]",
        ],
    );
    assert_mistakes("[route]\nfilter = \"a\"\n", &["c.toml:1: a route is written as [[route]]"]);
    assert_mistakes(
        "log.kind = 99999999999999999999\n",
        &["c.toml:1: log.kind is a number that does not fit"],
    );
    assert_mistakes(
        "[limits]\nmax_keep_alive = -1\nmax_router_bytes = \"99999999TiB\"\n",
        &[
            "c.toml:2: limits.max_keep_alive = -1 is out of range: 0 to 65535 seconds",
            "c.toml:3: limits.max_router_bytes = \"99999999TiB\" is out of range: 1KiB to 16GiB",
        ],
    );
}
