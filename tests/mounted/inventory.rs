//! `expirefs ls`: lists a bucket, including expired objects.

use std::io::{BufRead, BufReader};
use std::process::{Output, Stdio};

use serde_json::Value;

use crate::support::embedded::Embedded;
use crate::support::tools::shell;
use crate::support::{FUTURE, PAST};

fn bucket() -> Embedded {
    let store = Embedded::start();
    store.put_expiring("d/expired", "123", PAST);
    store.put_expiring("d/live", "12345", FUTURE);
    store.put("d-plain", "x");
    store.put_expiring("d/more/below", "x", FUTURE);
    store.put_expiring("d/more/gone", "x", PAST);
    store.put_expiring("d/unparsable", "x", "never");
    store.put("e", "x");
    store
}

fn url(prefix: &str) -> String {
    format!("s3://{}/{prefix}", Embedded::BUCKET)
}

/// The lines of `expirefs ls` of a prefix.
#[track_caller]
fn ls(store: &Embedded, prefix: &str, args: &str) -> Vec<String> {
    let args: Vec<&str> = args.split_whitespace().collect();
    let output = store.endpoint().expirefs("ls", &url(prefix), &args).output().expect("it runs");
    let Output { status, stdout, stderr } = output;
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success() && stderr.is_empty(), "{status}: {stderr}");
    String::from_utf8(stdout).expect("text").lines().map(str::to_owned).collect()
}

/// State and key of each line.
#[track_caller]
fn states(store: &Embedded, prefix: &str, args: &str) -> Vec<String> {
    let ends = |line: String| {
        let mut words = line.split_whitespace();
        let state = words.next().expect("a state");
        format!("{state} {}", words.last().expect("a key"))
    };
    ls(store, prefix, args).into_iter().map(ends).collect()
}

/// One level of a prefix: its objects in key order, and the prefixes below it.
#[test]
fn each_option_shows_its_objects() {
    let store = bucket();
    let all = ["expired d/expired", "live d/live", "prefix d/more/", "expired d/unparsable"];
    for args in ["", "--all"] {
        assert_eq!(states(&store, "d/", args), all, "{args}");
    }
    assert_eq!(states(&store, "d/", "--expired"), [all[0], all[3]]);
    assert_eq!(states(&store, "d/", "--live"), all[1..3]);
    assert_eq!(states(&store, "", ""), ["live d-plain", "prefix d/", "live e"]);
    // A prefix is the start of keys, not a directory.
    assert_eq!(states(&store, "d", ""), ["live d-plain", "prefix d/"]);
    assert_eq!(states(&store, "none", ""), [""; 0]);

    let below = ["live d/more/below", "expired d/more/gone"];
    let every = [&all[..2], &below, &all[3..]].concat();
    assert_eq!(states(&store, "d/", "--recursive"), every);
    assert_eq!(states(&store, "d/", "-r --expired"), [every[0], every[3], every[4]]);
    assert_eq!(states(&store, "d/", "-r --live"), every[1..3]);
    assert_eq!(states(&store, "", "-r").len(), 7);
}

/// `--live` shows the same as a mount.
#[test]
fn live_objects_are_those_a_mount_shows() {
    let store = bucket();
    let mount = store.mounting().start();
    let found = shell(mount.dir(), "find . -type f | LC_ALL=C sort");
    let listed = states(&store, "", "--live --recursive").into_iter();
    let listed: String = listed.map(|line| line.replacen("live ", "./", 1) + "\n").collect();
    assert_eq!(listed, found);
}

/// Columns for people and for cut(1): state and instant, then size, Last-Modified and what decided,
/// then the key.
#[test]
fn long_lines_have_more_columns() {
    let store = bucket();
    let words =
        |line: &String| -> Vec<String> { line.split_whitespace().map(str::to_owned).collect() };
    let short = ls(&store, "d/", "");
    assert_eq!(words(&short[0]), ["expired", "2020-01-01T00:00:00Z", "d/expired"]);
    assert_eq!(words(&short[2]), ["prefix", "-", "d/more/"]);
    let long = ls(&store, "d/", "--long");
    let live = words(&long[1]);
    assert_eq!(live[..3], ["live", "2100-01-01T00:00:00Z", "5"]);
    assert_eq!(live[4..], ["Expires", "d/live"]);
    assert!(live[3].ends_with('Z') && live[3].len() == 20, "Last-Modified: {live:?}");
    assert_eq!(words(&long[2]), ["prefix", "-", "-", "-", "-", "d/more/"]);
    assert_eq!(words(&long[3])[..2], ["expired", "-"]);
    assert_eq!(words(&ls(&store, "e", "-l")[0])[4], "nothing", "what decided");

    store.put_expiring("new\nline", "x", FUTURE);
    assert_eq!(states(&store, "new", ""), ["live \"new\\nline\""]);
}

