//! `sweep` as it is run: options, output, exit statuses, interruptions. Which objects it may delete
//! is tested in `tests/semantics`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::ops::Range;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use expirefs::embedded::{Conditions, Object, Personality};
use expirefs::expiry::format_http_date;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::embedded::Embedded;
use crate::support::prometheus::assert_well_formed;
use crate::support::proxy::{Answer, Fault, Proxy};
use crate::support::s3_server::{moto, object, seaweedfs};
use crate::support::stuck::end_of;
use crate::support::wait::{HANGS, at_most, equal, eventually};
use crate::support::{Endpoint, FUTURE, PAST, REGION, block_on};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Objects after which the state is saved.
const SAVE_AFTER: u64 = 100;

fn url() -> String {
    format!("s3://{}", Embedded::BUCKET)
}

fn sweep(endpoint: &Endpoint, args: &[&str]) -> Command {
    endpoint.expirefs("sweep", &url(), args)
}

fn swept(endpoint: &Endpoint, args: &[&str]) -> Output {
    sweep(endpoint, args).output().expect("it runs")
}

/// A sweep with `--json`.
#[derive(Debug)]
struct Swept {
    status: i32,
    items: Vec<Value>,
    summary: Value,
    errors: String,
}

impl Swept {
    #[track_caller]
    fn of(Output { status, stdout, stderr }: Output) -> Swept {
        let errors = String::from_utf8(stderr).expect("text");
        let json = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        let stdout = String::from_utf8(stdout).expect("text");
        let mut items: Vec<Value> = stdout.lines().map(json).collect();
        let summary = items.pop().unwrap_or_else(|| panic!("no summary; {errors}"));
        let status = status.code().expect("an exit");
        Swept { status, items, summary: summary["summary"].clone(), errors }
    }

    fn number(&self, name: &str) -> u64 {
        self.summary[name].as_u64().unwrap_or_else(|| panic!("{name} of {}", self.summary))
    }

    fn requests(&self, name: &str) -> u64 {
        self.summary["requests"][name].as_u64().unwrap_or_else(|| panic!("no {name}"))
    }

    /// The keys with this outcome, in the order in which they were shown.
    fn keys(&self, outcome: &str) -> Vec<&str> {
        let of = self.items.iter().filter(|item| item["outcome"] == outcome);
        of.map(|item| item["key"].as_str().expect("a key")).collect()
    }

    #[track_caller]
    fn all_done(self) -> Swept {
        let is_well =
            self.status == 0 && self.errors.is_empty() && self.summary["complete"] == true;
        assert!(is_well, "{self:?}");
        self
    }
}

#[track_caller]
fn json(endpoint: &Endpoint, args: &[&str]) -> Swept {
    Swept::of(swept(endpoint, &[&["--json"], args].concat()))
}

/// The line that it fails with.
#[track_caller]
fn refused(output: Output, status: i32) -> String {
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(status), 0), "{stderr}");
    stderr
}

fn ago(age: Duration) -> String {
    format_http_date(SystemTime::now() - age)
}

/// Keys `k0000`…, all of which have expired.
fn expired(store: &Embedded, keys: Range<u64>) {
    keys.for_each(|n| store.put_expiring(&format!("k{n:04}"), "x", PAST));
}

fn path_in<'a>(folder: &Path, name: &str, text: &'a mut String) -> &'a str {
    *text = folder.join(name).into_os_string().into_string().expect("text");
    text
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    entries.map(|entry| entry.expect("a name").file_name().into_string().expect("text")).collect()
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).expect("a signal");
}

fn piped(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs")
}

