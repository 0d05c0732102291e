//! What a commit consists of.

use fjall::{Keyspace, UserKey, UserValue};

/// One change of one key.
pub(super) struct Row {
    pub(super) keyspace: Keyspace,
    pub(super) key: UserKey,
    pub(super) value: Option<UserValue>,
}

impl Row {
    pub(super) fn put(keyspace: &Keyspace, key: UserKey, value: UserValue) -> Self {
        Self { keyspace: keyspace.clone(), key, value: Some(value) }
    }

    pub(super) fn remove(keyspace: &Keyspace, key: UserKey) -> Self {
        Self { keyspace: keyspace.clone(), key, value: None }
    }
}
