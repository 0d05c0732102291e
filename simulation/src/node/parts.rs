//! What a driver keeps of a connection and of a stop.

use std::rc::Rc;

use hydrant_engine::worker::Conn;

/// A client's connection.
pub struct Socket {
    pub worker: u16,
    pub conn: Rc<Conn>,
    /// Bytes that have come and are not read.
    pub arrived: Vec<u8>,
    /// The client has closed it.
    pub eof: bool,
    pub resume: bool,
    pub ended: bool,
    /// It is to be polled.
    pub ready: bool,
}

impl Socket {
    /// It is to be polled.
    pub fn is_woken(&self) -> bool {
        self.ready || self.conn.is_woken()
    }
}

/// How far a stop in order is.
pub struct Stop {
    /// By the world's clock.
    pub until: u64,
    pub idle_before: bool,
}
