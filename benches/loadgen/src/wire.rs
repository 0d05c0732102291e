//! The few MQTT 3.1.1 packets a load generator needs, written to be cheap rather than complete.
//!
//! A PUBLISH is encoded once as a [`Template`]; sending copies it and patches packet id and
//! [`Stamp`]. Incoming bytes are cut into [`Frame`]s in place.

/// Fixed header, first byte: CONNACK.
pub const CONNACK: u8 = 0x20;
/// PUBLISH, without flags.
pub const PUBLISH: u8 = 0x30;
/// PUBACK.
pub const PUBACK: u8 = 0x40;
/// PUBREC.
pub const PUBREC: u8 = 0x50;
/// PUBREL, with its reserved flags.
pub const PUBREL: u8 = 0x62;
/// PUBCOMP.
pub const PUBCOMP: u8 = 0x70;
/// SUBACK.
pub const SUBACK: u8 = 0x90;
/// PINGREQ, whole.
pub const PINGREQ: [u8; 2] = [0xc0, 0];
/// PINGRESP.
pub const PINGRESP: u8 = 0xd0;
/// DISCONNECT, whole.
pub const DISCONNECT: [u8; 2] = [0xe0, 0];

/// Bytes of a [`Stamp`] at the front of every payload.
pub const STAMP_LEN: usize = 20;

/// What a payload says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Number of the publisher.
    pub publisher: u32,
    /// Its messages, from 0 without gaps.
    pub sequence: u64,
    /// When it was sent or due, nanoseconds on the run's clock.
    pub at_ns: u64,
}

impl Stamp {
    fn bytes(self) -> [u8; STAMP_LEN] {
        let mut out = [0; STAMP_LEN];
        out[..4].copy_from_slice(&self.publisher.to_le_bytes());
        out[4..12].copy_from_slice(&self.sequence.to_le_bytes());
        out[12..].copy_from_slice(&self.at_ns.to_le_bytes());
        out
    }

