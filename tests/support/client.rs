//! A raw MQTT client: one blocking socket, every packet by hand, right or wrong on purpose.
//!
//! Packets that a call does not wait for are kept in their order and come at the next `recv`.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use hydrant_protocol::topic::TopicFilter;
use hydrant_protocol::wire::{self, Limits};
use hydrant_protocol::{PacketId, QoS};

use super::SOON;

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

    /// In seconds.
    pub fn keep_alive(mut self, seconds: u16) -> Self {
        self.0.keep_alive = seconds;
        self
    }

    /// A Last Will.
    pub fn will(mut self, topic: &str, payload: &str, qos: u8, retain: bool) -> Self {
        self.0.will = Some(wire::Will {
            topic: topic.into(),
            payload: payload.as_bytes().to_vec().into(),
            qos: level(qos),
            retain,
        });
        self
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        wire::put_connect(&mut out, &self.0);
        out
    }
}

fn level(qos: u8) -> QoS {
    QoS::from_bits(qos).expect("QoS 0 to 2")
}

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

/// PUBLISH.
pub fn publish(topic: &str, payload: &[u8], qos: u8, retain: bool, dup: bool, id: u16) -> Vec<u8> {
    let mut out = Vec::new();
    wire::put_publish(&mut out, topic, payload, level(qos), dup, retain, PacketId::new(id));
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

/// One socket.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    kept: VecDeque<Packet>,
    next_id: u16,
}

