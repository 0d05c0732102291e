//! Keys that count only while a switch has one value: `[kafka]` with `log.kind = "kafka"`.
//!
//! Such a key at another value than its default, while the switch is elsewhere, is a mistake: it
//! would be ignored in silence. A key that is written with its default is none, so that what
//! `broker config default` prints is valid. Nor is one whose switch is set in a later layer (the
//! file has `[kafka]`, and `--set log.kind=none` is given for this run): that is a choice.

use super::error::Origin;
use super::keys::{KEYS, PROPERTIES};
use super::reader::Reader;
use super::value;

/// Keys that count only while `switch` is `on`.
struct Switched {
    switch: &'static str,
    on: &'static str,
    /// The sentence's middle: what of it there is not.
    without: &'static str,
    /// Whose keys they are, for "or leave … out".
    keys: &'static str,
    covers: fn(&str) -> bool,
}

/// The keys of `[log]` that only the embedded log reads.
const EMBEDDED_LOG: [&str; 8] = [
    "log.retention",
    "log.retention_bytes",
    "log.max_topics",
    "log.segment_size",
    "log.cache_size",
    "log.journal_max_size",
    "log.batch_max_records",
    "log.batch_max_bytes",
];
/// The keys of `[storage]` that only the embedded store reads.
const EMBEDDED_STORE: [&str; 2] = ["storage.cache_size", "storage.journal_max_size"];

const SWITCHED: [Switched; 6] = [
    Switched {
        switch: "log.kind",
        on: "kafka",
        without: "nothing goes to Kafka",
        keys: "[kafka]",
        covers: |path| path.starts_with("kafka."),
    },
    Switched {
        switch: "storage.kind",
        on: "cassandra",
        without: "nothing is kept in Cassandra",
        keys: "[cassandra]",
        covers: |path| path.starts_with("cassandra."),
    },
    Switched {
        switch: "cluster.kind",
        on: "zookeeper",
        without: "ZooKeeper is not asked",
        keys: "[zookeeper]",
        covers: |path| path.starts_with("zookeeper."),
    },
    Switched {
        switch: "cluster.kind",
        on: "zookeeper",
        without: "this node is in no cluster",
        keys: "[cluster]",
        covers: |path| path.starts_with("cluster.") && path != "cluster.kind",
    },
    Switched {
        switch: "log.kind",
        on: "embedded",
        without: "there is no embedded log",
        keys: "the embedded log's keys",
        covers: |path| EMBEDDED_LOG.contains(&path),
    },
    Switched {
        switch: "storage.kind",
        on: "embedded",
        without: "there is no embedded store",
        keys: "the embedded store's keys",
        covers: |path| EMBEDDED_STORE.contains(&path),
    },
];

/// One sentence for each section that is set in vain, at its first key.
pub(super) fn check(r: &mut Reader<'_>) {
    for switched in &SWITCHED {
        let Some(now) = r.effective.values.get(switched.switch) else { continue };
        let stands = now.raw.as_str().unwrap_or_default();
        if stands == switched.on || r.effective.bad.contains(switched.switch) {
            continue;
        }
        let keys = KEYS.iter().filter(|key| (switched.covers)(key.path) && key.path != PROPERTIES);
        let values = keys.filter_map(|key| {
            let value = r.effective.values.get(key.path)?;
            let written = value.origin != Origin::Default;
            let default = || {
                let raw = value::from_text(key.kind, key.default?);
                value::check(key, &raw).ok()
            };
            (written && default().as_ref() != Some(&value.value))
                .then(|| (value.origin.clone(), key.path.to_owned()))
        });
        let properties = r.effective.properties.iter().filter(|_| (switched.covers)(PROPERTIES));
        let properties =
            properties.map(|(name, (_, origin))| (origin.clone(), format!("{PROPERTIES}.{name}")));
        let chosen = layer(&now.origin);
        let in_vain = values.chain(properties).filter(|(origin, _)| layer(origin) >= chosen);
        let Some((origin, path)) = in_vain.min() else { continue };
        let Switched { switch, on, without, keys, .. } = switched;
        let sentence = format!(
            "{path} is set and {switch} is \"{stands}\", so that {without}: set {switch} = \"{on}\", or leave {keys} out"
        );
        r.errors.push(origin, sentence);
    }
}

