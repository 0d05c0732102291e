//! The program `broker`: command line, configuration, wiring, and everything that touches the
//! outside. The actor tree is hydrant-actors, what MQTT says is hydrant-protocol.
//!
//! - [`cli`], [`config`]: what the user asked for, checked.
//! - [`node`]: wires a node together, starts it, stops it.
//! - [`embedded`], [`cassandra`], [`kafka`]: session store and message log.
//! - [`zookeeper`]: who else is in the cluster.
//! - [`transfer`]: `broker storage`: checks a session store, moves it to a file and back.
//! - [`admin`]: HTTP port and admin socket; [`logging`]: the way of a line to standard error.

pub mod admin;
pub mod cassandra;
pub mod cli;
pub mod config;
pub mod embedded;
pub mod kafka;
pub mod logging;
pub mod node;
mod rows;
pub mod transfer;
pub mod zookeeper;
