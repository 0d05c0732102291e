//! Retained messages for new subscriptions ([MQTT-3.3.1-6], [MQTT-3.3.1-8]): each filter of a SUBSCRIBE has a cursor,
//! which goes on as the buffer and the window of its session have room.
//!
//! A cursor sends what stands when it gets to a topic. While messages of QoS 1-2 wait for the session it stands still:
//! else an older live message would follow a newer retained one.
//!
//! The first slice follows the SUBACK at once. The others are the TopicRouter's, one turn at a time for all connections
//! of the worker, so that any number of new subscriptions holds nobody else up.
//!
//! Bounds: a session has one cursor for each of its filters (`limits.max_subscriptions`). A cursor fills the outgoing
//! buffer to [`MAX_BUFFERED`], or half of `limits.max_output_bytes`; the rest is for live messages. A turn looks at
//! [`TURN`]'s topics and bytes.

use std::rc::Rc;
use std::sync::Arc;

use hydrant_protocol::topic::TopicFilter;
use hydrant_protocol::{Message, QoS, wire};

use super::abandon::Abandon;
use super::state::publication::Publication;
use super::state::sessions::Session;
use super::{Conn, Worker};

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
    /// The SUBACK of these filters is sent. A topic that several of them match comes for each, as if they had come one
    /// by one.
    pub(super) fn deliver_retained(&self, conn: &Rc<Conn>, filters: Vec<(TopicFilter, QoS)>) {
        {
            let Some(slot) = conn.session.get() else { return };
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.get(slot) else { return };
            let subscriber = self.subscriber(slot, session);
            let table = self.shared.subscriptions.read();
            let cursors = session.retained.get_or_insert_default();
            for (filter, granted) in filters {
                // An UNSUBSCRIBE may have come while the SUBACK waited for the store.
                if table.granted(&filter, subscriber).is_some() {
                    cursors.begin(filter, granted);
                }
            }
        }
        if self.advance_retained(conn, &mut { FIRST }) {
            self.stream_retained(conn);
        }
    }

    /// Cursors of this connection's session may go on.
    pub(super) fn retained_may_go_on(&self, conn: &Rc<Conn>, session: &Session) {
        let Some(cursors) = &session.retained else { return };
        if session.outbound.waiting() == 0 || !cursors.needs_window() {
            self.stream_retained(conn);
        }
    }

    fn stream_retained(&self, conn: &Rc<Conn>) {
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
            let abandon = Abandon::conn(self, &conn);
            let goes_on = self.advance_retained(&conn, &mut slice);
            abandon.keep();
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
        if !conn.established.get() || conn.closing.get().is_some() || conn.draining.get() {
            return false;
        }
        let Some(slot) = conn.session.get() else { return false };
        let mut sessions = self.sessions.borrow_mut();
        let Some(session) = sessions.get(slot) else { return false };
        // Where this panics the connection closes and its cursors are gone: the next one does not end at the same.
        let Some(mut cursors) = session.retained.take() else { return false };
        let mut has_room = true;
        while has_room
            && !slice.is_over()
            && let Some((cursor, granted)) = cursors.0.front_mut()
        {
            let granted = *granted;
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
            if cursor.is_done() {
                cursors.0.pop_front();
            }
        }
        let is_left = !cursors.0.is_empty();
        if is_left {
            session.retained = Some(cursors);
        }
        is_left && has_room
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
            self.write(conn, |out| {
                wire::put_publish(out, &message.topic, &message.payload, qos, false, true, None);
            });
            self.count_publish_out(qos, message.payload.len());
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
