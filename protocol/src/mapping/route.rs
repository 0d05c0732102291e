//! A rule as the configuration has it. Nothing of it is checked.

use crate::message::{AckLevel, OnRefused};

/// One `[[route]]` of the configuration, unchecked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteConfig {
    /// MQTT topic filter with captures.
    pub filter: String,
    /// Template of the Kafka topic.
    pub topic: String,
    /// Template of the Kafka key; `None` is a null key.
    pub key: Option<String>,
    /// Acknowledgement level; `None` takes the default's.
    pub ack: Option<AckLevel>,
    /// What becomes of a refused record; `None` takes the default's.
    pub on_refused: Option<OnRefused>,
    /// Line of the configuration file, 0 where unknown.
    pub line: usize,
}
