//! What has to hold of all that clients see.
//!
//! - A message of QoS 1-2 that was acknowledged comes to each persistent session that was subscribed before it was sent.
//! - A will comes where its connection has ended without DISCONNECT, and does not where there was one.
//! - At the end all nodes have one retained message of each topic, no older than the last that was acknowledged.
//! - What was acknowledged comes to the log, in order by connection, QoS, topic and key.
//! - None of QoS 2 comes twice to a session.
//! - Messages of one publisher, topic and QoS come first in the order in which they were published: over all of the
//!   publisher's connections in histories where no node is lost or cut off, else over each of them. Known: a QoS 2
//!   publish whose receipt is stored is acknowledged at whatever node its publisher is then, also where the node that
//!   has begun it, or its successor, has still to bring it to the queues of others; what its publisher sends next may
//!   come before it.

use std::collections::{BTreeMap, BTreeSet};

use hydrant_engine::ports::LogRecord;
use hydrant_protocol::QoS;

use crate::clients::state::Payload;

/// A message.
#[derive(Debug)]
struct Fact {
    topic: String,
    qos: QoS,
    sent: u64,
    /// The connection over which it was sent first.
    over: u64,
    acknowledged: Option<u64>,
    /// It must not come.
    withdrawn: bool,
}

/// A subscription, while it is surely there.
#[derive(Debug)]
struct Span {
    filter: String,
    granted: u8,
    from: u64,
    until: Option<u64>,
}

#[derive(Debug, Default)]
struct Seen {
    spans: Vec<Span>,
    got: BTreeMap<Payload, u32>,
    /// The last new message of each publisher, topic, QoS and connection.
    last: BTreeMap<(usize, String, u8, u64), u32>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Checks {
    /// Order is looked at over all connections of a publisher.
    across: bool,
    facts: BTreeMap<Payload, Fact>,
    seen: BTreeMap<usize, Seen>,
}

fn matches(filter: &str, topic: &str) -> bool {
    let (mut levels, mut names) = (filter.split('/'), topic.split('/'));
    loop {
        match (levels.next(), names.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(level), Some(name)) if level == name => {}
            _ => return false,
        }
    }
}

impl Checks {
    /// `across`: order is looked at over all connections of a publisher.
    pub fn new(across: bool) -> Self {
        Self { across, ..Self::default() }
    }

    /// A message is published for the first time.
    pub fn sent(&mut self, payload: Payload, topic: String, qos: QoS, over: u64, sent: u64) {
        self.facts
            .insert(payload, Fact { topic, qos, sent, over, acknowledged: None, withdrawn: false });
    }

    /// It is acknowledged.
    pub fn acknowledged(&mut self, payload: Payload, now: u64) {
        if let Some(fact) = self.facts.get_mut(&payload) {
            fact.acknowledged.get_or_insert(now);
        }
    }

    /// A will was discarded. Where nodes are lost, nobody knows whether the DISCONNECT was read.
    pub fn must_not_come(&mut self, payload: Payload) {
        let across = self.across;
        if let Some(fact) = self.facts.get_mut(&payload) {
            fact.withdrawn = across;
        }
    }

    /// SUBACK has come.
    pub fn subscribed(&mut self, client: usize, filter: &str, granted: u8, now: u64) {
        let spans = &mut self.seen.entry(client).or_default().spans;
        let open = spans.iter().any(|span| span.filter == filter && span.until.is_none());
        if !open && granted <= 2 {
            spans.push(Span { filter: filter.to_owned(), granted, from: now, until: None });
        }
    }

    /// UNSUBSCRIBE is sent.
    pub fn unsubscribes(&mut self, client: usize, filter: &str, now: u64) {
        let spans = &mut self.seen.entry(client).or_default().spans;
        for span in spans.iter_mut().filter(|span| span.filter == filter) {
            span.until.get_or_insert(now);
        }
    }