/// The layers in their order; later wins.
fn layer(origin: &Origin) -> u8 {
    match origin {
        Origin::Default => 0,
        Origin::File { .. } => 1,
        Origin::Env(_) => 2,
        Origin::Set(_) => 3,
        Origin::Flag(_) => 4,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tests::{env, from};
    use super::super::{Sources, load, shipped};
    use super::*;

    fn mistakes(sources: &Sources) -> Vec<String> {
        load(sources).unwrap_err().0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_section_whose_switch_is_elsewhere_is_refused() {
        for (file, expected) in [
            (
                "[kafka]\nbootstrap_servers = \"a:1\"\n",
                "c.toml:2: kafka.bootstrap_servers is set and log.kind is \"embedded\", so that nothing goes to Kafka: set log.kind = \"kafka\", or leave [kafka] out",
            ),
            (
                "[log]\nkind = \"none\"\n[kafka]\nlinger = \"9ms\"\npartitions = 3\n",
                "c.toml:4: kafka.linger is set and log.kind is \"none\"",
            ),
            (
                "[kafka.properties]\n\"client.rack\" = \"r1\"\n",
                "c.toml:2: kafka.properties.client.rack is set and log.kind is \"embedded\"",
            ),
            (
                "[cassandra]\ncontact_points = \"a\"\n",
                "c.toml:2: cassandra.contact_points is set and storage.kind is \"embedded\", so that nothing is kept in Cassandra: set storage.kind = \"cassandra\"",
            ),
            (
                "[zookeeper]\nservers = \"a\"\n",
                "c.toml:2: zookeeper.servers is set and cluster.kind is \"single\", so that ZooKeeper is not asked: set cluster.kind = \"zookeeper\"",
            ),
            (
                "[cluster]\nadvertise = \"a:1\"\n",
                "c.toml:2: cluster.advertise is set and cluster.kind is \"single\", so that this node is in no cluster",
            ),
            (
                "[log]\nkind = \"kafka\"\nretention = \"1h\"\n[kafka]\nbootstrap_servers = \"a:1\"\n",
                "c.toml:3: log.retention is set and log.kind is \"kafka\", so that there is no embedded log: set log.kind = \"embedded\", or leave the embedded log's keys out",
            ),
            (
                "[storage]\nkind = \"cassandra\"\ncache_size = \"1GiB\"\n[cassandra]\ncontact_points = \"a\"\n",
                "c.toml:3: storage.cache_size is set and storage.kind is \"cassandra\", so that there is no embedded store",
            ),
        ] {
            let found = mistakes(&from(file));
            assert!(found.len() == 1 && found[0].starts_with(expected), "{file}{found:#?}");
        }
    }

    #[test]
    fn every_layer_counts() {
        let set = Sources { set: vec!["kafka.bootstrap_servers=a:1".into()], ..Sources::default() };
        let by_env = Sources {
            env: env(&[("HYDRANT__ZOOKEEPER__SERVERS", "a"), ("HYDRANT__CLUSTER__ID", "x")]),
            ..Sources::default()
        };
        // A switch of the file does not excuse a key of a later layer.
        let both = Sources { set: set.set.clone(), ..from("[log]\nkind = \"embedded\"\n") };
        for (sources, starts) in [
            (set, &["--set kafka.bootstrap_servers: kafka.bootstrap_servers is set"][..]),
            (
                by_env,
                &[
                    "environment HYDRANT__CLUSTER__ID: cluster.id is set",
                    "environment HYDRANT__ZOOKEEPER__SERVERS: zookeeper.servers is set",
                ],
            ),
            (both, &["--set kafka.bootstrap_servers: kafka.bootstrap_servers is set"]),
        ] {
            let found = mistakes(&sources);
            assert_eq!(found.len(), starts.len(), "{found:#?}");
            assert!(found.iter().zip(starts).all(|(f, s)| f.starts_with(s)), "{found:#?}");
        }
    }

    #[test]
    fn defaults_written_out_and_a_switch_of_a_later_layer_are_fine() {
        load(&from(&shipped())).unwrap();
        load(&from("[kafka]\nlinger = \"5ms\"\nmessage_max_bytes = 1179648\n")).unwrap();
        let kafka = "[log]\nkind = \"kafka\"\n[kafka]\nbootstrap_servers = \"a:1\"\n";
        let once = Sources { set: vec!["log.kind=none".into()], ..from(kafka) };
        load(&once).unwrap();
        let printed = load(&once).unwrap().print();
        // What is printed is one layer, where the choice is not seen.
        assert!(mistakes(&from(&printed))[0].contains("kafka.bootstrap_servers is set"));
        let cassandra = "[storage]\nkind = \"cassandra\"\n[cassandra]\ncontact_points = \"a\"\n";
        load(&Sources { env: env(&[("HYDRANT__STORAGE__KIND", "embedded")]), ..from(cassandra) })
            .unwrap();
    }

    #[test]
    fn a_switch_with_a_mistake_says_nothing_of_its_section() {
        let found =
            mistakes(&from("[log]\nkind = \"kafak\"\n[kafka]\nbootstrap_servers = \"a:1\"\n"));
        assert!(found.len() == 1 && found[0].contains("kafak"), "{found:#?}");
    }

    #[test]
    fn every_key_that_is_named_exists() {
        for key in EMBEDDED_LOG.iter().chain(&EMBEDDED_STORE) {
            assert!(KEYS.iter().any(|known| known.path == *key), "{key}");
        }
        // "Embedded log: …" is how the table marks them.
        let marked = KEYS.iter().filter(|key| key.doc.starts_with("Embedded log:"));
        assert_eq!(marked.map(|key| key.path).collect::<Vec<_>>(), EMBEDDED_LOG);
    }
}
