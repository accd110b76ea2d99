//! The store over S3, as the file system sees it, against the server in this process.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use expirefs::clock::Clock;
use expirefs::embedded::{Object, Server};
use expirefs::error::Error;
use expirefs::expiry::http_date;
use expirefs::fd_budget::Budget;
use expirefs::metrics::Metrics;
use expirefs::s3::{Endpoint, S3};
use expirefs::store::{Content, ListRequest, Store};
use futures_util::TryStreamExt;

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
    let endpoint = Endpoint {
        bucket: BUCKET.to_owned(),
        endpoint_url: Some(server.endpoint()),
        region: Some("us-east-1".to_owned()),
        no_sign_request: true,
        ..Endpoint::default()
    };
    let budget = Budget::plan(64, 3, Some(2), 64).unwrap();
    let (metrics, clock) = (Arc::new(Metrics::default()), Arc::new(Clock::server()));
    let store = S3::new(endpoint, &budget, timeout, clock.clone(), metrics.clone()).await.unwrap();
    (Rig { server, metrics, clock, store }, budget)
}

async fn all(content: Content) -> Vec<u8> {
    let chunks: Vec<Bytes> = content.try_collect().await.unwrap();
    chunks.concat()
}

#[tokio::test]
async fn answers_mean_what_they_say() {
    let (rig, _) = rig(Duration::from_secs(10)).await;
    let bucket = rig.server.handle();
    bucket.put(BUCKET, "d/f", Object::new("0123456789").expires("Sun, 06 Nov 1994 08:49:37 GMT"));
    let head = rig.store.head("d/f").await.unwrap();
    assert_eq!(head.version.size, 10);
    assert_eq!(head.headers.expires.as_deref(), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
    assert_eq!(rig.store.head("d/g").await, Err(Error::NotFound));

    let (object, content) = rig.store.get(&head.version, 0..10).await.unwrap();
    assert_eq!((object, all(content).await), (head.clone(), b"0123456789".to_vec()));
    let (_, content) = rig.store.get(&head.version, 3..7).await.unwrap();
    assert_eq!(all(content).await, b"3456");

    let request = ListRequest { prefix: "d/", recursive: false, token: None, max_keys: 10 };
    assert_eq!(rig.store.list(request).await.unwrap().objects, std::slice::from_ref(&head.version));
    let request = ListRequest { prefix: "", recursive: false, token: None, max_keys: 10 };
    assert_eq!(rig.store.list(request).await.unwrap().prefixes, ["d/"]);

    bucket.put(BUCKET, "d/f", Object::new("abcdefghij"));
    assert_eq!(rig.store.get(&head.version, 0..10).await.err(), Some(Error::Stale));
    bucket.delete(BUCKET, "d/f");
    assert_eq!(rig.store.get(&head.version, 0..10).await.err(), Some(Error::Stale));
    assert_eq!(rig.clock.offset_ms(), 0, "both clocks are one");
    let asked = (rig.metrics.head.get(), rig.metrics.get.get(), rig.metrics.list.get());
    assert_eq!(asked, (2, 4, 2));
}

#[tokio::test]
async fn a_probe_brings_headers_and_the_first_bytes() {
    let (rig, _) = rig(Duration::from_secs(10)).await;
    let bucket = rig.server.handle();
    bucket.put(BUCKET, "f", Object::new("0123456789").expires("never"));
    bucket.put(BUCKET, "empty", Object::new("").expires("0"));
    let head = rig.store.head("f").await.unwrap();
    for (most, first) in [(4, "0123"), (10, "0123456789"), (100, "0123456789")] {
        let probed = rig.store.probe("f", most).await.unwrap();
        assert_eq!(probed, (head.clone(), Bytes::from(first)));
    }
    // An empty object has no first byte, which S3 says with a 416: its headers come with a HEAD.
    let (empty, first) = rig.store.probe("empty", 100).await.unwrap();
    assert_eq!(
        (empty.version.size, empty.headers.expires.as_deref(), first.len()),
        (0, Some("0"), 0)
    );
    assert_eq!(rig.store.probe("nothing", 100).await, Err(Error::NotFound));
    let asked = (rig.metrics.head.get(), rig.metrics.get.get());
    assert_eq!(asked, (2, 5));
    // All of them were read to their ends, so one connection was enough.
    assert_eq!(rig.metrics.connections_opened.get(), 1);
    assert_eq!(rig.metrics.connections_reused.get(), 6);
}

#[tokio::test]
async fn an_expires_of_any_bytes_is_an_answer() {
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
async fn sockets_stay_under_the_ceiling() {
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
