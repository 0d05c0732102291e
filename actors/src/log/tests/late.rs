//! Records that stay in the outbox while the log takes no more of their topics.

use super::*;

impl Node {
    /// Puts a record into a lane of the outbox and hands it to the log.
    fn publish_to(&self, topic: &str, lane: u16, sequence: u64) {
        let mut record = record(sequence);
        record.topic = topic.into();
        let position = self.shared.lanes.lock().assign(lane, record.cost() as u64);
        let at = OutboxPosition { lane, position };
        record.outbox = Some(at);
        self.store.outbox.lock().insert(at, record.clone());
        if self.shared.lanes.lock().durable(lane, position, true) {
            let work = LogWork { record, token: None, on_refused: OnRefused::DeadLetter };
            self.mailboxes.log.push(work, 1);
        }
    }

    fn late(&self) -> usize {
        self.parts.steps.queue.lock().late()
    }
}

#[test]
fn what_the_log_does_not_take_now_stays_in_the_outbox_and_nothing_overtakes_it() {
    run(async {
        let node = Node::start().await;
        node.log.full.lock().push("bad");
        for n in 0..30 {
            node.publish_to(if n % 3 == 0 { "good" } else { "bad" }, 0, n);
        }
        until("the others go on", || node.log.took().len() == 10).await;
        assert!(node.log.took().iter().all(|n| n % 3 == 0));
        node.log.report(|_| Ok(()));
        until("nothing is under way", || node.parts.steps.queue.lock().is_empty()).await;
        assert_eq!((node.late(), node.parts.steps.queue.lock().bytes()), (20, 0));
        // A panic forgets none of them, nor their order.
        node.arm(1);
        for n in 30..40 {
            node.publish_to("bad", 0, n);
        }
        until("they come late, too", || node.late() == 30).await;
        assert_eq!(node.cell.restarts(), 1);
        node.log.full.lock().clear();
        node.publish_to("bad", 0, 40);
        let bad: Vec<u64> = (0..41).filter(|n| n % 3 != 0 || *n >= 30).collect();
        until("all are taken", || node.log.took().len() == bad.len()).await;
        assert_eq!(node.log.took(), bad);
        node.log.report(|_| Ok(()));
        let (_, cursor) = node.settled().await;
        assert_eq!((cursor, node.late()), (41, 0));
    });
}

#[test]
fn after_a_failure_what_was_sent_comes_before_what_stayed_in_the_outbox() {
    run(async {
        let node = Node::start().await;
        for n in 0..5 {
            node.publish_to("bad", 0, n);
        }
        until("they are taken", || node.log.took().len() == 5).await;
        node.log.full.lock().push("bad");
        for n in 5..9 {
            node.publish_to("bad", 0, n);
        }
        until("they come late", || node.late() == 4).await;
        node.log.report(|n| match n {
            0 => Ok(()),
            _ => Err(LogError::Unavailable("away".into())),
        });
        until("the first are sent again", || node.log.took() == [1, 2, 3, 4]).await;
        node.log.full.lock().clear();
        until("the others follow", || node.log.took() == (1..9).collect::<Vec<_>>()).await;
        node.log.report(|_| Ok(()));
        assert_eq!(node.settled().await.1, 9);
    });
}
