//! `sweep` while a writer renews an object at every moment: a proxy holds each request of the sweep, or
//! its answer, until the writer is done.

use std::sync::{Arc, Mutex};

use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use expirefs::embedded::{Object, Personality};
use serde_json::Value;
use tokio::task::block_in_place;

use crate::support::embedded::Embedded;
use crate::support::proxy::{Answer, Fault, Proxy, Request};
use crate::support::s3_server::{Bucket, S3Server, moto, object, seaweedfs};
use crate::support::{Endpoint, FUTURE, PAST, block_on};

/// How a writer changes an object that has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Renewal {
    OtherBytes,
    SameBytes,
    Deletes,
    /// It deletes, and puts the same bytes at the next moment.
    DeletesAndPuts,
}

use Renewal::{Deletes, DeletesAndPuts, OtherBytes, SameBytes};

/// What a store compares when it deletes, as a sweep names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compares {
    Version,
    Etag,
    None,
}

/// A bucket that both the sweep and the writer reach.
trait Place: Send + Sync + 'static {
    fn endpoint(&self) -> &Endpoint;
    fn bucket(&self) -> &str;
    fn put(&self, key: &str, bytes: &'static str, expires: &str);
    fn delete(&self, key: &str);
    fn content(&self, key: &str) -> Option<String>;
    fn until_settled(&self, key: &str);
}

impl Place for Bucket {
    fn endpoint(&self) -> &Endpoint {
        Bucket::endpoint(self)
    }

    fn bucket(&self) -> &str {
        &self.name
    }

    fn put(&self, key: &str, bytes: &'static str, expires: &str) {
        Bucket::put(self, key, object(bytes).expires(expires));
    }

    fn delete(&self, key: &str) {
        Bucket::delete(self, key);
    }

    fn content(&self, key: &str) -> Option<String> {
        let bytes = Bucket::content(self, key)?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn until_settled(&self, key: &str) {
        Bucket::until_settled(self, key);
    }
}

impl Place for Embedded {
    fn endpoint(&self) -> &Endpoint {
        Embedded::endpoint(self)
    }

    fn bucket(&self) -> &str {
        Embedded::BUCKET
    }

    fn put(&self, key: &str, bytes: &'static str, expires: &str) {
        match expires {
            // A minute ago.
            PAST => self.put_expiring(key, bytes, expires),
            _ => self.put_object(key, Object::new(bytes).expires(expires)),
        }
    }

    fn delete(&self, key: &str) {
        Embedded::delete(self, key);
    }

    fn content(&self, key: &str) -> Option<String> {
        Some(String::from_utf8_lossy(&self.get(key)?.body).into_owned())
    }

    fn until_settled(&self, _: &str) {}
}

/// One moment of a request: it is held, or its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    after: bool,
    method: String,
    /// Whether it is of the object that is renewed.
    of_object: bool,
}

/// Called at each moment, with its number.
type Act = Arc<dyn Fn(usize) + Send + Sync>;

/// A sweep of a prefix, whose requests are seen.
struct Swept {
    seen: Vec<Seen>,
    outcome: Option<String>,
    summary: Value,
}

