//! Which changes are retried after which failures, and with which errors they end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use expirefs::clock::Clock;
use expirefs::error::{Error, Result};
use expirefs::fd_budget::Budget;
use expirefs::metrics::Metrics;
use expirefs::s3::{Endpoint, S3};
use expirefs::store::write::{
    Condition, CopyHeaders, CopyRequest, DeleteIf, NewHeaders, Part, Tag, Upload, WriteStore,
};
use expirefs::store::{Store, Version};

use super::open_to_all;
use super::support::block_on;
use super::support::embedded::Embedded;
use super::support::proxy::{Answer, Fault, Proxy, Request};
use super::support::tls::{Tls, ToPlain};
use super::support::wait::{HANGS, equal, eventually};

/// A store behind a proxy.
struct Rig {
    store: S3,
    metrics: Arc<Metrics>,
    proxy: Proxy,
    bucket: Embedded,
}

impl Rig {
    fn new(timeout: Duration) -> Rig {
        Rig::before(timeout, |_| None).0
    }

    /// With the server that `before` starts in front of the proxy at this port.
    fn before(timeout: Duration, before: impl Fn(u16) -> Option<Tls>) -> (Rig, Option<Tls>) {
        let bucket = Embedded::start();
        let proxy = Proxy::start(bucket.endpoint(), |_| Fault::None);
        let url = proxy.endpoint().url.clone();
        let tls = before(url.rsplit(':').next().unwrap().parse().unwrap());
        let endpoint = match &tls {
            None => open_to_all(url),
            Some(tls) => Endpoint {
                ca_bundle: Some(tls.authority()),
                ..open_to_all(format!("https://localhost:{}", tls.port))
            },
        };
        let endpoint = Endpoint { bucket: Embedded::BUCKET.to_owned(), ..endpoint };
        let budget = Budget::plan(64, 3, Some(2), 64).unwrap();
        let metrics = Arc::new(Metrics::default());
        let store = block_on(async {
            let site = endpoint.locate().await.unwrap();
            S3::new(&site, &budget, timeout, Arc::new(Clock::server()), metrics.clone()).await
        });
        (Rig { store: store.unwrap(), metrics, proxy, bucket }, tls)
    }

    /// Makes a change whose first requests get these faults. Returns the result, and the number of
    /// requests.
    fn run(&self, change: &Change, faults: impl Into<Vec<Fault>>) -> (Result<()>, u64) {
        self.bucket.put("old", "old");
        self.bucket.put("source", "new");
        self.bucket.delete("new");
        let store = &self.store;
        block_on(async {
            let upload = store.create_upload("new", &NewHeaders::default()).await.unwrap().upload;
            let part = store.upload_part(&upload, 1, Bytes::from("new")).await.unwrap();
            let source = store.head("source").await.unwrap().version;
            let (met, before, faults) = (AtomicU64::new(0), self.proxy.requests(), faults.into());
            self.proxy.script(move |_| {
                let fault = faults.get(met.fetch_add(1, Ordering::Relaxed) as usize);
                fault.cloned().unwrap_or(Fault::None)
            });
            let done = change.make(store, &source, &upload, part).await;
            self.proxy.behave();
            (done, self.proxy.requests() - before)
        })
    }
}

#[derive(Clone, Debug)]
enum Change {
    Put(Condition),
    Create,
    Part,
    CopyPart,
    Complete,
    Abort,
    Copy(Condition),
    Delete(DeleteIf),
    Rename,
}

impl Change {
    async fn make(&self, store: &S3, source: &Version, upload: &Upload, part: Part) -> Result<()> {
        let (none, new) = (&NewHeaders::default(), Bytes::from("new"));
        match self {
            Change::Put(condition) => store.put("new", none, new, condition).await.map(|_| ()),
            Change::Create => store.create_upload("new", none).await.map(|_| ()),
            Change::Part => store.upload_part(upload, 2, new).await.map(|_| ()),
            Change::CopyPart => store.copy_part(upload, 2, source, 0..1).await.map(|_| ()),
            Change::Complete => store.complete(upload, &[part], &Condition::Any).await.map(|_| ()),
            Change::Abort => store.abort(upload).await,
            Change::Copy(condition) => {
                let (headers, storage_class) = (CopyHeaders::All, None);
                let copy = CopyRequest { source, key: "new", headers, storage_class, condition };
                store.copy(copy).await.map(|_| ())
            }
            Change::Delete(delete_if) => store.delete("old", delete_if).await.map(|_| ()),
            Change::Rename => store.rename(source, "new", &Condition::Any).await,
        }
    }

