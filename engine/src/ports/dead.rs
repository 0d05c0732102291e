//! Records that the message log refuses for good.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::log::LogRecord;

/// Characters of a reason that are kept.
const REASON_MAX: usize = 500;

/// By which a dead letter is known. The same record has the same id everywhere and after every start, so that a record
/// that is refused twice is one dead letter. Ids are in the order in which the records came: those of one millisecond
/// in the order of their publisher's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DeadId {
    /// [`LogRecord::received_ms`].
    pub received_ms: u64,
    /// [`LogRecord::epoch`].
    pub epoch: u64,
    /// [`LogRecord::sequence`].
    pub sequence: u64,
    /// Of all that tells the record from others.
    pub hash: u64,
}

impl DeadId {
    /// Above every one.
    pub const MAX: Self =
        Self { received_ms: u64::MAX, epoch: u64::MAX, sequence: u64::MAX, hash: u64::MAX };

    /// That of a record. What names it is what clients chose, so the hash is one that nobody can
    /// make meet another.
    pub fn of(record: &LogRecord) -> Self {
        let LogRecord { received_ms, epoch, sequence, .. } = *record;
        let mut hash = Sha256::new();
        for text in [&record.client_id, &record.mqtt_topic] {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        }
        for number in [epoch, sequence, received_ms] {
            hash.update(number.to_be_bytes());
        }
        let hash = hash.finalize().iter().take(8).fold(0, |n, byte| n << 8 | u64::from(*byte));
        Self { received_ms, epoch, sequence, hash }
    }

    const fn numbers(self) -> [u64; 4] {
        [self.received_ms, self.epoch, self.sequence, self.hash]
    }

    const fn from_numbers([received_ms, epoch, sequence, hash]: [u64; 4]) -> Self {
        Self { received_ms, epoch, sequence, hash }
    }

    /// The one behind it; the last has none.
    pub fn next(self) -> Self {
        let mut numbers = self.numbers();
        for number in numbers.iter_mut().rev() {
            let over;
            (*number, over) = number.overflowing_add(1);
            if !over {
                return Self::from_numbers(numbers);
            }
        }
        Self::MAX
    }

    /// As a key: in the same order.
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (part, number) in bytes.chunks_exact_mut(8).zip(self.numbers()) {
            part.copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }

    /// What [`Self::to_bytes`] made.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let mut numbers = [0; 4];
        for (number, part) in numbers.iter_mut().zip(bytes.chunks_exact(8)) {
            *number = part.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
        }
        Self::from_numbers(numbers)
    }
}

impl fmt::Display for DeadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { received_ms, epoch, sequence, hash } = self;
        write!(f, "{received_ms:x}-{epoch:x}-{sequence:x}-{hash:016x}")
    }
}

/// Not the id of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the id of a dead letter is as `broker dead list` shows it, such as 19a3f2c1b40-2-1f-7c1d9e02a4b8f613"
)]
pub struct NoDeadId;

impl FromStr for DeadId {
    type Err = NoDeadId;

    fn from_str(text: &str) -> Result<Self, NoDeadId> {
        let (mut numbers, mut parts) = ([0; 4], text.split('-'));
        let mut last = "";
        for number in &mut numbers {
            last = parts.next().ok_or(NoDeadId)?;
            *number = u64::from_str_radix(last, 16).map_err(|_| NoDeadId)?;
        }
        match parts.next() {
            None if last.len() == 16 => Ok(Self::from_numbers(numbers)),
            _ => Err(NoDeadId),
        }
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
        let (received_ms, hash) = (0x19a_3f2c_1b40, 0x1d9e_02a4_b8f6);
        let id = DeadId { received_ms, epoch: 2, sequence: 0x1f, hash };
        assert_eq!(id.to_string(), "19a3f2c1b40-2-1f-00001d9e02a4b8f6");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(DeadId::MAX.to_string().parse(), Ok(DeadId::MAX));
        assert_eq!(DeadId::from_bytes(id.to_bytes()), id);
        let later = [
            DeadId { sequence: 0x20, hash: 0, ..id },
            DeadId { epoch: 3, sequence: 0, hash: 0, ..id },
            DeadId { received_ms: received_ms + 1, epoch: 0, sequence: 0, hash: 0 },
        ];
        for later in later {
            assert!(id < later && id.to_bytes() < later.to_bytes() && id < id.next(), "{later}");
        }
        assert_eq!(DeadId { hash: u64::MAX, ..id }.next(), later[0]);
        assert_eq!(DeadId { hash: u64::MAX, sequence: u64::MAX, ..id }.next(), later[1]);
        assert_eq!(DeadId { received_ms, ..DeadId::MAX }.next(), later[2]);
        assert_eq!(DeadId::MAX.next(), DeadId::MAX);
        let wrong = [
            "",
            "1",
            "1-2-3-4",
            "1-2-00001d9e02a4b8f6",
            "1-2-3-00001d9e02a4b8f6-5",
            "x-2-3-00001d9e02a4b8f6",
            "1-2-3-00001d9e02a4b8fx",
        ];
        for wrong in wrong {
            assert_eq!(wrong.parse::<DeadId>(), Err(NoDeadId), "{wrong}");
        }
    }
}
