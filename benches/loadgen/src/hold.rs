//! Connections that are kept, as devices are: each publishes at an interval at QoS 1, and sends one
//! PINGREQ half-way between.
//!
//! The work is spread evenly over the interval, by the connection's number. It begins with the first
//! connection, so that none runs into its keep-alive while the others are opened. Counts begin when
//! all are open.

use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use serde::Serialize;

use crate::client::success;
use crate::error::Error;
use crate::idle::start;
use crate::options::Hold;
use crate::pace::{Schedule, Timer};
use crate::process::Process;
use crate::report::{Latencies, Percentiles};
use crate::wire::{self, Frame, Stamp, Template};

/// Bytes of a payload.
const PAYLOAD: usize = 64;
/// The only packet id of a connection: it has one publish on its way.
const PACKET_ID: u16 = 1;

/// All connections are open.
#[derive(Debug, Serialize)]
pub struct Open {
    scenario: &'static str,
    connections: usize,
    /// First connect to last CONNACK.
    seconds: f64,
}

/// Report of the hold scenario, from the time all were open.
#[derive(Debug, Serialize)]
pub struct Report {
    scenario: &'static str,
    connections: usize,
    seconds: f64,
    published: u64,
    acknowledged: u64,
    pings: u64,
    ping_responses: u64,
    /// Connections that were open and are no more.
    closed: u64,
    loadgen_cpu_seconds: f64,
    /// From PUBLISH to PUBACK.
    #[serde(flatten)]
    latency: Percentiles,
    /// Broken promises; empty is good.
    pub problems: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Connecting,
    WaitConnack,
    Open,
    Closed,
}

struct Device {
    stream: TcpStream,
    state: State,
    /// When the publish on its way was sent; 0 without one.
    sent_ns: u64,
}

#[derive(Debug, Default)]
struct Counts {
    published: u64,
    acknowledged: u64,
    pings: u64,
    ping_responses: u64,
    /// A publish was due and the one before it not acknowledged.
    late: u64,
    closed: u64,
}

struct Holding<'a> {
    options: &'a Hold,
    devices: Vec<Device>,
    open: usize,
    clock: Instant,
    counts: Counts,
    latencies: Latencies,
    first_loss: Option<String>,
}

/// Opens the connections, tells `opened`, and holds them until standard input ends.
pub fn run(
    options: &Hold,
    opened: impl FnOnce(&Open) -> Result<(), Error>,
) -> Result<Report, Error> {
    let total = options.connections as usize;
    let mut poll = Poll::new().map_err(Error::system("cannot make an epoll"))?;
    let mut events = Events::with_capacity(1024);
    let (timer_token, input_token) = (Token(total), Token(total + 1));
    let timer =
        Timer::new(poll.registry(), timer_token).map_err(Error::system("cannot make a timer"))?;
    poll.registry()
        .register(&mut SourceFd(&0), input_token, Interest::READABLE)
        .map_err(Error::system("standard input must be a pipe"))?;
    let clock = Instant::now();
    let mut all = Holding {
        options,
        devices: Vec::with_capacity(total),
        open: 0,
        clock,
        counts: Counts::default(),
        latencies: Latencies::new(),
        first_loss: None,
    };
    let connects = Schedule::new(0, options.connect_rate);
    // In thousandths, so that few connections over a long interval have a rate too.
    let steps = Schedule::new(0, (2_000 * total as u64 / options.interval).max(1));
    let (mut step, mut opened, mut since, mut own) = (0u64, Some(opened), 0, 0.0);
    let end = Duration::from_secs(options.target.deadline).as_nanos() as u64;
    loop {
        let now = all.now();
        while all.devices.len() < total && connects.due(all.devices.len() as u64) <= now {
            all.connect(poll.registry())?;
        }
        while steps.due(step * 1_000) <= now {
            all.act(step)?;
            step += 1;
        }
        if all.open == total
            && let Some(opened) = opened.take()
        {
            since = all.now();
            own = Process::own().cpu_seconds();
            opened(&Open { scenario: "hold", connections: total, seconds: since as f64 / 1e9 })?;
            all.counts = Counts::default();
            all.latencies = Latencies::new();
        }
        let mut next = steps.due(step * 1_000);
        if all.devices.len() < total {
            next = next.min(connects.due(all.devices.len() as u64));
        }
        timer
            .fire_in(next.saturating_sub(all.now()))
            .map_err(Error::system("cannot set the timer"))?;
        match poll.poll(&mut events, Some(Duration::from_millis(500))) {
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            other => other.map_err(Error::system("epoll failed"))?,
        }
        for event in &events {
            if event.token() == input_token {
                if input_ended()? {
                    return Ok(all.report(since, own));
                }
            } else if event.token() != timer_token {
                all.ready(event.token().0)?;
            }
        }
        if all.now() > end {
            let state = format!("{} of {total} connections are open", all.open);
            return Err(Error::Deadline { seconds: options.target.deadline, state });
        }
    }
}

fn input_ended() -> Result<bool, Error> {
    let got =
        io::stdin().read(&mut [0; 64]).map_err(Error::system("cannot read standard input"))?;
    Ok(got == 0)
}

