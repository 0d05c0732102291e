//! How a node gets to its Cassandra: login, TLS, data centre; and what it says when it does not.

use crate::faults::node;
use crate::support::cassandra::{Cassandra, DATACENTER, Options, shared};
use crate::support::node::Builder;
use crate::support::{says, unique};

/// One sentence to the user, and a non-zero exit.
#[track_caller]
fn refused(node: Builder, parts: &[&str]) {
    let (code, said) = node.set("cassandra.connect_timeout", "3s").fails();
    assert_eq!(code, Some(1), "{said}");
    let last = said.lines().last().unwrap_or_default();
    says(last, parts);
}

/// A message is stored, and found by the node that comes after.
#[track_caller]
fn works(node: Builder) {
    let node = node.start();
    let (topic, mut client) = (unique("start"), node.client("c"));
    client.retain(&topic, "kept", 1);
    let node = node.restart();
    let mut client = node.client("c").subscribed(&topic, 1);
    assert_eq!(client.take().text(), "kept");
}

#[test]
fn the_login_is_asked_for_and_checked() {
    let options = Options { password_auth: true, ..Options::default() };
    let cassandra = Cassandra::start_with(&options);
    let node = || node(&cassandra.address());
    refused(node(), &["cassandra.username"]);
    let with = |word: &str| {
        node().set("cassandra.username", "cassandra").env("HYDRANT__CASSANDRA__PASSWORD", word)
    };
    refused(with("wrong"), &["refuses the login", "cassandra.password"]);
    works(with("cassandra"));
}

#[test]
fn tls_with_the_right_authority_and_no_other() {
    let options = Options { tls: true, ..Options::default() };
    let cassandra = Cassandra::start_with(&options);
    let other = Cassandra::prepare_with(&options);
    let ca = |node: &Cassandra| node.ca().display().to_string();
    works(node(&cassandra.address()).set("cassandra.tls_ca", ca(&cassandra)));
    refused(node(&cassandra.address()).set("cassandra.tls_ca", ca(&other)), &["certificate"]);
    refused(
        node(&cassandra.address()).set("cassandra.tls_ca", "/nowhere/ca.pem"),
        &["cassandra.tls_ca", "/nowhere/ca.pem"],
    );
}

#[test]
fn a_data_centre_that_is_not_there_is_refused() {
    let cassandra = shared();
    let node = |dc: &str| node(&cassandra.address()).set("cassandra.local_dc", dc);
    refused(node("elsewhere"), &["cassandra.local_dc", "elsewhere", DATACENTER]);
    works(node(DATACENTER));
}

#[test]
fn nobody_there_is_one_sentence() {
    let nobody = Cassandra::prepare();
    refused(node(&nobody.address()), &["cassandra.contact_points", &nobody.address()]);
}
