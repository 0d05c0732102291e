//! To which log topic the records of a publish go: its own, or the overflow topic where its own would
//! be beyond a cap. Decided before the acknowledgement and before anything is written, so that the
//! outbox holds the final topic and key.
//!
//! The log is asked once a route. An own topic stays one, so every later publish of the route costs
//! one comparison and no lock. A route beyond a cap asks again in the next generation
//! ([`MessageLog::admissions`](crate::ports::MessageLog::admissions)), or for a client that is not
//! known to be at its cap.
//!
//! Bounds: what is remembered of clients by [`AtCap`](super::state::routes::AtCap).

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use hydrant_protocol::mapping::Mapped;

use super::state::ingress::Entry;
use super::state::routes::{Route, Standing};
use super::{Conn, Worker};
use crate::metrics::{CloseReason, DropReason};
use crate::ports::Admission;
use crate::say::{self, cut};

impl Worker {
    /// Whether the route's own topic is beyond a cap for this client now.
    fn is_beyond(&self, route: &Route, mapped: &Mapped, client: &Arc<str>) -> bool {
        route.standing.get() != Standing::Own && self.ask_log(route, mapped, client)
    }

    #[cold]
    fn ask_log(&self, route: &Route, mapped: &Mapped, client: &Arc<str>) -> bool {
        let shared = &self.shared;
        // Read before the log is asked: what changes in between makes the answer stale.
        let now = shared.gate.admissions();
        let mut at_cap = self.at_cap.borrow_mut();
        let client_is = at_cap.is_at_cap(now, client);
        if let Standing::Beyond { generation, everybody } = route.standing.get()
            && generation == now
            && (everybody || client_is)
        {
            return true;
        }
        let Admission::Beyond { cap, everybody } = shared.gate.admit(&mapped.topic, client) else {
            route.standing.set(Standing::Own);
            return false;
        };
        route.standing.set(Standing::Beyond { generation: now, everybody });
        if !everybody {
            at_cap.insert(client);
        }
        let topic = &mapped.topic;
        let client = cut(client);
        match &shared.settings.log.overflow_topic {
            Some(overflow) => say::warn!(
                target: "hydrant::router",
                "topic {topic} of client {client} is beyond {cap}: its records go to {overflow}; \
                 make the topic yourself, raise the cap, or add a route that makes fewer topics"
            ),
            None => say::warn!(
                target: "hydrant::router",
                "topic {topic} of client {client} is beyond {cap}: its publishes are refused; \
                 make the topic yourself, raise the cap, or set kafka.overflow_topic"
            ),
        }
        true
    }

    /// Topic and key of a record. One that is beyond a cap goes to the overflow topic, under its whole
    /// MQTT topic. Without an overflow topic who could be refused has been, and what comes all the same
    /// was begun before: it keeps its own topic.
    pub(super) fn place(
        &self,
        route: &Route,
        mapped: &Mapped,
        client: &Arc<str>,
    ) -> (Arc<str>, Option<Bytes>) {
        match &self.shared.settings.log.overflow_topic {
            Some(overflow) if self.is_beyond(route, mapped, client) => {
                self.metrics.overflowed.inc();
                let key = Bytes::copy_from_slice(route.topic.as_bytes());
                (Arc::clone(overflow), Some(key))
            }
            _ => (Arc::clone(&mapped.topic), mapped.key.clone()),
        }
    }

    /// Whether no record of this client's can be taken: its topic is beyond a cap, and there is no
    /// overflow topic. Counted as a drop.
    pub(super) fn has_no_place(&self, route: &Route, client: &Arc<str>) -> bool {
        let none = self.shared.settings.log.overflow_topic.is_none()
            && route.mapped.as_ref().is_some_and(|mapped| self.is_beyond(route, mapped, client));
        if none {
            self.metrics.drop_one(DropReason::TopicCap, client, &route.topic);
        }
        none
    }

    /// A publish of QoS 1-2 without a place: no acknowledgement, and its connection ends. Nobody gets
    /// it, since it is sent again.
    pub(super) fn refuse_publish(&self, entry: &Entry, conn: &Rc<Conn>) {
        if let Some((session, id)) = entry.receipt.zip(entry.packet_id) {
            self.forget_receipt(session, id);
        }
        self.close(conn, CloseReason::Limit);
    }
}
