//! A raw MQTT client: one blocking socket, every packet by hand, right or wrong on purpose.
//!
//! Packets that a call does not wait for are kept in their order and come at the next `recv`.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::SOON;
use super::packets::parse;
pub use super::packets::{Connect, Packet, Pub, Publish, packet, subscribe, text, unsubscribe};

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

    /// PUBREL; the next packet has to be its PUBCOMP.
    #[track_caller]
    pub fn release(&mut self, id: u16) {
        self.pubrel(id);
        self.expect(Packet::Pubcomp(id));
    }

    /// PUBCOMP.
    #[track_caller]
    pub fn pubcomp(&mut self, id: u16) {
        self.send(&packet(0x70, &id.to_be_bytes()));
    }

    /// Publishes and waits for the last acknowledgement of its QoS.
    #[track_caller]
    pub fn publish(&mut self, topic: &str, payload: impl AsRef<[u8]>, qos: u8) {
        self.publish_to_end(qos, Publish::new(topic, payload));
    }

    /// The same with RETAIN.
    #[track_caller]
    pub fn retain(&mut self, topic: &str, payload: impl AsRef<[u8]>, qos: u8) {
        self.publish_to_end(qos, Publish::new(topic, payload).retain());
    }

    #[track_caller]
    fn publish_to_end(&mut self, qos: u8, publish: Publish<'_, impl AsRef<[u8]>>) {
        let id = if qos > 0 { self.id() } else { 0 };
        self.send(&publish.qos(qos).id(id).bytes());
        self.wait_acknowledged(qos, id);
    }

    /// Sends one of these publishes for each packet id, all at once, and waits for none.
    #[track_caller]
    pub fn burst<'a, P: AsRef<[u8]>>(
        &mut self,
        ids: impl IntoIterator<Item = u16>,
        publish: impl Fn(u16) -> Publish<'a, P>,
    ) {
        let bytes: Vec<u8> = ids.into_iter().flat_map(|id| publish(id).id(id).bytes()).collect();
        self.send(&bytes);
    }

    /// Waits for the last acknowledgement of a publish that was sent.
    #[track_caller]
    pub fn wait_acknowledged(&mut self, qos: u8, id: u16) {
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

    /// The same, as part of how a client is made.
    #[track_caller]
    pub fn subscribed(mut self, filter: &str, qos: u8) -> Self {
        self.subscribe(filter, qos);
        self
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
