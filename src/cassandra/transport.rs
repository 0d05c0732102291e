//! One connection to one Cassandra node, and how it is made.
//!
//! cdrs-tokio's own transport gives a request no time-out, notices a peer that is silent (stopped,
//! or behind a dead link) only when TCP gives up, and hands out stream ids round and round without
//! asking whether the one it reuses is still waiting: an answer could then go to another request.
//! [`Transport`] wraps it and keeps these rules:
//!
//! - what cdrs sends itself (handshake, heartbeat, events) is answered in time or fails;
//! - a connection that answered nothing at all while a request waited [`Limits::silence`] is broken
//!   and will be made anew;
//! - a connection on which a request that nobody waits for any more may still be answered is left
//!   before its stream id comes round again.
//!
//! The driver's protocol is v4: no checksums twice, and no keyspace in the connection's state.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use cdrs_tokio::authenticators::{
    NoneAuthenticatorProvider, SaslAuthenticatorProvider, StaticPasswordAuthenticatorProvider,
};
use cdrs_tokio::cluster::connection_pool::{ConnectionPoolConfig, ConnectionPoolConfigBuilder};
use cdrs_tokio::cluster::{ConnectionManager, GenericClusterConfig, KeyspaceHolder, startup};
use cdrs_tokio::compression::Compression;
use cdrs_tokio::error::{Error, Result};
use cdrs_tokio::frame::{Envelope, Opcode, Version};
use cdrs_tokio::frame_encoding::{FrameEncodingFactory as _, ProtocolFrameEncodingFactory};
use cdrs_tokio::future::BoxFuture;
use cdrs_tokio::transport::{CdrsTransport, TransportRustls, TransportTcp};
use hydrant_actors::say;
use parking_lot::Mutex;
use tokio::sync::mpsc::Sender;
use tokio::time::timeout;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

/// Of the native protocol.
pub(super) const VERSION: Version = Version::V4;

/// Connections to each node. One carries 32,767 requests at once and writes those that come
/// together in one system call; a second would only make more of both.
const CONNECTIONS: usize = 1;
/// Requests that may wait to be written, per connection.
const BUFFER: usize = 1024;
/// How often an idle connection is asked whether it is still there.
const HEARTBEAT: Duration = Duration::from_secs(5);
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(3);
/// TCP, TLS, handshake and login of one connection.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// Schema changes are slow; nothing else comes near it.
pub(super) const SLOWEST: Duration = Duration::from_secs(30);
/// Stream ids go round after 32,767 requests.
const ROUND: u64 = 30_000;
/// How long a node may take at most to answer what it once received: twice Cassandra's own
/// `native_transport_timeout`.
const LATEST_ANSWER: Duration = Duration::from_secs(24);

/// See [`Transport`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// A request that waited so long on a connection without any answer to any request means
    /// that the connection is dead.
    pub(super) silence: Duration,
}

enum Wire {
    Tcp(TransportTcp),
    Tls(TransportRustls),
}

impl Wire {
    fn as_dyn(&self) -> &dyn CdrsTransport {
        match self {
            Self::Tcp(wire) => wire,
            Self::Tls(wire) => wire,
        }
    }
}

/// A connection with the rules of this module.
pub(super) struct Transport(Arc<Connection>);

struct Connection {
    wire: Wire,
    broken: AtomicBool,
    sent: AtomicU64,
    answered: AtomicU64,
    /// The oldest request given up that may still be answered: its number, when it was given up.
    abandoned: Mutex<Option<(u64, Instant)>>,
    error_handler: Option<Sender<Error>>,
    limits: Limits,
}

impl Connection {
    /// From here on nobody uses it, and the pool makes another.
    fn fail(&self, why: &str) {
        if !self.broken.swap(true, Relaxed) {
            let address = self.wire.as_dyn().address();
            say::warn!(each: &address.to_string(), "Cassandra node {address}: connection left, {why}");
            if let Some(handler) = &self.error_handler {
                // Full: it has been told already.
                let _ = handler.try_send(Error::General(why.to_owned()));
            }
        }
    }

    /// Whether request `number` could get the stream id of one that may still be answered.
    fn comes_round(&self, number: u64) -> bool {
        let mut abandoned = self.abandoned.lock();
        match *abandoned {
            Some((_, since)) if since.elapsed() > LATEST_ANSWER => {
                *abandoned = None;
                false
            }
            Some((oldest, _)) => number - oldest > ROUND,
            None => false,
        }
    }