#[test]
fn a_sweep_lists_what_is_due_and_deletes_it_only_with_delete() {
    let store = Embedded::start();
    store.put_expiring("a", "xyz", PAST);
    store.put_expiring("d/b", "x", PAST);
    store.put_expiring("live", "x", FUTURE);
    store.put("endless", "x");
    store.put_expiring("unparsable", "x", "soon");
    store.put_expiring("in grace", "x", ago(10 * MINUTE));
    let all = ["a", "d/b", "live", "endless", "unparsable", "in grace"];
    let is_left = |key: &&&str| store.get(key).is_some();

    let listed = swept(store.endpoint(), &[]);
    let lines = "due      2020-01-01T00:00:00Z s3://embedded/a\n\
                 due      2020-01-01T00:00:00Z s3://embedded/d/b\n";
    assert_eq!(String::from_utf8_lossy(&listed.stdout), lines);
    let says = String::from_utf8_lossy(&listed.stderr);
    assert!(listed.status.success() && says.lines().count() == 1, "{says}");
    for part in ["6 objects listed, 2 due, 4 B", "1 expired within the grace", "1 unparsable"] {
        assert!(says.contains(part), "{says}");
    }
    assert_eq!(all.iter().filter(is_left).count(), all.len());

    let below = store.endpoint().expirefs("sweep", "s3://embedded/d", &["--delete", "--quiet"]);
    let Output { status, stdout, stderr } = { below }.output().expect("it runs");
    assert!(status.success() && stdout.is_empty() && stderr.is_empty());
    assert!(store.get("d/b").is_none() && store.get("a").is_some());

    let deleted = swept(store.endpoint(), &["--delete"]);
    let line = "deleted  2020-01-01T00:00:00Z s3://embedded/a\n";
    assert_eq!(String::from_utf8_lossy(&deleted.stdout), line);
    let says = String::from_utf8_lossy(&deleted.stderr);
    assert!(deleted.status.success() && says.contains("1 deleted, 3 B"), "{says}");
    let left: Vec<_> = all.iter().filter(is_left).copied().collect();
    assert_eq!(left, ["live", "endless", "unparsable", "in grace"]);
}

#[test]
fn grace_and_unparsable_decide_what_is_due() {
    let store = Embedded::start();
    store.put_expiring("ended", "x", ago(10 * MINUTE));
    // Its grace counts from Last-Modified, a minute ago.
    store.put_expiring("unparsable", "x", "soon");
    for (args, due) in [
        (&["--grace", "11m", "--unparsable"][..], &[][..]),
        (&["--grace", "9m", "--unparsable"], &["ended"]),
        (&["--grace", "0s"], &["ended"]),
        (&["--grace", "30s", "--unparsable"], &["ended", "unparsable"]),
    ] {
        assert_eq!(json(store.endpoint(), args).all_done().keys("due"), due, "{args:?}");
    }
}

#[test]
fn each_object_and_the_summary_are_json_lines_with_all_fields() {
    let store = Embedded::start();
    store.put_expiring("a \"b\"\n", "xyz", PAST);
    store.put_expiring("live", "x", FUTURE);
    let listed = json(store.endpoint(), &[]).all_done();
    let item = &listed.items[0];
    let last_modified = item["last_modified"].as_str().expect("text");
    assert!(last_modified.ends_with('Z'), "{last_modified}");
    let want = json!({
        "key": "a \"b\"\n", "outcome": "due", "instant": "2020-01-01T00:00:00Z",
        "decided_by": "expires", "size": 3, "last_modified": last_modified, "upload_id": null,
        "error": null,
    });
    assert_eq!(*item, want);
    let names: Vec<&String> = listed.summary.as_object().expect("an object").keys().collect();
    let want = [
        "aborted_uploads",
        "complete",
        "delete",
        "delete_markers",
        "deleted",
        "deleted_bytes",
        "due",
        "due_bytes",
        "ended_by",
        "failed",
        "gone",
        "guard",
        "in_grace",
        "listed",
        "live",
        "no_expiry",
        "old_uploads",
        "renewed",
        "requests",
        "seconds",
        "unparsable",
        "url",
        "usd",
    ];
    assert_eq!(names, want);
    assert_eq!((listed.requests("head"), listed.number("due_bytes")), (2, 3));
}

#[test]
fn max_delete_ends_a_sweep_and_the_state_lets_the_next_one_go_on() {
    let store = Embedded::start();
    expired(&store, 0..10);
    let dir = tempfile::tempdir().expect("a folder");
    let mut text = String::new();
    let state = path_in(dir.path(), "state", &mut text);
    let args = ["--delete", "--max-delete", "4", "--state", state];
    for (deleted, left) in [(4, 6), (4, 2)] {
        let part = json(store.endpoint(), &args);
        assert_eq!((part.status, part.number("deleted")), (3, deleted), "{part:?}");
        let why = part.summary["ended_by"].as_str().expect("why");
        assert!(why.contains("--max-delete 4") && why.contains("goes on"), "{why}");
        let keys = (0..10).filter(|n| store.get(&format!("k{n:04}")).is_some());
        assert_eq!(keys.count(), left);
        assert_eq!(names_in(dir.path()), ["state"]);
    }
    let rest = json(store.endpoint(), &args).all_done();
    assert_eq!((rest.number("deleted"), rest.number("listed")), (2, 2));
    assert_eq!(names_in(dir.path()), [""; 0], "the next sweep begins anew");
}

