//! What the coordinator asks of the store, in virtual time: when it asks again, and what an answer changes that comes
//! late, a second time or for nothing.

use std::time::Duration;

use hydrant_protocol::cluster::directory::Holder as Member;
use hydrant_protocol::cluster::message::Control;
use hydrant_protocol::cluster::{Key, Ring};

use super::*;
use crate::messages::{Answer, ManagerWork, PeerWork};
use crate::ports::{Holder, Sealing};

const ID: u64 = 5;

fn own() -> Option<Holder> {
    Some(Holder { id: ID, incarnation: ME })
}

#[test]
fn the_first_read_of_the_retained_messages_is_tried_again() {
    let mut machine = Machine::new();
    machine.sees(&[("n1", ME)]);
    let (first, _) = machine.asked();
    machine.answer(first, Answer::Retained(error()));
    assert!(machine.next().is_none());
    machine.waits(Duration::from_millis(500));
    let (second, request) = machine.asked();
    assert!(matches!(request, Request::Retained), "{request:?}");
    for (late, answer) in [
        (first, Answer::Retained(Ok(Vec::new()))),
        (second + 1, Answer::Retained(Ok(Vec::new()))),
        (second, Answer::TakenOver),
    ] {
        machine.answer(late, answer);
        assert!(!machine.is_synced_now() && machine.told().is_empty());
    }
    machine.answer(second, Answer::Retained(Ok(Vec::new())));
    assert!(machine.is_synced_now());
    assert!(matches!(machine.told()[..], [ManagerWork::FinishOpen]));
    machine.answer(second, Answer::Retained(Ok(Vec::new())));
    assert!(machine.told().is_empty(), "a second answer");
}

#[test]
fn a_granted_claim_asks_until_the_store_says_whose_its_session_is() {
    let mut machine = Machine::new();
    machine.is_synced();
    machine.claims("c");
    let first = machine.locates();
    machine.answer(first, Answer::Located(error()));
    machine.waits(Duration::from_millis(200));
    let second = machine.locates();
    // It is taken over with what a lost node held, and not in force yet.
    machine.coordinator.sealing += 1;
    machine.answer(second, Answer::Located(Ok(own())));
    machine.waits(Duration::from_millis(10));
    let third = machine.locates();
    machine.coordinator.sealing -= 1;
    machine.answer(third, Answer::Located(Ok(own())));
    let (fourth, request) = machine.asked();
    let takes = matches!(
        request,
        Request::Take { from: Holder { id: ID, incarnation: ME }, until: u64::MAX, .. }
    );
    assert!(takes, "{request:?}");
    for late in [first, second, third] {
        machine.answer(late, Answer::Located(Ok(None)));
    }
    machine.answer(fourth, Answer::Sealed(Ok(Sealing::Alive)));
    assert!(machine.next().is_none() && machine.told().is_empty());
    // Somebody else was quicker.
    machine.answer(fourth, Answer::Taken(Ok(None)));
    let fifth = machine.locates();
    machine.answer(fifth, Answer::Located(Ok(None)));
    let granted = machine.told();
    let [ManagerWork::Granted { conn: (3, 1), taken: None, .. }] = &granted[..] else {
        panic!("{granted:?}")
    };
    for again in [fourth, fifth] {
        machine.answer(again, Answer::Located(Ok(own())));
        machine.answer(again, Answer::Taken(Ok(None)));
    }
    assert!(machine.next().is_none() && machine.told().is_empty());
    assert_eq!(machine.coordinator.poll_deadline(), None);
}

