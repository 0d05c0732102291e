//! Work queues that live outside the actors that work them off.
//!
//! An [`Inbox`] belongs to the node, not to its consumer: an actor that dies loses nothing, its
//! successor opens a new [`Inbox::stream`] and sees what is queued. It also gives the depth that
//! actix does not tell, and costs one wake per batch instead of one boxed message per item.
//!
//! Invariants: items leave in the order they came; an item is gone only once it was popped; the
//! counts include items that are handed out and not popped yet.
//! Bounds: `max_items` and `max_bytes` are kept by the senders. [`Inbox::push`] never refuses: a
//! sender asks [`Inbox::has_room`] before it takes on more work from outside, and what it had
//! already taken on may go past the bound.
//! A short way ([`Inbox::set_short_way`]) is one that a push tries before it wakes the consumer: the work is done on the
//! thread that pushes.
//! Threads: `actors/tests/inbox_model.rs` explores the orders in which few threads act on an inbox.

use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use futures_util::Stream;

// Beside this module: where shuttle explores it (`actors/tests/inbox_model.rs`), these are shuttle's.
use super::sync::{AtomicBool, AtomicU64, AtomicUsize, Mutex, Ordering};

/// A buffer with more room than this many items is given back to the allocator once empty.
const KEEP_CAPACITY: usize = 16 * 1024;
/// Popped items are given back to the shared counts at least this often.
const GIVE_BACK_EVERY: usize = 32;

/// What [`InboxStream`] yields: there is work, take it with [`Inbox::take`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work;

#[derive(Debug)]
struct Entry<T> {
    item: T,
    cost: u32,
    attempts: u32,
}

#[derive(Debug)]
struct Queue<T> {
    entries: VecDeque<Entry<T>>,
    /// The buffer of the batch before, empty, kept for its allocation.
    spare: VecDeque<Entry<T>>,
    /// Present while the consumer sleeps.
    consumer: Option<Waker>,
    /// The consumer asked not to be offered work.
    held: bool,
    room: Vec<Waker>,
}

/// See [`Inbox::set_short_way`].
#[derive(Default)]
struct ShortWay(OnceLock<Box<dyn Fn() -> bool + Send + Sync>>);

impl fmt::Debug for ShortWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShortWay")
    }
}

#[derive(Debug)]
struct InboxState<T> {
    queue: Mutex<Queue<T>>,
    len: AtomicUsize,
    bytes: AtomicUsize,
    room_wanted: AtomicBool,
    times_full: AtomicU64,
    max_items: usize,
    max_bytes: usize,
    short_way: ShortWay,
}

impl<T> InboxState<T> {
    fn fits(&self, items: usize, bytes: usize) -> bool {
        items < self.max_items && bytes < self.max_bytes
    }

    /// False: there was nothing to append. Counted before the lock is left, so that a consumer never gives back what
    /// was not yet added.
    fn append(&self, queue: &mut Queue<T>, items: impl IntoIterator<Item = (T, usize)>) -> bool {
        let (mut count, mut bytes) = (0usize, 0usize);
        for (item, cost) in items {
            let cost = u32::try_from(cost).unwrap_or(u32::MAX);
            queue.entries.push_back(Entry { item, cost, attempts: 0 });
            count += 1;
            bytes += cost as usize;
        }
        if count == 0 {
            return false;
        }
        let had_items = self.len.fetch_add(count, Ordering::SeqCst);
        let had_bytes = self.bytes.fetch_add(bytes, Ordering::SeqCst);
        if self.fits(had_items, had_bytes) && !self.fits(had_items + count, had_bytes + bytes) {
            self.times_full.fetch_add(1, Ordering::Relaxed);
        }
        true
    }

    fn below_half(&self) -> bool {
        self.len.load(Ordering::SeqCst) < self.max_items.div_ceil(2)
            && self.bytes.load(Ordering::SeqCst) < self.max_bytes.div_ceil(2)
    }

    /// Gives room back and wakes who waits for it.
    fn give_back(&self, items: usize, bytes: usize) {
        self.len.fetch_sub(items, Ordering::SeqCst);
        self.bytes.fetch_sub(bytes, Ordering::SeqCst);
        // Either this sees the flag, or `wait_room` (flag first, counts then) sees these counts.
        if self.room_wanted.load(Ordering::SeqCst) && self.below_half() {
            self.wake_room();
        }
    }

