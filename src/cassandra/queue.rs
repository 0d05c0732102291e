//! A session's queue, cut into buckets of [`BUCKET`] sequences: which of them are delivered, and
//! what packet ids those in flight have.
//!
//! No entry is deleted by itself: that would leave a tombstone a message for every later read to
//! step over. Instead the bucket's state (a bit an entry, the packet ids in flight) is one small
//! cell that is overwritten, and a bucket whose entries are all delivered is dropped whole.
//! Bounds: a bucket's state is at most 33 + 4 x 256 bytes; kept in memory only for buckets with
//! something delivered or in flight.

use hydrant_actors::ports::OutgoingStage;
use hydrant_protocol::PacketId;

/// Sequences of a bucket: bounds a partition to 256 messages.
pub(super) const BUCKET: u64 = 256;
const VERSION: u8 = 1;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BucketState {
    done: [u64; 4],
    /// Offset in the bucket, packet id, stage.
    outgoing: Vec<(u8, PacketId, OutgoingStage)>,
}

/// How far one entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryState {
    Waiting,
    Outgoing(PacketId, OutgoingStage),
    Done,
}

/// What counts of a queue that was taken from a dead incarnation, whose writes may come late: of
/// what has a lower write timestamp, nothing above the sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) timestamp: u64,
    pub(super) sequence: u64,
}

impl Base {
    /// Whether an entry came late.
    pub(super) const fn hides(self, sequence: u64, timestamp: u64) -> bool {
        timestamp < self.timestamp && sequence > self.sequence
    }
}

/// Bucket and offset of a sequence.
pub(super) const fn place(sequence: u64) -> (u64, u8) {
    #[allow(clippy::cast_possible_truncation, reason = "below BUCKET")]
    (sequence / BUCKET, (sequence % BUCKET) as u8)
}

impl BucketState {
    /// Of a bucket in which nothing was delivered yet. Sequences begin with 1.
    pub(super) fn new(bucket: u64) -> Self {
        Self { done: [u64::from(bucket == 0), 0, 0, 0], outgoing: Vec::new() }
    }

    pub(super) fn get(&self, offset: u8) -> EntryState {
        if self.done[usize::from(offset) / 64] >> (offset % 64) & 1 == 1 {
            return EntryState::Done;
        }
        match self.outgoing.iter().find(|(at, ..)| *at == offset) {
            Some((_, id, stage)) => EntryState::Outgoing(*id, *stage),
            None => EntryState::Waiting,
        }
    }

    pub(super) fn set(&mut self, offset: u8, state: EntryState) {
        let (word, bit) = (usize::from(offset) / 64, 1 << (offset % 64));
        self.outgoing.retain(|(at, ..)| *at != offset);
        self.done[word] &= !bit;
        match state {
            EntryState::Done => self.done[word] |= bit,
            EntryState::Outgoing(id, stage) => self.outgoing.push((offset, id, stage)),
            EntryState::Waiting => {}
        }
    }

    /// Every entry that can ever be in it is delivered.
    pub(super) fn is_complete(&self) -> bool {
        self.done == [u64::MAX; 4]
    }

    /// Entries not delivered, of `present`.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(33 + 4 * self.outgoing.len());
        bytes.push(VERSION);
        for word in self.done {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        for (offset, id, stage) in &self.outgoing {
            bytes.push(*offset);
            bytes.extend_from_slice(&id.get().to_be_bytes());
            bytes.push(u8::from(*stage == OutgoingStage::Release));
        }
        bytes
    }

    /// What [`Self::encode`] wrote; `None` when it makes no sense.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&VERSION, bytes) = bytes.split_first()? else { return None };
        let (words, rest) = bytes.split_at_checked(32)?;
        let mut done = [0; 4];
        for (word, bytes) in done.iter_mut().zip(words.chunks_exact(8)) {
            *word = u64::from_be_bytes(bytes.try_into().ok()?);
        }
        let outgoing = rest.chunks(4).map(|entry| {
            let &[offset, high, low, stage] = entry else { return None };
            let stage = if stage == 1 { OutgoingStage::Release } else { OutgoingStage::Publish };
            Some((offset, PacketId::new(u16::from_be_bytes([high, low]))?, stage))
        });
        Some(Self { done, outgoing: outgoing.collect::<Option<_>>()? })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_remembers_what_is_delivered_and_what_is_in_flight() {
        let id = PacketId::new(513).unwrap();
        let mut state = BucketState::new(3);
        state.set(200, EntryState::Done);
        state.set(7, EntryState::Outgoing(id, OutgoingStage::Publish));
        state.set(7, EntryState::Outgoing(id, OutgoingStage::Release));
        let back = BucketState::decode(&state.encode()).unwrap();
        assert_eq!(back, state);
        assert_eq!(back.get(200), EntryState::Done);
        assert_eq!(back.get(7), EntryState::Outgoing(id, OutgoingStage::Release));
        assert_eq!(back.get(8), EntryState::Waiting);
        state.set(7, EntryState::Done);
        assert_eq!(state.get(7), EntryState::Done);
        state.set(7, EntryState::Waiting);
        assert_eq!(state.get(7), EntryState::Waiting);
        assert_eq!(BucketState::decode(&[9]), None);
        assert_eq!(BucketState::decode(&state.encode()[..20]), None);
    }

    #[test]
    fn what_came_late_is_hidden_and_nothing_else() {
        let base = Base { timestamp: 100, sequence: 5 };
        assert!(base.hides(6, 99));
        for (sequence, timestamp) in [(5, 99), (6, 100), (6, 101)] {
            assert!(!base.hides(sequence, timestamp), "{sequence} {timestamp}");
        }
    }

    #[test]
    fn a_bucket_is_complete_when_all_its_sequences_are_delivered() {
        for (bucket, first) in [(0, 1_u8), (1, 0)] {
            let mut state = BucketState::new(bucket);
            for offset in first..=255 {
                assert!(!state.is_complete());
                state.set(offset, EntryState::Done);
            }
            assert!(state.is_complete());
        }
    }
}
