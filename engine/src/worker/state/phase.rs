//! The life of a connection, as one enum of phases. This file decides which phase follows which; it owns nothing else.
//!
//! ```text
//!   ProxyHeader -- HeaderRead --> AwaitConnect -- Moves --> Moving -- HasMoved --> Moved
//!                                  |   |
//!                                  |   +-- Asks --> Claiming -- Granted --> LetIn --+
//!                                  |                                                |
//!                                  +-------------- Attached ------------------------+--> AwaitConnack
//!                                                                                          | ConnackSent
//!                                                                                          v
//!   each of these but Moving and Moved: Drains --> Draining                              Established
//!   each of these, and Draining:        Closes --> Closing
//! ```
//!
//! Who takes each edge:
//!
//! | edge | taken by |
//! |---|---|
//! | `HeaderRead` | `connection/packets.rs`, when the PROXY header is off the front |
//! | `Moves`, `HasMoved` | `connect`, when the client's home is another worker; `connection/io.rs`, with the socket |
//! | `Asks`, `Granted` | `claim` and `granted` in `worker/peer_publish.rs`; in a cluster only |
//! | `Attached` | `attach_session`, when the connection has its session |
//! | `ConnackSent` | `connack_sent`, when CONNACK stands in the outgoing buffer |
//! | `Drains` | `drain_conn`, in a shutdown and in `broker drain` |
//! | `Closes` | `Worker::close`, for any reason; `connection/io.rs`, when a draining connection is done |
//! | `TakesLeave` | `close_old` and `connection/io.rs`, when a DISCONNECT stands unread behind another end |
//! | `Died` | `check_timers`, when the actor does not answer |
//! | `Detached` | `detach`: the session goes on without the connection |
//!
//! [`Draining`](Phase::Draining) and [`Closing`](Phase::Closing) keep how far the connection had come
//! ([`Reached`]): a draining connection still gets its CONNACK and its messages, and [`Event::Detached`] gives back
//! what a closing one still holds (a claim, a place among those let in, a session with its will).
//!
//! No phase, and left as fields of `Conn`: what may change in any phase or says how much (`paused`, `v31`,
//! `held`, `replaying`, `unrouted`, `wants_pump`, `streams`, `log_waits`, `undecoded`, `dirty`, the clocks), what goes
//! with one phase (`claiming_ms`, `patient_ms` and `hides_end` of `Claiming`; `drain_at` and `drain_ms` of
//! `Draining`), and `session`, the number of the slot that [`Phase::is_connected`] says there is.
//!
//! Invariants, which the tests below walk: nothing leaves `Closing` or `Moved` (the reason of a `Closing` may still
//! become `Disconnect` or `ActorDied`); CONNACK goes out at most once; a
//! PUBLISH is handled in `Established` only; a claim, a place and a session are given back exactly once.

use std::num::NonZeroU32;

use crate::metrics::CloseReason;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// A PROXY header comes first and has not been read.
    ProxyHeader,
    /// The next packet is to be CONNECT.
    AwaitConnect,
    /// The client's home is this other worker: the socket goes there.
    Moving(u16),
    /// The socket is with another worker.
    Moved,
    /// The cluster is asked whether the client may be let in, by the number of this claim.
    Claiming(NonZeroU32),
    /// The client may be let in: its CONNECT is handled next.
    LetIn,
    /// The connection has its session, and CONNACK waits for the store.
    AwaitConnack,
    /// CONNACK is out: packets go both ways.
    Established,
    /// The socket is no longer read; the connection closes when everything is answered.
    Draining(Reached),
    /// The connection is to end, or has ended, and why.
    Closing(CloseReason, Reached),
}

/// How far a connection had come that drains or closes: what it still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// It holds nothing, or has given everything back.
    Nothing,
    /// [`Phase::Claiming`].
    Claiming(NonZeroU32),
    /// [`Phase::LetIn`].
    LetIn,
    /// [`Phase::AwaitConnack`].
    AwaitConnack,
    /// [`Phase::Established`].
    Established,
}

/// What takes a connection from one phase to the next; see the module for who says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The PROXY header has been read.
    HeaderRead,
    /// A CONNECT belongs to this other worker.
    Moves(u16),
    /// The other worker has the socket.
    HasMoved,
    /// The cluster is asked, by a claim of this number.
    Asks(NonZeroU32),
    /// The cluster lets in the client of this claim.
    Granted(NonZeroU32),
    /// The connection has its session.
    Attached,
    /// CONNACK with return code 0 is in the outgoing buffer.
    ConnackSent,
    /// The node drains or stops.
    Drains,
    /// The connection is to end.
    Closes(CloseReason),
    /// The client has sent DISCONNECT, as the end of its connection finds.
    TakesLeave,
    /// The actor stalls and is aborted.
    Died,
    /// The connection is over; this is why, when no reason was there before.
    Detached(CloseReason),
}

