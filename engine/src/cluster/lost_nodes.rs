//! Nodes that were lost of late and what becomes of what they held: what `broker nodes` shows of them.
//!
//! For people alone: nothing is decided by it.
//! Bounds: the last [`KEPT`] incarnations; who has a successor is shown for [`SHOWN`].

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::now::Boot;

const KEPT: usize = 64;
const SHOWN: Duration = Duration::from_secs(5 * 60);

#[derive(Debug)]
struct Entry {
    node: Arc<str>,
    incarnation: u64,
    since: Boot,
    /// Who is to have what it held.
    successor: Arc<str>,
    /// It has it, since then.
    taken: Option<Boot>,
}

/// A row of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostNode {
    /// Its node id.
    pub node: Arc<str>,
    /// The start that is over.
    pub incarnation: u64,
    /// In a few words.
    pub state: String,
}

/// See the module.
#[derive(Debug, Default)]
pub struct LostNodes(Mutex<Vec<Entry>>);

impl LostNodes {
    /// These have no successor yet: node id, incarnation, and who it will be. Those that are neither among them nor
    /// taken over are back, or had nothing.
    pub(super) fn waiting(&self, now: Boot, lost: &[(Arc<str>, u64, Arc<str>)]) {
        let mut entries = self.0.lock();
        entries.retain(|entry| match entry.taken {
            Some(at) => now.since(at) < SHOWN,
            None => lost.iter().any(|(_, incarnation, _)| *incarnation == entry.incarnation),
        });
        for (node, incarnation, successor) in lost {
            let known = entries.iter_mut().find(|entry| entry.incarnation == *incarnation);
            let successor = Arc::clone(successor);
            match known {
                Some(entry) => entry.successor = successor,
                None => {
                    if entries.len() >= KEPT {
                        entries.remove(0);
                    }
                    let (node, incarnation) = (Arc::clone(node), *incarnation);
                    entries.push(Entry { node, incarnation, since: now, successor, taken: None });
                }
            }
        }
    }

    /// A node has what this one held.
    pub(super) fn taken(&self, now: Boot, incarnation: u64, by: &Arc<str>) {
        let mut entries = self.0.lock();
        let entry = entries.iter_mut().find(|entry| entry.incarnation == incarnation);
        if let Some(entry) = entry.filter(|entry| entry.taken.is_none()) {
            (entry.successor, entry.taken) = (Arc::clone(by), Some(now));
        }
    }

    /// What is shown; a successor may take so long.
    pub fn rows(&self, now: Boot, take_over: Duration) -> Vec<LostNode> {
        let seconds = |time: Duration| (time + Duration::from_millis(500)).as_secs();
        let row = |entry: &Entry| {
            let successor = &entry.successor;
            let waits = now.since(entry.since);
            let left = take_over.saturating_sub(waits);
            let state = match entry.taken {
                Some(at) => {
                    let took = seconds(at.since(entry.since));
                    format!("taken over by {successor} within {took} s")
                }
                None if left.is_zero() => {
                    format!("lost, for {} s, to be taken over by {successor}", seconds(waits))
                }
                None => format!("lost, taken over in {} s by {successor}", seconds(left).max(1)),
            };
            LostNode { node: Arc::clone(&entry.node), incarnation: entry.incarnation, state }
        };
        self.0.lock().iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(lost: &LostNodes, now: Boot) -> Vec<String> {
        let rows = lost.rows(now, Duration::from_secs(15));
        rows.into_iter()
            .map(|row| format!("{} {} {}", row.node, row.incarnation, row.state))
            .collect()
    }

    #[test]
    fn a_lost_node_is_shown_until_some_minutes_after_it_has_a_successor() {
        let (start, lost) = (Boot(7), LostNodes::default());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let n3 = |successor: &str| [("n3".into(), 7, successor.into())];
        lost.waiting(at(0), &n3("n1"));
        assert_eq!(states(&lost, at(0)), ["n3 7 lost, taken over in 15 s by n1"]);
        // Its successor is another since one has come.
        lost.waiting(at(4), &n3("n2"));
        assert_eq!(states(&lost, at(4)), ["n3 7 lost, taken over in 11 s by n2"]);
        assert_eq!(states(&lost, at(20)), ["n3 7 lost, for 20 s, to be taken over by n2"]);
        lost.taken(at(21), 7, &"n1".into());
        lost.waiting(at(22), &[]);
        assert_eq!(states(&lost, at(22)), ["n3 7 taken over by n1 within 21 s"]);
        // Said again on every new connection.
        lost.taken(at(60), 7, &"n1".into());
        lost.waiting(at(320), &[]);
        assert_eq!(states(&lost, at(320)), ["n3 7 taken over by n1 within 21 s"]);
        lost.waiting(at(322), &[]);
        assert_eq!(states(&lost, at(322)), [""; 0]);
    }

    #[test]
    fn who_is_back_is_not_lost_and_the_oldest_are_forgotten() {
        let (now, lost) = (Boot(7), LostNodes::default());
        lost.waiting(now, &[("n3".into(), 7, "n1".into())]);
        lost.waiting(now, &[]);
        assert_eq!(states(&lost, now), [""; 0]);
        lost.taken(now, 7, &"n1".into());
        assert_eq!(states(&lost, now), [""; 0], "of a loss that nobody here has seen");
        for incarnation in 0..100 {
            lost.waiting(now, &[("n3".into(), incarnation, "n1".into())]);
            lost.taken(now, incarnation, &"n1".into());
        }
        assert_eq!(states(&lost, now).len(), KEPT);
    }
}
