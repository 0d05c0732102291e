//! When what is gathered is written: see the module `storage` for the rule.
//!
//! Invariants: a wait begins with the first step in which something is gathered and may not go yet. Only
//! `handle_deadline` ends a wait by time, so a deadline is kept as late as the driver's timer has it. A wait that is
//! over is not the next batch's.

use std::time::Duration;

use crate::now::Boot;
use crate::settings::StorageSettings;

/// How long what is gathered waits for company while another batch is under way: until the next
/// tick of tokio's timer, which counts in milliseconds and rounds up. So one millisecond at most.
pub const GATHER: Duration = Duration::from_micros(1);
/// How long what adds to the same queue as a batch that is under way waits for that one, at most.
const FOLLOW: Duration = Duration::from_millis(50);
/// This part of a full batch is worth a write of its own while another is under way.
const WORTH: usize = 8;

/// What a batch would have that is formed now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gathered {
    pub(super) ops: usize,
    pub(super) bytes: usize,
    /// Nothing else is in the store's hands.
    pub(super) alone: bool,
    /// It adds to the queue of a session to which a batch under way adds, too.
    pub(super) follows: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Gathering {
    /// Until when what is gathered waits; present while it does.
    until: Option<Boot>,
    /// What is gathered has waited long enough.
    waited: bool,
    /// [`Gathered::follows`], at the last look.
    follows: bool,
    /// [`GATHER`], but for tests.
    company: Duration,
}

impl Default for Gathering {
    fn default() -> Self {
        Self { until: None, waited: false, follows: false, company: GATHER }
    }
}

impl Gathering {
    /// Whether it goes on waiting for company, or for nothing any more.
    pub(super) fn must_wait(
        &mut self,
        now: Boot,
        settings: &StorageSettings,
        next: Option<Gathered>,
    ) -> bool {
        let follows = next.is_some_and(|next| next.follows);
        if std::mem::replace(&mut self.follows, follows) != follows {
            // It waits for something else now, or for nothing any more.
            self.waited = !follows;
            self.until = None;
        }
        if let Some(next) = next {
            let (wait, part) = match next.alone {
                true => (settings.batch_delay, 1),
                false if follows => (FOLLOW, WORTH),
                false => (self.company, WORTH),
            };
            let worth = next.ops >= (settings.batch_max_ops / part).max(1)
                || next.bytes >= (settings.batch_max_bytes / part).max(1);
            if !worth && !self.waited && !wait.is_zero() {
                self.until.get_or_insert(now + wait);
                return true;
            }
        }
        self.until = None;
        self.waited = false;
        false
    }

    /// When the wait is over.
    pub(super) fn until(&self) -> Option<Boot> {
        self.until
    }

    /// It is so late.
    pub(super) fn handle_deadline(&mut self, now: Boot) {
        self.waited |= self.until.take_if(|until| *until <= now).is_some();
    }

    /// A new driver: nothing has waited.
    pub(super) fn restart(&mut self) {
        *self = Self { company: self.company, ..Self::default() };
    }

    /// Another wait for company than [`GATHER`].
    #[cfg(any(test, feature = "for-tests"))]
    pub(super) fn set_company(&mut self, company: Duration) {
        self.company = company;
    }
}
