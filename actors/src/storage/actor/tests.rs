//! How batches form, with a store whose answers the test gives, and waits that are either endless
//! or real: nothing here depends on how fast the machine is.

use std::collections::VecDeque;
use std::future::{Future, ready};
use std::time::Instant;

use actix_rt::System;
use hydrant_protocol::{Message, QoS};
use tokio::sync::oneshot;

use super::super::write_queue::{GATHER, HandOut, assign_positions};
use super::*;
use crate::mailboxes::Mailboxes;
use crate::messages::{StorageWork, Transaction};
use crate::ports::{
    DeadId, DeadLetter, Lanes, LogOp, LogRecord, QueueEntry, SessionId, SessionOp, StoreFuture,
    StoredSession, StoredWill,
};

const FOR_EVER: Duration = Duration::from_secs(3600);

type Answer = oneshot::Sender<Result<(), StoreError>>;

/// A store whose writes end when the test says so.
#[derive(Default)]
struct Played {
    /// Operations of each batch, in order.
    batches: Mutex<Vec<usize>>,
    answers: Mutex<VecDeque<Answer>>,
}

impl Played {
    fn batches(&self) -> Vec<usize> {
        self.batches.lock().clone()
    }

    /// Answers the oldest write that is not answered.
    fn answer(&self, result: Result<(), StoreError>) {
        let answer = self.answers.lock().pop_front().unwrap();
        answer.send(result).unwrap();
    }
}

impl SessionStore for Played {
    fn write(&self, ops: Arc<Vec<StoreOp>>) -> StoreFuture<()> {
        let (answer, wait) = oneshot::channel();
        self.batches.lock().push(ops.len());
        self.answers.lock().push_back(answer);
        Box::pin(async move { wait.await.unwrap() })
    }
    fn sessions(&self) -> StoreFuture<Vec<StoredSession>> {
        Box::pin(ready(Ok(Vec::new())))
    }
    fn retained(&self) -> StoreFuture<Vec<(Arc<Message>, u64)>> {
        Box::pin(ready(Ok(Vec::new())))
    }
    fn wills(&self) -> StoreFuture<Vec<StoredWill>> {
        Box::pin(ready(Ok(Vec::new())))
    }
    fn read_queue(&self, _: SessionId, _: u64, _: usize, _: usize) -> StoreFuture<Vec<QueueEntry>> {
        Box::pin(ready(Ok(Vec::new())))
    }
    fn lanes(&self) -> StoreFuture<Lanes> {
        Box::pin(ready(Ok(Vec::new())))
    }
    fn read_outbox(&self, _: u16, _: u64, _: usize, _: usize) -> StoreFuture<Vec<LogRecord>> {
        Box::pin(ready(Ok(Vec::new())))
    }
    fn dead_letters(&self, _: DeadId, _: usize, _: usize) -> StoreFuture<Vec<DeadLetter>> {
        Box::pin(ready(Ok(Vec::new())))
    }
    fn describe(&self) -> String {
        "played".into()
    }
}

struct Node {
    parts: StorageParts,
    store: Arc<Played>,
}

impl Node {
    /// Full batches are of 80 operations or 80,000 bytes.
    fn start(max_in_flight: usize, batch_delay: Duration, company: Duration) -> Self {
        let mut settings = crate::settings::Settings::for_tests(1);
        settings.storage.batch_max_ops = 80;
        settings.storage.batch_max_bytes = 80_000;
        settings.storage.batch_delay = batch_delay;
        settings.storage.max_in_flight = max_in_flight;
        settings.storage.retry_min = Duration::from_millis(1);
        settings.storage.retry_max = Duration::from_millis(1);
        let mailboxes = Mailboxes::new(&settings, usize::MAX);
        let shared = crate::node_tables::NodeTables::for_tests(
            &Arc::new(settings),
            crate::log::Gate::default(),
            crate::clock::now(),
        );
        let store = Arc::<Played>::default();
        let parts = StorageParts {
            shared: Arc::clone(&shared),
            mailboxes,
            store: Arc::clone(&store) as Arc<dyn SessionStore>,
            queue: Arc::new(Mutex::new(WriteQueue::new(&shared.settings.storage))),
        };
        parts.queue.lock().set_company(company);
        let node = Self { parts, store };
        node.build();
        node
    }

