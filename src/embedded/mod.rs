//! An S3 server inside this process, for `expirefs demo` and for tests.
//!
//! Owns its buckets, in memory, and its listening socket. Knows nothing of the rest of the crate:
//! no mount depends on it. [`s3s`] speaks the protocol; a layer between s3s and the socket adds
//! what s3s lacks:
//!
//! - **`Expires` as raw bytes.** s3s refuses a PUT whose `Expires` is not a date and rewrites those
//!   that are. Here the header bypasses s3s and is returned byte for byte, since this server exists
//!   to test malformed ones.
//! - **No authentication.** A signature covers the header that was removed, so it could not be
//!   checked. Credentials are ignored, and the server listens on the loopback interface only.
//! - **Counting** every request, whatever its outcome.
//!
//! Served, at path-style addresses: CreateBucket, HeadBucket, PutObject, GetObject, HeadObject,
//! CopyObject, RenameObject, DeleteObject, DeleteObjects, ListObjectsV2, multipart uploads with their
//! lists, and, for a bucket whose name is that of a directory bucket, CreateSession. All others get 501
//! NotImplemented. Directory buckets are listed in no order. Conditions of changes are honoured, unless a [`Personality`] says
//! otherwise. For tests it keeps a log of all changes, which can be replayed to any of them.

mod changes;
mod mutations;
mod operations;
mod personality;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, EXPIRES, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use md5::{Digest, Md5};
use s3s::dto::{ETag, Timestamp};
use s3s::path::check_bucket_name;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{HttpError, HttpResponse};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tracing::Dispatch;
use tracing::instrument::WithSubscriber;

use changes::Upload;
pub use mutations::{Contents, Effect, Mutation, Operation, replay};
use operations::RenameObject;
pub use personality::{Conditions, Personality};

/// A running server. Dropping it closes the listener and every connection soon after;
/// [`stop`](Server::stop) waits until they are closed.
pub struct Server {
    address: SocketAddr,
    handle: Handle,
    /// Nothing is ever sent: the accept loop ends when this is dropped.
    running: oneshot::Sender<()>,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Listens on a free loopback port and serves HTTP/1.1 on the current tokio runtime.
    ///
    /// # Errors
    /// Those of bind(2). Each connection uses one descriptor of this process, plus one for the
    /// client if it is in this process too.
    pub async fn start() -> io::Result<Server> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let handle = Handle::default();
        let (running, stopped) = oneshot::channel();
        let accepting = tokio::spawn(accept(listener, handle.clone(), stopped));
        Ok(Server { address, handle, running, accepting })
    }

    /// `http://127.0.0.1:PORT`. Clients must address buckets by path.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The server's contents and counters. A handle may outlive the server, and does not keep it
    /// running.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Closes the listener and all connections, and returns when that is done.
    pub async fn stop(self) {
        drop(self.running);
        // It fails only after a panic, which the panic hook has reported.
        let _ = self.accepting.await;
    }
}

/// The buckets of a [`Server`] and what it has counted, used from inside the process: nothing
/// called here is an HTTP request. Clones share the same contents.
#[derive(Clone, Default)]
pub struct Handle(
    /// One lock over everything, held for map operations only and never across an await; objects
    /// are returned as `Arc`s, so no body is sent while it is held.
    Arc<Mutex<State>>,
);

#[derive(Default)]
struct State {
    buckets: BTreeMap<String, Bucket>,
    /// Multipart uploads in progress by id, and the number of all uploads so far.
    uploads: BTreeMap<String, Upload>,
    created: u64,
    /// Each with its bucket. `None`: no log is kept.
    mutations: Option<Vec<(String, Mutation)>>,
    /// Looks at each of them.
    watch: Option<Watch>,
    personality: Personality,
    requests: Requests,
    /// Number of requests still to be refused.
    throttled: u32,
}

type Watch = Box<dyn FnMut(&Mutation) + Send>;

/// By key; strings are ordered by their UTF-8 bytes, as S3 lists.
type Bucket = BTreeMap<String, Arc<Stored>>;

/// HTTP requests since the start, including refused ones, by operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// GetObject.
    pub get: u64,
    /// HeadObject.
    pub head: u64,
    /// ListObjectsV2, each page.
    pub list: u64,
    /// PutObject.
    pub put: u64,
    /// CopyObject.
    pub copy: u64,
    /// RenameObject.
    pub rename: u64,
    /// DeleteObject and DeleteObjects.
    pub delete: u64,
    /// The steps of multipart uploads.
    pub upload: u64,
    /// All others, including requests on buckets and lists of uploads and parts.
    pub other: u64,
}

