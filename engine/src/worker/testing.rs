//! A worker as tests drive it: its inboxes are queues, and it is as late as its node's clock is shifted.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use hydrant_protocol::topic::TopicFilter;
use hydrant_protocol::wire::{self, Connect, Publish, Subscribe, Version, Will};
use hydrant_protocol::{PacketId, QoS};

use super::{Conn, ConnId, Outside, SocketState, Worker};
use crate::log::Gate;
use crate::messages::{LogWork, ManagerWork, PeerWork, RouterWork, StorageWork};
use crate::node_tables::NodeTables;
use crate::now::{Boot, Now, Wall};
use crate::ports::{QueueEntry, SessionOp, StoreOp};
use crate::settings::Settings;

/// When a node begins, by both clocks.
pub const BEGIN: Now = Now { boot: Boot(1_000_000_000), wall: Wall(1_800_000_000_000_000_000) };

/// The inboxes of a node, as far as workers push to them; with what each item counts with.
pub struct Inboxes {
    storage: RefCell<VecDeque<(StorageWork, usize)>>,
    log: RefCell<VecDeque<LogWork>>,
    routers: Vec<RefCell<VecDeque<(RouterWork, usize)>>>,
    max_log: usize,
    max_router_bytes: usize,
}

impl Inboxes {
    /// Empty ones.
    pub fn new(settings: &Settings) -> Rc<Self> {
        Rc::new(Self {
            storage: RefCell::default(),
            log: RefCell::default(),
            routers: (0..settings.workers.max(1)).map(|_| RefCell::default()).collect(),
            max_log: settings.log.max_pending_messages,
            max_router_bytes: settings.limits.max_router_bytes,
        })
    }
}

struct ToInboxes(Rc<Inboxes>);

fn bytes<T>(inbox: &RefCell<VecDeque<(T, usize)>>) -> usize {
    inbox.borrow().iter().map(|(_, bytes)| bytes).sum()
}

fn take<T>(inbox: &RefCell<VecDeque<T>>, max: usize) -> VecDeque<T> {
    let mut inbox = inbox.borrow_mut();
    let max = max.min(inbox.len());
    inbox.drain(..max).collect()
}

impl Outside for ToInboxes {
    fn storage(&self, work: StorageWork, bytes: usize) {
        self.0.storage.borrow_mut().push_back((work, bytes));
    }

    fn log(&self, work: &mut Vec<LogWork>) {
        self.0.log.borrow_mut().extend(work.drain(..));
    }

    fn router(&self, worker: u16, work: RouterWork, bytes: usize) {
        self.0.routers[usize::from(worker)].borrow_mut().push_back((work, bytes));
    }

    fn manager(&self, _: u16, _: ManagerWork, _: usize) {}

    fn peers(&self, _: PeerWork, _: usize) {}

    fn storage_bytes(&self) -> usize {
        bytes(&self.0.storage)
    }

    fn log_has_room(&self) -> bool {
        self.0.log.borrow().len() < self.0.max_log
    }

    fn router_has_room(&self, worker: u16) -> bool {
        bytes(&self.0.routers[usize::from(worker)]) < self.0.max_router_bytes
    }

    fn wake(&self, _: ConnId, _: u64) {}

    fn wake_router(&self) {}

    fn unread(&self, _: ConnId, _: &mut Vec<u8>) {}

    fn random(&self) -> u64 {
        1
    }

    fn take_storage(&self, max: usize) -> VecDeque<StorageWork> {
        take(&self.0.storage, max).into_iter().map(|(work, _)| work).collect()
    }

    fn take_log(&self, max: usize) -> VecDeque<LogWork> {
        take(&self.0.log, max)
    }

    fn take_router(&self, worker: u16, max: usize) -> VecDeque<RouterWork> {
        take(&self.0.routers[usize::from(worker)], max).into_iter().map(|(work, _)| work).collect()
    }
}

impl Worker {
    /// What was pushed to the storage's inbox.
    pub fn take_storage(&self, max: usize) -> VecDeque<StorageWork> {
        self.outside.take_storage(max)
    }

    /// What was pushed to the log's inbox.
    pub fn take_log(&self, max: usize) -> VecDeque<LogWork> {
        self.outside.take_log(max)
    }

    /// What was pushed to a router's inbox.
    pub fn take_router(&self, worker: u16, max: usize) -> VecDeque<RouterWork> {
        self.outside.take_router(worker, max)
    }
}

/// A socket and a task with which nothing is wrong.
pub fn ready(_: &Conn, _: bool) -> SocketState {
    SocketState::Goes
}

/// The time that it is.
pub fn now(worker: &Worker) -> Now {
    worker.shared.clock.shifted(BEGIN)
}

/// A step begins, at the time that it is.
pub fn tick(worker: &Worker) {
    worker.begin(now(worker));
}

/// Small bounds, of everything.
pub fn settings(workers: usize) -> Settings {
    Settings::for_tests(workers)
}

