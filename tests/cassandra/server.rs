//! The Cassandra that the tests start is one to rely on: durable, and with the options asked for.

use crate::support::cassandra::{Cassandra, Options, shared};

/// Whether the last value of the rows is this int.
fn ends_with(node: &Cassandra, statement: &str, value: i32) -> bool {
    node.execute(statement).expect("rows").ends_with(&value.to_be_bytes())
}

#[test]
fn an_acknowledged_row_survives_kill_9() {
    let mut node = Cassandra::start();
    let keyspace = node.create_keyspace(1);
    node.execute(&format!("CREATE TABLE {keyspace}.t (k int PRIMARY KEY, v int)")).expect("table");
    node.execute(&format!("INSERT INTO {keyspace}.t (k, v) VALUES (1, 42)")).expect("a row");
    let first = node.pid();
    node.kill9();
    node.execute("SELECT key FROM system.local").expect_err("it is dead");
    node.restart();
    assert_ne!(node.pid(), first);
    assert!(ends_with(&node, &format!("SELECT v FROM {keyspace}.t WHERE k = 1"), 42));
    node.stop();
}

#[test]
fn the_shared_node_gives_every_test_its_keyspace() {
    let (one, two) = (shared(), shared());
    assert_eq!(one.address(), two.address());
    assert_ne!(one.create_keyspace(1), two.create_keyspace(1));
}

#[test]
fn a_password_is_asked_for_on_demand() {
    let options = Options { password_auth: true, batch: true, ..Options::default() };
    let node = Cassandra::start_with(&options);
    assert!(node.log().contains("commitlog_sync=batch"));
    let roles = "SELECT role FROM system_auth.roles";
    node.execute(roles).expect("logged in as the superuser");
}
