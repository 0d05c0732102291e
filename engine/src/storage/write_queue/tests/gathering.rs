//! When a batch is written, in virtual time.

use super::*;
use crate::ports::{LogOp, SessionOp};

/// The queue with its outbox, and what the store was given.
struct Played {
    queue: WriteQueue,
    outbox: OutboxProgress,
    /// Not answered, oldest first.
    writes: VecDeque<WriteId>,
    /// Operations of each batch, in order.
    batches: Vec<usize>,
    /// Microseconds.
    now: u64,
}

impl Played {
    fn new(change: impl FnOnce(&mut StorageSettings)) -> Self {
        let mut settings = queue().settings;
        change(&mut settings);
        Self {
            queue: WriteQueue::new(&settings),
            outbox: progress(),
            writes: VecDeque::new(),
            batches: Vec::new(),
            now: 1_000_000,
        }
    }

    fn now(&self) -> Now {
        Now { boot: Boot(self.now), ..Now::default() }
    }

    /// One step of a driver, behind whatever it has told.
    fn step(&mut self) {
        self.queue.handle_room(self.outbox.is_full());
        while let Some((write, ops)) = self.queue.poll_write(self.now(), &mut self.outbox) {
            self.writes.push_back(write);
            self.batches.push(ops.len());
        }
    }

    fn push(&mut self, ops: Vec<StoreOp>) {
        assert!(self.queue.takes());
        self.queue.handle_request(own(0, ops, None));
        self.step();
    }

    /// One small operation.
    fn push_one(&mut self) {
        self.push(vec![SessionOp::DeleteQueued { id: 1, sequence: 1 }.into()]);
    }

    fn answer(&mut self) {
        let write = self.writes.pop_front().unwrap();
        let now = self.now();
        done_at(&mut self.queue, now, write);
        self.step();
    }

    /// How long the driver's timer is set for.
    fn wait(&self) -> Option<Duration> {
        self.queue.poll_deadline().map(|at| at.since(self.now().boot))
    }

    fn pass(&mut self, time: Duration) {
        self.now += u64::try_from(time.as_micros()).unwrap();
    }

    /// The driver's timer fires.
    fn pass_until_deadline(&mut self) {
        self.pass(self.wait().unwrap());
        self.queue.handle_deadline(self.now());
        self.step();
    }
}

fn done_at(queue: &mut WriteQueue, now: Now, write: WriteId) {
    assert_eq!(queue.handle_written(now, write, true), None);
    while queue.in_flight.oldest_written().is_some() {
        queue.in_flight.forget_oldest();
    }
}

const FOLLOW: Duration = Duration::from_millis(50);

#[test]
fn what_is_alone_goes_at_once_and_what_has_company_waits_for_the_timer() {
    let mut played = Played::new(|_| ());
    played.push_one();
    assert_eq!((&played.batches[..], played.wait()), (&[1][..], None));
    played.push_one();
    assert_eq!(played.wait(), Some(GATHER));
    // Later than the deadline: only the timer ends it, so that what comes until then joins.
    played.pass(Duration::from_micros(900));
    played.push_one();
    assert_eq!((&played.batches[..], played.wait()), (&[1][..], Some(Duration::ZERO)));
    played.pass_until_deadline();
    assert_eq!((&played.batches[..], played.wait()), (&[1, 2][..], None));
    played.push_one();
    played.queue.handle_deadline(played.now());
    played.step();
    assert_eq!(played.batches, [1, 2], "its own wait has just begun");
    played.answer();
    assert_eq!(played.batches, [1, 2], "another is still under way");
    played.answer();
    assert_eq!((&played.batches[..], played.wait()), (&[1, 2, 1][..], None), "alone again");
}

