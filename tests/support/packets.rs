//! The packets of the raw client: what it sends, as bytes that are legal or not, and what it reads.

use hydrant_protocol::topic::TopicFilter;
use hydrant_protocol::wire::{self, Limits};
use hydrant_protocol::{PacketId, QoS};

/// A PUBLISH as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pub {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub dup: bool,
    /// 0 with QoS 0.
    pub id: u16,
}

impl Pub {
    /// The payload as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }
}

/// A packet as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    Connack { present: bool, code: u8 },
    Publish(Pub),
    Puback(u16),
    Pubrec(u16),
    Pubrel(u16),
    Pubcomp(u16),
    Suback(u16, Vec<u8>),
    Unsuback(u16),
    Pingresp,
}

/// What a CONNECT says.
#[derive(Debug, Clone)]
pub struct Connect(pub wire::Connect);

impl Connect {
    /// Clean session, no keep-alive.
    pub fn new(id: &str) -> Self {
        Self(wire::Connect {
            version: wire::Version::V311,
            client_id: id.into(),
            clean_session: true,
            keep_alive: 0,
            will: None,
            username: None,
            password: None,
        })
    }

    /// CleanSession = 0.
    pub fn persistent(mut self) -> Self {
        self.0.clean_session = false;
        self
    }

    /// With CleanSession = 1 and with 0.
    pub fn clean_and_persistent(self) -> [Self; 2] {
        [self.clone(), self.persistent()]
    }

    /// In seconds.
    pub fn keep_alive(mut self, seconds: u16) -> Self {
        self.0.keep_alive = seconds;
        self
    }

    /// A Last Will.
    pub fn will(mut self, topic: &str, payload: &str, qos: u8) -> Self {
        self.0.will = Some(wire::Will {
            topic: topic.into(),
            payload: payload.as_bytes().to_vec().into(),
            qos: level(qos),
            retain: false,
        });
        self
    }

    /// A Last Will with RETAIN.
    pub fn retained_will(self, topic: &str, payload: &str, qos: u8) -> Self {
        let mut connect = self.will(topic, payload, qos);
        if let Some(will) = &mut connect.0.will {
            will.retain = true;
        }
        connect
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        wire::put_connect(&mut out, &self.0);
        out
    }
}

/// A PUBLISH that is to be sent; QoS 0 and no flag if not said otherwise.
#[derive(Debug, Clone)]
pub struct Publish<'a, P> {
    topic: &'a str,
    payload: P,
    qos: u8,
    id: u16,
    retain: bool,
    dup: bool,
}

impl<'a, P: AsRef<[u8]>> Publish<'a, P> {
    /// QoS 0, without RETAIN and DUP.
    pub fn new(topic: &'a str, payload: P) -> Self {
        Self { topic, payload, qos: 0, id: 0, retain: false, dup: false }
    }

    /// The QoS; 1 and 2 need an [`id`](Self::id).
    pub fn qos(mut self, qos: u8) -> Self {
        self.qos = qos;
        self
    }

    /// The packet id. At QoS 0 a PUBLISH has none, and this one is left out.
    pub fn id(mut self, id: u16) -> Self {
        self.id = id;
        self
    }

    /// RETAIN.
    pub fn retain(mut self) -> Self {
        self.retain = true;
        self
    }

    /// DUP.
    pub fn dup(mut self) -> Self {
        self.dup = true;
        self
    }

    /// Its bytes.
    ///
    /// # Panics
    /// When a QoS above 0 has no packet id.
    #[track_caller]
    pub fn bytes(&self) -> Vec<u8> {
        let id = (self.qos > 0).then(|| number(self.id));
        let (payload, qos) = (self.payload.as_ref(), level(self.qos));
        let mut out = Vec::new();
        wire::put_publish(&mut out, self.topic, payload, qos, self.dup, self.retain, id);
        out
    }
}

fn level(qos: u8) -> QoS {
    QoS::from_bits(qos).expect("QoS 0 to 2")
}

#[track_caller]
fn number(id: u16) -> PacketId {
    PacketId::new(id).expect("a packet id above 0")
}

/// A packet of this first byte and body.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut left = body.len();
    loop {
        let low = (left & 0x7f) as u8;
        left >>= 7;
        out.push(if left > 0 { low | 0x80 } else { low });
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(body);
    out
}

/// Two bytes of length and the text.
pub fn text(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    let mut out = (bytes.len() as u16).to_be_bytes().to_vec();
    out.extend_from_slice(bytes);
    out
}

/// SUBSCRIBE.
pub fn subscribe(id: u16, filters: &[(&str, u8)]) -> Vec<u8> {
    let filters: Vec<_> = filters.iter().map(|(text, qos)| (filter(text), level(*qos))).collect();
    let mut out = Vec::new();
    wire::put_subscribe(&mut out, number(id), &filters);
    out
}

/// UNSUBSCRIBE.
pub fn unsubscribe(id: u16, filters: &[&str]) -> Vec<u8> {
    let filters: Vec<_> = filters.iter().map(|text| filter(text)).collect();
    let mut out = Vec::new();
    wire::put_unsubscribe(&mut out, number(id), &filters);
    out
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::parse(text, &Limits::PROTOCOL).expect("a legal filter")
}

/// The first packet and its length, if it is whole.
pub(super) fn parse(bytes: &[u8]) -> Option<(Packet, usize)> {
    let first = *bytes.first()?;
    let (mut remaining, mut at) = (0usize, 1);
    loop {
        let byte = *bytes.get(at)?;
        remaining |= usize::from(byte & 0x7f) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let body = bytes.get(at..at + remaining)?;
    let id = || u16::from_be_bytes([body[0], body[1]]);
    let packet = match (first >> 4, first & 0x0f) {
        (2, 0) => {
            assert!(body.len() == 2 && body[0] < 2, "CONNACK {body:02x?}");
            Packet::Connack { present: body[0] == 1, code: body[1] }
        }
        (3, flags) => {
            let qos = flags >> 1 & 3;
            assert!(qos < 3, "PUBLISH with QoS 3");
            let end = 2 + usize::from(id());
            let topic = String::from_utf8(body[2..end].to_vec()).expect("a topic in UTF-8");
            let (id, rest) = match qos {
                0 => (0, &body[end..]),
                _ => (u16::from_be_bytes([body[end], body[end + 1]]), &body[end + 2..]),
            };
            assert_eq!(id == 0, qos == 0, "the packet id of a PUBLISH");
            let (retain, dup) = (flags & 1 != 0, flags & 8 != 0);
            Packet::Publish(Pub { topic, payload: rest.to_vec(), qos, retain, dup, id })
        }
        (4, 0) => Packet::Puback(id()),
        (5, 0) => Packet::Pubrec(id()),
        (6, 2) => Packet::Pubrel(id()),
        (7, 0) => Packet::Pubcomp(id()),
        (9, 0) => Packet::Suback(id(), body[2..].to_vec()),
        (11, 0) => Packet::Unsuback(id()),
        (13, 0) => Packet::Pingresp,
        _ => panic!("a packet that no server sends: {first:02x} {body:02x?}"),
    };
    Some((packet, at + remaining))
}
