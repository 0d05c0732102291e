//! Who may connect, of `[listener]`: from values to [`Access`].

use hydrant_actors::settings::Access;
use hydrant_protocol::access::{AddressRules, IpNet, parse_network};

use super::reader::Reader;
use super::value::Value;

/// The default of `listener.proxy_from`, which the shipped file has, too.
const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1"];

/// The lists are checked whatever `listener.proxy_protocol` says.
pub(super) fn access(r: &mut Reader<'_>) -> Access {
    let [required, from] = ["listener.proxy_protocol", "listener.proxy_from"];
    let trusted = networks(r, from);
    let expected = r.text(required) == "required";
    r.cross(
        !expected || !trusted.is_empty(),
        [required, from],
        "listener.proxy_protocol = \"required\" with an empty listener.proxy_from lets nobody in: name the load balancers there",
    );
    let asked = !trusted.is_empty()
        && !trusted.iter().copied().eq(LOOPBACK.iter().filter_map(|text| parse_network(text)));
    r.cross(
        expected || !asked,
        [required, from],
        "listener.proxy_from is set and listener.proxy_protocol is \"off\", so that no header is read and everybody may connect: set it to \"required\", or leave proxy_from out and use listener.allow",
    );
    Access {
        proxy_from: expected.then_some(trusted),
        rules: AddressRules {
            deny: networks(r, "listener.deny"),
            allow: networks(r, "listener.allow"),
        },
    }
}

fn networks(r: &mut Reader<'_>, path: &'static str) -> Vec<IpNet> {
    match r.value(path) {
        Some(Value::Networks(networks)) => networks.clone(),
        _ => {
            r.internal(path);
            Vec::new()
        }
    }
}
