//! What the log actor does with records that the log refuses, and with all that is sent again: dead
//! letters, and records that stayed in the outbox.

use std::sync::Arc;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use hydrant_protocol::OnRefused;

use super::super::actor::{LogActor, READ_BYTES, READ_RECORDS};
use super::super::state::{Kind, LogState, Refused};
use super::{Admission, DeadWork};
use crate::clock::unix_ms;
use crate::messages::{CompletionToken, StorageWork};
use crate::metrics::DropReason;
use crate::ports::{DeadId, DeadLetter, LogRecord, OutboxPosition, StoreError, StoreOp};
use crate::say::{self, cut, one_line};

/// Dead letters read in one go.
const READ_LETTERS: usize = 256;

/// Bytes of a reason in a line of the log; it says what to do.
const WHY: usize = 512;

/// What was read to be sent again.
enum Again {
    /// A record of the outbox, for which there was no room among the dead letters.
    Held(OutboxPosition),
    /// Dead letters from this one on.
    Letters(DeadId),
    /// Records of a topic that the log takes again, from this one on.
    Late(Arc<str>, OutboxPosition),
}

fn missing(at: OutboxPosition) -> StoreError {
    StoreError::Unavailable(format!("no record is found at {at:?} in the outbox"))
}

impl LogActor {
    /// Decides about the records that were refused. Each stays in the state until it is decided; a
    /// panic decides about the first of them again, which changes nothing.
    pub(in super::super) fn bury(&self, state: &mut LogState) {
        if state.owed.refused.is_empty() {
            return;
        }
        while let Some(refused) = state.owed.refused.front().cloned() {
            self.bury_one(state, refused);
            state.owed.refused.pop_front();
        }
        self.parts.shared.dead_letters.show(&self.parts.shared.metrics);
    }

    fn bury_one(&self, state: &mut LogState, Refused { record, why, token, kind }: Refused) {
        let shared = &self.parts.shared;
        shared.metrics.log_failed.inc();
        let on_refused = match kind {
            Kind::Publish(on_refused) => on_refused,
            Kind::Replay => {
                // Over the one that stands there. Before anybody may drop it.
                let id = DeadId::of(&record);
                self.put(record, &why, None);
                return shared.dead_letters.book.lock().stays(id);
            }
        };
        let (id, cost, outbox) = (DeadId::of(&record), record.cost() as u64, record.outbox);
        let promised = outbox.is_some() || token.is_some();
        let admitted = match on_refused {
            // It was acknowledged, whatever is to become of those that were not.
            OnRefused::Disconnect if outbox.is_none() => None,
            _ => Some(shared.dead_letters.book.lock().admit(id, cost, promised)),
        };
        self.say(&record, &why, admitted);
        let tried = outbox.is_some_and(|at| state.trying.remove(&at).is_some());
        state.tried |= tried && admitted != Some(Admission::Full);
        match admitted {
            Some(Admission::Write) => return self.put(record, &why, token),
            Some(Admission::Known) => {
                state.owed.done.extend(outbox);
                state.owed.answers.extend(token);
                return;
            }
            Some(Admission::Full) => {
                shared.metrics.dead_letters_full.inc();
                if let Some(at) = outbox {
                    // It stays in the outbox; others of its lane go on.
                    if state.held.insert(at, cost).is_none() {
                        shared.lanes.lock().hold(at.lane);
                    }
                    return;
                }
            }
            None => {}
        }
        shared.metrics.workers[0].drop_messages(DropReason::LogRefused, 1, format_args!(""));
        state.owed.refusals.extend(token);
    }

    /// Writes a dead letter, with the cursor of the outbox where nothing before it is left; who
    /// waits for the record is answered after that.
    fn put(&self, record: LogRecord, why: &str, token: Option<CompletionToken>) {
        let shared = &self.parts.shared;
        let (outbox, bytes) = (record.outbox, record.cost());
        let letter = Arc::new(DeadLetter::new(record, why, unix_ms()));
        let mut ops = vec![StoreOp::PutDeadLetter { letter }];
        if let Some(OutboxPosition { lane, position }) = outbox
            && shared.lanes.lock().is_next(lane, position)
        {
            ops.push(StoreOp::MoveCursor { lane, position: position + 1 });
        }
        let (tokens, transaction, origin) = (token.into_iter().collect(), None, None);
        let storage = &self.parts.mailboxes.storage;
        storage.push(StorageWork::Write { ops, tokens, transaction, origin }, bytes + 128);
    }

    fn say(&self, record: &LogRecord, why: &str, admitted: Option<Admission>) {
        let fate = match admitted {
            None => "it is not kept, and who waits for it is disconnected (on_refused)",
            Some(Admission::Write | Admission::Known) => {
                "it is a dead letter now (broker dead list)"
            }
            Some(Admission::Full) if record.outbox.is_some() => {
                "the dead letters are full, so it stays in the outbox (broker dead drop or replay)"
            }
            Some(Admission::Full) => {
                "the dead letters are full, so it is not acknowledged (broker dead drop or replay)"
            }
        };
        say::warn!(
            target: "hydrant::log",
            "the log refuses a record of client {} from topic {} for {}: {}; {fate}",
            cut(&record.client_id), cut(&record.mqtt_topic), cut(&record.topic), one_line(format_args!("{why}"), WHY)
        );
    }