impl Phase {
    /// The phase that follows; `None` where the event changes nothing.
    pub fn after(self, event: Event) -> Option<Self> {
        use Event as E;
        let next = match (self, event) {
            (Self::ProxyHeader, E::HeaderRead) => Self::AwaitConnect,
            (Self::AwaitConnect, E::Moves(home)) => Self::Moving(home),
            (Self::Moving(_), E::HasMoved) => Self::Moved,
            (Self::AwaitConnect, E::Asks(claim)) => Self::Claiming(claim),
            (_, E::Granted(claim)) if self.claim() == Some(claim) => match self {
                // What it had asked for is given back when it is detached.
                Self::Closing(why, _) => Self::Closing(why, Reached::LetIn),
                Self::Draining(_) => Self::Draining(Reached::LetIn),
                _ => Self::LetIn,
            },
            (_, E::Attached) if self.takes_connect() => Self::AwaitConnack,
            (Self::AwaitConnack, E::ConnackSent) => Self::Established,
            (Self::Draining(Reached::AwaitConnack), E::ConnackSent) => {
                Self::Draining(Reached::Established)
            }
            // Another worker has them, or is about to.
            (Self::Moved, _) | (Self::Moving(_), E::Drains | E::Closes(_)) => return None,
            // There is no will to discard.
            (_, E::TakesLeave) if !self.is_connected() => return None,
            (Self::Closing(CloseReason::Drain | CloseReason::Shutdown, reached), E::TakesLeave) => {
                Self::Closing(CloseReason::Disconnect, reached)
            }
            (Self::Closing(_, reached), E::Died) => Self::Closing(CloseReason::ActorDied, reached),
            // The first reason counts: a DISCONNECT that a takeover follows discards the will all the same.
            (Self::Closing(why, _), E::Detached(_)) => Self::Closing(why, Reached::Nothing),
            (Self::Closing(..), _) | (Self::Draining(_), E::Drains) => return None,
            (_, E::Drains) => Self::Draining(self.reached()),
            (_, E::Closes(why)) => Self::Closing(why, self.reached()),
            (_, E::TakesLeave) => Self::Closing(CloseReason::Disconnect, self.reached()),
            (_, E::Died) => Self::Closing(CloseReason::ActorDied, self.reached()),
            (_, E::Detached(why)) => Self::Closing(why, Reached::Nothing),
            _ => return None,
        };
        Some(next)
    }

    /// How far the connection has come, whether it drains or closes or not.
    pub fn reached(self) -> Reached {
        match self {
            Self::ProxyHeader | Self::AwaitConnect | Self::Moving(_) | Self::Moved => {
                Reached::Nothing
            }
            Self::Claiming(claim) => Reached::Claiming(claim),
            Self::LetIn => Reached::LetIn,
            Self::AwaitConnack => Reached::AwaitConnack,
            Self::Established => Reached::Established,
            Self::Draining(reached) | Self::Closing(_, reached) => reached,
        }
    }

    /// CONNACK is out and the connection is not to end: messages may be sent.
    #[inline]
    pub fn is_live(self) -> bool {
        matches!(self, Self::Established | Self::Draining(Reached::Established))
    }

    /// CONNACK is out, also of a connection that closes and still has its session.
    #[inline]
    pub fn is_established(self) -> bool {
        self.reached() == Reached::Established
    }

    /// CONNECT was accepted and its CONNACK waits for the store: nothing behind it is looked at, so
    /// that no answer comes before it ([MQTT-3.2.0-1]).
    #[inline]
    pub fn awaits_connack(self) -> bool {
        self.reached() == Reached::AwaitConnack
    }

    /// CONNECT was accepted, and the connection has its session still.
    #[inline]
    pub fn is_connected(self) -> bool {
        matches!(self.reached(), Reached::AwaitConnack | Reached::Established)
    }

    /// The connection may get its session.
    pub fn takes_connect(self) -> bool {
        matches!(self, Self::AwaitConnect | Self::LetIn)
    }

    /// The claim by which the cluster is asked, whether the connection drains or closes or not.
    #[inline]
    pub fn claim(self) -> Option<NonZeroU32> {
        match self.reached() {
            Reached::Claiming(claim) => Some(claim),
            _ => None,
        }
    }

    /// Why the connection is to end.
    #[inline]
    pub fn closing(self) -> Option<CloseReason> {
        match self {
            Self::Closing(why, _) => Some(why),
            _ => None,
        }
    }

    /// The connection drains, and is not to end yet.
    #[inline]
    pub fn is_draining(self) -> bool {
        matches!(self, Self::Draining(_))
    }

    /// What has come from the socket is decoded in this phase, credit given.
    pub fn reads(self) -> bool {
        matches!(self, Self::ProxyHeader | Self::AwaitConnect | Self::LetIn | Self::Established)
    }
}

#[cfg(test)]
mod tests;
