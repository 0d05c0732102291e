//! Many filters on few connections: what a filter costs the node that holds it, and the others.
//!
//! Every connection has one SUBSCRIBE on its way. The connections stay until standard input ends, so
//! that memory can be read while they hold.

use std::io::{self, ErrorKind, Read};
use std::ops::Range;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use serde::Serialize;

use crate::client::{Client, READ_BUFFER};
use crate::error::Error;
use crate::options::Filters;
use crate::process::Process;
use crate::report::{Latencies, Percentiles};
use crate::wire;

/// QoS of the subscriptions.
const QOS: u8 = 1;

/// Report of the filters scenario.
#[derive(Debug, Serialize)]
pub struct Report {
    scenario: &'static str,
    connections: u32,
    filters: u32,
    /// Bytes of one filter.
    filter_bytes: usize,
    /// First SUBSCRIBE to last SUBACK.
    seconds: f64,
    filters_per_second: f64,
    loadgen_cpu_seconds: f64,
    /// From SUBSCRIBE to SUBACK.
    #[serde(flatten)]
    latency: Percentiles,
}

/// One connection and the numbers of its filters that are still to be sent.
struct Holder {
    client: Client,
    rest: Range<u32>,
    sent: Instant,
    waits: bool,
}

impl Holder {
    /// The next SUBSCRIBE, if any filter is left.
    fn next(&mut self, options: &Filters) -> Result<(), Error> {
        let end = self.rest.end.min(self.rest.start.saturating_add(options.per_packet));
        self.waits = self.rest.start < end;
        if self.waits {
            let filters = (self.rest.start..end).map(|n| filter(options, n));
            self.client.out.extend(wire::subscribe_all(filters, QOS));
            self.rest.start = end;
            self.sent = Instant::now();
        }
        self.client.flush()
    }
}

fn filter(options: &Filters, n: u32) -> String {
    options.pattern.replace("{n}", &format!("{n:07}"))
}

/// Subscribes, gives the report to `done`, and returns when standard input ends.
pub fn run(
    options: &Filters,
    done: impl FnOnce(&Report) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut poll = Poll::new().map_err(Error::system("cannot make an epoll"))?;
    let share = |i: u32| {
        let part = u64::from(options.count) * u64::from(i) / u64::from(options.connections);
        options.first + part as u32
    };
    let mut holders = Vec::new();
    for i in 0..options.connections {
        let mut client = Client::open(&options.target, &format!("f{i}"), None)?;
        client.register(poll.registry(), Token(i as usize))?;
        let (rest, sent) = (share(i)..share(i + 1), Instant::now());
        holders.push(Holder { client, rest, sent, waits: false });
    }
    let own = Process::own().cpu_seconds();
    let begin = Instant::now();
    let end = begin + Duration::from_secs(options.target.deadline);
    let mut latencies = Latencies::new();
    for holder in &mut holders {
        holder.next(options)?;
    }
    let (mut events, mut shared) = (Events::with_capacity(256), vec![0u8; READ_BUFFER]);
    let mut waiting = holders.iter().filter(|holder| holder.waits).count();
    while waiting > 0 {
        match poll.poll(&mut events, Some(Duration::from_millis(200))) {
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            other => other.map_err(Error::system("epoll failed"))?,
        }
        for event in &events {
            let Some(holder) = holders.get_mut(event.token().0) else { continue };
            let mut acknowledged = false;
            holder.client.read(&mut shared, |frame, _| {
                let codes = frame.body.get(2..).unwrap_or_default();
                acknowledged = frame.first == wire::SUBACK && codes.iter().all(|&code| code <= QOS);
                if acknowledged {
                    Ok(())
                } else {
                    Err(format!("{:#04x} to a SUBSCRIBE", frame.first))
                }
            })?;
            if acknowledged {
                latencies.record(holder.sent.elapsed().as_nanos() as u64);
                holder.next(options)?;
                waiting -= usize::from(!holder.waits);
            } else {
                holder.client.flush()?;
            }
        }
        if Instant::now() > end {
            let state =
                format!("{waiting} of {} connections wait for SUBACKs", options.connections);
            return Err(Error::Deadline { seconds: options.target.deadline, state });
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    done(&Report {
        scenario: "filters",
        connections: options.connections,
        filters: options.count,
        filter_bytes: filter(options, options.first).len(),
        seconds,
        filters_per_second: (f64::from(options.count) / seconds).round(),
        loadgen_cpu_seconds: Process::own().cpu_seconds() - own,
        latency: latencies.percentiles(),
    })?;
    io::stdin()
        .read_to_end(&mut Vec::new())
        .map_err(Error::system("cannot read standard input"))?;
    for holder in holders {
        holder.client.close();
    }
    Ok(())
}
