//! The embedded server with many keys, as a process of its own: for `scripts/bench-sweep`.
//!
//! Prints its URL. `fill N` on standard input makes the bucket one of N keys, and `left` prints how
//! many of those that had expired, and of the others, it still has. It ends with standard input.

use std::io::{BufRead, Write, stdin, stdout};
use std::time::{Duration, SystemTime};

use expirefs::embedded::{Handle, Object, Server};
use expirefs::expiry::format_http_date;

const BUCKET: &str = "many";

/// The age of the expired objects. All live a little less.
const OLD: Duration = Duration::from_secs(10 * 86_400);
const HOUR: Duration = Duration::from_secs(3600);

/// The key of an object; one in three has expired, and shows it in its name.
fn key(n: u64) -> String {
    // Scattered (Knuth's multiplier), as the names of cache entries are.
    let hash = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let class = if has_expired(n) { "old" } else { "new" };
    format!("cache/{:02x}/{hash:016x}.{class}", hash >> 56)
}

fn has_expired(n: u64) -> bool {
    n.is_multiple_of(3)
}

fn fill(store: &Handle, keys: u64) {
    let now = SystemTime::now();
    for n in 0..keys {
        let (age, expires) = match has_expired(n) {
            true => (OLD, now - 2 * HOUR),
            false => (HOUR, now + OLD - 4 * HOUR),
        };
        let object = Object::new(n.to_be_bytes()).expires(format_http_date(expires));
        store.put(BUCKET, &key(n), object.last_modified(now - age));
    }
}

fn left(store: &Handle, keys: u64, expired: bool) -> usize {
    let of_class = (0..keys).filter(|n| has_expired(*n) == expired);
    of_class.filter(|n| store.get(BUCKET, &key(*n)).is_some()).count()
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let server = runtime.block_on(Server::start()).expect("a port on loopback");
    let store = server.handle();
    store.create_bucket(BUCKET);
    let say = |line: String| {
        println!("{line}");
        stdout().flush().expect("a reader");
    };
    say(server.endpoint());
    let mut keys = 0;
    for line in stdin().lock().lines() {
        let line = line.expect("text");
        match line.split_once(' ') {
            Some(("fill", n)) => {
                (0..keys).for_each(|n| store.delete(BUCKET, &key(n)));
                keys = n.parse().expect("a number");
                fill(&store, keys);
            }
            _ => assert_eq!(line, "left", "not a command"),
        }
        say(format!("{} {}", left(&store, keys, true), left(&store, keys, false)));
    }
}
