//! What a step takes back when it does not get to its end.
//!
//! Owns one closure, which runs when the guard is dropped before [`StepGuard::keep`], as a panic drops it, and never
//! else.

/// See the module.
#[must_use]
pub struct StepGuard<F: FnOnce()> {
    undo: Option<F>,
}

impl<F: FnOnce()> StepGuard<F> {
    /// `undo` runs unless the step is kept.
    #[inline]
    pub fn new(undo: F) -> Self {
        Self { undo: Some(undo) }
    }

    /// The step has got to its end.
    #[inline]
    pub fn keep(mut self) {
        self.undo = None;
    }
}

impl<F: FnOnce()> Drop for StepGuard<F> {
    #[inline]
    fn drop(&mut self) {
        if let Some(undo) = self.undo.take() {
            run(undo);
        }
    }
}

#[cold]
fn run(undo: impl FnOnce()) {
    undo();
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    #[allow(clippy::panic)]
    fn what_is_not_kept_is_undone_once_and_what_is_kept_never() {
        let undone = Cell::new(0);
        let undo = || undone.set(undone.get() + 1);
        StepGuard::new(undo).keep();
        assert_eq!(undone.get(), 0);
        let step = AssertUnwindSafe(|| {
            let _step = StepGuard::new(undo);
            panic!("a step panics");
        });
        assert!(catch_unwind(step).is_err());
        assert_eq!(undone.get(), 1);
    }
}
