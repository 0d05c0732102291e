//! In front of the session store: what is written when, and who is answered, without the store itself.

pub mod write_queue;

pub use write_queue::WriteQueue;