/// Pages of uploads that lead from one to the next and back.
#[test]
fn a_list_of_uploads_that_never_ends_fails_the_sweep() {
    let store = Embedded::start();
    let pages = AtomicU64::new(0);
    let proxy = Proxy::start(store.endpoint(), move |request| {
        if !request.query.contains("uploads") {
            return Fault::None;
        }
        let next = ["a", "b", "c"][pages.fetch_add(1, Ordering::Relaxed) as usize % 3];
        let page = format!(
            "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated>\
             <NextKeyMarker>{next}</NextKeyMarker><NextUploadIdMarker>{next}</NextUploadIdMarker>\
             </ListMultipartUploadsResult>"
        );
        Fault::Answer(Answer::new(200).header("content-type", "application/xml").body(page))
    });
    let says = refused(swept(proxy.endpoint(), &["--uploads", "1h"]), 1);
    assert!(says.contains("a listing that goes round in a circle"), "{says}");
}

#[test]
fn old_uploads_are_listed_and_aborted_and_young_ones_kept() {
    let bucket = seaweedfs().bucket("sweep");
    let url = format!("s3://{}/d/", bucket.name);
    let begin = |key| {
        let create = bucket.client().create_multipart_upload().bucket(&bucket.name).key(key);
        block_on(create.send()).expect("an upload");
    };
    ["d/upload", "other"].into_iter().for_each(begin);
    let run = |args: &[&str]| {
        let args = [&["--json"], args].concat();
        let output = bucket.endpoint().expirefs("sweep", &url, &args).output();
        Swept::of(output.expect("it runs")).all_done()
    };
    assert_eq!(run(&["--uploads", "1h", "--delete"]).number("old_uploads"), 0);
    let listed = eventually(HANGS, || {
        let listed = run(&["--uploads", "1s"]);
        equal("old uploads", listed.number("old_uploads"), 1).map(|()| listed)
    });
    assert_eq!(listed.keys("due"), ["d/upload"]);
    assert!(listed.items[0]["upload_id"].is_string() && listed.items[0]["size"].is_null());
    assert_eq!(bucket.uploads(), ["d/upload", "other"]);
    let deleted = run(&["--uploads", "1s", "--delete"]);
    assert_eq!((deleted.keys("deleted"), deleted.number("aborted_uploads")), (vec!["d/upload"], 1));
    assert_eq!(bucket.uploads(), ["other"]);
}

/// Asserts that a text has the form of the OpenMetrics specification 1.0. Returns the values.
#[track_caller]
fn open_metrics(text: &str) -> BTreeMap<&str, f64> {
    let lines = text.strip_suffix("# EOF\n").unwrap_or_else(|| panic!("no end: {text:?}"));
    let mut values = BTreeMap::new();
    let mut family = "";
    for line in lines.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let words: Vec<_> = comment.splitn(3, ' ').collect();
            assert!(["HELP", "TYPE", "UNIT"].contains(&words[0]) && words.len() == 3, "{line}");
            family = words[1];
        } else {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            assert!(name.starts_with(&format!("{family}{{url=\"s3://embedded/\"")), "{line}");
            assert!(name.ends_with("\"}"), "{line}");
            values.insert(name, value.parse().unwrap_or_else(|e| panic!("{line}: {e}")));
        }
    }
    values
}

/// And `--interval` sweeps again until a signal, which is no failure.
#[test]
fn metrics_are_replaced_as_a_whole_by_each_sweep_of_an_interval() {
    let store = Embedded::start();
    expired(&store, 0..3);
    let dir = tempfile::tempdir().expect("a folder");
    let mut text = String::new();
    let file = path_in(dir.path(), "sweep.prom", &mut text);
    let mut child = piped(sweep(
        store.endpoint(),
        &["--delete", "--json", "--interval", "1ms", "--metrics", file],
    ));
    let ended = Arc::new(AtomicBool::new(false));
    let reader = thread::spawn({
        let (ended, file) = (ended.clone(), file.to_owned());
        move || {
            let mut reads = 0;
            while !ended.load(Ordering::Relaxed) {
                if let Ok(text) = fs::read_to_string(&file) {
                    open_metrics(&text);
                    reads += 1;
                }
            }
            reads
        }
    });
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut lines = lines.map(|line| line.expect("text")).filter(|line| line.contains("summary"));
    assert!(lines.next().expect("a sweep").contains("\"deleted\":3"));
    expired(&store, 3..5);
    assert!(lines.any(|line| line.contains("\"deleted\":2")));
    lines.by_ref().take(20).for_each(drop);
    signal(&child, Signal::SIGTERM);
    lines.for_each(drop);
    assert_eq!(end_of(&mut child).code(), Some(0));
    ended.store(true, Ordering::Relaxed);
    assert!(reader.join().expect("a thread") > 0);
    let text = fs::read_to_string(file).expect("read");
    let values = open_metrics(&text);
    assert_eq!(values["expirefs_sweep_objects{url=\"s3://embedded/\",outcome=\"deleted\"}"], 0.0);
    assert!(values["expirefs_sweep_ended_timestamp_seconds{url=\"s3://embedded/\"}"] > 1.7e9);
    assert_eq!(names_in(dir.path()), ["sweep.prom"]);
    assert_well_formed(&text);
}

