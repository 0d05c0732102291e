//! Records that the log refuses: dead letters, and what happens when there is no room for them.

use super::*;
use crate::log::{Marked, Settled, Which};
use crate::messages::DeadWork;
use crate::ports::LogOp;

/// What was written, in order, by the test itself.
#[derive(Debug, Default)]
struct Wrote {
    letters: Vec<DeadLetter>,
    /// In the same write as the last letter.
    with_letter: Vec<u64>,
    cursor: u64,
    dropped: Vec<DeadId>,
    answered: Vec<u32>,
}

impl Node {
    /// Puts a record into lane 0 of the outbox.
    fn store_record(&self, sequence: u64) -> LogRecord {
        let position = self.shared.lanes.lock().assign(0, record(sequence).cost() as u64);
        let at = OutboxPosition { lane: 0, position };
        let record = LogRecord { outbox: Some(at), ..record(sequence) };
        self.store.outbox.lock().insert(at, record.clone());
        record
    }

    /// The same for several, which are handed to the log.
    async fn publish(&self, sequences: std::ops::Range<u64>) {
        for sequence in sequences.clone() {
            let record = self.store_record(sequence);
            let at = record.outbox.unwrap();
            assert!(self.shared.lanes.lock().durable(at.lane, at.position, true));
            let work = LogWork { record, token: None, on_refused: OnRefused::DeadLetter };
            self.mailboxes.log.push(work, 1);
        }
        let last = sequences.end - 1;
        until("the log has them", || self.log.took().contains(&last)).await;
    }

    async fn publish_for(&self, sequence: u64, qos: QoS, on_refused: OnRefused) {
        let wait = u32::try_from(sequence).unwrap();
        let token =
            CompletionToken { worker: 0, source: AckSource::Log, pending: wait, generation: 0 };
        let token = (qos != QoS::AtMostOnce).then_some(token);
        let record = LogRecord { qos, ..record(sequence) };
        self.mailboxes.log.push(LogWork { record, token, on_refused }, 1);
        until("the log has it", || self.log.took().contains(&sequence)).await;
    }

    /// Does what stands in the store's inbox, as StorageActor does.
    fn write(&self, wrote: &mut Wrote) {
        let mut taken = self.mailboxes.storage.take(1000);
        while let Some(StorageWork::Write { ops, tokens, .. }) = taken.pop() {
            let mut letter = false;
            for op in ops {
                let work = match op {
                    StoreOp::Log(LogOp::PutDeadLetter { letter: found }) => {
                        letter = true;
                        wrote.letters.push((*found).clone());
                        let (id, outbox) = (found.id, found.record.outbox);
                        self.store.letters.lock().insert(id, (*found).clone());
                        DeadWork::Written { id, outbox }
                    }
                    StoreOp::Log(LogOp::DropDeadLetter { id }) => {
                        wrote.dropped.push(id);
                        self.store.letters.lock().remove(&id);
                        DeadWork::Dropped { id }
                    }
                    StoreOp::Log(LogOp::MoveCursor { lane: 0, position }) => {
                        assert!(position >= wrote.cursor);
                        wrote.cursor = position;
                        if letter {
                            wrote.with_letter.push(position);
                        }
                        continue;
                    }
                    other => panic!("{other:?}"),
                };
                self.mailboxes.dead_letters.push(work, 1);
            }
            wrote.answered.extend(tokens.iter().map(|token| token.pending));
        }
    }

    async fn written(&self, what: &str, done: impl Fn(&Wrote) -> bool) -> Wrote {
        let mut wrote = Wrote::default();
        self.go_on(what, &mut wrote, done).await;
        wrote
    }

