//! What the log queue has done, as operators see it: counters, readiness, lines of the log.

use super::queue::{Fate, LogQueue, Notice};
use crate::mailboxes::Mailboxes;
use crate::metrics::DropReason;
use crate::node_tables::NodeTables;
use crate::say::{self, cut, one_line};

/// Bytes of a reason in a line of the log; it says what to do.
const WHY: usize = 512;

/// Tells of everything since the last time.
pub(super) fn tell(queue: &mut LogQueue, shared: &NodeTables, mailboxes: &Mailboxes) {
    let happened = queue.poll_happened();
    let metrics = &shared.metrics;
    for (metric, more) in [
        (&metrics.log_acked, happened.acknowledged),
        (&metrics.log_failed, happened.failed),
        (&metrics.log_resets, happened.resets),
        (&metrics.dead_letters_full, happened.full),
        (&metrics.dead_letters_written, happened.written),
        (&metrics.dead_letters_replayed, happened.replayed),
    ] {
        if more > 0 {
            metric.add(more);
        }
    }
    if happened.dropped > 0 {
        let worker = &metrics.workers[0];
        worker.drop_messages(DropReason::LogRefused, happened.dropped, format_args!(""));
    }
    if let Some((records, bytes)) = happened.backlog {
        metrics.outbox_records.set(records);
        metrics.outbox_bytes.set(bytes);
    }
    if happened.letters_changed {
        shared.dead_letters.show(metrics);
        mailboxes.dead_letters_changed.send_replace(());
    }
    match happened.readiness {
        Some(Ok(())) => shared.set_ready("log", None),
        Some(Err(why)) => shared.set_ready("log", Some(why)),
        None => {}
    }
    while let Some(notice) = queue.poll_notice() {
        say_notice(&notice);
    }
}

fn say_notice(notice: &Notice) {
    match notice {
        Notice::Refused { client, mqtt_topic, topic, why, fate } => say::warn!(
            target: "hydrant::log",
            "the log refuses a record of client {} from topic {} for {}: {}; {}",
            cut(client), cut(mqtt_topic), cut(topic), one_line(format_args!("{why}"), WHY), words(*fate)
        ),
        Notice::Reset { why } => {
            say::warn!(target: "hydrant::log", "the log does not take records, sending again from the cursor: {why}");
        }
        Notice::LaneUnread { lane, error } => {
            say::warn!(target: "hydrant::log", "reading lane {lane} of the outbox again: {error}");
        }
        Notice::Unread { error } => {
            say::warn!(target: "hydrant::log", "reading what is to be sent again, once more: {error}");
        }
        Notice::LetterMissing { id } => {
            say::warn!(target: "hydrant::log", "dead letter {id} is not found in the store");
        }
    }
}

fn words(fate: Fate) -> &'static str {
    match fate {
        Fate::NotKept => "it is not kept, and who waits for it is disconnected (on_refused)",
        Fate::DeadLetter => "it is a dead letter now (broker dead list)",
        Fate::StaysInOutbox => {
            "the dead letters are full, so it stays in the outbox (broker dead drop or replay)"
        }
        Fate::NoRoom => {
            "the dead letters are full, so it is not acknowledged (broker dead drop or replay)"
        }
    }
}
