//! What a start warns of: ports that strangers reach, and too few open files. One sentence each, with what to do.

use std::net::SocketAddr;

use hydrant_actors::say;

use crate::config::Config;

/// File descriptors that are not clients'.
const OWN_FILES: u64 = 300;

/// Once the node is ready: a start that fails has other troubles.
pub fn warn(config: &Config, mqtt: SocketAddr, http: Option<SocketAddr>) {
    if let Ok(files) = rlimit::Resource::NOFILE.get_soft()
        && let Some(line) = too_few_files(files, config.settings.limits.max_connections)
    {
        say::warn!("{line}");
    }
    for line in [
        open_port(mqtt, "listener.address", MQTT),
        http.and_then(|http| open_port(http, "admin.address", HTTP)),
        config.cluster.as_ref().and_then(|peers| open_port(peers.listen, "cluster.listen", PEERS)),
    ]
    .into_iter()
    .flatten()
    {
        say::warn!(each: &line, "{line}");
    }
}

const MQTT: &str = "anyone who reaches it can publish and subscribe to everything; listen on 127.0.0.1, or let only known addresses in (listener.allow, a firewall)";
const HTTP: &str =
    "anyone who reaches it can read metrics and health; listen on 127.0.0.1, or use a firewall";
const PEERS: &str =
    "whoever reaches it can pass as a node; keep all but the nodes out of it with a firewall";

fn open_port(address: SocketAddr, key: &str, what: &str) -> Option<String> {
    let beyond = !address.ip().to_canonical().is_loopback();
    beyond
        .then(|| format!("{key} = {address} is beyond loopback and without authentication: {what}"))
}

fn too_few_files(files: u64, max_connections: usize) -> Option<String> {
    let clients = files.saturating_sub(OWN_FILES);
    (clients < max_connections as u64).then(|| {
        format!(
            "this process may open {files} files, limits.max_connections is {max_connections}: at most about \
             {clients} clients can connect; raise the limit (ulimit -n) or lower limits.max_connections"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_beyond_loopback_are_told_of() {
        for (address, beyond) in [
            ("127.0.0.1:1883", false),
            ("127.9.9.9:1883", false),
            ("[::1]:1883", false),
            ("[::ffff:127.0.0.1]:1883", false),
            ("0.0.0.0:1883", true),
            ("[::]:1883", true),
            ("192.0.2.1:1883", true),
        ] {
            let line = address
                .parse()
                .ok()
                .and_then(|address| open_port(address, "listener.address", MQTT));
            assert_eq!(line.is_some(), beyond, "{address}");
        }
    }

    #[test]
    fn too_few_files_are_told_of() {
        assert_eq!(too_few_files(100_300, 100_000), None);
        let line = too_few_files(20_000, 100_000);
        assert!(line.is_some_and(|line| line.contains("about 19700 clients")));
        assert!(too_few_files(100, 1).is_some());
    }
}