    /// An actor that takes over what there is.
    fn build(&self) {
        let mailboxes = Arc::clone(&self.parts.mailboxes);
        let cell = ActorCell::new("storage", "StorageActor").shared();
        let actor = StorageActor::new(&self.parts, &cell);
        StorageActor::create(|ctx| {
            StorageActor::add_stream(mailboxes.storage.stream(), ctx);
            actor
        });
    }

    /// One request of one small operation: 65 bytes.
    fn push(&self) {
        self.push_bytes(0);
    }

    fn push_bytes(&self, bytes: usize) {
        let message = Arc::new(Message {
            topic: "t".into(),
            payload: vec![0; bytes].into(),
            qos: QoS::AtLeastOnce,
            retain: true,
            properties: None,
        });
        let cost = message.cost();
        let op = StoreOp::PutRetained { message, version: 1 };
        self.push_part(vec![op], None, Some(0), cost);
    }

    fn push_part(
        &self,
        ops: Vec<StoreOp>,
        transaction: Option<Transaction>,
        origin: Option<u16>,
        cost: usize,
    ) {
        let work = StorageWork::Write { ops, tokens: Vec::new(), transaction, origin };
        self.parts.mailboxes.storage.push(work, cost);
    }

    /// Requests one after the other, each admitted before the next comes.
    async fn push_singly(&self, count: usize) {
        for _ in 0..count {
            self.push();
            until("it is taken up", || self.parts.mailboxes.storage.is_empty()).await;
        }
    }

    async fn batches(&self, expected: &[usize]) {
        until(&format!("batches are {expected:?}"), || {
            self.store.batches().len() >= expected.len()
        })
        .await;
        assert_eq!(self.store.batches(), expected);
    }

    fn answer(&self) {
        self.store.answer(Ok(()));
    }

    async fn idle(&self) {
        until("nothing is under way", || self.parts.queue.lock().is_idle()).await;
    }
}

/// Polls a condition; the sleep only yields.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Lets the actor do whatever it would do by itself.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

fn run(test: impl Future<Output = ()>) {
    System::new().block_on(test);
}

#[test]
fn a_lone_request_goes_at_once_and_those_behind_it_together() {
    run(async {
        let node = Node::start(16, Duration::ZERO, FOR_EVER);
        node.push();
        node.batches(&[1]).await;
        node.push_singly(5).await;
        settle().await;
        assert_eq!(node.store.batches(), [1], "they gather");
        node.answer();
        node.batches(&[1, 5]).await;
        node.answer();
        node.idle().await;
        // Alone again.
        node.push();
        node.batches(&[1, 5, 1]).await;
    });
}

#[test]
fn an_eighth_of_a_full_batch_waits_for_nothing() {
    run(async {
        let node = Node::start(16, Duration::ZERO, FOR_EVER);
        node.push();
        node.batches(&[1]).await;
        node.push_singly(9).await;
        settle().await;
        assert_eq!(node.store.batches(), [1], "9 of 80 are not enough");
        node.push();
        node.batches(&[1, 10]).await;
        // By bytes too.
        node.push_bytes(8000);
        settle().await;
        assert_eq!(node.store.batches(), [1, 10]);
        node.push_bytes(2000);
        node.batches(&[1, 10, 2]).await;
        (0..3).for_each(|_| node.answer());
        node.idle().await;
    });
}

#[test]
fn what_is_gathered_beside_a_batch_goes_by_itself_soon() {
    run(async {
        let node = Node::start(16, Duration::ZERO, GATHER);
        node.push();
        node.batches(&[1]).await;
        // None of them is answered: only the timer can send the next.
        node.push();
        node.batches(&[1, 1]).await;
        node.push();
        node.batches(&[1, 1, 1]).await;
        (0..3).for_each(|_| node.answer());
        node.idle().await;
    });
}

