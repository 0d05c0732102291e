//! What PeersActor keeps of one other node: the link, and what was sent and is not stored there yet.
//!
//! Bounds: `cluster.max_link_bytes` for what nobody waits for; what somebody waits for, by the
//! windows of the publishers.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hydrant_protocol::cluster::link::{Class, Config, Identity, Link};
use hydrant_protocol::cluster::message::{self, Control, Interest, TakenOver};

use crate::cluster::{Node, NodeIndex};
use crate::messages::CompletionToken;
use crate::now::Boot;
use crate::say;

/// A link that is down for so long is not about to be up again: its node is dead, frozen or cut off.
const OUT_OF_REACH: Duration = Duration::from_secs(1);
/// Bytes of control messages in one frame, about; far below the largest.
const FRAME: usize = 1 << 20;
/// Control messages in one frame.
const AT_ONCE: usize = 256;

/// A batch whose end somebody waits for.
#[derive(Debug)]
pub struct Pending {
    /// Kept when it is for queues: they outlive the node.
    pub body: Option<Bytes>,
    /// Answered when it is stored there.
    pub tokens: Vec<CompletionToken>,
    /// The incarnation it was meant for.
    pub incarnation: u64,
    /// The link has it.
    pub sent: bool,
}

/// What of a batch's prepared publishes has to be forgotten first.
#[derive(Debug, Clone, Copy)]
pub struct Prepared {
    /// The router.
    pub router: u16,
    /// The highest number of it; [`u64::MAX`]: a lost node's.
    pub number: u64,
    /// The incarnation that has to know them.
    pub incarnation: u64,
}

/// What an incarnation is told that knows nothing of this node.
pub struct Greeting {
    /// This node's lineage.
    pub lineage: u64,
    /// What this node has taken over.
    pub taken_over: Vec<TakenOver>,
    /// It awaits no markers for that.
    pub settled: bool,
    /// What it wants.
    pub whole: Vec<(Arc<str>, Interest)>,
    /// The number of the last change of that.
    pub announced: u64,
}

/// See the module.
pub struct PeerLink {
    pub index: NodeIndex,
    pub node: Arc<Node>,
    /// Where it listens, and its incarnation, while it is a member.
    pub member: Option<(String, u64)>,
    /// The start of it that was known last, as a member or by its link; 0: none.
    pub known: u64,
    pub link: Link,
    /// The TCP connection it runs over, counted.
    pub connection: u64,
    /// There is something to send.
    pub wakes: bool,
    /// Since when it is not up.
    pub down_since: Option<Boot>,
    /// A task dials it.
    pub dialled: bool,
    /// The incarnation that knows what this node wants.
    pub greeted: u64,
    /// The last change of interest it confirmed.
    pub confirmed: u64,
    /// By number.
    pub pending: BTreeMap<u64, Pending>,
    /// Batches with prepared publishes, which it must know by their ids until the store has forgotten them here.
    pub prepared: BTreeMap<u64, Prepared>,
    /// The last [`Control::Answered`] that it was told.
    pub answered: u64,
    /// A batch for its queues was sent after that.
    pub sent_since: bool,
    /// A retained message was changed while it was not there.
    pub untold: bool,
    /// Not 0: that batches of it are stored is kept in the store, and may be forgotten when it says so.
    pub kept: u8,
    controls: Vec<Control>,
}

impl PeerLink {
    pub fn new(index: NodeIndex, node: Arc<Node>, me: Identity) -> Self {
        let peer = Arc::clone(&node.id);
        Self {
            index,
            node,
            member: None,
            known: 0,
            link: Link::new(Config::default(), me, peer),
            connection: 0,
            wakes: false,
            down_since: None,
            dialled: false,
            greeted: 0,
            confirmed: 0,
            pending: BTreeMap::new(),
            prepared: BTreeMap::new(),
            answered: 0,
            sent_since: false,
            untold: false,
            kept: 0,
            controls: Vec::new(),
        }
    }

    /// Queues a control message; [`PeerLink::flush`] sends it with others in one frame.
    pub fn send_control(&mut self, message: Control) {
        self.controls.push(message);
        if self.controls.len() >= AT_ONCE {
            self.flush();
        }
    }