#[test]
fn json_lines_have_all_fields() {
    let store = bucket();
    let parse =
        |line: String| serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
    let items: Vec<Value> = ls(&store, "d/", "--json").into_iter().map(parse).collect();
    let field = |name: &str| items.iter().map(|item| item[name].clone()).collect::<Vec<_>>();
    assert_eq!(field("key"), ["d/expired", "d/live", "d/more/", "d/unparsable"]);
    assert_eq!(field("state"), ["expired", "live", "prefix", "expired"]);
    let dates = [Some("2020-01-01T00:00:00Z"), Some("2100-01-01T00:00:00Z"), None, None];
    assert_eq!(field("instant"), dates.map(Value::from));
    let basis = [Some("expires"), Some("expires"), None, Some("expires")];
    assert_eq!(field("decided_by"), basis.map(Value::from));
    assert_eq!(field("size"), [Some(3), Some(5), None, Some(1)].map(Value::from));
    let raw = [Some(PAST), Some(FUTURE), None, Some("never")];
    assert_eq!(field("expires_raw"), raw.map(Value::from));
    assert_eq!(field("error"), [Value::Null, Value::Null, Value::Null, Value::Null]);
    let known = |name: &str| field(name).iter().map(Value::is_string).collect::<Vec<_>>();
    for name in ["etag", "last_modified"] {
        assert_eq!(known(name), [true, true, false, true], "{name}");
    }
}

/// The options that decide about expiry.
#[test]
fn options_decide_as_in_a_mount() {
    let store = bucket();
    let unparsable = |args: &str| states(&store, "d/unparsable", args);
    assert_eq!(unparsable("--on-unparsable error"), ["unreadable d/unparsable"]);
    assert_eq!(unparsable("--on-unparsable fresh"), ["live d/unparsable"]);
    assert_eq!(unparsable("--on-unparsable error --live"), [""; 0]);
    assert_eq!(unparsable("--on-unparsable error --expired"), [""; 0]);
    assert_eq!(states(&store, "e", "--default-ttl 0s"), ["expired e"]);

    let before = store.requests();
    let by_list = states(&store, "d/", "-r --expires-from list --default-ttl 1h --expired");
    assert_eq!(by_list, [""; 0], "no header counts");
    assert_eq!(store.requests().head, before.head, "HEADs");
}

/// Three pages, in order although their HEADs overlap.
#[test]
fn many_keys_come_in_order() {
    const KEYS: usize = 2_500;
    let store = Embedded::start();
    let mut want = Vec::new();
    for i in 0..KEYS {
        let (state, expires) =
            if i.is_multiple_of(3) { ("expired", PAST) } else { ("live", FUTURE) };
        store.put_expiring(&format!("{i:04}"), "x", expires);
        want.push(format!("{state} {i:04}"));
    }
    assert!(states(&store, "", "") == want, "the states of {KEYS} keys");
    let expired: Vec<_> = want.iter().step_by(3).cloned().collect();
    let before = store.requests();
    assert!(states(&store, "", "--expired --metadata-concurrency 8") == expired, "the expired");
    let after = store.requests();
    let sent = (after.list - before.list, after.head - before.head);
    assert_eq!(sent, (3, KEYS as u64), "LISTs and HEADs");
}

/// `expirefs ls | head -1`: a closed standard output is no error.
#[test]
fn ls_ends_quietly_when_its_output_is_closed() {
    let store = Embedded::start();
    (0..2_500).for_each(|i| store.put(&format!("{i:04}"), "x"));
    let mut command = store.endpoint().expirefs("ls", &url(""), &["--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("it is piped");
    BufReader::with_capacity(64, stdout).read_line(&mut line).expect("a line");
    assert!(line.contains("0000"), "{line}");
    let Output { status, stderr, .. } = child.wait_with_output().expect("it ends");
    assert!(status.success(), "{status}: {}", String::from_utf8_lossy(&stderr));
    assert_eq!(String::from_utf8_lossy(&stderr), "");
    let asked = store.requests();
    assert!(asked.head < 2_500, "it went on to the end: {asked:?}");
}

#[test]
fn a_bucket_that_cannot_be_listed_is_refused() {
    let store = bucket();
    for (url, status) in [("s3://no-such-bucket", 1), ("s3://", 2)] {
        let output = store.endpoint().expirefs("ls", url, &[]).output().expect("it runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{url}: {stderr}");
        assert!(output.stdout.is_empty(), "{url}: {output:?}");
        assert_eq!(stderr.lines().count(), 1, "{url}: {stderr}");
        assert!(stderr.contains(url), "{url}: {stderr}");
    }
}

/// If nothing matches at this level but keys lie deeper, a line on standard error says how to list
/// them.
#[test]
fn a_plain_listing_hints_at_deeper_keys() {
    let store = Embedded::start();
    store.put_expiring("d/deep/expired", "x", PAST);
    store.put("d/live", "x");
    let run = |args: &[&str]| store.endpoint().expirefs("ls", &url("d/"), args).output().unwrap();
    let Output { status, stdout, stderr } = run(&["--expired"]);
    let says = String::from_utf8_lossy(&stderr);
    assert!(status.success() && stdout.is_empty(), "{status}");
    assert!(says.lines().count() == 1 && says.contains("-r"), "{says}");
    for args in [&["--expired", "-r"][..], &["--live"], &[]] {
        let Output { stdout, stderr, .. } = run(args);
        assert!(!stdout.is_empty() && stderr.is_empty(), "{args:?}: {stderr:?}");
    }
}
