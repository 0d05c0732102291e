//! Keyspace and tables: made by ten at once, refused when they are not ours to change.

use std::time::Duration;

use futures_util::future::join_all;
use hydrant::cassandra::db::Db;
use hydrant::cassandra::schema::ensure;
use hydrant::cassandra::{CassandraOptions, Level};

use crate::support::cassandra::{Cassandra, CassandraCluster, new_keyspace, shared};
use crate::support::says;

/// As configuration gives them by default, but with short time-outs.
pub fn options(node: &Cassandra, keyspace: &str) -> CassandraOptions {
    CassandraOptions {
        contact_points: vec![node.address()],
        local_dc: String::new(),
        keyspace: keyspace.to_owned(),
        create_schema: true,
        replication_factor: 1,
        write_consistency: Level::LocalQuorum,
        read_consistency: Level::LocalQuorum,
        credentials: None,
        tls_ca: None,
        request_timeout: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(30),
        retries: 3,
        speculative_delay: Duration::ZERO,
        max_requests: 64,
        lease: Duration::from_secs(10),
        shared: false,
        outbox_lanes: 4,
    }
}

async fn ensured(options: &CassandraOptions) -> Result<Db, String> {
    let db = Db::connect(options).await.map_err(|error| error.to_string())?;
    ensure(&db, options).await.map_err(|error| error.to_string())?;
    db.prepare().await.map_err(|error| error.to_string())?;
    Ok(db)
}

async fn refusal(options: &CassandraOptions) -> String {
    match ensured(options).await {
        Ok(_) => panic!("keyspace {} is accepted", options.keyspace),
        Err(why) => why,
    }
}