    async fn exchange(&self, envelope: &Envelope, handshake: bool) -> Result<Envelope> {
        let number = self.sent.fetch_add(1, Relaxed);
        if self.comes_round(number) {
            self.fail("an answer is overdue and its stream id is due again");
        }
        if self.is_broken() {
            let error = io::Error::new(io::ErrorKind::BrokenPipe, "the connection is broken");
            return Err(error.into());
        }
        let limit = match envelope.opcode {
            Opcode::Options => HEARTBEAT_TIMEOUT,
            _ if handshake => HANDSHAKE_TIMEOUT,
            _ => SLOWEST,
        };
        let mut waiting = Waiting {
            connection: self,
            number,
            opcode: envelope.opcode,
            answered: self.answered.load(Relaxed),
            since: Instant::now(),
            over: false,
        };
        let answer = timeout(limit, self.wire.as_dyn().write_envelope(envelope, handshake)).await;
        match answer {
            Ok(answer) => {
                waiting.over = true;
                if answer.is_ok() || matches!(answer, Err(Error::Server { .. })) {
                    self.answered.fetch_add(1, Relaxed);
                }
                answer
            }
            Err(_) => Err(Error::Timeout(format!("no answer within {limit:?}"))),
        }
    }

    fn is_broken(&self) -> bool {
        self.broken.load(Relaxed) || self.wire.as_dyn().is_broken()
    }
}

/// A request somebody waits for. Dropped before its answer came, it says what that means.
struct Waiting<'a> {
    connection: &'a Connection,
    number: u64,
    opcode: Opcode,
    answered: u64,
    since: Instant,
    over: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let connection = self.connection;
        connection.abandoned.lock().get_or_insert((self.number, Instant::now()));
        // An unprepared query may be a schema change, which takes its time.
        let patient = self.opcode == Opcode::Query && self.since.elapsed() < SLOWEST;
        let waited = self.since.elapsed() >= connection.limits.silence;
        if waited && !patient && connection.answered.load(Relaxed) == self.answered {
            connection.fail("it has not answered anything for too long");
        }
    }
}

impl CdrsTransport for Transport {
    fn write_envelope<'a>(
        &'a self,
        envelope: &'a Envelope,
        handshake: bool,
    ) -> BoxFuture<'a, Result<Envelope>> {
        Box::pin(self.0.exchange(envelope, handshake))
    }

    fn is_broken(&self) -> bool {
        self.0.is_broken()
    }

    fn address(&self) -> SocketAddr {
        self.0.wire.as_dyn().address()
    }
}

/// The driver keeps events on a connection of its own and never asks whether it still lives.
async fn keep_asking(connection: Weak<Connection>) {
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        let Some(connection) = connection.upgrade() else { return };
        if connection.is_broken() {
            return;
        }
        // What the answer is says `exchange`.
        let _ = connection.exchange(&Envelope::new_req_options(VERSION), false).await;
    }
}

/// Makes connections.
#[derive(Clone)]
pub(super) struct Manager {
    authenticator: Arc<dyn SaslAuthenticatorProvider + Send + Sync>,
    tls: Option<Arc<ClientConfig>>,
    /// The host names of contact points, by which their certificates are checked; all others
    /// are checked by address.
    names: Arc<HashMap<SocketAddr, String>>,
    keyspace: Arc<KeyspaceHolder>,
    limits: Limits,
}

impl Manager {
    /// Before the first connection. `tls_ca` is read here.
    ///
    /// # Errors
    /// One sentence about the file of `tls_ca`.
    pub(super) fn new(
        credentials: Option<(String, String)>,
        tls_ca: Option<&Path>,
        names: HashMap<SocketAddr, String>,
        limits: Limits,
    ) -> std::result::Result<Self, String> {
        let authenticator: Arc<dyn SaslAuthenticatorProvider + Send + Sync> = match credentials {
            Some((name, word)) => Arc::new(StaticPasswordAuthenticatorProvider::new(name, word)),
            None => Arc::new(NoneAuthenticatorProvider),
        };
        let keyspace = Arc::new(KeyspaceHolder::new(tokio::sync::watch::Sender::new(None)));
        let tls = tls_ca.map(client_config).transpose()?;
        Ok(Self { authenticator, tls, names: Arc::new(names), keyspace, limits })
    }

