//! What stands in the inboxes of a node's parts, and what it wants of the outside.

use std::sync::Arc;

use bytes::Bytes;

use super::super::store::{Batch, Entry, Message, OrphanedState, Request, Stored};
use super::CompletionToken;
use super::claims::Release;
use crate::cluster::MembershipView;
use crate::cluster::message::Handed;
use crate::cluster::stream_marker::PublishStream;

#[derive(Debug, Clone)]
pub enum Effect {
    Store {
        op: u64,
        request: Request,
    },
    /// A publish is acknowledged.
    Acknowledge(Message),
    /// CONNACK, and SUBACK where the session is new.
    Connected {
        client: Arc<str>,
        connection: u64,
        present: bool,
    },
    Deliver {
        client: Arc<str>,
        connection: u64,
        sequence: u64,
        message: Message,
    },
    /// A connection ends.
    Closed {
        client: Arc<str>,
        connection: u64,
    },
    /// Its lease is another's.
    Exit(&'static str),
}

#[derive(Debug)]
pub enum PeerWork {
    Publishes { node: usize, group: u64, body: Vec<u8>, tokens: Vec<CompletionToken> },
    Interest(Option<CompletionToken>),
    Consumed { node: usize, incarnation: u64, bytes: u64 },
    Stored { node: usize, incarnation: u64, batch: u64 },
    Members(MembershipView),
    Claim { worker: u16, connection: u64, client: Arc<str>, known: bool },
    Gone { client: Arc<str>, seen: u64 },
    Holds(Arc<str>),
    Offer { id: u64, client: Arc<str>, to: Arc<str>, filters: Vec<(Arc<str>, u8)>, orphan: u64 },
    Abort(u64),
    Recover { id: u64, client: Arc<str>, session: u64 },
    Expected(u64),
    MarkerPassed { marker: StreamMarker, router: (u16, u16) },
    NodeMarked { id: u64, origin: usize },
    ResentSeen { incarnation: u64, worker: u16, origin: usize },
    Released { owner: Arc<str>, ticket: u64, client: Arc<str>, handed: Option<Handed> },
    Looked { request: u64, holder: Option<(u64, u64)>, taken: Option<Box<Stored>> },
    Sealed { incarnation: u64, orphaned: Option<OrphanedState> },
    TakenOver { incarnation: u64, incarnations: Vec<u64>, clients: Vec<Arc<str>> },
}

#[derive(Debug, Clone)]
pub enum MarkerReason {
    Handover { id: u64, client: Arc<str>, here: bool },
    Successor { incarnation: u64, successor: usize },
}

#[derive(Debug, Clone)]
pub struct StreamMarker {
    pub reason: MarkerReason,
    pub to: Vec<usize>,
}

#[derive(Debug)]
pub enum RouterWork {
    Publish(Message),
    PeerBatch {
        node: usize,
        incarnation: u64,
        body: Bytes,
    },
    /// Of another router; what waits for it, and the transaction it is a part of.
    Deliver {
        items: Vec<Publish>,
        late: Vec<CompletionToken>,
        transaction: Option<u64>,
    },
    Expect {
        id: u64,
        client: Arc<str>,
        filters: Vec<(Arc<str>, u8)>,
    },
    /// Behind what it forgets.
    Forget {
        client: Arc<str>,
    },
    InsertMarker(StreamMarker),
    ForwardMarker {
        id: u64,
        client: Arc<str>,
        stream: PublishStream,
        routers: u16,
    },
    MarkerArrived {
        id: u64,
        client: Arc<str>,
        stream: PublishStream,
        routers: u16,
    },
    Resent {
        incarnation: u64,
        stream: PublishStream,
        routers: u16,
    },
    /// Of a node that is gone: behind what stands in the inboxes of all routers.
    Behind(Box<RouterWork>),
    ResentHere {
        incarnation: u64,
        stream: PublishStream,
        routers: u16,
    },
}

#[derive(Debug)]
pub enum ManagerWork {
    Connect { client: Arc<str>, connection: u64 },
    Disconnected { client: Arc<str>, connection: u64 },
    Got { client: Arc<str>, connection: u64, sequence: u64 },
    Completed(CompletionToken),
    Granted { client: Arc<str>, connection: u64, taken: Option<Box<Stored>>, admission: u64 },
    Release(Release),
    Page { slot: u32, stamp: u64, page: Vec<(u64, Entry)> },
    TakeOver { sessions: Vec<Stored>, incarnation: u64 },
    AllMarked { id: u64, client: Arc<str> },
    KeepSession { id: u64, client: Arc<str> },
    HandedOver { id: u64, client: Arc<str> },
    Settled { incarnation: u64 },
    Recovered { id: u64, client: Arc<str>, taken: Option<Box<Stored>> },
}

/// A publish on its way to sessions: where it was published, and how it came here.
#[derive(Debug, Clone, Copy)]
pub struct Publish {
    pub message: Message,
    pub stream: PublishStream,
    pub orphan: u64,
    pub batch: Option<Batch>,
}

#[derive(Debug)]
pub enum Continuation {
    Publish(Message),
    Peer { node: usize, incarnation: u64, batch: u64 },
    Forward(CompletionToken),
    Subscribed { client: Arc<str>, connection: u64 },
}
