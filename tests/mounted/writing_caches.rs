//! Unmodified programs that keep their cache on a mount: what one has cached, another one finds
//! there, on another mount of the bucket.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::support::content::{KIB, MIB, content};
use crate::support::mount::Mount;
use crate::support::nginx::Nginx;
use crate::support::s3_server::{http_date, seaweedfs};
use crate::support::tools::shell;
use crate::support::wait::{equal, eventually};

/// An HTTP server that keeps the head of each request. What it answers may be cached for an hour;
/// `/aged…` for a second, and for an hour after it was revalidated. It runs until the process ends.
struct Origin {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

/// The size of what the origin has under this path: `NAME-SIZE`.
fn size_of(path: &str) -> usize {
    path.rsplit('-').next().and_then(|size| size.parse().ok()).expect("a size in the path")
}

impl Origin {
    fn start(body: impl Fn(&str) -> Vec<u8> + Send + 'static) -> Origin {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let head = head_of(&mut stream);
                let path = head.split(' ').nth(1).expect("a path").to_owned();
                let again = head.contains("If-None-Match");
                seen.lock().unwrap().push(head);
                let fresh = if path.starts_with("/aged") && !again { 1 } else { 3600 };
                let (status, body) = match again {
                    true => ("304 Not Modified", Vec::new()),
                    false => ("200 OK", body(&path)),
                };
                let kind =
                    if path.ends_with('/') { "text/html" } else { "application/octet-stream" };
                let head = format!(
                    "HTTP/1.0 {status}\r\nETag: \"e\"\r\nCache-Control: max-age={fresh}\r\n\
                     Content-Type: {kind}\r\nContent-Length: {}\r\nDate: {}\r\n\r\n",
                    body.len(),
                    http_date(SystemTime::now())
                );
                stream.write_all(head.as_bytes()).expect("its head");
                stream.write_all(&body).expect("its body");
            }
        });
        Origin { port, heads }
    }

    /// How many requests it got, and how many of them were conditional.
    fn requests(&self) -> (usize, usize) {
        let heads = self.heads.lock().unwrap();
        (heads.len(), heads.iter().filter(|head| head.contains("If-None-Match")).count())
    }
}

fn head_of(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("a head in UTF-8")
}

