//! Of two nodes that change a topic's retained message at once, the later version counts on all
//! nodes, in whatever order they hear of them.
//!
//! Bounds: [`REMEMBERED`] topics; past it all are forgotten, and a change that was overtaken on its way
//! by another one counts if it comes after that moment. What is not remembered was changed long ago:
//! versions are by the clock, and a link delivers within seconds.

use std::sync::Arc;

use ahash::AHashMap;

/// Topics whose last version is remembered.
const REMEMBERED: usize = 100_000;

/// See the module.
#[derive(Debug, Default)]
pub struct RetainedVersions(AHashMap<Arc<str>, u64>);

impl RetainedVersions {
    /// Whether a later change of this topic was heard of than what the store has.
    pub fn has_later(&self, topic: &str, version: u64) -> bool {
        self.0.get(topic).is_some_and(|known| *known > version)
    }

    /// Whether this change is the newest of its topic; remembers it then.
    pub fn is_newest(&mut self, topic: &str, version: u64) -> bool {
        if let Some(known) = self.0.get_mut(topic) {
            let newest = version > *known;
            *known = version.max(*known);
            return newest;
        }
        if self.0.len() >= REMEMBERED {
            self.0.clear();
        }
        self.0.insert(Arc::from(topic), version);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_was_overtaken_does_not_count() {
        let mut versions = RetainedVersions::default();
        assert!(versions.is_newest("a", 5));
        assert!(!versions.is_newest("a", 4) && !versions.is_newest("a", 5));
        assert!(versions.is_newest("a", 6) && versions.is_newest("b", 1));
        assert!(versions.has_later("a", 5) && !versions.has_later("a", 6));
        assert!(!versions.has_later("c", 0));
    }
}
