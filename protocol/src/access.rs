//! Who may connect, by address: networks that are denied, networks that are allowed.
//!
//! An IPv4 address in IPv6 clothes (`::ffff:192.0.2.1`, as a socket on `[::]` shows it) is the IPv4
//! address. Bounds: the lists are walked, so their length is that of the configuration.

use std::net::{IpAddr, SocketAddr};

pub use ipnet::IpNet;
use ipnet::Ipv4Net;

/// Bits of `::ffff:0:0/96`, which the IPv4 addresses in IPv6 clothes have in common.
const MAPPED_BITS: u8 = 96;

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

/// A socket's address as it is shown and compared: IPv4 in IPv6 clothes is IPv4.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => (ip, address.port()).into(),
        // As it is, with its scope.
        IpAddr::V6(_) => address,
    }
}

/// A network as one writes it: `10.0.0.0/8`, `2001:db8::/32`, or one address. One of IPv4 addresses
/// in IPv6 clothes, `::ffff:192.0.2.0/120`, is the network of the IPv4 addresses.
pub fn parse_network(text: &str) -> Option<IpNet> {
    let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok()?;
    Some(plain(network).unwrap_or(network))
}

fn plain(network: IpNet) -> Option<IpNet> {
    let IpNet::V6(mapped) = network else { return None };
    let bits = mapped.prefix_len().checked_sub(MAPPED_BITS)?;
    let ip = mapped.addr().to_ipv4_mapped()?;
    Ipv4Net::new(ip, bits).ok().map(IpNet::V4)
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
        let shown = |text: &str| canonical(text.parse().unwrap()).to_string();
        assert_eq!(shown("[::ffff:192.0.2.1]:1883"), "192.0.2.1:1883");
        assert_eq!(shown("192.0.2.1:1883"), "192.0.2.1:1883");
        assert_eq!(shown("[fe80::1%3]:1883"), "[fe80::1%3]:1883");
    }

    #[test]
    fn a_network_of_ipv4_in_ipv6_is_one_of_ipv4() {
        for (text, plain) in [
            ("::ffff:192.0.2.1", "192.0.2.1/32"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("::ffff:c000:200/120", "192.0.2.0/24"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
        ] {
            let network = parse_network(text).unwrap();
            assert_eq!(network.to_string(), plain, "{text}");
            let rules = AddressRules { deny: vec![network], allow: Vec::new() };
            assert!(!admits(&rules, "192.0.2.1") && !admits(&rules, "::ffff:192.0.2.1"), "{text}");
            assert!(admits(&rules, "2001:db8::1"), "{text}");
        }
        // Wider than the IPv4 addresses: a network of IPv6.
        assert_eq!(parse_network("::/0").unwrap().to_string(), "::/0");
        assert_eq!(parse_network("::ffff:0:0/95").unwrap().prefix_len(), 95);
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
