//! The HTTP client under the SDK: HTTP/1.1, with an exact limit on sockets.
//!
//! A socket holds a permit from before it connects until it is closed, even while idle in the pool,
//! so no burst of requests can exceed the descriptor budget. HTTP/2 is never used: all bodies would
//! share one connection and one window, and a few files that nobody reads would block all others.

use std::fmt;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use aws_smithy_runtime_api::client::connection::{CaptureSmithyConnection, ConnectionMetadata};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use futures_util::future::BoxFuture;
use hyper::Version;
use hyper::header::PROXY_AUTHORIZATION;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::{
    CaptureConnection, Connected, Connection, HttpConnector as TcpConnector, capture_connection,
};
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower_service::Service;

use crate::metrics::Metrics;
use crate::s3::document;
use crate::s3::progress::{Patience, Progress};
use crate::s3::proxy::{self, Routes};
use crate::s3::tls::{self, NoConnection, TlsWanted};
use crate::store::CHUNK;
use crate::waits::Wait;

/// Bytes that the kernel takes of a request before it can send them. With more, all of a request would
/// seem sent long before it is, and a slow upload would seem to stall (tcp(7), TCP_NOTSENT_LOWAT).
const UNSENT: u32 = 128 << 10;

/// The limits of a client.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum number of sockets, including idle ones.
    pub sockets: usize,
    /// How long a connection is kept for the next request; `None`: it is not kept.
    pub idle: Option<Duration>,
    /// For DNS, TCP and TLS together.
    pub connect: Duration,
    /// How long the other side may take nothing of what is sent before a connection is closed.
    pub untaken: Duration,
}

/// What a successful response contains, as an extension of the request; the default is content.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// Of any length, and read as it arrives.
    Content,
    Listing,
    Document,
}

/// Clients for the SDK, each with its own sockets.
///
/// # Errors
/// If there are no trusted certificates, in words for the operator.
pub fn clients<const N: usize>(
    limits: [Limits; N],
    ca_bundle: Option<&Path>,
    routes: Routes,
    metrics: Arc<Metrics>,
) -> Result<[impl HttpClient + use<N> + 'static; N], String> {
    let mut tcp = TcpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let tls = HttpsConnectorBuilder::new().with_tls_config(tls::config(ca_bundle)?);
    let tcp = proxy::Connector { tcp, routes: routes.clone() };
    let connector = tls.https_or_http().enable_http1().wrap_connector(tcp);
    Ok(limits.map(|limits| {
        let connector = Bounded {
            inner: connector.clone(),
            permits: Arc::new(Semaphore::new(limits.sockets)),
            timeout: limits.connect,
            untaken: limits.untaken,
            routes: routes.clone(),
            metrics: metrics.clone(),
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(limits.idle)
            .pool_max_idle_per_host(limits.idle.map_or(0, |_| limits.sockets))
            .http1_max_buf_size(CHUNK)
            .build(connector);
        Hyper { client, routes: routes.clone() }
    }))
}

#[derive(Clone)]
struct Hyper {
    client: Client<Bounded, SdkBody>,
    routes: Routes,
}

impl fmt::Debug for Hyper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hyper")
    }
}

impl HttpClient for Hyper {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Hyper {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let Hyper { client, routes } = self.clone();
        HttpConnectorFuture::new(async move {
            let mut request =
                request.try_into_http1x().map_err(|e| ConnectorError::user(Box::new(e)))?;
            let answer = request.extensions().get().copied().unwrap_or(Answer::Content);
            let patience = request.extensions().get::<Patience>().copied();
            let captured = capture_connection(&mut request);
            let connection = captured.clone();
            if let Some(smithy) = request.extensions().get::<CaptureSmithyConnection>() {
                smithy.set_connection_retriever(move || condemnable(&captured));
            }
            let uri = request.uri().clone();
            if let Some(authorization) = routes.authorization(&uri) {
                request.headers_mut().insert(PROXY_AUTHORIZATION, authorization);
            }
            // A retry on another connection may succeed.
            let failed = |error: legacy::Error| match tls::is_no_http(&error) {
                true => ConnectorError::io(NoConnection::new(&uri, error.into()).into()),
                false => ConnectorError::io(error.into()),
            };
            let answer_comes = client.request(request);
            let response = match patience {
                Some(patience) => patience
                    .with(connection, answer_comes)
                    .await
                    .map_err(|stalled| ConnectorError::timeout(stalled.into()))?,
                None => answer_comes.await,
            };
            let response = response.map_err(failed)?;
            if response.status() == 400 && response.version() == Version::HTTP_10 {
                let failure = NoConnection::new(&uri, TlsWanted.into());
                return Err(ConnectorError::io(failure.into()));
            }
            if let Some(uses) = response.extensions().get::<Uses>() {
                uses.one_more();
            }
            let response = match answer {
                _ if !response.status().is_success() => response.map(document::bounded),
                Answer::Content => response.map(SdkBody::from_body_1_x),
                Answer::Listing => response.map(document::listing),
                Answer::Document => response.map(document::bounded),
            };
            HttpResponse::try_from(response).map_err(|e| ConnectorError::other(Box::new(e), None))
        })
    }
}

