//! Unmodified programs that keep their cache on a mount: what one has cached, another one finds
//! there, on another mount of the bucket.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::support::content::{KIB, MIB, content};
use crate::support::nginx::Nginx;
use crate::support::s3_server::seaweedfs;
use crate::support::wait::{equal, eventually};

/// An HTTP server that keeps the head of each request. `/aged…` is fresh for a second and then to be
/// revalidated, which makes it fresh for an hour, as all else is. It runs until the process ends.
struct Origin {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

/// The size of what the origin has under this path: `NAME-SIZE`.
fn size_of(path: &str) -> usize {
    path.rsplit('-').next().and_then(|size| size.parse().ok()).expect("a size in the path")
}

impl Origin {
    fn start() -> Origin {
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
                    false => ("200 OK", content(1, size_of(&path)).to_vec()),
                };
                let head = format!(
                    "HTTP/1.0 {status}\r\nETag: \"e\"\r\nCache-Control: max-age={fresh}\r\n\r\n"
                );
                // nginx closes its end early if it is stopped.
                _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
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
    let origin = Origin::start();
    let paths = [("aged", 3 * KIB), ("empty", 0), ("page", 40 * KIB), ("large", 20 * MIB + 7)]
        .map(|(name, size)| format!("{name}-{size}"));
    let serve = |mount: &std::path::Path| {
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
