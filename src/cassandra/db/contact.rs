//! The contact points: which of them answers, and what one node says when it alone is asked.
//!
//! Bounds: one round of the contact points a second, until `cassandra.connect_timeout`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use cdrs_tokio::consistency::Consistency;
use cdrs_tokio::error::Error;
use cdrs_tokio::frame::message_error::ErrorType;
use cdrs_tokio::frame::{Envelope, Flags};
use cdrs_tokio::transport::CdrsTransport as _;
use hydrant_actors::say;
use tokio::time::Instant;

use super::error::{CassandraError, sentence};
use super::row::{Row, rows_of};
use crate::cassandra::options::CassandraOptions;
use crate::cassandra::transport::{Limits, Manager, Transport, VERSION};

/// Between two attempts to reach a contact point or a node that was lost.
pub(super) const RECONNECT: Duration = Duration::from_secs(1);

/// A contact point that answers, and the addresses of all.
pub(super) async fn reach(
    options: &CassandraOptions,
    deadline: Instant,
) -> Result<(Manager, Vec<SocketAddr>), CassandraError> {
    loop {
        let (manager, addresses, why) = resolve(options).await.map_err(CassandraError)?;
        let mut last = why.unwrap_or_else(|| "no contact point has an address".to_owned());
        for address in &addresses {
            match manager.connect(None, None, *address).await {
                Ok(_) => return Ok((manager, addresses)),
                Err(Error::Server { body, .. }) if matches!(body.ty, ErrorType::Authentication) => {
                    return Err(CassandraError(format!(
                        "Cassandra at {address} refuses the login: set cassandra.username and \
                         cassandra.password ({})",
                        body.message
                    )));
                }
                // The driver's own words: it was asked for a login and has none.
                Err(Error::General(why)) if why == "No authenticator was provided" => {
                    return Err(CassandraError(format!(
                        "Cassandra at {address} asks for a login: set cassandra.username and \
                         cassandra.password"
                    )));
                }
                Err(error) => last = format!("{address}: {}", sentence(&error)),
            }
        }
        if Instant::now() + RECONNECT > deadline {
            return Err(CassandraError(unreachable(options, &last)));
        }
        say::warn!("no Cassandra answers yet, trying again: {last}");
        tokio::time::sleep(RECONNECT).await;
    }
}

/// How connections are made, the addresses of the contact points, and why one of these has none.
///
/// # Errors
/// One sentence about the file of `cassandra.tls_ca`.
pub(in super::super) async fn resolve(
    options: &CassandraOptions,
) -> Result<(Manager, Vec<SocketAddr>, Option<String>), String> {
    let (mut names, mut addresses, mut why) = (HashMap::new(), Vec::new(), None);
    for point in &options.contact_points {
        let host = point.rsplit_once(':').map_or(point.as_str(), |(host, _)| host);
        match tokio::net::lookup_host(point).await {
            Ok(found) => {
                for address in found {
                    names.insert(address, host.trim_matches(['[', ']']).to_owned());
                    addresses.push(address);
                }
            }
            Err(error) => why = Some(format!("{point} has no address: {error}")),
        }
    }
    let limits = Limits { silence: options.request_timeout };
    let (credentials, tls_ca) = (options.credentials.clone(), options.tls_ca.as_deref());
    Ok((Manager::new(credentials, tls_ca, names, limits)?, addresses, why))
}

pub(super) fn unreachable(options: &CassandraOptions, why: &dyn std::fmt::Display) -> String {
    format!(
        "no Cassandra of cassandra.contact_points ({}) could be used within {:?}: {why}; start it, \
         or correct the addresses",
        options.contact_points.join(", "),
        options.connect_timeout
    )
}

/// The local data centre; one that is configured has to be there.
pub(super) async fn data_centre(
    manager: &Manager,
    addresses: &[SocketAddr],
    options: &CassandraOptions,
) -> Result<String, CassandraError> {
    let mut found = Vec::new();
    let mut failed = "no contact point answered".to_owned();
    for address in addresses {
        match data_centres(manager, *address).await {
            Ok(centres) => {
                found = centres;
                break;
            }
            Err(error) => failed = format!("{address}: {error}"),
        }
    }
    let Some(first) = found.first() else {
        return Err(CassandraError(unreachable(options, &failed)));
    };
    if options.local_dc.is_empty() {
        return Ok(first.clone());
    }
    if found.contains(&options.local_dc) {
        return Ok(options.local_dc.clone());
    }
    found.sort();
    found.dedup();
    Err(CassandraError(format!(
        "cassandra.local_dc = {:?} is no data centre of this Cassandra: set it to one of {}",
        options.local_dc,
        found.join(", ")
    )))
}

/// The data centres that a node knows, its own first.
async fn data_centres(manager: &Manager, address: SocketAddr) -> Result<Vec<String>, String> {
    let transport = manager.connect(None, None, address).await.map_err(|error| sentence(&error))?;
    let mut found = Vec::new();
    for table in ["local", "peers"] {
        let cql = format!("SELECT data_center FROM system.{table}");
        for row in ask(&transport, &cql).await? {
            found.extend(row.optional_text("data_center").map_err(|error| error.to_string())?);
        }
    }
    Ok(found)
}

/// Asks the node at the other end, and no other, for rows of the system's tables.
///
/// # Errors
/// What it says, or that it says nothing.
pub(in super::super) async fn ask(transport: &Transport, cql: &str) -> Result<Vec<Row>, String> {
    let envelope = Envelope::new_req_query(
        cql.to_owned(),
        Consistency::One,
        None,
        false,
        None,
        None,
        None,
        None,
        None,
        None,
        Flags::empty(),
        VERSION,
    );
    let answer = transport.write_envelope(&envelope, false).await;
    let answer = answer.map_err(|error| sentence(&error))?;
    Ok(rows_of(answer).map_err(|error| error.to_string())?.0)
}