/// nginx renames the file of an entry while it is open, and rewrites its header if the origin
/// answers that the entry is still good.
#[test]
fn nginx_serves_from_its_cache_after_a_remount() {
    let bucket = seaweedfs().bucket("proxy");
    let origin = Origin::start(|path| content(1, size_of(path)).to_vec());
    let paths = [("aged", 3 * KIB), ("empty", 0), ("page", 40 * KIB), ("large", 20 * MIB + 7)]
        .map(|(name, size)| format!("{name}-{size}"));
    let serve = |mount: &Path| {
        let cache = mount.join("cache");
        let zone = "keys_zone=z:1m levels=1:2 inactive=1h use_temp_path=off";
        Nginx::start(
            &format!("proxy_cache_path {} {zone};", cache.display()),
            &format!(
                "proxy_cache z; proxy_cache_revalidate on;
                 location / {{ proxy_pass http://127.0.0.1:{}; }}",
                origin.port
            ),
        )
    };
    let get_all = |nginx: &Nginx| {
        for path in &paths {
            let (status, body) = nginx.get(path);
            assert!(status == 200 && body == content(1, size_of(path)), "{path}: {status}");
        }
    };

    let mount = bucket.mounting().writable().start();
    let nginx = serve(mount.dir());
    get_all(&nginx);
    eventually(Duration::from_secs(20), || {
        assert_eq!(nginx.get(&paths[0]).0, 200);
        equal("conditional requests", origin.requests().1, 1)
    });
    assert_eq!(origin.requests(), (paths.len() + 1, 1), "all but the revalidation are hits");
    assert_eq!(nginx.errors(), "");
    nginx.stop();
    drop(mount);

    let mount = bucket.mounting().writable().start();
    let nginx = serve(mount.dir());
    get_all(&nginx);
    assert_eq!(origin.requests(), (paths.len() + 1, 1), "all are hits");
    assert_eq!(nginx.errors(), "");
    nginx.stop();
}

/// Two mounts of a bucket: what is written on one, the other one sees at once.
fn two_mounts(theme: &str) -> [Mount; 2] {
    let bucket = seaweedfs().bucket(theme);
    [(); 2].map(|()| bucket.mounting().writable().with("--metadata-ttl 0s").start())
}

/// Builds a project on one mount and then on the other one, with the variables of ccache that
/// `cache` makes of the mount point. The second build compiles nothing.
fn second_build_hits(theme: &str, cache: impl Fn(&str) -> String) {
    let mounts = two_mounts(theme);
    let project = tempfile::tempdir().expect("a folder");
    let make = r#"for i in $(seq 10); do echo "int f$i(int x) { return x + $i; }" > f$i.c; done"#;
    shell(project.path(), make);
    let [(misses, cold), (hits, warm)] =
        [("miss", &mounts[0]), ("hit", &mounts[1])].map(|(what, mount)| {
            let build = format!(
                "export CCACHE_CONFIGPATH=/dev/null CCACHE_STATSLOG=$PWD/log {}
             rm -f *.o log
             for f in *.c; do ccache gcc -g -c $f -o ${{f%.c}}.o; done
             grep -c ^direct_cache_{what}$ log; sha256sum *.o",
                cache(&mount.dir().display().to_string())
            );
            let output = shell(project.path(), &build);
            let (count, sums) = output.split_once('\n').expect("two lines");
            (count.parse::<u32>().expect("a number"), sums.to_owned())
        });
    assert_eq!((misses, hits), (10, 10));
    assert_eq!(cold, warm, "the same object files");
}

#[test]
fn ccache_finds_in_its_folder_what_was_compiled_on_another_mount() {
    second_build_hits("ccache", |mount| format!("CCACHE_DIR={mount}/cache"));
}

/// The storage that many hosts share, beside a folder of each of them, which is empty here.
#[test]
fn ccache_finds_in_remote_storage_what_was_compiled_on_another_mount() {
    second_build_hits("remote", |mount| {
        format!("CCACHE_DIR=$(mktemp -d -p $PWD) CCACHE_REMOTE_STORAGE=file:{mount}/cache")
    });
}

#[test]
fn go_compiles_nothing_that_was_compiled_on_another_mount() {
    let mounts = two_mounts("go");
    let project = tempfile::tempdir().expect("a folder");
    shell(
        project.path(),
        r#"mkdir sum && printf 'module example\n\ngo 1.19\n' > go.mod
           printf 'package sum\n\nfunc Of(a, b int) int { return a + b }\n' > sum/sum.go
           printf 'package main\n\nimport "example/sum"\n\nfunc main() { println(sum.Of(2, 3)) }\n' > main.go"#,
    );
    let [cold, warm] = [0, 1].map(|at: usize| {
        let build = format!(
            "export HOME=$PWD GOTOOLCHAIN=local GOPROXY=off GOFLAGS=-mod=mod CGO_ENABLED=0
             export GOCACHE={}/go
             go build -x -o program . 2> log || {{ cat log >&2; exit 1; }}
             ./program 2>&1; grep -c '/compile ' log || true",
            mounts[at].dir().display()
        );
        shell(project.path(), &build)
    });
    let (said, compiled) = cold.trim().split_once('\n').expect("two lines");
    assert_eq!(said, "5");
    assert!(compiled.parse::<u32>().expect("a number") >= 2, "{compiled}");
    assert_eq!(warm, "5\n0\n");
}

/// A wheel, as its index has it.
const WHEEL: &str = r#"
import zipfile
with zipfile.ZipFile("wheel", "w") as wheel:
    wheel.writestr("example.py", "answer = 42\n#" + "x" * 300000)
    info = "example-1.0.dist-info/"
    wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: example\nVersion: 1.0\n")
    wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(info + "RECORD", "")
"#;

#[test]
fn pip_downloads_nothing_that_was_downloaded_on_another_mount() {
    let mounts = two_mounts("pip");
    let folder = tempfile::tempdir().expect("a folder");
    shell(folder.path(), &format!("python3 -c '{WHEEL}' && python3 -m venv venv"));
    let wheel = std::fs::read(folder.path().join("wheel")).expect("a wheel");
    let name = "example-1.0-py3-none-any.whl";
    let origin = Origin::start(move |path| match path.strip_prefix("/simple/example/") {
        Some("") => format!("<html><body><a href=\"{name}\">{name}</a></body></html>").into_bytes(),
        Some(_) => wheel.clone(),
        None => panic!("{path}"),
    });
    let downloads = || {
        let heads = origin.heads.lock().unwrap();
        heads.iter().filter(|head| head.contains(".whl")).count()
    };
    for (mount, target) in mounts.iter().zip(["one", "two"]) {
        let install = format!(
            "venv/bin/pip --isolated install --quiet --disable-pip-version-check --target {target} \
             --cache-dir {}/pip --trusted-host 127.0.0.1 \
             --index-url http://127.0.0.1:{}/simple example
             PYTHONPATH={target} python3 -c 'import example; print(example.answer)'",
            mount.dir().display(),
            origin.port
        );
        assert_eq!(shell(folder.path(), &install), "42\n");
        assert_eq!(downloads(), 1, "{target}");
    }
}
