//! The world in which the simulator plays Hydrant's machines in virtual time: clock, network, store and faults.
//!
//! It is for tests only: nothing that ships depends on it. It owns no machine of the broker.
//! Invariant: one seed is one history. Time is an argument, and no map with process-random order is iterated.

pub mod store;
