//! What the outside is handed and gives back, as data. The traits are in `hydrant-actors`, where drivers call them.

mod dead;
mod log;

pub use dead::{DeadId, DeadLetter, NoDeadId};
pub use log::{Admission, LogError, LogRecord, OutboxPosition, Report};
