//! One error, one mapping to errno, one severity. Pure.

use std::fmt;
use std::time::Duration;

use libc::c_int;
use tracing::Level;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure as the store reported it, or as it was noticed here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// For the operator.
    pub text: String,
    /// The store's error code, such as `SlowDown`.
    pub code: Option<Box<str>>,
    /// The store's id of the request.
    pub request_id: Option<Box<str>>,
}

impl Report {
    /// The same with another text.
    #[must_use]
    pub fn with_text(self, text: String) -> Report {
        Report { text, ..self }
    }
}

impl From<String> for Report {
    fn from(text: String) -> Report {
        Report { text, ..Report::default() }
    }
}

impl From<&str> for Report {
    fn from(text: &str) -> Report {
        text.to_owned().into()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why an operation failed. Cheap to clone: one result may go to many callers.
///
/// `NotFound` and `Expired` need a response of the store itself. A failure to reach the store is
/// neither, nor is a 404 that something else may have sent: a failure never means "absent" (rule
/// R5).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("no such object")]
    NotFound,
    /// A 404 that may come from something between here and the store: a proxy, an ingress whose
    /// backend restarts. Only a listing shows whether the object exists.
    #[error("404, but not from the store itself (is a proxy in between?): {0}")]
    Unconfirmed(Report),
    #[error("no such bucket")]
    NoSuchBucket(Report),
    #[error("expired")]
    Expired,
    #[error("its Expires cannot be read (--on-unparsable=error)")]
    Unparsable,
    #[error("replaced or deleted since it was looked up")]
    Stale,
    /// 412 to a change, which was not made. The same holds for the next two.
    #[error("a condition of the request does not hold")]
    PreconditionFailed,
    /// 409: the same request may succeed later.
    #[error("another change of the same object was under way: {0}")]
    Conflict(Report),
    #[error("the store does not know how to do this: {0}")]
    Unsupported(Report),
    /// A change that may have been made, or may still be made: its response was lost, or is
    /// unclear.
    #[error("no clear answer to a change, which may have been made: {0}")]
    Unclear(Report),
    #[error("the store gives no ETag, so the rest could be of another version")]
    NotResumable,
    #[error("access denied: {0}")]
    Denied(Report),
    #[error("archived in storage class {0}: restore it first")]
    Archived(Report),
    #[error(
        "all {cap} bodies are open and none became free within {waited:?} (--max-open-bodies, \
         --open-wait)"
    )]
    TooManyBodies { cap: usize, waited: Duration },
    #[error("out of file descriptors: {0}")]
    OutOfDescriptors(String),
    #[error("no answer within {0:?} (--timeout)")]
    TimedOut(Duration),
    #[error("the store cannot be reached: {0}")]
    Unreachable(Report),
    /// A 4xx response: a retry would not help.
    #[error("the store refused: {0}")]
    Refused(Report),
    /// 503 SlowDown or 429, until there was no time left to retry.
    #[error("throttled by the store: {0}")]
    Throttled(Report),
    /// A 5xx response, after all tries.
    #[error("the store failed: {0}")]
    Store(Report),
    #[error("a wrong answer from the store: {0}")]
    Protocol(Report),
    #[error("is a directory")]
    IsADirectory,
    #[error("not a directory")]
    NotADirectory,
    #[error("the name is too long")]
    NameTooLong,
    #[error("the mount is read-only")]
    ReadOnly,
    #[error("a live object already has this name")]
    Exists,
    #[error("the directory is not empty: {0}")]
    NotEmpty(String),
    #[error("not permitted: {0}")]
    NotPermitted(&'static str),
    #[error("not supported: {0}")]
    NotSupported(&'static str),
    #[error("directories are not renamed: copy and delete instead, as mv(1) does")]
    CrossDevice,
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    #[error("no space left for written data: {0}")]
    NoSpace(String),
    #[error("larger than the maximum, {most} bytes")]
    TooLarge { most: u64 },
    /// A write or a read of bytes that have left for the store.
    #[error(
        "without a spool, files are written in order and not read back: mount with --spool DIR"
    )]
    NotInOrder,
    #[error("the spool failed: {0}")]
    Spool(String),
    #[error("no such handle")]
    BadHandle,
    #[error("the mount is being taken down")]
    ShuttingDown,
    #[error("a defect in expirefs: {0}")]
    Defect(String),
}

