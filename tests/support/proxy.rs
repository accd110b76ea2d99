//! A proxy in front of an S3 server that causes faults on demand: a script chooses a fault for each
//! request. It speaks HTTP/1.1 with both sides, keeps connections alive, and changes nothing else,
//! not even `Host`, so signatures stay valid.
//!
//! It needs the runtime behind [`super::block_on`], and nothing else of the tests.

mod wire;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::{Endpoint, block_on};
pub use wire::Head;
use wire::converse;

/// A request as the script sees it.
#[derive(Clone, Debug)]
pub struct Request {
    /// Counts the requests of this proxy, from 1 on.
    pub number: u64,
    pub method: String,
    /// As it was sent: percent-encoded.
    pub path: String,
    pub query: String,
    /// The first byte of `Range`, if there is one.
    pub from: Option<u64>,
    /// It must be this version (`If-Match`).
    pub of_version: bool,
    /// The whole of it, but for its content.
    pub head: Head,
}

impl Request {
    fn new(number: u64, head: &Head) -> Request {
        let line = String::from_utf8_lossy(&head.line).into_owned();
        let mut words = line.split(' ').map(str::to_owned);
        let method = words.next().unwrap_or_default();
        let target = words.next().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let range = head.text("range");
        let first = range.as_deref().and_then(|r| r.strip_prefix("bytes=")?.split('-').next());
        Request {
            number,
            method,
            path: path.to_owned(),
            query: query.to_owned(),
            from: first.and_then(|first| first.parse().ok()),
            of_version: head.get("if-match").is_some(),
            head: head.clone(),
        }
    }

    pub fn is_list(&self) -> bool {
        self.method == "GET" && self.query.contains("list-type=2")
    }

    pub fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// A GetObject.
    pub fn is_get(&self) -> bool {
        self.method == "GET" && !self.is_list()
    }

    /// For a body of `key`, and not for the first bytes fetched by a lookup.
    pub fn is_body_of(&self, key: &str) -> bool {
        self.is_get() && self.is_of(key) && self.of_version
    }

    /// About the object `key`.
    pub fn is_of(&self, key: &str) -> bool {
        !self.is_list()
            && self.path.trim_start_matches('/').split_once('/').is_some_and(|k| k.1 == key)
    }
}

/// What happens to a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It is forwarded.
    None,
    /// Closed before a response; the server never gets it.
    Close,
    /// The server gets it, but the response is lost: closed.
    Lose,
    /// The server gets it, but the response never comes.
    Withhold,
    /// Reset (RST) after this many bytes of the body.
    Reset(u64),
    /// Closed (FIN) after this many bytes of the body.
    Truncate(u64),
    /// The body without its length, ended with the connection after this many bytes: by HTTP/1.1 it
    /// looks complete.
    Cut(u64),
    /// Half closed after this many bytes of the body, or after all of it: nothing more is sent, and
    /// the socket stays until the client closes it.
    HalfClose(u64),
    /// This byte of the body has one bit changed.
    Flip(u64),
    /// Stalls for ever after this many bytes of the body.
    Stall(u64),
    /// One byte a second after this many bytes of the body.
    Dribble(u64),
    /// The content of the request is not read, for ever.
    Unread,
    /// The content of the request is read in pieces of 64 KiB, after this time each.
    ReadSlowly(Duration),
    /// Nothing for this time, then the response.
    Delay(Duration),
    /// The server's response with a changed head.
    Rewrite(Rewrite),
    /// The `Range` is removed, so the server sends the whole object. For servers that check no
    /// signatures.
    Whole,
    /// This response; the server does not get the request.
    Answer(Answer),
}

