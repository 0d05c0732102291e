//! Lists of servers as host and port: what the hosts and ports of a key can be.

use super::reader::Reader;
use super::value::{Value, host_port};

/// The servers of `path`, each as "host:port", `port` added where there is none. Each that cannot be
/// one is a mistake of its own, and left out.
pub(super) fn list<'a>(r: &mut Reader<'a>, path: &'a str, port: Option<u16>) -> Vec<String> {
    let given = match r.value(path) {
        Some(Value::List(servers)) => servers.as_slice(),
        _ => &[],
    };
    let mut servers = Vec::with_capacity(given.len());
    for server in given {
        match host_port(server, port) {
            Some(server) => servers.push(server),
            None => {
                let origin = r.origin(path);
                r.errors.push(origin, format!("{path}: {}", wrong(server, port)));
            }
        }
    }
    servers
}

fn wrong(server: &str, port: Option<u16>) -> String {
    let forms = match port {
        Some(port) => format!("\"host\", \"host:port\" or \"[::1]:{port}\""),
        None => "\"host:port\", as in \"10.0.0.1:9092\" or \"[::1]:9092\"".to_owned(),
    };
    let hint = match server.split_once("://") {
        Some((scheme, _)) => format!(", without \"{scheme}://\""),
        None => match server.rsplit_once(':') {
            Some((_, text)) if text.parse::<u16>().ok().filter(|port| *port != 0).is_none() => {
                format!(", and \"{text}\" is no port (1 to 65535)")
            }
            _ => String::new(),
        },
    };
    format!("\"{server}\" is not right: it must be {forms}{hint}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::load;
    use super::super::tests::from;

    #[test]
    fn servers_of_kafka_that_cannot_be_are_refused_one_by_one() {
        let file = |servers: &str| {
            from(&format!("[log]\nkind = \"kafka\"\n[kafka]\nbootstrap_servers = {servers}\n"))
        };
        for (server, hint) in [
            ("http://127.0.0.1:9092", "\"[::1]:9092\", without \"http://\""),
            ("a:b", "\"[::1]:9092\", and \"b\" is no port (1 to 65535)"),
            ("a:0", "and \"0\" is no port (1 to 65535)"),
            ("a:99999", "and \"99999\" is no port"),
            ("kafka", "it must be \"host:port\""),
            ("a/b:1", "it must be \"host:port\""),
        ] {
            let found = load(&file(&format!("\"good:1,{server}\""))).unwrap_err().to_string();
            let start = format!("c.toml:4: kafka.bootstrap_servers: \"{server}\" is not right");
            assert!(found.starts_with(&start) && found.contains(hint), "{found}");
            assert_eq!(found.lines().count(), 1, "{found}");
        }
        let loaded = load(&file("[\"a:1\", \"[::1]:2\", \"10.0.0.1:3\"]")).unwrap();
        assert_eq!(loaded.config.kafka.unwrap().bootstrap_servers, "a:1,[::1]:2,10.0.0.1:3");
    }
}
