//! How a session with ZooKeeper is begun, and what its errors mean to a user.

use std::path::Path;
use std::time::Duration;

use backon::ExponentialBuilder;
use tokio_rustls::rustls::crypto;
use zookeeper_client::{Acls, Client, Error, TlsOptions};

use super::options::{ZookeeperOptions, ZookeeperTls};

/// First and longest wait before another attempt, with jitter.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// The waits between attempts, without an end.
pub(super) fn waits() -> impl Iterator<Item = Duration> + Send {
    let builder = ExponentialBuilder::new().with_min_delay(RETRY_MIN).with_max_delay(RETRY_MAX);
    backon::BackoffBuilder::build(builder.without_max_times().with_jitter())
}

/// Whether the files of `[zookeeper]` can be used.
///
/// # Errors
/// One sentence, which begins with the key.
pub fn check_tls(options: &ZookeeperTls) -> Result<(), String> {
    tls(options).map(|_| ())
}

/// Reads the files of TLS, once.
///
/// # Errors
/// One sentence about the file that cannot be used.
pub(super) fn tls(options: &ZookeeperTls) -> Result<TlsOptions, String> {
    let read = |key: &str, file: &Path| {
        std::fs::read_to_string(file)
            .map_err(|error| format!("{key}: {} cannot be read: {error}", file.display()))
    };
    let bad = |key: &str, file: &Path, error: Error| {
        format!("{key}: {} cannot be used: {error}", file.display())
    };
    // The client asks for the process's provider; Err: it is set already.
    let _ = crypto::ring::default_provider().install_default();
    let tls = TlsOptions::new()
        .with_pem_ca(&read("zookeeper.tls_ca", &options.ca)?)
        .map_err(|error| bad("zookeeper.tls_ca", &options.ca, error))?;
    let Some((cert, key)) = &options.identity else { return Ok(tls) };
    let texts = (read("zookeeper.tls_cert", cert)?, read("zookeeper.tls_key", key)?);
    tls.with_pem_identity(&texts.0, &texts.1)
        .map_err(|error| bad("zookeeper.tls_cert", cert, error))
}

/// Begins a session; tries all servers for up to a session time-out.
///
/// # Errors
/// What ZooKeeper or the network says.
pub(super) async fn connect(
    options: &ZookeeperOptions,
    tls: Option<&TlsOptions>,
) -> Result<Client, Error> {
    let mut connector = Client::connector().with_session_timeout(options.session_timeout);
    if let Some((username, password)) = &options.credentials {
        connector = connector.with_auth("digest", format!("{username}:{password}").as_bytes());
    }
    let servers = options.servers.join(",");
    match tls {
        Some(tls) => connector.with_tls(tls.clone()).secure_connect(&servers).await,
        None => connector.connect(&servers).await,
    }
}

/// Whose the nodes are that we make.
pub(super) fn acls(options: &ZookeeperOptions) -> Acls<'static> {
    match options.credentials {
        Some(_) => Acls::creator_all(),
        None => Acls::anyone_all(),
    }
}

/// One sentence that says what to do.
pub(super) fn sentence(options: &ZookeeperOptions, error: &Error) -> String {
    match error {
        Error::NoAuth | Error::AuthFailed | Error::InvalidAcl => format!(
            "ZooKeeper {options} does not let this user in ({error}): check zookeeper.username and \
             zookeeper.password"
        ),
        Error::Timeout | Error::NoHosts | Error::ConnectionLoss | Error::SessionExpired => {
            let tls = if options.tls.is_some() { " and zookeeper.tls_ca" } else { "" };
            format!("ZooKeeper {options} does not answer ({error}): check zookeeper.servers{tls}")
        }
        _ => format!("ZooKeeper {options} refused service: {error}"),
    }
}
