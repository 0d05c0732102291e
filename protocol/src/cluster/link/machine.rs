//! The machine: handshake, both streams, heartbeats.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::connection::Connection;
use super::frame::{self, Ack, Body, DATA_HEAD, kind};
use super::hello::{self, Hello, Resume, VERSIONS};
use super::incoming::Incoming;
use super::outgoing::{self, Outgoing, Unacknowledged};
use super::{Class, Config, Identity, LinkError, LinkStats, Role};

/// What happened, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A connection has come through the handshake.
    Up {
        /// The peer's incarnation.
        incarnation: u64,
        /// Version of the peer protocol, the highest that both speak.
        version: u16,
    },
    /// The connection that was up has ended. Both streams go on with the next one.
    Down,
    /// The next frame of the peer. It counts against the window until [`Link::consumed`].
    Frame {
        /// From 1, without a gap, per incarnation pair.
        sequence: u64,
        /// The application's kind.
        kind: u8,
        /// Its body.
        body: Bytes,
    },
    /// The peer has been started anew and knows nothing of before; [`Event::Up`] follows. What it
    /// did not acknowledge waits in [`Link::take_unacknowledged`], and both streams begin anew.
    PeerRestarted {
        /// Its incarnation before.
        old: u64,
        /// Its incarnation now.
        new: u64,
    },
    /// There is room for data again: half of the window is free, after there was none. Also comes
    /// after the first [`Event::Up`].
    RoomAgain,
    /// Nothing has come for too long: close the TCP connection.
    Dead,
}

/// One end of a link; see the module. Times are milliseconds that never go back.
///
/// After each call but [`Link::poll_event`] there may be something to [`Link::transmit`] and another
/// [`Link::next_timeout`]. Events are polled before the next [`Link::send`]: what is sent after a peer
/// was restarted is for its new incarnation.
#[derive(Debug)]
pub struct Link {
    config: Config,
    me: Identity,
    peer: Arc<str>,
    /// The highest seen.
    peer_incarnation: Option<u64>,
    connection: Option<Connection>,
    outgoing: Outgoing,
    incoming: Incoming,
    events: VecDeque<Event>,
    lost: Vec<Unacknowledged>,
    stats: LinkStats,
    /// It was up before.
    was_up: bool,
    /// When it was called last.
    seen: u64,
}

impl Link {
    /// The link from this node to the one with the id `peer`.
    pub fn new(mut config: Config, me: Identity, peer: Arc<str>) -> Self {
        config.window_frames = config.window_frames.max(1);
        config.window_bytes = config.window_bytes.max(config.max_frame_bytes.into());
        Self {
            config,
            me,
            peer,
            peer_incarnation: None,
            connection: None,
            outgoing: Outgoing::default(),
            incoming: Incoming::default(),
            events: VecDeque::new(),
            lost: Vec::new(),
            stats: LinkStats::default(),
            was_up: false,
            seen: 0,
        }
    }

    /// A TCP connection is open; it replaces one that was not reported as closed.
    pub fn connected(&mut self, now: u64, role: Role) {
        self.disconnected(now);
        self.connection = Some(Connection::new(now, role));
    }

    /// Whether the hello is of this link's peer: for an acceptor, before [`Link::connected`] puts a
    /// new connection in the place of one that may be good.
    ///
    /// # Errors
    /// [`LinkError::WrongCluster`], [`LinkError::OwnNodeId`], [`LinkError::WrongNodeId`],
    /// [`LinkError::OlderIncarnation`].
    pub fn check(&self, hello: &Hello) -> Result<(), LinkError> {
        if hello.cluster != *self.me.cluster {
            return Err(LinkError::WrongCluster {
                ours: Arc::clone(&self.me.cluster),
                theirs: hello.cluster.clone(),
            });
        }
        if hello.node_id == *self.me.node_id {
            return Err(LinkError::OwnNodeId(Arc::clone(&self.me.node_id)));
        }
        if hello.node_id != *self.peer {
            return Err(LinkError::WrongNodeId {
                expected: Arc::clone(&self.peer),
                theirs: hello.node_id.clone(),
            });
        }
        match self.peer_incarnation {
            Some(known) if hello.incarnation < known => Err(LinkError::OlderIncarnation {
                node_id: Arc::clone(&self.peer),
                known,
                theirs: hello.incarnation,
            }),
            _ => Ok(()),
        }
    }

    /// The TCP connection has ended, for whatever reason.
    pub fn disconnected(&mut self, now: u64) {
        self.observe(now);
        if self.connection.take().is_some_and(|connection| connection.version.is_some()) {
            self.events.push_back(Event::Down);
        }
    }

