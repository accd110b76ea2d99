//! Errors as the kernel is told them, and as they are logged: once each, with what they are about.

use std::ffi::OsStr;

use fuser::Errno;
use tracing::{Level, event};

use crate::error::Error;
use crate::fs::Fs;

/// Logs a refusal, once, with what it was about, and says it in the kernel's terms.
pub fn refuse(fs: &Fs, operation: &'static str, ino: u64, error: &Error) -> Errno {
    refuse_name(fs, operation, ino, OsStr::new(""), error)
}

/// The same of a directory that is being read.
pub fn refuse_readdir(fs: &Fs, operation: &'static str, ino: u64, error: &Error) -> Errno {
    refuse(fs, operation, ino, error);
    Errno::from_i32(error.errno_of_readdir())
}

/// The same of `name` in the directory `ino`.
pub fn refuse_name(
    fs: &Fs,
    operation: &'static str,
    ino: u64,
    name: &OsStr,
    error: &Error,
) -> Errno {
    macro_rules! log {
        ($level:expr) => {
            event!($level, operation, key = fs.key_of(ino) + &name.to_string_lossy(), "{error}")
        };
    }
    match error.level() {
        Level::ERROR => log!(Level::ERROR),
        Level::WARN => log!(Level::WARN),
        Level::INFO => log!(Level::INFO),
        _ => log!(Level::DEBUG),
    }
    Errno::from_i32(error.errno())
}
