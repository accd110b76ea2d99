//! The proof of conditions for each store, which must leave nothing behind.

use std::env;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use expirefs::bucket::honours::{Honours, NotWritable, Spellings};
use expirefs::clock::Clock;
use expirefs::embedded::{Conditions, Handle, Personality};
use expirefs::error::Error;
use expirefs::fd_budget::Budget;
use expirefs::name::Prefix;
use expirefs::s3::S3;
use expirefs::store::write::{Condition, NewHeaders};
use expirefs::store::{ListRequest, Store};
use tokio::join;
use tokio::task::block_in_place;
use tokio::time::{sleep, timeout};

use super::support::proxy::{Answer, Fault, Proxy, Request};
use super::support::s3_server::{SCRIPT, given};
use super::{BUCKET, Rig, in_bucket_of, open_to_all, rig, support};

const MOTO: Honours = Honours {
    put_if_absent: true,
    put_if_match: true,
    complete_if_absent: true,
    delete_if_match: true,
    ..Honours::NONE
};

/// As many as the budget of these stores has.
const BODIES: usize = 2;
const WITHIN: Duration = Duration::from_secs(20);

fn spellings(store: &S3) -> Spellings {
    Spellings { quoted: Arc::new(store.clone()), bare: Arc::new(store.with_bare_etags()) }
}

async fn prove(store: &S3) -> Result<Honours, NotWritable> {
    spellings(store).prove(&Prefix::new("p"), 7, BODIES, WITHIN).await
}

/// The keys of a bucket.
async fn keys(store: &S3) -> Vec<String> {
    let all = ListRequest { recursive: true, ..ListRequest::level("") };
    let page = store.list(all).await.unwrap();
    page.objects.iter().map(|version| version.key.to_string()).collect()
}

/// A store behind a proxy.
struct Proxied {
    rig: Rig,
    proxy: Proxy,
    store: S3,
}

async fn proxied(within: Duration) -> Proxied {
    let (rig, _) = rig(Duration::from_secs(10)).await;
    let upstream = support::Endpoint { url: rig.server.endpoint(), credentials: None };
    let proxy = block_in_place(|| Proxy::start(&upstream, |_| Fault::None));
    let site = open_to_all(proxy.endpoint().url.clone()).locate().await.unwrap();
    let budget = Budget::plan(64, 3, Some(2), 64).unwrap();
    let store = S3::new(&site, &budget, within, Arc::new(Clock::server()), Arc::default()).await;
    Proxied { rig, proxy, store: store.unwrap() }
}

impl Proxied {
    fn server(&self) -> Handle {
        self.rig.server.handle()
    }

    async fn is_clean(&self) -> bool {
        keys(&self.rig.store).await.is_empty() && self.server().uploads(BUCKET) == 0
    }
}

impl Drop for Proxied {
    fn drop(&mut self) {
        block_in_place(|| self.proxy.down());
    }
}

fn denied() -> Fault {
    let body = "<Error><Code>AccessDenied</Code><Message>so the test says</Message></Error>";
    Fault::Answer(Answer::new(403).body(body))
}

