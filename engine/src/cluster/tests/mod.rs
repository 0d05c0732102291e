//! The coordinator without anything around it, in virtual time.

mod histories;
mod requests;

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use hydrant_protocol::cluster::{Load, MembershipView};

use super::coordinator::Coordinator;
use super::state::effects::Push;
use super::state::requests::{Request, RequestId};
use super::{Beginning, Cluster, ClusterSettings, GiveUp, Lease, NodeIndex};
use crate::messages::{Answer, ManagerWork, PeerWork, RouterWork, StorageWork};
use crate::now::{Boot, Now, Wall};
use crate::ports::{ClusterOp, SessionId, StoreError, StoreOp};

const ME: u64 = 7;
const OTHER: u64 = 3;
/// The coordinator's own, which are private.
const TICK: Duration = Duration::from_millis(500);

/// A store whose lease runs, and from which nobody takes a session.
struct Store;

impl Lease for Store {
    fn holds(&self) -> bool {
        true
    }
}

impl GiveUp for Store {
    fn give_up(&self, _: SessionId) -> u64 {
        0
    }
}

/// Node n1 with one worker, and nothing around it.
struct Machine {
    coordinator: Coordinator,
    outside: Outside,
    cluster: Arc<Cluster>,
    now: Boot,
}

/// What was handed out and not looked at.
#[derive(Default)]
struct Outside {
    requests: VecDeque<(RequestId, Request)>,
    managers: Vec<ManagerWork>,
    dialled: Vec<NodeIndex>,
    stored: Vec<StoreOp>,
}

impl Push for Outside {
    fn manager(&mut self, _: u16, work: ManagerWork, _: usize) {
        self.managers.push(work);
    }
    fn router(&mut self, _: u16, _: RouterWork, _: usize) {}
    fn storage(&mut self, work: StorageWork, _: usize) {
        if let StorageWork::Write { ops, .. } = work {
            self.stored.extend(ops);
        }
    }
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
        Self::of("n1", ME)
    }

    /// The same, of another node.
    fn of(id: &str, incarnation: u64) -> Self {
        let settings = ClusterSettings {
            id: "test".into(),
            peer: String::new(),
            mqtt: Vec::new(),
            version: "0".to_owned(),
            max_link_bytes: 1 << 20,
            take_over: Duration::from_secs(4),
            repair: Duration::from_secs(5),
        };
        let beginning = Beginning { incarnation, lineage: incarnation, ..Beginning::default() };
        let cluster = Cluster::new(&id.into(), beginning, &Arc::new(Store), settings);
        let shared = crate::node_tables::NodeTables::for_tests(
            &Arc::new(crate::settings::Settings::for_tests(1)),
            crate::log::Gate::default(),
            crate::worker::testing::BEGIN,
        );
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
        self.cluster.status.is_synced()
    }
}
