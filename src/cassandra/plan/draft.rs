//! A plan while it is made: what each table's file adds its statements to.
//!
//! Invariants: a write timestamp is above every one that was given before, so statements take theirs in the order of
//! the operations.
//! Bounds: the statements of one call of `write`.

use std::collections::BTreeMap;

use cdrs_tokio::types::value::Value;

use super::super::columns::long;
use super::super::db::Bound;
use super::super::memory::Memory;
use super::super::planned::Plan;
use super::super::statements::Statement;
use super::batches::cut;

/// Statements by table (its first statement) and partition.
type Groups = BTreeMap<(Statement, i32), Vec<Bound>>;

/// See the module.
pub(super) struct Draft<'a> {
    pub(super) memory: &'a mut Memory,
    pub(super) plan: Plan,
    /// The plan ends a will.
    pub(super) ends_will: bool,
    /// The plan writes a message, retained or not. With the end of a will it is written whole or not at all: the
    /// message may be the will's.
    pub(super) writes_message: bool,
    groups: Groups,
    last: Groups,
}

impl<'a> Draft<'a> {
    pub(super) fn new(memory: &'a mut Memory) -> Self {
        Self {
            memory,
            plan: Plan::default(),
            ends_will: false,
            writes_message: false,
            groups: Groups::new(),
            last: Groups::new(),
        }
    }

    /// The next write timestamp, as a value.
    pub(super) fn timestamp(&mut self) -> Value {
        long(self.memory.timestamp())
    }

    /// Adds a statement that goes with others of its partition. `table`: its table's first statement.
    pub(super) fn group(&mut self, table: Statement, shard: i32, bound: Bound) {
        self.groups.entry((table, shard)).or_default().push(bound);
    }

    /// The same, after all that are not last: it removes what leads to other rows.
    pub(super) fn group_last(&mut self, table: Statement, shard: i32, bound: Bound) {
        self.last.entry((table, shard)).or_default().push(bound);
    }

    /// Adds a statement that stands alone.
    pub(super) fn single(&mut self, statement: Statement, values: Vec<Value>) {
        self.plan.single.push(Bound { statement, values });
    }

    /// The plan, with what was grouped in its batches.
    pub(super) fn finish(self) -> Plan {
        let Self { mut plan, ends_will, writes_message, groups, last, .. } = self;
        plan.batches.extend(groups.into_values().flat_map(cut));
        plan.last.extend(last.into_values().flat_map(cut));
        plan.atomic |= ends_will && writes_message;
        plan
    }
}
