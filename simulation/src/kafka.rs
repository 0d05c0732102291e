//! The message log: records come late, are reported late and in disorder, fail, or are not reported before the log is
//! reset.
//!
//! Invariant: records of a process are kept in the order of its appends. Behind one that fails none is kept until the
//! log is reset.

use hydrant_engine::ports::{LogError, LogRecord, Report};

use crate::clock::MS;
use crate::event::{Event, NodeEvent};
use crate::network::Process;
use crate::world::World;

fn failed(id: u64) -> Report {
    Report { id, result: Err(LogError::Unavailable("simulated".to_owned())) }
}

impl World {
    /// A process hands the log records.
    pub fn records_leave(&mut self, process: Process, records: Vec<LogRecord>) {
        let delay = self.random.between(100, 5 * MS);
        let slot = &mut self.nodes[process.0];
        let at = (self.clock.now + delay).max(slot.last_append + 1);
        slot.last_append = at;
        let resets = slot.log_resets;
        self.clock.at(at, Event::Append(process, resets, records));
    }

    /// They come there.
    pub fn append(&mut self, process: Process, resets: u64, records: Vec<LogRecord>) {
        let faults = self.begun && !self.healed;
        for record in records {
            let id = record.id;
            let unlucky = faults && self.random.one_in(60);
            let is_current = self.lives(process);
            let slot = &mut self.nodes[process.0];
            if is_current && (slot.log_broken || slot.log_resets != resets) {
                self.report(process, failed(id));
                continue;
            }
            if unlucky && is_current {
                self.counts.log_failures += 1;
                slot.log_broken = true;
                // Done and not known to be, or not done; reported, or not before a reset.
                if self.random.one_in(2) {
                    self.log.push(record);
                }
                if self.random.one_in(3) {
                    self.nodes[process.0].unreported.push(id);
                } else {
                    self.report(process, failed(id));
                }
                continue;
            }
            self.log.push(record);
            self.counts.records += 1;
            self.report(process, Report { id, result: Ok(()) });
        }
    }

    fn report(&mut self, process: Process, report: Report) {
        let late = if self.random.one_in(10) { 50 * MS } else { 2 * MS };
        let delay = self.random.between(100, late);
        self.later(delay, process, NodeEvent::Reports(vec![report]));
    }

    /// What was not reported is given up.
    pub fn reset_log(&mut self, process: Process) {
        self.note(|| format!("n{} resets its log", process.0 + 1));
        self.give_up_unreported(process);
        self.nodes[process.0].log_broken = false;
        self.nodes[process.0].log_resets += 1;
    }

    /// Records that were not reported for long have failed.
    pub fn give_up_unreported(&mut self, process: Process) {
        for id in std::mem::take(&mut self.nodes[process.0].unreported) {
            self.report(process, failed(id));
        }
    }
}
