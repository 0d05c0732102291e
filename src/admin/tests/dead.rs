//! `broker dead` over the admin socket.

use hydrant_actors::ports::DeadId;

use super::super::dead;
use super::*;

#[test]
fn dead_letters_are_listed_replayed_and_dropped() {
    let running = Running::start(Fake::new(), AdminLimits::default());
    let dir = running.dir();
    let page = dead::list(dir, None, 2).unwrap();
    let ids: Vec<&str> = page.rows.iter().map(|row| row.id.as_str()).collect();
    assert_eq!(ids, ["0-0000000000000000", "1-0000000000000001"]);
    let error = dead::list(dir, Some(DeadId::MAX), 2).unwrap_err().to_string();
    assert_eq!(error, "the store is away");
    assert!(dead::list(dir, None, 0).unwrap_err().to_string().contains("count is 1 to 1000"));
    // All, and more than one request holds.
    assert_eq!(dead::replay(dir, &[]).unwrap().gone, 6);
    let ids = (0..50).map(|n| DeadId { received_ms: n, hash: u64::MAX, ..DeadId::default() });
    let ids: Vec<DeadId> = ids.collect();
    let done = dead::remove(dir, &ids).unwrap();
    assert_eq!((done.gone, done.unknown.len()), (45, 5));
    assert_eq!(done.unknown[1], "a-0-0-ffffffffffffffff");
}
