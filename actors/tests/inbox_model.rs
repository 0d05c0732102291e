//! The inbox under shuttle: many orders in which few threads act on it, with few items. What is looked for: a wake-up
//! that is lost (shuttle finds the deadlock), an item that is lost, doubled or out of order, counts that are wrong.
//!
//! The module is compiled here a second time, upon shuttle's locks and atomics instead of the real ones. They are
//! sequentially consistent, as all of the inbox's are. (loom takes `SeqCst` for `AcqRel`, so it cannot be used.)
#![allow(clippy::unwrap_used, clippy::panic, dead_code)]

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake};

use futures_util::StreamExt;
use inbox::{Inbox, Work};
use shuttle::future::block_on;
use shuttle::thread;

#[path = "../src/inbox.rs"]
mod inbox;

mod sync {
    use shuttle::sync::MutexGuard;
    pub use shuttle::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

    /// A lock without poison, as parking_lot's.
    #[derive(Debug)]
    pub struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }

        pub fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }
    }
}

/// Orders with a few switches of a thread that could go on, at random places (PCT); a failure prints how to repeat it.
fn explore(model: impl Fn() + Sync + Send + 'static) {
    shuttle::check_pct(model, 20_000, 4);
}

/// Takes `count` items as an actor does: sleeps until its stream says that there is work.
fn consume(inbox: &Inbox<u32>, count: usize, at_once: usize) -> Vec<u32> {
    let mut stream = inbox.stream();
    let mut got = Vec::new();
    block_on(async {
        while got.len() < count {
            assert_eq!(stream.next().await, Some(Work));
            let mut taken = inbox.take(at_once);
            got.extend(std::iter::from_fn(|| taken.pop()));
        }
    });
    got
}

fn of(sender: u32, got: &[u32]) -> Vec<u32> {
    got.iter().copied().filter(|item| item / 10 == sender).collect()
}

#[test]
fn no_wake_up_is_lost_and_each_sender_keeps_its_order() {
    explore(|| {
        let inbox: Inbox<u32> = Inbox::new(100, 100);
        let senders = [1, 2].map(|sender| {
            let inbox = inbox.clone();
            thread::spawn(move || {
                inbox.push(sender * 10, 1);
                inbox.push(sender * 10 + 1, 1);
            })
        });
        let got = consume(&inbox, 4, 3);
        assert_eq!((of(1, &got), of(2, &got)), (vec![10, 11], vec![20, 21]));
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        assert_eq!((inbox.len(), inbox.bytes()), (0, 0));
    });
}

#[test]
fn who_waits_for_room_is_woken() {
    explore(|| {
        let inbox: Inbox<u32> = Inbox::new(2, 100);
        let sender = {
            let inbox = inbox.clone();
            thread::spawn(move || {
                for item in 10..13 {
                    block_on(poll_fn(|cx| match inbox.has_room() {
                        true => Poll::Ready(()),
                        false => {
                            inbox.wait_room(cx.waker());
                            Poll::Pending
                        }
                    }));
                    inbox.push(item, 1);
                }
            })
        };
        assert_eq!(consume(&inbox, 3, 1), [10, 11, 12]);
        sender.join().unwrap();
        assert_eq!((inbox.len(), inbox.bytes()), (0, 0));
    });
}

#[test]
fn what_comes_while_the_consumer_holds_is_offered_afterwards() {
    explore(|| {
        let inbox: Inbox<u32> = Inbox::new(100, 100);
        let sender = {
            let inbox = inbox.clone();
            thread::spawn(move || inbox.push(10, 1))
        };
        let mut stream = inbox.stream();
        inbox.hold();
        let releases = {
            let inbox = inbox.clone();
            thread::spawn(move || inbox.release())
        };
        assert_eq!(block_on(stream.next()), Some(Work));
        assert_eq!(inbox.take(2).pop(), Some(10));
        sender.join().unwrap();
        releases.join().unwrap();
        assert!(inbox.is_empty());
    });
}

#[test]
fn what_is_not_popped_stands_in_front_of_what_came_meanwhile() {
    explore(|| {
        let inbox: Inbox<u32> = Inbox::new(100, 100);
        inbox.push(10, 1);
        inbox.push(11, 1);
        let sender = {
            let inbox = inbox.clone();
            thread::spawn(move || inbox.push(12, 1))
        };
        let mut taken = inbox.take(100);
        assert_eq!(taken.pop(), Some(10));
        drop(taken);
        assert_eq!(consume(&inbox, 2, 100), [11, 12]);
        sender.join().unwrap();
        assert_eq!((inbox.len(), inbox.bytes()), (0, 0));
    });
}

/// Remembers that it was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn what_the_short_way_leaves_wakes_the_consumer_and_each_sender_keeps_its_order() {
    explore(|| {
        let inbox: Inbox<u32> = Inbox::new(100, 100);
        let got = Arc::new(sync::Mutex::new(Vec::new()));
        // Had by who takes, as the turn of a log queue.
        let turn = Arc::new(sync::AtomicBool::new(false));
        let step = {
            let (inbox, got, turn) = (inbox.clone(), Arc::clone(&got), Arc::clone(&turn));
            move || {
                if turn.swap(true, sync::Ordering::SeqCst) {
                    return false;
                }
                let mut taken = inbox.take(1);
                got.lock().extend(std::iter::from_fn(|| taken.pop()));
                drop(taken);
                turn.store(false, sync::Ordering::SeqCst);
                inbox.is_empty()
            }
        };
        inbox.set_short_way(step.clone());
        let woken = Arc::<Woken>::default();
        let mut stream = inbox.stream();
        let waker = Arc::clone(&woken).into();
        assert!(stream.poll_next_unpin(&mut Context::from_waker(&waker)).is_pending());
        let senders = [1, 2].map(|sender| {
            let inbox = inbox.clone();
            thread::spawn(move || {
                inbox.push_short([(sender * 10, 1)]);
                inbox.push_short([(sender * 10 + 1, 1)]);
            })
        });
        let other = thread::spawn(step);
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        other.join().unwrap();
        assert!(inbox.is_empty() || woken.0.load(Ordering::SeqCst));
        let mut left = inbox.take(4);
        got.lock().extend(std::iter::from_fn(|| left.pop()));
        drop(left);
        let got = got.lock();
        assert_eq!((of(1, &got), of(2, &got)), (vec![10, 11], vec![20, 21]));
        assert_eq!((inbox.len(), inbox.bytes()), (0, 0));
    });
}
