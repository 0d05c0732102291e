//! SUBSCRIBE, UNSUBSCRIBE and PUBREL; retained messages, as they are set.

use std::rc::Rc;
use std::sync::Arc;

use ahash::AHashSet;
use hydrant_protocol::QoS;
use hydrant_protocol::topic::{Retained, TopicFilter};
use hydrant_protocol::wire::{SUBACK_FAILURE, Subscribe, Unsubscribe};

use crate::messages::{PeerWork, SMALL};
use crate::metrics::DropReason;
use crate::node_tables::SubscriptionChange;
use crate::ports::{SessionOp, StoreOp};
use crate::say::{self, cut};
use crate::subscriptions::Subscriber;

use super::conn::AckKind;
use super::state::publication::Publication;
use super::{Conn, Continuation, Worker};

impl Worker {
    /// Adds or replaces a subscription; true when it is new. The other nodes are told.
    pub(super) fn set_subscription(
        &self,
        filter: &TopicFilter,
        subscriber: Subscriber,
        qos: QoS,
    ) -> bool {
        self.announce(self.shared.subscribe(filter, subscriber, qos))
    }

    /// Removes a subscription; true when there was one. The other nodes are told.
    pub(super) fn remove_subscription(&self, filter: &TopicFilter, subscriber: Subscriber) -> bool {
        self.announce(self.shared.unsubscribe(filter, subscriber))
    }

    fn announce(&self, change: SubscriptionChange) -> bool {
        if change.announce {
            self.to_peers(PeerWork::Interest(None), SMALL);
        }
        change.changed
    }

    /// SUBSCRIBE: as many requests of one filter ([MQTT-3.8.4-4]), one SUBACK.
    pub fn subscribe(&self, conn: &Rc<Conn>, subscribe: Subscribe) {
        let Some(slot) = conn.session.get() else { return };
        let limit = self.shared.settings.limits.max_subscriptions;
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        let mut cursors = Vec::with_capacity(subscribe.filters.len());
        let mut must_wait = false;
        let mut refused = None;
        let mut is_full = false;
        {
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.get(slot) else { return };
            let subscriber = self.subscriber(slot, session);
            self.remember_filters(session, subscriber);
            for request in subscribe.filters {
                let (filter, qos) = match request {
                    Ok(request) => request,
                    Err(violation) => {
                        codes.push(SUBACK_FAILURE);
                        refused = refused.or(Some(violation));
                        continue;
                    }
                };
                let cost = filter.cost();
                let too_many = session.filters.len() >= limit;
                if (too_many || !self.session_may_grow(session.charge.bytes(), cost))
                    && self.shared.subscriptions.read().granted(&filter, subscriber).is_none()
                {
                    is_full |= !too_many;
                    self.metrics.filters_refused.inc();
                    codes.push(SUBACK_FAILURE);
                    continue;
                }
                if self.set_subscription(&filter, subscriber, qos) {
                    session.charge.add(cost);
                    session.filters.push(filter.clone());
                }
                let owes = session.stored.is_some() && self.will_owe(&filter, qos);
                if let Some(stored) = &session.stored {
                    self.effects.borrow_mut().ops.push(
                        SessionOp::PutSubscription {
                            id: stored.id,
                            filter: Arc::clone(filter.arc()),
                            qos,
                            owes: owes.then(Arc::default),
                        }
                        .into(),
                    );
                    must_wait = true;
                }
                codes.push(qos as u8);
                let number = self.next_number();
                session.retained.get_or_insert_default().begin(number, filter, qos, owes);
                cursors.push(number);
            }
            codes.resize(codes.len() + subscribe.beyond, SUBACK_FAILURE);
        }
        if let Some(violation) = refused {
            say::warn!(
                target: "hydrant::mqtt",
                "a SUBSCRIBE from {}: a topic filter is refused: {violation}",
                conn.peer.get()
            );
        }
        if is_full {
            say::warn!(
                target: "hydrant::mqtt",
                "a SUBSCRIBE from {}: topic filters are refused: its session or the node has no room for them \
                 (session.max_bytes, session.max_total_bytes)",
                conn.peer.get()
            );
        }
        if subscribe.beyond > 0 {
            say::warn!(
                target: "hydrant::mqtt",
                "a SUBSCRIBE from {}: {} of its topic filters are refused: there are more than {} \
                 (limits.max_filters_per_subscribe)",
                conn.peer.get(),
                subscribe.beyond,
                self.wire_limits.max_filters
            );
        }
        self.answer_known(conn, AckKind::Suback(subscribe.packet_id, codes, cursors), must_wait);
    }

