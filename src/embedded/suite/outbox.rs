//! The outbox: its lanes and their cursors.

use std::sync::Arc;

use hydrant_actors::ports::{LogOp, LogRecord, OutboxPosition, SessionStore};

use super::fixture::{Open, put_outbox, record, wait, write};

pub(super) fn check_outbox(store: &Arc<dyn SessionStore>, lane: u16, from: u64, end: u64) {
    let mut next = from;
    while next < end {
        let page = wait(store.read_outbox(lane, next, 70, usize::MAX));
        assert!(!page.is_empty() && page.len() <= 70, "lane {lane} at {next}");
        for found in page {
            let outbox = Some(OutboxPosition { lane, position: next });
            assert_eq!(found, LogRecord { id: found.id, outbox, ..record("t", next) });
            next += 1;
        }
    }
    assert_eq!(next, end);
    assert!(wait(store.read_outbox(lane, end, 10, usize::MAX)).is_empty());
}

pub(super) fn outbox_lanes_and_cursors(open: &Open<'_>) {
    let mut store = open();
    assert!(wait(store.lanes()).iter().all(|lane| lane.cursor == lane.end));
    for start in (0..1000).step_by(50) {
        let mut ops = put_outbox(0, start..start + 50);
        ops.extend(put_outbox(65_535, start..start + 50));
        write(&store, ops);
    }
    check_outbox(&store, 0, 0, 1000);
    let lane = |store: &Arc<dyn SessionStore>, number| {
        *wait(store.lanes()).iter().find(|lane| lane.lane == number).unwrap()
    };
    let whole = lane(&store, 0).bytes;
    let true_cost: usize = (0..1000).map(|p| record("t", p).cost()).sum();
    assert!(whole.abs_diff(true_cost as u64) < true_cost as u64 / 5, "{whole} for {true_cost}");
    write(&store, vec![LogOp::MoveCursor { lane: 0, position: 500 }.into()]);
    for _ in 0..2 {
        let found = lane(&store, 0);
        assert_eq!((found.cursor, found.end), (500, 1000));
        assert!(
            found.bytes < whole * 3 / 4 && found.bytes > whole / 4,
            "{} of {whole}",
            found.bytes
        );
        check_outbox(&store, 0, 500, 1000);
        check_outbox(&store, 65_535, 0, 1000);
        drop(store);
        store = open();
    }
    assert_eq!(wait(store.read_outbox(0, 600, 10, 1)).len(), 1, "at least one");
    // Emptied, the lane goes on where it was, also after a restart.
    write(&store, vec![LogOp::MoveCursor { lane: 0, position: 1000 }.into()]);
    drop(store);
    let store = open();
    let found = lane(&store, 0);
    assert_eq!((found.cursor, found.end), (1000, 1000));
    write(&store, put_outbox(0, 1000..1003));
    check_outbox(&store, 0, 1000, 1003);
    assert_eq!(lane(&store, 0).end, 1003);
}

/// After a failed write the same positions come again, cut into other batches.
pub(super) fn outbox_written_again(open: &Open<'_>) {
    let mut store = open();
    write(&store, put_outbox(3, 0..100));
    write(&store, put_outbox(3, 40..70));
    write(&store, put_outbox(3, 70..75));
    write(&store, put_outbox(3, 75..200));
    write(&store, vec![LogOp::MoveCursor { lane: 3, position: 150 }.into()]);
    write(&store, put_outbox(3, 140..160));
    write(&store, put_outbox(3, 160..250));
    write(&store, vec![LogOp::MoveCursor { lane: 3, position: 120 }.into()]);
    for _ in 0..2 {
        let lane = wait(store.lanes())[0];
        assert_eq!((lane.lane, lane.cursor, lane.end), (3, 150, 250), "a cursor never moves back");
        check_outbox(&store, 3, 150, 250);
        drop(store);
        store = open();
    }
}
