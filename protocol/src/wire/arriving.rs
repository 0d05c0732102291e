//! A packet on its way: whether its bytes count as a sign of life of a client whose keep-alive has run out
//! otherwise ([MQTT-3.1.2-24]), and since when it comes. One large PUBLISH over a slow line takes longer than
//! 1.5 times the Keep Alive.
//!
//! Its first byte is a sign of life. From there on each stretch of 1.5 times the Keep Alive needs the least rate, up to
//! its last read.
//! Times are milliseconds of the caller's clock. Nothing is allocated.

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arriving {
    /// When its first byte came.
    pub since_ms: u64,
    /// When its last bytes so far came.
    read_ms: u64,
    /// The stretch that is judged: when it began, and how many bytes there were by then.
    from_ms: u64,
    from_bytes: usize,
}

impl Arriving {
    /// The first `bytes` of a packet have come.
    #[inline]
    pub fn new(now_ms: u64, bytes: usize) -> Self {
        Self { since_ms: now_ms, read_ms: now_ms, from_ms: now_ms, from_bytes: bytes }
    }

    /// More of it has come.
    #[inline]
    pub fn read(&mut self, now_ms: u64) {
        self.read_ms = now_ms;
    }

    /// Whether the client lives by what has come of the packet, `bytes` by now: it has been silent for at most
    /// `patience_ms`, and each such stretch had `least_rate` bytes a second.
    pub fn lives(&mut self, now_ms: u64, bytes: usize, patience_ms: u64, least_rate: u64) -> bool {
        if now_ms.saturating_sub(self.from_ms) <= patience_ms {
            return true;
        }
        if now_ms.saturating_sub(self.read_ms) > patience_ms {
            return false;
        }
        let came = bytes.saturating_sub(self.from_bytes) as u64;
        let took = self.read_ms.saturating_sub(self.from_ms);
        (self.from_ms, self.from_bytes) = (self.read_ms, bytes);
        came.saturating_mul(1000) >= least_rate.saturating_mul(took)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When it is cut off: `step` bytes come every `every_ms` until `until_ms`, the clocks are looked at every 250 ms.
    fn cut_off(step: usize, every_ms: u64, until_ms: u64) -> Option<u64> {
        let mut packet = Arriving::new(0, step);
        let mut bytes = step;
        for now in 1..60_000 {
            if now % every_ms == 0 && now <= until_ms {
                bytes += step;
                packet.read(now);
            }
            if now % 250 == 0 && !packet.lives(now, bytes, 3000, 100) {
                return Some(now);
            }
        }
        None
    }

    #[test]
    fn it_lives_while_bytes_come_at_the_least_rate() {
        assert_eq!(cut_off(3000, 350, u64::MAX), None);
        assert_eq!(cut_off(200, 1900, u64::MAX), None, "at 105 bytes a second");
        assert_eq!(cut_off(150, 1900, u64::MAX), Some(3250), "at 79");
        assert_eq!(cut_off(1, 100, u64::MAX), Some(3250), "who drips");
    }

    #[test]
    fn its_silence_ends_it_as_any_other() {
        assert_eq!(cut_off(3000, 350, 0), Some(3250));
        assert_eq!(cut_off(3000, 350, 2800), Some(6000), "3 s after its last byte");
        assert_eq!(cut_off(3000, 350, 20_000), Some(23_000));
    }
}
