//! The loop of every scenario that publishes: who sends to whom, windows, schedule, end.
//!
//! Closed loop: a publisher sends while its window has room, in bursts of a quarter of it or more.
//! Open loop (`rate`): message k goes out when it is due, and its latency counts from then, so a
//! stall of the broker is seen by every message it delays.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use crate::client::{Client, OUT_HIGH, READ_BUFFER};
use crate::error::Error;
use crate::options::{Command, Load, Target};
use crate::pace::{Schedule, Timer};
use crate::process::Process;
use crate::publisher::Publisher;
use crate::report::{Latencies, Report};
use crate::subscriber::{Ledger, Subscriber};
use crate::wire::Template;

/// A run in which nothing arrives for so long while nothing is left to acknowledge has lost what
/// is outstanding.
const SILENCE: Duration = Duration::from_secs(3);
/// Bytes an open-loop publisher may have waiting before the run is given up.
const RATE_BACKLOG: usize = 16 << 20;

/// What to do.
#[derive(Debug)]
pub struct Plan {
    scenario: &'static str,
    target: Target,
    load: Load,
    rate: Option<u64>,
    /// Topics of each publisher.
    topics: Vec<Vec<String>>,
    /// Filter of each subscriber.
    filters: Vec<String>,
    /// Subscribers that get each message.
    copies: u64,
    /// Only one message in so many of each publisher, the last, goes to them.
    every: u64,
    /// Filter of the offline persistent session.
    offline: Option<String>,
}

impl Plan {
    /// The plan of a scenario that publishes.
    pub fn from_command(command: &Command) -> Result<Plan, Error> {
        let own = |n: u32| (0..n).map(|i| vec![format!("bench/{i}/t")]).collect::<Vec<_>>();
        let (scenario, target, load) = match command {
            Command::Throughput(o) => ("throughput", &o.target, &o.load),
            Command::Fanout(o) => ("fanout", &o.target, &o.load),
            Command::Pairs(o) => ("pairs", &o.target, &o.load),
            Command::Latency(o) => ("latency", &o.target, &o.load),
            Command::PublishOnly(o) => ("publish-only", &o.target, &o.load),
            _ => return Err(Error::Options("this scenario publishes nothing".into())),
        };
        let mut plan = Plan {
            scenario,
            target: target.clone(),
            load: load.clone(),
            rate: None,
            topics: Vec::new(),
            filters: Vec::new(),
            copies: 1,
            every: 1,
            offline: None,
        };
        match command {
            Command::Throughput(o) => {
                plan.topics = own(o.publishers);
                plan.filters = vec!["bench/#".into(); o.subscribers as usize];
                plan.copies = u64::from(o.subscribers);
            }
            Command::Fanout(o) => {
                plan.topics = own(1);
                plan.filters = vec!["bench/0/t".into(); o.subscribers as usize];
                plan.copies = u64::from(o.subscribers);
            }
            Command::Pairs(o) => {
                plan.topics = own(o.pairs);
                plan.filters = plan.topics.iter().flatten().cloned().collect();
                plan.rate = o.rate;
            }
            Command::Latency(o) => {
                plan.topics = own(o.publishers);
                plan.filters = vec!["bench/#".into()];
                plan.rate = Some(o.rate);
            }
            Command::PublishOnly(o) => {
                if o.keys < o.publishers {
                    return Err(Error::Options("--keys must be at least --publishers".into()));
                }
                let topic = |key: u32| o.topic_pattern.replace("{key}", &key.to_string());
                plan.topics = (0..o.publishers)
                    .map(|p| (p..o.keys).step_by(o.publishers as usize).map(topic).collect())
                    .collect();
                plan.rate = o.rate;
                plan.copies = 0;
                plan.offline = o.offline_filter.clone();
                if o.half {
                    if !o.keys.is_multiple_of(2 * o.publishers) {
                        let why = "--half needs an even number of --keys for each of --publishers";
                        return Err(Error::Options(why.into()));
                    }
                    // Of this run alone: there may be others in the cluster.
                    let half = format!("{}-half", target.client_prefix);
                    for own in &mut plan.topics {
                        for topic in own.iter_mut().skip(1).step_by(2) {
                            *topic = format!("{half}/{topic}");
                        }
                    }
                    plan.filters = vec![format!("{half}/#")];
                    (plan.copies, plan.every) = (1, 2);
                }
                if load.qos == 0 {
                    return Err(Error::Options("publish-only needs --qos 1 or 2".into()));
                }
            }
            _ => {}
        }
        if plan.topics.is_empty() || (plan.copies == 0) != plan.filters.is_empty() {
            return Err(Error::Options("at least one publisher and subscriber, please".into()));
        }
        Ok(plan)
    }

