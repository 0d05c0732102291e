//! Connections that do nothing: what one costs in memory, and in CPU to open.
//!
//! Source addresses are spread over 127.0.0.2 ff., so that neither the ephemeral ports of one
//! address nor those in TIME_WAIT from the cycle before run out.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

use crate::client::success;
use crate::error::Error;
use crate::options::Idle;
use crate::process::Process;
use crate::wire;

/// The first source address.
const SOURCE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Connections from one source address.
const PER_ADDRESS: u32 = 2_000;

/// Report of the idle scenario.
#[derive(Debug, Serialize)]
pub struct Report {
    scenario: &'static str,
    connections: u32,
    subscribed: bool,
    /// Broker's memory before the first connection, KiB.
    rss_before_kb: u64,
    cycles: Vec<Cycle>,
    loadgen_cpu_seconds: f64,
}

/// All connected, then all disconnected.
#[derive(Debug, Serialize)]
struct Cycle {
    /// First connect to last CONNACK (SUBACK).
    seconds: f64,
    connects_per_second: f64,
    /// Broker's CPU time a connect (and subscribe).
    cpu_us_per_connect: f64,
    rss_connected_kb: u64,
    /// Growth since before the first connection, over the connections.
    rss_kb_per_connection: f64,
    rss_disconnected_kb: u64,
    /// Broker's CPU time to take them all away, a connection.
    cpu_us_per_disconnect: f64,
}

/// Runs the scenario.
pub fn run(options: &Idle) -> Result<Report, Error> {
    let broker = Process::new(options.target.pid);
    let own = Process::own().cpu_seconds();
    broker.settle();
    let rss_before_kb = broker.rss_kb();
    let end = Instant::now() + Duration::from_secs(options.target.deadline);
    let mut cycles = Vec::new();
    for number in 0..options.cycles.max(1) {
        let cpu = broker.cpu_seconds();
        let begin = Instant::now();
        let streams = open_all(options, number, end)?;
        let seconds = begin.elapsed().as_secs_f64();
        broker.settle();
        let connected_cpu = broker.cpu_seconds();
        let rss_connected_kb = broker.rss_kb();
        for mut stream in streams {
            let _gone_is_fine = stream.write(&wire::DISCONNECT);
        }
        broker.settle();
        let many = f64::from(options.connections.max(1));
        let per_connect = |seconds: f64| (seconds * 1e7 / many).round() / 10.0;
        let growth = rss_connected_kb.saturating_sub(rss_before_kb) as f64;
        cycles.push(Cycle {
            seconds,
            connects_per_second: (many / seconds).round(),
            cpu_us_per_connect: per_connect(connected_cpu - cpu),
            rss_connected_kb,
            rss_kb_per_connection: (growth / many * 100.0).round() / 100.0,
            rss_disconnected_kb: broker.rss_kb(),
            cpu_us_per_disconnect: per_connect(broker.cpu_seconds() - connected_cpu),
        });
    }
    Ok(Report {
        scenario: "idle",
        connections: options.connections,
        subscribed: options.subscribe,
        rss_before_kb,
        cycles,
        loadgen_cpu_seconds: Process::own().cpu_seconds() - own,
    })
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    Connecting,
    WaitConnack,
    WaitSuback,
    Done,
}

/// Opens all connections, `parallel` of them at a time, and returns when every one is answered.
fn open_all(options: &Idle, cycle: u32, end: Instant) -> Result<Vec<TcpStream>, Error> {
    let total = options.connections as usize;
    let mut poll = Poll::new().map_err(Error::system("cannot make an epoll"))?;
    let mut events = Events::with_capacity(1024);
    let mut streams: Vec<TcpStream> = Vec::with_capacity(total);
    let mut steps: Vec<Step> = Vec::with_capacity(total);
    let mut done = 0;
    let id = |i: usize| format!("{}-i{i}", options.target.client_prefix);
    while done < total {
        while streams.len() < total && streams.len() - done < options.parallel.max(1) as usize {
            let i = streams.len();
            let mut stream = start(options.target.address, SOURCE, i as u32 + cycle * 1_000)?;
            poll.registry()
                .register(&mut stream, Token(i), Interest::READABLE | Interest::WRITABLE)
                .map_err(Error::system("cannot watch a socket"))?;
            streams.push(stream);
            steps.push(Step::Connecting);
        }
        match poll.poll(&mut events, Some(Duration::from_millis(500))) {
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            other => other.map_err(Error::system("epoll failed"))?,
        }
        for event in &events {
            let i = event.token().0;
            let before = steps[i];
            steps[i] = advance(options, &mut streams[i], &id(i), i, before)?;
            if steps[i] == Step::Done && before != Step::Done {
                done += 1;
            }
        }
        if Instant::now() > end {
            let state = format!("{done} of {total} connections are open");
            return Err(Error::Deadline { seconds: options.target.deadline, state });
        }
    }
    Ok(streams)
}

/// Begins to connect; over IPv4 loopback from an address that is `first` or one of those after it.
pub fn start(address: SocketAddr, first: Ipv4Addr, i: u32) -> Result<TcpStream, Error> {
    let connect = |source| Error::Connect { address, source };
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).map_err(connect)?;
    socket.set_nonblocking(true).map_err(connect)?;
    if address.ip().is_loopback() && address.is_ipv4() {
        let source = Ipv4Addr::from_bits(first.to_bits() + i / PER_ADDRESS % 250);
        socket.bind(&SocketAddr::from((source, 0)).into()).map_err(connect)?;
    }
    match socket.connect(&address.into()) {
        Err(e) if e.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
            Err(connect(e))
        }
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

/// Does what the socket is ready for.
fn advance(
    options: &Idle,
    stream: &mut TcpStream,
    id: &str,
    i: usize,
    mut step: Step,
) -> Result<Step, Error> {
    let address = options.target.address;
    let lost = |what: String| Error::Lost { client: id.into(), what };
    if step == Step::Connecting {
        if let Ok(Some(source)) = stream.take_error() {
            return Err(Error::Connect { address, source });
        }
        if stream.peer_addr().is_err() {
            return Ok(step);
        }
        // A fresh socket's buffer takes these few bytes whole.
        stream
            .write_all(&wire::connect(id, options.target.clean, wire::KEEP_ALIVE))
            .map_err(|e| lost(e.to_string()))?;
        step = Step::WaitConnack;
    }
    loop {
        let want = match step {
            Step::WaitConnack => wire::CONNACK,
            Step::WaitSuback => wire::SUBACK,
            Step::Connecting | Step::Done => return Ok(step),
        };
        // CONNACK is 4 bytes, SUBACK to one filter 5; each is sent in one piece.
        let mut buffer = [0u8; 16];
        let length = match stream.read(&mut buffer) {
            Ok(0) => return Err(lost("the broker closed it".into())),
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(step),
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(lost(e.to_string())),
        };
        match wire::cut(&buffer[..length]) {
            Ok(Some((frame, _))) => success(id, frame, want)?,
            _ => {
                let what = format!("{:?}", &buffer[..length]);
                return Err(Error::Protocol { client: id.into(), what });
            }
        }
        step = Step::Done;
        if want == wire::CONNACK && options.subscribe {
            let subscribe = wire::subscribe(&format!("idle/{i}/t"), 1);
            stream.write_all(&subscribe).map_err(|e| lost(e.to_string()))?;
            step = Step::WaitSuback;
        }
    }
}
