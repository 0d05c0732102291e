//! Devices that publish numbered messages through failures, and a subscriber that checks what
//! comes: nothing acknowledged is missing, first occurrences of each device are in order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::client::{Client, Connect, Packet, Publish, packet, subscribe};
use super::{eventually, unique};

/// Publishes of one device that may be unacknowledged.
const WINDOW: u64 = 50;

/// How often somebody who waits for a packet looks whether to do something else.
const LOOK: Duration = Duration::from_millis(100);

/// After a mistake, what comes later is waited for until nothing came for so long.
const QUIET: Duration = Duration::from_secs(2);

/// How long an acknowledgement may take, the outage in between included.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Where the node is; it may come back at another address.
#[derive(Clone)]
struct Place(Arc<Mutex<SocketAddr>>);

impl Place {
    fn get(&self) -> SocketAddr {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, address: SocketAddr) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = address;
    }

    /// A connection, tried until there is one.
    fn connect(&self, connect: &Connect) -> Client {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Ok(stream) = TcpStream::connect(self.get()) {
                let mut client = Client::over(stream);
                if client.try_send(&connect.bytes()).is_ok()
                    && matches!(
                        client.recv_within(PATIENCE),
                        Ok(Some(Packet::Connack { code: 0, .. }))
                    )
                {
                    return client;
                }
            }
            assert!(Instant::now() < end, "no connection in {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Devices that publish `kind/KEY/load` with the sequences 0, 1, 2 … until stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    /// How often the devices were told to leave.
    left: Arc<AtomicU64>,
    place: Place,
    acknowledged: Arc<AtomicU64>,
    devices: Vec<JoinHandle<u64>>,
    kind: String,
}

impl Load {
    /// Devices whose connection must not end.
    pub fn start(address: SocketAddr, kind: &str, devices: usize, qos: u8) -> Self {
        Self::begin(address, kind, devices, qos, AtEnd::Fail)
    }

    /// Devices that connect again when their connection ends, and go on with what was not
    /// acknowledged.
    pub fn start_stubborn(address: SocketAddr, kind: &str, devices: usize, qos: u8) -> Self {
        Self::begin(address, kind, devices, qos, AtEnd::Reconnect)
    }

    fn begin(address: SocketAddr, kind: &str, devices: usize, qos: u8, at_end: AtEnd) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let place = Place(Arc::new(Mutex::new(address)));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let left = Arc::new(AtomicU64::new(0));
        let devices = (0..devices)
            .map(|key| {
                let (stop, place) = (Arc::clone(&stop), place.clone());
                let device = Device {
                    topic: format!("{kind}/{key}/load"),
                    qos,
                    at_end,
                    acknowledged: 0,
                    released: BTreeSet::new(),
                    total: Arc::clone(&acknowledged),
                    left: Arc::clone(&left),
                };
                std::thread::spawn(move || device.run(&place, &stop))
            })
            .collect();
        Self { stop, left, place, acknowledged, devices, kind: kind.to_owned() }
    }

    /// The node is at this address from here on.
    pub fn move_to(&self, address: SocketAddr) {
        self.place.set(address);
    }

    /// The devices, stubborn ones, give up their connections and connect at this address.
    pub fn leave(&self, address: SocketAddr) {
        self.move_to(address);
        self.left.fetch_add(1, Ordering::SeqCst);
    }

    /// Publishes acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Waits until so many more are acknowledged.
    #[track_caller]
    pub fn goes_on(&self, more: u64) {
        let before = self.acknowledged();
        eventually(PATIENCE, "publishes are acknowledged", || self.acknowledged() >= before + more);
    }

    /// Stops publishing and waits for every outstanding acknowledgement: how many each key has.
    pub fn finish(self) -> BTreeMap<String, u64> {
        self.stop.store(true, Ordering::SeqCst);
        let devices = self.devices.into_iter().enumerate();
        devices.map(|(key, device)| (key.to_string(), device.join().expect("a device"))).collect()
    }

    /// The Kafka topic of the load.
    pub fn topic(&self) -> String {
        format!("{}-load", self.kind)
    }
}

/// What a device does when its connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AtEnd {
    Fail,
    Reconnect,
}

struct Device {
    topic: String,
    qos: u8,
    at_end: AtEnd,
    acknowledged: u64,
    /// QoS 2: sequences whose PUBREC came. They are never published again ([MQTT-4.3.3-1]).
    released: BTreeSet<u64>,
    total: Arc<AtomicU64>,
    left: Arc<AtomicU64>,
}