    /// Idempotent changes, and others.
    fn all() -> ([Change; 7], [Change; 5]) {
        let old = Tag::new("149603e6c03516362a8da23f624db945").expect("the MD5 of `old`");
        let twice = [
            Change::Put(Condition::Any),
            Change::Create,
            Change::Part,
            Change::CopyPart,
            Change::Abort,
            Change::Copy(Condition::Any),
            Change::Delete(DeleteIf::Any),
        ];
        let once = [
            Change::Put(Condition::Absent),
            Change::Complete,
            Change::Copy(Condition::Absent),
            Change::Delete(DeleteIf::Is(old)),
            Change::Rename,
        ];
        (twice, once)
    }
}

/// A failure reported by the store itself.
fn says(status: u16, code: &str) -> Fault {
    let body = format!("<Error><Code>{code}</Code><Message>so the test says</Message></Error>");
    Fault::Answer(Answer::new(status).body(body))
}

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn after_an_unclear_response_only_idempotent_changes_are_retried() {
    let rig = Rig::new(PATIENCE);
    let (twice, once) = Change::all();
    // A 503 of a proxy has no code: the request may have been forwarded.
    let from_a_proxy = || Fault::Answer(Answer::new(503).body("no server"));
    let garbled = Fault::rewrite(|head| head.line = b"200 OK".to_vec());
    let unclear = [Fault::Lose, Fault::Close, garbled, says(500, "InternalError"), from_a_proxy()];
    for fault in unclear {
        for change in &twice {
            let done = rig.run(change, [fault.clone()]);
            assert_eq!(done, (Ok(()), 2), "{change:?} {fault:?}");
        }
        for change in &once {
            let (done, requests) = rig.run(change, [fault.clone()]);
            assert!(matches!(done, Err(Error::Unclear(_))), "{change:?} {fault:?}: {done:?}");
            assert_eq!(requests, 1, "{change:?} {fault:?}");
        }
    }
    // It had been made.
    rig.run(&Change::Put(Condition::Absent), [Fault::Lose]).0.unwrap_err();
    assert_eq!(block_on(rig.store.head("new")).unwrap().version.size, 3);
}

#[test]
fn a_change_that_was_certainly_not_made_is_retried() {
    let rig = Rig::new(PATIENCE);
    let (twice, once) = Change::all();
    let clear = [says(503, "SlowDown"), says(429, "TooManyRequests"), says(400, "RequestTimeout")];
    for fault in clear {
        for change in twice.iter().chain(&once) {
            let done = rig.run(change, [fault.clone()]);
            assert_eq!(done, (Ok(()), 2), "{change:?} {fault:?}");
        }
    }
    // Another change was in flight. This ends an upload.
    let conflict = says(409, "ConditionalRequestConflict");
    for change in twice.iter().chain(&once) {
        let (done, requests) = rig.run(change, [conflict.clone()]);
        match change {
            Change::Complete => {
                assert!(matches!(done, Err(Error::Conflict(_))), "{done:?}");
                assert_eq!(requests, 1);
            }
            _ => assert_eq!((done, requests), (Ok(()), 2), "{change:?}"),
        }
    }
}

#[test]
fn a_refusal_is_returned_at_once_but_not_after_an_unclear_try() {
    let rig = Rig::new(PATIENCE);
    let put = Change::Put(Condition::Any);
    type Right = fn(&Error) -> bool;
    let refusals: [(Fault, Right); 5] = [
        (says(412, "PreconditionFailed"), |e| *e == Error::PreconditionFailed),
        (says(501, "NotImplemented"), |e| matches!(e, Error::Unsupported(_))),
        (says(403, "AccessDenied"), |e| matches!(e, Error::Denied(_))),
        (says(400, "InvalidArgument"), |e| matches!(e, Error::Refused(_))),
        (says(404, "NoSuchBucket"), |e| matches!(e, Error::NoSuchBucket(_))),
    ];
    for (fault, right) in refusals {
        let (done, requests) = rig.run(&put, [fault.clone()]);
        assert!(done.as_ref().is_err_and(right), "{fault:?}: {done:?}");
        assert_eq!(requests, 1);
        let (done, requests) = rig.run(&put, [Fault::Lose, fault.clone()]);
        assert!(matches!(done, Err(Error::Unclear(_))), "{fault:?}: {done:?}");
        assert_eq!(requests, 2);
    }
    // A header that cannot be sent.
    let content_type = Some("a\nb".to_owned());
    let headers = NewHeaders { content_type, ..NewHeaders::default() };
    let unsendable = rig.store.put("new", &headers, Bytes::new(), &Condition::Any);
    assert!(matches!(block_on(unsendable), Err(Error::Refused(_))));
    // S3 sends 200 before it is done, and may then report anything, or nothing.
    let late: [(&str, Right); 4] = [
        ("", |e| matches!(e, Error::Unclear(_))),
        ("<CopyObjectResult></CopyObjectResult>", |e| matches!(e, Error::Unclear(_))),
        ("<Error><Code>InternalError</Code></Error>", |e| matches!(e, Error::Unclear(_))),
        ("<Error><Code>PreconditionFailed</Code></Error>", |e| *e == Error::PreconditionFailed),
    ];
    for (body, right) in late {
        let answer = Fault::Answer(Answer::new(200).body(body));
        let (done, requests) = rig.run(&Change::Copy(Condition::Absent), [answer]);
        assert!(done.as_ref().is_err_and(right), "{body:?}: {done:?}");
        assert_eq!(requests, 1, "{body:?}");
    }
    // A part that is sent after its upload has ended.
    block_on(async {
        let upload = rig.store.create_upload("late", &NewHeaders::default()).await.unwrap().upload;
        rig.store.abort(&upload).await.unwrap();
        let late = rig.store.upload_part(&upload, 1, Bytes::from("x")).await;
        assert_eq!(late, Err(Error::NotFound));
    });
}