    /// Sends the control messages that were queued.
    pub fn flush(&mut self) {
        if self.controls.is_empty() {
            return;
        }
        let messages = mem::take(&mut self.controls);
        self.send_controls(&messages);
    }

    fn send_controls(&mut self, messages: &[Control]) {
        let body = message::encode(messages);
        if body.len() > FRAME && messages.len() > 1 {
            let (first, second) = messages.split_at(messages.len() / 2);
            self.send_controls(first);
            return self.send_controls(second);
        }
        if let Err(error) = self.link.send(Class::Control, message::CONTROL, body) {
            say::error!(each: &self.node.id, target: "hydrant::peers", "{}: {error}", self.node.id);
        }
        self.wakes = true;
    }

    /// Sends a batch of publishes, behind all that was told before.
    pub fn send(&mut self, body: Bytes) {
        self.flush();
        if let Err(error) = self.link.send(Class::Data, message::PUBLISHES, body) {
            say::error!(each: &self.node.id, target: "hydrant::peers", "{}: {error}", self.node.id);
        }
        self.wakes = true;
    }

    /// What this node wants, to an incarnation that knows nothing of it.
    pub fn greet(&mut self, incarnation: u64, greeting: Greeting) {
        let Greeting { lineage, taken_over, settled, whole, announced } = greeting;
        self.greeted = incarnation;
        self.send_control(Control::InterestAnew { lineage, taken_over, settled });
        for changes in whole.chunks(AT_ONCE) {
            self.send_control(Control::Interest { request: 0, changes: changes.to_vec() });
            self.flush();
        }
        self.send_control(Control::InterestWhole);
        self.send_control(Control::Interest { request: announced, changes: Vec::new() });
        self.flush();
    }

    /// It is kept in the store which batches of it are stored. What it says next may be about those before this one
    /// only.
    pub fn keeps_batches(&mut self) {
        self.kept = 2;
    }

    /// It is told anew which batches are answered: it may know others than before.
    pub fn answer_again(&mut self) {
        (self.answered, self.sent_since) = (0, true);
    }

    /// Whether it can be spoken to: it is a member, or was and is still there.
    pub fn is_there(&self) -> bool {
        self.is_member() || self.link.is_up()
    }

    /// Sends what was kept back for the incarnation that is there.
    pub fn send_kept(&mut self) {
        if !self.is_there() {
            return;
        }
        let there = self.link.peer_incarnation();
        let mut kept = Vec::new();
        for pending in self.pending.values_mut() {
            if there == Some(pending.incarnation) && !mem::replace(&mut pending.sent, true) {
                kept.extend(pending.body.clone());
            }
        }
        kept.into_iter().for_each(|body| self.send(body));
    }

    /// The tokens of what nobody needs to wait for while the node cannot be reached.
    pub fn give_up_live(&mut self) -> Vec<CompletionToken> {
        let mut tokens = Vec::new();
        self.pending.retain(|_, pending| {
            if pending.body.is_none() {
                tokens.append(&mut pending.tokens);
            }
            pending.body.is_some()
        });
        tokens
    }

    /// The tokens of all batches below a number, which nobody waits for any more: a mistake that tests plant.
    pub fn take_below(&mut self, batch: u64) -> Vec<CompletionToken> {
        let above = self.pending.split_off(&batch);
        let below = mem::replace(&mut self.pending, above);
        below.into_values().flat_map(|pending| pending.tokens).collect()
    }

    /// Nobody waits for what it has to confirm.
    pub fn is_out_of_reach(&self, now: Boot) -> bool {
        self.is_down_for(now, OUT_OF_REACH)
    }

    /// It has been down for longer than this.
    pub fn is_down_for(&self, now: Boot, time: Duration) -> bool {
        self.down_since.is_some_and(|since| now.since(since) > time)
    }

    /// Its node is a member by this incarnation.
    pub fn is_incarnation(&self, incarnation: u64) -> bool {
        self.member.as_ref().is_some_and(|member| member.1 == incarnation)
    }

    /// It is in the members as they are known here.
    pub fn is_member(&self) -> bool {
        self.member.is_some()
    }
}
