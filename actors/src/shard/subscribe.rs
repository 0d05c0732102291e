//! SUBSCRIBE, UNSUBSCRIBE and PUBREL; retained messages, as they are set and as they follow a SUBACK.

use std::rc::Rc;
use std::sync::Arc;

use hydrant_protocol::QoS;
use hydrant_protocol::topic::TopicFilter;
use hydrant_protocol::wire::{self, SUBACK_FAILURE, Subscribe, Unsubscribe};

use crate::metrics::DropReason;
use crate::ports::StoreOp;

use super::conn::AckKind;
use super::deliver::View;
use super::{Conn, Shard, WaitKind};

impl Shard {
    /// SUBSCRIBE: as many requests of one filter ([MQTT-3.8.4-4]), one SUBACK.
    pub fn subscribe(&self, conn: &Rc<Conn>, subscribe: Subscribe) {
        let Some(slot) = conn.session.get() else { return };
        let limit = self.shared.settings.limits.max_subscriptions;
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        let mut granted = Vec::with_capacity(subscribe.filters.len());
        let mut must_wait = false;
        {
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.get(slot) else { return };
            let subscriber = self.subscriber(slot, session);
            for (filter, qos) in subscribe.filters {
                if session.filters.len() >= limit && !session.filters.contains(&filter) {
                    codes.push(SUBACK_FAILURE);
                    continue;
                }
                if self.shared.subscribe(&filter, subscriber, qos) {
                    session.filters.push(filter.clone());
                }
                if let Some(stored) = &session.stored {
                    self.outgoing.borrow_mut().ops.push(StoreOp::PutSubscription {
                        id: stored.id,
                        filter: Arc::clone(filter.arc()),
                        qos,
                    });
                    must_wait = true;
                }
                codes.push(qos as u8);
                granted.push((filter, qos));
            }
        }
        self.answer_known(conn, AckKind::Suback(subscribe.packet_id, codes, granted), must_wait);
    }

    /// UNSUBSCRIBE: UNSUBACK in any case ([MQTT-3.10.4-2]).
    pub fn unsubscribe(&self, conn: &Rc<Conn>, unsubscribe: &Unsubscribe) {
        let Some(slot) = conn.session.get() else { return };
        let mut must_wait = false;
        {
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.get(slot) else { return };
            let subscriber = self.subscriber(slot, session);
            for filter in &unsubscribe.filters {
                let Some(at) = session.filters.iter().position(|known| known == filter) else {
                    continue;
                };
                session.filters.swap_remove(at);
                self.shared.unsubscribe(filter, subscriber);
                if let Some(stored) = &session.stored {
                    self.outgoing.borrow_mut().ops.push(StoreOp::DeleteSubscription {
                        id: stored.id,
                        filter: Arc::clone(filter.arc()),
                    });
                    must_wait = true;
                }
            }
        }
        self.answer_known(conn, AckKind::Unsuback(unsubscribe.packet_id), must_wait);
    }

    pub(super) fn answer_stored(&self, conn: &Rc<Conn>, kind: AckKind, must_wait: bool) {
        if must_wait {
            let index = conn.owe(kind);
            self.wait_for_store(WaitKind::Answer { conn: Rc::clone(conn), index });
        } else {
            self.answer(conn, kind);
        }
    }

    /// Sets or removes the retained message; true when the publish waits for the store.
    pub(super) fn retain(&self, view: &mut View<'_>, durable: bool) -> bool {
        let limits = &self.shared.settings.limits;
        let mut retained = self.shared.retained.write();
        let own = view.topic.starts_with(super::publish::SYS_PREFIX);
        let before = retained.get(view.topic).map(|message| message.cost());
        let full = !own
            && !view.payload.is_empty()
            && ((before.is_none() && retained.len() >= limits.max_retained_messages)
                || retained.bytes() - before.unwrap_or(0) + view.cost()
                    > limits.max_retained_bytes);
        if full {
            self.metrics.drop_messages(DropReason::RetainedFull, 1);
            if before.is_none() {
                return false;
            }
        }
        let version = self.shared.retained_version();
        if full || view.payload.is_empty() {
            // [MQTT-3.3.1-7], [MQTT-3.3.1-10], [MQTT-3.3.1-11]
            retained.remove(view.topic);
            let op = StoreOp::DeleteRetained { topic: Arc::from(view.topic), version };
            self.outgoing.borrow_mut().ops.push(op);
        } else {
            let message = view.message();
            retained.insert(Arc::clone(&message));
            if !own {
                self.outgoing.borrow_mut().ops.push(StoreOp::PutRetained { message, version });
            }
        }
        if !own {
            self.retained_elsewhere(view, full, version);
        }
        self.shared.metrics.retained.set(retained.len() as u64);
        self.shared.metrics.retained_bytes.set(retained.bytes() as u64);
        durable && !own
    }

    /// [MQTT-3.3.1-6], [MQTT-3.3.1-8]: what is retained on the filters of a new subscription, with
    /// RETAIN set, at the lower of both QoS. A topic that several of the filters match comes for
    /// each of them, as if they had come one by one.
    pub(super) fn deliver_retained(&self, conn: &Rc<Conn>, filters: &[(TopicFilter, QoS)]) {
        let mut found = Vec::new();
        for (filter, granted) in filters {
            found.clear();
            self.shared.retained.read().matching(filter, &mut found);
            for message in &found {
                let qos = message.qos.min(*granted);
                let mut view = View::new(&message.topic, &message.payload, message.qos, false);
                view.shared_topic = Some(&message.topic);
                let Some(slot) = conn.session.get() else { return };
                let mut sessions = self.sessions.borrow_mut();
                let Some(session) = sessions.get(slot) else { return };
                if qos == QoS::AtMostOnce {
                    if conn.out.borrow().len() >= self.shared.settings.limits.max_output_bytes {
                        self.metrics.drop_messages(DropReason::SlowSubscriber, 1);
                        continue;
                    }
                    self.write(conn, |out| {
                        wire::put_publish(
                            out,
                            &message.topic,
                            &message.payload,
                            qos,
                            false,
                            true,
                            None,
                        );
                    });
                    self.count_publish_out(qos, message.payload.len());
                } else if session.stored.is_some() {
                    self.deliver_stored(slot, session, qos, true, &mut view);
                } else {
                    self.deliver_clean(session, qos, true, &mut view);
                }
            }
        }
    }
}
