//! Decides about records that the log refuses, and about dead letters that were sent again.

use std::sync::Arc;

use hydrant_protocol::OnRefused;

use super::LogQueue;
use super::effects::Letter;
use super::happened::{Fate, Notice};
use super::outside::Outside;
use super::owed::{Kind, Refused};
use crate::log::dead::Admission;
use crate::messages::CompletionToken;
use crate::now::Now;
use crate::ports::{DeadId, DeadLetter, LogRecord};

impl LogQueue {
    /// Decides about the records that were refused. Each stays owed until it is decided; a panic
    /// decides about the first of them again, which changes nothing.
    pub(super) fn bury(&mut self, now: Now, outside: &impl Outside) {
        while let Some(refused) = self.owed.refused.front().cloned() {
            self.happened.letters_changed = true;
            self.happened.failed += 1;
            self.bury_one(now, outside, refused);
            self.owed.refused.pop_front();
        }
    }

    fn bury_one(&mut self, now: Now, outside: &impl Outside, refused: Refused) {
        let Refused { record, why, token, kind } = refused;
        let on_refused = match kind {
            Kind::Publish(on_refused) => on_refused,
            Kind::Replay => return self.write_letter(now, outside, record, &why, None, true),
        };
        let (id, cost, outbox) = (DeadId::of(&record), record.cost() as u64, record.outbox);
        let promised = outbox.is_some() || token.is_some();
        let admitted = match on_refused {
            // It was acknowledged, whatever is to become of those that were not.
            OnRefused::Disconnect if outbox.is_none() => None,
            _ => Some(outside.book(|book| book.admit(id, cost, promised))),
        };
        if let Some(at) = outbox {
            self.held.answered(at, admitted != Some(Admission::Full));
        }
        let (client, mqtt_topic) = (Arc::clone(&record.client_id), Arc::clone(&record.mqtt_topic));
        let topic = Arc::clone(&record.topic);
        let fate = match (admitted, outbox) {
            (Some(Admission::Write), _) => {
                self.write_letter(now, outside, record, &why, token, false);
                Fate::DeadLetter
            }
            (Some(Admission::Known), _) => {
                self.owed.done.extend(outbox);
                self.owed.answers.extend(token);
                Fate::DeadLetter
            }
            (Some(Admission::Full), Some(at)) => {
                self.happened.full += 1;
                // It stays in the outbox; others of its lane go on.
                if self.held.hold(at, cost) {
                    outside.lanes(|lanes| lanes.hold(at.lane));
                }
                Fate::StaysInOutbox
            }
            (Some(Admission::Full), None) => {
                self.happened.full += 1;
                self.happened.dropped += 1;
                self.owed.refusals.extend(token);
                Fate::NoRoom
            }
            (None, _) => {
                self.happened.dropped += 1;
                self.owed.refusals.extend(token);
                Fate::NotKept
            }
        };
        self.notices.push_back(Notice::Refused { client, mqtt_topic, topic, why, fate });
    }

    /// A dead letter is to be written, with the cursor of the outbox where nothing before it is left; who waits for
    /// the record is answered after that.
    fn write_letter(
        &mut self,
        now: Now,
        outside: &impl Outside,
        record: LogRecord,
        why: &str,
        token: Option<CompletionToken>,
        replayed: bool,
    ) {
        let passes =
            record.outbox.filter(|at| outside.lanes(|lanes| lanes.is_next(at.lane, at.position)));
        let letter = Arc::new(DeadLetter::new(record, why, now.wall.ms()));
        self.effects.letters.push_back(Letter { letter, passes, token, replayed });
    }

    /// The log has dead letters that were sent again: they go.
    pub(super) fn remove_replayed(&mut self, outside: &impl Outside) {
        if self.owed.replayed.is_empty() {
            return;
        }
        let Self { owed, effects, .. } = self;
        let before = effects.removals.len();
        outside.book(|book| {
            let gone = owed.replayed.iter().copied().filter(|id| book.delivered(*id));
            effects.removals.extend(gone);
        });
        self.happened.replayed += (self.effects.removals.len() - before) as u64;
        self.owed.replayed.clear();
    }

    /// There is room: as many records as it may be enough for are tried again.
    pub(super) fn release_held(&mut self, outside: &impl Outside) {
        if self.held.is_empty() {
            return;
        }
        let free = outside.book(|book| book.free());
        outside.lanes(|lanes| self.held.release(free, |at| lanes.release(at.lane)));
    }
}
