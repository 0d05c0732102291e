//! A persistent session comes back and takes what waits for it: from CONNECT to the last message.
//!
//! `publish-only --offline-filter` makes the session and fills its queue.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use crate::client::{Client, READ_BUFFER};
use crate::error::Error;
use crate::options::{Resume, Target};
use crate::process::Process;
use crate::report::Report;
use crate::subscriber::{Ledger, Subscriber};

/// Runs the scenario.
pub fn run(options: &Resume) -> Result<Report, Error> {
    let target = Target { clean: false, ..options.target.clone() };
    let broker = Process::new(target.pid);
    broker.settle();
    let (cpu, own) = (broker.cpu_seconds(), Process::own().cpu_seconds());
    let publishers = options.publishers as usize;
    let mut subscriber = Subscriber::new(publishers, 1);
    let mut ledger = Ledger::new(publishers);
    let mut poll = Poll::new().map_err(Error::system("cannot make an epoll"))?;
    let (mut events, mut shared) = (Events::with_capacity(16), vec![0u8; READ_BUFFER]);
    let begin = Instant::now();
    let end = begin + Duration::from_secs(target.deadline);
    let mut client = Client::open(&target, "offline", None)?;
    client.register(poll.registry(), Token(0))?;
    while ledger.total < options.count {
        match poll.poll(&mut events, Some(Duration::from_millis(200))) {
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            other => other.map_err(Error::system("epoll failed"))?,
        }
        let ledger = &mut ledger;
        client.read(&mut shared, |frame, out| subscriber.receive(frame, 0, out, ledger))?;
        client.flush()?;
        if Instant::now() > end {
            let state = format!("{} of {} messages have come", ledger.total, options.count);
            return Err(Error::Deadline { seconds: target.deadline, state });
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    let loadgen_cpu_seconds = Process::own().cpu_seconds() - own;
    broker.settle();
    let broker_cpu_seconds = broker.cpu_seconds() - cpu;
    client.close();
    let mut problems = Vec::new();
    for (count, what) in [(ledger.out_of_order, "out of order"), (ledger.duplicates, "twice")] {
        if count > 0 {
            problems.push(format!("{count} messages came {what}"));
        }
    }
    let per = |time: f64| if time > 0.0 { (ledger.total as f64 / time).round() } else { 0.0 };
    Ok(Report {
        scenario: "resume",
        messages: ledger.total,
        seconds,
        msgs_per_second: per(seconds),
        broker_cpu_seconds,
        msgs_per_cpu_second: per(broker_cpu_seconds),
        loadgen_cpu_seconds,
        out_of_order: ledger.out_of_order,
        duplicates: ledger.duplicates,
        rss_kb: broker.rss_kb(),
        problems,
        ..Report::default()
    })
}
