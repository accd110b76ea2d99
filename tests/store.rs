//! The store over S3, as the file system sees it, with the server in this process.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};
use std::{env, io};

use bytes::Bytes;
use expirefs::clock::Clock;
use expirefs::embedded::{Object, Server};
use expirefs::error::Error;
use expirefs::expiry::{http_date, rfc3339};
use expirefs::fd_budget::Budget;
use expirefs::metrics::{self, Metrics};
use expirefs::s3::{Endpoint, S3};
use expirefs::store::{Content, ListRequest, Store, Version};
use futures_util::TryStreamExt;
use memory::Memory;
use support::proxy::{Fault, Proxy};
use support::s3_server::{Bucket, SCRIPT, given, moto, seaweedfs};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

#[path = "store/conditions.rs"]
mod conditions;
#[path = "store/crashes.rs"]
mod crashes;
#[path = "store/honours.rs"]
mod honours;
#[path = "support/memory.rs"]
#[expect(dead_code, reason = "written for tests/semantics")]
mod memory;
#[path = "store/reading.rs"]
mod reading;
#[path = "store/retries.rs"]
mod retries;
#[path = "support/mod.rs"]
#[expect(dead_code, reason = "written for tests/mounted")]
mod support;
#[path = "store/writing.rs"]
mod writing;

const BUCKET: &str = "bucket";

struct Rig {
    server: Server,
    metrics: Arc<Metrics>,
    clock: Arc<Clock>,
    store: S3,
}

async fn rig(timeout: Duration) -> (Rig, Budget) {
    let server = Server::start().await.unwrap();
    server.handle().create_bucket(BUCKET);
    let budget = Budget::plan(64, 3, Some(2), 64).unwrap();
    let (metrics, clock) = (Arc::new(Metrics::default()), Arc::new(Clock::server()));
    let endpoint = open_to_all(server.endpoint());
    let site = endpoint.locate().await.unwrap();
    let store = S3::new(&site, &budget, timeout, clock.clone(), metrics.clone()).await.unwrap();
    (Rig { server, metrics, clock, store }, budget)
}

/// The bucket of a server that checks no signatures.
fn open_to_all(url: String) -> Endpoint {
    Endpoint {
        bucket: BUCKET.to_owned(),
        endpoint_url: Some(url),
        region: Some("us-east-1".to_owned()),
        no_sign_request: true,
        ..Endpoint::default()
    }
}

async fn all(content: Content) -> Vec<u8> {
    let chunks: Vec<Bytes> = content.try_collect().await.unwrap();
    chunks.concat()
}

#[tokio::test]
async fn the_store_in_memory_keeps_the_contract() {
    let memory = Memory::of_chunks(3);
    reading::keeps_the_contract(&memory, &memory).await;
}

#[tokio::test]
async fn the_embedded_server_keeps_the_contract() {
    let (rig, _) = rig(Duration::from_secs(10)).await;
    reading::keeps_the_contract(&rig.store, &rig.server.handle()).await;
    writing::keeps_the_contract(&rig.store).await;
    assert_eq!(rig.server.handle().uploads(BUCKET), 0);
    assert_eq!(rig.clock.offset_ms(), 0, "both clocks are the same");
    let (counted, asked) = (rig.metrics.requests.now(), rig.server.handle().requests());
    let metrics::Requests { create_upload, upload_part, copy_part, complete_upload, .. } = counted;
    let steps = create_upload + upload_part + copy_part + complete_upload + counted.abort_upload;
    assert_eq!(
        (counted.get, counted.head, counted.list, counted.put, counted.copy, counted.delete, steps),
        (asked.get, asked.head, asked.list, asked.put, asked.copy, asked.delete, asked.upload)
    );
    assert_eq!((create_upload, copy_part, complete_upload, counted.other), (2, 1, 2, 0));
    writing::lists_uploads(&rig.store).await;
}