/// What was swept is shown, and the status says that something failed.
#[test]
fn a_metrics_file_that_cannot_be_written_does_not_hide_the_summary() {
    let store = Embedded::start();
    expired(&store, 0..3);
    let swept = Swept::of(swept(
        store.endpoint(),
        &["--delete", "--json", "--metrics", "/nowhere/sweep.prom"],
    ));
    assert_eq!((swept.status, swept.number("deleted")), (3, 3), "{swept:?}");
    assert!(swept.errors.contains("--metrics /nowhere/sweep.prom: "), "{}", swept.errors);
}

#[test]
fn with_an_index_an_unchanged_bucket_costs_no_head_also_after_a_mount() {
    let store = Embedded::start();
    (0..1200).for_each(|n| store.put_expiring(&format!("live{n}"), "x", FUTURE));
    expired(&store, 0..100);
    let dir = tempfile::tempdir().expect("a folder");
    let heads = || store.requests().head;
    let sweep = |name: &str| {
        let (mut text, before) = (String::new(), heads());
        let args = ["--index", path_in(dir.path(), name, &mut text)];
        let listed = json(store.endpoint(), &args).all_done();
        assert_eq!((listed.number("due"), listed.number("live")), (100, 1200));
        heads() - before
    };
    assert_eq!(sweep("own"), 1300);
    assert_eq!(sweep("own"), 0);
    store.put_expiring("live7", "changed", FUTURE);
    assert_eq!(sweep("own"), 1);

    let mut text = String::new();
    let file = path_in(dir.path(), "of-a-mount", &mut text);
    let mount = store.mounting().with(&format!("--index {file}")).start();
    assert_eq!(fs::read_dir(mount.dir()).expect("a folder").count(), 1200);
    drop(mount);
    assert_eq!(sweep("of-a-mount"), 0);
}

#[test]
fn only_what_lies_between_two_promised_lifetimes_costs_a_head() {
    let store = Embedded::start();
    let put = |key: &str, age: Duration, expires: &str| {
        let object = Object::new("x").expires(expires);
        store.put_object(key, object.last_modified(SystemTime::now() - age));
    };
    for n in 0..20 {
        put(&format!("young{n:02}"), HOUR, PAST);
        put(&format!("between{n:02}"), 3 * HOUR, if n < 10 { PAST } else { FUTURE });
        put(&format!("old{n:02}"), 6 * HOUR, FUTURE);
    }
    let args = ["--ttl-between", "2h", "4h"];
    let before = store.requests().head;
    let listed = json(store.endpoint(), &args).all_done();
    assert_eq!(store.requests().head - before, 20);
    assert_eq!((listed.number("due"), listed.number("live")), (30, 30));
    let old = listed.items.iter().filter(|item| item["instant"].is_null());
    assert_eq!(old.count(), 20, "their instants are not known");
}

/// A bucket of objects so old that a promise shows that they have expired.
fn old(keys: u64) -> Arc<Embedded> {
    let store = Embedded::start();
    for n in 0..keys {
        let object = Object::new("x").expires(PAST);
        store.put_object(&format!("k{n:04}"), object.last_modified(SystemTime::now() - 6 * HOUR));
    }
    Arc::new(store)
}

const PROMISE: [&str; 4] = ["--delete", "--ttl-between", "1h", "2h"];

