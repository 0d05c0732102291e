//! The queue alone and between threads.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Context;

use crate::inbox::*;
use futures_util::task::{ArcWake, waker};
use futures_util::{StreamExt, future::poll_immediate};
use std::panic::{AssertUnwindSafe, catch_unwind};

#[derive(Default)]
struct Wakes(AtomicUsize);
impl ArcWake for Wakes {
    fn wake_by_ref(this: &Arc<Self>) {
        this.0.fetch_add(1, Ordering::SeqCst);
    }
}
impl Wakes {
    fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

fn poll(stream: &mut InboxStream<u32>, wakes: &Arc<Wakes>) -> bool {
    let waker = waker(Arc::clone(wakes));
    stream.poll_next_unpin(&mut Context::from_waker(&waker)).is_ready()
}

fn drain(inbox: &Inbox<u32>, max: usize) -> Vec<u32> {
    let mut taken = inbox.take(max);
    std::iter::from_fn(|| taken.pop()).collect()
}

#[test]
fn one_wake_a_batch() {
    let inbox = Inbox::new(100, 1000);
    let (mut stream, wakes) = (inbox.stream(), Arc::<Wakes>::default());
    assert!(!poll(&mut stream, &wakes));
    (0..10).for_each(|i| inbox.push(i, 7));
    assert_eq!(wakes.get(), 1);
    assert!(poll(&mut stream, &wakes));
    assert!(poll(&mut stream, &wakes), "as long as something is queued");
    assert_eq!((inbox.len(), inbox.bytes()), (10, 70));
    assert_eq!(drain(&inbox, 4), [0, 1, 2, 3]);
    assert!(poll(&mut stream, &wakes));
    assert_eq!(drain(&inbox, 100), [4, 5, 6, 7, 8, 9]);
    assert_eq!((inbox.len(), inbox.bytes()), (0, 0));
    assert!(!poll(&mut stream, &wakes));
    assert_eq!(wakes.get(), 1);
}

#[test]
fn what_is_not_popped_goes_back_to_the_front() {
    let inbox = Inbox::new(100, 1000);
    (0..5).for_each(|i| inbox.push(i, 1));
    let mut taken = inbox.take(3);
    assert_eq!(taken.pop(), Some(0));
    inbox.push(5, 1);
    drop(taken);
    assert_eq!(inbox.take(1).attempts(), 0, "no panic, no attempt");
    assert_eq!((inbox.len(), inbox.bytes()), (5, 5));
    assert_eq!(drain(&inbox, 10), [1, 2, 3, 4, 5]);
    // In front of more than what comes back, too.
    (0..50).for_each(|i| inbox.push(i, 1));
    let mut taken = inbox.take(3);
    assert_eq!(taken.pop(), Some(0));
    drop(taken);
    assert_eq!(drain(&inbox, 100), (1..50).collect::<Vec<_>>());
}

#[test]
fn a_panic_keeps_the_item_and_counts_the_attempt() {
    let inbox = Inbox::new(100, 1000);
    (0..3).for_each(|i| inbox.push(i, 1));
    for attempt in 0..2 {
        let died = catch_unwind(AssertUnwindSafe(|| {
            let mut taken = inbox.take(10);
            if taken.front_mut() == Some(&mut 0) {
                taken.pop();
            }
            assert_eq!(taken.attempts(), attempt);
            assert_eq!(taken.front_mut(), Some(&mut 1));
            std::panic::resume_unwind(Box::new("poison"));
        }));
        assert_eq!(died.unwrap_err().downcast_ref(), Some(&"poison"));
    }
    let mut taken = inbox.take(10);
    assert_eq!((taken.attempts(), taken.pop()), (2, Some(1)));
    assert_eq!((taken.attempts(), taken.pop()), (0, Some(2)));
}

#[test]
fn room_by_items_and_by_bytes() {
    let inbox = Inbox::new(4, 100);
    (0..3).for_each(|i| inbox.push(i, 10));
    assert!(inbox.has_room());
    inbox.push(3, 10);
    assert!(!inbox.has_room());
    let wakes = Arc::<Wakes>::default();
    inbox.wait_room(&waker(Arc::clone(&wakes)));
    inbox.wait_room(&waker(Arc::clone(&wakes)));
    drain(&inbox, 2);
    assert_eq!(wakes.get(), 0, "half is not below half");
    drain(&inbox, 1);
    assert_eq!(wakes.get(), 1, "registered twice, woken once");
    drain(&inbox, 1);
    assert_eq!(wakes.get(), 1);
    inbox.push(9, 100);
    assert!(!inbox.has_room());
    assert_eq!(inbox.times_full(), 2);
    drain(&inbox, 1);
    inbox.wait_room(&waker(Arc::clone(&wakes)));
    assert_eq!(wakes.get(), 2, "at once when there is room");
}

#[test]
fn hold_and_release() {
    let inbox = Inbox::new(4, 100);
    let (mut stream, wakes) = (inbox.stream(), Arc::<Wakes>::default());
    inbox.hold();
    assert!(!poll(&mut stream, &wakes));
    inbox.push(1, 1);
    assert!(!poll(&mut stream, &wakes));
    assert_eq!(wakes.get(), 0);
    inbox.release();
    assert_eq!(wakes.get(), 1);
    assert!(poll(&mut stream, &wakes));
    inbox.hold();
    assert!(poll(&mut inbox.stream(), &wakes), "a successor begins without the hold");
}

#[test]
fn threads_lose_nothing_and_keep_order() {
    const THREADS: u32 = 4;
    const EACH: u32 = 20_000;
    let inbox: Inbox<u32> = Inbox::new(64, 1 << 20);
    let senders: Vec<_> = (0..THREADS)
        .map(|t| {
            let inbox = inbox.clone();
            std::thread::spawn(move || {
                for i in 0..EACH {
                    while !inbox.has_room() {
                        let waker = waker(Arc::new(Unpark(std::thread::current())));
                        inbox.wait_room(&waker);
                        // Woken at most 20 s late if a wake-up were lost: the test fails then.
                        let since = std::time::Instant::now();
                        std::thread::park_timeout(std::time::Duration::from_secs(20));
                        assert!(since.elapsed().as_secs() < 20, "lost wake-up");
                    }
                    inbox.push(t * EACH + i, 10);
                }
            })
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut next = [0; THREADS as usize];
    runtime.block_on(async {
        let mut left = THREADS * EACH;
        let mut round = 0u32;
        let mut stream = inbox.stream();
        while left > 0 {
            let work = tokio::time::timeout(std::time::Duration::from_secs(20), stream.next());
            assert_eq!(work.await.expect("lost wake-up"), Some(Work));
            round += 1;
            let _ = catch_unwind(AssertUnwindSafe(|| {
                let mut taken = inbox.take(50);
                while let Some(item) = taken.front_mut().copied() {
                    if round.is_multiple_of(7) && taken.len() == 3 {
                        std::panic::resume_unwind(Box::new(()));
                    }
                    let (t, i) = (item / EACH, item % EACH);
                    assert_eq!(next[t as usize], i);
                    next[t as usize] += 1;
                    left -= 1;
                    taken.pop();
                }
            }));
        }
        assert_eq!(poll_immediate(stream.next()).await, None);
    });
    senders.into_iter().for_each(|s| s.join().unwrap());
    assert_eq!((inbox.len(), inbox.bytes()), (0, 0));
}

struct Unpark(std::thread::Thread);
impl ArcWake for Unpark {
    fn wake_by_ref(this: &Arc<Self>) {
        this.0.unpark();
    }
}