impl Client {
    /// A socket without CONNECT.
    #[track_caller]
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("connect");
        Self::over(stream)
    }

    /// Over a socket that is connected.
    pub fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.set_write_timeout(Some(2 * SOON)).expect("a time-out");
        Self { stream, buffer: Vec::new(), kept: VecDeque::new(), next_id: 0 }
    }

    /// Connects; the CONNACK has to accept.
    #[track_caller]
    pub fn connect(address: SocketAddr, connect: &Connect) -> Self {
        Self::connect_present(address, connect).0
    }

    /// The same with Session Present.
    #[track_caller]
    pub fn connect_present(address: SocketAddr, connect: &Connect) -> (Self, bool) {
        let mut client = Self::open(address);
        client.send(&connect.bytes());
        match client.recv() {
            Packet::Connack { present, code: 0 } => (client, present),
            other => panic!("{other:?} instead of a CONNACK that accepts"),
        }
    }

    /// Raw bytes.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("send");
    }

    /// Raw bytes to a peer that may have closed.
    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Closes the sending half.
    pub fn half_close(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// A packet id not used for the last 65,000.
    pub fn id(&mut self) -> u16 {
        self.next_id = self.next_id % 65_000 + 1;
        self.next_id
    }

    /// The next packet.
    #[track_caller]
    pub fn recv(&mut self) -> Packet {
        match self.recv_within(SOON) {
            Ok(Some(packet)) => packet,
            Ok(None) => panic!("no packet in {SOON:?}"),
            Err(error) => panic!("the connection ended instead of a packet: {error}"),
        }
    }

    /// The next packet; `None` when none came in time, an error at the end of the connection.
    pub fn recv_within(&mut self, patience: Duration) -> std::io::Result<Option<Packet>> {
        if let Some(packet) = self.kept.pop_front() {
            return Ok(Some(packet));
        }
        self.read_packet(Instant::now() + patience)
    }

    /// Reads what has come without waiting; packets kept so far are not looked at.
    fn read_packet(&mut self, end: Instant) -> std::io::Result<Option<Packet>> {
        loop {
            if let Some((packet, len)) = parse(&self.buffer) {
                self.buffer.drain(..len);
                return Ok(Some(packet));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let mut chunk = [0u8; 16 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The next packet has to be this one.
    #[track_caller]
    pub fn expect(&mut self, packet: Packet) {
        assert_eq!(self.recv(), packet);
    }

    /// Waits for this packet; others that come before it are kept.
    #[track_caller]
    pub fn wait_for(&mut self, wanted: &Packet) {
        if let Some(at) = self.kept.iter().position(|kept| kept == wanted) {
            self.kept.remove(at);
            return;
        }
        let end = Instant::now() + SOON;
        loop {
            match self.read_packet(end) {
                Ok(Some(packet)) if packet == *wanted => return,
                Ok(Some(packet)) => self.kept.push_back(packet),
                Ok(None) => panic!("no {wanted:?} in {SOON:?}; came: {:?}", self.kept),
                Err(error) => panic!("{error} instead of {wanted:?}; came: {:?}", self.kept),
            }
        }
    }

    /// The connection has to end, without one more byte.
    #[track_caller]
    pub fn expect_closed(&mut self) {
        match self.recv_within(SOON) {
            Err(_) if self.buffer.is_empty() => {}
            Err(error) => panic!("{error} after {:02x?}", self.buffer),
            Ok(None) => panic!("the connection is still open after {SOON:?}"),
            Ok(Some(packet)) => panic!("{packet:?} instead of the connection's end"),
        }
    }

    /// The connection has to end; what comes before does not matter.
    #[track_caller]
    pub fn expect_end(&mut self) {
        loop {
            match self.recv_within(SOON) {
                Err(_) => return,
                Ok(Some(_)) => {}
                Ok(None) => panic!("the connection is still open after {SOON:?}"),
            }
        }
    }

    /// The next packet has to be a PUBLISH; it is not acknowledged.
    #[track_caller]
    pub fn publish_in(&mut self) -> Pub {
        match self.recv() {
            Packet::Publish(publish) => publish,
            other => panic!("{other:?} instead of a PUBLISH"),
        }
    }

    /// The next packet has to be a PUBLISH; it is acknowledged to the end.
    #[track_caller]
    pub fn take(&mut self) -> Pub {
        let publish = self.publish_in();
        self.acknowledge(&publish);
        publish
    }

    /// PUBACK, or PUBREC and PUBCOMP.
    #[track_caller]
    pub fn acknowledge(&mut self, publish: &Pub) {
        match publish.qos {
            0 => {}
            1 => self.puback(publish.id),
            _ => {
                self.pubrec(publish.id);
                self.wait_for(&Packet::Pubrel(publish.id));
                self.pubcomp(publish.id);
            }
        }
    }

    /// PUBACK.
    #[track_caller]
    pub fn puback(&mut self, id: u16) {
        self.send(&packet(0x40, &id.to_be_bytes()));
    }

    /// PUBREC.
    #[track_caller]
    pub fn pubrec(&mut self, id: u16) {
        self.send(&packet(0x50, &id.to_be_bytes()));
    }

    /// PUBREL.
    #[track_caller]
    pub fn pubrel(&mut self, id: u16) {
        self.send(&packet(0x62, &id.to_be_bytes()));
    }

    /// PUBCOMP.
    #[track_caller]
    pub fn pubcomp(&mut self, id: u16) {
        self.send(&packet(0x70, &id.to_be_bytes()));
    }

    /// Publishes and waits for the last acknowledgement of its QoS.
    #[track_caller]
    pub fn publish(&mut self, topic: &str, payload: impl AsRef<[u8]>, qos: u8) {
        self.publish_with(topic, payload, qos, false);
    }

    /// The same with RETAIN.
    #[track_caller]
    pub fn retain(&mut self, topic: &str, payload: impl AsRef<[u8]>, qos: u8) {
        self.publish_with(topic, payload, qos, true);
    }

    #[track_caller]
    fn publish_with(&mut self, topic: &str, payload: impl AsRef<[u8]>, qos: u8, retain: bool) {
        let id = if qos > 0 { self.id() } else { 0 };
        self.send(&publish(topic, payload.as_ref(), qos, retain, false, id));
        match qos {
            0 => {}
            1 => self.wait_for(&Packet::Puback(id)),
            _ => {
                self.wait_for(&Packet::Pubrec(id));
                self.pubrel(id);
                self.wait_for(&Packet::Pubcomp(id));
            }
        }
    }

    /// Subscribes; the SUBACK has to grant what is asked for.
    #[track_caller]
    pub fn subscribe(&mut self, filter: &str, qos: u8) {
        let id = self.id();
        self.send(&subscribe(id, &[(filter, qos)]));
        self.wait_for(&Packet::Suback(id, vec![qos]));
    }

    /// Unsubscribes.
    #[track_caller]
    pub fn unsubscribe(&mut self, filter: &str) {
        let id = self.id();
        self.send(&unsubscribe(id, &[filter]));
        self.wait_for(&Packet::Unsuback(id));
    }

    /// PINGREQ and its answer: everything sent before has been read.
    #[track_caller]
    pub fn ping(&mut self) {
        self.send(&[0xc0, 0]);
        self.wait_for(&Packet::Pingresp);
    }

    /// DISCONNECT, and waits for the end of the connection.
    #[track_caller]
    pub fn disconnect(mut self) {
        self.send(&[0xe0, 0]);
        self.expect_end();
    }
}

/// The first packet and its length, if it is whole.
fn parse(bytes: &[u8]) -> Option<(Packet, usize)> {
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