/// And through an index; an object that was renewed since the page was listed is not deleted.
#[test]
fn what_needs_no_head_is_deleted_in_batches_and_a_renewed_object_is_kept() {
    let store = old(2500);
    let batches = Arc::new(AtomicU64::new(0));
    let proxy = Proxy::start(store.endpoint(), {
        let (store, batches) = (store.clone(), batches.clone());
        move |request| {
            // The first batch shows whether the store honours the conditions, with one object.
            if request.method == "POST" && batches.fetch_add(1, Ordering::Relaxed) == 1 {
                store.put_expiring("k0500", "x", FUTURE);
            }
            Fault::None
        }
    });
    let deleted = json(proxy.endpoint(), &PROMISE).all_done();
    assert_eq!((deleted.number("deleted"), deleted.number("renewed")), (2499, 1));
    assert_eq!(
        (deleted.keys("renewed"), deleted.summary["guard"].as_str()),
        (vec!["k0500"], Some("version"))
    );
    assert!(deleted.items.is_sorted_by_key(|item| item["key"].as_str()), "in the order of keys");
    assert!(store.get("k0500").is_some());
    assert_eq!(batches.load(Ordering::Relaxed), 4, "one to learn, and one for each page");
    // Two objects are deleted by themselves: the first, which shows what the store honours, and the
    // renewed one, in vain.
    assert!(deleted.requests("delete") <= 4 + 3 && deleted.requests("head") <= 6, "{deleted:?}");

    let store = old(300);
    let dir = tempfile::tempdir().expect("a folder");
    let mut text = String::new();
    let index = path_in(dir.path(), "index", &mut text);
    json(store.endpoint(), &["--index", index]).all_done();
    let deleted = json(store.endpoint(), &["--index", index, "--delete"]).all_done();
    assert_eq!(deleted.number("deleted"), 300);
    assert!(deleted.requests("delete") <= 4 && deleted.requests("head") <= 6, "{deleted:?}");
}

#[test]
fn a_store_that_ignores_the_conditions_of_a_batch_gets_one_for_a_victim_and_no_more() {
    for ignores in [&[Conditions::DeleteObjects][..], &[Conditions::Delete]] {
        let store = old(200);
        store.behave_as(Personality { ignores, ..Personality::S3 });
        let batches = Arc::new(AtomicU64::new(0));
        let proxy = Proxy::start(store.endpoint(), {
            let batches = batches.clone();
            move |request| {
                batches.fetch_add(u64::from(request.method == "POST"), Ordering::Relaxed);
                Fault::None
            }
        });
        let deleted = json(proxy.endpoint(), &PROMISE).all_done();
        assert_eq!(deleted.number("deleted"), 200);
        let honours_delete = !ignores.contains(&Conditions::Delete);
        assert_eq!(batches.load(Ordering::Relaxed), u64::from(honours_delete));
        // Without a condition, a HEAD right before each.
        assert_eq!(deleted.requests("head") < 10, honours_delete, "{deleted:?}");
    }
}

#[test]
fn a_batch_whose_answer_is_lost_or_that_is_refused_costs_no_object() {
    for fault in
        [Fault::Lose, Fault::status(503, None), Fault::status(403, None), Fault::status(501, None)]
    {
        let store = old(300);
        let batches = AtomicU64::new(0);
        let proxy = Proxy::start(store.endpoint(), {
            let fault = fault.clone();
            move |request| match request.method == "POST" {
                true if batches.fetch_add(1, Ordering::Relaxed) == 1 => fault.clone(),
                _ => Fault::None,
            }
        });
        let deleted = json(proxy.endpoint(), &PROMISE).all_done();
        assert_eq!((deleted.number("deleted"), deleted.number("gone")), (300, 0), "{fault:?}");
        assert_eq!(proxy.did(fault.name()), 1);
    }
}

#[test]
fn max_delete_counts_the_objects_of_a_batch() {
    let store = old(300);
    let deleted = json(store.endpoint(), &[&PROMISE[..], &["--max-delete", "120"]].concat());
    assert_eq!((deleted.status, deleted.number("deleted")), (3, 120), "{deleted:?}");
    let left = (0..300).filter(|n| store.get(&format!("k{n:04}")).is_some());
    assert!(left.eq(120..300));
}

/// Sweeps with `--shards 4`: each key is judged once, what is due is shown once, and to divide the
/// key space costs few requests.
#[track_caller]
fn assert_sharded(keys: &[String]) {
    let store = Embedded::start();
    let is_due = |n: &usize| n.is_multiple_of(50);
    for (n, key) in keys.iter().enumerate() {
        store.put_expiring(key, "x", if is_due(&n) { PAST } else { FUTURE });
    }
    let listed = json(store.endpoint(), &["--shards", "4"]).all_done();
    let mut due: Vec<_> =
        keys.iter().enumerate().filter(|(n, _)| is_due(n)).map(|(_, key)| key.as_str()).collect();
    due.sort_unstable();
    let mut shown = listed.keys("due");
    shown.sort_unstable();
    assert_eq!(shown, due);
    assert_eq!(
        (listed.number("listed"), listed.requests("head")),
        (keys.len() as u64, keys.len() as u64)
    );
    // The first request checks the bucket. A split leaves a page to both sides, and costs about a
    // dozen requests; in the end each worker finds that none is left to make.
    let (pages, shards) = (keys.len() as u64 / 1000, 4);
    let bound = 2 + 2 * pages + 16 * (pages + shards);
    println!("{} LISTs for {} keys", listed.requests("list"), keys.len());
    assert!(listed.requests("list") <= bound, "{} LISTs, over {bound}", listed.requests("list"));
}

