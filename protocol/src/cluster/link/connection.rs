//! One TCP connection under a link: how far it has come, and its times.

use super::frame::{Assembler, MAX_HELLO};
use super::{Config, LinkError, Role};

#[derive(Debug)]
pub(super) struct Connection {
    pub role: Role,
    pub assembler: Assembler,
    /// This end's hello has to go out.
    pub hello_due: bool,
    /// The negotiated version, once the peer's hello has come.
    pub version: Option<u16>,
    /// It cannot go on; the caller closes it.
    pub failed: bool,
    /// A ping has to go out.
    pub ping_due: bool,
    opened: u64,
    last_sent: u64,
    last_received: u64,
    /// The peer is not dead before this.
    grace: u64,
}

impl Connection {
    pub fn new(now: u64, role: Role) -> Self {
        Self {
            role,
            assembler: Assembler::default(),
            hello_due: role == Role::Dialer,
            version: None,
            failed: false,
            ping_due: false,
            opened: now,
            last_sent: now,
            last_received: now,
            grace: 0,
        }
    }

    /// Frames of the application may pass.
    pub fn is_up(&self) -> bool {
        self.version.is_some() && !self.failed
    }

    pub fn max_frame(&self, config: &Config) -> u32 {
        if self.version.is_some() { config.max_frame_bytes } else { MAX_HELLO }
    }

    /// This process stood still: what the peer sent meanwhile has yet to be read.
    pub fn stood_still(&mut self, now: u64, config: &Config) {
        self.grace = now.saturating_add(config.ping_interval);
    }

    pub fn received(&mut self, now: u64) {
        self.last_received = now;
    }

    pub fn sent(&mut self, now: u64) {
        self.last_sent = now;
        self.ping_due = false;
    }

    /// True when the peer is dead.
    ///
    /// # Errors
    /// [`LinkError::HandshakeTimeout`].
    pub fn handle_timeout(&mut self, now: u64, config: &Config) -> Result<bool, LinkError> {
        if self.failed {
            return Ok(false);
        }
        self.failed = now >= self.deadline(config);
        if self.version.is_none() {
            return if self.failed {
                Err(LinkError::HandshakeTimeout(config.handshake_timeout))
            } else {
                Ok(false)
            };
        }
        self.ping_due |= now >= self.ping_at(config);
        Ok(self.failed)
    }

    pub fn next_timeout(&self, config: &Config) -> Option<u64> {
        if self.failed {
            return None;
        }
        let deadline = self.deadline(config);
        // A ping that is due waits for the socket, not for time.
        let pings = self.version.is_some() && !self.ping_due;
        Some(if pings { deadline.min(self.ping_at(config)) } else { deadline })
    }

    fn deadline(&self, config: &Config) -> u64 {
        match self.version {
            None => self.opened.saturating_add(config.handshake_timeout),
            Some(_) => self.last_received.saturating_add(config.dead_after).max(self.grace),
        }
    }

    fn ping_at(&self, config: &Config) -> u64 {
        self.last_sent.saturating_add(config.ping_interval)
    }
}
