//! The node's log as the gate that routes ask ([`TopicGate`]).

use std::sync::Arc;

use hydrant_engine::log::{Gate, TopicGate};

use crate::ports::{Admission, MessageLog};

struct OfLog(Arc<dyn MessageLog>);

impl TopicGate for OfLog {
    fn admit(&self, topic: &Arc<str>, client: &Arc<str>) -> Admission {
        self.0.admit(topic, client)
    }

    fn admissions(&self) -> u64 {
        self.0.admissions()
    }
}

/// The gate that asks this log.
pub fn gate_of(log: Arc<dyn MessageLog>) -> Gate {
    Gate::new(Arc::new(OfLog(log)))
}