#[test]
fn shards_judge_each_key_of_any_bucket_once() {
    assert_sharded(&[]);
    assert_sharded(&["k".to_owned()]);
    let hash = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let hex: Vec<String> = (1..=5000).map(|n| format!("{:016x}", hash(n))).collect();
    assert_sharded(&hex);
    let deep: Vec<String> =
        (1..=5000).map(|n| format!("a/long/way/down/2026/é/{n:06}/index.html")).collect();
    assert_sharded(&deep);
}

#[test]
fn no_more_requests_are_sent_than_the_rate_allows() {
    let store = Embedded::start();
    (0..60).for_each(|n| store.put_expiring(&format!("{n}"), "x", FUTURE));
    let listed = json(store.endpoint(), &["--rate", "20/s"]).all_done();
    // A second's worth may be sent at once; the other 40 take 2 s at least.
    let seconds = |swept: Swept| swept.summary["seconds"].as_f64().expect("a number");
    assert!(seconds(listed) >= 1.9);

    let store = old(60);
    store.behave_as(Personality { ignores: &[Conditions::DeleteObjects], ..Personality::S3 });
    let deleted = json(store.endpoint(), &[&PROMISE[..], &["--rate", "20/s"]].concat()).all_done();
    assert!(seconds(deleted) >= 1.9, "so do deletions without a HEAD");
}

#[test]
fn an_interrupt_ends_a_sweep_with_a_summary_and_its_state_goes_on() {
    const CONCURRENCY: u64 = 8;
    let store = Embedded::start();
    expired(&store, 0..1000);
    let proxy = Proxy::start(store.endpoint(), |request| match request.is_head() {
        true => Fault::Delay(Duration::from_millis(20)),
        false => Fault::None,
    });
    let dir = tempfile::tempdir().expect("a folder");
    let mut text = String::new();
    let state = path_in(dir.path(), "state", &mut text);
    let args = ["--json", "--delete", "--state", state, "--metadata-concurrency", "8"];
    let child = piped(sweep(proxy.endpoint(), &args));
    eventually(HANGS, || match store.requests().head {
        0..150 => Err("too early".to_owned()),
        _ => Ok(()),
    });
    signal(&child, Signal::SIGINT);
    let first = Swept::of(child.wait_with_output().expect("it ends"));
    assert_eq!((first.status, first.summary["complete"].as_bool()), (3, Some(false)), "{first:?}");
    let why = first.summary["ended_by"].as_str().expect("why");
    assert!(why.contains("stopped") && why.contains("goes on"), "{why}");
    let left = (0..1000).filter(|n| store.get(&format!("k{n:04}")).is_some()).count() as u64;
    assert!(left > 100, "it did not stop");
    assert_eq!(first.number("deleted"), 1000 - left, "what was in flight was done, and counted");
    assert_eq!(first.keys("deleted").len() as u64, 1000 - left);
    proxy.behave();
    let rest = json(proxy.endpoint(), &args[1..]).all_done();
    assert_eq!(rest.number("deleted"), left);
    // One that was stopped has saved all that was done.
    assert!(rest.requests("head") <= left + CONCURRENCY + 2, "{rest:?}");
    assert_eq!(names_in(dir.path()), [""; 0]);
}