    /// Deliveries for so many messages of one publisher.
    fn deliveries(&self, sent: u64) -> u64 {
        sent / self.every * self.copies
    }
}

/// Runs it to its end.
pub fn run(plan: &Plan) -> Result<Report, Error> {
    Run::open(plan)?.go()
}

struct Run<'a> {
    plan: &'a Plan,
    poll: Poll,
    timer: Timer,
    clock: Instant,
    /// Subscribers first, then publishers: the index is the epoll token.
    clients: Vec<Client>,
    subscribers: Vec<Subscriber>,
    publishers: Vec<Publisher>,
    ledger: Ledger,
    acks: Latencies,
    /// Publisher may have something to send; each is in `ready` at most once.
    queued: Vec<bool>,
    ready: Vec<usize>,
    /// Open loop: messages sent over all publishers.
    scheduled: u64,
    schedule: Schedule,
    last_progress_ns: u64,
}

impl<'a> Run<'a> {
    fn open(plan: &'a Plan) -> Result<Run<'a>, Error> {
        let poll = Poll::new().map_err(Error::system("cannot make an epoll"))?;
        let load = &plan.load;
        if let Some(filter) = &plan.offline {
            let persistent = Target { clean: false, ..plan.target.clone() };
            Client::open(&persistent, "offline", Some((filter, load.qos)))?.close();
        }
        let mut clients = Vec::new();
        for (i, filter) in plan.filters.iter().enumerate() {
            clients.push(Client::open(&plan.target, &format!("s{i}"), Some((filter, load.qos)))?);
        }
        let total = plan.topics.len() as u64;
        let mut publishers = Vec::new();
        for (i, topics) in plan.topics.iter().enumerate() {
            clients.push(Client::open(&plan.target, &format!("p{i}"), None)?);
            let template = |topic: &String| Template::new(topic, load.qos, load.payload as usize);
            let count = load.count / total + u64::from((i as u64) < load.count % total);
            let templates = topics.iter().map(template).collect();
            publishers.push(Publisher::new(i as u32, load.qos, templates, count));
        }
        for (i, client) in clients.iter_mut().enumerate() {
            client.register(poll.registry(), Token(i))?;
        }
        let timer = Timer::new(poll.registry(), Token(clients.len()))
            .map_err(Error::system("cannot make a timer"))?;
        let many = publishers.len();
        Ok(Run {
            plan,
            poll,
            timer,
            clock: Instant::now(),
            clients,
            subscribers: plan.filters.iter().map(|_| Subscriber::new(many, plan.every)).collect(),
            publishers,
            ledger: Ledger { every: plan.rate.is_some(), ..Ledger::new(many) },
            acks: Latencies::new(),
            queued: vec![false; many],
            ready: Vec::new(),
            scheduled: 0,
            schedule: Schedule::new(0, 1),
            last_progress_ns: 0,
        })
    }

    fn now(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    fn go(mut self) -> Result<Report, Error> {
        let broker = Process::new(self.plan.target.pid);
        broker.settle();
        let (cpu, own_cpu) = (broker.cpu_seconds(), Process::own().cpu_seconds());
        let switches = broker.voluntary_switches();
        let begin = self.now();
        self.last_progress_ns = begin;
        self.schedule = Schedule::new(begin + 1_000_000, self.plan.rate.unwrap_or(1));
        let deadline = begin + self.plan.target.deadline * 1_000_000_000;
        self.make_all_ready();
        let mut events = Events::with_capacity(1024);
        let mut shared = vec![0u8; READ_BUFFER];
        let mut lost = 0;
        loop {
            match self.plan.rate {
                None => self.send_ready()?,
                Some(_) => self.send_due()?,
            }
            if self.finished(lost) {
                break;
            }
            let timeout = Some(Duration::from_millis(200));
            match self.poll.poll(&mut events, timeout) {
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                other => other.map_err(Error::system("epoll failed"))?,
            }
            for event in &events {
                let i = event.token().0;
                if i >= self.clients.len() {
                    continue;
                }
                if event.is_readable() || event.is_read_closed() {
                    self.read(i, &mut shared)?;
                }
                if event.is_writable() {
                    self.clients[i].flush()?;
                    self.wake(i);
                }
            }
            let now = self.now();
            if now > deadline {
                let seconds = self.plan.target.deadline;
                return Err(Error::Deadline { seconds, state: self.state() });
            }
            if now - self.last_progress_ns > SILENCE.as_nanos() as u64 {
                lost += self.write_off();
            }
        }
        let end = self.last_progress_ns;
        for client in &mut self.clients {
            client.flush()?;
        }
        let own = Process::own().cpu_seconds() - own_cpu;
        // Before it settles: a pause has switches of its own.
        let broker_switches = broker.voluntary_switches().saturating_sub(switches);
        broker.settle();
        let report = self.report((end - begin) as f64 / 1e9, broker.cpu_seconds() - cpu, own);
        let rss_kb = broker.rss_kb();
        for client in self.clients {
            client.close();
        }
        Ok(Report { broker_switches, rss_kb, ..report })
    }

    fn make_all_ready(&mut self) {
        for p in 0..self.publishers.len() {
            self.queued[p] = true;
            self.ready.push(p);
        }
    }

    /// The client may have a publisher with something to send.
    fn wake(&mut self, client: usize) {
        if let Some(p) = client.checked_sub(self.subscribers.len())
            && !self.queued[p]
        {
            self.queued[p] = true;
            self.ready.push(p);
        }
    }

    /// Messages publisher `p` may send now.
    fn credit(&self, p: usize) -> u64 {
        let publisher = &self.publishers[p];
        let mut out = publisher.unacknowledged();
        if let Some(delivered) = self.ledger.received[p].checked_div(self.plan.copies) {
            out = out.max(publisher.sent.saturating_sub(delivered * self.plan.every));
        }
        u64::from(self.plan.load.window).saturating_sub(out).min(publisher.remaining)
    }

    fn send_ready(&mut self) -> Result<(), Error> {
        if self.plan.copies > 0 {
            // Deliveries give credit to any publisher; it is cheaper to look at all than to note.
            for p in 0..self.publishers.len() {
                self.wake(self.subscribers.len() + p);
            }
        }
        let quarter = u64::from(self.plan.load.window).div_ceil(4);
        while let Some(p) = self.ready.pop() {
            self.queued[p] = false;
            let credit = self.credit(p);
            let client = self.subscribers.len() + p;
            if credit == 0 || credit < quarter.min(self.publishers[p].remaining) {
                continue;
            }
            if self.clients[client].backlog() > 0 {
                continue; // The socket says when it takes more.
            }
            let now = self.now();
            for _ in 0..credit {
                let out = &mut self.clients[client].out;
                if out.len() >= OUT_HIGH || !self.publishers[p].send(now, out) {
                    break;
                }
            }
            self.clients[client].flush()?;
            if self.clients[client].backlog() == 0 && self.credit(p) >= quarter {
                self.wake(client);
            }
        }
        Ok(())
    }

    fn send_due(&mut self) -> Result<(), Error> {
        let total = self.plan.load.count;
        let many = self.publishers.len() as u64;
        let now = self.now();
        while self.scheduled < total && self.schedule.due(self.scheduled) <= now {
            let p = (self.scheduled % many) as usize;
            let client = self.subscribers.len() + p;
            let due = self.schedule.due(self.scheduled);
            let out = &mut self.clients[client].out;
            if out.len() > RATE_BACKLOG {
                return Err(Error::Rate("the broker does not read what is sent".into()));
            }
            if !self.publishers[p].send(due, out) {
                return Err(Error::Rate("all 65,535 packet ids wait for the broker".into()));
            }
            self.scheduled += 1;
            if !self.queued[p] {
                self.queued[p] = true;
                self.ready.push(p);
            }
        }
        while let Some(p) = self.ready.pop() {
            self.queued[p] = false;
            self.clients[self.subscribers.len() + p].flush()?;
        }
        if self.scheduled < total {
            let wait = self.schedule.due(self.scheduled).saturating_sub(self.now());
            self.timer.fire_in(wait).map_err(Error::system("cannot set the timer"))?;
        }
        Ok(())
    }

    fn read(&mut self, i: usize, shared: &mut [u8]) -> Result<(), Error> {
        let now = self.now();
        let client = &mut self.clients[i];
        if let Some(subscriber) = self.subscribers.get_mut(i) {
            let ledger = &mut self.ledger;
            client.read(shared, |frame, out| subscriber.receive(frame, now, out, ledger))?;
        } else {
            let p = i - self.subscribers.len();
            let (publisher, acks) = (&mut self.publishers[p], &mut self.acks);
            client.read(shared, |frame, out| publisher.receive(frame, now, out, acks))?;
        }
        if client.backlog() > 0 {
            client.flush()?;
        }
        self.last_progress_ns = now;
        self.wake(i);
        Ok(())
    }

    fn sum(&self, of: impl Fn(&Publisher) -> u64) -> u64 {
        self.publishers.iter().map(of).sum()
    }

    fn finished(&self, lost: u64) -> bool {
        let sent = self.sum(|p| p.sent);
        sent == self.plan.load.count
            && self.sum(Publisher::unacknowledged) == 0
            && self.ledger.total + lost >= self.sum(|p| self.plan.deliveries(p.sent))
            && self.clients.iter().all(|client| client.backlog() == 0)
    }

    /// Counts what is outstanding as lost, unless the broker still owes acknowledgements (then
    /// only the deadline ends the run) or messages are not due yet.
    fn write_off(&mut self) -> u64 {
        self.last_progress_ns = self.now();
        if self.sum(Publisher::unacknowledged) > 0 {
            return 0;
        }
        let mut lost = 0;
        for (p, publisher) in self.publishers.iter().enumerate() {
            // So the window opens again; `received` is no longer what came, `total` is.
            let expected = self.plan.deliveries(publisher.sent);
            lost += expected.saturating_sub(self.ledger.received[p]);
            self.ledger.received[p] = self.ledger.received[p].max(expected);
        }
        self.make_all_ready();
        lost
    }

    fn state(&self) -> String {
        format!(
            "{} of {} published, {} acknowledged, {} of {} delivered",
            self.sum(|p| p.sent),
            self.plan.load.count,
            self.sum(|p| p.acknowledged),
            self.ledger.total,
            self.plan.deliveries(self.plan.load.count)
        )
    }

    fn report(&self, seconds: f64, broker_cpu: f64, own_cpu: f64) -> Report {
        let (plan, ledger) = (self.plan, &self.ledger);
        let published = self.sum(|p| p.sent);
        let acknowledged = self.sum(|p| p.acknowledged);
        let messages = if plan.copies > 0 { ledger.total } else { acknowledged };
        let loss = self.sum(|p| plan.deliveries(p.sent)).saturating_sub(ledger.total);
        let per = |time: f64| {
            if time > 0.0 { (messages as f64 / time).round() } else { 0.0 }
        };
        let mut problems = Vec::new();
        let mut broken = |count: u64, what: &str| {
            if count > 0 {
                problems.push(format!("{count} messages {what}"));
            }
        };
        if plan.load.qos > 0 {
            broken(loss, "lost");
        }
        broken(ledger.out_of_order, "out of order");
        if plan.load.qos != 1 {
            broken(ledger.duplicates, "delivered twice");
        }
        Report {
            scenario: plan.scenario,
            qos: plan.load.qos,
            payload: plan.load.payload,
            published,
            acknowledged,
            messages,
            seconds,
            msgs_per_second: per(seconds),
            broker_cpu_seconds: broker_cpu,
            msgs_per_cpu_second: per(broker_cpu),
            loadgen_cpu_seconds: own_cpu,
            loss,
            out_of_order: ledger.out_of_order,
            duplicates: ledger.duplicates,
            latency: ledger.latencies.percentiles(),
            ack_latency: self.acks.percentiles(),
            broker_switches: 0,
            rss_kb: 0,
            problems,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::options::Cli;

    fn plan(more: &[&str]) -> Result<Plan, Error> {
        let command = ["loadgen", "publish-only", "--qos", "1", "--address", "127.0.0.1:1"];
        Plan::from_command(&Cli::parse_from(command.iter().chain(more)).command)
    }

    #[test]
    fn half_is_every_second_topic_of_each_publisher() {
        let plan = plan(&["--half", "--publishers", "2", "--keys", "4"]).unwrap();
        let second = "lg-half/device/2/thermo";
        assert_eq!(plan.topics[0], ["device/0/thermo", second]);
        assert_eq!(plan.filters, ["lg-half/#"]);
        assert_eq!([0, 1, 2, 5].map(|sent| plan.deliveries(sent)), [0, 0, 1, 2]);
    }

    #[test]
    fn half_needs_an_even_number_of_topics() {
        assert!(plan(&["--half", "--publishers", "2", "--keys", "6"]).is_err());
    }
}
