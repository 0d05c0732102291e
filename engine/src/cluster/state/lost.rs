//! Incarnations that are lost and that nobody has taken over.
//!
//! Bounds: an entry a lost incarnation.

use std::sync::Arc;
use std::time::Duration;

use crate::now::Boot;

/// An incarnation that is no member any more and whose sessions nobody has yet.
#[derive(Debug)]
pub struct Lost {
    /// Its node id.
    pub node: Arc<str>,
    /// An attempt to seal it is under way.
    pub sealing: bool,
    /// No attempt before this.
    pub next: Boot,
}

impl Lost {
    /// Not looked at before some time has passed.
    pub fn after(node: Arc<str>, now: Boot, wait: Duration) -> Self {
        Self { node, sealing: false, next: now + wait }
    }
}
