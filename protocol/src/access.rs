//! Who may connect, by address: networks that are denied, networks that are allowed.
//!
//! An IPv4 address in IPv6 clothes (`::ffff:192.0.2.1`, as a socket on `[::]` shows it) is the IPv4
//! address. Bounds: the lists are walked, so their length is that of the configuration.

use std::net::IpAddr;

pub use ipnet::IpNet;

/// The rules; without any everybody may connect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressRules {
    /// Looked at first.
    pub deny: Vec<IpNet>,
    /// Empty allows all that `deny` does not name.
    pub allow: Vec<IpNet>,
}

impl AddressRules {
    /// Whether a client of this address may connect.
    pub fn admit(&self, client: IpAddr) -> bool {
        !within(&self.deny, client) && (self.allow.is_empty() || within(&self.allow, client))
    }
}

/// Whether one of the networks has this address.
pub fn within(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// A network as one writes it: `10.0.0.0/8`, `2001:db8::/32`, or one address.
pub fn parse_network(text: &str) -> Option<IpNet> {
    text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn rules(deny: &[&str], allow: &[&str]) -> AddressRules {
        let all = |texts: &[&str]| texts.iter().map(|text| parse_network(text).unwrap()).collect();
        AddressRules { deny: all(deny), allow: all(allow) }
    }

    fn admits(rules: &AddressRules, address: &str) -> bool {
        rules.admit(address.parse().unwrap())
    }

    #[test]
    fn deny_comes_first_and_an_empty_allow_is_everybody() {
        let all = rules(&[], &[]);
        assert!(admits(&all, "192.0.2.1") && admits(&all, "::1"));
        let denied = rules(&["192.0.2.0/24", "2001:db8::1"], &[]);
        assert!(!admits(&denied, "192.0.2.255") && admits(&denied, "192.0.3.0"));
        assert!(!admits(&denied, "2001:db8::1") && admits(&denied, "2001:db8::2"));
        let both = rules(&["192.0.2.7"], &["192.0.2.0/24"]);
        assert!(admits(&both, "192.0.2.6") && !admits(&both, "192.0.2.7"));
        assert!(!admits(&both, "198.51.100.1") && !admits(&both, "::1"));
    }

    #[test]
    fn ipv4_in_ipv6_is_ipv4() {
        let rules = rules(&["192.0.2.0/24"], &["0.0.0.0/0"]);
        assert!(!admits(&rules, "::ffff:192.0.2.1") && admits(&rules, "::ffff:192.0.3.1"));
    }

    #[test]
    fn networks_and_single_addresses_are_read_and_nothing_else() {
        for text in ["10.0.0.0/8", "10.1.2.3", "::1", "2001:db8::/32"] {
            assert!(parse_network(text).is_some(), "{text}");
        }
        for text in ["", "10.0.0.0/33", "10.0.0", "localhost", "10.0.0.1:1883", "10.0.0.0/-1"] {
            assert!(parse_network(text).is_none(), "{text}");
        }
    }
}
