//! The log of an operation that was slow, with what it waited for (`--slow`).

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use crate::fs::Fs;
use crate::waits::{Spent, Wait, Waits};

/// An operation that is logged if it takes longer than `after`.
pub struct Slow {
    pub account: Arc<Waits>,
    after: Duration,
    fs: Arc<Fs>,
    ino: u64,
    /// In the directory `ino`; empty for `ino` itself.
    file: OsString,
}

impl Slow {
    pub fn begin(after: Duration, fs: Arc<Fs>, ino: u64, file: &OsStr) -> Slow {
        Slow { account: Waits::begin(), after, fs, ino, file: file.to_owned() }
    }

    /// The operation has ended.
    pub fn report(&self, operation: &'static str) {
        let spent = self.account.spent();
        if spent.total >= self.after {
            self.log(operation, &spent);
        }
    }

    fn log(&self, operation: &'static str, spent: &Spent) {
        let ms = |wait| Some(spent.on(wait).as_millis() as u64).filter(|ms| *ms > 0);
        warn!(
            operation,
            key = self.fs.key_of(self.ino) + &self.file.to_string_lossy(),
            total_ms = spent.total.as_millis() as u64,
            turn_ms = ms(Wait::Turn),
            memory_ms = ms(Wait::Memory),
            body_permit_ms = ms(Wait::BodyPermit),
            metadata_permit_ms = ms(Wait::MetadataPermit),
            connect_ms = ms(Wait::Connect),
            response_ms = ms(Wait::Response),
            receive_ms = ms(Wait::Receive),
            backoff_ms = ms(Wait::Backoff),
            commit_ms = ms(Wait::Commit),
            rest_ms = spent.rest().as_millis() as u64,
            "a slow operation (--slow)"
        );
    }
}
