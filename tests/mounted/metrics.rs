//! `mount --metrics` and `status --openmetrics`.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::process::{Command, Output};
use std::time::Duration;

use crate::support::content::{MIB, content};
use crate::support::embedded::Embedded;
use crate::support::http::{ask, get};
use crate::support::mount::Mount;
use crate::support::prometheus::{Prometheus, assert_well_formed};
use crate::support::wait::{eventually, within};
use crate::support::{FUTURE, PAST};

const ANY_PORT: &str = "--metrics 127.0.0.1:0";
const OPEN_METRICS: &str = "Accept: application/openmetrics-text;version=1.0.0,*/*;q=0.1\r\n";

fn store() -> Embedded {
    let store = Embedded::start();
    store.put("large", content(1, 24 * MIB));
    store.put_expiring("live", "x", FUTURE);
    store.put_expiring("expired", "x", PAST);
    store
}

/// Where the metrics of this mount are.
fn at(mount: &Mount) -> String {
    let status = mount.status();
    status.0["metrics_at"].as_str().unwrap_or_else(|| panic!("{:#}", status.0)).to_owned()
}

/// The value of a series, 0 if there is none.
fn value(metrics: &str, series: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().expect("a number"))
}

fn use_files(mount: &Mount) {
    fs::read(mount.path("live")).expect("read");
    fs::metadata(mount.path("expired")).expect_err("it has expired");
    fs::read_dir(mount.dir()).expect("ls").for_each(drop);
}

#[test]
fn both_formats_show_the_same_as_status() {
    let store = store();
    let mount = store.mounting().writable().with(ANY_PORT).start();
    use_files(&mount);
    let file = fs::File::open(mount.path("large")).expect("open");
    file.read_exact_at(&mut [0; 4096], 0).expect("read");
    fs::write(mount.path("new"), "text").expect("write");
    let at = at(&mount);
    let plain = get(&at, "/metrics");
    assert_eq!(plain.status, 200);
    assert!(plain.head.contains("content-type: text/plain; version=0.0.4"), "{}", plain.head);
    assert_well_formed(&plain.body);
    let open = ask(&at, "GET", "/metrics", OPEN_METRICS).expect("an answer");
    assert!(open.head.contains("content-type: application/openmetrics-text; version=1.0.0"));
    assert!(open.body.ends_with("# EOF\n"));
    for line in ["# UNIT expirefs_received_bytes bytes", "# TYPE expirefs_operations counter"] {
        assert!(open.body.contains(line), "{}", open.body);
    }
    let told = String::from_utf8(mount.control("status", &["--openmetrics"]).stdout).expect("text");
    let names = |text: &str| -> BTreeSet<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
    };
    assert_eq!(names(&told), names(&open.body));
    for (series, expected) in [
        ("expirefs_bodies_open", 1.0),
        ("expirefs_handles_open", 1.0),
        ("expirefs_commits_total{result=\"ok\"}", 1.0),
        ("expirefs_written_bytes_total", 4.0),
        ("expirefs_opened_time_to_expiry_seconds_count", 1.0),
        ("expirefs_opened_without_expiry_total", 1.0),
    ] {
        for text in [&plain.body, &open.body, &told] {
            assert_eq!(value(text, series), expected, "{series} in {text}");
        }
    }
    for series in [
        "expirefs_operations_total{operation=\"lookup\",result=\"ENOENT\"}",
        "expirefs_operation_duration_seconds_count{operation=\"open\"}",
        "expirefs_s3_requests_total{operation=\"list\",result=\"2xx\"}",
        "expirefs_s3_list_price_usd_total",
        "expirefs_cache_requests_total{cache=\"names\",result=\"miss\"}",
        "expirefs_expired_answers_total",
        "expirefs_start_time_seconds",
    ] {
        assert!(value(&open.body, series) > 0.0, "{series} in {}", open.body);
    }
    let started = "expirefs_start_time_seconds";
    assert_eq!(value(&open.body, started), value(&plain.body, started), "it was not restarted");
    assert!(!open.body.contains("large"), "no key is in a label");
    drop(file);
}

#[test]
fn a_prometheus_scrapes_it() {
    let store = store();
    let mount = store.mounting().with(ANY_PORT).start();
    use_files(&mount);
    let prometheus = Prometheus::scraping(&at(&mount));
    prometheus.eventually("up", |values| values == [1.0]);
    let cap = mount.status().number("cap") as f64;
    prometheus.eventually("expirefs_bodies_cap", |values| values == [cap]);
    let some = |values: &[f64]| values.len() == 1 && values[0] > 0.0;
    prometheus.eventually("sum(expirefs_operations_total{operation='open'})", some);
    let median =
        "histogram_quantile(0.5, expirefs_operation_duration_seconds_bucket{operation='read'})";
    prometheus.eventually(median, some);
    prometheus.eventually("expirefs_mount_info", |values| values == [1.0]);
}

