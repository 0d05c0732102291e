//! Stream markers: from where on, in the stream of publishes of each router of each node, what that router
//! publishes is for another node.
//!
//! A session on its way from its source to its target is marked by every stream, at both: what a stream
//! sent before its marker is the source's, what it sends behind is the target's
//! (docs/decisions/0012-stream-markers.md). In the same way every stream marks, at the successor of a lost node, that
//! it has sent again what the lost one had not stored.

use smallvec::SmallVec;

/// The publishes of one router of one node, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PublishStream {
    /// The node, by an index that the receiver gives it.
    pub node: u16,
    /// One of its routers, or [`ALL_STREAMS`].
    pub router: u16,
}

/// Instead of a router: stands for all streams of its node.
pub const ALL_STREAMS: u16 = u16::MAX;

impl PublishStream {
    /// That of a router of a node.
    pub const fn new(node: u16, router: u16) -> Self {
        Self { node, router }
    }

    /// All streams of a node.
    pub const fn all_of(node: u16) -> Self {
        Self { node, router: ALL_STREAMS }
    }
}

/// Which streams have marked something.
#[derive(Debug, Clone, Default)]
pub struct MarkedStreams {
    /// Number of the handover, or a lost incarnation.
    pub id: u64,
    passed: SmallVec<[PublishStream; 6]>,
    all: bool,
}

impl MarkedStreams {
    /// Nobody has marked it.
    pub fn new(id: u64) -> Self {
        Self { id, passed: SmallVec::new(), all: false }
    }

    /// A stream marks it, or with [`ALL_STREAMS`] a whole node. True once all the origin's `routers` have, also
    /// when they had before: a node that was restarted may have fewer of them, or more.
    pub fn mark(&mut self, stream: PublishStream, routers: u16) -> bool {
        if !self.has(stream) {
            self.passed.push(stream);
        }
        let all = PublishStream::all_of(stream.node);
        let passed = self.passed.iter().filter(|known| known.node == stream.node).count();
        let complete = self.has(all) || passed >= usize::from(routers);
        if complete {
            self.passed.retain(|known| known.node != stream.node);
            self.passed.push(all);
        }
        complete
    }

    /// Whoever comes behind this is counted as marked.
    pub fn mark_all(&mut self) {
        self.all = true;
    }

    /// Whether this stream has.
    pub fn has(&self, stream: PublishStream) -> bool {
        let all = PublishStream::all_of(stream.node);
        self.all || self.passed.iter().any(|known| *known == stream || *known == all)
    }
}

/// Whose a message for a session is that changes hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// This node's: it is queued.
    Ours,
    /// This node's once the session is here.
    OursSoon,
    /// The target's. This node keeps it until that has the session.
    Targets,
    /// The source's, or it is sent again by whoever sent it to a lost node: nothing to do.
    NotOurs,
}

/// A session that changes hands, at one of the two nodes.
#[derive(Debug, Clone, Default)]
pub struct Transit {
    /// It comes: only behind its marker a stream's messages are for it here.
    pub arrive: Option<MarkedStreams>,
    /// It goes: only before.
    pub leave: Option<MarkedStreams>,
    /// It is not here yet.
    pub absent: bool,
}

impl Transit {
    /// Whose a message of this stream is.
    pub fn whose(&self, stream: PublishStream) -> Whose {
        if self.leave.as_ref().is_some_and(|marked| marked.has(stream)) {
            Whose::Targets
        } else if self.arrive.as_ref().is_some_and(|marked| !marked.has(stream)) {
            Whose::NotOurs
        } else if self.absent {
            Whose::OursSoon
        } else {
            Whose::Ours
        }
    }

    /// It is here as any other is.
    pub fn is_over(&self) -> bool {
        self.arrive.is_none() && self.leave.is_none() && !self.absent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn of(node: u16, router: u16) -> PublishStream {
        PublishStream::new(node, router)
    }

    #[test]
    fn a_node_has_marked_when_all_its_streams_have() {
        let mut marked = MarkedStreams::new(1);
        assert!(!marked.mark(of(1, 0), 2) && !marked.mark(of(1, 0), 2));
        assert!(marked.has(of(1, 0)) && !marked.has(of(1, 1)));
        assert!(marked.mark(of(1, 1), 2));
        // Restarted with more routers, it has marked with all of them.
        assert!(marked.has(of(1, 7)) && !marked.has(of(2, 0)));
        assert!(marked.mark(PublishStream::all_of(2), 1) && marked.has(of(2, 5)));
        // Restarted with fewer.
        assert!(!marked.mark(of(3, 0), 2) && marked.mark(of(3, 0), 1));
    }

    #[test]
    fn each_message_of_a_stream_is_one_nodes() {
        let stream = of(1, 0);
        let (mut source, mut target) = (Transit::default(), Transit::default());
        source.leave = Some(MarkedStreams::new(1));
        (target.arrive, target.absent) = (Some(MarkedStreams::new(1)), true);
        assert_eq!((source.whose(stream), target.whose(stream)), (Whose::Ours, Whose::NotOurs));
        for side in [&mut source.leave, &mut target.arrive].into_iter().flatten() {
            side.mark(stream, 1);
        }
        assert_eq!((source.whose(stream), target.whose(stream)), (Whose::Targets, Whose::OursSoon));
        target.absent = false;
        assert_eq!(target.whose(stream), Whose::Ours);
        // It is asked for again before the last marker of its coming.
        target.leave = Some(MarkedStreams::new(2));
        assert_eq!((target.whose(stream), target.whose(of(2, 0))), (Whose::Ours, Whose::NotOurs));
    }
}
