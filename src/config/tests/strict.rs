//! What is refused because it would mean something else than it seems to, or nothing at all.

use super::*;

#[test]
fn a_login_that_nothing_uses_or_that_no_build_has_is_refused() {
    let kafka = "[log]\nkind = \"kafka\"\n[kafka]\nbootstrap_servers = \"a:1\"\n";
    let properties =
        "[kafka.properties]\nsasl.mechanism = \"SCRAM-SHA-256\"\nssl.ca.location = \"x\"\n";
    assert_mistakes(
        &format!("{kafka}{properties}"),
        &[
            "c.toml:6: kafka.properties.sasl.mechanism is set and kafka.security_protocol is \"plaintext\", so that nobody logs in: use \"sasl_ssl\"",
            "c.toml:7: kafka.properties.ssl.ca.location is set and kafka.security_protocol is \"plaintext\", so that there is no TLS",
        ],
    );
    assert_mistakes(
        &format!("{kafka}security_protocol = \"sasl_plaintext\"\n"),
        &["c.toml:5: kafka.security_protocol is sasl_plaintext, and how to log in is not said"],
    );
    let scram = format!(
        "{kafka}security_protocol = \"sasl_plaintext\"\n[kafka.properties]\nsasl.mechanism = \"SCRAM-SHA-256\"\n"
    );
    #[cfg(not(feature = "kafka-tls"))]
    assert_mistakes(
        &scram,
        &[
            "c.toml:7: kafka.properties has sasl.mechanism = \"SCRAM-SHA-256\", which this broker was built without: build one with `cargo build --release --features kafka-tls`",
        ],
    );
    #[cfg(feature = "kafka-tls")]
    load(&from(&scram)).unwrap();
}

/// The file is at its place; whether it can be read is `config check`'s to say.
#[cfg(not(feature = "kafka-tls"))]
#[test]
fn a_file_of_tls_needs_a_build_with_tls() {
    let found = mistakes(&from(
        "[log]\nkind = \"kafka\"\n[kafka]\nbootstrap_servers = \"a:1\"\nsecurity_protocol = \"ssl\"\n[kafka.properties]\nssl.ca.location = \"x\"\n",
    ));
    assert!(
        found[0].starts_with("c.toml:7: kafka.properties.ssl.ca.location is refused"),
        "{found:#?}"
    );
    assert!(found.iter().all(|f| f.contains("--features kafka-tls")), "{found:#?}");
}

#[test]
fn units_are_strict() {
    for (set, expected) in [
        (
            "session.expiry=10",
            "session.expiry = 10 has no unit: 10 of what? Write \"10s\", \"10m\" or \"10d\"",
        ),
        (
            "session.expiry=1M",
            "session.expiry = \"1M\" is not right: \"M\" is no unit of a time (those are ms, s, m, h, d): for minutes write \"1m\"",
        ),
        ("session.expiry=-1", "session.expiry must be a time with its unit, as in"),
        (
            "limits.max_packet_size=1M",
            "limits.max_packet_size = \"1M\" is not right: a size is in B, KiB, MiB, GiB or TiB, so write \"1MiB\"",
        ),
        (
            "limits.max_packet_size=1kb",
            "limits.max_packet_size = \"1kb\" is not right: a size is in B, KiB, MiB, GiB or TiB, so write \"1KiB\"",
        ),
        (
            "limits.max_packet_size=-1",
            "limits.max_packet_size = -1 is out of range: 128 bytes to 256MiB",
        ),
        ("limits.max_keep_alive=60000s ", "ok"),
        ("limits.max_keep_alive=60", "ok"),
        ("limits.max_keep_alive=2m", "ok"),
        (
            "limits.max_keep_alive=1d",
            "limits.max_keep_alive = \"1d\" is out of range: 0 to 65535 seconds",
        ),
        (
            "limits.max_keep_alive=1500ms",
            "limits.max_keep_alive = \"1500ms\" is out of range: 0 to 65535 seconds, whole ones",
        ),
        ("limits.max_keep_alive=1M", "limits.max_keep_alive = \"1M\" is not right"),
    ] {
        let sources = Sources { set: vec![set.into()], ..Sources::default() };
        match load(&sources) {
            Ok(_) => assert_eq!(expected, "ok", "{set}"),
            Err(errors) => {
                let said = errors.to_string();
                assert!(said.contains(&format!(": {expected}")), "{set}: {said}");
            }
        }
    }
    let keep_alive = |set: &str| {
        let sources = Sources { set: vec![set.into()], ..Sources::default() };
        load(&sources).unwrap().config.settings.limits.max_keep_alive
    };
    assert_eq!(keep_alive("limits.max_keep_alive=2m"), 120);
    assert_eq!(keep_alive("limits.max_keep_alive=60"), 60);
    // In the file, without quotes.
    assert_mistakes(
        "[session]\nexpiry = -1\n",
        &["c.toml:2: session.expiry = -1 is out of range: 0s to 36525d"],
    );
}

#[test]
fn a_key_without_its_section_is_completed() {
    for (set, expected) in [
        ("kind=kafka", "unknown key \"kind\", did you mean \"log.kind\"?"),
        ("kind=cassandra", "unknown key \"kind\", did you mean \"storage.kind\"?"),
        ("kind=embedded", "unknown key \"kind\", did you mean \"storage.kind\" or \"log.kind\"?"),
        ("LOG.KIND=none", "unknown key \"LOG.KIND\", did you mean \"log.kind\"?"),
        ("log_kind=none", "unknown key \"log_kind\", did you mean \"log.kind\"?"),
    ] {
        let found = mistakes(&Sources { set: vec![set.into()], ..Sources::default() });
        assert!(found.len() == 1 && found[0].ends_with(expected), "{set}: {found:#?}");
    }
    assert_mistakes(
        "kind = \"kafka\"\n",
        &["c.toml:1: key \"kind\" is in no section, the nearest is \"log.kind\""],
    );
}

#[test]
fn below_a_broken_section_only_the_break_is_reported() {
    // The parser takes the one key below it for a section, or for one of the section before.
    for head in ["", "[node]\n", "[limits]\nconnect_rate = 1\n"] {
        let line = head.lines().count() + 1;
        let broken = format!("c.toml:{line}: not TOML");
        assert_mistakes(&format!("{head}[log\nkind = \"none\"\n"), &[&broken]);
    }
    assert_mistakes(
        "[node]\nid = \"n1\"\n[log\nkind = \"none\"\nretntion = \"1h\"\n[limits]\nconnect_rat = 1\n",
        &["c.toml:3: not TOML", "c.toml:7: unknown key \"limits.connect_rat\""],
    );
}
