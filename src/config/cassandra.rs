//! `[cassandra]`: from values to [`CassandraOptions`].
//!
//! The section is checked whatever `storage.kind` says, and handed on only with "cassandra".

use std::path::PathBuf;

use super::keys::CONTACT_POINTS;
use super::reader::Reader;
use super::servers;
use super::value::Value;
use crate::cassandra::{CassandraOptions, Level};

/// Where Cassandra listens for CQL.
const PORT: u16 = 9042;
/// Half of what Cassandra's default of 16 MiB for one mutation (half a commit log segment) leaves:
/// a message is stored with what belongs to it.
const MAX_PACKET: usize = 8 << 20;
/// A batch with an incoming QoS 2 message is one mutation, with one packet that came on top of it.
const MAX_BATCH: usize = 4 << 20;

/// Reads every key of the section; `None` with another store, or without contact points.
pub(super) fn options(r: &mut Reader<'_>) -> Option<CassandraOptions> {
    let wanted = r.text("storage.kind") == "cassandra" && !r.effective.bad.contains("storage.kind");
    let given = matches!(r.value(CONTACT_POINTS), Some(Value::List(_)));
    if wanted && !given && !r.effective.bad.contains(CONTACT_POINTS) {
        let origin = r.origin("storage.kind");
        r.errors.push(origin, "storage.kind = \"cassandra\" needs cassandra.contact_points: set it to \"host:port\" of your Cassandra");
    }
    let contact_points = servers::list(r, CONTACT_POINTS, Some(PORT));
    let packet_bytes: usize = r.number("limits.max_packet_size");
    r.cross(
        !wanted || packet_bytes <= MAX_PACKET,
        ["limits.max_packet_size", "storage.kind"],
        "limits.max_packet_size is above 8MiB, and Cassandra could not take such a message in one write: lower it",
    );
    let batch_bytes: usize = r.number("storage.batch_max_bytes");
    r.cross(
        !wanted || batch_bytes <= MAX_BATCH,
        ["storage.batch_max_bytes", "storage.kind"],
        "storage.batch_max_bytes is above 4MiB, and Cassandra could not take such a batch in one write: lower it",
    );
    let [username, password] = ["cassandra.username", "cassandra.password"];
    let credentials = (r.text(username).to_string(), r.text(password).to_string());
    r.cross(
        !credentials.0.is_empty() || credentials.1.is_empty(),
        [password, username],
        "cassandra.password without cassandra.username: set both or none",
    );
    let tls_ca = r.text("cassandra.tls_ca");
    let options = CassandraOptions {
        contact_points,
        local_dc: r.text("cassandra.local_dc").into(),
        keyspace: r.text("cassandra.keyspace").into(),
        create_schema: r.flag("cassandra.create_schema"),
        replication_factor: r.number("cassandra.replication_factor"),
        write_consistency: level(r.text("cassandra.write_consistency")),
        read_consistency: level(r.text("cassandra.read_consistency")),
        credentials: Some(credentials).filter(|(username, _)| !username.is_empty()),
        tls_ca: Some(PathBuf::from(tls_ca)).filter(|_| !tls_ca.is_empty()),
        request_timeout: r.time("cassandra.request_timeout"),
        connect_timeout: r.time("cassandra.connect_timeout"),
        retries: r.number("cassandra.retries"),
        speculative_delay: r.time("cassandra.speculative_delay"),
        max_requests: r.number("cassandra.max_requests"),
        lease: r.time("cassandra.lease"),
        shared: r.text("cluster.kind") == "zookeeper",
        outbox_lanes: r.number("storage.outbox_lanes"),
    };
    (wanted && !options.contact_points.is_empty()).then_some(options)
}

