//! Maps errors to errno values, and logs each error once with its operation and key.

use std::ffi::OsStr;

use fuser::Errno;
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
    refuse(fs, operation, ino, error);
    operation.failed(error.errno_of_readdir());
    Errno::from_i32(error.errno_of_readdir())
}

/// The same for `name` in the directory `ino`.
pub fn refuse_name(fs: &Fs, operation: &Operation, ino: u64, name: &OsStr, error: &Error) -> Errno {
    macro_rules! log {
        ($level:expr) => {
            event!(
                $level,
                operation = operation.name(),
                key = fs.key_of(ino) + &name.to_string_lossy(),
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
    operation.failed(error.errno());
    Errno::from_i32(error.errno())
}
