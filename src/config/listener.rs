//! Who may connect, of `[listener]`: from values to [`Access`].

use hydrant_actors::settings::Access;
use hydrant_protocol::access::{AddressRules, IpNet, parse_network};

use super::check::Reader;
use super::keys::{ALLOW, DENY};
use super::value::Value;

/// Where PROXY headers are taken from.
const FROM: &str = "listener.proxy_from";

/// The lists are checked whatever `listener.proxy_protocol` says.
pub(super) fn access(r: &mut Reader<'_>) -> Access {
    let trusted = networks(r, FROM);
    let proxy_from = (r.text("listener.proxy_protocol") == "required").then_some(trusted);
    Access {
        proxy_from,
        rules: AddressRules { deny: networks(r, DENY), allow: networks(r, ALLOW) },
    }
}

fn networks(r: &mut Reader<'_>, path: &'static str) -> Vec<IpNet> {
    let given = match r.value(path) {
        Some(Value::List(given)) => given.clone(),
        _ => Vec::new(),
    };
    let mut networks = Vec::with_capacity(given.len());
    for text in &given {
        match parse_network(text) {
            Some(network) => networks.push(network),
            None => {
                let origin = r.origin(path);
                r.errors.push(origin, format!("{path}: \"{text}\" is not right: it must be a network or an address, as in \"10.0.0.0/8\", \"10.1.2.3\" or \"2001:db8::/32\""));
            }
        }
    }
    networks
}
