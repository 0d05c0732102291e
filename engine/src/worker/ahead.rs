//! Retained QoS 2 messages: retained when they are routed, and seen by new live subscribers when the live ones get
//! them ([`hydrant_protocol::topic::Retained`]), so that no older live message follows a newer retained one.
//!
//! Invariant: each change that is ahead is reached, or given up, once: by the worker of its publisher, by the other
//! workers that get the message, or by the drop of what held it when its handling panics. The other nodes know of it
//! as ahead, too; they show it with its publish, or when they hear that it is over, or lose the node.

use std::sync::Arc;

use hydrant_protocol::QoS;
use hydrant_protocol::cluster::message::Recipients;
use hydrant_protocol::cluster::stream_marker::PublishStream;

use super::Worker;
use super::state::effects::begin_step;
use super::state::pending_acks::Exact;
use super::state::publication::Publication;
use super::state::routes::Route;
use crate::messages::PeerWork;
use crate::step_guard::StepGuard;

impl Worker {
    /// Ends a change that is ahead when the step that made it does not get to its end.
    pub(super) fn guard_ahead<'a>(&'a self, exact: &Exact) -> StepGuard<impl FnOnce() + use<'a>> {
        let (topic, version) = (Arc::clone(&exact.message.topic), exact.shows);
        StepGuard::new(move || self.retained_given_up(&topic, version))
    }

    /// The live subscribers of the node get a message, on this worker now, on others with what was sent to them.
    pub(super) fn shows_retained(&self, route: &Route, publication: &Publication<'_>) {
        if publication.shows == 0 {
            return;
        }
        let mut retained = self.shared.retained.write();
        // Who has subscribed on another worker since the route was made has read what is retained, or does so
        // behind this: it gets the message like those of the route.
        let now = self.route(publication.topic);
        let new =
            now.remote.iter().filter(|to| !route.remote.iter().any(|it| it.worker == to.worker));
        let mut effects = self.effects.borrow_mut();
        for to in new {
            effects.remote(usize::from(to.worker)).push(publication, true, Recipients::Live);
        }
        let gets = |place: &usize| now.remote.iter().any(|to| usize::from(to.worker) == *place);
        let places = (0..self.shared.workers()).filter(|place| !gets(place));
        retained.reaches(publication.topic, publication.shows, places);
    }

    /// Nobody gets a message of this node any more whose retained one is ahead.
    pub(super) fn retained_given_up(&self, topic: &Arc<str>, version: u64) {
        self.retained_reached(topic, version);
        if version != 0 {
            self.retained_reached_elsewhere(topic, version, None);
        }
    }

    /// Other nodes learn that a retained message is not ahead any more, behind what its route gets.
    pub(super) fn retained_reached_elsewhere(
        &self,
        topic: &Arc<str>,
        version: u64,
        route: Option<&Route>,
    ) {
        if version == 0 || self.shared.cluster.is_none() {
            return;
        }
        let routed = route.map(|route| route.nodes.iter().map(|(to, _)| *to).collect());
        let (topic, router) = (Arc::clone(topic), self.index);
        let reached = PeerWork::RetainedReached { topic, version, router, routed };
        // Not while a panic holds it.
        if let Ok(mut effects) = self.effects.try_borrow_mut() {
            effects.reached.push(reached);
        }
    }

    /// Another node's change is not ahead any more. Behind its publish this changes nothing; without one, whoever
    /// has subscribed here since gets the message now (`live`).
    pub fn retained_reached_here(
        &self,
        topic: &Arc<str>,
        version: u64,
        stream: PublishStream,
        live: bool,
    ) {
        let here = usize::from(self.index);
        let ahead = {
            let retained = self.shared.retained.read();
            retained.still_ahead(topic, version, here).map(|message| message.cloned())
        };
        let Some(message) = ahead else { return };
        if !live {
            return self.retained_reached(topic, version);
        }
        let payload = message.as_ref().map(|message| message.payload.clone()).unwrap_or_default();
        let route = self.route(topic);
        let mut publication = Publication::new(topic, &payload, QoS::ExactlyOnce, true);
        (publication.shared_topic, publication.owned) = (Some(topic), message);
        (publication.stream, publication.shows) = (stream, version);
        let step = begin_step(&self.effects);
        self.deliver_live(&route, &mut publication);
        step.keep();
        self.flush();
    }

    /// Nobody here gets a message any more whose retained one is ahead.
    pub(super) fn retained_reached(&self, topic: &str, version: u64) {
        if version != 0 {
            self.shared.retained.write().reached(topic, version);
        }
    }

    /// The live subscribers here have a message of another worker.
    pub(super) fn reaches_retained(&self, topic: &str, version: u64) {
        if version != 0 {
            let here = usize::from(self.index);
            self.shared.retained.write().reaches(topic, version, [here]);
        }
    }
}
