//! Maps errors to errno values, and logs each error once with its operation and key.

use std::ffi::OsStr;

use fuser::Errno;
use libc::c_int;
use tracing::{Level, event};

use super::operation::Operation;
use crate::error::Error;
use crate::fs::Fs;

/// Logs an error once, with its operation and key, and returns its errno.
pub fn refuse(fs: &Fs, operation: &Operation, ino: u64, error: &Error) -> Errno {
    refuse_name(fs, operation, ino, OsStr::new(""), error)
}

/// The same for readdir.
pub fn refuse_readdir(fs: &Fs, operation: &Operation, ino: u64, error: &Error) -> Errno {
    report(fs, operation, ino, OsStr::new(""), error, error.errno_of_readdir())
}

/// The same for `name` in the directory `ino`.
pub fn refuse_name(fs: &Fs, operation: &Operation, ino: u64, name: &OsStr, error: &Error) -> Errno {
    report(fs, operation, ino, name, error, error.errno())
}

fn report(
    fs: &Fs,
    operation: &Operation,
    ino: u64,
    name: &OsStr,
    error: &Error,
    errno: c_int,
) -> Errno {
    let of_store = error.report();
    macro_rules! log {
        ($level:expr) => {
            event!(
                $level,
                operation = operation.name(),
                key = fs.key_of(ino) + &name.to_string_lossy(),
                errno = ?nix::errno::Errno::from_raw(errno),
                code = of_store.and_then(|report| report.code.as_deref()),
                request_id = of_store.and_then(|report| report.request_id.as_deref()),
                "{error}"
            )
        };
    }
    match error.level() {
        Level::ERROR => log!(Level::ERROR),
        Level::WARN => log!(Level::WARN),
        Level::INFO => log!(Level::INFO),
        _ => log!(Level::DEBUG),
    }
    operation.failed(errno);
    Errno::from_i32(errno)
}