/// A scrape takes what the mount has counted, even if the store is gone.
#[test]
fn scraping_asks_the_store_nothing() {
    let store = store();
    let mount = store.mounting().with(ANY_PORT).start();
    let at = at(&mount);
    let requests = |text: &str| {
        let lines = text.lines().filter(|line| line.starts_with("expirefs_s3_requests_total"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let before = requests(&get(&at, "/metrics").body);
    assert!(!before.is_empty());
    (0..20).for_each(|_| drop(get(&at, "/metrics")));
    assert_eq!(requests(&get(&at, "/metrics").body), before);
}

#[test]
fn other_requests_are_refused() {
    let store = store();
    let mount = store.mounting().with(ANY_PORT).start();
    let at = at(&mount);
    assert_eq!(get(&at, "/").status, 404);
    assert_eq!(get(&at, "/metrics/large").status, 404);
    assert_eq!(ask(&at, "POST", "/metrics", "Content-Length: 0\r\n").expect("answer").status, 405);
    let head = ask(&at, "HEAD", "/metrics", "").expect("an answer");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    let long = format!("X: {}\r\n", "x".repeat(100 << 10));
    if let Ok(answer) = ask(&at, "GET", "/metrics", &long) {
        assert!((400..500).contains(&answer.status), "{}", answer.status);
    }
}

/// Clients that connect and say nothing, say a byte at a time, do not read, or send garbage; many more
/// than there are places and descriptors.
#[test]
fn hostile_scrapers_harm_nobody() {
    let store = store();
    let mount = store.mounting().nofile(100).with(ANY_PORT).start();
    let at = at(&mount);
    let connect = || TcpStream::connect(&at).expect("connect");
    let mut clients: Vec<_> = (0..200).map(|_| connect()).collect();
    for client in &mut clients[..50] {
        let _ = client.write_all(b"GET /metr");
    }
    for client in &mut clients[50..100] {
        let _ = client.write_all(&[0xff; 512]);
    }
    for client in &mut clients[100..150] {
        let _ = client.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    // Nothing that a program does waits for them.
    within(Duration::from_secs(20), "a read", || use_files(&mount));
    assert!(mount.status().number("fds") <= 100);
    let text = within(Duration::from_secs(60), "a scrape", || get(&at, "/metrics").body);
    assert_eq!(value(&text, "expirefs_file_descriptors_limit"), 100.0);
    // Those that sent a whole request have an answer.
    let mut answer = String::new();
    clients[149].set_read_timeout(Some(Duration::from_secs(20))).expect("a bound");
    clients[149].read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(clients);
    eventually(Duration::from_secs(20), || {
        let fds = mount.status().number("fds");
        (fds < 30).then_some(()).ok_or(format!("{fds} descriptors"))
    });
}

#[test]
fn an_address_in_use_is_one_line_and_nothing_is_mounted() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = taken.local_addr().expect("its address");
    let store = store();
    let folder = tempfile::tempdir().expect("a folder");
    for (address, why) in [(at.to_string(), "in use"), ("203.0.113.1:1".to_owned(), "assign")] {
        let option = format!("--metrics {address}");
        let refused = store.mounting().with(&option).refused_on(folder.path());
        let said = String::from_utf8(refused.stderr).expect("text");
        assert_eq!(refused.status.code(), Some(1), "{said}");
        let errors: Vec<_> = said.lines().filter(|line| line.starts_with("expirefs: ")).collect();
        assert_eq!(errors.len(), 1, "{said}");
        assert!(errors[0].contains(&address) && errors[0].contains(why), "{said}");
    }
}

#[test]
fn promtool_accepts_the_alert_rules_and_their_tests() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/package/monitoring");
    for (what, file) in [("check", "expirefs.rules.yml"), ("test", "expirefs.rules.test.yml")] {
        let mut promtool = Command::new("promtool");
        let run = promtool.args([what, "rules", file]).current_dir(folder).output();
        let Output { status, stdout, stderr } = run.expect("promtool");
        let said = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
        assert!(status.success(), "{said}");
    }
}

/// A folder whose name would break the format.
#[test]
fn text_of_the_operator_is_escaped_in_labels() {
    let store = store();
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("a\"b\\c\n\u{1b}[2Jd");
    fs::create_dir(&dir).expect("mkdir");
    let mount = store.mounting().with(ANY_PORT).start_on(&dir);
    let text = get(&at(&mount), "/metrics").body;
    assert_well_formed(&text);
    let info = text.lines().find(|line| line.starts_with("expirefs_mount_info{")).expect("it");
    assert!(info.contains(r#"a\"b\\c\n"#) && info.ends_with("} 1"), "{info}");
}