/// The claim had waited long when the store was asked, and is granted before that has answered.
#[test]
fn what_a_long_claim_has_asked_changes_nothing_once_it_is_granted() {
    let mut machine = Machine::new();
    machine.sees(&[("n1", ME), ("n2", OTHER)]);
    let ring = Ring::new(["n1".into(), "n2".into()]);
    assert!(ring.owns("n2", Key::Client("c")), "its claim waits for n2");
    machine.claims("c");
    machine.ticks(3);
    let long = machine.locates();
    let (request, owner) = (1, Member { node: "n2".into(), incarnation: OTHER });
    machine.coordinator.directory.receive(&owner, Control::Granted { request, from: None });
    machine.coordinator.act();
    let lookup = machine.locates();
    machine.answer(long, Answer::Located(Ok(Some(Holder { id: ID, incarnation: OTHER }))));
    assert!(machine.next().is_none() && machine.told().is_empty());
    machine.answer(lookup, Answer::Located(Ok(None)));
    assert!(matches!(machine.told()[..], [ManagerWork::Granted { taken: None, .. }]));
}

#[test]
fn a_session_that_is_nobodys_is_recovered_once() {
    let mut machine = Machine::new();
    machine.is_synced();
    machine.work(PeerWork::Recover { worker: 0, id: 9, client: "c".into(), session: ID });
    let first = machine.locates();
    machine.answer(first, Answer::Located(Ok(own())));
    let (second, _) = machine.asked();
    machine.answer(second, Answer::Taken(error()));
    machine.waits(Duration::from_millis(200));
    let third = machine.locates();
    machine.answer(second, Answer::Taken(Ok(None)));
    assert!(machine.next().is_none(), "a second answer");
    machine.answer(third, Answer::Located(Ok(Some(Holder { id: ID, incarnation: OTHER }))));
    assert!(matches!(machine.told()[..], [ManagerWork::Recovered { id: 9, taken: None, .. }]));
    machine.answer(third, Answer::Located(Ok(own())));
    assert!(machine.next().is_none() && machine.told().is_empty());
}

#[test]
fn an_attempt_to_seal_ends_once() {
    let mut machine = Machine::new();
    machine.sees(&[("n1", ME), ("n2", OTHER)]);
    machine.sees(&[("n1", ME)]);
    machine.ticks(1);
    let sealing = |machine: &Machine| machine.coordinator.sealing;
    let mut requests = std::iter::from_fn(|| machine.next());
    let seal = |(_, request): &(RequestId, Request)| {
        matches!(request, Request::Seal { incarnation: OTHER })
    };
    let (first, _) = requests.find(seal).unwrap();
    requests.for_each(drop);
    assert_eq!(sealing(&machine), 1);
    machine.answer(first, Answer::Sealed(Ok(Sealing::Alive)));
    assert_eq!(sealing(&machine), 0);
    let ours = || Answer::Sealed(Ok(Sealing::Ours(Box::default())));
    machine.answer(first, ours());
    machine.ticks(1);
    assert!(machine.next().is_none() && sealing(&machine) == 0, "not before a second has passed");
    machine.ticks(1);
    let (second, request) = machine.asked();
    assert!(matches!(request, Request::Seal { incarnation: OTHER }), "{request:?}");
    machine.answer(first, ours());
    assert!(machine.next().is_none() && sealing(&machine) == 1);
    machine.answer(second, ours());
    let (workers, request) = machine.asked();
    assert!(matches!(request, Request::TakeOver { incarnation: OTHER, .. }), "{request:?}");
    machine.answer(second, ours());
    assert!(machine.next().is_none() && sealing(&machine) == 1, "its workers are waited for");
    for _ in 0..2 {
        machine.answer(workers, Answer::TakenOver);
        assert_eq!(sealing(&machine), 0);
    }
}

/// Of two nodes the one with the lower id dials.
#[test]
fn a_node_is_dialled_for_once() {
    let mut machine = Machine::new();
    machine.sees(&[("n0", OTHER), ("n1", ME), ("n2", 4)]);
    machine.told();
    assert_eq!(machine.outside.dialled, [2]);
    machine.sees(&[("n1", ME), ("n2", 5)]);
    machine.told();
    assert_eq!(machine.outside.dialled, [2]);
}