#[test]
fn a_wait_that_is_over_is_not_the_next_batchs() {
    let wait = Duration::from_millis(300);
    let mut played = Played::new(|_| ());
    played.queue.set_company(wait);
    played.queue.settings.max_in_flight = 16;
    played.push_one();
    assert_eq!(played.batches, [1]);
    // Begins a wait, which a tenth request ends early.
    played.push_one();
    played.pass(Duration::from_millis(20));
    (0..9).for_each(|_| played.push_one());
    assert_eq!(played.batches, [1, 10]);
    let since = played.now;
    played.push_one();
    assert_eq!(played.batches, [1, 10]);
    played.pass_until_deadline();
    assert_eq!(played.batches, [1, 10, 1]);
    assert!(Boot(played.now).since(Boot(since)) >= wait);
    // The third did wait; the fourth waits too.
    let since = played.now;
    played.push_one();
    assert_eq!(played.batches, [1, 10, 1]);
    played.pass_until_deadline();
    assert_eq!(played.batches, [1, 10, 1, 1]);
    assert!(Boot(played.now).since(Boot(since)) >= wait);
}

#[test]
fn what_adds_to_a_queue_that_is_being_written_waits_for_that_one_at_most_50_ms() {
    let mut played = Played::new(|_| ());
    played.push(vec![queued(1, 1)]);
    assert_eq!(played.batches, [1]);
    played.push(vec![queued(1, 2)]);
    assert_eq!(played.wait(), Some(FOLLOW));
    played.pass(FOLLOW - Duration::from_micros(1));
    played.queue.handle_deadline(played.now());
    played.step();
    assert_eq!(played.batches, [1]);
    // The batch that it follows is written: it goes at once, although another is under way.
    played.pass_until_deadline();
    assert_eq!(played.batches, [1, 1]);
    played.push(vec![queued(2, 1)]);
    assert_eq!(played.wait(), Some(GATHER), "another session's follows none");
    played.push(vec![queued(1, 3)]);
    assert_eq!(played.wait(), Some(FOLLOW), "now it follows");
    played.answer();
    assert_eq!(played.batches, [1, 1], "the second has entries of that session, too");
    assert_eq!(played.wait(), Some(FOLLOW));
    played.answer();
    assert_eq!((&played.batches[..], played.wait()), (&[1, 1, 2][..], None));
}

#[test]
fn what_followed_goes_at_once_when_the_one_before_it_is_written_beside_others() {
    let mut played = Played::new(|_| ());
    played.push(vec![queued(1, 1)]);
    played.push(vec![queued(2, 1)]);
    played.pass_until_deadline();
    assert_eq!(played.batches, [1, 1]);
    played.push(vec![queued(1, 2)]);
    assert_eq!(played.wait(), Some(FOLLOW));
    played.answer();
    assert_eq!((&played.batches[..], played.wait()), (&[1, 1, 1][..], None));
}

#[test]
fn an_eighth_of_a_full_batch_goes_beside_others() {
    let mut played = Played::new(|_| ());
    played.push_one();
    (0..9).for_each(|_| played.push_one());
    assert_eq!(played.batches, [1], "9 of 80 are not enough");
    played.push_one();
    assert_eq!((&played.batches[..], played.wait()), (&[1, 10][..], None));
}

#[test]
fn the_delay_of_a_lone_batch_is_for_company_too() {
    let delay = Duration::from_millis(7);
    let mut played = Played::new(|settings| settings.batch_delay = delay);
    (0..79).for_each(|_| played.push_one());
    assert_eq!((played.batches.len(), played.wait()), (0, Some(delay)));
    played.push_one();
    assert_eq!((&played.batches[..], played.wait()), (&[80][..], None), "it is full");
    played.answer();
    played.push_one();
    played.pass_until_deadline();
    assert_eq!(played.batches, [80, 1]);
}