    /// Bytes of the connection, in any pieces. Frames become events; an incomplete one is kept.
    ///
    /// # Errors
    /// Any [`LinkError`] but [`LinkError::BodyTooLarge`]. Frames before the fault have become events.
    /// The caller writes what [`Link::transmit`] still gives (a refused dialler is to learn why),
    /// closes, and reports [`Link::disconnected`].
    pub fn receive(&mut self, now: u64, bytes: &[u8]) -> Result<(), LinkError> {
        self.observe(now);
        let result = self.parse(now, bytes);
        if result.is_err()
            && let Some(connection) = &mut self.connection
        {
            connection.failed = true;
        }
        result
    }

    /// Appends what is to be written to the connection now; how many bytes. More than `max_bytes`
    /// only for a single frame that is larger. Called again when that is written, until it gives
    /// nothing.
    pub fn transmit(&mut self, now: u64, out: &mut Vec<u8>, max_bytes: usize) -> usize {
        self.observe(now);
        let start = out.len();
        let Some(connection) = &mut self.connection else {
            return 0;
        };
        if std::mem::take(&mut connection.hello_due) {
            Hello {
                versions: VERSIONS,
                cluster: self.me.cluster.to_string(),
                node_id: self.me.node_id.to_string(),
                incarnation: self.me.incarnation,
                resume: Resume {
                    incarnation: self.peer_incarnation.unwrap_or(0),
                    sequence: self.incoming.received(),
                },
                window_frames: self.config.window_frames,
                window_bytes: self.config.window_bytes,
            }
            .put(out);
        }
        if connection.is_up() {
            let others = connection.ping_due || self.outgoing.can_write();
            if let Some(ack) = self.incoming.take_ack(others, &self.config) {
                ack.put(out);
            }
            let max = start.saturating_add(max_bytes);
            self.outgoing.write(out, start, max, &mut self.stats);
            if connection.ping_due && out.len() == start {
                frame::put_head(out, kind::PING, 0);
            }
        }
        if out.len() > start {
            connection.sent(now);
        }
        out.len() - start
    }

    /// What happened next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The time of [`Link::next_timeout`] has come.
    ///
    /// # Errors
    /// [`LinkError::HandshakeTimeout`]; a dead peer is an event.
    pub fn handle_timeout(&mut self, now: u64) -> Result<(), LinkError> {
        self.observe(now);
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        if connection.handle_timeout(now, &self.config)? {
            self.events.push_back(Event::Dead);
        }
        self.incoming.handle_timeout(now, &self.config);
        Ok(())
    }

    /// When [`Link::handle_timeout`] has to be called; `None` without a connection.
    pub fn next_timeout(&self) -> Option<u64> {
        let connection = self.connection.as_ref()?;
        let heartbeat = connection.next_timeout(&self.config)?;
        let ack = self.incoming.next_timeout(&self.config).filter(|_| connection.is_up());
        Some(ack.map_or(heartbeat, |ack| ack.min(heartbeat)))
    }

    /// Takes a frame for the peer, whether there is room or not; its sequence. It is kept until the
    /// peer acknowledges it. Without room ([`Link::has_room`]) it counts in
    /// [`LinkStats::past_bound`], and the caller must stop.
    ///
    /// # Errors
    /// [`LinkError::BodyTooLarge`].
    pub fn send(&mut self, class: Class, kind: u8, body: Bytes) -> Result<u64, LinkError> {
        let max = self.max_body();
        if body.len() > max {
            return Err(LinkError::BodyTooLarge { len: body.len(), max });
        }
        Ok(self.outgoing.push(class, kind, body, &mut self.stats))
    }

    /// Largest body of a frame, in bytes.
    pub fn max_body(&self) -> usize {
        (self.config.max_frame_bytes as usize).saturating_sub(1 + DATA_HEAD)
    }

    /// Frames and bytes that the peer's window still takes; nothing before its first hello.
    pub fn room(&self, class: Class) -> (u64, u64) {
        self.outgoing.room(class)
    }

    /// Room for at least one byte of one frame. When there is none for data, [`Event::RoomAgain`]
    /// will come.
    pub fn has_room(&self, class: Class) -> bool {
        outgoing::has(self.room(class))
    }

    /// Frames of the peer, and the bytes of their bodies, take no more memory here: it may send as
    /// many others. `incarnation` is the peer's at the time they came.
    pub fn consumed(&mut self, now: u64, incarnation: u64, frames: u64, bytes: u64) {
        self.observe(now);
        if self.peer_incarnation == Some(incarnation) {
            self.incoming.consumed(now, frames, bytes, &self.config);
        }
    }

    /// What peers that were restarted did not acknowledge, in the order of sending; to be taken at
    /// [`Event::PeerRestarted`], until then it is kept.
    pub fn take_unacknowledged(&mut self) -> Vec<Unacknowledged> {
        std::mem::take(&mut self.lost)
    }