impl Fault {
    /// The name under which [`Proxy::did`] counts it.
    pub fn name(&self) -> &'static str {
        match self {
            Fault::None => "none",
            Fault::Close => "close",
            Fault::Lose => "lose",
            Fault::Withhold => "withhold",
            Fault::Reset(_) => "reset",
            Fault::Truncate(_) => "truncate",
            Fault::Cut(_) => "cut",
            Fault::HalfClose(_) => "half-close",
            Fault::Flip(_) => "flip",
            Fault::Stall(_) => "stall",
            Fault::Dribble(_) => "dribble",
            Fault::Unread => "unread",
            Fault::ReadSlowly(_) => "read slowly",
            Fault::Delay(_) => "delay",
            Fault::Rewrite(_) => "rewrite",
            Fault::Whole => "whole",
            Fault::Answer(_) => "answer",
        }
    }

    /// 500 InternalError, 503 SlowDown and the like, with this `Retry-After`, if any.
    pub fn status(status: u16, retry_after: Option<u32>) -> Fault {
        let code = match status {
            503 => "SlowDown",
            404 => "NoSuchKey",
            _ => "InternalError",
        };
        let body = format!("<Error><Code>{code}</Code><Message>so the test says</Message></Error>");
        let mut answer = Answer::new(status).header("content-type", "application/xml");
        if let Some(seconds) = retry_after {
            answer = answer.header("retry-after", seconds.to_string());
        }
        Fault::Answer(answer.body(body))
    }

    /// The response of an ingress without a backend.
    pub fn stray_404() -> Fault {
        let answer = Answer::new(404).header("content-type", "text/plain; charset=utf-8");
        Fault::Answer(answer.body("404 page not found\n"))
    }

    /// A redirect, with 301 or 307.
    pub fn redirect(status: u16, to: impl AsRef<[u8]>) -> Fault {
        Fault::Answer(Answer::new(status).header("location", to))
    }

    /// The server's response with this header replaced.
    pub fn header(name: &'static str, value: impl AsRef<[u8]>) -> Fault {
        let value = value.as_ref().to_vec();
        Fault::rewrite(move |head| head.set(name, &value))
    }

    pub fn rewrite(edit: impl Fn(&mut Head) + Send + Sync + 'static) -> Fault {
        Fault::Rewrite(Rewrite(Arc::new(edit)))
    }
}

/// Changes the head of a response.
#[derive(Clone)]
pub struct Rewrite(Arc<dyn Fn(&mut Head) + Send + Sync>);

impl std::fmt::Debug for Rewrite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rewrite")
    }
}

/// A response of the proxy itself. It is not checked.
#[derive(Clone, Debug)]
pub struct Answer {
    head: Head,
    body: Bytes,
    times: u64,
}

impl Answer {
    pub fn new(status: u16) -> Answer {
        let line = format!("HTTP/1.1 {status} So").into_bytes();
        Answer { head: Head { line, headers: Vec::new() }, body: Bytes::new(), times: 1 }
    }

    /// Replaces `HTTP/1.1 200 So`.
    pub fn line(mut self, line: impl AsRef<[u8]>) -> Answer {
        self.head.line = line.as_ref().to_vec();
        self
    }

    /// Adds a header. Without a `Content-Length`, the response gets the right one, and the
    /// connection is kept alive.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Answer {
        self.head.headers.push((name.as_bytes().to_vec(), value.as_ref().to_vec()));
        self
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Answer {
        self.body = body.into();
        self
    }

    /// Repeats the body.
    pub fn repeated(mut self, times: u64) -> Answer {
        self.times = times;
        self
    }
}

type Script = dyn Fn(&Request) -> Fault + Send + Sync;

/// A running proxy. Dropping it closes all its connections.
pub struct Proxy {
    shared: Arc<Shared>,
    endpoint: Endpoint,
    address: SocketAddr,
    serving: Option<JoinHandle<()>>,
}

struct Shared {
    upstream: String,
    script: Mutex<Arc<Script>>,
    requests: AtomicU64,
    done: Mutex<BTreeMap<&'static str, u64>>,
}

impl Shared {
    fn note(&self, kind: &'static str) {
        *self.done.lock().unwrap().entry(kind).or_default() += 1;
    }
}

