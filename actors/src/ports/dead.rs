//! Records that the message log refuses for good.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::log::LogRecord;

/// Characters of a reason that are kept.
const REASON_MAX: usize = 500;

/// By which a dead letter is known. The same record has the same everywhere and after every start,
/// so that one that is refused twice is one dead letter. In the order in which the records came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DeadId {
    /// [`LogRecord::received_ms`].
    pub received_ms: u64,
    /// Of all that tells the record from others.
    pub hash: u64,
}

impl DeadId {
    /// Above every one.
    pub const MAX: Self = Self { received_ms: u64::MAX, hash: u64::MAX };

    /// That of a record. What names it is what clients chose, so the hash is one that nobody can
    /// make meet another.
    pub fn of(record: &LogRecord) -> Self {
        let mut hash = Sha256::new();
        for text in [&record.client_id, &record.mqtt_topic] {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        }
        for number in [record.epoch, record.sequence, record.received_ms] {
            hash.update(number.to_be_bytes());
        }
        let hash = hash.finalize().iter().take(8).fold(0, |n, byte| n << 8 | u64::from(*byte));
        Self { received_ms: record.received_ms, hash }
    }

    /// The one behind it.
    pub fn next(self) -> Self {
        match self.hash.checked_add(1) {
            Some(hash) => Self { hash, ..self },
            None => Self { received_ms: self.received_ms.saturating_add(1), hash: 0 },
        }
    }

    /// As a key: in the same order.
    pub fn to_bytes(self) -> [u8; 16] {
        (u128::from(self.received_ms) << 64 | u128::from(self.hash)).to_be_bytes()
    }

    /// What [`Self::to_bytes`] made.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let number = u128::from_be_bytes(bytes);
        #[allow(clippy::cast_possible_truncation)]
        Self { received_ms: (number >> 64) as u64, hash: number as u64 }
    }
}

impl fmt::Display for DeadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:016x}", self.received_ms, self.hash)
    }
}

/// Not the id of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the id of a dead letter is as `broker dead list` shows it, such as 19a3f2c1b40-7c1d9e02a4b8f613"
)]
pub struct NoDeadId;

impl FromStr for DeadId {
    type Err = NoDeadId;

    fn from_str(text: &str) -> Result<Self, NoDeadId> {
        let number = |text| u64::from_str_radix(text, 16).map_err(|_| NoDeadId);
        let (received_ms, hash) = text.split_once('-').ok_or(NoDeadId)?;
        if hash.len() != 16 {
            return Err(NoDeadId);
        }
        Ok(Self { received_ms: number(received_ms)?, hash: number(hash)? })
    }
}

/// A record that the message log refused, as it is kept in the session store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// See [`DeadId`].
    pub id: DeadId,
    /// The record. Its place in the outbox is the one that ends with this dead letter; it is not
    /// stored.
    pub record: LogRecord,
    /// Why the log refused it, at most 500 characters.
    pub reason: Arc<str>,
    /// When, milliseconds since the Unix epoch.
    pub refused_ms: u64,
}

impl DeadLetter {
    /// That of a record.
    pub fn new(record: LogRecord, reason: &str, refused_ms: u64) -> Self {
        let end = reason.char_indices().nth(REASON_MAX).map_or(reason.len(), |(at, _)| at);
        Self { id: DeadId::of(&record), record, reason: reason[..end].into(), refused_ms }
    }

    /// Bytes that it is counted with against `log.dead_letter_max_bytes`.
    pub fn cost(&self) -> u64 {
        self.record.cost() as u64
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_shown_and_keeps_its_order() {
        let id = DeadId { received_ms: 0x19a_3f2c_1b40, hash: 0x1d9e_02a4_b8f6 };
        assert_eq!(id.to_string(), "19a3f2c1b40-00001d9e02a4b8f6");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(DeadId::from_bytes(id.to_bytes()), id);
        let later = DeadId { received_ms: id.received_ms + 1, hash: 0 };
        assert!(id < later && id.to_bytes() < later.to_bytes() && id < id.next());
        assert_eq!(DeadId { hash: u64::MAX, ..id }.next(), later);
        for wrong in ["", "1", "1-2", "x-00001d9e02a4b8f6", "19a3f2c1b40-00001d9e02a4b8fx"] {
            assert_eq!(wrong.parse::<DeadId>(), Err(NoDeadId), "{wrong}");
        }
    }
}
