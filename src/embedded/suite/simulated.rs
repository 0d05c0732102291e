//! The simulated store passes the suite, and that of stores which nodes share.

use std::sync::Arc;
use std::time::Duration;

use hydrant_actors::ports::{SessionId, SessionStore, StoredWill};
use hydrant_simulation::store::Shape;
use hydrant_simulation::store::adapter::Place;

use super::CASES;
use super::shared::{self, Node, Nodes};

/// As Cassandra cuts rows and buckets, and so small that every case has many.
const SHAPES: [Shape; 2] = [Shape { bucket: 256, row: 256 }, Shape { bucket: 4, row: 3 }];
const LANES: u16 = 4;
const LEASE: Duration = Duration::from_secs(2);

impl Nodes for Place {
    fn open(&self, node: &str, instance: &str, lease: Option<Duration>) -> Result<Node, String> {
        let opened = self.start(node, instance, lease.unwrap_or(LEASE));
        let store = opened.map_err(|error| error.to_string())?;
        let (released, frozen) = (Arc::clone(&store), Arc::clone(&store));
        Ok(Node {
            store,
            release: Box::new(move || released.release()),
            freeze: Box::new(move || frozen.freeze()),
        })
    }

    fn lanes(&self) -> u16 {
        LANES
    }

    fn pass(&self) {
        self.wait(Duration::from_millis(10));
    }

    fn is_forgotten(&self, incarnation: u64) -> bool {
        self.with(|store| !store.has_incarnation(incarnation))
    }

    fn are_fenced_above(&self, stamp: u64) -> bool {
        self.with(|store| store.fences().all(|fence| fence > stamp))
    }

    fn mark(&self, lineage: u64, id: SessionId, client_id: &str, stamp: u64) {
        self.with(|store| store.mark(lineage, id, client_id, stamp));
    }

    fn is_any_marked(&self) -> bool {
        self.with(|store| store.is_any_marked())
    }

    /// There is no older release of it.
    fn leave_old_will(&self, _: u64, _: &str) -> Option<StoredWill> {
        None
    }
}

#[test]
fn the_simulated_store_passes_the_suite() {
    for shape in SHAPES {
        for (name, case) in CASES {
            eprintln!("{name}, {shape:?}");
            let place = Place::new(shape, LANES);
            let lease = Duration::from_secs(10);
            case(&|| place.start("n1", "i1", lease).unwrap() as Arc<dyn SessionStore>);
        }
    }
}

#[test]
fn the_simulated_store_passes_the_suite_of_nodes_that_share_one() {
    for shape in SHAPES {
        for (name, case) in shared::CASES {
            eprintln!("{name}, {shape:?}");
            case(&Place::new(shape, LANES));
        }
    }
}
