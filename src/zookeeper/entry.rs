//! A member as it stands in ZooKeeper: JSON with a format number.
//!
//! Fields that are not known are ignored, so that a newer node can add some; what an older node
//! would read wrongly needs another format number.

use hydrant_protocol::cluster::{Load, Member};
use serde::{Deserialize, Serialize};

/// Of an entry, in bytes.
pub(super) const MAX_BYTES: usize = 8 << 10;
const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Entry {
    format: u32,
    cluster: String,
    node: String,
    incarnation: u64,
    peer: String,
    mqtt: Vec<String>,
    version: String,
    protocol: (u16, u16),
    connections: u64,
    max_connections: u64,
    draining: bool,
}

#[derive(Deserialize)]
struct Head {
    format: u32,
    cluster: String,
}

/// What a member shows of itself.
///
/// # Errors
/// One sentence: it is too large.
pub(super) fn encode(cluster: &str, member: &Member) -> Result<Vec<u8>, String> {
    let entry = Entry {
        format: FORMAT,
        cluster: cluster.to_owned(),
        node: member.node_id.to_string(),
        incarnation: member.incarnation,
        peer: member.peer.clone(),
        mqtt: member.mqtt.clone(),
        version: member.version.clone(),
        protocol: member.protocol,
        connections: member.load.connections,
        max_connections: member.load.max_connections,
        draining: member.draining,
    };
    let bytes = serde_json::to_vec(&entry).map_err(|error| error.to_string())?;
    if bytes.len() > MAX_BYTES {
        return Err(format!(
            "this node's entry in ZooKeeper would be {} bytes and may be {MAX_BYTES}: shorten \
             cluster.advertise_mqtt",
            bytes.len()
        ));
    }
    Ok(bytes)
}

/// The member in the node `name` of ZooKeeper.
///
/// # Errors
/// Why the entry is none of this cluster's; the end of a sentence.
pub(super) fn decode(cluster: &str, name: &str, bytes: &[u8]) -> Result<Member, String> {
    if bytes.len() > MAX_BYTES {
        return Err(format!("it has {} bytes and may have {MAX_BYTES}", bytes.len()));
    }
    let malformed = |error: serde_json::Error| format!("it is malformed ({error})");
    let head: Head = serde_json::from_slice(bytes).map_err(malformed)?;
    if head.format != FORMAT {
        return Err(format!("its format is {} and this version knows {FORMAT}", head.format));
    }
    if head.cluster != cluster {
        return Err(format!("it is of cluster {:?}", head.cluster));
    }
    let entry: Entry = serde_json::from_slice(bytes).map_err(malformed)?;
    if entry.node != name {
        return Err(format!("it is malformed (it names the node {:?})", entry.node));
    }
    if entry.peer.is_empty() || entry.protocol.0 > entry.protocol.1 {
        return Err("it is malformed (no peer address, or no peer protocol)".to_owned());
    }
    Ok(Member {
        node_id: entry.node.into(),
        incarnation: entry.incarnation,
        peer: entry.peer,
        mqtt: entry.mqtt,
        version: entry.version,
        protocol: entry.protocol,
        load: Load { connections: entry.connections, max_connections: entry.max_connections },
        draining: entry.draining,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
pub(super) mod tests {
    use super::*;

    pub(in crate::zookeeper) fn member(node_id: &str, incarnation: u64) -> Member {
        Member {
            node_id: node_id.into(),
            incarnation,
            peer: format!("{node_id}:7883"),
            mqtt: vec![format!("{node_id}:1883")],
            version: "0.1.0".to_owned(),
            protocol: (1, 2),
            load: Load { connections: 3, max_connections: 9 },
            draining: true,
        }
    }

    #[test]
    fn an_entry_comes_back_as_it_was() {
        let member = member("n1", 7);
        let bytes = encode("c", &member).unwrap();
        assert_eq!(decode("c", "n1", &bytes), Ok(member));
    }

    #[test]
    fn what_is_not_ours_says_why() {
        let text = String::from_utf8(encode("c", &member("n1", 7)).unwrap()).unwrap();
        let wrong = |text: &str| decode("c", "n1", text.as_bytes()).unwrap_err();
        assert!(wrong("").starts_with("it is malformed"));
        assert!(wrong(&text.replace("\"peer\"", "\"pear\"")).starts_with("it is malformed"));
        assert!(wrong(&text.replace("n1:7883", "")).contains("no peer address"));
        assert!(wrong(&text.replace("[1,2]", "[2,1]")).contains("no peer protocol"));
        assert!(decode("c", "n2", text.as_bytes()).unwrap_err().contains("the node \"n1\""));
        assert_eq!(decode("d", "n1", text.as_bytes()).unwrap_err(), "it is of cluster \"c\"");
        let newer = "{\"format\":2,\"cluster\":\"c\",\"what\":[]}";
        assert_eq!(wrong(newer), "its format is 2 and this version knows 1");
        assert!(wrong(&" ".repeat(MAX_BYTES + 1)).contains("8193 bytes"));
        let more = text.replace("{\"format\"", "{\"rack\":\"a\",\"format\"");
        assert!(decode("c", "n1", more.as_bytes()).is_ok());
    }

    #[test]
    fn an_entry_that_is_too_large_is_refused() {
        let mut member = member("n1", 7);
        member.mqtt = vec!["a".repeat(100); 90];
        assert!(encode("c", &member).unwrap_err().contains("cluster.advertise_mqtt"));
    }
}