/// Each kill costs at most: the objects since the state was saved, those in flight, and two HEADs
/// until it is known again what the store honours.
#[test]
fn after_kills_at_any_moment_little_is_asked_twice_and_nothing_is_left_behind() {
    const KEYS: u64 = 3000;
    const CONCURRENCY: u64 = 8;
    const PER_KILL: u64 = SAVE_AFTER + CONCURRENCY + 2;
    let store = Embedded::start();
    for n in 0..KEYS {
        store.put_expiring(&format!("k{n:04}"), "x", if n % 3 == 0 { PAST } else { FUTURE });
    }
    let dir = tempfile::tempdir().expect("a folder");
    let mut text = String::new();
    let state = path_in(dir.path(), "state", &mut text);
    let args = ["--delete", "--quiet", "--state", state, "--metadata-concurrency", "8"];
    let mut kills = 0;
    for attempt in 1.. {
        let before = store.requests();
        let mut child = piped(sweep(store.endpoint(), &args));
        // At another request each time: during the start, a save, a page, or never.
        let until = (attempt * 137) % 700;
        let is_there = |child: &mut Child| {
            let now = store.requests();
            let sent = now.head + now.list + now.delete - before.head - before.list - before.delete;
            sent >= until || child.try_wait().expect("its status").is_some()
        };
        eventually(HANGS, || {
            is_there(&mut child).then_some(()).ok_or_else(|| "running".to_owned())
        });
        child.kill().expect("SIGKILL");
        let status = child.wait().expect("its status");
        if status.success() {
            break;
        }
        assert_eq!(status.signal(), Some(9), "{status}");
        kills += 1;
        let left = names_in(dir.path());
        assert!(
            left.iter().all(|name| ["state", "state.new"].contains(&name.as_str())),
            "{left:?}"
        );
    }
    assert!(kills >= 5, "{kills} kills");
    let heads = store.requests().head;
    println!("{kills} kills, {heads} HEADs for {KEYS} keys");
    assert!(heads >= KEYS);
    at_most("HEADs", heads, KEYS + (kills + 1) * PER_KILL).expect("few more than keys");
    let left = (0..KEYS).filter(|n| store.get(&format!("k{n:04}")).is_some());
    assert!(left.eq((0..KEYS).filter(|n| n % 3 != 0)), "all that expired is deleted, and no more");
    assert_eq!(names_in(dir.path()), [""; 0]);
}

#[test]
fn a_reader_that_goes_away_ends_the_sweep_quietly() {
    let store = Embedded::start();
    expired(&store, 0..2000);
    for delete in [false, true] {
        let args: &[&str] = if delete { &["--delete"] } else { &[] };
        let mut child = piped(sweep(store.endpoint(), args));
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe"));
        lines.read_line(&mut String::new()).expect("a line");
        drop(lines);
        let mut says = String::new();
        child.stderr.take().expect("a pipe").read_to_string(&mut says).expect("text");
        assert_eq!(end_of(&mut child).code(), Some(3), "{says}");
        assert!(says.lines().count() == 1 && says.contains("it was stopped"), "{says}");
        let left = (0..2000).filter(|n| store.get(&format!("k{n:04}")).is_some()).count();
        assert!(left > 0 && (delete || left == 2000), "{left} left");
    }
}

#[test]
fn the_state_of_another_sweep_is_neither_used_nor_changed() {
    let store = Embedded::start();
    expired(&store, 0..10);
    let dir = tempfile::tempdir().expect("a folder");
    let mut text = String::new();
    let state = path_in(dir.path(), "state", &mut text);
    let ended = json(store.endpoint(), &["--state", state, "--delete", "--max-delete", "1"]);
    assert_eq!(ended.status, 3);
    let kept = fs::read(state).expect("a state");
    for url in ["s3://embedded", "s3://embedded/d"] {
        let args: &[&str] = &["--state", state];
        let other = store.endpoint().expirefs("sweep", url, args).output().expect("it runs");
        let says = refused(other, 1);
        assert!(says.contains("another sweep") && says.contains("s3://embedded/"), "{says}");
        assert_eq!(fs::read(state).expect("a state"), kept);
    }
    fs::write(state, "my notes").expect("write");
    let says = refused(swept(store.endpoint(), &["--state", state]), 1);
    assert!(says.contains("is not the state of a sweep"), "{says}");
}

