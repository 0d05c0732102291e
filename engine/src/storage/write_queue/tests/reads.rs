//! What a page of a queue waits for.

use super::*;
use crate::ports::SessionOp;

#[test]
fn a_read_waits_for_every_write_before_it() {
    let mut queue = queue();
    queue.admit(write(vec![queued(1, 1)], None), false);
    queue.admit(read(1), false);
    assert!(queue.poll_reads().is_empty(), "gathered, not written");
    let batch = form(&mut queue).unwrap();
    assert!(queue.poll_reads().is_empty(), "under way");
    queue.admit(write(vec![queued(1, 2)], None), false);
    done(&mut queue, batch.id);
    assert_eq!(queue.poll_reads().len(), 1, "a write behind it does not hold it up");
    assert!(queue.poll_reads().is_empty(), "begun once");
    queue.handle_restart();
    assert_eq!(queue.poll_reads().len(), 1);
}

#[test]
fn a_read_waits_for_what_was_held_back_when_it_was_asked_for() {
    let mut queue = queue();
    queue.admit(write(vec![outbox(), queued(1, 1)], None), true);
    queue.admit(write(vec![queued(1, 2)], None), true);
    let first = form(&mut queue).unwrap();
    queue.admit(read(1), true);
    done(&mut queue, first.id);
    assert!(queue.poll_reads().is_empty(), "1 is parked");
    assert!(queue.resume());
    assert!(queue.poll_reads().is_empty(), "gathered");
    let second = form(&mut queue).unwrap();
    assert!(queue.poll_reads().is_empty(), "under way");
    done(&mut queue, second.id);
    assert_eq!(queue.poll_reads().len(), 1);
}

#[test]
fn a_read_looks_at_its_own_session_and_not_at_what_is_held_back() {
    // How long it takes is seen where there is a clock: `actors/src/storage/tests.rs`.
    let mut queue = queue();
    for session in 0..2000 {
        let mut ops: Vec<_> = (0..20).map(|sequence| queued(session, sequence)).collect();
        ops.push(outbox());
        queue.admit(write(ops, None), true);
        queue.admit(read(session), true);
    }
    for _ in 0..100 {
        assert!(queue.poll_reads().is_empty());
    }
    for parked in 0..2000 {
        assert_eq!(queue.parked(), 2000 - parked);
        assert!(queue.resume());
        let batch = form(&mut queue).unwrap();
        done(&mut queue, batch.id);
        let ready = queue.poll_reads();
        assert_eq!(ready.iter().map(|read| read.session).collect::<Vec<_>>(), [parked as u64]);
        paged(&mut queue, ready[0].id);
    }
    assert!(queue.is_idle());
}

#[test]
fn a_read_waits_until_all_that_is_held_back_of_its_session_is_written() {
    let mut queue = queue();
    let both = Some(Transaction { id: 1, parts: 2 });
    queue.admit(write(vec![outbox(), queued(1, 1), queued(1, 2)], None), true);
    queue.admit(write(vec![queued(1, 3)], both), true);
    queue.admit(read(1), true);
    queue.admit(read(2), true);
    assert_eq!(queue.poll_reads().len(), 1, "nothing of session 2 is held back");
    assert!(queue.resume());
    let batch = form(&mut queue).unwrap();
    done(&mut queue, batch.id);
    assert!(queue.poll_reads().is_empty(), "one of two parts is here");
    queue.admit(write(Vec::new(), both), true);
    let batch = form(&mut queue).unwrap();
    assert!(queue.poll_reads().is_empty(), "under way");
    done(&mut queue, batch.id);
    let ready = queue.poll_reads();
    assert_eq!(ready.len(), 1);
    queue.handle_read_failed(at(0), ready[0].id);
    queue.handle_deadline(at(1000));
    assert_eq!(queue.poll_reads().len(), 1, "it failed and begins again");
    paged(&mut queue, ready[0].id);
    paged(&mut queue, ReadId(1));
    paged(&mut queue, ReadId(2));
    assert!(queue.is_idle());
}

#[test]
fn a_read_stands_in_line_behind_the_writes_of_its_worker() {
    let mut queue = queue();
    let both = Some(Transaction { id: 1, parts: 2 });
    let gone = |sequence| StoreOp::Session(SessionOp::DeleteQueued { id: 1, sequence });
    queue.admit(own(0, vec![queued(7, 1)], both), false);
    queue.admit(own(0, vec![gone(1)], None), false);
    queue.admit(read(1), false);
    assert!(queue.poll_reads().is_empty(), "it would see what was delivered");
    queue.admit(write(Vec::new(), both), false);
    advance(&mut queue);
    assert!(queue.poll_reads().is_empty(), "gathered");
    written(&mut queue);
    assert_eq!(queue.poll_reads().len(), 1);
}

/// Entries that come after a read was asked for are none of its business.
#[test]
fn a_read_begins_although_the_queue_goes_on_growing() {
    let mut queue = queue();
    queue.admit(write(vec![queued(1, 1)], None), false);
    let mut before = form(&mut queue).unwrap();
    queue.admit(read(1), false);
    for sequence in 100..103 {
        let both = Some(Transaction { id: sequence, parts: 2 });
        queue.admit(own(1, vec![], both), false);
        queue.admit(write(vec![queued(1, sequence)], both), false);
        let next = form(&mut queue).unwrap();
        done(&mut queue, before.id);
        let ready = queue.poll_reads();
        assert_eq!(ready.len(), usize::from(sequence == 100), "{sequence}");
        before = next;
    }
}
