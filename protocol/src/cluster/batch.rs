//! A batch of publishes on its way to another node: records without a gap, so that the router of the sender writes
//! into what is sent and that of the receiver reads from it.
//!
//! Bounds: a frame by the link's largest; [`publishes`] checks every length before it uses it.

use crate::QoS;

/// Which subscribers of a worker, or of the node that receives it, a publish is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recipients {
    /// All.
    All,
    /// QoS 2, not stored yet: queues of persistent sessions only.
    Queues,
    /// QoS 2, stored: everybody else.
    Live,
}

/// Tells a QoS 2 publish from every other one, also when another node publishes it again for a lost one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublishId {
    /// The start of a node that has it from its publisher.
    pub incarnation: u64,
    /// The router there.
    pub router: u16,
    /// 1, 2, 3 … in the order of that router.
    pub number: u64,
}

/// What goes with a publish that must not be taken twice; [`super::dedup`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prepared {
    /// Which it is.
    pub id: PublishId,
    /// Every number of its router below this is everywhere.
    pub low_watermark: u64,
    /// The sessions that its incarnation held have it.
    pub queued: bool,
}

/// One publish of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Topic name.
    pub topic: &'a str,
    /// Application message.
    pub payload: &'a [u8],
    /// QoS of the PUBLISH.
    pub qos: QoS,
    /// Its route waits for the store.
    pub durable: bool,
    /// Whom it is for.
    pub recipients: Recipients,
    /// It must not be taken twice.
    pub prepared: Option<Prepared>,
    /// Version of the retained message that live subscribers get with it; 0: none.
    pub shows: u64,
}

/// Bytes before the records of a batch: its number, and the router its publishers are in.
const HEAD: usize = 8 + 2 + 8;
/// Bytes of a record before topic and payload.
const RECORD: usize = 1 + 2 + 4;
/// Bytes of [`Prepared`] between the two.
const PREPARED: usize = 8 + 2 + 8 + 8;
/// Bytes of the version of a retained message behind that.
const SHOWS: usize = 8;
/// Bits of a record's first byte beside QoS and recipients.
const DURABLE: u8 = 1 << 2;
const IS_PREPARED: u8 = 1 << 5;
const IS_QUEUED: u8 = 1 << 6;
const SHOWS_RETAINED: u8 = 1 << 7;

/// Begins a batch in an empty buffer. `batch` 0: nobody waits for it. Batches of one `router` are
/// routed in order. `orphan` is 0, or a lost incarnation: only sessions that were held by it get this.
pub fn begin(out: &mut Vec<u8>, batch: u64, router: u16, orphan: u64) {
    out.clear();
    out.extend_from_slice(&batch.to_le_bytes());
    out.extend_from_slice(&router.to_le_bytes());
    out.extend_from_slice(&orphan.to_le_bytes());
}

/// Sets the head of a batch that was begun.
pub fn set_head(out: &mut [u8], batch: u64, orphan: u64) {
    if out.len() >= HEAD {
        out[..8].copy_from_slice(&batch.to_le_bytes());
        out[10..HEAD].copy_from_slice(&orphan.to_le_bytes());
    }
}

/// Appends a publish to a batch. A topic is at most 65,535 bytes, a payload less than 4 GiB, by the
/// wire format of MQTT.
pub fn append(out: &mut Vec<u8>, publish: &Publish<'_>) {
    let recipients = match publish.recipients {
        Recipients::All => 0,
        Recipients::Queues => 1,
        Recipients::Live => 2,
    };
    let durable = if publish.durable { DURABLE } else { 0 };
    let prepared = publish
        .prepared
        .map_or(0, |prepared| IS_PREPARED | if prepared.queued { IS_QUEUED } else { 0 });
    let shows = if publish.shows == 0 { 0 } else { SHOWS_RETAINED };
    out.push(publish.qos as u8 | durable | recipients << 3 | prepared | shows);
    #[allow(clippy::cast_possible_truncation)]
    {
        out.extend_from_slice(&(publish.topic.len() as u16).to_le_bytes());
        out.extend_from_slice(&(publish.payload.len() as u32).to_le_bytes());
    }
    if let Some(Prepared { id, low_watermark, .. }) = publish.prepared {
        out.extend_from_slice(&id.incarnation.to_le_bytes());
        out.extend_from_slice(&id.router.to_le_bytes());
        out.extend_from_slice(&id.number.to_le_bytes());
        out.extend_from_slice(&low_watermark.to_le_bytes());
    }
    if publish.shows != 0 {
        out.extend_from_slice(&publish.shows.to_le_bytes());
    }
    out.extend_from_slice(publish.topic.as_bytes());
    out.extend_from_slice(publish.payload);
}

/// Number, router and orphaned state of a batch, and its publishes; `None`: too short to be one.
pub fn publishes(body: &[u8]) -> Option<(u64, u16, u64, Publishes<'_>)> {
    let (head, records) = body.split_at_checked(HEAD)?;
    let number = u64::from_le_bytes(head[..8].try_into().ok()?);
    let router = u16::from_le_bytes(head[8..10].try_into().ok()?);
    let orphan = u64::from_le_bytes(head[10..].try_into().ok()?);
    Some((number, router, orphan, Publishes { rest: records }))
}

/// The publishes of a batch, in order; ends early at a record that is cut off or not one.
#[derive(Debug, Clone, Default)]
pub struct Publishes<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Publishes<'a> {
    type Item = Publish<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let (head, rest) = self.rest.split_at_checked(RECORD)?;
        let topic_len = usize::from(u16::from_le_bytes([head[1], head[2]]));
        let payload_len = u32::from_le_bytes([head[3], head[4], head[5], head[6]]) as usize;
        let (prepared, rest) = match head[0] & IS_PREPARED {
            0 => (None, rest),
            _ => {
                let (prepared, rest) = rest.split_at_checked(PREPARED)?;
                (Some(read_prepared(prepared, head[0] & IS_QUEUED != 0)?), rest)
            }
        };
        let (shows, rest) = match head[0] & SHOWS_RETAINED {
            0 => (0, rest),
            _ => {
                let (shows, rest) = rest.split_at_checked(SHOWS)?;
                (u64::from_le_bytes(shows.try_into().ok()?), rest)
            }
        };
        let (topic, rest) = rest.split_at_checked(topic_len)?;
        let (payload, rest) = rest.split_at_checked(payload_len)?;
        self.rest = rest;
        let qos = match head[0] & 3 {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            2 => QoS::ExactlyOnce,
            _ => return None,
        };
        let recipients = match (head[0] & !(IS_PREPARED | IS_QUEUED | SHOWS_RETAINED)) >> 3 {
            0 => Recipients::All,
            1 => Recipients::Queues,
            2 => Recipients::Live,
            _ => return None,
        };
        let topic = std::str::from_utf8(topic).ok()?;
        let durable = head[0] & DURABLE != 0;
        Some(Publish { topic, payload, qos, durable, recipients, prepared, shows })
    }
}

fn read_prepared(bytes: &[u8], queued: bool) -> Option<Prepared> {
    let (incarnation, rest) = bytes.split_first_chunk()?;
    let (router, rest) = rest.split_first_chunk()?;
    let (number, rest) = rest.split_first_chunk()?;
    let (low_watermark, _) = rest.split_first_chunk()?;
    let id = PublishId {
        incarnation: u64::from_le_bytes(*incarnation),
        router: u16::from_le_bytes(*router),
        number: u64::from_le_bytes(*number),
    };
    Some(Prepared { id, low_watermark: u64::from_le_bytes(*low_watermark), queued })
}
