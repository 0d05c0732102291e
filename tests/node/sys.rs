//! `$SYS` for a crowd: many that subscribe to it at once, and one that does not read. Memory stays bounded, others are
//! served, and everybody has each topic's newest value.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::client::{Publish, subscribe};
use crate::support::{Client, Node, Packet, SOON, eventually};

/// What the node may need above an idle one; an unoptimised build's allocator included.
const HEADROOM: u64 = 64 << 20;
const CROWD: usize = 300;
/// Until somebody has everything, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(60);
/// Retained topics beside `$SYS`, for those who subscribe to everything.
const OTHERS: usize = 200;
/// Values that never fall while the node runs.
const RISING: [&str; 6] = [
    "$SYS/broker/uptime",
    "$SYS/broker/clients/maximum",
    "$SYS/broker/messages/received",
    "$SYS/broker/messages/sent",
    "$SYS/broker/bytes/received",
    "$SYS/broker/publish/messages/sent",
];

/// The newest that a subscriber has of each topic.
#[derive(Default)]
struct Values(BTreeMap<String, String>);

impl Values {
    /// Takes the next message; an older value behind a newer one is a failure.
    #[track_caller]
    fn read(&mut self, client: &mut Client) {
        match client.recv() {
            Packet::Publish(came) => {
                let (number, value) = (number(&came.text()), came.text());
                let before = self.0.insert(came.topic.clone(), value);
                if RISING.contains(&&*came.topic)
                    && let Some(before) = before
                {
                    assert!(number >= self::number(&before), "{came:?} behind {before}");
                }
            }
            Packet::Suback(..) => {}
            other => panic!("{other:?}"),
        }
    }

    /// Reads until it has what is asked for.
    #[track_caller]
    fn read_until(&mut self, client: &mut Client, has: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !has(self) {
            assert!(start.elapsed() < PATIENCE, "{} topics only: {:?}", self.0.len(), self.0);
            self.read(client);
        }
    }

    fn sys(&self) -> usize {
        self.0.keys().filter(|topic| topic.starts_with("$SYS/")).count()
    }

    fn uptime(&self) -> f64 {
        self.0.get(RISING[0]).map_or(-1.0, |value| number(value))
    }
}

fn number(value: &str) -> f64 {
    value.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// PINGREQ after PINGREQ until told to stop; how long each answer took.
fn pings(mut client: Client, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<Vec<Duration>> {
    std::thread::spawn(move || {
        let mut answers = Vec::new();
        while !stop.load(Ordering::SeqCst) {
            let sent = Instant::now();
            client.ping();
            answers.push(sent.elapsed());
        }
        answers
    })
}

#[test]
fn a_crowd_and_one_that_does_not_read_have_the_newest_of_each_topic() {
    let node = Node::builder()
        .set("log.kind", "none")
        .set("sys.interval", "500ms")
        .set("listener.send_buffer", "\"64KiB\"")
        .set("limits.max_output_bytes", "\"64KiB\"")
        .start();
    let mut publisher = node.client("publisher");
    for n in 0..OTHERS {
        publisher.retain(&format!("t/{n}"), "x", 0);
    }
    publisher.ping();
    // All topics of `$SYS` have come once when the first one comes again.
    let mut probe = node.client("probe").subscribed("$SYS/#", 0);
    let mut values = Values::default();
    values.read_until(&mut probe, |values| values.uptime() >= 2.0);
    let topics = values.sys();
    assert!(topics > 40, "{topics} topics of $SYS");
    // One takes nothing any more, and then subscribes.
    let mut stuck = node.client("stuck").subscribed("noise", 0);
    let noise = Publish::new("noise", vec![b'x'; 50_000]).bytes();
    eventually(SOON, "it is stuck", || {
        publisher.send(&noise);
        publisher.ping();
        node.dropped("slow_subscriber") > 100.0
    });
    stuck.send(&subscribe(9, &[("$SYS/#", 0), ("t/#", 0)]));
    let before = node.rss();
    let stop = Arc::new(AtomicBool::new(false));
    let resident = pings(node.client("resident"), Arc::clone(&stop));
    let mut crowd: Vec<Client> = (0..CROWD).map(|n| node.client(&format!("crowd-{n}"))).collect();
    let start = Instant::now();
    for (n, client) in crowd.iter_mut().enumerate() {
        // A third each: `$SYS`, all else, both.
        let filters = [("$SYS/#", 0), ("#", 0)];
        client.send(&subscribe(1, &filters[usize::from(n % 3 == 1)..2 - usize::from(n % 3 == 0)]));
    }
    let mut seen: Vec<Values> = Vec::new();
    for (n, client) in crowd.iter_mut().enumerate() {
        let (sys, others) = (if n % 3 == 1 { 0 } else { topics }, OTHERS * usize::from(n % 3 > 0));
        let mut values = Values::default();
        values.read_until(client, |has| has.sys() >= sys && has.0.len() >= sys + others);
        assert_eq!((values.sys(), values.0.len()), (sys, sys + others));
        seen.push(values);
    }
    let span = start.elapsed();
    // What stands now comes to each of them, and nothing older behind it.
    let now = {
        let mut late = node.client("late").subscribed("$SYS/broker/uptime", 0);
        let mut values = Values::default();
        values.read(&mut late);
        values.uptime()
    };
    for (n, (client, values)) in crowd.iter_mut().zip(&mut seen).enumerate() {
        values.read_until(client, |values| n % 3 == 1 || values.uptime() >= now);
    }
    stop.store(true, Ordering::SeqCst);
    let mut answers = resident.join().unwrap();
    answers.sort();
    let (most, longest) = (answers[answers.len() * 9 / 10], answers[answers.len() - 1]);
    eprintln!(
        "crowd in {span:?}: {} pings, nine of ten in {most:?}, all in {longest:?}",
        answers.len()
    );
    assert!(most < Duration::from_secs(1).max(span / 10), "{most:?} of {span:?}");
    assert!(node.rss() < before + HEADROOM, "{before} -> {} bytes", node.rss());
    // Once the last one reads, it has them too: all that stand, and what comes from now on.
    let mut values = Values::default();
    let all = 1 + topics + OTHERS;
    values.read_until(&mut stuck, |values| values.uptime() >= now && values.0.len() >= all);
    stuck.ping();
}
