//! Dead letters, in every store.

use std::sync::Arc;

use hydrant_actors::ports::{
    DeadId, DeadLetter, LogOp, LogRecord, OutboxPosition, SessionStore, StoreOp,
};

use super::fixture::{Open, put_outbox, record, wait, write};

/// The dead letter of the record at a position.
pub fn letter(position: u64) -> DeadLetter {
    let at = position / 2;
    let record = LogRecord { id: 0, received_ms: at, ..record("t", position) };
    DeadLetter::new(record, &format!("refused {position}"), 1_700_000_000_000 + position)
}

fn put(letter: &DeadLetter) -> StoreOp {
    StoreOp::Log(LogOp::PutDeadLetter { letter: Arc::new(letter.clone()) })
}

/// All of them, read in pages.
pub fn all(store: &Arc<dyn SessionStore>) -> Vec<DeadLetter> {
    let (mut found, mut from) = (Vec::new(), DeadId::default());
    loop {
        let page = wait(store.dead_letters(from, 7, usize::MAX));
        assert!(page.len() <= 7);
        let Some(last) = page.last() else { return found };
        assert!(page[0].id >= from, "a page begins before its first id");
        from = last.id.next();
        found.extend(page);
    }
}

/// In the order of their publisher's session, two of them in one millisecond.
fn letters(positions: impl IntoIterator<Item = u64>) -> Vec<DeadLetter> {
    positions.into_iter().map(letter).collect()
}

pub(super) fn dead_letters(open: &Open<'_>) {
    let mut store = open();
    assert!(all(&store).is_empty());
    // With the end of the records in the outbox, as the log actor writes them.
    write(&store, put_outbox(0, 0..40));
    for position in 0..40 {
        let place = OutboxPosition { lane: 0, position };
        let mut letter = letter(position);
        letter.record.outbox = Some(place);
        let end = StoreOp::Log(LogOp::MoveCursor { lane: 0, position: position + 1 });
        write(&store, vec![put(&letter), end]);
    }
    for _ in 0..2 {
        assert_eq!(all(&store), letters(0..40));
        assert_eq!(wait(store.lanes())[0].cursor, 40);
        drop(store);
        store = open();
    }
    let ids: Vec<DeadId> = letters(0..40).iter().map(|letter| letter.id).collect();
    assert_eq!(wait(store.dead_letters(ids[20], 3, usize::MAX))[0].id, ids[20]);
    assert_eq!(wait(store.dead_letters(ids[20], 3, 1)).len(), 1, "at least one");
    let two = 2 * letter(0).record.cost() - 20;
    assert_eq!(wait(store.dead_letters(ids[20], 9, two)).len(), 2, "bounded in bytes");
    assert!(wait(store.dead_letters(ids[39].next(), 9, usize::MAX)).is_empty());
    // Refused again, for another reason; dropped, also twice, and one that never was.
    let again = DeadLetter { reason: "still".into(), refused_ms: 9, ..letter(7) };
    let drops =
        (8..40).map(|position| StoreOp::Log(LogOp::DropDeadLetter { id: letter(position).id }));
    let never = StoreOp::Log(LogOp::DropDeadLetter { id: DeadId::MAX });
    let ops: Vec<StoreOp> = drops.chain([put(&again), never]).collect();
    write(&store, ops.clone());
    write(&store, ops);
    drop(store);
    let store = open();
    let expected: Vec<DeadLetter> = letters(0..8)
        .into_iter()
        .map(|letter| if letter.id == again.id { again.clone() } else { letter })
        .collect();
    assert_eq!(all(&store), expected);
    // Put and dropped in one write.
    write(&store, vec![put(&letter(50)), LogOp::DropDeadLetter { id: letter(50).id }.into()]);
    write(&store, vec![LogOp::DropDeadLetter { id: again.id }.into(), put(&letter(7))]);
    assert_eq!(all(&store), letters(0..8));
    // A large one, beside others.
    let large = LogRecord { payload: vec![b'x'; 3_000_000].into(), ..record("t", 99) };
    let large = DeadLetter::new(LogRecord { id: 0, ..large }, "too large", 1);
    write(&store, vec![put(&large)]);
    drop(store);
    let store = open();
    assert_eq!(all(&store).len(), 9);
    assert_eq!(wait(store.dead_letters(large.id, 1, 1)), [large]);
}