    /// Frames and bytes kept for the peer.
    pub fn unacknowledged(&self) -> (u64, u64) {
        self.outgoing.unacknowledged()
    }

    /// A connection is through the handshake and has not failed.
    pub fn is_up(&self) -> bool {
        self.connection.as_ref().is_some_and(Connection::is_up)
    }

    /// The peer's incarnation, as of its last hello.
    pub fn peer_incarnation(&self) -> Option<u64> {
        self.peer_incarnation
    }

    /// What it has done.
    pub fn stats(&self) -> LinkStats {
        self.stats
    }

    /// A caller that keeps [`Link::next_timeout`] calls more often than that, unless it stood still.
    fn observe(&mut self, now: u64) {
        if now.saturating_sub(self.seen) > self.config.dead_after
            && let Some(connection) = &mut self.connection
        {
            connection.stood_still(now, &self.config);
        }
        self.seen = self.seen.max(now);
    }

    fn parse(&mut self, now: u64, mut bytes: &[u8]) -> Result<(), LinkError> {
        loop {
            let connection = match &mut self.connection {
                Some(connection) if !connection.failed => connection,
                _ => return Err(LinkError::NotConnected),
            };
            connection.received(now);
            let max = connection.max_frame(&self.config);
            let Some((kind, body)) = connection.assembler.next_frame(&mut bytes, max)? else {
                return Ok(());
            };
            if connection.version.is_some() {
                self.handle_frame(now, kind, body)?;
            } else if kind == kind::HELLO {
                // An acceptor answers also what it refuses.
                connection.hello_due |= connection.role == Role::Acceptor;
                self.handle_hello(&body)?;
            } else {
                return Err(LinkError::HelloExpected(kind));
            }
        }
    }

    fn handle_frame(&mut self, now: u64, kind: u8, body: Body<'_>) -> Result<(), LinkError> {
        match kind {
            kind::DATA => {
                let (sequence, kind) = frame::data_head(&body)?;
                let bytes = (body.len() - DATA_HEAD) as u64;
                if self.incoming.accept(now, sequence, bytes, &self.config)? {
                    self.stats.frames_in += 1;
                    self.stats.bytes_in += bytes;
                    let body = body.into_bytes(DATA_HEAD);
                    self.events.push_back(Event::Frame { sequence, kind, body });
                } else {
                    self.stats.duplicates += 1;
                }
                Ok(())
            }
            kind::ACK => {
                self.outgoing.handle_ack(Ack::parse(&body)?)?;
                self.relieve();
                Ok(())
            }
            kind::PING if body.is_empty() => Ok(()),
            kind::PING => Err(LinkError::Malformed("ping")),
            kind::HELLO => Err(LinkError::HelloTwice),
            kind => Err(LinkError::UnknownKind(kind)),
        }
    }

    fn handle_hello(&mut self, body: &[u8]) -> Result<(), LinkError> {
        let hello = Hello::parse(body)?;
        self.check(&hello)?;
        let Some(version) = hello::negotiate(VERSIONS, hello.versions) else {
            return Err(LinkError::NoCommonVersion { ours: VERSIONS, theirs: hello.versions });
        };
        let restarted = self.peer_incarnation.filter(|known| *known < hello.incarnation);
        // Of another incarnation of this node it may have anything.
        let Resume { incarnation, sequence } = hello.resume;
        if incarnation > self.me.incarnation {
            return Err(LinkError::Superseded { ours: self.me.incarnation, theirs: incarnation });
        }
        let has = if incarnation == self.me.incarnation { sequence } else { 0 };
        let (acknowledged, sent) =
            if restarted.is_some() { (0, 0) } else { self.outgoing.resumable() };
        if !(acknowledged..=sent).contains(&has) {
            return Err(LinkError::ResumeMismatch {
                node_id: Arc::clone(&self.peer),
                theirs: has,
                acknowledged,
                sent,
            });
        }
        if let Some(old) = restarted {
            self.outgoing.restart(&mut self.lost);
            self.incoming = Incoming::default();
            self.events.push_back(Event::PeerRestarted { old, new: hello.incarnation });
        }
        self.peer_incarnation = Some(hello.incarnation);
        self.outgoing.resume(has, hello.window_frames.into(), hello.window_bytes);
        self.incoming.tell_again();
        if let Some(connection) = &mut self.connection {
            connection.version = Some(version);
        }
        self.stats.reconnects += u64::from(self.was_up);
        self.was_up = true;
        self.events.push_back(Event::Up { incarnation: hello.incarnation, version });
        self.relieve();
        Ok(())
    }

    fn relieve(&mut self) {
        if self.outgoing.take_relief() {
            self.events.push_back(Event::RoomAgain);
        }
    }
}
