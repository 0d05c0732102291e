//! Retained messages for new subscriptions ([MQTT-3.3.1-6], [MQTT-3.3.1-8]): each filter of a SUBSCRIBE has a cursor,
//! which goes on as the buffer and the window of its session have room.
//!
//! A cursor sends what stands when it gets to a topic. While messages of QoS 1-2 wait for the session it stands still:
//! else an older live message would follow a newer retained one.
//!
//! The first slice follows the SUBACK at once. The others are the TopicRouter's, one turn at a time for all connections
//! of the worker, so that any number of new subscriptions holds nobody else up.
//!
//! Invariant: the row of a persistent session's subscription at QoS 1-2 says from before its SUBACK that messages are
//! owed, until all of them are queue entries in the store. Behind which topic is written when a connection ends, as far
//! as the store has the entries by then. From there the session's next node goes on.
//!
//! Bounds: a session has one cursor for each of its filters (`limits.max_subscriptions`). A cursor fills the outgoing
//! buffer to [`MAX_BUFFERED`], or half of `limits.max_output_bytes`; the rest is for live messages. A turn looks at
//! [`TURN`]'s topics and bytes.

use std::rc::Rc;
use std::sync::Arc;

use hydrant_protocol::topic::{RetainedCursor, TopicFilter};
use hydrant_protocol::{Message, QoS, wire};

use crate::ports::StoredSubscription;

use super::abandon::Begun;
use super::state::pending_acks::Continuation;
use super::state::publication::Publication;
use super::state::retained_cursors::{Cursors, Owed};
use super::state::sessions::{Session, SessionKey};
use super::{Conn, Phase, Worker};

/// So many bytes of retained messages wait for a socket; a buffer of that size is used again.
const MAX_BUFFERED: usize = 32 * 1024;
/// What follows a SUBACK at once.
const FIRST: Slice = Slice { topics: 64, bytes: 8 * 1024 };
/// What a turn of the router does, for one connection or several.
const TURN: Slice = Slice { topics: 1024, bytes: 64 * 1024 };

/// What may still be done before others have their turn.
#[derive(Debug, Clone, Copy)]
struct Slice {
    topics: usize,
    bytes: usize,
}

impl Slice {
    fn is_over(&self) -> bool {
        self.topics == 0 || self.bytes == 0
    }
}

impl Worker {
    /// Whether a new subscription's row says that messages are owed. A QoS 0 delivery is owed nothing. What a short
    /// look does not get to the end of counts as owed.
    pub(super) fn will_owe(&self, filter: &TopicFilter, granted: QoS) -> bool {
        if granted == QoS::AtMostOnce {
            return false;
        }
        let (mut cursor, mut found) = (RetainedCursor::new(filter.clone()), false);
        self.shared.retained.read().walk(&mut cursor, None, FIRST.topics, |message| {
            found = message.qos != QoS::AtMostOnce;
            !found
        });
        found || !cursor.is_done()
    }

    /// What the store says that a session is owed.
    pub(super) fn owed(&self, subscriptions: &[StoredSubscription]) -> Option<Box<Cursors>> {
        let owed = subscriptions.iter().filter_map(|known| {
            let owes = known.owes.as_ref()?;
            let filter = TopicFilter::from_arc(Arc::clone(&known.filter), &wire::Limits::PROTOCOL);
            Some(Owed {
                number: self.next_number(),
                cursor: RetainedCursor::behind(filter.ok()?, Arc::clone(owes)),
                granted: known.qos,
                held: false,
                found: true,
                row: Some(Arc::clone(owes)),
                stored: Arc::clone(owes),
                storing: 0,
            })
        });
        let cursors = Cursors(owed.collect());
        (!cursors.0.is_empty()).then(|| Box::new(cursors))
    }

    /// The SUBACK of these is sent. A topic that several filters match comes for each, as if they had come one by one.
    pub(super) fn deliver_retained(&self, conn: &Rc<Conn>, numbers: &[u32]) {
        {
            let Some(slot) = conn.session.get() else { return };
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.get(slot) else { return };
            let Some(cursors) = &mut session.retained else { return };
            cursors.release(numbers);
        }
        if self.advance_retained(conn, &mut { FIRST }) {
            self.stream_retained(conn);
        }
    }

    /// The store has what a step of a cursor has put into the queue.
    pub(super) fn retained_stored(&self, key: SessionKey, number: u32) {
        let mut sessions = self.sessions.borrow_mut();
        let Some(Session { retained, stored: Some(stored), conn, .. }) = sessions.find(key) else {
            return;
        };
        let Some(cursors) = retained else { return };
        let Some(at) = cursors.0.iter().position(|owed| owed.number == number) else { return };
        cursors.0[at].storing = cursors.0[at].storing.saturating_sub(1);
        let mut effects = self.effects.borrow_mut();
        effects.ops.extend(cursors.is_stored(at, Some(stored.id)));
        if conn.is_none() {
            effects.ops.extend(cursors.leave(stored.id));
        }
        if cursors.0.is_empty() {
            *retained = None;
        }
    }

    /// All that was published for a session before it came here has come here.
    pub(super) fn retained_may_begin(&self, slot: u32) {
        let conn = self.sessions.borrow_mut().get(slot).and_then(|session| {
            session.retained.as_ref()?;
            session.conn.clone()
        });
        if let Some(conn) = conn {
            self.stream_retained(&conn);
        }
    }

    /// Older messages may still come to a session than those that are retained here.
    fn is_behind(&self, session: &Session) -> bool {
        let orphan = session.stored.as_ref().and_then(|stored| self.orphan(stored.orphan));
        session.handover.is_some()
            || orphan.is_some_and(|orphan| self.orphans.borrow().contains_key(&orphan))
    }

