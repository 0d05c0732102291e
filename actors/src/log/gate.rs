//! What the topic routers ask the log, from their own threads.

use std::fmt;
use std::sync::Arc;

use crate::ports::{Admission, MessageLog};

/// [`MessageLog::admit`] of the node's log; the default one admits every topic.
#[derive(Default)]
pub struct Gate(Option<Arc<dyn MessageLog>>);

impl Gate {
    /// Asks this log.
    pub fn new(log: Arc<dyn MessageLog>) -> Self {
        Self(Some(log))
    }

    /// See [`MessageLog::admit`].
    pub fn admit(&self, topic: &Arc<str>, client: &Arc<str>) -> Admission {
        self.0.as_ref().map_or(Admission::Own, |log| log.admit(topic, client))
    }

    /// See [`MessageLog::admissions`].
    pub fn admissions(&self) -> u64 {
        self.0.as_ref().map_or(0, |log| log.admissions())
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}