    /// A connection that is ready, within [`HANDSHAKE_TIMEOUT`].
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn connect(
        &self,
        events: Option<Sender<Envelope>>,
        errors: Option<Sender<Error>>,
        address: SocketAddr,
    ) -> Result<Transport> {
        match timeout(HANDSHAKE_TIMEOUT, self.handshake(events, errors, address)).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout(format!("no answer within {HANDSHAKE_TIMEOUT:?}"))),
        }
    }

    async fn handshake(
        &self,
        events: Option<Sender<Envelope>>,
        errors: Option<Sender<Error>>,
        address: SocketAddr,
    ) -> Result<Transport> {
        let (none, coding) = (Compression::None, ProtocolFrameEncodingFactory);
        let encoder = coding.create_encoder(VERSION, none);
        let decoder = coding.create_decoder(VERSION, none);
        let keyspace = self.keyspace.clone();
        let for_events = events.is_some();
        let wire = match &self.tls {
            None => Wire::Tcp(
                TransportTcp::new(
                    address,
                    keyspace,
                    events,
                    errors.clone(),
                    none,
                    encoder,
                    decoder,
                    BUFFER,
                    true,
                )
                .await?,
            ),
            Some(config) => {
                let name = match self.names.get(&address) {
                    Some(name) => ServerName::try_from(name.clone())
                        .map_err(|_| Error::General(format!("{name} is no host name")))?,
                    None => ServerName::from(address.ip()),
                };
                Wire::Tls(
                    TransportRustls::new(
                        address,
                        name,
                        config.clone(),
                        keyspace,
                        events,
                        errors.clone(),
                        none,
                        encoder,
                        decoder,
                        BUFFER,
                        true,
                    )
                    .await?,
                )
            }
        };
        let transport = Transport(Arc::new(Connection {
            wire,
            broken: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            abandoned: Mutex::new(None),
            error_handler: errors,
            limits: self.limits,
        }));
        startup(&transport, &*self.authenticator, &self.keyspace, none, VERSION).await?;
        if for_events {
            tokio::spawn(keep_asking(Arc::downgrade(&transport.0)));
        }
        Ok(transport)
    }
}

impl ConnectionManager<Transport> for Manager {
    fn connection(
        &self,
        event_handler: Option<Sender<Envelope>>,
        error_handler: Option<Sender<Error>>,
        addr: SocketAddr,
    ) -> BoxFuture<'_, Result<Transport>> {
        Box::pin(async move {
            let connection = self.connect(event_handler, error_handler, addr).await;
            if let Err(error) = &connection {
                log::debug!("Cassandra node {addr} cannot be connected to: {error}");
            }
            connection
        })
    }
}

impl GenericClusterConfig<Transport, Self> for Manager {
    fn create_manager(&self, keyspace: Arc<KeyspaceHolder>) -> BoxFuture<'_, Result<Self>> {
        Box::pin(async move { Ok(Self { keyspace, ..self.clone() }) })
    }

    fn event_channel_capacity(&self) -> usize {
        128
    }

    fn version(&self) -> Version {
        VERSION
    }

    fn connection_pool_config(&self) -> ConnectionPoolConfig {
        ConnectionPoolConfigBuilder::new()
            .with_local_size(CONNECTIONS)
            .with_remote_size(CONNECTIONS)
            .with_connect_timeout(Some(HANDSHAKE_TIMEOUT))
            .with_heartbeat_interval(HEARTBEAT)
            .build()
    }
}

/// Whether `cassandra.tls_ca` can be used.
///
/// # Errors
/// One sentence about the file.
pub fn check_tls(file: &Path) -> std::result::Result<(), String> {
    client_config(file).map(|_| ())
}

/// Certificates are checked against the authorities in this file and no others.
fn client_config(file: &Path) -> std::result::Result<Arc<ClientConfig>, String> {
    let bad = |error: &dyn std::fmt::Display| {
        format!("cassandra.tls_ca: {} cannot be used: {error}", file.display())
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| bad(&error))? {
        let certificate = certificate.map_err(|error| bad(&error))?;
        roots.add(certificate).map_err(|error| bad(&error))?;
    }
    if roots.is_empty() {
        return Err(bad(&"it holds no certificate in PEM"));
    }
    // Named here: no process-wide provider, so that no other library's choice matters.
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
