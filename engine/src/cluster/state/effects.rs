//! What the coordinator has decided and its driver carries out: messages for this node's actors, and requests.
//!
//! Invariant: everything leaves in the order in which it was decided. Messages to different actors are ordered against
//! each other: what a router expects stands before the hand-over that its manager is told of.
//! Bounds: what one step decides; a step takes at most 512 messages.

use super::requests::{Request, RequestId};
use crate::cluster::NodeIndex;
use crate::messages::{ManagerWork, PeerWork, RouterWork, StorageWork};

/// What a driver implements. It appends to an inbox and wakes it, or begins what is asked for. It does not reorder,
/// drop, fail or wait.
pub trait Push {
    /// For a worker's ConnectionManager.
    fn manager(&mut self, worker: u16, work: ManagerWork, cost: usize);
    /// For a worker's TopicRouter.
    fn router(&mut self, worker: u16, work: RouterWork, cost: usize);
    /// For StorageActor.
    fn storage(&mut self, work: StorageWork, cost: usize);
    /// For the coordinator itself, behind what waits for it already.
    fn coordinator(&mut self, work: PeerWork, cost: usize);
    /// The answer is [`PeerWork::Answered`].
    fn request(&mut self, id: RequestId, request: Request);
    /// A node is to be dialled whenever it is a member and not connected, for as long as the process lives.
    fn dial(&mut self, node: NodeIndex);
    /// There is something to send over a link: behind everything else.
    fn link(&mut self, node: NodeIndex);
    /// This node is to end, with a sentence that says why.
    fn end(&mut self, why: String);
}

#[derive(Debug)]
enum Effect {
    Manager(u16, ManagerWork, usize),
    Router(u16, RouterWork, usize),
    Storage(StorageWork, usize),
    Coordinator(PeerWork, usize),
    Request(RequestId, Request),
    Dial(NodeIndex),
    End(String),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Effects(Vec<Effect>);

impl Effects {
    /// See [`Push::manager`].
    pub fn manager(&mut self, worker: u16, work: ManagerWork, cost: usize) {
        self.0.push(Effect::Manager(worker, work, cost));
    }

    /// See [`Push::router`].
    pub fn router(&mut self, worker: u16, work: RouterWork, cost: usize) {
        self.0.push(Effect::Router(worker, work, cost));
    }

    /// See [`Push::storage`].
    pub fn storage(&mut self, work: StorageWork, cost: usize) {
        self.0.push(Effect::Storage(work, cost));
    }

    /// See [`Push::coordinator`].
    pub fn coordinator(&mut self, work: PeerWork, cost: usize) {
        self.0.push(Effect::Coordinator(work, cost));
    }

    /// See [`Push::request`].
    pub fn request(&mut self, id: RequestId, request: Request) {
        self.0.push(Effect::Request(id, request));
    }

    /// See [`Push::dial`].
    pub fn dial(&mut self, node: NodeIndex) {
        self.0.push(Effect::Dial(node));
    }

    /// See [`Push::end`].
    pub fn end(&mut self, why: String) {
        self.0.push(Effect::End(why));
    }

    /// Hands everything out, in order.
    pub fn hand_out(&mut self, to: &mut impl Push) {
        for effect in self.0.drain(..) {
            match effect {
                Effect::Manager(worker, work, cost) => to.manager(worker, work, cost),
                Effect::Router(worker, work, cost) => to.router(worker, work, cost),
                Effect::Storage(work, cost) => to.storage(work, cost),
                Effect::Coordinator(work, cost) => to.coordinator(work, cost),
                Effect::Request(id, request) => to.request(id, request),
                Effect::Dial(node) => to.dial(node),
                Effect::End(why) => to.end(why),
            }
        }
        // A take-over of many sessions is not kept room for.
        self.0.shrink_to(1024);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Order(Vec<String>);

    impl Push for Order {
        fn manager(&mut self, worker: u16, _: ManagerWork, _: usize) {
            self.0.push(format!("manager {worker}"));
        }
        fn router(&mut self, worker: u16, _: RouterWork, _: usize) {
            self.0.push(format!("router {worker}"));
        }
        fn storage(&mut self, _: StorageWork, _: usize) {
            self.0.push("storage".to_owned());
        }
        fn coordinator(&mut self, _: PeerWork, _: usize) {
            self.0.push("coordinator".to_owned());
        }
        fn request(&mut self, id: RequestId, _: Request) {
            self.0.push(format!("request {id}"));
        }
        fn dial(&mut self, node: NodeIndex) {
            self.0.push(format!("dial {node}"));
        }
        fn link(&mut self, node: NodeIndex) {
            self.0.push(format!("link {node}"));
        }
        fn end(&mut self, why: String) {
            self.0.push(why);
        }
    }

    #[test]
    fn what_was_decided_leaves_once_and_in_order() {
        let (mut effects, mut out) = (Effects::default(), Order::default());
        let storage =
            StorageWork::Write { ops: vec![], tokens: vec![], transaction: None, origin: None };
        effects.router(1, RouterWork::Forget { client: "c".into() }, 1);
        effects.manager(1, ManagerWork::FinishOpen, 1);
        effects.request(7, Request::Retained);
        effects.manager(0, ManagerWork::FinishOpen, 1);
        effects.storage(storage, 1);
        effects.coordinator(PeerWork::Interest(None), 1);
        effects.dial(2);
        effects.end("the end".to_owned());
        effects.router(0, RouterWork::Forget { client: "c".into() }, 1);
        effects.hand_out(&mut out);
        effects.hand_out(&mut out);
        let order = [
            "router 1",
            "manager 1",
            "request 7",
            "manager 0",
            "storage",
            "coordinator",
            "dial 2",
            "the end",
            "router 0",
        ];
        assert_eq!(out.0, order);
    }
}