#[tokio::test]
async fn each_personality_is_detected() {
    let bare = Honours { bare_etags: true, ..Honours::ALL };
    let garage = Honours { copy_source_if_match: true, ..Honours::NONE };
    let ceph =
        Honours { bare_etags: true, put_if_absent: true, put_if_match: true, ..Honours::NONE };
    let s3 = Personality::S3;
    let no_rename = Honours { rename: false, ..Honours::ALL };
    for (personality, honours) in [
        (s3, Honours::ALL),
        (Personality::GARAGE, garage),
        (Personality::CEPH, ceph),
        (Personality { bare_etags: true, ..s3 }, bare),
        (Personality { takes_rename_for_put: true, ..s3 }, no_rename),
        (Personality { ignores: &[Conditions::Rename], ..s3 }, no_rename),
        (
            Personality { ignores: &[Conditions::Put], ..s3 },
            Honours { put_if_absent: false, put_if_match: false, ..Honours::ALL },
        ),
    ] {
        let (rig, _) = rig(Duration::from_secs(10)).await;
        let server = rig.server.handle();
        server.behave_as(personality);
        assert_eq!(prove(&rig.store).await, Ok(honours), "{personality:?}");
        assert_eq!(keys(&rig.store).await, [""; 0], "{personality:?}");
        assert_eq!(server.uploads(BUCKET), 0, "{personality:?}");

        // The fitting store is the one whose conditions match.
        let fitting = spellings(&rig.store).fitting(&honours);
        let (none, new) = (NewHeaders::default(), Bytes::from("new"));
        let put = fitting.put("k", &none, new.clone(), &Condition::Any).await.unwrap();
        let condition = Condition::Is(put.tag.unwrap());
        fitting.put("k", &none, new, &condition).await.unwrap();
    }
}

#[tokio::test]
async fn a_proof_takes_fifty_requests() {
    let (rig, _) = rig(Duration::from_secs(10)).await;
    prove(&rig.store).await.unwrap();
    let asked = rig.server.handle().requests();
    assert_eq!((asked.put, asked.upload, asked.copy), (11, 14, 6), "{asked:?}");
    assert_eq!((asked.delete, asked.rename, asked.head, asked.get), (13, 4, 1, 1), "{asked:?}");
}