#[test]
fn within_the_timeout_a_change_is_made_or_the_error_shows_if_it_may_be() {
    let rig = Rig::new(Duration::from_secs(2));
    // A proxy may answer with a page of its own, and its ETag.
    for change in [Change::Put(Condition::Any), Change::Part] {
        let page = Answer::new(200).header("content-type", "text/html").header("etag", "\"5f3a\"");
        let page = page.body("<html>Sign in</html>");
        let answers = vec![Fault::Answer(page); 50];
        let (done, _) = rig.run(&change, answers);
        assert!(matches!(done, Err(Error::Unclear(_))), "{change:?}: {done:?}");
    }
    let (twice, once) = Change::all();
    for change in [&twice[0], &twice[5], &once[0], &once[2]] {
        let start = Instant::now();
        let stuck = Fault::Delay(Duration::from_secs(60));
        let (done, _) = rig.run(change, [stuck.clone(), stuck]);
        assert!(matches!(done, Err(Error::Unclear(_))), "{change:?}: {done:?}");
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    }
    // There was no connection.
    let mut rig = Rig::new(PATIENCE);
    rig.proxy.down();
    let (brief, none) = (rig.store.with_outage(Duration::from_millis(300)), NewHeaders::default());
    for condition in [Condition::Any, Condition::Absent] {
        let done = block_on(brief.put("new", &none, Bytes::from("new"), &condition));
        assert!(matches!(done, Err(Error::Unreachable(_))), "{condition:?}: {done:?}");
    }
}

/// What a PUT and a part have in common.
async fn send_both(store: &S3, condition: &Condition, bytes: &Bytes) -> [Result<()>; 2] {
    let headers = NewHeaders::default();
    let upload = store.create_upload("large", &headers).await.unwrap().upload;
    let part = store.upload_part(&upload, 1, bytes.clone()).await.map(|_| ());
    let put = store.put("put", &headers, bytes.clone(), condition).await.map(|_| ());
    [part, put]
}

fn is_content(request: &Request) -> bool {
    request.method == "PUT"
}

#[test]
fn content_that_a_connection_does_not_take_or_answer_is_sent_again_on_another_one() {
    let bytes = Bytes::from(vec![7; 16 << 20]);
    for fault in [Fault::Delay(Duration::MAX), Fault::Unread] {
        let rig = Rig::new(Duration::from_secs(6));
        let met = AtomicU64::new(0);
        let stuck = fault.clone();
        // The first try of each.
        rig.proxy.script(move |request| match is_content(request) {
            true if met.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) => stuck.clone(),
            _ => Fault::None,
        });
        let sent = block_on(send_both(&rig.store, &Condition::Any, &bytes));
        assert_eq!(sent, [Ok(()), Ok(())], "{fault:?}");
        assert_eq!(rig.proxy.did(fault.name()), 2);
        assert_eq!(rig.bucket.body("put"), bytes);
        // The caller has to find out whether it was made.
        rig.bucket.delete("put");
        let stuck = fault.clone();
        rig.proxy.script(move |request| match request.path.ends_with("put") {
            true => stuck.clone(),
            false => Fault::None,
        });
        let start = Instant::now();
        let [_, put] = block_on(send_both(&rig.store, &Condition::Absent, &bytes));
        assert!(matches!(put, Err(Error::Unclear(_))), "{fault:?}: {put:?}");
        assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
        assert_eq!(rig.proxy.did(fault.name()), 3, "{fault:?}");
    }
}