#[test]
fn at_the_limit_nothing_is_taken_and_what_is_gathered_waits_for_an_answer() {
    let mut played = Played::new(|settings| settings.max_in_flight = 2);
    played.push_one();
    played.push_one();
    played.pass_until_deadline();
    assert_eq!((&played.batches[..], played.wait()), (&[1, 1][..], None));
    assert!(!played.queue.takes());
    played.answer();
    assert!(played.queue.takes());
    played.push_one();
    // A failure while it gathers: its time passes, and it goes behind what is written again.
    let write = played.writes.pop_front().unwrap();
    let now = played.now();
    assert!(played.queue.handle_written(now, write, false).is_some());
    played.step();
    assert_eq!(played.wait(), Some(GATHER));
    played.pass_until_deadline();
    assert_eq!((&played.batches[..], played.wait().is_some()), (&[1, 1][..], true));
    played.pass_until_deadline();
    assert_eq!((&played.batches[..], played.wait()), (&[1, 1, 1][..], None), "written again");
    assert!(!played.queue.takes());
    played.answer();
    assert_eq!(played.batches, [1, 1, 1, 1], "the gathered one");
    played.answer();
    assert!(played.queue.is_idle());
}

#[test]
fn a_new_driver_begins_the_wait_anew() {
    let mut played = Played::new(|_| ());
    played.push_one();
    played.push_one();
    played.pass_until_deadline();
    played.push_one();
    played.pass(GATHER);
    let now = played.now();
    played.queue.handle_deadline(now);
    played.queue.handle_restart();
    assert_eq!(played.wait(), None);
    played.step();
    assert_eq!(played.batches, [1, 1, 1, 1], "both that were under way");
    assert_eq!(played.wait(), Some(GATHER));
}

#[test]
fn room_in_the_outbox_is_looked_for_while_a_request_waits_for_it() {
    let mut played = Played::new(|_| ());
    // Past its 100 bytes.
    played.push(vec![outbox_of(100)]);
    assert!(played.outbox.is_full());
    assert_eq!((&played.batches[..], played.wait()), (&[1][..], None));
    played.answer();
    played.push(vec![outbox_of(1), queued(2, 1)]);
    played.push_one();
    assert_eq!((&played.batches[..], played.queue.parked()), (&[1, 1][..], 1));
    played.answer();
    for _ in 0..2 {
        assert_eq!(played.wait(), Some(LOOK));
        played.pass_until_deadline();
        assert_eq!(played.batches, [1, 1], "it is still full");
    }
    assert_eq!(played.outbox.acknowledge(0, 0), Some(1));
    assert_eq!(played.wait(), Some(LOOK));
    played.pass_until_deadline();
    assert_eq!((&played.batches[..], played.wait()), (&[1, 1, 2][..], None));
    assert_eq!((played.queue.parked(), played.queue.take_times_parked()), (0, 1));
}

#[test]
fn a_batch_fills_from_what_stood_in_line_before_anything_is_taken() {
    let mut played = Played::new(|settings| settings.max_in_flight = 1);
    let both = Some(Transaction { id: 1, parts: 2 });
    played.queue.handle_request(own(0, vec![queued(1, 1)], both));
    (0..100).for_each(|_| played.push_one());
    assert!(played.batches.is_empty() && played.queue.takes());
    played.queue.handle_request(write(vec![queued(2, 1)], both));
    assert_eq!(played.queue.gathered(), 80);
    assert!(!played.queue.takes(), "it is full");
    played.step();
    assert_eq!((&played.batches[..], played.queue.gathered()), (&[80][..], 0), "at the limit");
    let write = played.writes.pop_front().unwrap();
    done_at(&mut played.queue, at(0), write);
    assert!(!played.queue.takes(), "the rest of the line comes first");
    played.step();
    assert_eq!(played.batches, [80, 22]);
}

/// An outbox entry of so many bytes and more.
fn outbox_of(bytes: usize) -> StoreOp {
    let mut op = outbox();
    if let StoreOp::Log(LogOp::PutOutbox { record, .. }) = &mut op {
        record.payload = vec![0; bytes].into();
    }
    op
}
