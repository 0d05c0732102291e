//! Topics whose acknowledgement can mean one copy, as the log tells of them: a line for all that are found at once, and
//! the next one when there are twice as many. Each device may make a topic.

/// How many names a line has.
const NAMES: usize = 3;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// There are.
    total: usize,
    /// There were when the log was told last.
    told: usize,
}

impl Copies {
    /// These were found; what is to be told of all.
    pub fn tell(&mut self, found: &[&str]) -> Option<String> {
        self.total += found.len();
        if found.is_empty() || self.total < 2 * self.told {
            return None;
        }
        self.told = self.total;
        let names = &found[..found.len().min(NAMES)];
        let (total, more) = (self.total, self.total - names.len());
        let names = names.join(", ");
        let topics = if total == 1 { "topic" } else { "topics" };
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        Some(format!("{total} {topics} ({names}{more})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_line_for_all() {
        let mut copies = Copies::default();
        assert_eq!(copies.tell(&[]), None);
        let line = copies.tell(&["a", "b", "c", "d"]);
        assert_eq!(line.as_deref(), Some("4 topics (a, b, c and 1 more)"));
        // One by one: seldom.
        let lines = (0..100).filter(|_| copies.tell(&["e"]).is_some()).count();
        assert_eq!(lines, 4);
        assert_eq!(Copies::default().tell(&["a"]).as_deref(), Some("1 topic (a)"));
    }
}
