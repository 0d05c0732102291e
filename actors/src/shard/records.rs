//! From a publish to its record for the log, and the way there that its level asks for.

use std::sync::Arc;

use bytes::Bytes;
use hydrant_protocol::mapping::{Mapped, murmur2};
use hydrant_protocol::{AckLevel, QoS};

use crate::metrics::DropReason;
use crate::ports::{LogRecord, OutboxPosition, StoreOp};
use crate::settings::LogKind;
use crate::shared::LogWork;

use super::Shard;
use super::deliver::View;
use super::publish::Needs;
use super::routes::Route;
use super::sessions::unix_ms;

impl Shard {
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
        view: &mut View<'_>,
        retain: bool,
        needs: &mut Needs,
    ) {
        let kind = self.shared.settings.log.kind;
        let qos0 = view.qos == QoS::AtMostOnce;
        let room = self.shared.log.has_room();
        if qos0 && !room {
            self.metrics.drop_messages(DropReason::LogFull, 1);
            return;
        }
        let record = LogRecord {
            id: 0,
            topic: Arc::clone(&mapped.topic),
            key: mapped.key.clone(),
            payload: match &view.owned {
                Some(message) => message.payload.clone(),
                None => Bytes::copy_from_slice(view.payload),
            },
            mqtt_topic: Arc::clone(&route.topic),
            qos: view.qos,
            retain,
            client_id,
            epoch,
            sequence,
            outbox: None,
            received_ms: unix_ms(),
            properties: None,
        };
        let mut outgoing = self.outgoing.borrow_mut();
        if kind == LogKind::Kafka && !qos0 && route.level == AckLevel::Stored {
            // StorageActor gives the position when it writes the entry.
            let lane = self.lane(&record);
            let position = OutboxPosition { lane, position: 0 };
            outgoing.ops.push(StoreOp::PutOutbox { record, position });
            needs.store = true;
            return;
        }
        // An accepted publish that the log has no room for waits for it like one of level kafka.
        if !qos0 && (route.level != AckLevel::Accepted || !room) {
            needs.log = Some(outgoing.log.len());
        }
        outgoing.log.push(LogWork { record, token: None });
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
