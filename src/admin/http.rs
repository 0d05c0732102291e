//! The admin HTTP port: `/metrics`, `/health`, `/ready`, and nothing that changes anything.
//!
//! One request a connection (`Connection: close`), so one time-out bounds everything a peer can do:
//! trickle its header, not read the answer, or stay silent. Header bytes and the number of
//! connections are bounded too; a body is never read. What is not a request for one of the three
//! paths is counted in `admin_bad_requests`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::exposition;
use super::limits::AdminLimits;
use super::view::NodeView;
use hydrant_actors::connection::listener::accept_error;
use hydrant_actors::say;

type Node = Arc<dyn NodeView>;

/// Serves until dropped.
pub(super) async fn serve(listener: TcpListener, limits: AdminLimits, node: Node) {
    let slots = Arc::new(Semaphore::new(limits.http_connections));
    let router = router(node.clone());
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Mostly out of file descriptors: the next try would fail at once as well.
                say::warn!("admin http: accept failed: {}", accept_error(&error));
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            node.metrics().admin_bad_requests.inc();
            let most = limits.http_connections;
            say::warn!(
                "admin http: closing the connection from {peer}: admin.max_connections = {most} are open"
            );
            continue; // dropping the stream closes it
        };
        let (router, limits, node) = (router.clone(), limits.clone(), node.clone());
        tokio::spawn(async move {
            if !connection(stream, limits, router).await {
                node.metrics().admin_bad_requests.inc();
                say::info!(
                    "admin http: a request from {peer} was malformed, too large or too slow"
                );
            }
            drop(slot);
        });
    }
}

/// False: what came was no request within the limits.
async fn connection(stream: TcpStream, limits: AdminLimits, router: Router) -> bool {
    let served = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(limits.http_header_timeout)
        .max_buf_size(limits.http_header_bytes.max(8 * 1024)) // hyper's least
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(limits.http_timeout, served).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            !(error.is_parse() || error.is_timeout() || error.is_incomplete_message())
        }
        Err(_) => false,
    }
}

fn router(node: Node) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        // HEAD comes with GET; OPTIONS is what HAProxy asks with when `option httpchk` names no method.
        .route("/health", get(health).options(health))
        .route("/ready", get(ready).options(ready))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .with_state(node)
}

async fn metrics(State(node): State<Node>) -> Response {
    match exposition::render(&*node) {
        Ok(text) => ([(header::CONTENT_TYPE, exposition::CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn health(State(node): State<Node>) -> Response {
    verdict("healthy", node.healthy())
}

async fn ready(State(node): State<Node>) -> Response {
    verdict("ready", node.ready())
}

fn verdict(what: &str, state: Result<(), Vec<String>>) -> Response {
    let (code, reasons) = match state {
        Ok(()) => (StatusCode::OK, Vec::new()),
        Err(reasons) => (StatusCode::SERVICE_UNAVAILABLE, reasons),
    };
    (code, Json(json!({ what: code == StatusCode::OK, "reasons": reasons }))).into_response()
}

async fn not_found(State(node): State<Node>) -> Response {
    node.metrics().admin_bad_requests.inc();
    (StatusCode::NOT_FOUND, "there is /metrics, /health and /ready\n").into_response()
}

async fn wrong_method(State(node): State<Node>) -> Response {
    node.metrics().admin_bad_requests.inc();
    (StatusCode::METHOD_NOT_ALLOWED, "use GET\n").into_response()
}