/// Runs the proof on a server in another process.
fn is_proved_of(name: &str, test: &str, honours: Honours) {
    if given().as_deref() != Some(name) {
        let mut again = Command::new(SCRIPT);
        again.args(["--server", name, "run"]).arg(env::current_exe().expect("this program"));
        again.args([&format!("honours::{test}"), "--exact", "--nocapture"]);
        assert!(again.status().expect(SCRIPT).success(), "see above");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (store, bucket) = in_bucket_of(name, &runtime);
    assert_eq!(runtime.block_on(prove(&store)), Ok(honours));
    let uploads = bucket.client().list_multipart_uploads().bucket(&bucket.name);
    let uploads = runtime.block_on(uploads.send()).unwrap().uploads().len();
    assert_eq!((bucket.keys().len(), uploads), (0, 0));
}

#[test]
fn seaweedfs_honours_everything() {
    is_proved_of("seaweedfs", "seaweedfs_honours_everything", Honours::ALL);
}

#[test]
fn moto_honours_some() {
    is_proved_of("moto", "moto_honours_some", MOTO);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_of_any_request_leaves_nothing_behind() {
    join!(
        each_request_meets(Fault::status(500, None), false),
        each_request_meets(Fault::Lose, false),
        each_request_meets(denied(), true),
    );
}

/// Repeats the proof; in each run another request gets this fault.
async fn each_request_meets(fault: Fault, denies: bool) {
    let rig = proxied(WITHIN).await;
    let loses = matches!(fault, Fault::Lose);
    for nth in 1.. {
        let (lost, before) = (rig.server().uploads(BUCKET), rig.proxy.requests());
        let met = Arc::new(Mutex::new(None));
        let (meets, fault) = (met.clone(), fault.clone());
        rig.proxy.script(move |request| {
            if request.number != before + nth {
                return Fault::None;
            }
            *meets.lock().unwrap() = Some(request.clone());
            fault.clone()
        });
        let proved = prove(&rig.store).await;
        rig.proxy.behave();
        let Some(met) = met.lock().unwrap().take() else {
            assert!(nth > 50, "{nth}");
            break;
        };
        match proved {
            Ok(honours) if denies => assert!(honours.may_delete, "{met:?}: {honours:?}"),
            Ok(honours) => assert_eq!(honours, Honours::ALL, "{met:?}"),
            Err(NotWritable::Denied(..)) => assert!(denies && nth == 1, "{met:?}"),
            Err(error) => panic!("{met:?}: {error}"),
        }
        assert_eq!(keys(&rig.rig.store).await, [""; 0], "{met:?}");
        // If its response is lost, so is the id of an upload.
        let is_lost = loses && met.query == "uploads";
        assert_eq!(rig.server().uploads(BUCKET) - lost, usize::from(is_lost), "{met:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn if_put_is_denied_the_error_names_the_key() {
    let rig = proxied(WITHIN).await;
    rig.proxy.script(|request| if request.method == "PUT" { denied() } else { Fault::None });
    let error = prove(&rig.store).await.unwrap_err();
    let says = "s3:PutObject is not permitted on p/.expirefs-probe-0000000000000007-1: access \
        denied: AccessDenied (403)";
    assert!(error.to_string().starts_with(says), "{error}");
    assert_eq!((rig.server().requests().put, rig.proxy.did("answer")), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn if_delete_is_denied_the_remaining_objects_are_expired() {
    let rig = proxied(WITHIN).await;
    let is_delete =
        |request: &Request| request.method == "DELETE" && !request.query.contains("uploadId");
    rig.proxy.script(move |request| if is_delete(request) { denied() } else { Fault::None });
    let honours = prove(&rig.store).await.unwrap();
    let expected = Honours { delete_if_match: false, may_delete: false, ..Honours::ALL };
    assert_eq!(honours, expected);
    let left = keys(&rig.rig.store).await;
    assert_eq!((left.len(), rig.server().uploads(BUCKET)), (10, 0), "{left:?}");
    for key in left {
        assert!(key.starts_with("p/.expirefs-probe-0000000000000007-"), "{key}");
        let expires = rig.server().get(BUCKET, &key).unwrap().expires.unwrap();
        assert_eq!(expires, "Thu, 01 Jan 1970 00:00:00 GMT", "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_a_response_end_the_proof_in_time() {
    let rig = proxied(WITHIN).await;
    let is_complete =
        |request: &Request| request.method == "POST" && request.query.contains("uploadId");
    rig.proxy.script(move |request| match is_complete(request) {
        true => Fault::Delay(Duration::from_secs(60)),
        false => Fault::None,
    });
    let (start, bound) = (Instant::now(), Duration::from_secs(4));
    let proved = spellings(&rig.store).prove(&Prefix::default(), 7, BODIES, bound).await;
    assert_eq!(proved, Err(NotWritable::Unproved(Error::TimedOut(bound / 2))));
    assert!(start.elapsed() < bound, "{:?}", start.elapsed());
    assert!(rig.is_clean().await);

    block_in_place(|| rig.proxy.script(|_| Fault::Close));
    let brief = rig.store.with_outage(Duration::from_millis(300));
    let proved = prove(&brief).await;
    assert!(matches!(proved, Err(NotWritable::Unproved(Error::Unclear(_)))), "{proved:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_proof_leaves_nothing_behind() {
    let rig = proxied(WITHIN).await;
    rig.proxy.script(|_| Fault::Delay(Duration::from_millis(10)));
    let (stores, prefix) = (spellings(&rig.store), Prefix::new("p"));
    let mut given_up = 0;
    for random in 0.. {
        let patience = Duration::from_millis(7 * random);
        let proof = stores.prove(&prefix, random, BODIES, WITHIN);
        match timeout(patience, proof).await {
            Ok(proved) => {
                assert_eq!(proved, Ok(Honours::ALL));
                break;
            }
            Err(_) => given_up += 1,
        }
    }
    assert!(given_up > 5, "{given_up}");
    let ends = Instant::now() + Duration::from_secs(30);
    let mut before = 0;
    while before != rig.proxy.requests() || !rig.is_clean().await {
        assert!(Instant::now() < ends, "{:?}", keys(&rig.rig.store).await);
        before = rig.proxy.requests();
        sleep(Duration::from_millis(300)).await;
    }
}
