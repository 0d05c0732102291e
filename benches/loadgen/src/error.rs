//! Why a run could not be finished. Each message says what to do about it.

use std::io;
use std::net::SocketAddr;

/// Why a run could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker did not take the TCP connection.
    #[error("cannot connect to {address}: {source}; is the broker running there?")]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The broker answered CONNECT or SUBSCRIBE in another way than with success.
    #[error("{client}: the broker refused: {what}; see its log")]
    Refused {
        /// Client id.
        client: String,
        /// Its answer.
        what: String,
    },
    /// The broker closed a connection, or the socket failed.
    #[error("{client}: the connection was lost: {what}; see the broker's log")]
    Lost {
        /// Client id.
        client: String,
        /// What the system said.
        what: String,
    },
    /// The broker sent what MQTT 3.1.1 does not allow here.
    #[error("{client}: the broker sent what it must not: {what}")]
    Protocol {
        /// Client id.
        client: String,
        /// What it was.
        what: String,
    },
    /// `--deadline` passed.
    #[error("the deadline of {seconds} s passed: {state}; raise --deadline or lower --count")]
    Deadline {
        /// The deadline, seconds.
        seconds: u64,
        /// How far the run had come.
        state: String,
    },
    /// An open-loop run asked for more than the broker takes.
    #[error("the rate cannot be held: {0}; lower --rate")]
    Rate(String),
    /// The options contradict each other.
    #[error("{0}")]
    Options(String),
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Standard output is gone.
    #[error("cannot write the report: {0}")]
    Output(String),
    /// Kafka.
    #[cfg(feature = "kafka")]
    #[error("Kafka: {0}")]
    Kafka(String),
}

impl Error {
    /// For `map_err` of a system call.
    pub fn system(what: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::System { what, source }
    }
}