/// An object to be stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object {
    /// The content; clones and ranges of it share the memory.
    pub body: Bytes,
    /// Returned byte for byte, whether it is a date or not; no such header if `None`.
    pub expires: Option<HeaderValue>,
    /// `binary/octet-stream` if `None`, as on S3.
    pub content_type: Option<String>,
    /// Returned as it is; no such header if `None`.
    pub cache_control: Option<String>,
    /// The class STANDARD, which is sent without a header, if `None`.
    pub storage_class: Option<String>,
    /// More headers, returned as they are.
    pub others: HeaderMap,
    /// Truncated to the second, as in HTTP; the time of storing if `None`, which a stored object
    /// never has.
    pub last_modified: Option<SystemTime>,
}

impl Object {
    /// An object of these bytes, which are not copied, with defaults for everything else.
    pub fn new(body: impl AsRef<[u8]> + Send + 'static) -> Object {
        Object { body: Bytes::from_owner(body), ..Object::default() }
    }

    /// Sets the raw `Expires`.
    ///
    /// # Panics
    /// On bytes that no HTTP header can contain: control characters other than tab (RFC 9110 §5.5).
    pub fn expires(mut self, raw: impl AsRef<[u8]>) -> Object {
        self.expires = Some(HeaderValue::from_bytes(raw.as_ref()).expect("a legal header value"));
        self
    }

    /// Sets `Content-Type`.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Object {
        self.content_type = Some(content_type.into());
        self
    }

    /// Sets `Cache-Control`.
    pub fn cache_control(mut self, cache_control: impl Into<String>) -> Object {
        self.cache_control = Some(cache_control.into());
        self
    }

    /// Sets `Last-Modified`.
    pub fn last_modified(mut self, at: SystemTime) -> Object {
        self.last_modified = Some(at);
        self
    }
}

/// An object with its defaults filled in.
struct Stored {
    object: Object,
    /// The MD5 of the body in hex, as in S3 for an object uploaded in one part.
    etag: ETag,
    modified: Timestamp,
}

impl Stored {
    fn new(mut object: Object) -> Stored {
        let etag = ETag::Strong(hex(&Md5::digest(&object.body)));
        let at = object.last_modified.unwrap_or_else(SystemTime::now);
        let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let modified = UNIX_EPOCH + Duration::from_secs(seconds);
        object.last_modified = Some(modified);
        let content_type = || "binary/octet-stream".into();
        object.content_type.get_or_insert_with(content_type);
        Stored { object, etag, modified: modified.into() }
    }
}

impl Handle {
    /// Makes an empty bucket; an existing one is not changed.
    ///
    /// # Panics
    /// If S3 allows no bucket of that name: no HTTP request could reach it.
    pub fn create_bucket(&self, bucket: &str) {
        let name = legal(bucket);
        self.state().buckets.entry(name).or_default();
    }

    /// Stores an object, and replaces an existing one. A missing bucket is made.
    ///
    /// # Panics
    /// As [`create_bucket`](Handle::create_bucket) does.
    pub fn put(&self, bucket: &str, key: &str, object: Object) {
        let (name, stored) = (legal(bucket), Arc::new(Stored::new(object)));
        let mut state = self.state();
        state.note(bucket, Operation::Inside, || [Effect::stored(key, &stored)]);
        state.buckets.entry(name).or_default().insert(key.into(), stored);
    }

    /// An object as it is stored, if there is one.
    pub fn get(&self, bucket: &str, key: &str) -> Option<Object> {
        Some(self.state().buckets.get(bucket)?.get(key)?.object.clone())
    }

    /// Removes an object, if it is there.
    pub fn delete(&self, bucket: &str, key: &str) {
        let mut state = self.state();
        let removed = state.buckets.get_mut(bucket).and_then(|objects| objects.remove(key));
        if removed.is_some() {
            state.note(bucket, Operation::Inside, || [Effect::Removed { key: key.to_owned() }]);
        }
    }

    /// Multipart uploads to a bucket that are neither complete nor aborted.
    pub fn uploads(&self, bucket: &str) -> usize {
        self.state().uploads.values().filter(|upload| upload.bucket == bucket).count()
    }

    /// Deviates from S3 in this way from now on.
    pub fn behave_as(&self, personality: Personality) {
        self.state().personality = personality;
    }

