//! The failures of the log: when everything is sent again.
//!
//! Invariants: from a failure on, nothing is sent until every record in the log's hands is reported, and then not
//! before a pause is over. The pause doubles from `log.retry_min` to `log.retry_max`, and is the shortest again once
//! the log has answered.

use std::time::Duration;

use crate::now::Boot;

/// See the module.
#[derive(Debug)]
pub struct Reset {
    min: Duration,
    max: Duration,
    /// The next pause.
    pause: Duration,
    under_way: bool,
    /// The log is to be told.
    ordered: bool,
    /// When everything is sent again.
    over_at: Option<Boot>,
}

impl Reset {
    /// None is under way.
    pub fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, pause: min, under_way: false, ordered: false, over_at: None }
    }

    /// A record failed, and nothing is sent.
    pub fn is_under_way(&self) -> bool {
        self.under_way
    }

    /// How long is waited before something that has failed is done again.
    pub fn pause(&self) -> Duration {
        self.pause
    }

    /// A record failed. False: that was known.
    pub fn begin(&mut self) -> bool {
        let first = !self.under_way;
        self.under_way = true;
        self.ordered |= first;
        first
    }

    /// Whether the log is to be told now.
    pub fn take_order(&mut self) -> bool {
        std::mem::take(&mut self.ordered)
    }

    /// Nothing is in the log's hands: the pause begins.
    pub fn wait(&mut self, now: Boot) {
        if self.under_way && self.over_at.is_none() {
            self.over_at = Some(now + self.pause);
            self.pause = (self.pause * 2).min(self.max);
        }
    }

    /// When the pause is over.
    pub fn deadline(&self) -> Option<Boot> {
        self.over_at
    }

    /// True once the pause is over: everything is sent again.
    pub fn is_over(&mut self, now: Boot) -> bool {
        let over = self.over_at.is_some_and(|at| at <= now);
        if over {
            self.over_at = None;
            self.under_way = false;
        }
        over
    }

    /// The log answers.
    pub fn answered(&mut self) {
        self.pause = self.min;
    }

    /// The driver is a new one. `in_log`: records are in the log's hands, which may not have been told. An order that
    /// nobody had carried out stands.
    pub fn restart(&mut self, in_log: bool) {
        self.pause = self.min;
        self.over_at = None;
        self.ordered = self.under_way && (self.ordered || in_log);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_that_nobody_had_carried_out_stands_for_a_new_driver() {
        let second = Duration::from_secs(1);
        let mut reset = Reset::new(second, second);
        reset.begin();
        reset.restart(false);
        assert!(reset.take_order() && !reset.take_order());
        // Carried out, and every record was reported: it is not to be told again.
        reset.restart(false);
        assert!(reset.is_under_way() && !reset.take_order());
        reset.restart(true);
        assert!(reset.take_order());
    }
}
