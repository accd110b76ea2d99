//! How often a sweep deletes an object that is renewed with the same bytes, on SeaweedFS, which compares
//! only ETags (`scripts/sweep-window`). Each object is renewed once, by a writer beside the sweep:
//!
//! - at a random moment of the whole sweep, as writers of a cache do, or
//! - aimed: at a random moment of the 20 ms that begin with the HEAD of the object, which a proxy sees.
//!
//! Ends with status 1 if a renewed object is missing that the sweep does not report as deleted.

use std::collections::BTreeMap;
use std::process::{ExitCode, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use support::proxy::{Fault, Proxy};
use support::s3_server::{Bucket, object, seaweedfs};
use support::{Endpoint, FUTURE, PAST, block_on};
use tokio::task::JoinSet;
use tokio::time::sleep;

#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "each test binary uses a part of it")]
mod support;

/// From the HEAD of an object on.
const AIM: Duration = Duration::from_millis(20);
/// Concurrent renewals of the writer at random moments.
const RENEWALS: usize = 16;

fn main() -> ExitCode {
    let tries = std::env::args().nth(1).map_or(Ok(300), |arg| arg.parse::<u64>());
    let Ok(tries) = tries else {
        eprintln!("window: expected a number of objects");
        return ExitCode::from(2);
    };
    let right = [at_random(tries), aimed(tries)];
    ExitCode::from(u8::from(!right.iter().all(|right| *right)))
}

/// A bucket of so many objects that have expired.
fn bucket(theme: &str, tries: u64) -> Arc<Bucket> {
    let bucket = seaweedfs().bucket(theme);
    // Those that nobody renews come first: from them the sweep learns what the store compares.
    bucket.put_all((0..10).map(|n| (format!("a/{n}"), object("x").expires(PAST))));
    bucket.put_all((0..tries).map(|n| (key(n), object(format!("{n}")).expires(PAST))));
    bucket.until_settled(&key(tries - 1));
    Arc::new(bucket)
}

fn key(n: u64) -> String {
    format!("k/{n:06}")
}

fn sweep(endpoint: &Endpoint, bucket: &Bucket, concurrency: &str) -> Output {
    let url = format!("s3://{}/", bucket.name);
    let typed = ["sweep", &url, "--delete", "--json", "--metadata-concurrency", concurrency];
    endpoint.typed(&typed).output().expect("it runs")
}

async fn renew(bucket: &Bucket, n: u64) {
    let put = bucket.client().put_object().bucket(&bucket.name).key(key(n));
    let put = put.body(format!("{n}").into_bytes().into()).customize().mutate_request(|request| {
        request.headers_mut().insert("expires", FUTURE);
    });
    put.send().await.expect("a renewal");
}

fn at_random(tries: u64) -> bool {
    // The first one tells how long a sweep takes.
    let first = bucket("window-first", tries);
    let began = Instant::now();
    assert!(sweep(first.endpoint(), &first, "64").status.success());
    let length = began.elapsed();
    let bucket = bucket("window", tries);
    let writer = std::thread::spawn({
        let bucket = bucket.clone();
        move || {
            let mut renewals: Vec<(Duration, u64)> =
                (0..tries).map(|n| (length.mul_f64(fraction(n)), n)).collect();
            renewals.sort();
            let began = Instant::now();
            block_on(async {
                let mut sent = JoinSet::new();
                for (at, n) in renewals {
                    sleep(at.saturating_sub(began.elapsed())).await;
                    while sent.len() >= RENEWALS {
                        sent.join_next().await;
                    }
                    let bucket = bucket.clone();
                    sent.spawn(async move { renew(&bucket, n).await });
                }
                sent.join_all().await;
            });
        }
    });
    let swept = sweep(bucket.endpoint(), &bucket, "64");
    writer.join().expect("the writer");
    report(&format!("at random moments of {length:.1?}"), &swept, &bucket, tries)
}

fn aimed(tries: u64) -> bool {
    let bucket = bucket("window-aimed", tries);
    let writing = Arc::new(Mutex::new(JoinSet::new()));
    let proxy = Proxy::start(bucket.endpoint(), {
        let (bucket, writing) = (bucket.clone(), writing.clone());
        let aimed = Mutex::new(vec![false; tries as usize]);
        move |request| {
            let number = request.path.rsplit('/').next().and_then(|name| name.parse::<u64>().ok());
            if let Some(n) = number.filter(|_| request.is_head())
                && !std::mem::replace(&mut aimed.lock().unwrap()[n as usize], true)
            {
                let bucket = bucket.clone();
                writing.lock().unwrap().spawn(async move {
                    sleep(AIM.mul_f64(fraction(n))).await;
                    renew(&bucket, n).await;
                });
            }
            Fault::None
        }
    });
    let swept = sweep(proxy.endpoint(), &bucket, "4");
    let writing = std::mem::take(&mut *writing.lock().unwrap());
    block_on(writing.join_all());
    report(&format!("within {AIM:?} of the HEAD"), &swept, &bucket, tries)
}

/// From 0 to 1, as if at random, and different in each run.
fn fraction(n: u64) -> f64 {
    static RUN: std::sync::LazyLock<u64> = std::sync::LazyLock::new(|| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        since.as_nanos() as u64
    });
    let mut it = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ *RUN;
    it = (it ^ (it >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    it = (it ^ (it >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((it ^ (it >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

/// Prints what became of the objects. Returns whether nothing but the window explains it.
fn report(how: &str, swept: &Output, bucket: &Bucket, tries: u64) -> bool {
    let lines = swept.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let mut lines: Vec<Value> =
        lines.map(|line| serde_json::from_slice(line).expect("JSON")).collect();
    let summary = lines.pop().expect("a summary")["summary"].take();
    let outcomes: BTreeMap<&str, &str> = lines
        .iter()
        .map(|item| (item["key"].as_str().expect("a key"), item["outcome"].as_str().expect("one")))
        .collect();
    let there = bucket.keys();
    let lost: Vec<String> = (0..tries).map(key).filter(|key| !there.contains(key)).collect();
    let unexplained: Vec<&String> =
        lost.iter().filter(|key| outcomes.get(key.as_str()) != Some(&"deleted")).collect();
    println!(
        "{tries} objects, each renewed once with the same bytes {how}: {} live objects deleted\n    \
         sweep: {} deleted, {} renewed, {} live, {} failed, {} s, guard {}",
        lost.len(),
        summary["deleted"],
        summary["renewed"],
        summary["live"],
        summary["failed"],
        summary["seconds"],
        summary["guard"],
    );
    if !unexplained.is_empty() {
        println!("    missing, and not reported as deleted: {unexplained:?}");
    }
    unexplained.is_empty() && summary["failed"] == 0 && summary["complete"] == true
}