/// A listing without a length ends with its connection: truncated at any byte, it is an error or
/// complete.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_cut_off_at_any_byte_is_an_error() {
    let (rig, _) = rig(Duration::from_secs(10)).await;
    for key in ["a", "b/c", "d"] {
        rig.server.handle().put(BUCKET, key, Object::new("x"));
    }
    let whole = rig.store.list(ListRequest::level("")).await.unwrap();
    let upstream = support::Endpoint { url: rig.server.endpoint(), credentials: None };
    let proxy = tokio::task::block_in_place(|| Proxy::start(&upstream, |_| Fault::None));
    let site = open_to_all(proxy.endpoint().url.clone()).locate().await.unwrap();
    let budget = Budget::plan(64, 3, Some(2), 64).unwrap();
    let clock = Arc::new(Clock::server());
    // A request is retried until the timeout; one try is enough here.
    let timeout = Duration::from_millis(200);
    let store = S3::new(&site, &budget, timeout, clock, Arc::default()).await.unwrap();
    let mut cut = 0;
    for bytes in 0.. {
        proxy.script(move |_| Fault::Cut(bytes));
        let before = proxy.did("cut");
        let listed = store.list(ListRequest::level("")).await;
        let was_cut = proxy.did("cut") > before;
        cut += usize::from(was_cut);
        match listed {
            Ok(page) => {
                assert_eq!(page, whole, "after {bytes} bytes");
                if !was_cut {
                    break;
                }
            }
            Err(error) => assert_eq!(error.errno(), libc::EIO, "after {bytes} bytes: {error}"),
        }
    }
    assert!(cut > 500, "{cut} cuts");
    tokio::task::block_in_place(|| drop(proxy));
}

#[test]
fn seaweedfs_keeps_the_contract() {
    keeps_the_contract_in_another_process("seaweedfs");
}

#[test]
fn moto_keeps_the_contract() {
    keeps_the_contract_in_another_process("moto");
}