/// Sweeps `PREFIX/`, with one request at a time. `refuses`: the store refuses the size and the
/// Last-Modified of a DELETE, as AWS does.
fn sweep(place: &dyn Place, prefix: &str, refuses: bool, act: Act) -> Swept {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let key = format!("{prefix}/k");
    let proxy = Proxy::start(place.endpoint(), {
        let (seen, key) = (seen.clone(), key.clone());
        move |request| {
            let moment = {
                let (seen, act) = (seen.clone(), act.clone());
                let (method, of_object) = (request.method.clone(), request.is_of(&key));
                move |after| {
                    let mut all = seen.lock().unwrap();
                    let method = method.clone();
                    all.push(Seen { after, method, of_object });
                    let n = all.len() - 1;
                    drop(all);
                    block_in_place(|| act(n));
                }
            };
            moment(false);
            if refuses && is_of_version(request) {
                moment(true);
                return not_implemented();
            }
            Fault::rewrite(move |_| moment(true))
        }
    });
    let url = format!("s3://{}/{prefix}/", place.bucket());
    let typed = ["sweep", &url, "--delete", "--json", "--metadata-concurrency", "1"];
    let output = proxy.endpoint().typed(&typed).output().expect("it runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.lines().count() <= 1, "{stderr}");
    let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let mut lines: Vec<Value> =
        lines.map(|line| serde_json::from_slice(line).expect("JSON")).collect();
    let summary = lines.pop().expect("a summary")["summary"].take();
    let outcome = lines.iter().find(|item| item["key"] == *key);
    let outcome = outcome.map(|item| item["outcome"].as_str().expect("a text").to_owned());
    let seen = seen.lock().unwrap().clone();
    Swept { seen, outcome, summary }
}

fn is_of_version(request: &Request) -> bool {
    request.head.get("x-amz-if-match-size").is_some()
}

fn not_implemented() -> Fault {
    let body = "<Error><Code>NotImplemented</Code><Message>as AWS says</Message></Error>";
    Fault::Answer(Answer::new(501).header("content-type", "application/xml").body(body))
}

/// The writer renews an object at each moment, in each way, once.
fn renew_at_every_moment(place: impl Place, compares: Compares, refuses: bool) {
    let place = Arc::new(place);
    let put = |prefix: &str| {
        ["a", "b", "k"]
            .iter()
            .for_each(|name| place.put(&format!("{prefix}/{name}"), "same", PAST));
        place.put(&format!("{prefix}/live"), "live", FUTURE);
    };
    put("alone");
    place.until_settled("alone/live");
    let alone = sweep(&*place, "alone", refuses, Arc::new(|_| {}));
    let guard = format!("{compares:?}").to_lowercase();
    assert_eq!((&alone.summary["deleted"], &alone.summary["guard"]), (&3.into(), &guard.into()));
    let moments = alone.seen.len();
    let renewals = [OtherBytes, SameBytes, Deletes, DeletesAndPuts];
    let tries: Vec<_> =
        renewals.into_iter().flat_map(|it| (0..moments).map(move |at| (it, at))).collect();
    let prefix = |n: usize| format!("try-{n}");
    (0..tries.len()).for_each(|n| put(&prefix(n)));
    place.until_settled(&format!("{}/live", prefix(tries.len() - 1)));
    let mut lost = [0; 4];
    for (n, (renewal, at)) in tries.into_iter().enumerate() {
        let (prefix, key) = (prefix(n), format!("{}/k", prefix(n)));
        let told = format!("{compares:?}: {renewal:?} at {at}");
        let act = {
            let (place, key) = (place.clone(), key.clone());
            move |n| match renewal {
                OtherBytes if n == at => place.put(&key, "other", FUTURE),
                SameBytes if n == at => place.put(&key, "same", FUTURE),
                Deletes | DeletesAndPuts if n == at => place.delete(&key),
                DeletesAndPuts if n == at + 1 => place.put(&key, "same", FUTURE),
                _ => {}
            }
        };
        let Swept { seen, outcome, summary } = sweep(&*place, &prefix, refuses, Arc::new(act));
        let outcome = outcome.as_deref();
        assert!(summary["failed"] == 0 && seen.len() > at, "{told}: {summary}");
        assert_eq!(place.content(&format!("{prefix}/live")).as_deref(), Some("live"), "{told}");
        let is_there = place.content(&key).is_some();
        let put_at = at + usize::from(renewal == DeletesAndPuts);
        if renewal == Deletes || seen.len() <= put_at {
            assert!(!is_there, "{told}");
            continue;
        }
        match outcome {
            Some("renewed") | None => assert!(is_there, "{told}: {outcome:?}"),
            Some("gone") => assert!(is_there && renewal == DeletesAndPuts, "{told}"),
            Some("deleted") => {}
            other => panic!("{told}: {other:?}"),
        }
        if is_there {
            continue;
        }
        let is_compared = match compares {
            Compares::Version => true,
            Compares::Etag => renewal == OtherBytes,
            Compares::None => false,
        };
        assert!(!is_compared, "{told}: {seen:?}");
        let is = |n: usize, after, method| {
            seen.get(n).is_some_and(|it| *it == Seen { after, method, of_object: true })
        };
        let is_delete = |n| is(n, false, "DELETE".to_owned());
        let in_window =
            is_delete(put_at) || is(put_at, true, "HEAD".to_owned()) && is_delete(put_at + 1);
        assert!(in_window, "{told}: {seen:?}");
        lost[renewals.iter().position(|it| *it == renewal).expect("one of them")] += 1;
    }
    // After the answer of the HEAD, and before the DELETE: this shows that the test sees them.
    let want = match compares {
        Compares::Version => [0, 0, 0, 0],
        Compares::Etag => [0, 2, 0, 1],
        Compares::None => [2, 2, 0, 1],
    };
    assert_eq!(lost, want, "{compares:?}");
}

#[test]
fn a_renewed_object_is_never_deleted_by_a_store_that_compares_versions() {
    renew_at_every_moment(Embedded::start(), Compares::Version, false);
}

#[test]
fn seaweedfs_deletes_a_renewed_object_only_of_the_same_bytes_and_in_one_round_trip() {
    renew_at_every_moment(seaweedfs().bucket("races"), Compares::Etag, false);
}

#[test]
fn a_store_that_refuses_conditions_as_aws_does_is_asked_for_the_etag() {
    renew_at_every_moment(seaweedfs().bucket("races-aws"), Compares::Etag, true);
}

#[test]
fn moto_deletes_a_renewed_object_only_of_the_same_bytes_and_in_one_round_trip() {
    renew_at_every_moment(moto().bucket("races"), Compares::Etag, false);
}

#[test]
fn stores_that_compare_nothing_delete_a_renewed_object_only_in_one_round_trip() {
    for personality in [Personality::GARAGE, Personality::CEPH] {
        let store = Embedded::start();
        store.behave_as(personality);
        renew_at_every_moment(store, Compares::None, false);
    }
}

/// The versions of a key, the latest first: their ETags, and `marker` for a delete marker.
fn versions(bucket: &Bucket, key: &str) -> (Vec<String>, usize, bool) {
    let list = bucket.client().list_object_versions().bucket(&bucket.name).prefix(key);
    let list = block_on(list.send()).expect("a list of versions");
    let etags = list.versions().iter().map(|it| it.e_tag().unwrap_or_default().to_owned());
    let markers = list.delete_markers();
    let is_latest = markers.iter().any(|marker| marker.is_latest() == Some(true));
    (etags.collect(), markers.len(), is_latest)
}

fn no_older_version_comes_to_light(server: &'static S3Server) {
    let bucket = server.bucket("versioned");
    let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled);
    let versioning = bucket.client().put_bucket_versioning().bucket(&bucket.name);
    block_on(versioning.versioning_configuration(enabled.build()).send()).expect("versions");
    let bucket = Arc::new(bucket);
    let put = |prefix: &str| {
        for name in ["a", "b", "k"] {
            let key = format!("{prefix}/{name}");
            bucket.put(&key, object("old").expires(FUTURE));
            bucket.put(&key, object("same").expires(PAST));
        }
    };
    put("alone");
    bucket.until_settled("alone/k");
    let alone = sweep(&*bucket, "alone", false, Arc::new(|_| {}));
    let Value::Object(summary) = &alone.summary else { panic!("{}", alone.summary) };
    assert_eq!((&summary["deleted"], &summary["delete_markers"]), (&3.into(), &3.into()));
    for name in ["a", "b", "k"] {
        let (versions, markers, is_latest) = versions(&bucket, &format!("alone/{name}"));
        assert_eq!((versions.len(), markers, is_latest), (2, 1, true), "{name}");
    }
    (0..alone.seen.len()).for_each(|at| put(&format!("try-{at}")));
    bucket.until_settled(&format!("try-{}/k", alone.seen.len() - 1));
    for at in 0..alone.seen.len() {
        let (prefix, key) = (format!("try-{at}"), format!("try-{at}/k"));
        let act = {
            let (bucket, key) = (bucket.clone(), key.clone());
            move |n| {
                assert_ne!(bucket.content(&key).as_deref(), Some(&b"old"[..]), "at {n}");
                if n == at {
                    bucket.put(&key, object("renewed").expires(FUTURE));
                }
            }
        };
        let swept = sweep(&*bucket, &prefix, false, Arc::new(act));
        assert_eq!(bucket.content(&key).as_deref(), Some(&b"renewed"[..]), "at {at}");
        let (versions, markers, _) = versions(&bucket, &key);
        let deleted = usize::from(swept.outcome.as_deref() == Some("deleted"));
        assert_eq!((versions.len(), markers), (3, deleted), "at {at}");
    }
}

#[test]
fn in_a_versioned_bucket_of_seaweedfs_no_older_version_comes_to_light() {
    no_older_version_comes_to_light(seaweedfs());
}

#[test]
fn in_a_versioned_bucket_of_moto_no_older_version_comes_to_light() {
    no_older_version_comes_to_light(moto());
}
