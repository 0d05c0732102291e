//! Retained messages that subscriptions are owed.

use std::sync::Arc;

use hydrant_actors::ports::{SessionOp, StoreOp, StoredSubscription};
use hydrant_protocol::QoS;

use super::fixture::{Open, put_session, wait, write};

fn subscription(filter: &str, qos: QoS, owes: Option<&str>) -> StoreOp {
    StoreOp::Session(SessionOp::PutSubscription {
        id: 7,
        filter: filter.into(),
        qos,
        owes: owes.map(Arc::from),
    })
}

pub(super) fn what_subscriptions_are_owed(open: &Open<'_>) {
    let found = || {
        let mut found = wait(open().sessions()).remove(0).subscriptions;
        found.sort_by(|one, other| one.filter.cmp(&other.filter));
        found
    };
    let expected = |expected: [(&str, QoS, Option<&str>); 4]| {
        expected.map(|(filter, qos, owes)| {
            let owes = owes.map(Arc::from);
            StoredSubscription { filter: filter.into(), qos, owes }
        })
    };
    let (one, two) = (QoS::AtLeastOnce, QoS::ExactlyOnce);
    let long = "x/".repeat(10_000);
    write(
        &open(),
        vec![
            put_session(7),
            subscription("all", one, Some("")),
            subscription("nothing", one, None),
            subscription("some", two, Some("a/b")),
            subscription("then", one, None),
            subscription("then", two, Some(&long)),
        ],
    );
    let first = [
        ("all", one, Some("")),
        ("nothing", one, None),
        ("some", two, Some("a/b")),
        ("then", two, Some(&*long)),
    ];
    assert_eq!(found(), expected(first));
    // It goes on, and is over.
    write(
        &open(),
        vec![
            subscription("all", one, Some("$a")),
            subscription("nothing", two, None),
            subscription("some", two, None),
            subscription("then", two, Some("")),
            subscription("then", one, None),
        ],
    );
    let second = [
        ("all", one, Some("$a")),
        ("nothing", two, None),
        ("some", two, None),
        ("then", one, None),
    ];
    assert_eq!(found(), expected(second));
    // It ends with the subscription, and is not another's after it.
    write(&open(), vec![SessionOp::DeleteSubscription { id: 7, filter: "all".into() }.into()]);
    write(&open(), vec![subscription("all", one, None)]);
    assert_eq!(found()[0], expected([("all", one, None); 4])[0]);
}