    async fn go_on(&self, what: &str, wrote: &mut Wrote, done: impl Fn(&Wrote) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !done(wrote) {
            assert!(Instant::now() < deadline, "waited too long until {what}: {wrote:?}");
            self.write(wrote);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Who was refused an acknowledgement.
    fn refusals(&self) -> Vec<u32> {
        let mut taken = self.mailboxes.managers[0].take(1000);
        let mut refused = Vec::new();
        while let Some(work) = taken.pop() {
            match work {
                ManagerTask::Worker(ManagerWork::Refused(token)) => refused.push(token.pending),
                other => panic!("{other:?}"),
            }
        }
        refused
    }

    fn dropped(&self) -> u64 {
        self.shared.metrics.workers[0].dropped[crate::metrics::DropReason::LogRefused as usize]
            .get()
    }
}

fn refuse(wrong: impl Fn(u64) -> bool) -> impl Fn(u64) -> Result<(), LogError> {
    move |sequence| match wrong(sequence) {
        true => Err(LogError::Refused(format!("no {sequence}"))),
        false => Ok(()),
    }
}

fn sequences(letters: &[DeadLetter]) -> Vec<u64> {
    letters.iter().map(|letter| letter.record.sequence).collect()
}

#[test]
fn a_refused_record_of_the_outbox_is_a_dead_letter_before_the_cursor_passes_it() {
    run(async {
        let node = Node::start().await;
        node.publish(0..4).await;
        // 0 is at the cursor; 2 is not, because 1 is still under way.
        node.log.report_some(&[0, 2, 3], refuse(|sequence| sequence % 2 == 0));
        let wrote = node.written("both are letters", |wrote| wrote.letters.len() == 2).await;
        assert_eq!(sequences(&wrote.letters), [0, 2]);
        assert_eq!((wrote.with_letter, &*wrote.letters[1].reason), (vec![1], "no 2"));
        let mut wrote = Wrote { cursor: wrote.cursor, ..Wrote::default() };
        node.log.report(|_| Ok(()));
        node.go_on("the cursor is at the end", &mut wrote, |wrote| wrote.cursor == 4).await;
        let metrics = &node.shared.metrics;
        assert_eq!((metrics.dead_letters.get(), node.dropped()), (2, 0));
        assert_eq!(metrics.dead_letter_bytes.get(), 2 * record(0).cost() as u64);
        assert!(
            node.parts.steps.queue.lock().is_empty() && node.shared.not_ready.lock().is_empty()
        );
    });
}

#[test]
fn the_cursor_stands_until_the_dead_letter_is_durable() {
    run(async {
        let node = Node::start().await;
        node.publish(0..2).await;
        node.log.report(refuse(|sequence| sequence == 0));
        let waits = || node.mailboxes.storage.len();
        until("the letter is to be written", || {
            waits() == 1 && node.parts.steps.reports.is_empty()
        })
        .await;
        until("1 is acknowledged", || node.shared.metrics.log_acked.get() == 1).await;
        assert_eq!(node.shared.lanes.lock().backlog().0, 2, "nothing is written yet");
        node.written("all is over", |wrote| wrote.cursor == 2).await;
        assert_eq!(node.shared.lanes.lock().backlog(), (0, 0));
    });
}

#[test]
fn what_an_earlier_start_made_a_dead_letter_is_not_sent_again() {
    run(async {
        let node = Node::start().await;
        for sequence in 0..3 {
            let at = node.store_record(sequence).outbox.unwrap();
            node.shared.lanes.lock().durable(0, at.position, false);
        }
        let dead = [(DeadId::of(&record(1)), 7)];
        node.shared.dead_letters.take_over(&dead, &node.shared.metrics);
        until("the others are sent", || node.log.took() == [0, 2]).await;
        node.log.report(|_| Ok(()));
        let wrote = node.written("the cursor passes all", |wrote| wrote.cursor == 3).await;
        assert!(wrote.letters.is_empty());
    });
}

#[test]
fn who_waits_for_a_refused_record_is_answered_once_it_is_a_dead_letter() {
    run(async {
        let node = Node::start().await;
        node.publish_for(1, QoS::AtLeastOnce, OnRefused::DeadLetter).await;
        node.publish_for(2, QoS::AtLeastOnce, OnRefused::Disconnect).await;
        node.log.report(refuse(|_| true));
        let wrote = node.written("it is a letter", |wrote| !wrote.letters.is_empty()).await;
        assert_eq!((wrote.answered, sequences(&wrote.letters)), (vec![1], vec![1]));
        let mut refused = Vec::new();
        for _ in 0..1000 {
            refused.extend(node.refusals());
            tokio::time::sleep(Duration::from_millis(1)).await;
            if !refused.is_empty() {
                break;
            }
        }
        assert_eq!((refused, node.dropped()), (vec![2], 1));
    });
}

/// Nothing that was acknowledged is dropped, and nothing more is acknowledged.
#[test]
fn full_keeps_the_record_in_the_outbox_and_acknowledges_nobody() {
    run(async {
        let cost = record(0).cost() as u64;
        let node = Node::start_with(|settings| settings.log.dead_letter_max_bytes = 2 * cost).await;
        node.publish(0..5).await;
        node.log.report(refuse(|sequence| sequence != 4));
        let mut wrote = node.written("two fit", |wrote| wrote.cursor == 2).await;
        until("4 is acknowledged", || node.shared.metrics.log_acked.get() == 1).await;
        assert_eq!(sequences(&wrote.letters), [0, 1]);
        assert_eq!(node.shared.lanes.lock().backlog().0, 3, "2 and 3 stay, and 4 behind them");
        assert!(node.parts.steps.queue.lock().is_empty(), "they hold nothing up");
        node.publish_for(7, QoS::AtLeastOnce, OnRefused::DeadLetter).await;
        node.publish_for(8, QoS::AtMostOnce, OnRefused::DeadLetter).await;
        node.log.report(refuse(|_| true));
        until("8 is dropped", || node.dropped() == 2).await;
        assert_eq!(node.refusals(), [7]);
        assert_eq!(node.shared.metrics.dead_letters_full.get(), 4);
        // Room for one: the oldest is tried again, and refused again.
        let first = wrote.letters[0].id;
        let unknown = DeadId { received_ms: 1, ..DeadId::default() };
        let marked =
            node.mailboxes.drop_dead_letters(&node.shared, &Which::These(vec![first, unknown]));
        let expected = Marked { ids: vec![first], unknown: vec![unknown], busy: vec![] };
        assert_eq!(marked, expected);
        node.go_on("2 is sent again", &mut wrote, |_| node.log.took() == [2]).await;
        assert_eq!(wrote.dropped, [first]);
        node.log.report(refuse(|_| true));
        node.go_on("2 is a letter", &mut wrote, |wrote| wrote.cursor == 3).await;
        // What the log takes now needs no room.
        node.mailboxes.drop_dead_letters(&node.shared, &Which::All);
        node.go_on("3 is sent again", &mut wrote, |_| node.log.took() == [3]).await;
        node.log.report(|_| Ok(()));
        node.go_on("the outbox is empty", &mut wrote, |wrote| wrote.cursor == 5).await;
        assert_eq!(sequences(&wrote.letters), [0, 1, 2]);
        assert!(node.shared.dead_letters.book.lock().is_empty());
    });
}

#[test]
fn a_log_that_refuses_all_there_is_leaves_the_node_ready() {
    run(async {
        let node = Node::start().await;
        node.publish(0..1).await;
        node.log.report(|_| Err(LogError::Unavailable("away".into())));
        let ready = || node.shared.not_ready.lock().is_empty();
        until("the node is not ready", || !ready()).await;
        until("it is sent again", || node.log.took() == [0]).await;
        node.log.report(refuse(|_| true));
        until("the node is ready", ready).await;
        node.written("it is a dead letter", |wrote| wrote.cursor == 1).await;
    });
}

/// There is room for one at a time, and the log takes each: nothing is dropped in between.
#[test]
fn records_that_stay_in_the_outbox_follow_each_other_when_the_log_takes_them() {
    run(async {
        let cost = record(0).cost() as u64;
        let node = Node::start_with(|settings| settings.log.dead_letter_max_bytes = cost).await;
        node.publish(0..4).await;
        node.log.report(refuse(|_| true));
        let mut wrote = node.written("one fits", |wrote| wrote.cursor == 1).await;
        node.mailboxes.drop_dead_letters(&node.shared, &Which::All);
        for sequence in 1..4 {
            node.go_on("the next is sent", &mut wrote, |_| node.log.took() == [sequence]).await;
            // The last is refused again, and has the room.
            node.log.report(refuse(|sequence| sequence == 3));
        }
        node.go_on("the outbox is empty", &mut wrote, |wrote| wrote.cursor == 4).await;
        assert_eq!(sequences(&wrote.letters), [0, 3]);
        assert_eq!(node.parts.steps.queue.lock().tried(), 0);
    });
}

#[test]
fn a_replayed_dead_letter_goes_once_the_log_has_it_and_stays_when_it_is_refused_again() {
    run(async {
        let node = Node::start().await;
        node.publish(0..3).await;
        node.log.report(refuse(|_| true));
        let mut wrote = node.written("all are letters", |wrote| wrote.cursor == 3).await;
        until("they are known", || node.shared.metrics.dead_letters_written.get() == 3).await;
        let marked = node.mailboxes.replay_dead_letters(&node.shared, &Which::All);
        assert_eq!(marked.ids.len(), 3);
        let again = node.mailboxes.replay_dead_letters(&node.shared, &Which::All);
        assert_eq!((again.ids.len(), again.busy.len()), (0, 3), "one at a time");
        until("they are sent", || node.log.took() == [0, 1, 2]).await;
        node.log.report(|sequence| match sequence {
            1 => Err(LogError::Refused("still not".into())),
            _ => Ok(()),
        });
        node.go_on("the others go", &mut wrote, |wrote| wrote.dropped.len() == 2).await;
        let patience = Duration::from_secs(20);
        let settle = node.mailboxes.settle_dead_letters(&node.shared, &marked.ids, patience);
        assert_eq!(settle.await, Settled { gone: 2, kept: 1, pending: 0 });
        let left: Vec<DeadLetter> = node.store.letters.lock().values().cloned().collect();
        assert_eq!((sequences(&left), &*left[0].reason), (vec![1], "still not"));
        let metrics = &node.shared.metrics;
        assert_eq!((metrics.dead_letters.get(), metrics.dead_letters_replayed.get()), (1, 2));
    });
}

#[test]
fn panics_between_refusals_lose_no_dead_letter() {
    run(async {
        let node = Node::start().await;
        node.publish(0..6).await;
        node.arm(4);
        node.log.report(refuse(|sequence| sequence > 0));
        let wrote = node.written("the cursor is at the end", |wrote| wrote.cursor == 6).await;
        let mut letters = sequences(&wrote.letters);
        letters.dedup();
        assert_eq!((letters, node.cell.restarts()), ((1..6).collect(), 4));
        assert_eq!(node.shared.metrics.dead_letters.get(), 5);
    });
}