impl Holding<'_> {
    fn now(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    fn id(&self, i: usize) -> String {
        format!("{}-h{i}", self.options.target.client_prefix)
    }

    fn connect(&mut self, registry: &mio::Registry) -> Result<(), Error> {
        let i = self.devices.len();
        let mut stream = start(self.options.target.address, self.options.source, i as u32)?;
        registry
            .register(&mut stream, Token(i), Interest::READABLE | Interest::WRITABLE)
            .map_err(Error::system("cannot watch a socket"))?;
        self.devices.push(Device { stream, state: State::Connecting, sent_ns: 0 });
        Ok(())
    }

    /// Step `step` of all connections, of which half publish in the first half of an interval, half
    /// ping, and the other way round in the second.
    fn act(&mut self, step: u64) -> Result<(), Error> {
        let total = u64::from(self.options.connections);
        let i = (step % total) as usize;
        let now = self.now();
        let Some(device) = self.devices.get_mut(i).filter(|d| d.state == State::Open) else {
            return Ok(());
        };
        let mut out = Vec::new();
        if !(step / total + i as u64).is_multiple_of(2) {
            out.extend_from_slice(&wire::PINGREQ);
            self.counts.pings += 1;
        } else if device.sent_ns > 0 {
            self.counts.late += 1;
            return Ok(());
        } else {
            device.sent_ns = now;
            let topic = format!("device/{}-{i}/state", self.options.target.client_prefix);
            let stamp = Stamp { publisher: i as u32, sequence: step / total / 2, at_ns: now };
            Template::new(&topic, 1, PAYLOAD).append(&mut out, PACKET_ID, stamp);
            self.counts.published += 1;
        }
        // So few bytes in a minute: its buffer is empty.
        match device.stream.write_all(&out) {
            Err(e) => self.closed(i, &e.to_string()),
            Ok(()) => Ok(()),
        }
    }

    /// A connection that was open is counted; one that never was ends the run.
    fn closed(&mut self, i: usize, what: &str) -> Result<(), Error> {
        let error = Error::Lost { client: self.id(i), what: what.into() };
        match self.devices[i].state {
            State::Closed => {}
            State::Open => {
                self.devices[i].state = State::Closed;
                self.counts.closed += 1;
                self.first_loss.get_or_insert(error.to_string());
            }
            _ => return Err(error),
        }
        Ok(())
    }

    /// Does what the socket is ready for.
    fn ready(&mut self, i: usize) -> Result<(), Error> {
        let address = self.options.target.address;
        let id = self.id(i);
        let device = &mut self.devices[i];
        if device.state == State::Connecting {
            if let Ok(Some(source)) = device.stream.take_error() {
                return Err(Error::Connect { address, source });
            }
            if device.stream.peer_addr().is_err() {
                return Ok(());
            }
            let connect = wire::connect(&id, self.options.target.clean, self.options.keep_alive);
            device.state = State::WaitConnack;
            if let Err(e) = device.stream.write_all(&connect) {
                return self.closed(i, &e.to_string());
            }
        }
        while !matches!(self.devices[i].state, State::Closed) {
            let mut buffer = [0u8; 64];
            let length = match self.devices[i].stream.read(&mut buffer) {
                Ok(0) => return self.closed(i, "the broker closed it"),
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return self.closed(i, &e.to_string()),
            };
            let mut rest = &buffer[..length];
            while !rest.is_empty() {
                // Answers of 2 and 4 bytes, each sent in one piece.
                let Ok(Some((frame, used))) = wire::cut(rest) else {
                    let what = format!("{rest:?}");
                    return Err(Error::Protocol { client: id, what });
                };
                self.answer(i, &id, frame)?;
                rest = &rest[used..];
            }
        }
        Ok(())
    }

    fn answer(&mut self, i: usize, id: &str, frame: Frame<'_>) -> Result<(), Error> {
        let now = self.now();
        let device = &mut self.devices[i];
        match (device.state, frame.first) {
            (State::WaitConnack, _) => {
                success(id, frame, wire::CONNACK)?;
                device.state = State::Open;
                self.open += 1;
            }
            (_, wire::PINGRESP) => self.counts.ping_responses += 1,
            (_, wire::PUBACK) if device.sent_ns > 0 => {
                self.latencies.record(now - device.sent_ns);
                device.sent_ns = 0;
                self.counts.acknowledged += 1;
            }
            (_, first) => {
                let what = format!("packet {first:#04x} that was not asked for");
                return Err(Error::Protocol { client: id.into(), what });
            }
        }
        Ok(())
    }

    fn report(mut self, since: u64, own: f64) -> Report {
        let seconds = (self.now() - since) as f64 / 1e9;
        for device in &mut self.devices {
            let _gone_is_fine = device.stream.write(&wire::DISCONNECT);
        }
        let counts = &self.counts;
        let mut problems = Vec::new();
        if let Some(first) = &self.first_loss {
            problems.push(format!("{} connections were lost, the first: {first}", counts.closed));
        }
        if counts.late > 0 {
            let late = counts.late;
            problems.push(format!("{late} publishes were not acknowledged within an interval"));
        }
        Report {
            scenario: "hold",
            connections: self.devices.len(),
            seconds,
            published: counts.published,
            acknowledged: counts.acknowledged,
            pings: counts.pings,
            ping_responses: counts.ping_responses,
            closed: counts.closed,
            loadgen_cpu_seconds: Process::own().cpu_seconds() - own,
            latency: self.latencies.percentiles(),
            problems,
        }
    }
}
