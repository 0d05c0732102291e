//! Retained messages and wills.

use hydrant_actors::ports::{StoreOp, StoredWill};

use super::fixture::{Open, message, messages, wait, write};

pub(super) fn retained_and_wills(open: &Open<'_>) {
    let store = open();
    let will = |id: &str, connection, payload| StoredWill {
        client_id: id.into(),
        connection,
        message: message("will", payload, true),
    };
    let end = |id: &str, connection| StoreOp::DeleteWill { client_id: id.into(), connection };
    write(
        &store,
        vec![
            StoreOp::PutRetained { message: message("b", "old", true), version: 1 },
            StoreOp::PutRetained { message: message("b", "new", true), version: 2 },
            StoreOp::PutRetained { message: message("a/b", "x", true), version: 3 },
            StoreOp::PutRetained { message: message("gone", "x", true), version: 4 },
            StoreOp::DeleteRetained { topic: "gone".into(), version: 5 },
            StoreOp::DeleteRetained { topic: "never".into(), version: 6 },
            // One client's side by side; the end of one is not that of another.
            StoreOp::PutWill { will: will("one", 1, "first") },
            StoreOp::PutWill { will: will("one", 2, "second") },
            StoreOp::PutWill { will: will("one", 1 << 40, "third") },
            StoreOp::PutWill { will: will("", 3, "no name") },
            StoreOp::PutWill { will: will("two", 4, "x") },
            end("two", 4),
            end("two", 5),
            end("one", 4),
        ],
    );
    write(&store, vec![end("one", 1)]);
    // In the place of one that has ended there is room for another.
    write(&store, vec![StoreOp::PutWill { will: will("one", 6, "fourth") }]);
    drop(store);
    let store = open();
    let mut retained = messages(&store);
    retained.sort_by(|a, b| a.topic.cmp(&b.topic));
    assert_eq!(retained, [message("a/b", "x", true), message("b", "new", true)]);
    let all = [
        will("one", 2, "second"),
        will("", 3, "no name"),
        will("one", 6, "fourth"),
        will("one", 1 << 40, "third"),
    ];
    assert_eq!(wait(store.wills()), all);
    // They end the same after a restart.
    write(&store, vec![end("one", 2), end("one", 1 << 40)]);
    drop(store);
    assert_eq!(wait(open().wills()), [all[1].clone(), all[2].clone()]);
}