    /// Cursors of this connection's session may go on.
    pub(super) fn retained_may_go_on(&self, conn: &Rc<Conn>, session: &Session) {
        let Some(cursors) = &session.retained else { return };
        if session.outbound.waiting() == 0 || !cursors.needs_window() {
            self.stream_retained(conn);
        }
    }

    pub(super) fn stream_retained(&self, conn: &Rc<Conn>) {
        if !conn.streams.replace(true) {
            self.streaming.borrow_mut().push_back(Rc::clone(conn));
            self.wake_router();
        }
    }

    /// Cursors wait for a turn of the router.
    pub fn has_retained_to_send(&self) -> bool {
        !self.streaming.borrow().is_empty()
    }

    /// One turn, bounded for all connections together.
    pub fn send_retained(&self) {
        let connections = self.streaming.borrow().len();
        let mut slice = TURN;
        for _ in 0..connections {
            let Some(conn) = self.streaming.borrow_mut().pop_front() else { break };
            conn.streams.set(false);
            let begun = self.guard_begun(Begun::for_conn(&conn));
            let goes_on = self.advance_retained(&conn, &mut slice);
            begun.keep();
            if goes_on {
                self.stream_retained(&conn);
            }
            if slice.is_over() {
                break;
            }
        }
        if connections > 0 {
            self.flush();
        }
    }

    /// Goes on with a session's cursors. True when the slice has ended them, false when nothing is left or something
    /// has to empty first: its end calls [`Self::pump`].
    fn advance_retained(&self, conn: &Rc<Conn>, slice: &mut Slice) -> bool {
        if conn.phase() != Phase::Established {
            return false;
        }
        let Some(slot) = conn.session.get() else { return false };
        let mut sessions = self.sessions.borrow_mut();
        let Some(session) = sessions.get(slot) else { return false };
        // Where this panics the connection closes and its cursors are gone: the next one does not end at the same.
        let Some(mut cursors) = session.retained.take() else { return false };
        let id = session.stored.as_ref().map(|stored| stored.id);
        let is_behind = self.is_behind(session);
        let mut has_room = true;
        while has_room
            && !slice.is_over()
            && let Some(first) = cursors.first(is_behind)
        {
            let Owed { cursor, granted, .. } = &mut cursors.0[first];
            let granted = *granted;
            let before = session.stored.as_ref().map(|stored| stored.next_sequence);
            // A live subscriber gets what is ahead when the others get it. One that queues does not, and has it from
            // here.
            let queues = granted != QoS::AtMostOnce && session.stored.is_some();
            let live = (!queues).then_some(usize::from(self.index));
            let retained = self.shared.retained.read();
            let mut bytes = slice.bytes;
            let looked = retained.walk(cursor, live, slice.topics, |message| {
                if bytes == 0 {
                    return false;
                }
                has_room = self.put_retained(slot, session, conn, granted, message);
                if has_room {
                    bytes = bytes.saturating_sub(message.cost());
                }
                has_room
            });
            *slice = Slice { topics: slice.topics.saturating_sub(looked), bytes };
            let owed = &mut cursors.0[first];
            if owed.row.is_some() && session.stored.as_ref().map(|s| s.next_sequence) != before {
                owed.storing += 1;
                let (session, number) = (session.key(slot), owed.number);
                self.wait_for_store(Continuation::RetainedStored { session, number });
            }
            let put = cursors.is_stored(first, id);
            self.effects.borrow_mut().ops.extend(put);
        }
        let goes_on = has_room && cursors.first(is_behind).is_some();
        if !cursors.0.is_empty() {
            session.retained = Some(cursors);
        }
        goes_on
    }

    /// Sends one, at the lower of both QoS; false: there is no room.
    fn put_retained(
        &self,
        slot: u32,
        session: &mut Session,
        conn: &Rc<Conn>,
        granted: QoS,
        message: &Arc<Message>,
    ) -> bool {
        let settings = &self.shared.settings;
        if conn.out.borrow().len() >= MAX_BUFFERED.min(settings.limits.max_output_bytes / 2)
            || self.output_is_full(conn, message.cost())
        {
            conn.wants_pump.set(true);
            return false;
        }
        let spilled = session.stored.as_ref().is_some_and(|stored| stored.spilled);
        if granted != QoS::AtMostOnce && (session.outbound.waiting() > 0 || spilled) {
            return false;
        }
        let qos = message.qos.min(granted);
        if qos == QoS::AtMostOnce {
            let publish = wire::Publish {
                dup: false,
                qos,
                retain: true,
                topic: &message.topic,
                packet_id: None,
                payload: &message.payload,
            };
            self.write_publish(conn, &publish);
            return true;
        }
        if !session.outbound.can_send(settings.session.max_inflight) {
            return false;
        }
        // A live one of QoS 2 may wait for the store: behind it, not past it.
        let held = message.qos == QoS::ExactlyOnce;
        let mut publication = Publication::new(&message.topic, &message.payload, message.qos, held);
        publication.shared_topic = Some(&message.topic);
        publication.owned = (!message.retain).then(|| Arc::clone(message));
        let Some(stored) = &session.stored else {
            self.deliver_clean(session, qos, true, &mut publication);
            return true;
        };
        // What is in flight counts; one that never fits is dropped and counted there.
        let settings = &settings.session;
        let is_full = stored.queued >= settings.max_queued_messages as u64
            || stored.queued_bytes + publication.cost() as u64 > settings.max_queued_bytes as u64;
        if is_full && stored.queued > 0 {
            return false;
        }
        self.deliver_stored(slot, session, qos, true, &mut publication);
        true
    }
}
