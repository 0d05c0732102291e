//! What the store is made of: its tables, and for each incarnation what its process knows and has to do.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use hydrant_engine::ports::{SessionId, StoreError};

use super::memory::Memory;
use super::shape::Shape;
use super::tables::Tables;

/// A session in the index of a lineage.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) lineage: u64,
    pub(super) id: SessionId,
    pub(super) client_id: Arc<str>,
}

/// What an incarnation does in the background.
#[derive(Debug)]
pub(super) enum Background {
    ClearJournal(u64),
    ClearUp,
    Fence(u64, Vec<Entry>),
}

/// The store of a cluster: [`super`] says how it is used.
#[derive(Debug, Default)]
pub struct Store {
    pub(super) shape: Shape,
    /// Lanes that are taken over are numbered from here on.
    pub(super) first_lane: u16,
    pub(super) tables: Tables,
    /// By incarnation, while its process lives.
    pub(super) memories: BTreeMap<u64, Memory>,
    pub(super) background: BTreeMap<u64, VecDeque<Background>>,
}

pub(super) fn no_process(number: u64) -> StoreError {
    StoreError::Unusable(format!("incarnation {number} has no process"))
}

impl Store {
    /// An empty store for nodes with so many lanes each.
    pub fn new(shape: Shape, outbox_lanes: u16) -> Self {
        Self { shape, first_lane: outbox_lanes, ..Self::default() }
    }

    pub(super) fn later(&mut self, who: u64, work: Background) {
        self.background.entry(who).or_default().push_back(work);
    }

    pub(super) fn memory(&mut self, who: u64) -> Result<&mut Memory, StoreError> {
        self.memories.get_mut(&who).ok_or_else(|| no_process(who))
    }

    pub(super) fn process(&self, who: u64) -> Result<&Memory, StoreError> {
        self.memories.get(&who).ok_or_else(|| no_process(who))
    }
}
