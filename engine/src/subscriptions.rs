//! Who stands in the node's table of subscriptions.

/// Who is subscribed: a session by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subscriber {
    /// Index of the worker that holds the session.
    pub worker: u16,
    /// The session outlives its connection.
    pub persistent: bool,
    /// Its slot there.
    pub slot: u32,
}