impl Error {
    /// The errno of the system call.
    pub fn errno(&self) -> c_int {
        match self {
            Error::NotFound | Error::Expired => libc::ENOENT,
            Error::Stale | Error::PreconditionFailed => libc::ESTALE,
            Error::Denied(_) => libc::EACCES,
            Error::TooManyBodies { .. } | Error::OutOfDescriptors(_) => libc::ENFILE,
            Error::Unconfirmed(_)
            | Error::NoSuchBucket(_)
            | Error::Unparsable
            | Error::NotResumable
            | Error::Archived(_)
            | Error::TimedOut(_)
            | Error::Unreachable(_)
            | Error::Refused(_)
            | Error::Throttled(_)
            | Error::Store(_)
            | Error::Protocol(_)
            | Error::Conflict(_)
            | Error::Unsupported(_)
            | Error::Unclear(_)
            | Error::Spool(_)
            | Error::Defect(_) => libc::EIO,
            Error::IsADirectory => libc::EISDIR,
            Error::NotADirectory => libc::ENOTDIR,
            Error::NameTooLong => libc::ENAMETOOLONG,
            Error::ReadOnly => libc::EROFS,
            Error::Exists => libc::EEXIST,
            Error::NotEmpty(_) => libc::ENOTEMPTY,
            Error::NotPermitted(_) => libc::EPERM,
            Error::CrossDevice => libc::EXDEV,
            Error::Invalid(_) => libc::EINVAL,
            Error::NoSpace(_) => libc::ENOSPC,
            Error::TooLarge { .. } => libc::EFBIG,
            Error::NotSupported(_) | Error::NotInOrder => libc::EOPNOTSUPP,
            Error::BadHandle => libc::EBADF,
            Error::ShuttingDown => libc::ESHUTDOWN,
        }
    }

    /// The store's report of the failure, if it comes from a store.
    pub fn report(&self) -> Option<&Report> {
        match self {
            Error::Unconfirmed(report)
            | Error::NoSuchBucket(report)
            | Error::Conflict(report)
            | Error::Unsupported(report)
            | Error::Unclear(report)
            | Error::Denied(report)
            | Error::Archived(report)
            | Error::Unreachable(report)
            | Error::Refused(report)
            | Error::Throttled(report)
            | Error::Store(report)
            | Error::Protocol(report) => Some(report),
            Error::NotFound
            | Error::Expired
            | Error::Unparsable
            | Error::Stale
            | Error::PreconditionFailed
            | Error::NotResumable
            | Error::TooManyBodies { .. }
            | Error::OutOfDescriptors(_)
            | Error::TimedOut(_)
            | Error::IsADirectory
            | Error::NotADirectory
            | Error::NameTooLong
            | Error::ReadOnly
            | Error::Exists
            | Error::NotEmpty(_)
            | Error::NotPermitted(_)
            | Error::NotSupported(_)
            | Error::CrossDevice
            | Error::Invalid(_)
            | Error::NoSpace(_)
            | Error::TooLarge { .. }
            | Error::NotInOrder
            | Error::Spool(_)
            | Error::BadHandle
            | Error::ShuttingDown
            | Error::Defect(_) => None,
        }
    }

    /// The errno of reading a directory: never ENOENT, which readdir(3) of glibc treats as the end
    /// of the directory, so a failure would look like an empty directory.
    pub fn errno_of_readdir(&self) -> c_int {
        match self.errno() {
            libc::ENOENT => libc::EIO,
            errno => errno,
        }
    }

    /// Whether a request for another object may well succeed.
    pub fn concerns_one_object(&self) -> bool {
        matches!(
            self,
            Error::Denied(_)
                | Error::Refused(_)
                | Error::Unconfirmed(_)
                | Error::Protocol(_)
                | Error::Store(_)
                | Error::Throttled(_)
                | Error::Conflict(_)
                | Error::Unclear(_)
        )
    }

    /// The level at which it is logged: what happens on a healthy mount is not an error.
    pub fn level(&self) -> Level {
        match self {
            Error::NotFound
            | Error::Expired
            | Error::IsADirectory
            | Error::NotADirectory
            | Error::NameTooLong
            | Error::ReadOnly
            | Error::Exists
            | Error::NotEmpty(_)
            | Error::NotPermitted(_)
            | Error::NotSupported(_)
            | Error::CrossDevice
            | Error::Invalid(_)
            | Error::TooLarge { .. }
            // Logged once, where it is first seen.
            | Error::Unparsable
            | Error::NotResumable => Level::DEBUG,
            Error::Stale | Error::PreconditionFailed | Error::ShuttingDown => Level::INFO,
            Error::Denied(_)
            | Error::Archived(_)
            | Error::TooManyBodies { .. }
            | Error::Throttled(_)
            | Error::Conflict(_)
            | Error::NotInOrder => Level::WARN,
            Error::Unconfirmed(_)
            | Error::NoSuchBucket(_)
            | Error::OutOfDescriptors(_)
            | Error::TimedOut(_)
            | Error::Unreachable(_)
            | Error::Refused(_)
            | Error::Store(_)
            | Error::Protocol(_)
            | Error::Unsupported(_)
            | Error::Unclear(_)
            | Error::NoSpace(_)
            | Error::Spool(_)
            | Error::BadHandle
            | Error::Defect(_) => Level::ERROR,
        }
    }
}

/// An error and its causes, in one line; a cause that only repeats the error above it is left out.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.ends_with(&text) {
            line += &format!(": {text}");
        }
        cause = error.source();
    }
    line.replace('\n', " ")
}