    /// The log has dead letters that were sent again: they go.
    pub(in super::super) fn remove_replayed(&self, state: &mut LogState) {
        if state.owed.replayed.is_empty() {
            return;
        }
        let shared = &self.parts.shared;
        let ids: Vec<DeadId> = {
            let mut book = shared.dead_letters.book.lock();
            state.owed.replayed.iter().copied().filter(|id| book.delivered(*id)).collect()
        };
        if !ids.is_empty() {
            shared.metrics.dead_letters_replayed.add(ids.len() as u64);
            self.parts.mailboxes.remove_dead_letters(&ids);
        }
        state.owed.replayed.clear();
    }

    /// Works off what the store has done with dead letters.
    pub(in super::super) fn take_dead_work(&mut self, ctx: &mut Context<Self>) {
        let shared = Arc::clone(&self.parts.shared);
        let mut taken = self.parts.mailboxes.dead_letters.take(4096);
        let mut handled = 0;
        let mut room = false;
        while let Some(work) = taken.front_mut() {
            handled += 1;
            match *work {
                DeadWork::Written { id, outbox } => {
                    shared.dead_letters.book.lock().written(id);
                    shared.metrics.dead_letters_written.inc();
                    self.parts.state.lock().owed.done.extend(outbox);
                }
                DeadWork::Dropped { id } => {
                    shared.dead_letters.book.lock().dropped(id);
                    room = true;
                }
                DeadWork::Replay => {}
            }
            taken.pop();
        }
        drop(taken);
        self.cell.enter(handled);
        shared.dead_letters.show(&shared.metrics);
        if room {
            self.release_held();
        }
        self.hand_on(ctx);
    }

    /// There is room: as many records as it may be enough for are tried again.
    pub(in super::super) fn release_held(&self) {
        let shared = &self.parts.shared;
        let mut state = self.parts.state.lock();
        if state.held.is_empty() {
            return;
        }
        let promised: u64 = state.trying.values().sum();
        let mut free = shared.dead_letters.book.lock().free().saturating_sub(promised);
        let mut lanes = shared.lanes.lock();
        let LogState { held, trying, again, .. } = &mut *state;
        held.retain(|at, cost| {
            let fits = *cost <= free;
            if fits {
                free -= *cost;
                lanes.release(at.lane);
                trying.insert(*at, *cost);
                again.push_back(*at);
            }
            !fits
        });
    }

    /// Reads on in what is to be sent again, while half the room is free.
    pub(in super::super) fn read_again(&mut self, ctx: &mut Context<Self>) {
        if self.reading_again || !self.is_half_empty() {
            return;
        }
        let held = self.parts.state.lock().again.front().copied();
        let queued = || self.parts.shared.dead_letters.book.lock().next_queued();
        let late = || {
            let mut state = self.parts.state.lock();
            let next = state.late.next(|topic| self.parts.log.takes(topic));
            next.map(|(topic, at)| Again::Late(topic, at))
        };
        let letters = || queued().map(Again::Letters);
        let Some(what) = held.map(Again::Held).or_else(letters).or_else(late) else {
            return;
        };
        self.reading_again = true;
        let (store, book) = (&self.parts.store, Arc::clone(&self.parts.shared));
        match what {
            Again::Held(at) => {
                let read = store.read_outbox(at.lane, at.position, 1, 1);
                ctx.spawn(read.into_actor(self).map(move |found, actor, ctx| {
                    let found = found.and_then(|records| {
                        let first = records.into_iter().next();
                        first.filter(|record| record.outbox == Some(at)).ok_or_else(|| missing(at))
                    });
                    actor.after_read(
                        found.map(|record| {
                            let mut state = actor.parts.state.lock();
                            state.push(record, None);
                            state.again.pop_front();
                        }),
                        ctx,
                    );
                }));
            }
            Again::Late(topic, at) => {
                let read = store.read_outbox(at.lane, at.position, READ_RECORDS, READ_BYTES);
                ctx.spawn(read.into_actor(self).map(move |found, actor, ctx| {
                    let found = found.and_then(|records| match records.first() {
                        Some(first) if first.outbox == Some(at) => Ok(records),
                        _ => Err(missing(at)),
                    });
                    let done = found.map(|records| {
                        let mut state = actor.parts.state.lock();
                        for record in records {
                            if let Some(at) = record.outbox
                                && record.topic == topic
                                && state.late.take(&topic, at)
                            {
                                state.push(record, None);
                            }
                        }
                    });
                    actor.after_read(done, ctx);
                }));
            }
            Again::Letters(from) => {
                let read = store.dead_letters(from, READ_LETTERS, READ_BYTES);
                ctx.spawn(read.into_actor(self).map(move |found, actor, ctx| {
                    let done = found.map(|letters| {
                        let mut state = actor.parts.state.lock();
                        let mut book = book.dead_letters.book.lock();
                        for letter in letters {
                            if book.sending(letter.id) {
                                state.push_replay(letter.record);
                            }
                        }
                        if book.next_queued() == Some(from) {
                            say::warn!(target: "hydrant::log", "dead letter {from} is not found in the store");
                            book.stays(from);
                        }
                    });
                    actor.after_read(done, ctx);
                }));
            }
        }
    }

    fn after_read(&mut self, done: Result<(), StoreError>, ctx: &mut Context<Self>) {
        match done {
            Ok(()) => {
                self.reading_again = false;
                self.advance(ctx);
            }
            Err(error) => {
                say::warn!(target: "hydrant::log", "reading what is to be sent again, once more: {error}");
                ctx.run_later(self.retry, |actor, ctx| {
                    actor.reading_again = false;
                    actor.advance(ctx);
                });
            }
        }
    }
}