pub fn worker(workers: usize) -> Rc<Worker> {
    worker_with(settings(workers))
}

pub fn worker_with(settings: Settings) -> Rc<Worker> {
    worker_before(settings, Gate::default())
}

/// One in front of a log.
pub fn worker_before(settings: Settings, gate: Gate) -> Rc<Worker> {
    let inboxes = Inboxes::new(&settings);
    let shared = NodeTables::for_tests(&Arc::new(settings), gate, BEGIN);
    worker_of(0, shared, &inboxes)
}

/// One of a node's workers.
pub fn worker_of(index: u16, shared: Arc<NodeTables>, inboxes: &Rc<Inboxes>) -> Rc<Worker> {
    let now = shared.clock.shifted(BEGIN);
    Worker::new(index, shared, Box::new(ToInboxes(Rc::clone(inboxes))), now)
}

pub fn conn(worker: &Rc<Worker>) -> Rc<Conn> {
    let mut conns = worker.conns.borrow_mut();
    let slot = conns.vacant_entry();
    let conn = Rc::new(Conn::new(
        (slot.key(), worker.next_number()),
        super::Phase::AwaitConnect,
        ([127, 0, 0, 1], 1).into(),
        worker.now_ms(),
        Vec::new(),
    ));
    slot.insert(Rc::clone(&conn));
    conn
}

pub fn connect(worker: &Rc<Worker>, clean_session: bool, will: Option<&str>) -> Rc<Conn> {
    connect_as("c", worker, clean_session, will)
}

pub fn connect_as(
    client_id: &str,
    worker: &Rc<Worker>,
    clean_session: bool,
    will: Option<&str>,
) -> Rc<Conn> {
    let will = will.map(|payload| will_at(QoS::AtLeastOnce, payload));
    connect_with(client_id, worker, clean_session, will)
}

pub fn will_at(qos: QoS, payload: &str) -> Will {
    let payload = Bytes::copy_from_slice(payload.as_bytes());
    Will { topic: "will".into(), payload, qos, retain: false }
}

pub fn connect_with(
    client_id: &str,
    worker: &Rc<Worker>,
    clean_session: bool,
    will: Option<Will>,
) -> Rc<Conn> {
    let conn = conn(worker);
    // One whose home is here.
    let mut client_id = client_id.to_owned();
    while worker.shared.home(&client_id) != worker.index {
        client_id.push('x');
    }
    let client_id = client_id.into();
    let (username, password) = (None, None);
    let version = Version::V311;
    let packet =
        Connect { version, client_id, clean_session, keep_alive: 0, will, username, password };
    worker.connect(&conn, packet);
    worker.flush();
    conn
}

/// Everything handed to the store so far: its operations, with all tokens answered; its reads.
pub fn store(worker: &Rc<Worker>) -> (Vec<StoreOp>, Vec<(u32, u32, u64)>) {
    let (mut written, mut reads) = (Vec::new(), Vec::new());
    for work in worker.take_storage(1000) {
        match work {
            StorageWork::Write { ops, tokens, .. } => {
                written.extend(ops);
                tokens.into_iter().for_each(|token| worker.complete(token));
            }
            StorageWork::ReadQueue { slot, request, from, .. } => reads.push((slot, request, from)),
        }
    }
    worker.flush();
    (written, reads)
}

/// A SUBSCRIBE comes; nothing is handed out yet.
pub fn ask_for(worker: &Rc<Worker>, conn: &Rc<Conn>, filter: &str, qos: QoS) {
    let filter = TopicFilter::parse(filter, &wire::Limits::PROTOCOL).unwrap();
    let filters = vec![Ok((filter, qos))];
    worker.subscribe(conn, Subscribe { packet_id: PacketId::MIN, filters, beyond: 0 });
}

pub fn subscribe(worker: &Rc<Worker>, conn: &Rc<Conn>, filter: &str, qos: QoS) {
    ask_for(worker, conn, filter, qos);
    worker.flush();
    store(worker);
}

pub fn publish(worker: &Rc<Worker>, conn: &Rc<Conn>, topic: &str, payload: &[u8], retain: bool) {
    publish_at(QoS::AtLeastOnce, worker, conn, topic, payload, retain);
}

pub fn publish_at(
    qos: QoS,
    worker: &Rc<Worker>,
    conn: &Rc<Conn>,
    topic: &str,
    payload: &[u8],
    retain: bool,
) {
    let publish =
        Publish { dup: false, qos, retain, topic, packet_id: Some(PacketId::MIN), payload };
    worker.submit(conn, &publish, None);
    worker.route_all(|| ());
}

pub fn queued(ops: &[StoreOp]) -> Vec<QueueEntry> {
    let entries = ops.iter().filter_map(|op| match op {
        StoreOp::Session(SessionOp::PutQueued { entry, .. }) => Some(entry.clone()),
        _ => None,
    });
    entries.collect()
}

pub fn contains(conn: &Conn, text: &[u8]) -> bool {
    conn.out.borrow().windows(text.len()).any(|part| part == text)
}
