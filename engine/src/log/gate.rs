//! What a route asks about its Kafka topic, from the thread of its worker.

use std::fmt;
use std::sync::Arc;

use crate::ports::Admission;

/// Whether topics may have records of their own. Answers at once and never waits: it is asked once a route, before
/// anything is acknowledged (decision 0016).
pub trait TopicGate: Send + Sync {
    /// Whether a topic may have records of its own: asked before a publish is acknowledged, so that nothing
    /// acknowledged is refused for a cap.
    fn admit(&self, topic: &Arc<str>, client: &Arc<str>) -> Admission;

    /// Rises when a topic that was beyond a cap may be asked about again.
    fn admissions(&self) -> u64;
}

/// The gate in front of the node's log; the default one admits every topic.
#[derive(Default)]
pub struct Gate(Option<Arc<dyn TopicGate>>);

impl Gate {
    /// Asks this one.
    pub fn new(gate: Arc<dyn TopicGate>) -> Self {
        Self(Some(gate))
    }

    /// See [`TopicGate::admit`].
    pub fn admit(&self, topic: &Arc<str>, client: &Arc<str>) -> Admission {
        self.0.as_ref().map_or(Admission::Own, |gate| gate.admit(topic, client))
    }

    /// See [`TopicGate::admissions`].
    pub fn admissions(&self) -> u64 {
        self.0.as_ref().map_or(0, |gate| gate.admissions())
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}
