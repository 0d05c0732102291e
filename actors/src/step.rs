//! The one place where the drivers of a worker read the clocks: once at each entry from a connection, the router or the
//! manager. What happens within a step happens at the time at which it began.

use crate::worker::Worker;

/// A step of `worker` begins.
#[inline]
pub fn begin(worker: &Worker) {
    worker.begin(worker.shared.clock.now());
}
