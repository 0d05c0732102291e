//! What a start would refuse beyond the text of the configuration, found without starting: files,
//! folders, and what librdkafka says of its settings. For `broker config check`. No server is asked,
//! no port is taken, nothing is written.
//!
//! Whether this machine has the addresses that are listened on is only a note: a configuration is
//! often checked elsewhere than where it runs.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use hydrant_actors::settings::LogKind;
use hydrant_protocol::AckLevel;
use rustix::fs::{Access, access};

use super::checked::Config;
use super::error::{ConfigErrors, Origin};
use super::source::Effective;
use crate::node::STORE_FOLDER;
use crate::{cassandra, embedded, zookeeper};

/// Everything that a start would refuse.
pub(super) fn check(effective: &Effective, config: &Config) -> Result<(), ConfigErrors> {
    let mut errors = ConfigErrors::default();
    let origin =
        |key: &str| effective.values.get(key).map_or(Origin::Default, |r| r.origin.clone());
    if let Some(options) = &config.kafka {
        let before = errors.0.len();
        for (name, (raw, origin)) in &effective.properties {
            if let Some(Err(why)) = raw.as_str().filter(|_| is_file(name)).map(readable) {
                errors.push(origin.clone(), format!("kafka.properties.{name}: {why}"));
            }
        }
        // It would say the same with fewer words.
        if errors.0.len() == before
            && let Err(why) = options.try_client()
        {
            let sentence = format!("[kafka] cannot be used, librdkafka says: {why}");
            errors.push(origin("log.kind"), sentence);
        }
    }
    if let Some(file) = config.cassandra.as_ref().and_then(|options| options.tls_ca.as_deref())
        && let Err(why) = cassandra::check_tls(file)
    {
        errors.push(origin("cassandra.tls_ca"), why);
    }
    if let Some(tls) = config.cluster.as_ref().and_then(|cluster| cluster.zookeeper.tls.as_ref())
        && let Err(why) = zookeeper::check_tls(tls)
    {
        // The sentence begins with the key.
        let key = why.split(':').next().unwrap_or_default().to_owned();
        errors.push(origin(&key), why);
    }
    if let Err(why) = data_dir(config) {
        errors.push(origin("node.data_dir"), why);
    }
    errors.into_result()
}

/// What is not a mistake, and often not what was meant either.
pub(super) fn notes(effective: &Effective, config: &Config) -> Vec<String> {
    let mut notes = foreign_addresses(config);
    if config.settings.log.kind == LogKind::Embedded {
        let default = effective.values.get("route_default.ack");
        let default = default
            .filter(|found| found.raw.as_str() == Some(AckLevel::Kafka.as_str()))
            .map(|found| &found.origin);
        let routes = effective.routes.iter().filter(|r| r.config.ack == Some(AckLevel::Kafka));
        if let Some(origin) = default.into_iter().chain(routes.map(|route| &route.origin)).min() {
            notes.push(format!("note: {origin}: ack = \"kafka\" waits for the embedded log, since log.kind is \"embedded\"; with log.kind = \"kafka\" it waits for Kafka"));
        }
    }
    notes
}

/// What a start here would refuse and one elsewhere would not.
fn foreign_addresses(config: &Config) -> Vec<String> {
    let addresses = [
        ("listener.address", Some(config.listener.address)),
        ("admin.address", config.admin),
        ("admin.agent_listen", config.agent),
        ("cluster.listen", config.cluster.as_ref().map(|cluster| cluster.listen)),
    ];
    let foreign = |(key, address): (&str, Option<SocketAddr>)| {
        let ip = address?.ip();
        // Port 0: nobody else's port is touched.
        let error = std::net::UdpSocket::bind((ip, 0)).err()?;
        (error.kind() == ErrorKind::AddrNotAvailable).then(|| {
            format!(
                "note: this machine has no address {ip} ({key}), so a start here would be refused"
            )
        })
    };
    addresses.into_iter().filter_map(foreign).collect()
}

/// Whether librdkafka opens the file that this property names.
fn is_file(name: &str) -> bool {
    name.starts_with("ssl.") && name.ends_with(".location") && name != "ssl.engine.location"
}

fn readable(file: &str) -> Result<(), String> {
    // "probe" looks for the system's certificates.
    if file.is_empty() || file == "probe" {
        return Ok(());
    }
    let opened = std::fs::metadata(file).and_then(|found| match found.is_dir() {
        // Certificates may be a folder of them.
        true => std::fs::read_dir(file).map(|_| ()),
        false => std::fs::File::open(file).map(|_| ()),
    });
    opened.map_err(|error| format!("{file} cannot be read: {error}"))
}

/// The data directory can be made or written, and what is in it is this node's.
fn data_dir(config: &Config) -> Result<(), String> {
    let dir = &config.data_dir;
    let node_id = &config.settings.node_id;
    let refused = |why: &dyn std::fmt::Display| {
        format!(
            "the folder {} cannot be made or written ({why}): choose another with --data-dir",
            dir.display()
        )
    };
    let nearest = existing(dir);
    let found = std::fs::metadata(&nearest).map_err(|error| refused(&error))?;
    if !found.is_dir() {
        return Err(refused(&format!("{} is no folder", nearest.display())));
    }
    access(&nearest, Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|error| refused(&std::io::Error::from(error)))?;
    let mut parts = Vec::new();
    if config.cassandra.is_none() {
        parts.push((STORE_FOLDER, "store"));
    }
    if config.settings.log.kind == LogKind::Embedded {
        parts.push(("log", "log"));
    }
    for (folder, part) in parts {
        embedded::check_folder(&dir.join(folder), part, node_id)
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// The path, or what of it is there.
fn existing(path: &Path) -> PathBuf {
    let here = Path::new(".");
    path.ancestors()
        .map(|part| if part.as_os_str().is_empty() { here } else { part })
        .find(|part| std::fs::symlink_metadata(part).is_ok())
        .unwrap_or(here)
        .to_owned()
}