/// Runs the test once more inside of `scripts/s3-server run`, which provides a server and, in the
/// environment, credentials.
fn keeps_the_contract_in_another_process(name: &str) {
    if given().as_deref() != Some(name) {
        let me = env::current_exe().expect("this program");
        let mut again = Command::new(SCRIPT);
        again.args(["--server", name, "run"]).arg(me);
        again.args([&format!("{name}_keeps_the_contract"), "--exact", "--nocapture"]);
        assert!(again.status().expect(SCRIPT).success(), "see above");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (store, bucket) = in_bucket_of(name, &runtime);
    runtime.block_on(async {
        reading::keeps_the_contract(&store, &bucket).await;
        writing::keeps_the_contract(&store).await;
        if name == "seaweedfs" {
            writing::lists_uploads(&store).await;
        }
    });
}

/// A new bucket of the server that this process was started with.
fn in_bucket_of(name: &str, runtime: &Runtime) -> (S3, Bucket) {
    let server = match name {
        "seaweedfs" => seaweedfs(),
        "moto" => moto(),
        other => panic!("no such server: {other}"),
    };
    let bucket = server.bucket("contract");
    let endpoint = Endpoint {
        bucket: bucket.name.clone(),
        endpoint_url: Some(bucket.endpoint().url.clone()),
        ..Endpoint::default()
    };
    let budget = Budget::plan(64, 3, Some(2), 64).unwrap();
    let store = runtime.block_on(async {
        let site = endpoint.locate().await.unwrap();
        let clock = Arc::new(Clock::server());
        S3::new(&site, &budget, Duration::from_secs(10), clock, Arc::default()).await
    });
    (store.unwrap(), bucket)
}

/// A throttling store gets retries, with fewer requests at a time, and finally answers.
#[tokio::test]
async fn throttled_requests_are_retried() {
    const KEYS: usize = 60;
    let (rig, _) = rig(Duration::from_secs(30)).await;
    let bucket = rig.server.handle();
    (0..KEYS).for_each(|i| bucket.put(BUCKET, &i.to_string(), Object::new("x")));
    bucket.throttle(50);
    let keys: Vec<String> = (0..KEYS).map(|i| i.to_string()).collect();
    let heads = futures_util::future::join_all(keys.iter().map(|key| rig.store.head(key))).await;
    assert!(heads.iter().all(Result::is_ok), "{heads:?}");
    assert_eq!(rig.metrics.throttled.get(), 50);
    let (version, asked) = (&heads[0].as_ref().unwrap().version, rig.metrics.requests.get.get());
    bucket.throttle(3);
    let (_, content) = rig.store.get(version, 0..1).await.unwrap();
    assert_eq!((all(content).await, rig.metrics.requests.get.get() - asked), (b"x".to_vec(), 4));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_throttles_for_ever_is_an_error_within_the_timeout() {
    let (rig, _) = rig(Duration::from_secs(2)).await;
    rig.server.handle().throttle(u32::MAX);
    let start = tokio::time::Instant::now();
    let error = rig.store.head("f").await.unwrap_err();
    assert!(matches!(error, Error::Throttled(_) | Error::TimedOut(_)), "{error:?}");
    assert!(start.elapsed() <= Duration::from_secs(3), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_probe_returns_headers_and_the_first_bytes() {
    let (rig, _) = rig(Duration::from_secs(10)).await;
    let bucket = rig.server.handle();
    bucket.put(BUCKET, "f", Object::new("0123456789").expires("never"));
    bucket.put(BUCKET, "empty", Object::new("").expires("0"));
    let head = rig.store.head("f").await.unwrap();
    for (most, first) in [(4, "0123"), (10, "0123456789"), (100, "0123456789")] {
        let probed = rig.store.probe("f", most).await.unwrap();
        assert_eq!(probed, (head.clone(), Bytes::from(first)));
    }
    // An empty object has no first byte, so S3 answers 416: its headers come with a HEAD.
    let (empty, first) = rig.store.probe("empty", 100).await.unwrap();
    assert_eq!(
        (empty.version.size, empty.headers.expires.as_deref(), first.len()),
        (0, Some("0"), 0)
    );
    assert_eq!(rig.store.probe("nothing", 100).await, Err(Error::NotFound));
    let asked = (rig.metrics.requests.head.get(), rig.metrics.requests.get.get());
    assert_eq!(asked, (2, 5));
    // All of them were read to the end, so one connection was enough.
    assert_eq!(rig.metrics.connections_opened.get(), 1);
    assert_eq!(rig.metrics.connections_reused.get(), 6);
}

#[tokio::test]
async fn an_expires_of_any_bytes_is_accepted() {
    let (rig, _) = rig(Duration::from_secs(10)).await;
    for raw in [&b"\xe9t\xe9"[..], "été".as_bytes(), b"never", b""] {
        rig.server.handle().put(BUCKET, "f", Object::new("x").expires(raw));
        let head = rig.store.head("f").await.unwrap();
        let expires = head.headers.expires.clone().expect("it is there");
        assert_eq!(http_date(&expires, rig.clock.now()), None, "{expires:?}");
        let (object, content) = rig.store.get(&head.version, 0..1).await.unwrap();
        assert_eq!((object, all(content).await), (head, b"x".to_vec()));
    }
}

#[tokio::test]
async fn sockets_stay_under_the_limit() {
    let (rig, budget) = rig(Duration::from_secs(2)).await;
    rig.server.handle().put(BUCKET, "f", Object::new(vec![7; 8 << 20]));
    let version = rig.store.head("f").await.unwrap().version;
    let mut open = Vec::new();
    for _ in 0..budget.connections() {
        open.push(rig.store.get(&version, 0..8 << 20).await.unwrap());
    }
    let sockets = || rig.metrics.connections_opened.get() - rig.metrics.connections_closed.get();
    assert_eq!(sockets(), budget.connections() as u64);
    let one_more = rig.store.get(&version, 0..8 << 20).await.err();
    assert_eq!(one_more, Some(Error::TimedOut(Duration::from_secs(2))));
    open.pop();
    open.push(rig.store.get(&version, 0..8 << 20).await.unwrap());
    assert_eq!(sockets(), budget.connections() as u64);
}

/// Reads the head of a request. False if the connection was closed.
async fn read_request(client: &mut BufReader<TcpStream>) -> io::Result<bool> {
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        if client.read_line(&mut line).await? == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A server that writes the head of a response and its body separately, under Nagle's algorithm, as
/// Ceph's gateway does: the kernel delays the body until the head was acknowledged.
async fn nagling() -> String {
    const HEAD: &str = "HTTP/1.1 206 Partial Content\r\n\
        Content-Length: 10\r\nContent-Range: bytes 0-9/10\r\nETag: \"e\"\r\n\
        Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            client.set_nodelay(false).unwrap();
            let mut client = BufReader::new(client);
            tokio::spawn(async move {
                while read_request(&mut client).await? {
                    client.write_all(HEAD.as_bytes()).await?;
                    client.write_all(b"0123456789").await?;
                }
                io::Result::Ok(())
            });
        }
    });
    url
}

#[tokio::test]
async fn a_server_with_nagle_does_not_wait_for_delayed_acks() {
    const REQUESTS: u32 = 200;
    let budget = Budget::plan(64, 3, Some(2), 64).unwrap();
    let (endpoint, clock) = (open_to_all(nagling().await), Arc::new(Clock::server()));
    let metrics = Arc::new(Metrics::default());
    let site = endpoint.locate().await.unwrap();
    let store = S3::new(&site, &budget, Duration::from_secs(10), clock, metrics.clone());
    let store = store.await.unwrap();
    let start = Instant::now();
    for _ in 0..REQUESTS {
        let (object, first) = store.probe("f", 10).await.unwrap();
        assert_eq!((object.version.size, first), (10, Bytes::from("0123456789")));
    }
    let took = start.elapsed();
    println!("{REQUESTS} requests: {took:.1?}");
    assert_eq!(metrics.connections_opened.get(), 1, "the first acknowledgements are never delayed");
    // A delayed acknowledgement takes 40 ms at least.
    assert!(took < REQUESTS * Duration::from_millis(25), "{REQUESTS} requests took {took:?}");
}

/// A server that sends only the headers of an object, never its body.
async fn withholding() -> String {
    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nETag: \"e\"\r\n\
        Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut clients = Vec::new();
        while let Ok((client, _)) = listener.accept().await {
            let mut client = BufReader::new(client);
            assert!(read_request(&mut client).await.unwrap());
            client.write_all(HEAD.as_bytes()).await.unwrap();
            clients.push(client);
        }
    });
    url
}