    /// UNSUBSCRIBE: UNSUBACK in any case ([MQTT-3.10.4-2]). The filters are looked up in a set, since the packet may
    /// name any number of them.
    pub fn unsubscribe(&self, conn: &Rc<Conn>, unsubscribe: Unsubscribe<'_>) {
        let Some(slot) = conn.session.get() else { return };
        let mut must_wait = false;
        {
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.get(slot) else { return };
            let subscriber = self.subscriber(slot, session);
            self.remember_filters(session, subscriber);
            let mut gone = AHashSet::new();
            if unsubscribe.filters.clone().nth(1).is_some() {
                let known: AHashSet<&str> =
                    session.filters.iter().map(TopicFilter::as_str).collect();
                gone.extend(unsubscribe.filters.filter(|filter| known.contains(filter)));
            } else {
                gone.extend(unsubscribe.filters);
            }
            for filter in session.filters.extract_if(.., |known| gone.contains(known.as_str())) {
                if let Some(cursors) = &mut session.retained {
                    cursors.end(&filter);
                }
                self.remove_subscription(&filter, subscriber);
                session.charge.sub(filter.cost());
                if let Some(stored) = &session.stored {
                    self.effects.borrow_mut().ops.push(
                        SessionOp::DeleteSubscription {
                            id: stored.id,
                            filter: Arc::clone(filter.arc()),
                        }
                        .into(),
                    );
                    must_wait = true;
                }
            }
        }
        self.answer_known(conn, AckKind::Unsuback(unsubscribe.packet_id), must_wait);
    }

    pub(super) fn answer_stored(&self, conn: &Rc<Conn>, kind: AckKind, must_wait: bool) {
        if must_wait {
            let index = conn.owe(kind);
            self.wait_for_store(Continuation::Answer { conn: Rc::clone(conn), index });
        } else {
            self.answer(conn, kind);
        }
    }

    /// Sets or removes the retained message; true when the publish waits for the store.
    pub(super) fn retain(&self, publication: &mut Publication<'_>, durable: bool) -> bool {
        let own = publication.topic.starts_with(super::SYS_PREFIX);
        self.change_retained(publication, false).is_some() && durable && !own
    }

    /// The same; `ahead`: the message reaches live subscribers later. The version of the change, if it is one.
    pub(super) fn change_retained(
        &self,
        publication: &mut Publication<'_>,
        ahead: bool,
    ) -> Option<u64> {
        let limits = &self.shared.settings.limits;
        let mut retained = self.shared.retained.write();
        let own = publication.topic.starts_with(super::SYS_PREFIX);
        let before = retained
            .get(publication.topic)
            .map(|message| Retained::cost(&message.topic, &message.payload));
        let full = !own
            && !publication.payload.is_empty()
            && ((before.is_none() && retained.len() >= limits.max_retained_messages)
                || retained.bytes() - before.unwrap_or(0)
                    + Retained::cost(publication.topic, publication.payload)
                    > limits.max_retained_bytes);
        if full {
            self.metrics.drop_messages(
                DropReason::RetainedFull,
                1,
                format_args!("topic {}", cut(publication.topic)),
            );
            // Nothing to remove.
            before?;
        }
        let version = self.shared.retained_version(self.now().wall);
        let message = (!full && !publication.payload.is_empty()).then(|| publication.message());
        if ahead {
            let topic = Arc::clone(&publication.message().topic);
            let places = self.shared.workers();
            retained.change_ahead(&topic, message.clone(), version, places);
        } else if let Some(message) = &message {
            retained.insert(Arc::clone(message));
        } else {
            retained.remove(publication.topic);
        }
        if let Some(message) = message.filter(|_| !own) {
            self.effects.borrow_mut().ops.push(StoreOp::PutRetained { message, version });
        } else if full || publication.payload.is_empty() {
            // [MQTT-3.3.1-7], [MQTT-3.3.1-10], [MQTT-3.3.1-11]
            let op = StoreOp::DeleteRetained { topic: Arc::from(publication.topic), version };
            self.effects.borrow_mut().ops.push(op);
        }
        if !own {
            self.retained_elsewhere(publication, full, version, ahead);
        }
        self.shared.metrics.retained.set(retained.len() as u64);
        self.shared.metrics.retained_bytes.set(retained.bytes() as u64);
        Some(version)
    }
}