fn level(word: &str) -> Level {
    match word {
        "one" => Level::One,
        "local_one" => Level::LocalOne,
        "quorum" => Level::Quorum,
        "each_quorum" => Level::EachQuorum,
        "all" => Level::All,
        _ => Level::LocalQuorum,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::time::Duration;

    use super::super::tests::from;
    use super::super::{Loaded, Sources, load};
    use super::*;

    const BASE: &str = "[storage]\nkind = \"cassandra\"\n[cassandra]\ncontact_points = [\"a\", \"[::1]:9\", \"10.0.0.1:7\"]\n";

    fn mistakes(file: &str) -> Vec<String> {
        load(&from(file)).unwrap_err().0.iter().map(ToString::to_string).collect()
    }

    fn options(loaded: &Loaded) -> CassandraOptions {
        loaded.config.cassandra.clone().unwrap()
    }

    #[test]
    fn defaults_and_contact_points() {
        let loaded = load(&from(BASE)).unwrap();
        let o = options(&loaded);
        assert_eq!(o.contact_points, ["a:9042", "[::1]:9", "10.0.0.1:7"]);
        assert_eq!((o.local_dc.as_str(), o.keyspace.as_str()), ("", "hydrant"));
        assert!(o.create_schema && o.credentials.is_none() && o.tls_ca.is_none());
        assert_eq!((o.replication_factor, o.max_requests, o.outbox_lanes), (1, 256, 16));
        assert_eq!(
            (o.write_consistency, o.read_consistency),
            (Level::LocalQuorum, Level::LocalQuorum)
        );
        let seconds = Duration::from_secs;
        assert_eq!((o.request_timeout, o.connect_timeout), (seconds(5), seconds(30)));
        assert_eq!((o.speculative_delay, o.lease), (seconds(0), seconds(10)));
        assert_eq!(loaded.config.settings.storage.max_in_flight, 16);
        let own = format!("{BASE}write_consistency = \"all\"\n")
            .replace("[cassandra]", "max_in_flight = 3\n[cassandra]");
        let loaded = load(&from(&own)).unwrap();
        assert_eq!(options(&loaded).write_consistency, Level::All);
        assert_eq!(loaded.config.settings.storage.max_in_flight, 3);
    }

    #[test]
    fn the_section_is_checked_and_handed_on_only_when_it_is_used() {
        let mut embedded = from(BASE);
        embedded.set = vec!["storage.kind=embedded".into()];
        assert!(load(&embedded).unwrap().config.cassandra.is_none());
        let wrong = BASE.replace("\"a\"", "\"::1\"");
        let wrong = Sources { file: Some(("c.toml".into(), wrong)), ..embedded };
        assert!(
            load(&wrong)
                .unwrap_err()
                .to_string()
                .starts_with("c.toml:4: cassandra.contact_points: \"::1\" is not right")
        );
        let found = mistakes("[storage]\nkind = \"cassandra\"\n");
        assert!(
            found.len() == 1
                && found[0].starts_with(
                    "c.toml:2: storage.kind = \"cassandra\" needs cassandra.contact_points"
                ),
            "{found:?}"
        );
        let found = mistakes(&format!(
            "{BASE}keyspace = \"Mine\"\nlease = \"10ms\"\nread_consistency = \"three\"\n[limits]\nmax_packet_size = \"9MiB\"\n"
        ));
        assert_eq!(found.len(), 4, "{found:#?}");
        assert!(
            found[0].starts_with(
                "c.toml:5: cassandra.keyspace = \"Mine\" is not right: it must be 1 to 48"
            ),
            "{found:#?}"
        );
        assert!(
            found[1].starts_with("c.toml:6: cassandra.lease = \"10ms\" is out of range: 1s to 10m"),
            "{found:#?}"
        );
        // What there is, once.
        assert_eq!(
            found[2],
            "c.toml:7: cassandra.read_consistency = \"three\" is not one of \"one\", \"local_one\", \"quorum\", \"local_quorum\", \"each_quorum\", \"all\""
        );
        assert!(
            found[3].starts_with("c.toml:9: limits.max_packet_size is above 8MiB"),
            "{found:#?}"
        );
    }

    #[test]
    fn a_batch_that_cassandra_could_not_take_is_refused() {
        let large = |size: &str| {
            BASE.replace("[cassandra]", &format!("batch_max_bytes = \"{size}\"\n[cassandra]"))
        };
        assert!(load(&from(&large("4MiB"))).is_ok());
        let found = mistakes(&large("5MiB"));
        assert!(
            found.len() == 1
                && found[0].starts_with("c.toml:3: storage.batch_max_bytes is above 4MiB"),
            "{found:?}"
        );
        let mut embedded = from(&large("5MiB"));
        embedded.set = vec!["storage.kind=embedded".into()];
        assert!(load(&embedded).is_ok());
    }

    #[test]
    fn the_password_is_shown_by_nothing() {
        let mut sources = from(&format!("{BASE}username = \"hydrant\"\n"));
        sources.env = super::super::tests::env(&[("HYDRANT__CASSANDRA__PASSWORD", "[hush]")]);
        let loaded = load(&sources).unwrap();
        assert_eq!(options(&loaded).credentials, Some(("hydrant".into(), "[hush]".into())));
        let printed = loaded.print();
        assert!(!printed.contains("hush") && !format!("{:?}", options(&loaded)).contains("hush"));
        assert!(
            printed.contains("password = \"***\" # environment HYDRANT__CASSANDRA__PASSWORD"),
            "{printed}"
        );
        let found = mistakes(&format!("{BASE}password = \"hush\"\n"));
        assert!(
            found.len() == 1 && found[0].starts_with("c.toml:5: cassandra.password without"),
            "{found:?}"
        );
        let found = mistakes(&format!("{BASE}username = \"u\"\npassword = 424242\n"));
        assert_eq!(found, ["c.toml:6: cassandra.password must be a string"]);
    }
}