/// Serves credentials that must be refreshed at each use. Returns its URL and the number of times
/// it was used.
fn short_lived_credentials() -> (String, Arc<AtomicUsize>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let given = Arc::new(AtomicUsize::new(0));
    let times = given.clone();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut lines = io::BufRead::lines(io::BufReader::new(client.try_clone().unwrap()));
            while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            let end = rfc3339(SystemTime::now() + Duration::from_secs(5));
            let json = format!(
                r#"{{"AccessKeyId":"A","SecretAccessKey":"S","Token":"T","Expiration":"{end}"}}"#
            );
            let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json";
            let answer = format!("{head}\r\nContent-Length: {}\r\n\r\n{json}", json.len());
            io::Write::write_all(&mut client, answer.as_bytes()).unwrap();
            times.fetch_add(1, Ordering::Relaxed);
        }
    });
    (url, given)
}

/// Runs again in another process, whose environment sets the source of credentials.
#[test]
fn credentials_are_refreshed_while_bodies_hold_all_sockets() {
    const FROM: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
    let budget = Budget::plan(64, 3, Some(2), 64).unwrap();
    if env::var_os(FROM).is_none() {
        let (url, given) = short_lived_credentials();
        let mut again = Command::new(env::current_exe().expect("this program"));
        again.args(["credentials_are_refreshed", "--nocapture"]).env(FROM, url);
        for (name, _) in env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
            again.env_remove(name);
        }
        for file in ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"] {
            again.env(file, "/dev/null");
        }
        assert!(again.status().expect("it runs").success(), "see above");
        // For each body, and for one more request, for which no socket is left.
        let given = given.load(Ordering::Relaxed);
        assert!(given > budget.connections(), "{given} of {}", budget.connections());
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let endpoint = Endpoint { no_sign_request: false, ..open_to_all(withholding().await) };
        let clock = Arc::new(Clock::server());
        let patience = Duration::from_secs(5);
        let site = endpoint.locate().await.unwrap();
        let store = S3::new(&site, &budget, patience, clock, Arc::default()).await.unwrap();
        let last_modified = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let version = Version {
            key: "f".into(),
            etag: "e".into(),
            last_modified,
            slack: Duration::ZERO,
            size: 10,
        };
        let mut bodies = Vec::new();
        for _ in 0..budget.connections() {
            bodies.push(store.get(&version, 0..10).await.unwrap());
        }
        let one_more = store.get(&version, 0..10).await.err();
        assert_eq!(one_more, Some(Error::TimedOut(patience)));
    });
}
