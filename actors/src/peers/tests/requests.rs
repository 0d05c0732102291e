//! What the coordinator asks of the store, in virtual time: when it asks again, and what an answer changes that comes
//! late, a second time or for nothing.

use std::collections::VecDeque;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use hydrant_protocol::cluster::directory::Holder as Member;
use hydrant_protocol::cluster::message::Control;
use hydrant_protocol::cluster::{Key, Load, MembershipView, Ring};

use super::*;
use crate::cluster::NodeIndex;
use crate::cluster::coordinator::Coordinator;
use crate::cluster::state::effects::Push;
use crate::cluster::state::requests::{Request, RequestId};
use crate::mailboxes::Mailboxes;
use crate::messages::{Answer, ManagerWork, PeerWork, RouterWork, StorageWork};
use crate::now::{Boot, Now, Wall};
use crate::peers::driver::Driver;
use crate::ports::{Holder, Sealing, StoreError};

const ME: u64 = 7;
const OTHER: u64 = 3;
const ID: u64 = 5;
/// The coordinator's own, which are private.
const TICK: Duration = Duration::from_millis(500);

/// Node n1 with one worker, and nothing around it.
struct Machine {
    coordinator: Coordinator,
    outside: Outside,
    cluster: Arc<crate::cluster::Cluster>,
    now: Boot,
}

/// What was handed out and not looked at.
#[derive(Default)]
struct Outside {
    requests: VecDeque<(RequestId, Request)>,
    managers: Vec<ManagerWork>,
    dialled: Vec<NodeIndex>,
}

impl Push for Outside {
    fn manager(&mut self, _: u16, work: ManagerWork, _: usize) {
        self.managers.push(work);
    }
    fn router(&mut self, _: u16, _: RouterWork, _: usize) {}
    fn storage(&mut self, _: StorageWork, _: usize) {}
    fn coordinator(&mut self, work: PeerWork, _: usize) {
        panic!("{work:?}");
    }
    fn request(&mut self, id: RequestId, request: Request) {
        self.requests.push_back((id, request));
    }
    fn dial(&mut self, node: NodeIndex) {
        self.dialled.push(node);
    }
    fn link(&mut self, _: NodeIndex) {}
    fn end(&mut self, why: String) {
        panic!("{why}");
    }
}

fn error<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("away".into()))
}

impl Machine {
    fn new() -> Self {
        let settings = ClusterSettings {
            id: "test".into(),
            peer: String::new(),
            mqtt: Vec::new(),
            version: "0".to_owned(),
            max_link_bytes: 1 << 20,
            take_over: Duration::from_secs(4),
            repair: Duration::from_secs(5),
        };
        let store = World::default().node("n1", ME);
        let cluster = crate::cluster::Cluster::new(&"n1".into(), store, settings);
        let shared = crate::system::shared_for_tests(&Arc::new(super::settings("n1", 1)));
        let now = Boot(1_000_000_000);
        let coordinator = Coordinator::new(&cluster, &shared, Self::at(now));
        Self { coordinator, outside: Outside::default(), cluster, now }
    }

    fn at(boot: Boot) -> Now {
        Now { boot, wall: Wall(0) }
    }

    fn work(&mut self, work: PeerWork) {
        self.coordinator.handle_message(Self::at(self.now), work);
        self.coordinator.handle_turn(Self::at(self.now));
    }

    fn answer(&mut self, request: RequestId, answer: Answer) {
        self.work(PeerWork::Answered { request, answer });
    }

    fn sees(&mut self, members: &[(&str, u64)]) {
        let member = |(id, incarnation): &(&str, u64)| hydrant_protocol::cluster::Member {
            node_id: (*id).into(),
            incarnation: *incarnation,
            peer: "127.0.0.1:1".into(),
            mqtt: Vec::new(),
            version: "0".to_owned(),
            protocol: (1, 1),
            load: Load { connections: 0, max_connections: 1 },
            draining: false,
        };
        let members = members.iter().map(member).collect();
        self.work(PeerWork::Members(MembershipView { generation: 0, members, current: true }));
        let (survey, request) = self.next().unwrap();
        assert!(matches!(request, Request::Incarnations), "{request:?}");
        self.answer(survey, Answer::Incarnations(Ok(Vec::new())));
    }

    /// It is alone, has read the retained messages, and may give sessions up.
    fn is_synced(&mut self) {
        self.sees(&[("n1", ME)]);
        let (retained, request) = self.asked();
        assert!(matches!(request, Request::Retained), "{request:?}");
        self.answer(retained, Answer::Retained(Ok(Vec::new())));
        self.told();
    }

    fn claims(&mut self, client: &str) {
        let (worker, conn, client) = (0, (3, 1), client.into());
        self.work(PeerWork::Claim { worker, conn, client, clean: false, known: false });
    }

    fn next(&mut self) -> Option<(RequestId, Request)> {
        self.coordinator.hand_out(&mut self.outside);
        self.outside.requests.pop_front()
    }

    /// The one request that is to be carried out.
    fn asked(&mut self) -> (RequestId, Request) {
        let asked = self.next().unwrap();
        assert!(self.next().is_none(), "one at a time");
        asked
    }

    fn locates(&mut self) -> RequestId {
        let (id, request) = self.asked();
        assert!(matches!(&request, Request::Locate { client } if &**client == "c"), "{request:?}");
        id
    }

    /// It asks again after this time and not before.
    fn waits(&mut self, time: Duration) {
        let at = self.now + time;
        assert_eq!(self.coordinator.poll_deadline(), Some(at));
        self.coordinator.handle_deadline(Self::at(Boot(at.0 - 1)));
        assert!(self.next().is_none());
        self.now = at;
        self.coordinator.handle_deadline(Self::at(at));
        assert_eq!(self.coordinator.poll_deadline(), None);
    }

    fn ticks(&mut self, times: u32) {
        for _ in 0..times {
            self.now = self.now + TICK;
            self.coordinator.handle_tick(Self::at(self.now), true);
        }
    }

    /// What its worker's manager is told.
    fn told(&mut self) -> Vec<ManagerWork> {
        self.coordinator.hand_out(&mut self.outside);
        mem::take(&mut self.outside.managers)
    }

    fn is_synced_now(&self) -> bool {
        self.cluster.synced.load(Ordering::SeqCst)
    }
}

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
    machine.cluster.sealing.fetch_add(1, Ordering::SeqCst);
    machine.answer(second, Answer::Located(Ok(own())));
    machine.waits(Duration::from_millis(10));
    let third = machine.locates();
    machine.cluster.sealing.fetch_sub(1, Ordering::SeqCst);
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
    let sealing = |machine: &Machine| machine.cluster.sealing.load(Ordering::SeqCst);
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

/// The actor dies and is rebuilt: what it had decided does not wait for another step.
#[test]
fn what_was_decided_before_a_panic_is_carried_out() {
    let machine = Machine::new();
    let mailboxes = Mailboxes::new(&machine.coordinator.shared.settings, 1 << 20);
    let driver = Driver::new(machine.coordinator, &machine.cluster, &mailboxes);
    let step = || {
        driver.step(|coordinator, _| {
            coordinator.effects.manager(0, ManagerWork::FinishOpen, 1);
            panic!("as a fault would");
        });
    };
    assert!(catch_unwind(AssertUnwindSafe(step)).is_err());
    assert_eq!(mailboxes.managers[0].len(), 1);
    driver.step(|_, _| {});
    assert_eq!(mailboxes.managers[0].len(), 1, "once");
}