impl Device {
    fn run(mut self, place: &Place, stop: &AtomicBool) -> u64 {
        // At QoS 2 with a session, whose receipts the node has to keep.
        let connect = Connect::new(&unique("device"));
        let connect = if self.qos == 2 { connect.persistent() } else { connect };
        let mut sent = 0;
        loop {
            let left = self.left.load(Ordering::SeqCst);
            let mut client = place.connect(&connect);
            match self.publish(&mut client, &mut sent, stop, left) {
                Ok(()) => return self.acknowledged,
                Err(error) if self.at_end == AtEnd::Reconnect => {
                    assert!(error.kind() != std::io::ErrorKind::TimedOut, "{error}");
                }
                Err(error) => panic!("{}: the connection ended: {error}", self.topic),
            }
        }
    }

    /// Until stopped and all of `sent` is acknowledged; sends again what is not.
    fn publish(
        &mut self,
        client: &mut Client,
        sent: &mut u64,
        stop: &AtomicBool,
        left: u64,
    ) -> std::io::Result<()> {
        let mut next = self.acknowledged;
        loop {
            let stopping = stop.load(Ordering::SeqCst);
            if stopping && self.acknowledged >= *sent {
                return Ok(());
            }
            while next < self.acknowledged + WINDOW && (!stopping || next < *sent) {
                let id = id(next);
                let payload = next.to_string();
                let again = next < *sent;
                let bytes = if self.released.contains(&next) {
                    packet(0x62, &id.to_be_bytes())
                } else {
                    let publish = Publish::new(&self.topic, payload).qos(self.qos).id(id);
                    if again { publish.dup().bytes() } else { publish.bytes() }
                };
                client.try_send(&bytes)?;
                next += 1;
                *sent = next.max(*sent);
            }
            match self.next(client, left)? {
                Packet::Puback(_) | Packet::Pubcomp(_) => {
                    self.released.remove(&self.acknowledged);
                    self.acknowledged += 1;
                    self.total.fetch_add(1, Ordering::SeqCst);
                }
                Packet::Pubrec(received) => {
                    let sequences = self.acknowledged..next;
                    self.released.extend(sequences.into_iter().find(|n| id(*n) == received));
                    client.try_send(&packet(0x62, &received.to_be_bytes()))?;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// The next packet; none of a connection that the device was told to leave.
    fn next(&self, client: &mut Client, left: u64) -> std::io::Result<Packet> {
        let end = Instant::now() + PATIENCE;
        while self.left.load(Ordering::SeqCst) == left {
            if let Some(packet) = client.recv_within(LOOK)? {
                return Ok(packet);
            }
            if Instant::now() > end {
                return Err(std::io::ErrorKind::TimedOut.into());
            }
        }
        Err(std::io::ErrorKind::ConnectionAborted.into())
    }
}

/// The packet id of a sequence; a window has each once.
fn id(sequence: u64) -> u16 {
    (sequence % 60_000 + 1) as u16
}

/// What a subscriber of the load has seen.
#[derive(Debug, Default)]
pub struct Seen {
    next: BTreeMap<String, u64>,
    /// Sequences that came too early.
    early: BTreeMap<String, BTreeSet<u64>>,
    last: Option<Instant>,
    repeated: u64,
    mistakes: Vec<String>,
}

impl Seen {
    /// One more message of a key.
    pub fn take(&mut self, key: &str, sequence: u64) {
        self.last = Some(Instant::now());
        let next = self.next.entry(key.to_owned()).or_default();
        if sequence < *next {
            self.repeated += 1;
        } else if sequence == *next {
            *next += 1;
            // What came too early has its turn.
            let early = self.early.entry(key.to_owned()).or_default();
            while early.remove(next) {
                *next += 1;
            }
        } else {
            self.early.entry(key.to_owned()).or_default().insert(sequence);
            // One says it; a hole makes one of every message behind it.
            if self.mistakes.len() < 5 {
                self.mistakes.push(format!("key {key}: {sequence} came before {next}"));
            }
        }
    }

    /// So many messages of a key have come without a gap.
    pub fn next(&self, key: &str) -> u64 {
        self.next.get(key).copied().unwrap_or(0)
    }

    /// Whether everything acknowledged came.
    pub fn has(&self, acknowledged: &BTreeMap<String, u64>) -> bool {
        acknowledged.iter().all(|(key, count)| self.next.get(key).is_some_and(|next| next >= count))
            || !self.mistakes.is_empty() && self.last.is_some_and(|last| last.elapsed() > QUIET)
    }

    /// Everything acknowledged came, in order; how many came again.
    ///
    /// # Panics
    /// When not.
    #[track_caller]
    pub fn check(&self, acknowledged: &BTreeMap<String, u64>) -> u64 {
        assert!(
            self.mistakes.is_empty(),
            "{:?}, acknowledged {acknowledged:?}, all up to {:?}, then {:?}, {} repeated",
            self.mistakes,
            self.next,
            self.early
                .values()
                .map(|early| (early.first(), early.last(), early.len()))
                .collect::<Vec<_>>(),
            self.repeated
        );
        assert!(self.has(acknowledged), "acknowledged {acknowledged:?}, came {:?}", self.next);
        self.repeated
    }
}

/// A persistent session that is subscribed to the load, and connects again when its connection
/// ends.
pub struct Subscriber {
    hop: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    place: Place,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

impl Subscriber {
    /// Subscribed when this returns.
    pub fn start(address: SocketAddr, kind: &str, qos: u8) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let place = Place(Arc::new(Mutex::new(address)));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let hop = Arc::new(AtomicBool::new(false));
        let connect = Connect::new(&unique("subscriber")).persistent();
        let mut client = place.connect(&connect);
        client.send(&subscribe(1, &[(&format!("{kind}/#"), qos)]));
        client.wait_for(&Packet::Suback(1, vec![qos]));
        let thread = {
            let (stop, place, seen) = (Arc::clone(&stop), place.clone(), Arc::clone(&seen));
            let hop = Arc::clone(&hop);
            std::thread::spawn(move || {
                let (mut client, mut held) = (client, BTreeSet::new());
                while !stop.load(Ordering::SeqCst) {
                    if hop.load(Ordering::SeqCst) {
                        client = place.connect(&connect);
                        hop.store(false, Ordering::SeqCst);
                    }
                    if receive(&mut client, &seen, &mut held).is_err() {
                        client = place.connect(&connect);
                    }
                }
            })
        };
        Self { hop, stop, place, seen, thread: Some(thread) }
    }

    /// It connects at this address now, with its old connection still open.
    pub fn leave(&self, address: SocketAddr) {
        self.move_to(address);
        self.hop.store(true, Ordering::SeqCst);
    }

    /// The same, and waits until it is in.
    #[track_caller]
    pub fn hop(&self, address: SocketAddr) {
        self.leave(address);
        eventually(PATIENCE, "the subscriber is in", || !self.hop.load(Ordering::SeqCst));
    }

    /// The node is at this address from here on.
    pub fn move_to(&self, address: SocketAddr) {
        self.place.set(address);
    }

    /// Messages that came so far, those that came again not counted.
    pub fn came(&self) -> u64 {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).next.values().sum()
    }

    /// Waits until everything acknowledged came; how many came again.
    #[track_caller]
    pub fn finish(mut self, acknowledged: &BTreeMap<String, u64>) -> u64 {
        let seen = || self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let end = Instant::now() + PATIENCE;
        while !seen().has(acknowledged) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        let repeated = seen().check(acknowledged);
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the subscriber");
        }
        repeated
    }
}

/// One packet at most. `held`: packet ids of QoS 2 that are received and not released.
fn receive(
    client: &mut Client,
    seen: &Mutex<Seen>,
    held: &mut BTreeSet<u16>,
) -> std::io::Result<()> {
    match client.recv_within(LOOK)? {
        Some(Packet::Publish(message)) => {
            let key = message.topic.split('/').nth(1).expect("a key").to_owned();
            let sequence = message.text().parse().expect("a sequence");
            if message.qos < 2 || held.insert(message.id) {
                seen.lock().unwrap_or_else(PoisonError::into_inner).take(&key, sequence);
            }
            let [high, low] = message.id.to_be_bytes();
            let first = if message.qos == 2 { 0x50 } else { 0x40 };
            client.try_send(&[first, 2, high, low])
        }
        Some(Packet::Pubrel(id)) => {
            held.remove(&id);
            let [high, low] = id.to_be_bytes();
            client.try_send(&[0x70, 2, high, low])
        }
        Some(other) => panic!("{other:?}"),
        None => Ok(()),
    }
}