    /// A session without a past begins.
    pub fn ends(&mut self, client: usize, _: u64) {
        self.seen.insert(client, Seen::default());
    }

    /// A message has come that is not the same delivery again.
    ///
    /// # Errors
    /// It may not come.
    pub fn came(
        &mut self,
        client: usize,
        payload: Payload,
        qos: QoS,
        retain: bool,
        _persistent: bool,
    ) -> Result<(), String> {
        let Some(fact) = self.facts.get(&payload) else {
            return Err(format!("{} was never published", payload.text()));
        };
        if fact.withdrawn {
            return Err(format!("the will {} has come, and was discarded", payload.text()));
        }
        if retain {
            return Ok(());
        }
        let seen = self.seen.entry(client).or_default();
        let count = seen.got.entry(payload).or_default();
        *count += 1;
        if *count > 1 && qos == QoS::ExactlyOnce {
            return Err(format!("QoS 2 message {} has come twice", payload.text()));
        }
        // What is sent again to a later subscription may come behind what was sent first then.
        let since = seen.spans.iter().any(|span| {
            span.from <= fact.sent
                && span.until.is_none_or(|until| until > fact.sent)
                && matches(&span.filter, &fact.topic)
        });
        if *count == 1 && since {
            let over = if self.across { 0 } else { fact.over };
            let key = (payload.publisher, fact.topic.clone(), fact.qos as u8, over);
            let last = seen.last.insert(key, payload.number);
            if last.is_some_and(|last| last > payload.number) {
                let last = last.unwrap_or_default();
                return Err(format!(
                    "out of order: {} of {} has come behind number {last}",
                    payload.text(),
                    fact.topic
                ));
            }
        }
        Ok(())
    }

    /// At the end: what was acknowledged and has not come to a persistent session.
    pub fn lost(&self, client: usize) -> Vec<String> {
        let Some(seen) = self.seen.get(&client) else { return Vec::new() };
        let mut lost = Vec::new();
        for (payload, fact) in &self.facts {
            let Some(acknowledged) = fact.acknowledged else { continue };
            let its = |span: &Span| {
                span.granted >= 1
                    && matches(&span.filter, &fact.topic)
                    && span.from <= fact.sent
                    && span.until.is_none_or(|until| until > acknowledged)
            };
            if seen.spans.iter().any(its) && !seen.got.contains_key(payload) {
                lost.push(payload.text());
            }
        }
        lost
    }

    /// The topics of messages that are retained, each with the last number that was acknowledged there.
    pub fn retained(&self) -> BTreeMap<String, u32> {
        let mut last = BTreeMap::new();
        for (payload, fact) in &self.facts {
            if fact.topic.starts_with("r/") && fact.acknowledged.is_some() {
                last.insert(fact.topic.clone(), payload.number);
            }
        }
        last
    }

    /// What is wrong with the log at the end: what was acknowledged is there, and that of one connection and QoS in
    /// order by topic and key, where publishers stay at their node: of two nodes each has an outbox of its own.
    pub fn log(&self, records: &[LogRecord], in_order: bool) -> Vec<String> {
        let (mut seen, mut last, mut wrong) = (BTreeSet::new(), BTreeMap::new(), Vec::new());
        for record in records {
            let Some(payload) = Payload::parse(&record.payload) else { continue };
            let Some(fact) = self.facts.get(&payload).filter(|_| seen.insert(payload)) else {
                continue;
            };
            let of = (fact.over, fact.qos as u8, record.topic.clone(), record.key.clone());
            let before = last.insert((payload.publisher, of), payload.number);
            if in_order && before.is_some_and(|before| before > payload.number) {
                wrong.push(format!("{} is out of order in the log", payload.text()));
            }
        }
        for (payload, fact) in &self.facts {
            let is_will = fact.topic.starts_with("w/");
            if fact.acknowledged.is_some() && !is_will && !seen.contains(payload) {
                wrong.push(format!("{} has not come to the log", payload.text()));
            }
        }
        wrong
    }
}
