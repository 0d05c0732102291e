//! What a worker does with the messages of its inboxes, one at a time and in their order.
//!
//! A message is taken from its inbox once it is handled. One that made its step panic comes again: a token that was
//! completed changes nothing the second time, a page goes on behind the last entry that was taken back, and a batch
//! behind the last publish that was routed.

use crate::messages::{ManagerWork, RouterWork};

use super::Worker;

impl Worker {
    /// Store, log or coordinator have answered or asked. `given_up`: it has ended too many steps. Counts the tokens.
    pub fn handle_message(&self, work: &mut ManagerWork, given_up: bool) -> u64 {
        match work {
            ManagerWork::Completed(tokens) => {
                let mut completed = 0;
                while let Some(token) = tokens.front().copied() {
                    self.complete(token);
                    tokens.pop_front();
                    completed += 1;
                }
                return completed;
            }
            ManagerWork::Refused(token) => self.refuse(*token),
            ManagerWork::QueuePage { slot, request, .. } if given_up => {
                self.give_up_page(*slot, *request);
            }
            ManagerWork::QueuePage { slot, request, entries } => {
                self.queue_page(*slot, *request, entries);
            }
            ManagerWork::Granted { conn, client, taken, admission } => {
                self.granted(*conn, client, taken.as_deref(), *admission);
            }
            ManagerWork::Release { owner, ticket, client, to } => {
                self.give_up_session(owner, *ticket, client, to);
            }
            ManagerWork::AllMarked { id, client } => self.all_marked(*id, client),
            ManagerWork::KeepSession { id, client } => self.keep_session(*id, client),
            ManagerWork::HandedOver { id, client } => self.handed_over(*id, client),
            ManagerWork::Recovered { id, client, taken } => {
                self.recovered(*id, client, taken.as_deref());
            }
            ManagerWork::Settled { incarnation } => self.settled(*incarnation),
            ManagerWork::TakeOver { sessions, wills, prepared, incarnation, batches } => {
                self.take_over_sessions(sessions, wills, prepared, (*incarnation, batches));
            }
            ManagerWork::Visited { client, visits } => {
                self.has_visited(client, std::mem::take(visits));
            }
            ManagerWork::FinishOpen => self.finish_prepared(),
        }
        0
    }

    /// The same from other workers and nodes, in the order of the publishes. `before_each` as for
    /// [`Self::route_all`]. Counts what was handled.
    pub fn handle_router_message(&self, work: &mut RouterWork, before_each: impl Fn()) -> u64 {
        match work {
            RouterWork::Deliver(batch) => return self.route_remote(batch, before_each),
            RouterWork::PeerBatch(batch) => return self.route_peer(batch, before_each),
            RouterWork::InsertMarker(marker) => self.pass_marker(marker),
            RouterWork::ForwardMarker { id, client, stream, routers } => {
                self.pass_marker_on(*id, client, *stream, *routers);
            }
            RouterWork::MarkerArrived { id, client, stream, routers } => {
                self.marked(*id, client, *stream, *routers);
            }
            RouterWork::Resent { incarnation, stream, routers } => {
                self.pass_on_resent(*incarnation, *stream, *routers);
            }
            RouterWork::ResentHere { incarnation, stream, routers } => {
                self.resent(*incarnation, *stream, *routers);
            }
            RouterWork::RetainedReached { topic, version, stream, live } => {
                self.retained_reached_here(topic, *version, *stream, *live);
            }
            RouterWork::Forget { client } => self.forget_expected(client),
            RouterWork::Expect { id, client, filters } => self.expect(*id, client, filters),
        }
        1
    }

    /// A message for the router has ended too many steps: the part of it that does so is given up.
    pub fn skip_poisoned_message(&self, work: &mut RouterWork) {
        match work {
            RouterWork::Deliver(batch) => self.skip_poisoned_remote(batch),
            RouterWork::PeerBatch(batch) => self.skip_poisoned_peer(batch),
            RouterWork::RetainedReached { live, .. } => *live = false,
            _ => {}
        }
    }
}
