//! The incoming stream: what has come, what is consumed, and what the peer knows of it.

use super::frame::Ack;
use super::{Config, LinkError};

#[derive(Debug, Default)]
pub(super) struct Incoming {
    received: u64,
    received_bytes: u64,
    consumed: u64,
    consumed_bytes: u64,
    /// What the peer was told last.
    told: Option<Ack>,
    /// Since when there is something to tell.
    since: Option<u64>,
    /// It is not to wait any longer.
    due: bool,
}

impl Incoming {
    /// The highest sequence that has come.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Takes note of a frame; false when it has come before.
    ///
    /// # Errors
    /// [`LinkError::Gap`], [`LinkError::CreditExceeded`].
    pub fn accept(
        &mut self,
        now: u64,
        sequence: u64,
        bytes: u64,
        config: &Config,
    ) -> Result<bool, LinkError> {
        if sequence <= self.received {
            return Ok(false);
        }
        if sequence != self.received + 1 {
            return Err(LinkError::Gap { expected: self.received + 1, got: sequence });
        }
        let ack = self.ack(config);
        if sequence > ack.granted_frames || self.received_bytes + bytes > ack.granted_bytes {
            return Err(LinkError::CreditExceeded(sequence));
        }
        self.received = sequence;
        self.received_bytes += bytes;
        self.changed(now, config);
        Ok(true)
    }

    /// What has not come is not consumed.
    pub fn consumed(&mut self, now: u64, frames: u64, bytes: u64, config: &Config) {
        self.consumed = self.consumed.saturating_add(frames).min(self.received);
        self.consumed_bytes = self.consumed_bytes.saturating_add(bytes).min(self.received_bytes);
        self.changed(now, config);
    }

    /// What was told may have been lost with the connection.
    pub fn tell_again(&mut self) {
        self.due = true;
    }

    pub fn handle_timeout(&mut self, now: u64, config: &Config) {
        self.due |= self.next_timeout(config).is_some_and(|at| now >= at);
    }

    /// When the acknowledgement has waited long enough; `None` when nothing waits for time.
    pub fn next_timeout(&self, config: &Config) -> Option<u64> {
        self.since.filter(|_| !self.due).map(|since| since.saturating_add(config.ack_delay))
    }

    /// The acknowledgement to send: one that is due, or any news when other frames go out with it.
    pub fn take_ack(&mut self, others: bool, config: &Config) -> Option<Ack> {
        let goes_along = others && self.since.is_some();
        if !self.due && !goes_along {
            return None;
        }
        self.due = false;
        self.since = None;
        self.told = Some(self.ack(config));
        self.told
    }

    fn changed(&mut self, now: u64, config: &Config) {
        let ack = self.ack(config);
        let told = self.told.unwrap_or(Ack {
            received: 0,
            granted_frames: config.window_frames.into(),
            granted_bytes: config.window_bytes,
        });
        if ack == told {
            return;
        }
        self.since.get_or_insert(now);
        // A peer without room may wait for this.
        self.due |= ack.received - told.received >= config.ack_every.into()
            || ack.granted_frames - told.granted_frames
                >= u64::from(config.window_frames).div_ceil(4)
            || ack.granted_bytes - told.granted_bytes >= config.window_bytes / 4;
    }

    fn ack(&self, config: &Config) -> Ack {
        Ack {
            received: self.received,
            granted_frames: self.consumed + u64::from(config.window_frames),
            granted_bytes: self.consumed_bytes.saturating_add(config.window_bytes),
        }
    }
}
