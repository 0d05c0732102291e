//! What the watch has reported and was not read yet. Bounded by the entries that there are.

use std::collections::BTreeSet;

use zookeeper_client::{EventType, WatchedEvent};

use super::register::Paths;

/// What changed in ZooKeeper and was not read yet.
#[derive(Default)]
pub(super) struct Dirty {
    pub(super) names: BTreeSet<String>,
    /// Entries came or went.
    pub(super) list: bool,
    /// Ours went, alone or before the node that holds all.
    pub(super) own: bool,
}

impl Dirty {
    /// What an event of the watch means.
    pub(super) fn note(&mut self, event: &WatchedEvent, paths: &Paths) {
        let gone = event.event_type == EventType::NodeDeleted;
        if event.event_type == EventType::Session {
            return;
        }
        if event.path == paths.members {
            self.list = true;
            return;
        }
        if event.path == paths.own {
            self.own |= gone;
        }
        // Below an entry is nothing of ours.
        let name = event.path.strip_prefix(&paths.members).and_then(|rest| rest.strip_prefix('/'));
        if let Some(name) = name.filter(|name| !name.contains('/')) {
            self.list |= event.event_type != EventType::NodeDataChanged;
            self.names.insert(name.to_owned());
        }
    }
}
