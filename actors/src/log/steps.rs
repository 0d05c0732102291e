//! One step of the log queue, whoever takes it: LogActor, a worker that has put records into the inbox, or the log's own
//! thread that reports. So a PUBACK at the defaults does not wait for LogActor's thread to be woken twice (decision
//! 0018).
//!
//! Owns the queue, the inbox of reports, and the turn.
//!
//! Invariants: a step is taken by who has the turn, from the inboxes to the log's `append`. So records reach the log in
//! the order of the inbox, whoever hands them over, and both inboxes are emptied from the front only.
//! The short way is open while the queue is plain: no reset, no read, nothing that waits for one, and no record unsent.
//! In every other case LogActor is woken, and finds everything as it would without the short way; also when a step of
//! the short way panics, or ends with a queue that is not plain, since orders and deadlines are LogActor's.
//! The short way does not wait for the dead letters' book, which an operator's command holds for long: it is closed
//! meanwhile. A step that is under way waits for it where the log refuses a record, or has a dead letter again.
//! Bounds: the short way takes [`FEW`] records and [`FEW`] reports at most, whatever comes meanwhile. More is LogActor's,
//! so that a worker's thread and the log's go on with their own work under load.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::outside::{OfNode, ToInboxes};
use super::queue::{LogQueue, Outcome};
use super::tell::tell;
use crate::clock;
use crate::inbox::Inbox;
use crate::mailboxes::Mailboxes;
use crate::node_tables::NodeTables;
use crate::now::Now;
use crate::ports::{LogRecord, MessageLog, Report};
use crate::say;
use crate::step_guard::StepGuard;
use crate::supervision;

/// Records taken out of the inbox in one step.
const ADMIT_AT_ONCE: usize = 4096;
/// Batches of reports taken in one step.
const REPORTS_AT_ONCE: usize = 256;
/// Records, and reports, for which a step is taken on the thread that has brought them.
const FEW: usize = 64;

/// See the module.
pub struct LogSteps {
    /// What the actors share.
    pub shared: Arc<NodeTables>,
    /// The inboxes of the node's actors.
    pub mailboxes: Arc<Mailboxes>,
    /// The message log.
    pub log: Arc<dyn MessageLog>,
    /// Records under way.
    pub queue: Mutex<LogQueue>,
    /// What the log reports; a report costs 1.
    pub reports: Inbox<Vec<Report>>,
    /// The short way has left orders, deadlines or a panic to LogActor.
    pub left: Inbox<()>,
    /// Held for one step.
    turn: Mutex<()>,
}

impl LogSteps {
    /// Of this node. Call once; sets the log's report sink.
    pub(super) fn new(
        shared: &Arc<NodeTables>,
        mailboxes: &Arc<Mailboxes>,
        log: Arc<dyn MessageLog>,
    ) -> Arc<Self> {
        let reports: Inbox<Vec<Report>> = Inbox::new(usize::MAX, usize::MAX);
        let queue = LogQueue::new(&shared.settings.log, mailboxes.managers.len());
        let steps = Arc::new(Self {
            shared: Arc::clone(shared),
            mailboxes: Arc::clone(mailboxes),
            log,
            queue: Mutex::new(queue),
            reports: reports.clone(),
            left: Inbox::new(usize::MAX, usize::MAX),
            turn: Mutex::new(()),
        });
        if steps.log.append_is_cheap() {
            // Weak: the inboxes stand in what they lead to.
            let short = |steps: Weak<Self>| move || steps.upgrade().is_some_and(|s| s.short_way());
            mailboxes.log.set_short_way(short(Arc::downgrade(&steps)));
            reports.set_short_way(short(Arc::downgrade(&steps)));
        }
        steps.log.on_report(Box::new(move |batch| {
            let cost = batch.len();
            reports.push_short(std::iter::once((batch, cost)));
        }));
        steps
    }

