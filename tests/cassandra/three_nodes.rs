//! Three real Cassandra nodes with replication 3. They run alone, on two cores.

use crate::support::cassandra::{CassandraCluster, Consistency};
use crate::support::{SOON, eventually};

#[test]
fn a_quorum_of_three_outlives_one_and_not_two() {
    let mut cluster = CassandraCluster::start(3);
    let keyspace = cluster.nodes[0].create_keyspace(3);
    let insert = format!("INSERT INTO {keyspace}.t (k, v) VALUES (1, 42)");
    let select = format!("SELECT v FROM {keyspace}.t WHERE k = 1");
    cluster.nodes[0]
        .execute(&format!("CREATE TABLE {keyspace}.t (k int PRIMARY KEY, v int)"))
        .expect("a table");
    cluster.await_all_up();

    cluster.nodes[2].kill9();
    // The first writes of a cold node may take longer than its two seconds; they repeat safely.
    eventually(SOON, "two of three store a row", || {
        cluster.nodes[0].execute_at(&insert, Consistency::LocalQuorum).is_ok()
    });
    cluster.nodes[1].kill9();
    cluster.nodes[0].execute_at(&insert, Consistency::LocalQuorum).expect_err("one of three");

    cluster.nodes[2].restart();
    eventually(SOON, "another two of three have the row", || {
        let rows = cluster.nodes[2].execute_at(&select, Consistency::LocalQuorum);
        rows.is_ok_and(|rows| rows.ends_with(&42_i32.to_be_bytes()))
    });
    cluster.nodes[1].restart();
    cluster.await_all_up();
}
