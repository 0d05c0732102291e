//! Of two nodes that change a topic's retained message at once, the later version counts on all
//! nodes, in whatever order they hear of them.
//!
//! Bounds: `REMEMBERED` topics; past it all are forgotten, and a change that was overtaken on its way
//! by another one counts if it comes after that moment. What is not remembered was changed long ago:
//! versions are by the clock, and a link delivers within seconds. While the store is read, the topics that are
//! changed are gathered in the same number; past it nothing is said of them. What the store has is gone through in
//! steps of `STEP` topics: between two of them routers and new subscriptions have the retained messages.

use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use hydrant_protocol::Message;
use hydrant_protocol::topic::Retained;
use parking_lot::{Mutex, RwLock, RwLockWriteGuard};

use crate::worker::SYS_PREFIX;

/// Topics whose last version is remembered.
const REMEMBERED: usize = 100_000;
/// Topics that are looked at while nobody else can change one.
const STEP: usize = 512;

/// See the module.
#[derive(Debug, Default)]
pub struct RetainedVersions {
    known: AHashMap<Arc<str>, u64>,
    /// Topics of which a change was heard since [`Self::watch`].
    changed: Option<AHashSet<Arc<str>>>,
}

impl RetainedVersions {
    /// Whether what the store has of this topic was heard of, or a later change.
    pub fn is_known(&self, topic: &str, version: u64) -> bool {
        self.known.get(topic).is_some_and(|known| *known >= version)
    }

    /// Whether this change is the newest of its topic; remembers it then.
    pub fn is_newest(&mut self, topic: &str, version: u64) -> bool {
        if self.changed.as_ref().is_some_and(|changed| changed.len() >= REMEMBERED) {
            self.changed = None;
        }
        if let Some(changed) = self.changed.as_mut().filter(|changed| !changed.contains(topic)) {
            changed.insert(Arc::from(topic));
        }
        if let Some(known) = self.known.get_mut(topic) {
            let newest = version > *known;
            *known = version.max(*known);
            return newest;
        }
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert(Arc::from(topic), version);
        true
    }

    /// Whether a topic was changed since [`Self::watch`]; `None`: too many were to tell.
    fn is_changed(&self, topic: &str) -> Option<bool> {
        self.changed.as_ref().map(|changed| changed.contains(topic))
    }

    /// Begins to gather topics that are changed.
    pub fn watch(&mut self) {
        self.changed = Some(AHashSet::new());
    }

    /// Those that were changed since; `None`: too many.
    pub fn changed(&mut self) -> Option<AHashSet<Arc<str>>> {
        self.changed.take()
    }
}

/// What the store has retained. What was heard of later counts.
pub fn insert_found(
    retained: &RwLock<Retained>,
    versions: &Mutex<RetainedVersions>,
    found: Vec<(Arc<Message>, u64)>,
) {
    let mut found = found.into_iter();
    while found.len() > 0 {
        let mut retained = retained.write();
        let versions = versions.lock();
        for (message, version) in found.by_ref().take(STEP) {
            if !versions.is_known(&message.topic, version) {
                retained.insert(message);
            }
        }
        drop(versions);
        RwLockWriteGuard::unlock_fair(retained);
    }
}

