//! What a client knows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use hydrant_protocol::topic::TopicFilter;
use hydrant_protocol::wire;
use hydrant_protocol::{PacketId, QoS};

use crate::network::Process;

/// What one does.
#[derive(Debug)]
pub enum Role {
    /// It publishes.
    Publisher(Publisher),
    /// It is subscribed.
    Subscriber(Subscriber),
}

/// See the module.
#[derive(Debug)]
pub struct Client {
    /// Client id.
    pub name: Arc<str>,
    pub role: Role,
    pub clean: bool,
    /// The connection and where it leads.
    pub link: Option<(u64, Process)>,
    /// CONNACK has come.
    pub connected: bool,
    pub input: Vec<u8>,
    /// It has had a session.
    pub had_session: bool,
    /// Wills that it has left.
    pub wills: u32,
    /// The will of this connection, once CONNACK has come.
    pub will: Option<Payload>,
}

impl Client {
    /// One that has not connected.
    pub fn new(name: String, role: Role, clean: bool) -> Self {
        let (link, connected, input, had_session) = (None, false, Vec::new(), false);
        let (wills, will) = (0, None);
        Self { name: name.into(), role, clean, link, connected, input, had_session, wills, will }
    }
}

/// What a message says: who has published it, and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Payload {
    /// Index of the client.
    pub publisher: usize,
    /// 0, 1, 2 …
    pub number: u32,
}

impl Payload {
    /// As bytes.
    pub fn text(self) -> String {
        format!("{}:{}", self.publisher, self.number)
    }

    /// From bytes.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (publisher, number) = std::str::from_utf8(bytes).ok()?.split_once(':')?;
        Some(Self { publisher: publisher.parse().ok()?, number: number.parse().ok()? })
    }
}

/// A message that is not acknowledged.
#[derive(Debug, Clone, Copy)]
pub struct Open {
    pub id: PacketId,
    pub payload: Payload,
    pub topic: usize,
    pub qos: QoS,
    /// PUBREC has come.
    pub released: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Publisher {
    pub next: u32,
    pub next_id: u16,
    pub window: usize,
    pub open: VecDeque<Open>,
}

impl Publisher {
    /// With a window.
    pub fn new(window: usize) -> Self {
        Self { next: 0, next_id: 1, window, open: VecDeque::new() }
    }

    /// What is not acknowledged.
    pub fn unfinished(&self) -> Option<String> {
        let first = self.open.front()?;
        Some(format!("waits for {} answers, the first {first:?}", self.open.len()))
    }
}

/// See the module.
#[derive(Debug)]
pub struct Subscriber {
    /// What it is subscribed to, at which QoS; those that change.
    pub filters: Vec<(String, QoS)>,
    /// SUBACK has come for the first ones.
    pub subscribed: bool,
    /// QoS 2 messages that it has and whose PUBREL has not come.
    pub received: BTreeSet<PacketId>,
    pub next_id: u16,
    /// SUBSCRIBE and UNSUBSCRIBE without an answer.
    pub asked: BTreeMap<PacketId, (bool, Vec<(String, QoS)>)>,
    /// Filters that come and go.
    pub churns: Vec<(String, QoS)>,
}

impl Subscriber {
    /// With what it is subscribed to always, and now and then.
    pub fn new(filters: Vec<(String, QoS)>, churns: Vec<(String, QoS)>) -> Self {
        let (subscribed, received, asked) = (false, BTreeSet::new(), BTreeMap::new());
        Self { filters, subscribed, received, next_id: 1, asked, churns }
    }

    /// It asks to be subscribed, or not to be any more.
    pub fn ask(&mut self, out: &mut Vec<u8>, subscribe: bool, filters: &[(String, QoS)]) {
        let id = PacketId::new(self.next_id).unwrap_or(PacketId::MIN);
        self.next_id = self.next_id % 60_000 + 1;
        let parsed: Vec<(TopicFilter, QoS)> = filters
            .iter()
            .filter_map(|(filter, qos)| {
                Some((TopicFilter::parse(filter, &wire::Limits::PROTOCOL).ok()?, *qos))
            })
            .collect();
        if subscribe {
            wire::put_subscribe(out, id, &parsed);
        } else {
            let filters: Vec<TopicFilter> = parsed.into_iter().map(|(filter, _)| filter).collect();
            wire::put_unsubscribe(out, id, &filters);
        }
        self.asked.insert(id, (subscribe, filters.to_vec()));
    }
}
