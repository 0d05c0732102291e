//! The broker as machines without IO, and the data they work on (`docs/decisions/0017-the-engine.md`).
//!
//! Nothing here knows an actor, a socket, a thread or a clock: time is an argument ([`now`]), and what a machine
//! decides is handed to its driver. Two drive these machines: the actors of a node (`actors/`, which exports most of
//! these modules under its own name, too) and the simulation (`simulation/`), in virtual time.
//!
//! The machines are four:
//!
//! - [`Worker`](worker::Worker): what follows from the bytes of clients, from publishes, answers and deadlines.
//! - [`WriteQueue`](storage::WriteQueue), in front of the session store: batches, retries, the order of answers.
//! - [`LogQueue`](log::LogQueue), in front of the message log: the order of records, resends, dead letters.
//! - [`Coordinator`](cluster::coordinator::Coordinator): what a node thinks about its cluster.
//!
//! What they work on and with:
//!
//! - [`messages`]: what machines and drivers give each other to do; [`ports`]: what the outside is handed and gives
//!   back.
//! - [`node_tables`]: what the machines of a node read and write together; [`subscriptions`]: who is subscribed,
//!   [`generations`]: which cached routes a change makes stale; [`drain_budget`]: how many connections a drain may
//!   close.
//! - [`settings`], [`metrics`]: bounds, counters; [`now`]: the time of one step, [`clock`]: what has passed.
//! - [`say`]: the lines of the log, [`dropped`] those about messages.
//! - [`step_guard`]: what a step takes back when it does not get to its end; [`plants`]: mistakes that tests plant.
//!
//! # Families
//!
//! A machine's `handle_*` takes what has happened, `poll_*` and `hand_out` give what is to be done, and the rest
//! observes. [`Worker`](worker::Worker) is not there yet: it is told the time by `begin`, takes messages by methods of
//! other names, too, and pushes what it has decided through [`Outside`](worker::Outside).
//!
//! A whole publish at QoS 1 for a persistent session, in virtual time:
//!
//! ```
//! use std::time::Duration;
//!
//! use hydrant_engine::messages::StorageWork;
//! use hydrant_engine::now::Now;
//! use hydrant_engine::settings::Settings;
//! use hydrant_engine::worker::Phase;
//! use hydrant_engine::worker::testing::{BEGIN, worker_with};
//!
//! // A worker whose inboxes are queues: this example is the store, the sockets and the clock.
//! let worker = worker_with(Settings::for_tests(1));
//! let connect = |id: u8, clean: u8| vec![0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, clean, 0, 0, 0, 1, id];
//! let stored = || {
//!     let (mut ops, mut tokens) = (0, Vec::new());
//!     for work in worker.take_storage(usize::MAX) {
//!         if let StorageWork::Write { ops: some, tokens: owed, .. } = work {
//!             ops += some.len();
//!             tokens.extend(owed);
//!         }
//!     }
//!     (ops, tokens)
//! };
//!
//! // A subscriber with a persistent session: its CONNACK and SUBACK wait for the store.
//! worker.begin(BEGIN);
//! let subscriber = worker.handle_accepted(Phase::AwaitConnect, ([127, 0, 0, 1], 1).into(), Vec::new());
//! worker.handle_bytes(&subscriber, &connect(b's', 0));
//! stored().1.into_iter().for_each(|token| worker.complete(token));
//! worker.handle_bytes(&subscriber, &[0x82, 6, 0, 1, 0, 1, b't', 1]);
//! stored().1.into_iter().for_each(|token| worker.complete(token));
//! assert_eq!(subscriber.out.take(), [&[0x20, 2, 0, 0][..], &[0x90, 3, 0, 1, 1]].concat());
//!
//! // A publisher sends a PUBLISH. The router's turn hands the subscriber's copy to the store; nobody is answered yet.
//! let publisher = worker.handle_accepted(Phase::AwaitConnect, ([127, 0, 0, 1], 2).into(), Vec::new());
//! worker.handle_bytes(&publisher, &connect(b'p', 2));
//! worker.handle_bytes(&publisher, &[0x32, 6, 0, 1, b't', 0, 7, b'x']);
//! worker.route_all(|| ());
//! let (ops, tokens) = stored();
//! assert_eq!((ops, tokens.len()), (1, 1));
//! assert_eq!(publisher.out.take(), [0x20, 2, 0, 0]);
//!
//! // A second later the store has it: the subscriber gets the message, and the publisher its PUBACK.
//! worker.begin(Now { boot: BEGIN.boot + Duration::from_secs(1), wall: BEGIN.wall });
//! tokens.into_iter().for_each(|token| worker.complete(token));
//! assert_eq!(subscriber.out.take(), [0x32, 6, 0, 1, b't', 0, 1, b'x']);
//! assert_eq!(publisher.out.take(), [0x40, 2, 0, 7]);
//! ```

pub mod clock;
pub mod cluster;
pub mod drain_budget;
pub mod dropped;
pub mod generations;
pub mod log;
pub mod messages;
pub mod metrics;
pub mod node_tables;
pub mod now;
pub mod plants;
pub mod ports;
pub mod say;
pub mod settings;
pub mod step_guard;
pub mod storage;
pub mod subscriptions;
pub mod worker;