/// Else a busy session has as many writes wait for each other as may be in flight.
#[test]
fn what_adds_to_the_same_queue_gathers_until_the_batch_before_it_is_written() {
    run(async {
        let node = Node::start(16, Duration::ZERO, GATHER);
        let push = |id: u64, sequence: u64| {
            let message = Arc::new(Message {
                topic: "t".into(),
                payload: vec![0].into(),
                qos: QoS::AtLeastOnce,
                retain: false,
                properties: None,
            });
            let (qos, outgoing) = (QoS::AtLeastOnce, None);
            let entry =
                crate::ports::QueueEntry { sequence, qos, retain: false, message, outgoing };
            node.push_part(vec![SessionOp::PutQueued { id, entry }.into()], None, Some(0), 65);
        };
        push(1, 1);
        node.batches(&[1]).await;
        push(1, 2);
        push(1, 3);
        until("they are taken up", || node.parts.mailboxes.storage.is_empty()).await;
        push(1, 4);
        until("it is taken up", || node.parts.mailboxes.storage.is_empty()).await;
        settle().await;
        assert_eq!(node.store.batches(), [1]);
        node.answer();
        node.batches(&[1, 3]).await;
        // Another session's waits for nobody.
        push(2, 1);
        node.batches(&[1, 3, 1]).await;
        (0..2).for_each(|_| node.answer());
        node.idle().await;
    });
}

#[test]
fn at_the_limit_work_stays_in_the_inbox_and_leaves_it_in_full_batches() {
    run(async {
        let node = Node::start(2, Duration::ZERO, GATHER);
        node.push();
        node.batches(&[1]).await;
        node.push();
        node.batches(&[1, 1]).await;
        for _ in 0..100 {
            node.push();
        }
        settle().await;
        assert_eq!((node.store.batches().len(), node.parts.mailboxes.storage.len()), (2, 100));
        assert_eq!(node.parts.queue.lock().gathered(), 0);
        node.answer();
        node.batches(&[1, 1, 80]).await;
        node.answer();
        node.batches(&[1, 1, 80, 20]).await;
        node.answer();
        node.answer();
        node.idle().await;
    });
}

#[test]
fn below_the_limit_again_the_inbox_is_worked_off_although_nothing_is_written() {
    run(async {
        let node = Node::start(2, Duration::ZERO, FOR_EVER);
        node.push();
        node.batches(&[1]).await;
        (0..10).for_each(|_| node.push());
        node.batches(&[1, 10]).await;
        node.push();
        settle().await;
        assert_eq!(node.parts.mailboxes.storage.len(), 1, "at the limit");
        node.answer();
        until("it is taken up", || node.parts.mailboxes.storage.is_empty()).await;
        node.push_singly(2).await;
        assert_eq!(node.parts.queue.lock().gathered(), 3);
        node.answer();
        node.batches(&[1, 10, 3]).await;
    });
}

#[test]
fn with_one_in_flight_a_batch_fills_while_the_one_before_it_is_written() {
    run(async {
        let node = Node::start(1, Duration::ZERO, GATHER);
        node.push();
        node.batches(&[1]).await;
        for _ in 0..20 {
            node.push();
        }
        settle().await;
        assert_eq!((node.store.batches(), node.parts.mailboxes.storage.len()), (vec![1], 20));
        node.answer();
        node.batches(&[1, 20]).await;
    });
}

#[test]
fn a_batch_delay_lasts_until_the_batch_is_full() {
    run(async {
        let node = Node::start(1, FOR_EVER, GATHER);
        node.push_singly(79).await;
        settle().await;
        assert!(node.store.batches().is_empty());
        node.push();
        node.batches(&[80]).await;
        let node = Node::start(1, Duration::from_millis(1), GATHER);
        node.push();
        node.batches(&[1]).await;
    });
}

