//! How far a session is with the retained messages of its new subscriptions.
//!
//! Bounds: a session has one cursor for each of its filters (`limits.max_subscriptions`).

use std::collections::VecDeque;

use hydrant_protocol::QoS;
use hydrant_protocol::topic::{RetainedCursor, TopicFilter};

/// The cursors of a session, in the order of its SUBSCRIBEs.
#[derive(Debug, Default)]
pub struct Cursors(pub VecDeque<(RetainedCursor, QoS)>);

impl Cursors {
    /// A filter is subscribed to. What it had begun before begins anew ([MQTT-3.8.4-3]).
    pub fn begin(&mut self, filter: TopicFilter, granted: QoS) {
        self.end(&filter);
        self.0.push_back((RetainedCursor::new(filter), granted));
    }

    /// UNSUBSCRIBE of a filter.
    pub fn end(&mut self, filter: &TopicFilter) {
        self.0.retain(|(cursor, _)| cursor.filter() != filter);
    }

    /// The next one has to wait for the window.
    pub fn needs_window(&self) -> bool {
        self.0.front().is_some_and(|(_, granted)| *granted != QoS::AtMostOnce)
    }
}
