//! What a worker decides with is here; what it decides still stands in `hydrant-actors`.

pub mod state;