/// The connection of a request, for the SDK: after a failure that another server behind the same
/// name may not have, the SDK makes the next try on another connection.
fn condemnable(captured: &CaptureConnection) -> Option<ConnectionMetadata> {
    let proxied = captured.connection_metadata().as_ref()?.is_proxied();
    let captured = captured.clone();
    let condemn = move || {
        if let Some(connection) = &*captured.connection_metadata() {
            connection.poison();
        }
    };
    Some(ConnectionMetadata::builder().proxied(proxied).poison_fn(condemn).build())
}

/// Makes connections, as many as there are permits.
#[derive(Clone)]
struct Bounded {
    inner: HttpsConnector<proxy::Connector>,
    permits: Arc<Semaphore>,
    timeout: Duration,
    untaken: Duration,
    routes: Routes,
    metrics: Arc<Metrics>,
}

type Stream = <HttpsConnector<proxy::Connector> as Service<hyper::Uri>>::Response;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Service<hyper::Uri> for Bounded {
    type Response = Socket;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Socket, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, uri: hyper::Uri) -> Self::Future {
        let (permits, metrics) = (self.permits.clone(), self.metrics.clone());
        let (timeout, untaken) = (self.timeout, self.untaken);
        let connecting = self.inner.call(uri.clone());
        let proxy = self.routes.proxy_of(&uri).as_ref().map(proxy::shown);
        let waiting = Wait::Connect.begin();
        Box::pin(async move {
            // A request that waits here uses a connection that becomes idle, if one does first.
            let permit = permits.acquire_owned().await?;
            let stream = tokio::time::timeout(timeout, connecting)
                .await
                .unwrap_or_else(|_| {
                    let by = proxy.iter().map(|proxy| format!(" by the proxy {proxy}"));
                    Err(format!("none within {timeout:?}{}", by.collect::<String>()).into())
                })
                .map_err(|error| NoConnection::new(&uri, error))?;
            drop(waiting);
            metrics.connections_opened.add(1);
            let uses = Uses { answered: Arc::default(), metrics: metrics.clone() };
            let socket = Socket {
                stream,
                is_proxied: proxy.is_some(),
                uses,
                progress: Progress::begin(),
                metrics,
                _permit: permit,
            };
            let options = SockRef::from(socket.tcp());
            options.set_tcp_notsent_lowat(UNSENT)?;
            // To close a connection, hyper sends what it has of an unfinished request: without a limit
            // it would wait for ever, with the permit (tcp(7), TCP_USER_TIMEOUT).
            options.set_tcp_user_timeout(Some(untaken))?;
            Ok(socket)
        })
    }
}

/// Counts the responses on one connection; each response has a reference to it.
#[derive(Clone)]
struct Uses {
    answered: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
}

impl Uses {
    fn one_more(&self) {
        if self.answered.swap(true, Ordering::Relaxed) {
            self.metrics.connections_reused.add(1);
        }
    }
}

/// A connection and its permit.
///
/// Received data is acknowledged at once, and not by the kernel's delayed ACK some 40 ms later: a
/// server that sends the headers and the body separately under Nagle's algorithm delays the body
/// until the ACK (RFC 9293 §3.7.4).
struct Socket {
    stream: Stream,
    /// Requests by plain HTTP then name the host in their first line (RFC 9112 §3.2.2).
    is_proxied: bool,
    uses: Uses,
    progress: Progress,
    metrics: Arc<Metrics>,
    // Last: it is released after the descriptor is closed.
    _permit: OwnedSemaphorePermit,
}

impl Socket {
    fn tcp(&self) -> &TcpStream {
        match &self.stream {
            MaybeHttpsStream::Http(tcp) => tcp.inner(),
            MaybeHttpsStream::Https(tls) => tls.inner().get_ref().0.inner().inner(),
        }
    }

    fn note(&self, written: &Poll<io::Result<usize>>) {
        if written.is_ready() {
            self.progress.made();
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.metrics.connections_closed.add(1);
    }
}

impl Connection for Socket {
    fn connected(&self) -> Connected {
        Connection::connected(&self.stream)
            .proxy(self.is_proxied)
            .extra(self.uses.clone())
            .extra(self.progress.clone())
    }
}

impl Read for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_ready() {
            self.progress.made();
        } else {
            // The kernel resets the option later, so it is set each time (tcp(7), TCP_QUICKACK). If
            // it fails, the connection is broken, and the next read reports that.
            let _ = self.tcp().set_quickack(true);
        }
        read
    }
}

impl Write for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(&written);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.note(&written);
        written
    }
}
