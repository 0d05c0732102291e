//! The session store on a real Cassandra: what every store must do (the suite that the embedded
//! one passes), and what only this one has to.

use std::sync::Arc;
use std::time::Duration;

use hydrant::cassandra::{CassandraOptions, CassandraStore, Level};
use hydrant::embedded::suite;
use hydrant_actors::ports::SessionStore;

use crate::support::cassandra::{Cassandra, new_keyspace, shared};

/// Options of a store in a keyspace that is not there yet.
pub fn options(node: &Cassandra) -> CassandraOptions {
    CassandraOptions {
        contact_points: vec![node.address()],
        local_dc: String::new(),
        keyspace: new_keyspace("store"),
        create_schema: true,
        replication_factor: 1,
        write_consistency: Level::LocalQuorum,
        read_consistency: Level::LocalQuorum,
        credentials: None,
        tls_ca: None,
        request_timeout: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(60),
        retries: 1,
        speculative_delay: Duration::ZERO,
        max_requests: 256,
        lease: Duration::from_secs(10),
        shared: false,
        outbox_lanes: 16,
    }
}

/// Opens a store as node "n1" with the data directory "i1" would.
pub fn open(options: &CassandraOptions) -> Arc<CassandraStore> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(CassandraStore::open(options, "n1", "i1")).unwrap()
}

fn case(name: &str) {
    let node = shared();
    let options = options(&node);
    let (_, case) = suite::CASES.iter().find(|(known, _)| *known == name).unwrap();
    case(&|| open(&options) as Arc<dyn SessionStore>);
}

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                case(stringify!($name));
            }
        )*

        #[test]
        fn no_case_is_left_out() {
            let here = [$(stringify!($name)),*];
            assert!(suite::CASES.iter().all(|(name, _)| here.contains(name)));
        }
    };
}

cases!(
    sessions_and_subscriptions,
    what_subscriptions_are_owed,
    queue_order_and_paging,
    qos2_state,
    deleted_session_leaves_nothing,
    a_client_begins_anew,
    retained_and_wills,
    outbox_lanes_and_cursors,
    outbox_written_again,
    dead_letters,
    every_op_twice,
    order_of_writes,
    concurrent_access,
    large_and_many,
);
