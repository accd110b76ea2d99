//! Prometheus and promtool, of Debian's package `prometheus`.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::http;
use super::wait::eventually;

/// A Prometheus that scrapes one target each second. It stops when this is dropped, and with the test
/// process.
pub struct Prometheus {
    process: Child,
    at: String,
    folder: TempDir,
}

impl Prometheus {
    /// `target`: HOST:PORT.
    pub fn scraping(target: &str) -> Prometheus {
        let folder = tempfile::tempdir().expect("a folder");
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().unwrap().port();
        let (at, config) = (format!("127.0.0.1:{port}"), folder.path().join("prometheus.yml"));
        let text = format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: expirefs\n  \
             static_configs:\n  - targets: ['{target}']\n"
        );
        fs::write(&config, text).expect("its configuration");
        let log = fs::File::create(folder.path().join("log")).expect("its log");
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "prometheus"])
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={at}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("prometheus");
        Prometheus { process, at, folder }
    }

    /// The values of a query, once it has any that `right` accepts.
    pub fn eventually(&self, query: &str, right: impl Fn(&[f64]) -> bool) -> Vec<f64> {
        let path = format!("/api/v1/query?query={}", encoded(query));
        eventually(Duration::from_secs(30), || {
            let answer = http::ask(&self.at, "GET", &path, "").map_err(|error| {
                let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                format!("{error}\n{log}")
            })?;
            let json: Value = serde_json::from_str(dechunked(&answer.body)).unwrap_or_default();
            let all = json["data"]["result"].as_array().cloned().unwrap_or_default();
            let value = |it: &Value| it["value"][1].as_str()?.parse().ok();
            let values: Vec<f64> = all.iter().filter_map(value).collect();
            match right(&values) {
                true => Ok(values),
                false => Err(format!("{query}: {}", answer.body)),
            }
        })
    }
}

/// The JSON in a body, which may be sent in chunks.
fn dechunked(body: &str) -> &str {
    let (from, to) = (body.find('{').unwrap_or(0), body.rfind('}').map_or(0, |end| end + 1));
    body.get(from..to).unwrap_or_default()
}

fn encoded(query: &str) -> String {
    query.bytes().map(|b| format!("%{b:02X}")).collect()
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.process.id() as i32), Signal::SIGTERM);
        let _ = self.process.wait();
    }
}

/// Fails if `promtool check metrics` finds anything.
#[track_caller]
pub fn assert_well_formed(metrics: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool");
    let mut stdin = promtool.stdin.take().expect("a pipe");
    stdin.write_all(metrics.as_bytes()).expect("written");
    drop(stdin);
    let Output { status, stdout, stderr } = promtool.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
    assert!(status.success() && said.trim().is_empty(), "{said}\n{metrics}");
}
