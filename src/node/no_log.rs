//! `log.kind = "none"`: there is no log. The router hands it nothing; what comes all the same is
//! refused, never silently taken.

use std::sync::OnceLock;
use std::time::Duration;

use hydrant_actors::ports::{LogError, LogRecord, MessageLog, Report};

type Sink = Box<dyn Fn(Vec<Report>) + Send + Sync>;

/// See the module.
#[derive(Default)]
pub struct NoLog {
    sink: OnceLock<Sink>,
}

impl MessageLog for NoLog {
    fn append(&self, records: Vec<LogRecord>) -> Vec<LogRecord> {
        let refused = || Err(LogError::Refused("log.kind is \"none\"".to_owned()));
        if let Some(sink) = self.sink.get() {
            sink(
                records.iter().map(|record| Report { id: record.id, result: refused() }).collect(),
            );
        }
        Vec::new()
    }

    fn on_report(&self, sink: Sink) {
        // A second sink would be a mistake of ours; the first one stays.
        let _ = self.sink.set(sink);
    }

    fn reset(&self) {}

    fn flush(&self, _: Duration) -> bool {
        true
    }

    fn is_up(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        "none".to_owned()
    }
}