/// Runs statements in which `{}` is the keyspace.
#[track_caller]
fn execute(node: &Cassandra, keyspace: &str, statements: &[&str]) {
    for statement in statements {
        node.execute(&statement.replace("{}", keyspace)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn ten_brokers_that_start_together_make_one_schema() {
    let node = shared();
    let options = options(&node, &new_keyspace("schema"));
    let all = join_all((0..10).map(|_| ensured(&options))).await;
    for one in &all {
        assert_eq!(one.as_ref().err(), None);
    }
    let db = all[0].as_ref().unwrap();
    let rows = db.simple(&format!("SELECT * FROM {}.schema_version", options.keyspace)).await;
    let rows = rows.unwrap();
    assert_eq!(rows.len(), 1, "the lock is given back: {rows:?}");
    assert_eq!(
        (rows[0].text("name").unwrap(), rows[0].i32("version").unwrap()),
        ("schema".into(), 6)
    );
    let checked = CassandraOptions { create_schema: false, ..options.clone() };
    assert_eq!(ensured(&checked).await.err(), None);
}

/// Each of the three may be the one that a broker asks to make a table.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn brokers_that_start_together_at_three_nodes_make_one_schema() {
    let cluster = CassandraCluster::start(3);
    let keyspace = new_keyspace("schema");
    let all = (0..9).map(|number| {
        let mut options = options(&cluster.nodes[number % 3], &keyspace);
        options.replication_factor = 3;
        async move { ensured(&options).await }
    });
    for one in join_all(all).await {
        assert_eq!(one.err(), None);
    }
    for node in &cluster.nodes {
        let log = node.log();
        let lines: Vec<_> = log.lines().collect();
        // A read at a replica that hears of a table a moment later fails there, and is asked again.
        let early = |line: &str| line.contains("Exception in thread Thread[ReadStage");
        let bad =
            |line: &str| line.contains("ID mismatch") || line.starts_with("ERROR") && !early(line);
        // With what stands behind it: the exception and where it was thrown.
        let bad = lines.iter().position(|line| bad(line)).map(|at| lines[at..].iter().take(30));
        assert!(bad.is_none(), "{:#?}", bad.map(Iterator::collect::<Vec<_>>));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_newer_schema_is_refused_and_left_alone() {
    let node = shared();
    let options = options(&node, &new_keyspace("schema"));
    let keyspace = &options.keyspace;
    ensured(&options).await.unwrap();
    let newer = "UPDATE {}.schema_version SET version = 7 WHERE name = 'schema'";
    execute(&node, keyspace, &[newer, "DROP TABLE {}.will"]);
    for create_schema in [true, false] {
        let options = CassandraOptions { create_schema, ..options.clone() };
        let why = refusal(&options).await;
        let expected = format!(
            "the keyspace {keyspace} has schema version 7, this broker knows 6: upgrade the broker \
             or use another keyspace"
        );
        assert_eq!(why, expected);
    }
    node.execute(&format!("SELECT * FROM {keyspace}.will")).expect_err("it was not made again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_missing_is_only_made_on_demand() {
    let node = shared();
    let made = options(&node, &new_keyspace("schema"));
    let checked = CassandraOptions { create_schema: false, ..made.clone() };
    let keyspace = &made.keyspace;
    let why = refusal(&checked).await;
    assert!(why.contains(&format!("keyspace {keyspace} does not exist: create it")), "{why}");
    node.execute(&format!(
        "CREATE KEYSPACE {keyspace} WITH replication = {{'class': 'SimpleStrategy', \
         'replication_factor': 1}}"
    ))
    .unwrap();
    let why = refusal(&checked).await;
    assert!(
        why.contains("has no schema of this broker: start once with cassandra.create"),
        "{why}"
    );
    node.execute(&format!("SELECT * FROM {keyspace}.schema_version")).expect_err("nothing is made");
    ensured(&made).await.unwrap();
    node.execute(&format!("DROP TABLE {keyspace}.will")).unwrap();
    let why = refusal(&checked).await;
    assert!(why.contains(&format!("table {keyspace}.will has no column")), "{why}");
    ensured(&made).await.unwrap();
    node.execute(&format!("ALTER TABLE {keyspace}.session DROP receipts")).unwrap();
    for options in [&made, &checked] {
        let why = refusal(options).await;
        assert!(why.contains("session has no column receipts of type blob"), "{why}");
    }
}

/// As the broker before left it.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_schema_of_version_1_gets_what_it_lacks() {
    let node = shared();
    let options = options(&node, &new_keyspace("schema"));
    ensured(&options).await.unwrap();
    let statements = [
        "DROP TABLE {}.session_held",
        "DROP TABLE {}.peer_batch",
        "DROP TABLE {}.open_publish",
        "DROP TABLE {}.dead_letter",
        "ALTER TABLE {}.session_epoch DROP holder",
        "ALTER TABLE {}.incarnation DROP line",
        "ALTER TABLE {}.incarnation DROP stamps",
        "ALTER TABLE {}.session DROP base_stamp",
        "ALTER TABLE {}.session DROP base_sequence",
        "DROP TABLE {}.peer_batch_exception",
        "ALTER TABLE {}.subscription DROP owes",
        "ALTER TABLE {}.will DROP name",
        "ALTER TABLE {}.will DROP connection",
        "UPDATE {}.schema_version SET version = 1 WHERE name = 'schema'",
    ];
    execute(&node, &options.keyspace, &statements);
    let checked = CassandraOptions { create_schema: false, ..options.clone() };
    let why = refusal(&checked).await;
    assert!(why.contains("has schema version 1, and this broker needs 6"), "{why}");
    assert_eq!(ensured(&options).await.err(), None);
    assert_eq!(ensured(&checked).await.err(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_keyspace_with_the_wrong_replication_is_refused() {
    let node = shared();
    let made = options(&node, &node.create_keyspace(1));
    let three = CassandraOptions { replication_factor: 3, ..made.clone() };
    let why = refusal(&three).await;
    let keyspace = &made.keyspace;
    let parts = [
        format!("keyspace {keyspace} has replication factor 1 in data centre \"datacenter1\""),
        "cassandra.replication_factor is 3".to_owned(),
        format!("ALTER KEYSPACE {keyspace} WITH replication"),
        "set cassandra.replication_factor = 1".to_owned(),
    ];
    says(&why, &parts);
    let columns = format!("SELECT * FROM {keyspace}.schema_version");
    node.execute(&columns).expect_err("nothing is half made");
    // Whoever may not make the schema has told nothing about replication.
    ensured(&made).await.unwrap();
    assert_eq!(ensured(&CassandraOptions { create_schema: false, ..three }).await.err(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_dies_while_it_makes_the_schema_leaves_it_to_the_next() {
    let node = shared();
    let options = options(&node, &new_keyspace("schema"));
    ensured(&options).await.unwrap();
    let keyspace = &options.keyspace;
    let statements = [
        "DROP TABLE {}.journal",
        "DELETE FROM {}.schema_version WHERE name = 'schema' IF EXISTS",
        "INSERT INTO {}.schema_version (name, owner) VALUES ('lock', 'dead') IF NOT EXISTS USING TTL 3",
    ];
    execute(&node, keyspace, &statements);
    assert_eq!(ensured(&options).await.err(), None);
    let checked = CassandraOptions { create_schema: false, ..options };
    assert_eq!(ensured(&checked).await.err(), None);
}