#[test]
fn what_a_lane_says_was_handed_over_was_also_when_a_panic_came_behind_it() {
    let settings = Arc::new(crate::settings::Settings::for_tests(1));
    let mailboxes = Mailboxes::new(&settings, usize::MAX);
    let shared = crate::node_tables::NodeTables::for_tests(
        &settings,
        crate::log::Gate::default(),
        crate::clock::now(),
    );
    let ops = |lanes: &[u16]| -> Vec<StoreOp> {
        let entries = lanes.iter().map(|lane| {
            let mut op = super::super::tests::outbox();
            if let StoreOp::Log(LogOp::PutOutbox { position, .. }) = &mut op {
                position.lane = *lane;
            }
            op
        });
        entries.collect()
    };
    let mut good = ops(&[0, 0]);
    assign_positions(&mut shared.lanes.lock(), &mut good);
    let mut broken = good.clone();
    // A lane that is not there.
    broken.extend(ops(&[9]));
    let hand = |ops: &[StoreOp]| {
        let room = mailboxes.log.has_room();
        HandOut::default().hand_to_log(
            ops,
            &mut shared.lanes.lock(),
            room,
            &mut Inboxes(&mailboxes),
        );
    };
    let broken = std::panic::AssertUnwindSafe(|| hand(&broken));
    assert!(std::panic::catch_unwind(broken).is_err());
    assert_eq!(mailboxes.log.len(), 2);
    // The successor answers the batch again: none is handed over twice.
    hand(&good);
    assert_eq!(mailboxes.log.len(), 2);
    assert!(!shared.lanes.lock().any_behind());
}

#[test]
fn a_rebuilt_actor_finds_what_stands_behind_a_transaction() {
    run(async {
        let node = Node::start(16, Duration::ZERO, GATHER);
        let both = Some(Transaction { id: 1, parts: 2 });
        let read = StorageWork::ReadQueue {
            worker: 0,
            slot: 0,
            request: 0,
            session: 1,
            from: 0,
            until: 10,
            limit: 1,
            max_bytes: 1,
        };
        let op = || vec![SessionOp::DeleteQueued { id: 1, sequence: 1 }.into()];
        node.push_part(op(), both, Some(0), 64);
        // More than one batch takes.
        for _ in 0..100 {
            node.push();
        }
        node.parts.mailboxes.storage.push(read, 64);
        until("all is taken up", || node.parts.mailboxes.storage.is_empty()).await;
        settle().await;
        assert!(node.store.batches().is_empty() && !node.parts.queue.lock().is_idle());
        assert!(node.parts.shared.parked_bytes.load(Ordering::Relaxed) > 100 * 64);
        node.build();
        settle().await;
        assert!(node.store.batches().is_empty());
        node.push_part(op(), both, None, 64);
        node.batches(&[80, 22]).await;
        node.answer();
        node.answer();
        node.idle().await;
        assert_eq!(node.parts.shared.parked_bytes.load(Ordering::Relaxed), 0);
        assert_eq!(node.parts.mailboxes.managers[0].len(), 1, "the page");
    });
}

#[test]
fn the_line_in_the_tree_says_how_it_goes() {
    run(async {
        let node = Node::start(16, Duration::ZERO, FOR_EVER);
        assert_eq!(
            describe(&node.parts),
            "played; 0 batches in flight, 0 operations a batch, write p50 - p99 -, 0 retries, 0 parked"
        );
        node.push();
        node.batches(&[1]).await;
        node.push_singly(6).await;
        node.store.answer(Err(StoreError::Unavailable("away".into())));
        node.batches(&[1, 1]).await;
        node.answer();
        node.batches(&[1, 1, 6]).await;
        let line = describe(&node.parts);
        assert!(line.starts_with("played; 1 batches in flight, 1 operations a batch, "), "{line}");
        assert!(
            line.contains("write p50 <= ") && line.ends_with("s, 1 retries, 0 parked"),
            "{line}"
        );
        node.answer();
        node.idle().await;
        // (1 + 6) / 2
        let latency = &node.parts.shared.metrics.storage_latency;
        latency.record(Duration::from_secs(11));
        let line = describe(&node.parts);
        assert!(line.contains("in flight, 3 operations a batch"), "{line}");
        assert!(line.contains("p99 > 10s, 1 retries"), "{line}");
    });
}
