//! Sockets: the networks that may connect, and that no two ports are the same.

use hydrant_protocol::access::AddressRules;

use super::super::load;
use super::{assert_mistakes, from, mistakes};

#[test]
fn networks_of_the_listener() {
    let access = |text: &str| load(&from(text)).unwrap().config.settings.access;
    let default = access("");
    assert_eq!((&default.proxy_from, &default.rules), (&None, &AddressRules::default()));
    let required = access("[listener]\nproxy_protocol = \"required\"\n");
    assert_eq!(required.proxy_from.unwrap().len(), 2, "loopback of both families");
    let all = access(
        "[listener]\nproxy_protocol = \"required\"\nproxy_from = [\"10.0.0.1\"]\nallow = \"10.0.0.0/8, ::1\"\ndeny = [\"10.9.0.0/16\"]\n",
    );
    let counts = (all.proxy_from.unwrap().len(), all.rules.allow.len(), all.rules.deny.len());
    assert_eq!(counts, (1, 2, 1));
    let none = access("[listener]\nproxy_from = []\nallow = []\ndeny = \"\"\n");
    assert_eq!(none.rules, AddressRules::default());
    assert_mistakes(
        "[listener]\nproxy_protocol = \"required\"\nproxy_from = []\n",
        &["c.toml:3: listener.proxy_protocol = \"required\" with an empty listener.proxy_from"],
    );
    assert_mistakes(
        "[listener]\nproxy_from = [\"10.0.0.1\"]\n",
        &["c.toml:2: listener.proxy_from is set and listener.proxy_protocol is \"off\""],
    );
    assert_eq!(access("[listener]\nproxy_from = \"127.0.0.0/8, ::1\"\n").proxy_from, None);
    assert_mistakes(
        "[listener]\nproxy_protocol = \"optional\"\nallow = [\"10.0.0.0/33\"]\ndeny = \"lb.example\"\n[admin]\nagent_listen = \"9884\"\n",
        &[
            r#"c.toml:2: listener.proxy_protocol = "optional" is not one of "off", "required""#,
            r#"c.toml:3: listener.allow = "10.0.0.0/33" is not right: it must be a network or an address"#,
            r#"c.toml:4: listener.deny = "lb.example" is not right"#,
            r#"c.toml:6: admin.agent_listen = "9884" is not right: it must be "off", or"#,
        ],
    );
}

#[test]
fn no_two_ports_are_the_same() {
    let cluster = "[storage]\nkind = \"cassandra\"\n[cassandra]\ncontact_points = \"a\"\n[cluster]\nkind = \"zookeeper\"\n";
    let same = |a: &str, b: &str| format!("c.toml:4: {a} and {b} take the same port");
    for (file, a, b) in [
        ("[admin]\n\n\naddress = \"0.0.0.0:1883\"\n", "listener.address", "admin.address"),
        // Every address of the machine is that one, too.
        ("[admin]\n\n\naddress = \"127.0.0.1:1883\"\n", "listener.address", "admin.address"),
        ("[admin]\n\n\nagent_listen = \"[::]:1883\"\n", "listener.address", "admin.agent_listen"),
        ("[admin]\n\n\nagent_listen = \"127.0.0.1:9883\"\n", "admin.address", "admin.agent_listen"),
    ] {
        assert_mistakes(file, &[&same(a, b)]);
    }
    for (more, a, b) in [
        ("listen = \"127.0.0.1:1883\"\n", "cluster.listen", "listener.address"),
        ("listen = \"127.0.0.1:9883\"\n", "cluster.listen", "admin.address"),
        ("[admin]\nagent_listen = \"127.0.0.1:7883\"\n", "cluster.listen", "admin.agent_listen"),
    ] {
        let found = mistakes(&from(&format!("{cluster}{more}")));
        let expected = format!("{a} and {b} take the same port: give one of them another");
        assert!(found.len() == 1 && found[0].ends_with(&expected), "{found:#?}");
    }
    for fine in [
        "[admin]\nenabled = false\naddress = \"0.0.0.0:1883\"\n",
        "[admin]\nagent_listen = \"127.0.0.1:7883\"\n",
        "[admin]\nagent_listen = \"127.0.0.2:9883\"\n",
        "[admin]\nagent_listen = \"[::1]:1883\"\n",
        "[listener]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n",
    ] {
        load(&from(fine)).unwrap_or_else(|errors| panic!("{fine}{errors}"));
    }
}