    fn wake_room(&self) {
        let wakers = {
            let mut queue = self.queue.lock();
            self.room_wanted.store(false, Ordering::SeqCst);
            mem::take(&mut queue.room)
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// A handle to a work queue; clones are the same queue. Any thread pushes, one actor takes.
#[derive(Debug)]
pub struct Inbox<T> {
    state: Arc<InboxState<T>>,
}

impl<T> Clone for Inbox<T> {
    fn clone(&self) -> Self {
        Self { state: Arc::clone(&self.state) }
    }
}

impl<T> Inbox<T> {
    /// A queue that is full at `max_items` items or `max_bytes` bytes, whichever comes first.
    pub fn new(max_items: usize, max_bytes: usize) -> Self {
        let queue = Queue {
            entries: VecDeque::new(),
            spare: VecDeque::new(),
            consumer: None,
            held: false,
            room: Vec::new(),
        };
        Self {
            state: Arc::new(InboxState {
                queue: Mutex::new(queue),
                len: AtomicUsize::new(0),
                bytes: AtomicUsize::new(0),
                room_wanted: AtomicBool::new(false),
                times_full: AtomicU64::new(0),
                max_items: max_items.max(1),
                max_bytes: max_bytes.max(1),
                short_way: ShortWay::default(),
            }),
        }
    }

    /// Appends `item` of `cost` bytes; wakes the consumer if it sleeps. Never refuses.
    pub fn push(&self, item: T, cost: usize) {
        self.push_all(std::iter::once((item, cost)));
    }

    /// Appends many items with one lock and at most one wake.
    pub fn push_all(&self, items: impl IntoIterator<Item = (T, usize)>) {
        let waker = {
            let mut queue = self.state.queue.lock();
            if !self.state.append(&mut queue, items) || queue.held {
                return;
            }
            queue.consumer.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Has [`Inbox::push_short`] call `work` behind its items; it works them off on the thread that pushes. Where it
    /// gives false the consumer is woken for what is left. It must not panic. The first one stands.
    pub fn set_short_way(&self, work: impl Fn() -> bool + Send + Sync + 'static) {
        let _ = self.state.short_way.0.set(Box::new(work));
    }

    /// As [`Inbox::push_all`], with the short way tried first. The caller holds no lock that it takes.
    pub fn push_short(&self, items: impl IntoIterator<Item = (T, usize)>) {
        let Some(work) = self.state.short_way.0.get() else { return self.push_all(items) };
        // A guard of its own: the short way takes out of this queue.
        let appended = self.state.append(&mut self.state.queue.lock(), items);
        if !appended || work() {
            return;
        }
        let waker = {
            let mut queue = self.state.queue.lock();
            // Somebody else may have worked them off.
            if queue.held || queue.entries.is_empty() { None } else { queue.consumer.take() }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether a sender may take on more work for this queue.
    pub fn has_room(&self) -> bool {
        self.state.fits(self.len(), self.bytes())
    }

    /// Items queued, or handed out and not popped.
    pub fn len(&self) -> usize {
        self.state.len.load(Ordering::SeqCst)
    }

    /// Whether nothing is queued or handed out.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their cost in bytes.
    pub fn bytes(&self) -> usize {
        self.state.bytes.load(Ordering::SeqCst)
    }

    /// How often the queue went from having room to being full.
    pub fn times_full(&self) -> u64 {
        self.state.times_full.load(Ordering::Relaxed)
    }

    /// Has `waker` woken once, when the queue has fallen below half of both bounds; at once if it
    /// is there already. The same task's waker is kept once.
    pub fn wait_room(&self, waker: &Waker) {
        {
            let mut queue = self.state.queue.lock();
            if !queue.room.iter().any(|known| known.will_wake(waker)) {
                queue.room.push(waker.clone());
            }
            self.state.room_wanted.store(true, Ordering::SeqCst);
        }
        if self.state.below_half() {
            self.state.wake_room();
        }
    }

    /// The consumer's side. A new stream takes over from the one before it (whose actor is dead),
    /// lifts a [`Inbox::hold`] and begins with [`Work`] when something is queued.
    pub fn stream(&self) -> InboxStream<T> {
        let mut queue = self.state.queue.lock();
        queue.consumer = None;
        queue.held = false;
        InboxStream { state: Arc::clone(&self.state) }
    }

    /// The consumer cannot go on: its stream yields nothing until [`Inbox::release`]. Without
    /// it a consumer that leaves items in the queue is offered them again and again.
    pub fn hold(&self) {
        self.state.queue.lock().held = true;
    }

    /// Ends a [`Inbox::hold`]; wakes the stream when something is queued.
    pub fn release(&self) {
        let waker = {
            let mut queue = self.state.queue.lock();
            queue.held = false;
            if queue.entries.is_empty() { None } else { queue.consumer.take() }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Hands out up to `max` items. What of them is not popped goes back to the front when
    /// [`Taken`] is dropped.
    pub fn take(&self, max: usize) -> Taken<T> {
        let mut queue = self.state.queue.lock();
        let mut entries = mem::take(&mut queue.spare);
        if queue.entries.len() <= max {
            mem::swap(&mut entries, &mut queue.entries);
        } else {
            entries.extend(queue.entries.drain(..max));
        }
        drop(queue);
        Taken { state: Arc::clone(&self.state), entries, popped: 0, popped_bytes: 0 }
    }
}

/// Yields [`Work`] whenever the queue is not empty and not held; never ends. For
/// `ctx.add_stream`.
#[derive(Debug)]
pub struct InboxStream<T> {
    state: Arc<InboxState<T>>,
}

impl<T> Stream for InboxStream<T> {
    type Item = Work;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Work>> {
        let mut queue = self.state.queue.lock();
        if !queue.held && !queue.entries.is_empty() {
            return Poll::Ready(Some(Work));
        }
        // Under the same lock as `push`: no wake-up can be lost between the look and this.
        match &mut queue.consumer {
            Some(known) => known.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

/// Items handed out by [`Inbox::take`]. Work on [`Taken::front_mut`], then [`Taken::pop`]: when
/// the work panics the item is still here, goes back to the front of the queue with everything
/// behind it, and its [`Taken::attempts`] is one higher the next time.
#[derive(Debug)]
pub struct Taken<T> {
    state: Arc<InboxState<T>>,
    entries: VecDeque<Entry<T>>,
    popped: usize,
    popped_bytes: usize,
}

impl<T> Taken<T> {
    /// The oldest item.
    pub fn front_mut(&mut self) -> Option<&mut T> {
        self.entries.front_mut().map(|entry| &mut entry.item)
    }

    /// Takes the oldest item out for good and gives its bytes back.
    pub fn pop(&mut self) -> Option<T> {
        let entry = self.entries.pop_front()?;
        self.popped += 1;
        self.popped_bytes += entry.cost as usize;
        if self.popped >= GIVE_BACK_EVERY {
            self.give_back();
        }
        Some(entry.item)
    }

    /// How often a panic ended the work on the present front item.
    pub fn attempts(&self) -> u32 {
        self.entries.front().map_or(0, |entry| entry.attempts)
    }

    /// Items left.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether every item was popped.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn give_back(&mut self) {
        if self.popped > 0 {
            self.state.give_back(mem::take(&mut self.popped), mem::take(&mut self.popped_bytes));
        }
    }
}

impl<T> Drop for Taken<T> {
    fn drop(&mut self) {
        self.give_back();
        if std::thread::panicking()
            && let Some(front) = self.entries.front_mut()
        {
            front.attempts = front.attempts.saturating_add(1);
        }
        let mut queue = self.state.queue.lock();
        let mut waker = None;
        if !self.entries.is_empty() {
            // The shorter one is moved: a few that come back do not cost a walk over a long queue.
            if self.entries.len() < queue.entries.len() {
                while let Some(entry) = self.entries.pop_back() {
                    queue.entries.push_front(entry);
                }
            } else {
                self.entries.append(&mut queue.entries);
                mem::swap(&mut self.entries, &mut queue.entries);
            }
            if !queue.held {
                waker = queue.consumer.take();
            }
        }
        if self.entries.capacity() <= KEEP_CAPACITY
            && self.entries.capacity() > queue.spare.capacity()
        {
            queue.spare = mem::take(&mut self.entries);
        }
        drop(queue);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
