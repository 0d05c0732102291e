//! An MQTT 3.1.1 client of few words.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::DEADLINE;

pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    pub session_present: bool,
    next: u16,
    unacknowledged: usize,
    received: Vec<Vec<u8>>,
    /// Packet ids of QoS 2 messages that were received and not released.
    receipts: BTreeSet<u16>,
    /// QoS 2 messages that were sent, by packet id; `None`: PUBREC has come.
    in_flight: BTreeMap<u16, Option<(String, Vec<u8>)>>,
    closed: bool,
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

impl Client {
    pub fn connect(address: SocketAddr, client: &str, clean: bool) -> Self {
        Self::open(address, client, u8::from(clean) << 1, None)
    }

    pub fn connect_with_will(address: SocketAddr, client: &str, topic: &str, will: &[u8]) -> Self {
        Self::connect_with_will_at(address, client, (topic, will), 1)
    }

    pub fn connect_with_will_at(
        address: SocketAddr,
        client: &str,
        will: (&str, &[u8]),
        qos: u8,
    ) -> Self {
        Self::open(address, client, 2 | 4 | qos << 3, Some(will))
    }

    /// Its CONNECT is out; nobody waits for the answer.
    pub fn knock(address: SocketAddr, client: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).unwrap();
        let mut packet =
            vec![0x10, 12 + client.len() as u8, 0, 4, b'M', b'Q', b'T', b'T', 4, 0, 0, 0];
        text(&mut packet, client);
        stream.write_all(&packet).unwrap();
        stream
    }

    fn open(address: SocketAddr, client: &str, flags: u8, will: Option<(&str, &[u8])>) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client_ = Self {
            stream,
            buffer: Vec::new(),
            session_present: false,
            next: 1,
            unacknowledged: 0,
            received: Vec::new(),
            receipts: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            closed: false,
        };
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, flags, 0, 0];
        text(&mut body, client);
        if let Some((topic, payload)) = will {
            text(&mut body, topic);
            body.extend_from_slice(&(payload.len() as u16).to_be_bytes());
            body.extend_from_slice(payload);
        }
        client_.send(0x10, &body);
        let (first, body) = client_.packet(DEADLINE).expect("CONNACK");
        assert_eq!((first, body[1]), (0x20, 0));
        client_.session_present = body[0] == 1;
        client_
    }

    fn send(&mut self, first: u8, body: &[u8]) {
        let mut out = vec![first];
        let mut len = body.len();
        loop {
            let byte = (len % 128) as u8;
            len /= 128;
            out.push(if len > 0 { byte | 128 } else { byte });
            if len == 0 {
                break;
            }
        }
        out.extend_from_slice(body);
        let _ = self.stream.write_all(&out);
    }

    /// The next whole packet.
    fn packet(&mut self, wait: Duration) -> Option<(u8, Vec<u8>)> {
        let deadline = Instant::now() + wait;
        loop {
            if let Some(packet) = self.split() {
                return Some(packet);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.closed {
                return None;
            }
            self.stream.set_read_timeout(Some(left)).unwrap();
            let mut chunk = [0; 65536];
            match self.stream.read(&mut chunk) {
                Ok(0) => self.closed = true,
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
                Err(error) => {
                    use std::io::ErrorKind::{TimedOut, WouldBlock};
                    self.closed |= !matches!(error.kind(), TimedOut | WouldBlock);
                }
            }
        }
    }

    fn split(&mut self) -> Option<(u8, Vec<u8>)> {
        let (mut len, mut at) = (0, 1);
        loop {
            let byte = *self.buffer.get(at)?;
            len |= usize::from(byte & 127) << (7 * (at - 1));
            at += 1;
            if byte < 128 {
                break;
            }
        }
        if self.buffer.len() < at + len {
            return None;
        }
        let first = self.buffer[0];
        let body = self.buffer[at..at + len].to_vec();
        self.buffer.drain(..at + len);
        Some((first, body))
    }

    /// Handles one packet; false: none came.
    fn step(&mut self, wait: Duration) -> bool {
        let Some((first, body)) = self.packet(wait) else { return false };
        match first >> 4 {
            3 => {
                let qos = first >> 1 & 3;
                let topic = usize::from(u16::from_be_bytes([body[0], body[1]])) + 2;
                let payload = if qos > 0 { &body[topic + 2..] } else { &body[topic..] };
                let id = u16::from_be_bytes([body[topic], body[topic + 1]]);
                if qos != 2 || self.receipts.insert(id) {
                    self.received.push(payload.to_vec());
                }
                if qos > 0 {
                    let answer = if qos == 1 { 0x40 } else { 0x50 };
                    self.send(answer, &body[topic..topic + 2]);
                }
            }
            4 => self.unacknowledged -= 1,
            5 => {
                self.in_flight.insert(u16::from_be_bytes([body[0], body[1]]), None);
                self.send(0x62, &body);
            }
            7 => {
                self.in_flight.remove(&u16::from_be_bytes([body[0], body[1]]));
                self.unacknowledged -= 1;
            }
            6 => {
                self.receipts.remove(&u16::from_be_bytes([body[0], body[1]]));
                self.send(0x70, &body);
            }
            _ => {}
        }
        true
    }

    /// Goes on with the session of an earlier connection: sends again what was not acknowledged.
    pub fn goes_on(mut self, before: Self) -> Self {
        self.receipts = before.receipts;
        self.received = before.received;
        self.next = before.next;
        for (id, message) in before.in_flight {
            self.unacknowledged += 1;
            match &message {
                Some((topic, payload)) => self.put_under(id, topic, payload, 0x08 | 4),
                None => self.send(0x62, &id.to_be_bytes()),
            }
            self.in_flight.insert(id, message);
        }
        self
    }

    /// Reads until so many QoS 2 messages have their PUBREC.
    pub fn await_receipts(&mut self, count: usize) {
        let mut seen = 0;
        while seen < count {
            let Some((first, body)) = self.packet(DEADLINE) else { panic!("PUBREC") };
            if first >> 4 == 5 {
                self.in_flight.insert(u16::from_be_bytes([body[0], body[1]]), None);
                seen += 1;
            }
        }
    }

    pub fn subscribe(&mut self, filter: &str, qos: u8) {
        let mut body = vec![0, 9];
        text(&mut body, filter);
        body.push(qos);
        self.send(0x82, &body);
        loop {
            let (first, body) = self.packet(DEADLINE).expect("SUBACK");
            if first == 0x90 {
                return assert_eq!(body[2], qos);
            }
        }
    }

    /// Does not wait for its UNSUBACK.
    pub fn send_unsubscribe(&mut self, filter: &str) {
        let mut body = vec![0, 8];
        text(&mut body, filter);
        self.send(0xA2, &body);
    }

    pub fn send_publish(&mut self, topic: &str, payload: &[u8], qos: u8) {
        self.put(topic, payload, qos << 1);
    }

    fn put(&mut self, topic: &str, payload: &[u8], flags: u8) {
        let id = self.next;
        if flags & 6 != 0 {
            self.next += 1;
            self.unacknowledged += 1;
        }
        if flags & 6 == 4 {
            self.in_flight.insert(id, Some((topic.to_owned(), payload.to_vec())));
        }
        self.put_under(id, topic, payload, flags);
    }

    fn put_under(&mut self, id: u16, topic: &str, payload: &[u8], flags: u8) {
        let mut body = Vec::new();
        text(&mut body, topic);
        if flags & 6 != 0 {
            body.extend_from_slice(&id.to_be_bytes());
        }
        body.extend_from_slice(payload);
        self.send(0x30 | flags, &body);
    }

    /// With its acknowledgement.
    pub fn publish(&mut self, topic: &str, payload: &[u8], qos: u8) {
        self.send_publish(topic, payload, qos);
        self.await_acks();
    }

    pub fn retain(&mut self, topic: &str, payload: &[u8]) {
        self.put(topic, payload, 2 | 1);
        self.await_acks();
    }

    /// Does not wait for its acknowledgement.
    pub fn retain_at(&mut self, topic: &str, payload: &[u8], qos: u8) {
        self.put(topic, payload, qos << 1 | 1);
    }

    pub fn retain_at_most_once(&mut self, topic: &str, payload: &[u8]) {
        self.put(topic, payload, 1);
    }

    pub fn await_acks(&mut self) {
        while self.unacknowledged > 0 {
            assert!(self.step(DEADLINE), "an acknowledgement");
        }
    }

    /// Publishes that are not acknowledged, of what has come so far.
    pub fn waiting(&mut self) -> usize {
        while self.step(Duration::from_millis(20)) {}
        self.unacknowledged
    }

    /// Payloads of the next publishes, in order.
    pub fn receive(&mut self, count: usize) -> Vec<Vec<u8>> {
        while self.received.len() < count {
            assert!(self.step(DEADLINE), "{count} messages; {} came", self.received.len());
        }
        std::mem::take(&mut self.received)
    }

    /// What has come and was not received.
    pub fn drain(&mut self) -> Vec<Vec<u8>> {
        while self.step(Duration::from_millis(20)) {}
        std::mem::take(&mut self.received)
    }

    /// Nothing more comes.
    pub fn is_quiet(&mut self) -> bool {
        while self.step(Duration::from_millis(50)) {}
        self.received.is_empty() && !self.closed
    }

    /// The other end closes within the deadline.
    pub fn ends(mut self) -> bool {
        while self.step(DEADLINE) {}
        self.closed
    }

    pub fn disconnect(mut self) {
        while self.step(Duration::from_millis(20)) {}
        self.send(0xE0, &[]);
        self.ends();
    }
}
