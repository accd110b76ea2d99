//! Waits for conditions that send no event.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(10);

/// What takes longer than this hangs, with a `--timeout` of a few seconds: the kernel requests a
/// page twice if its read-ahead fails.
pub const HANGS: Duration = Duration::from_secs(30);

/// Calls `ask` until it returns `Ok`, and returns that; panics with the last `Err` after `bound`.
#[track_caller]
pub fn eventually<T>(bound: Duration, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(last) if start.elapsed() >= bound => panic!("still after {bound:?}: {last}"),
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// For [`eventually`]: `Ok` if `got` is `want`, else both in words.
pub fn equal<T: PartialEq + Debug>(what: &str, got: T, want: T) -> Result<(), String> {
    if got == want { Ok(()) } else { Err(format!("{what} is {got:?}, not {want:?}")) }
}

/// For [`eventually`]: `Ok` if `got` is at most `limit`, else both in words.
pub fn at_most<T: PartialOrd + Debug>(what: &str, got: T, limit: T) -> Result<(), String> {
    if got <= limit { Ok(()) } else { Err(format!("{what} is {got:?}, over {limit:?}")) }
}

/// Runs an action that may hang, prints how long it took, and panics if that was longer than
/// `bound`.
#[track_caller]
pub fn within<T>(bound: Duration, what: &str, action: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = action();
    let took = start.elapsed();
    println!("{what}: {took:.1?}");
    assert!(took < bound, "{what} took {took:?}");
    done
}