    /// One step: what has happened, what follows from it, and then new records for the log. `fault_point` stands before
    /// each of them.
    pub(super) fn step(
        &self,
        now: Now,
        fault_point: impl Fn(),
        act: impl FnOnce(&mut LogQueue, &OfNode<'_>),
    ) {
        let _turn = self.turn.lock();
        self.have_turn(now, ADMIT_AT_ONCE, fault_point, act);
    }

    /// The same on the thread of who has brought records or reports. False: LogActor is to be woken for the rest of them.
    fn short_way(&self) -> bool {
        let (work, reports) = (&self.mailboxes.log, &self.reports);
        if work.len() > FEW || reports.bytes() > FEW {
            return false;
        }
        let Some(_turn) = self.turn.try_lock() else { return false };
        let is_plain = || self.queue.lock().is_plain(&self.outside());
        if !is_plain() || !self.replays_nothing() {
            return false;
        }
        let now = clock::now();
        // A panic is no fault of this thread's work. What it left is LogActor's, whose supervisor counts the next one.
        let stepped = supervision::catch(|| {
            self.have_turn(
                now,
                FEW,
                || {},
                |queue, _| {
                    self.take_reports(queue, now, FEW, || {});
                },
            );
        });
        if let Err(status) = &stepped {
            say::error!(target: "hydrant::log", "a step of the log queue {status}; LogActor takes the next one");
        }
        if stepped.is_err() || !is_plain() {
            self.left.push((), 0);
        }
        stepped.is_ok() && work.is_empty() && reports.is_empty()
    }

    /// No dead letter is to be sent again. Who marks some later tells LogActor. False also where somebody has the book.
    fn replays_nothing(&self) -> bool {
        let book = self.shared.dead_letters.book.try_lock();
        book.is_some_and(|book| book.next_queued().is_none())
    }

    /// The queue is locked but while the log is called. At most so many records are taken out of the inbox.
    fn have_turn(
        &self,
        now: Now,
        records: usize,
        fault_point: impl Fn(),
        act: impl FnOnce(&mut LogQueue, &OfNode<'_>),
    ) {
        let outside = self.outside();
        {
            let mut queue = self.queue.lock();
            act(&mut queue, &outside);
            queue.handle_turn(now, &outside);
            queue.hand_out(&outside, &mut ToInboxes(&self.mailboxes));
            tell(&mut queue, &self.shared, &self.mailboxes);
            self.admit(&mut queue, &outside, records, fault_point);
        }
        while let Some(batch) = self.poll(|queue| queue.poll_append(now)) {
            self.append(batch);
        }
        let pending = self.queue.lock().len();
        self.shared.metrics.log_pending.set(pending as u64);
    }

    pub(super) fn outside(&self) -> OfNode<'_> {
        OfNode { shared: &self.shared, log: &*self.log }
    }

    /// Asks the queue, and leaves its lock before the answer is acted on.
    pub(super) fn poll<T>(&self, ask: impl FnOnce(&mut LogQueue) -> T) -> T {
        ask(&mut self.queue.lock())
    }

    /// Works `most` reports off, in whole batches, within a step. A batch is gone only when every report in it was taken
    /// in. Gives their number.
    pub(super) fn take_reports(
        &self,
        queue: &mut LogQueue,
        now: Now,
        most: usize,
        fault_point: impl Fn(),
    ) -> u64 {
        let mut reports = self.reports.take(REPORTS_AT_ONCE.min(most));
        let mut handled = 0;
        while let Some(batch) = reports.front_mut() {
            if handled + batch.len() > most {
                break;
            }
            for report in batch.iter() {
                handled += 1;
                match queue.handle_report(now, report.clone()) {
                    Outcome::Acknowledged(took) => self.shared.metrics.log_latency.record(took),
                    Outcome::Refused | Outcome::Failed => {}
                    // Seen before a panic, or of a record that was given back.
                    Outcome::Unknown => continue,
                }
                fault_point();
            }
            reports.pop();
        }
        handled as u64
    }

    /// Admits `most` records while there is room.
    fn admit(
        &self,
        queue: &mut LogQueue,
        outside: &OfNode<'_>,
        most: usize,
        fault_point: impl Fn(),
    ) {
        let inbox = &self.mailboxes.log;
        // Without room nothing is taken only to be put back.
        let room = queue.has_room();
        let mut taken = inbox.take(if room { most } else { 0 });
        while !taken.is_empty() && queue.has_room() {
            fault_point();
            if let Some(work) = taken.pop() {
                queue.handle_work(outside, work);
            }
        }
        if taken.is_empty() && room {
            inbox.release();
        } else {
            // Without room the stream would offer the same records again and again.
            inbox.hold();
        }
    }

    fn append(&self, batch: Vec<LogRecord>) {
        let Some(first) = batch.first().map(|record| record.id) else { return };
        let offered = batch.len();
        // Where the log panics, nobody knows which records it took. All count as given back and are sent again, so a
        // record may come twice.
        let handing = StepGuard::new(|| self.queue.lock().handle_given_back(first));
        let left = self.log.append(batch);
        handing.keep();
        self.shared.metrics.log_appended.add((offered - left.len()) as u64);
        if let Some(first) = left.first() {
            self.queue.lock().handle_given_back(first.id);
        }
    }
}
