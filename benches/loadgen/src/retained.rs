//! A new subscriber takes a large retained set: from SUBSCRIBE to the last message.
//!
//! The messages are retained first, acknowledged at QoS 1 whatever the run's QoS is, so that all of them stand when
//! the subscriber comes. What that costs is not in the report.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use crate::client::{Client, OUT_HIGH, READ_BUFFER};
use crate::error::Error;
use crate::options::{Retained, Target};
use crate::process::Process;
use crate::report::Report;
use crate::wire::{self, Stamp, Template};

/// Messages on their way to be retained.
const WINDOW: u64 = 1_000;

/// One connection and its epoll.
struct Socket {
    client: Client,
    poll: Poll,
    events: Events,
    shared: Vec<u8>,
    end: Instant,
}

impl Socket {
    fn open(target: &Target, name: &str) -> Result<Socket, Error> {
        let mut client = Client::open(target, name, None)?;
        let poll = Poll::new().map_err(Error::system("cannot make an epoll"))?;
        client.register(poll.registry(), Token(0))?;
        let end = Instant::now() + Duration::from_secs(target.deadline);
        let (events, shared) = (Events::with_capacity(16), vec![0u8; READ_BUFFER]);
        Ok(Socket { client, poll, events, shared, end })
    }

    /// Writes what waits, and reads what has come; `state` is told when the time is over.
    fn step(
        &mut self,
        target: &Target,
        state: impl Fn() -> String,
        each: impl FnMut(wire::Frame<'_>, &mut Vec<u8>) -> Result<(), String>,
    ) -> Result<(), Error> {
        self.client.flush()?;
        match self.poll.poll(&mut self.events, Some(Duration::from_millis(200))) {
            Err(e) if e.kind() == ErrorKind::Interrupted => return Ok(()),
            other => other.map_err(Error::system("epoll failed"))?,
        }
        self.client.read(&mut self.shared, each)?;
        self.client.flush()?;
        if Instant::now() > self.end {
            return Err(Error::Deadline { seconds: target.deadline, state: state() });
        }
        Ok(())
    }
}

/// Retains the messages.
fn load(options: &Retained) -> Result<(), Error> {
    let mut socket = Socket::open(&options.target, "retains")?;
    let (mut sent, mut acknowledged) = (0u64, 0u64);
    while acknowledged < options.count {
        while sent < options.count
            && sent - acknowledged < WINDOW
            && socket.client.backlog() < OUT_HIGH
        {
            let topic = format!("retained/{sent}");
            let template = Template::new(&topic, 1, options.payload as usize).retained();
            let stamp = Stamp { publisher: 0, sequence: sent, at_ns: 0 };
            // The window is far below the ids there are.
            let id = (sent % 60_000) as u16 + 1;
            template.append(&mut socket.client.out, id, stamp);
            sent += 1;
        }
        let state = format!("{acknowledged} of {} messages are retained", options.count);
        let acknowledged = &mut acknowledged;
        socket.step(
            &options.target,
            || state.clone(),
            |frame, _| {
                *acknowledged += u64::from(frame.first == wire::PUBACK);
                Ok(())
            },
        )?;
    }
    socket.client.close();
    Ok(())
}

/// Runs the scenario.
pub fn run(options: &Retained) -> Result<Report, Error> {
    load(options)?;
    let broker = Process::new(options.target.pid);
    broker.settle();
    let (cpu, own) = (broker.cpu_seconds(), Process::own().cpu_seconds());
    // The broker walks its topics in an order of its own.
    let mut seen = vec![false; usize::try_from(options.count).unwrap_or(usize::MAX)];
    let mut socket = Socket::open(&options.target, "reads")?;
    let (mut messages, mut duplicates) = (0u64, 0u64);
    let begin = Instant::now();
    socket.client.out.extend(wire::subscribe("retained/#", options.qos));
    while messages < options.count {
        let state = format!("{messages} of {} messages have come", options.count);
        let (messages, duplicates) = (&mut messages, &mut duplicates);
        let seen = &mut seen;
        socket.step(
            &options.target,
            || state.clone(),
            |frame, out| {
                match frame.first {
                    first if first & 0xf0 == wire::PUBLISH => {}
                    wire::SUBACK => return Ok(()),
                    wire::PUBREL => {
                        let id = frame.packet_id().ok_or("a PUBREL without id")?;
                        wire::acknowledge(out, wire::PUBCOMP, id);
                        return Ok(());
                    }
                    first => return Err(format!("packet {first:#04x} to a subscriber")),
                }
                let (qos, id, payload) = frame.publish().ok_or("a PUBLISH cut short")?;
                match qos {
                    0 => {}
                    1 => wire::acknowledge(out, wire::PUBACK, id),
                    _ => wire::acknowledge(out, wire::PUBREC, id),
                }
                let stamp = Stamp::read(payload).ok_or("a payload that is not ours")?;
                let place =
                    seen.get_mut(stamp.sequence as usize).ok_or("a message that is not ours")?;
                match std::mem::replace(place, true) {
                    true => *duplicates += 1,
                    false => *messages += 1,
                }
                Ok(())
            },
        )?;
    }
    let seconds = begin.elapsed().as_secs_f64();
    let loadgen_cpu_seconds = Process::own().cpu_seconds() - own;
    broker.settle();
    let broker_cpu_seconds = broker.cpu_seconds() - cpu;
    socket.client.close();
    let per = |time: f64| if time > 0.0 { (messages as f64 / time).round() } else { 0.0 };
    let problems = (duplicates > 0).then(|| format!("{duplicates} messages came twice"));
    Ok(Report {
        scenario: "retained",
        qos: options.qos,
        payload: options.payload,
        published: options.count,
        messages,
        seconds,
        msgs_per_second: per(seconds),
        broker_cpu_seconds,
        msgs_per_cpu_second: per(broker_cpu_seconds),
        loadgen_cpu_seconds,
        duplicates,
        rss_kb: broker.rss_kb(),
        problems: problems.into_iter().collect(),
        ..Report::default()
    })
}
