//! Incarnations on a real Cassandra: who gets which number, who may acknowledge, who seals whom.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hydrant::cassandra::CassandraOptions;
use hydrant::cassandra::db::Db;
use hydrant::cassandra::incarnation::{Incarnation, Predecessor};
use hydrant::cassandra::schema::ensure;

use crate::schema::options;
use crate::support::SOON;
use crate::support::cassandra::{Cassandra, Shared, shared};

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(300);

async fn database(options: &CassandraOptions) -> Db {
    let db = Db::connect(options).await.unwrap();
    ensure(&db, options).await.unwrap();
    db.prepare().await.unwrap();
    db
}

/// A keyspace of its own on the shared node.
async fn fresh() -> (Shared, Db) {
    let node = shared();
    let db = database(&options(&node, &node.create_keyspace(1))).await;
    (node, db)
}

async fn begin(db: &Db, node_id: &str, instance: &str, lease: Duration) -> Arc<Incarnation> {
    Incarnation::begin(db, node_id, instance, 4, lease, false).await.unwrap()
}

/// The same, and its lease is renewed.
async fn renewed(db: &Db, node_id: &str, instance: &str, lease: Duration) -> Arc<Incarnation> {
    let one = begin(db, node_id, instance, lease).await;
    one.spawn_renewal(db.clone());
    one
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn numbers(claimed: &[Predecessor]) -> Vec<u64> {
    claimed.iter().map(|predecessor| predecessor.number).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn starts_at_the_same_time_get_different_numbers() {
    let (_node, db) = fresh().await;
    let first = begin(&db, "a", "one", LONG).await;
    let begun = join_all((0..8).map(|_| begin(&db, "a", "one", LONG))).await;
    let mut numbers: Vec<u64> = begun.iter().map(|one| one.number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 8);
    assert!(numbers[0] > first.number);
    assert!(begin(&db, "b", "two", LONG).await.number > numbers[7]);
    assert!(first.may_acknowledge() && first.lost().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_sealed_one_cannot_renew_and_says_so() {
    let (_node, db) = fresh().await;
    let old = renewed(&db, "a", "one", SECOND * 2).await;
    // The same data directory: the process that had it is dead.
    let new = renewed(&db, "a", "one", SECOND * 2).await;
    let claimed = new.claim(&db).await.unwrap();
    let [Predecessor { number, lanes: 4, node_id, lineage: 0, .. }] = &claimed[..] else {
        panic!("{claimed:?}")
    };
    assert_eq!((*number, &**node_id), (old.number, "a"));
    eventually("the old one notices", || old.lost().is_some()).await;
    assert!(!old.may_acknowledge());
    let why = old.lost().unwrap();
    assert!(why.contains(&format!("sealed by incarnation {}", new.number)), "{why}");
    // The new one renews beyond its first lease.
    let begun = Instant::now();
    eventually("two leases are over", || {
        assert!(new.may_acknowledge());
        begun.elapsed() > SECOND * 4
    })
    .await;
    // A second time changes nothing.
    assert_eq!(numbers(&new.claim(&db).await.unwrap()), [old.number]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_node_id_in_use_is_refused_and_its_broker_goes_on() {
    let (_node, db) = fresh().await;
    let running = renewed(&db, "a", "one", SECOND * 2).await;
    let second = renewed(&db, "a", "two", SECOND * 2).await;
    let why = second.claim(&db).await.unwrap_err().to_string();
    assert!(why.contains("node id \"a\" is in use by another running broker"), "{why}");
    assert!(why.contains("give each node its own --node-id"), "{why}");
    assert!(!second.may_acknowledge() && running.may_acknowledge());
    // Another node id is not concerned.
    let other = begin(&db, "b", "two", SECOND * 2).await;
    assert_eq!(other.claim(&db).await.unwrap(), []);
    // Nor is the next start of the one that runs, which finds both.
    let next = begin(&db, "a", "one", SECOND * 2).await;
    assert_eq!(numbers(&next.claim(&db).await.unwrap()), [running.number, second.number]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn of_two_that_start_together_one_goes_on() {
    let (_node, db) = fresh().await;
    let earlier = begin(&db, "a", "one", LONG).await;
    let later = begin(&db, "a", "two", LONG).await;
    let why = earlier.claim(&db).await.unwrap_err().to_string();
    assert!(why.contains("is in use by another running broker"), "{why}");
    assert!(!earlier.may_acknowledge());
    assert_eq!(numbers(&later.claim(&db).await.unwrap()), [earlier.number]);
    assert!(later.may_acknowledge());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_lease_of_a_dead_one_elsewhere_is_waited_out() {
    let (_node, db) = fresh().await;
    let dead = begin(&db, "a", "one", SECOND * 2).await;
    let next = begin(&db, "a", "two", LONG).await;
    let begun = Instant::now();
    assert!(dead.may_acknowledge());
    assert_eq!(numbers(&next.claim(&db).await.unwrap()), [dead.number]);
    assert!(begun.elapsed() > SECOND * 2, "{:?}", begun.elapsed());
    assert!(!dead.may_acknowledge());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn after_a_clean_stop_nobody_waits() {
    let (_node, db) = fresh().await;
    let old = renewed(&db, "a", "one", LONG).await;
    assert!(old.may_acknowledge());
    old.release(&db).await;
    assert!(!old.may_acknowledge());
    let next = begin(&db, "a", "two", LONG).await;
    // It would take 330 s otherwise.
    let claimed = tokio::time::timeout(SOON, next.claim(&db)).await.expect("at once").unwrap();
    assert_eq!(numbers(&claimed), [old.number]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_successor_did_not_drain_goes_to_the_next() {
    let (_node, db) = fresh().await;
    let first = begin(&db, "a", "one", LONG).await;
    let second = begin(&db, "a", "one", LONG).await;
    assert_eq!(numbers(&second.claim(&db).await.unwrap()), [first.number]);
    let third = begin(&db, "a", "one", LONG).await;
    assert_eq!(numbers(&third.claim(&db).await.unwrap()), [first.number, second.number]);
    // The second one does not own it any more.
    let why = second.forget(&db, first.number).await.unwrap_err().to_string();
    assert!(why.contains(&format!("belongs to incarnation {}", third.number)), "{why}");
    third.forget(&db, first.number).await.unwrap();
    third.forget(&db, first.number).await.unwrap();
    let fourth = begin(&db, "a", "one", LONG).await;
    assert_eq!(numbers(&fourth.claim(&db).await.unwrap()), [second.number, third.number]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn dead_ones_of_other_nodes_are_claimed_and_living_left_alone() {
    let (_node, db) = fresh().await;
    let drained = begin(&db, "x", "one", SECOND * 2).await;
    let dead = begin(&db, "x", "one", SECOND * 2).await;
    assert_eq!(numbers(&dead.claim(&db).await.unwrap()), [drained.number]);
    let alive = renewed(&db, "y", "two", SECOND * 2).await;
    let me = renewed(&db, "z", "three", SECOND * 2).await;
    assert_eq!(me.claim(&db).await.unwrap(), []);
    let rival = renewed(&db, "w", "four", SECOND * 2).await;
    let claims = [&me, &rival].map(|one| one.claim_dead(&db));
    let claimed = join_all(claims).await.into_iter().map(|claimed| {
        let (dead, alive) = claimed.unwrap();
        assert!(alive.is_some());
        numbers(&dead)
    });
    let mut claimed: Vec<u64> = claimed.flatten().collect();
    claimed.sort_unstable();
    // One of the two has both.
    assert_eq!(claimed, [drained.number, dead.number]);
    assert!(me.may_acknowledge() && rival.may_acknowledge());
    assert!(alive.may_acknowledge());
    // Who wants the keyspace for itself is told who has it.
    let single = begin(&db, "v", "five", SECOND * 2).await;
    let why = single.claim_alone(&db).await.unwrap_err().to_string();
    assert!(why.contains("is in use by the running node \"") && !single.may_acknowledge(), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_cassandra_stands_still_the_lease_ends() {
    let node = Cassandra::start();
    let keyspace = node.create_keyspace(1);
    let options = CassandraOptions { request_timeout: SECOND, ..options(&node, &keyspace) };
    let db = database(&options).await;
    let one = renewed(&db, "a", "one", SECOND * 3).await;
    let begun = Instant::now();
    eventually("it has renewed", || {
        assert!(one.may_acknowledge());
        begun.elapsed() > SECOND * 4
    })
    .await;
    node.pause();
    let paused = Instant::now();
    eventually("the lease ends", || !one.may_acknowledge()).await;
    assert!(paused.elapsed() < SECOND * 4, "{:?}", paused.elapsed());
    assert_eq!(one.lost(), None);
    node.resume();
    eventually("it is renewed again", || one.may_acknowledge()).await;
    assert_eq!(one.lost(), None);
    let next = begin(&db, "a", "one", LONG).await;
    assert_eq!(numbers(&next.claim(&db).await.unwrap()), [one.number]);
    eventually("it is lost", || one.lost().is_some()).await;
    assert!(!one.may_acknowledge());
}