    /// Refuses the next `n` requests with 503 SlowDown, as S3 does when it throttles.
    pub fn throttle(&self, n: u32) {
        self.state().throttled = n;
    }

    /// Whether to refuse the current request.
    fn refuses(&self) -> bool {
        let throttled = &mut self.state().throttled;
        let refuses = *throttled > 0;
        *throttled = throttled.saturating_sub(1);
        refuses
    }

    /// The HTTP requests so far.
    pub fn requests(&self) -> Requests {
        self.state().requests
    }

    /// The number of the request, in the form that S3 gives to its ids.
    fn next_request_id(&self) -> HeaderValue {
        let Requests { get, head, list, put, copy, rename, delete, upload, other } =
            self.requests();
        let number = get + head + list + put + copy + rename + delete + upload + other;
        HeaderValue::from_str(&format!("{number:016X}")).expect("hexadecimal digits")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics under this lock")
    }

    fn count(&self, request: &hyper::Request<Incoming>) {
        let path = request.uri().path().trim_start_matches('/');
        let on_object = path.split_once('/').is_some_and(|(_, key)| !key.is_empty());
        let query = request.uri().query().unwrap_or_default();
        let has = |name| has(query, name);
        let requests = &mut self.state().requests;
        let counter = match request.method().as_str() {
            "PUT" | "POST" | "DELETE" if on_object && (has("uploads") || has("uploadId")) => {
                &mut requests.upload
            }
            "GET" if on_object && !has("uploadId") => &mut requests.get,
            "GET" if has("list-type") => &mut requests.list,
            "HEAD" if on_object => &mut requests.head,
            "PUT" if on_object && has("renameObject") => &mut requests.rename,
            "PUT" if on_object && request.headers().contains_key("x-amz-copy-source") => {
                &mut requests.copy
            }
            "PUT" if on_object => &mut requests.put,
            "DELETE" if on_object => &mut requests.delete,
            "POST" if has("delete") => &mut requests.delete,
            _ => &mut requests.other,
        };
        *counter += 1;
    }
}

/// Whether a query has a parameter of this name.
fn has(query: &str, name: &str) -> bool {
    query.split('&').any(|pair| pair.split('=').next() == Some(name))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn legal(bucket: &str) -> String {
    assert!(check_bucket_name(bucket), "not for a bucket: {bucket:?}");
    bucket.into()
}

async fn accept(listener: TcpListener, handle: Handle, mut stopped: oneshot::Receiver<()>) {
    let mut s3 = S3ServiceBuilder::new(handle.clone());
    s3.set_route(RenameObject(handle.clone()));
    let s3 = s3.build();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut stopped => break,
        };
        // Removes those that have ended; otherwise the set would only grow.
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(converse(stream, s3.clone(), handle.clone()));
            }
            // Out of descriptors, as in some tests: the connection stays queued in the kernel, and
            // without a pause `accept` would fail in a tight loop.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn converse(stream: TcpStream, s3: S3Service, handle: Handle) {
    // If it fails, the connection is only slower.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| answer(&s3, &handle, request));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // An error means that the client closed the connection early, as some readers do.
    let _ = connection.await;
}

/// The `Expires` of a PUT, which bypasses s3s to reach `put_object`.
#[derive(Clone)]
struct RawExpires(HeaderValue);

/// The layer around s3s, see the module's documentation.
async fn answer(
    s3: &S3Service,
    handle: &Handle,
    mut request: hyper::Request<Incoming>,
) -> Result<HttpResponse, HttpError> {
    handle.count(&request);
    if handle.refuses() {
        let body =
            "<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>";
        let mut refusal = HttpResponse::new(s3s::Body::from(body.to_owned()));
        *refusal.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        return Ok(refusal);
    }
    // s3s would answer 501 to a signed request, since it cannot check the signature.
    request.headers_mut().remove(AUTHORIZATION);
    if let Some(expires) = request.headers_mut().remove(EXPIRES) {
        request.extensions_mut().insert(RawExpires(expires));
    }
    let response = s3.call(request.map(s3s::Body::from));
    // s3s logs every refusal as an error; here a 404 is an ordinary answer.
    let mut response = response.with_subscriber(Dispatch::none()).await?;
    // Shows clients that the response comes from the store itself.
    response.headers_mut().insert("x-amz-request-id", handle.next_request_id());
    Ok(response)
}
