//! Who may connect, of `[listener]`: from values to [`Access`].

use hydrant_actors::settings::Access;
use hydrant_protocol::access::{AddressRules, IpNet};

use super::check::Reader;
use super::value::Value;

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
