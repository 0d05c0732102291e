//! What a node keeps of one other (`engine/src/cluster/state/link.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;

use bytes::Bytes;

use super::CompletionToken;
use crate::cluster::link::{Class, Config, Identity, Link};
use crate::cluster::message::{self, Control, Interest};

/// A batch whose end somebody waits for.
#[derive(Debug)]
pub struct Pending {
    pub body: Bytes,
    pub tokens: Vec<CompletionToken>,
    pub incarnation: u64,
    pub sent: bool,
}

pub struct Peer {
    pub index: usize,
    pub id: Arc<str>,
    /// Its incarnation while it is a member.
    pub member: Option<u64>,
    pub link: Link,
    pub connection: Option<u64>,
    pub dialled: bool,
    pub greeted: u64,
    pub confirmed: u64,
    pub wanted: BTreeSet<Arc<str>>,
    pub anew: Option<BTreeSet<Arc<str>>>,
    pub whole: u64,
    pub pending: BTreeMap<u64, Pending>,
    controls: Vec<Control>,
}

impl Peer {
    pub fn new(index: usize, id: Arc<str>, me: Identity, config: Config) -> Self {
        Self {
            index,
            link: Link::new(config, me, Arc::clone(&id)),
            id,
            member: None,
            connection: None,
            dialled: false,
            greeted: 0,
            confirmed: 0,
            wanted: BTreeSet::new(),
            anew: None,
            whole: 0,
            pending: BTreeMap::new(),
            controls: Vec::new(),
        }
    }

    pub fn send_control(&mut self, message: Control) {
        self.controls.push(message);
    }

    pub fn flush(&mut self) {
        if !self.controls.is_empty() {
            let body = message::encode(&mem::take(&mut self.controls));
            self.link.send(Class::Control, message::CONTROL, body).unwrap();
        }
    }

    pub fn send(&mut self, body: Bytes) {
        self.flush();
        self.link.send(Class::Data, message::PUBLISHES, body).unwrap();
    }

    pub fn greet(&mut self, incarnation: u64, whole: Vec<(Arc<str>, Interest)>, announced: u64) {
        self.greeted = incarnation;
        self.send_control(Control::InterestAnew {
            lineage: 0,
            taken_over: Vec::new(),
            settled: true,
        });
        for change in whole {
            self.send_control(Control::Interest { request: 0, changes: vec![change] });
            self.flush();
        }
        self.send_control(Control::InterestWhole);
        self.send_control(Control::Interest { request: announced, changes: Vec::new() });
        self.flush();
    }

    pub fn is_there(&self) -> bool {
        self.member.is_some() || self.link.is_up()
    }

    pub fn send_kept(&mut self) {
        if !self.is_there() {
            return;
        }
        let incarnation = self.link.peer_incarnation();
        let mut kept = Vec::new();
        for pending in self.pending.values_mut() {
            let meant = incarnation.is_none_or(|it| [0, it].contains(&pending.incarnation));
            if meant && !mem::replace(&mut pending.sent, true) {
                kept.push(pending.body.clone());
            }
        }
        kept.into_iter().for_each(|body| self.send(body));
    }

    /// A mistake: what is not answered goes out again with every connection.
    pub fn send_again(&mut self) {
        let incarnation = self.link.peer_incarnation();
        self.pending
            .values_mut()
            .filter(|pending| Some(pending.incarnation) == incarnation)
            .for_each(|pending| pending.sent = false);
    }
}
