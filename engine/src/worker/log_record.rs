//! From a publish to its record for the log, and the way there that its level asks for.

use std::sync::Arc;

use bytes::Bytes;
use hydrant_protocol::mapping::{Mapped, murmur2};
use hydrant_protocol::{AckLevel, QoS};

use crate::metrics::DropReason;
use crate::ports::{LogOp, LogRecord, OutboxPosition};
use crate::settings::LogKind;

use super::state::publication::Publication;
use super::state::routes::Route;
use super::{AckDependencies, Worker};
use crate::messages::LogWork;

impl Worker {
    /// Whether the log's own acknowledgement is what a durable publish waits for; otherwise its
    /// outbox entry is.
    pub(super) fn log_acknowledges(&self, route: &Route) -> bool {
        self.shared.settings.log.kind != LogKind::Kafka || route.level == AckLevel::Kafka
    }

    /// The record for the log, by the way its level asks for.
    pub(super) fn log_record(
        &self,
        mapped: &Mapped,
        route: &Route,
        (client_id, epoch, sequence): (Arc<str>, u64, u64),
        publication: &mut Publication<'_>,
        retain: bool,
        deps: &mut AckDependencies,
    ) {
        let kind = self.shared.settings.log.kind;
        let qos0 = publication.qos == QoS::AtMostOnce && !publication.must_last;
        let room = self.outside.log_has_room();
        if qos0 && !room {
            self.metrics.drop_one(DropReason::LogFull, &client_id, publication.topic);
            return;
        }
        let (topic, key) = self.place(route, mapped, &client_id);
        let record = LogRecord {
            id: 0,
            topic,
            key,
            payload: match &publication.owned {
                Some(message) => message.payload.clone(),
                None => Bytes::copy_from_slice(publication.payload),
            },
            mqtt_topic: Arc::clone(&route.topic),
            qos: publication.qos,
            retain,
            client_id,
            epoch,
            sequence,
            outbox: None,
            received_ms: self.unix_ms(),
            properties: None,
        };
        let mut effects = self.effects.borrow_mut();
        if kind == LogKind::Kafka && !qos0 && route.level == AckLevel::Stored {
            // StorageActor gives the position when it writes the entry.
            let lane = self.lane(&record);
            let position = OutboxPosition { lane, position: 0 };
            effects.ops.push(LogOp::PutOutbox { record, position }.into());
            deps.store = true;
            return;
        }
        // An accepted publish that the log has no room for waits for it like one of level kafka.
        if !qos0 && (route.level != AckLevel::Accepted || !room) {
            deps.log = Some(effects.log.len());
        }
        effects.log.push(LogWork { record, token: None, on_refused: mapped.on_refused });
    }

    fn lane(&self, record: &LogRecord) -> u16 {
        let lanes = u32::from(self.shared.settings.storage.outbox_lanes.max(1));
        let key = record.key.as_deref().unwrap_or_default();
        let hash = murmur2(record.topic.as_bytes()) ^ murmur2(key);
        #[allow(clippy::cast_possible_truncation)]
        {
            (hash % lanes) as u16
        }
    }
}