impl Proxy {
    /// In front of `upstream`, on its own port.
    pub fn start(
        upstream: &Endpoint,
        script: impl Fn(&Request) -> Fault + Send + Sync + 'static,
    ) -> Proxy {
        let authority = upstream.url.strip_prefix("http://").expect("plain HTTP");
        let shared = Arc::new(Shared {
            upstream: authority.trim_end_matches('/').to_owned(),
            script: Mutex::new(Arc::new(script)),
            requests: AtomicU64::new(0),
            done: Mutex::default(),
        });
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (address, serving) = listen(any, &shared);
        let url = format!("http://{address}");
        let endpoint = Endpoint { url, credentials: upstream.credentials.clone() };
        Proxy { shared, endpoint, address, serving: Some(serving) }
    }

    /// The endpoint of the server through the proxy.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Sets another script from the next request on.
    pub fn script(&self, script: impl Fn(&Request) -> Fault + Send + Sync + 'static) {
        *self.shared.script.lock().unwrap() = Arc::new(script);
    }

    /// From the next request on there are no faults.
    pub fn behave(&self) {
        self.script(|_| Fault::None);
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// How often it caused a fault of this kind ([`Fault::name`]). A fault that could not happen,
    /// such as a reset beyond a body's end, does not count.
    pub fn did(&self, kind: &str) -> u64 {
        self.shared.done.lock().unwrap().get(kind).copied().unwrap_or_default()
    }

    /// The number of all faults.
    pub fn harm(&self) -> u64 {
        self.shared.done.lock().unwrap().values().sum()
    }

    /// Closes all connections and the port: connecting is refused.
    pub fn down(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            // Returns that it was cancelled.
            _ = block_on(serving);
        }
    }

    /// Serves again, on the same port.
    pub fn up(&mut self) {
        self.down();
        self.serving = Some(listen(self.address, &self.shared).1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.down();
    }
}

fn listen(on: SocketAddr, shared: &Arc<Shared>) -> (SocketAddr, JoinHandle<()>) {
    block_on(async {
        let listener = TcpListener::bind(on).await.expect("a port on loopback");
        let address = listener.local_addr().expect("its address");
        (address, tokio::spawn(accept(listener, shared.clone())))
    })
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Ends with this task, and all connections with it.
    let mut connections = JoinSet::new();
    loop {
        let accepted = listener.accept().await;
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((client, _)) => {
                let shared = shared.clone();
                // An error means that one side closed the connection: then the other is closed,
                // too.
                connections.spawn(async move { converse(client, &shared).await.ok() });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Random faults, the same for the same seed: one request in `one_in` gets a temporary fault of a
/// random kind at a random place in the body. With `stalls` some stall for ever.
pub fn at_random(
    seed: u64,
    one_in: u64,
    stalls: bool,
) -> impl Fn(&Request) -> Fault + Send + Sync + 'static {
    move |request| {
        let chance = mixed(seed.wrapping_add(request.number));
        if !chance.is_multiple_of(one_in) {
            return Fault::None;
        }
        let chance = mixed(chance);
        // Half of the breaks are early, while most bodies are still in flight.
        let within = if chance & (1 << 40) == 0 { 64 << 10 } else { 8 << 20 };
        let at = mixed(chance) % within;
        match chance % if stalls { 10 } else { 8 } {
            0 if at.is_multiple_of(2) => Fault::Lose,
            0 => Fault::Close,
            1 => Fault::Reset(at),
            2 => Fault::Truncate(at),
            3 => Fault::HalfClose(at),
            4 => Fault::Delay(Duration::from_millis(at % 300)),
            5 => Fault::status(503, None),
            6 => Fault::status(503, Some(1)),
            7 => Fault::status(500, None),
            8 => Fault::Stall(at),
            _ => Fault::Dribble(at),
        }
    }
}

/// A pseudo-random number (splitmix64).
fn mixed(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}
