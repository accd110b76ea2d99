//! The metrics of a mount over HTTP (`--metrics`), for Prometheus and others that read its formats.
//!
//! A request is answered from the counters in memory, on a thread of its own, so that it never makes
//! the store or an operation of the file system wait. Clients are few at a time, and none stays long.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::daemon::places::{self, Silence};
use crate::daemon::status::Format;

/// Clients served at the same time. Each uses a descriptor, and so do the socket itself and a client
/// that waits for a place.
const CLIENTS: usize = 4;

/// Descriptors in use at most.
pub const DESCRIPTORS: usize = CLIENTS + 2;

/// The longest head of a request, in bytes; hyper allows no less.
const LONGEST: usize = 8 << 10;

/// A client is disconnected after this time, whatever it does.
const CLIENT_PATIENCE: Duration = Duration::from_secs(5);

const PATH: &str = "/metrics";

/// Makes the text of all metrics; may take a while.
pub type Expose = dyn Fn(Format) -> String + Send + Sync;

/// A socket that nobody serves yet.
pub struct Listener {
    socket: TcpListener,
    at: SocketAddr,
}

impl Listener {
    /// # Errors
    /// In words for the operator: the address is in use, or not one of this host.
    pub async fn bind(address: &str) -> Result<Listener, String> {
        let failed = |error| format!("cannot serve metrics at {address}: {error} (--metrics)");
        let socket = TcpListener::bind(address).await.map_err(failed)?;
        let at = socket.local_addr().map_err(failed)?;
        Ok(Listener { socket, at })
    }

    /// Where it is bound, as `HOST:PORT`.
    pub fn at(&self) -> String {
        self.at.to_string()
    }

    /// Serves all clients that connect, until it is dropped.
    pub async fn serve(self, expose: Arc<Expose>) {
        info!("metrics are served at http://{}{PATH}", self.at);
        let talk = |client, silence| {
            let expose = expose.clone();
            async move {
                // A broken connection concerns only the client.
                let _ = timeout(CLIENT_PATIENCE, talk(client, &silence, expose)).await;
            }
        };
        places::serve(self.socket, CLIENTS, talk).await;
    }
}

/// Answers one request.
async fn talk(
    client: TcpStream,
    silence: &Silence,
    expose: Arc<Expose>,
) -> Result<(), hyper::Error> {
    let answer = service_fn(|request: Request<Incoming>| {
        silence.end();
        let expose = expose.clone();
        async move { Ok::<_, Infallible>(answer(&request, expose).await) }
    });
    let mut http = http1::Builder::new();
    http.keep_alive(false).max_buf_size(LONGEST);
    http.timer(TokioTimer::new()).header_read_timeout(CLIENT_PATIENCE);
    http.serve_connection(TokioIo::new(client), answer).await
}

async fn answer(request: &Request<Incoming>, expose: Arc<Expose>) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, PATH) => {}
        (_, PATH) => {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        _ => return text(StatusCode::NOT_FOUND, "the metrics are at /metrics\n".into()),
    }
    let format = format_for(request.headers());
    match spawn_blocking(move || expose(format)).await {
        Ok(metrics) => {
            let mut answer = text(StatusCode::OK, metrics);
            let kind = HeaderValue::from_static(format.content_type());
            answer.headers_mut().insert(CONTENT_TYPE, kind);
            answer
        }
        Err(panic) => {
            warn!("the metrics could not be made: {panic}");
            text(StatusCode::INTERNAL_SERVER_ERROR, "a defect in expirefs\n".into())
        }
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer
}

/// OpenMetrics only for those who request it, as Prometheus does.
fn format_for(headers: &HeaderMap) -> Format {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    match accepted.into_iter().any(|value| value.contains("application/openmetrics-text")) {
        true => Format::OpenMetrics,
        false => Format::Prometheus,
    }
}