    /// Reads the front of a payload; None when it is too short.
    pub fn read(payload: &[u8]) -> Option<Stamp> {
        let (publisher, rest) = payload.split_first_chunk::<4>()?;
        let (sequence, rest) = rest.split_first_chunk::<8>()?;
        let (at_ns, _) = rest.split_first_chunk::<8>()?;
        Some(Stamp {
            publisher: u32::from_le_bytes(*publisher),
            sequence: u64::from_le_bytes(*sequence),
            at_ns: u64::from_le_bytes(*at_ns),
        })
    }
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut rest = body.len();
    loop {
        let digit = (rest % 128) as u8;
        rest /= 128;
        out.push(if rest > 0 { digit | 0x80 } else { digit });
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(body);
    out
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Keep-alive where nothing else is said, seconds: longer than any run, so that none needs a PINGREQ.
/// (rumqttd refuses 0.)
pub const KEEP_ALIVE: u16 = 7_200;

/// CONNECT without will and credentials; the keep-alive in seconds.
pub fn connect(client_id: &str, clean: bool, keep_alive: u16) -> Vec<u8> {
    let mut body = Vec::new();
    string(&mut body, "MQTT");
    body.extend_from_slice(&[4, if clean { 2 } else { 0 }]);
    body.extend_from_slice(&keep_alive.to_be_bytes());
    string(&mut body, client_id);
    packet(0x10, &body)
}

/// SUBSCRIBE with packet id 1 to one filter.
pub fn subscribe(filter: &str, qos: u8) -> Vec<u8> {
    subscribe_all([filter], qos)
}

/// SUBSCRIBE with packet id 1 to these filters.
pub fn subscribe_all<T: AsRef<str>>(filters: impl IntoIterator<Item = T>, qos: u8) -> Vec<u8> {
    let mut body = vec![0, 1];
    for filter in filters {
        string(&mut body, filter.as_ref());
        body.push(qos);
    }
    packet(0x82, &body)
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
pub fn acknowledge(out: &mut Vec<u8>, first: u8, packet_id: u16) {
    let id = packet_id.to_be_bytes();
    out.extend_from_slice(&[first, 2, id[0], id[1]]);
}

/// A PUBLISH encoded once.
#[derive(Debug, Clone)]
pub struct Template {
    bytes: Vec<u8>,
    /// Where the packet id is, QoS 1-2.
    packet_id_at: Option<usize>,
    payload_at: usize,
}

impl Template {
    /// `payload` bytes, at least [`STAMP_LEN`].
    pub fn new(topic: &str, qos: u8, payload: usize) -> Template {
        let payload = payload.max(STAMP_LEN);
        let mut body = Vec::new();
        string(&mut body, topic);
        if qos > 0 {
            body.extend_from_slice(&[0, 0]);
        }
        let head = body.len();
        // What a device sends is neither constant nor random: readings in a small alphabet.
        body.extend((0..payload).map(|i| b"0123456789.,{}:\"abcdef"[(i * 7) % 22]));
        let total = body.len();
        let bytes = packet(PUBLISH | (qos << 1), &body);
        let start = bytes.len() - total;
        Template {
            packet_id_at: (qos > 0).then_some(start + head - 2),
            payload_at: start + head,
            bytes,
        }
    }

    /// The same with RETAIN.
    pub fn retained(mut self) -> Template {
        self.bytes[0] |= 1;
        self
    }

    /// Appends the packet with this id and stamp.
    pub fn append(&self, out: &mut Vec<u8>, packet_id: u16, stamp: Stamp) {
        let base = out.len();
        out.extend_from_slice(&self.bytes);
        if let Some(at) = self.packet_id_at {
            out[base + at..base + at + 2].copy_from_slice(&packet_id.to_be_bytes());
        }
        let at = base + self.payload_at;
        out[at..at + STAMP_LEN].copy_from_slice(&stamp.bytes());
    }
}

/// One whole packet inside a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// First byte of the fixed header.
    pub first: u8,
    /// Variable header and payload.
    pub body: &'a [u8],
}

/// Cuts the packet at the front of `bytes`: the frame and its length with header. None when more
/// bytes are needed.
///
/// # Errors
/// A Remaining Length of more than four bytes.
pub fn cut(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, &'static str> {
    let mut length = 0usize;
    for digit in 0..4 {
        let Some(&byte) = bytes.get(1 + digit) else {
            return Ok(None);
        };
        length |= usize::from(byte & 0x7f) << (7 * digit);
        if byte & 0x80 == 0 {
            let start = 2 + digit;
            let end = start + length;
            return Ok(bytes.get(start..end).map(|body| (Frame { first: bytes[0], body }, end)));
        }
    }
    Err("a Remaining Length of more than four bytes")
}

impl Frame<'_> {
    /// Packet id of PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK.
    pub fn packet_id(&self) -> Option<u16> {
        Some(u16::from_be_bytes(*self.body.first_chunk::<2>()?))
    }

    /// QoS, packet id (0 at QoS 0) and payload of a PUBLISH.
    pub fn publish(&self) -> Option<(u8, u16, &[u8])> {
        let qos = (self.first >> 1) & 3;
        let topic = usize::from(u16::from_be_bytes(*self.body.first_chunk::<2>()?));
        let rest = self.body.get(2 + topic..)?;
        if qos == 0 {
            return Some((0, 0, rest));
        }
        let (id, payload) = rest.split_first_chunk::<2>()?;
        Some((qos, u16::from_be_bytes(*id), payload))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn connect_is_byte_for_byte_what_the_standard_shows() {
        let bytes = connect("ab", true, KEEP_ALIVE);
        assert_eq!(
            bytes,
            [0x10, 14, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0x1c, 0x20, 0, 2, b'a', b'b']
        );
        assert_eq!(connect("ab", false, KEEP_ALIVE)[9], 0);
    }

    #[test]
    fn subscribe_has_its_reserved_flags() {
        assert_eq!(subscribe("a", 1), [0x82, 6, 0, 1, 0, 1, b'a', 1]);
        let two = [0x82, 10, 0, 1, 0, 1, b'a', 1, 0, 1, b'b', 1];
        assert_eq!(subscribe_all(["a", "b"], 1), two);
    }

    #[test]
    fn a_patched_publish_reads_back() {
        for qos in 0..=2 {
            for size in [20, 64, 200, 20_000] {
                let stamp = Stamp { publisher: 7, sequence: 1 << 40, at_ns: 99 };
                let mut out = vec![0xff];
                Template::new("bench/7/t", qos, size).append(&mut out, 513, stamp);
                let (frame, length) = cut(&out[1..]).unwrap().unwrap();
                assert_eq!(length, out.len() - 1);
                let (got_qos, id, payload) = frame.publish().unwrap();
                assert_eq!((got_qos, id), (qos, if qos > 0 { 513 } else { 0 }));
                assert_eq!(payload.len(), size);
                assert_eq!(Stamp::read(payload).unwrap(), stamp);
            }
        }
    }

    #[test]
    fn incomplete_packets_wait_at_every_byte() {
        let mut out = Vec::new();
        let stamp = Stamp { publisher: 0, sequence: 0, at_ns: 0 };
        Template::new("t", 1, 300).append(&mut out, 1, stamp);
        for end in 0..out.len() {
            assert_eq!(cut(&out[..end]).unwrap(), None);
        }
        assert!(cut(&[0x30, 0xff, 0xff, 0xff, 0xff, 1]).is_err());
    }
}