/// Removes what the store has not and nobody has changed since [`RetainedVersions::watch`]. False: too much was
/// changed meanwhile to tell.
pub fn remove_gone(
    retained: &RwLock<Retained>,
    versions: &Mutex<RetainedVersions>,
    found: &[(Arc<Message>, u64)],
) -> bool {
    let stored: AHashSet<&str> = found.iter().map(|(message, _)| &*message.topic).collect();
    let (mut gone, mut last): (Vec<Arc<str>>, Option<Arc<str>>) = (Vec::new(), None);
    loop {
        let retained = retained.read();
        let mut looked = 0;
        let mut at = None;
        for message in retained.behind(last.as_deref()).take(STEP) {
            (looked, at) = (looked + 1, Some(&message.topic));
            if !stored.contains(&*message.topic) && !message.topic.starts_with(SYS_PREFIX) {
                gone.push(Arc::clone(&message.topic));
            }
        }
        last = at.cloned().or(last);
        if looked < STEP {
            break;
        }
    }
    for step in gone.chunks(STEP) {
        // Under the lock by which they are changed.
        let mut retained = retained.write();
        let versions = versions.lock();
        for topic in step {
            match versions.is_changed(topic) {
                Some(true) => {}
                Some(false) => drop(retained.remove(topic)),
                None => return false,
            }
        }
        drop(versions);
        RwLockWriteGuard::unlock_fair(retained);
    }
    versions.lock().changed().is_some()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use bytes::Bytes;
    use hydrant_protocol::QoS;

    use super::*;

    fn message(topic: &str, payload: &'static str) -> Arc<Message> {
        let payload = Bytes::from_static(payload.as_bytes());
        let (qos, retain, properties) = (QoS::AtMostOnce, false, None);
        Arc::new(Message { topic: topic.into(), payload, qos, retain, properties })
    }

    #[test]
    fn what_the_store_has_not_is_removed_unless_it_was_changed_meanwhile() {
        let many = 3 * STEP;
        let topic = |n: usize| format!("t/{n:05}");
        let (retained, versions) = (RwLock::new(Retained::new()), Mutex::default());
        let all: Vec<_> = (0..many).map(|n| (message(&topic(n), "1"), 1)).collect();
        insert_found(&retained, &versions, all.clone());
        assert_eq!(retained.read().len(), many);
        retained.write().insert(message("$SYS/x", "1"));
        versions.lock().watch();
        versions.lock().is_newest(&topic(7), 2);
        retained.write().insert(message("new", "2"));
        versions.lock().is_newest("new", 2);
        versions.lock().is_newest(&topic(20), 2);
        retained.write().insert(message(&topic(20), "2"));
        let stored: Vec<_> = all.into_iter().skip(10).collect();
        assert!(remove_gone(&retained, &versions, &stored));
        insert_found(&retained, &versions, stored);
        let left: Vec<String> = retained.read().iter().map(|m| m.topic.to_string()).collect();
        let kept = ["$SYS/x".to_owned(), "new".to_owned(), topic(7)];
        let expected = kept.into_iter().chain((10..many).map(topic));
        let expected: std::collections::BTreeSet<String> = expected.collect();
        assert_eq!(left.into_iter().collect::<std::collections::BTreeSet<_>>(), expected);
        assert_eq!(retained.read().get(&topic(20)).unwrap().payload, "2");
        assert!(!remove_gone(&retained, &versions, &[]), "nobody has watched");
    }

    /// Whoever waits has its turn before all of it is done.
    #[test]
    fn a_large_set_is_not_inserted_in_one_step() {
        let (versions, seen) = (Mutex::default(), AtomicBool::new(false));
        for _ in 0..100 {
            let retained = RwLock::new(Retained::new());
            let many = 40 * STEP;
            let all: Vec<_> = (0..many).map(|n| (message(&n.to_string(), "1"), 1)).collect();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let mut len = 0;
                    while len < many {
                        len = retained.read().len();
                        seen.fetch_or(len > 0 && len < many, Ordering::SeqCst);
                    }
                });
                insert_found(&retained, &versions, all);
            });
            if seen.load(Ordering::SeqCst) {
                return;
            }
        }
        panic!("nobody had a turn");
    }

    #[test]
    fn a_change_that_was_overtaken_does_not_count() {
        let mut versions = RetainedVersions::default();
        assert!(versions.is_newest("a", 5));
        assert!(!versions.is_newest("a", 4) && !versions.is_newest("a", 5));
        assert!(versions.is_newest("a", 6) && versions.is_newest("b", 1));
        assert!(versions.is_known("a", 5) && versions.is_known("a", 6));
        assert!(!versions.is_known("a", 7));
        assert!(!versions.is_known("c", 0));
    }

    #[test]
    fn what_is_changed_while_the_store_is_read_is_gathered() {
        let mut versions = RetainedVersions::default();
        versions.is_newest("before", 1);
        versions.watch();
        for (topic, version) in [("a", 2), ("a", 1), ("before", 1)] {
            versions.is_newest(topic, version);
        }
        assert_eq!(versions.changed(), Some(["a".into(), "before".into()].into_iter().collect()));
        assert_eq!(versions.changed(), None);
    }
}