#[test]
fn the_status_shows_whether_all_some_or_nothing_was_done() {
    let store = Embedded::start();
    expired(&store, 0..10);
    let proxy = Proxy::start(store.endpoint(), |_| Fault::None);
    for args in [
        &["--max-delete", "1"][..],
        &["--ttl-between", "1h"],
        &["--delete", "--lifecycle-advice"],
        &["--shards", "0"],
        &["--json", "--quiet"],
    ] {
        refused(swept(proxy.endpoint(), args), 2);
    }
    assert_eq!(proxy.requests(), 0);
    let absent = proxy.endpoint().expirefs("sweep", "s3://no-such-bucket", &["--delete"]);
    let says = refused({ absent }.output().expect("it runs"), 1);
    assert!(says.starts_with("expirefs: s3://no-such-bucket/: "), "{says}");

    for method in ["HEAD", "DELETE"] {
        proxy.script(move |request| match request.method == method && request.is_of("k0003") {
            true => Fault::status(403, None),
            false => Fault::None,
        });
        let some = json(proxy.endpoint(), &["--delete"]);
        assert_eq!((some.status, some.number("failed")), (3, 1), "{some:?}");
        assert_eq!(some.keys("failed"), ["k0003"]);
        assert!(some.errors.starts_with("expirefs: s3://embedded/k0003: "), "{}", some.errors);
    }
    assert!(store.get("k0003").is_some() && store.get("k0004").is_none());
    proxy.behave();
    json(proxy.endpoint(), &["--delete"]).all_done();
    // An empty bucket is done.
    json(proxy.endpoint(), &["--delete"]).all_done();
}

#[test]
fn clocks_that_differ_by_more_than_30_s_need_a_decision() {
    let store = Embedded::start();
    store.put_expiring("expired", "x", PAST);
    let ahead =
        |seconds| move || format_http_date(SystemTime::now() + Duration::from_secs(seconds));
    let (little, much) = (ahead(20), ahead(60));
    let proxy = Proxy::start(store.endpoint(), move |_| Fault::header("date", little()));
    json(proxy.endpoint(), &[]).all_done();
    proxy.script(move |_| Fault::header("date", much()));
    let says = refused(swept(proxy.endpoint(), &["--delete"]), 1);
    assert!(says.contains("differ by") && says.contains("--clock"), "{says}");
    assert!(store.get("expired").is_some());
    for clock in ["local", "server"] {
        let listed = json(proxy.endpoint(), &["--clock", clock]);
        assert_eq!((listed.status, listed.number("due")), (0, 1), "{listed:?}");
    }
}

#[test]
fn a_store_that_throttles_for_a_while_delays_a_sweep_and_nothing_fails() {
    let store = Embedded::start();
    expired(&store, 0..600);
    let proxy = Proxy::start(store.endpoint(), |request| match request.number {
        100..400 if request.number.is_multiple_of(3) => Fault::status(503, None),
        _ => Fault::None,
    });
    let deleted = json(proxy.endpoint(), &["--delete", "--shards", "2"]).all_done();
    assert_eq!((deleted.number("deleted"), deleted.number("failed")), (600, 0));
    assert_eq!(proxy.did("answer"), 100);
}

/// What is printed is what `aws s3api put-bucket-lifecycle-configuration` takes.
#[test]
fn a_store_accepts_the_lifecycle_rule_that_is_advised() {
    const PUT: &str = "
import boto3, json, sys
url, bucket = sys.argv[1:]
s3 = boto3.client('s3', endpoint_url=url)
rule = json.load(sys.stdin)
s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=rule)
got = s3.get_bucket_lifecycle_configuration(Bucket=bucket)['Rules']
assert got == rule['Rules'], got
";
    let bucket = moto().bucket("advice");
    for n in 0..3 {
        let expires = format_http_date(SystemTime::now() + HOUR);
        bucket.put(&format!("cache/{n}"), object("x").expires(expires));
    }
    let url = format!("s3://{}/cache", bucket.name);
    let args = ["--lifecycle-advice", "--uploads", "1h"];
    let advised = bucket.endpoint().expirefs("sweep", &url, &args).output().expect("it runs");
    let says = String::from_utf8_lossy(&advised.stderr);
    assert!(advised.status.success() && says.contains("1 days from the creation"), "{says}");
    let pinned = concat!(env!("CARGO_MANIFEST_DIR"), "/build/moto/bin/python");
    let endpoint = bucket.endpoint();
    let credentials = endpoint.credentials.as_ref().expect("credentials");
    let mut python = Command::new(pinned);
    python.args(["-c", PUT, &endpoint.url, &bucket.name]).stdin(Stdio::piped());
    python.env("AWS_ACCESS_KEY_ID", &credentials.access_key_id);
    python.env("AWS_SECRET_ACCESS_KEY", &credentials.secret_access_key);
    python.env("AWS_DEFAULT_REGION", REGION);
    let mut python = python.spawn().expect("Python");
    python.stdin.take().expect("a pipe").write_all(&advised.stdout).expect("it reads");
    assert!(end_of(&mut python).success());

    bucket.put("cache/endless", object("x"));
    let advised = bucket.endpoint().expirefs("sweep", &url, &args).output().expect("it runs");
    assert!(refused(advised, 1).contains("\"cache/endless\" never expires"));
}