/// Also if its last words cannot be sent.
#[test]
fn a_connection_that_takes_nothing_is_closed_after_its_request() {
    for encrypted in [false, true] {
        let timeout = Duration::from_secs(3);
        let tls = |port| encrypted.then(|| Tls::before(port, ToPlain::Alert));
        let (rig, _tls) = Rig::before(timeout, tls);
        rig.proxy.script(|_| Fault::Unread);
        let (headers, bytes) = (NewHeaders::default(), Bytes::from(vec![7; 32 << 20]));
        let sent = block_on(rig.store.put("put", &headers, bytes, &Condition::Any));
        assert!(matches!(sent, Err(Error::Unclear(_))), "{sent:?}");
        eventually(HANGS, || {
            let (opened, closed) =
                (&rig.metrics.connections_opened, &rig.metrics.connections_closed);
            equal("closed connections", closed.get(), opened.get())
        });
    }
}

#[test]
fn content_that_is_taken_slowly_is_sent_once() {
    let rig = Rig::new(Duration::from_secs(15));
    let bytes = Bytes::from(vec![7; 8 << 20]);
    // 128 pieces: longer than a connection may do nothing, which is 5 s.
    let slow = Fault::ReadSlowly(Duration::from_millis(50));
    rig.proxy.script(move |request| if is_content(request) { slow.clone() } else { Fault::None });
    let before = rig.proxy.requests();
    let headers = NewHeaders::default();
    let sent = rig.store.put("put", &headers, bytes.clone(), &Condition::Any);
    assert!(block_on(sent).is_ok());
    assert_eq!(rig.proxy.requests() - before, 1);
    assert_eq!(rig.bucket.body("put"), bytes);
}

/// Each try counts once, with the class of its status, or why there was none.
#[test]
fn each_try_is_counted_by_what_came_of_it() {
    let mut rig = Rig::new(Duration::from_secs(4));
    rig.bucket.put("f", "x");
    let counted = |rig: &Rig| rig.metrics.answers.now().remove("head").unwrap_or_default();
    let stall = Fault::Delay(Duration::from_secs(60));
    let cases = [
        (vec![Fault::None], vec![("2xx", 1)]),
        (vec![Fault::Answer(Answer::new(301))], vec![("3xx", 1)]),
        (vec![Fault::Answer(Answer::new(403))], vec![("4xx", 1)]),
        (vec![Fault::Answer(Answer::new(500)), Fault::None], vec![("2xx", 1), ("5xx", 1)]),
        (vec![Fault::Lose, Fault::None], vec![("2xx", 1), ("connection", 1)]),
        // The SDK ends a try after half of the timeout.
        (vec![stall.clone(), Fault::None], vec![("2xx", 1), ("timeout", 1)]),
    ];
    for (faults, expected) in cases {
        let (before, met, shown) = (counted(&rig), AtomicU64::new(0), format!("{faults:?}"));
        rig.proxy.script(move |_| {
            let fault = faults.get(met.fetch_add(1, Ordering::Relaxed) as usize);
            fault.cloned().unwrap_or(Fault::None)
        });
        let _ = block_on(rig.store.head("f"));
        let after = counted(&rig);
        let had = |result: &String| before.results.get(result).copied().unwrap_or(0);
        let new = after.results.iter().map(|(result, n)| (result.as_str(), n - had(result)));
        let new: Vec<_> = new.filter(|(_, n)| *n > 0).collect();
        assert_eq!(new, expected, "{shown}");
        let tries: u64 = expected.iter().map(|(_, n)| n).sum();
        assert_eq!(after.took.since(&before.took).count(), tries, "{shown}");
    }
    // The program that waits for it is interrupted once the proxy has the request.
    rig.proxy.script(move |_| stall.clone());
    let (before, met) = (counted(&rig), rig.proxy.requests());
    block_on(async {
        let met_one = async {
            while rig.proxy.requests() == met {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            answer = rig.store.head("f") => panic!("{answer:?}"),
            () = met_one => {}
        }
    });
    let after = counted(&rig);
    assert_eq!(after.took.count(), before.took.count() + 1);
    assert_eq!(after.results.get("cancelled"), Some(&1), "{after:?}");
    rig.proxy.behave();
    rig.proxy.down();
    let before = counted(&rig);
    let brief = rig.store.with_outage(Duration::from_millis(300));
    assert!(matches!(block_on(brief.head("f")), Err(Error::Unreachable(_))));
    let after = counted(&rig);
    assert!(after.results["connection"] > before.results["connection"], "{after:?}");
    assert_eq!(after.results["cancelled"], before.results["cancelled"], "{after:?}");
}
