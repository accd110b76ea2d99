//! One error, one mapping to errno, one severity. Pure.

use std::time::Duration;

use libc::c_int;
use tracing::Level;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation has no answer. Cheap to clone: one answer may go to many callers.
///
/// `NotFound` and `Expired` are the store's own word. A failure to reach the store is neither, nor
/// is a 404 that something else may have sent: "absent" is never said on a failure (rule R5).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("no such object")]
    NotFound,
    /// A 404 that may come from something between here and the store: a proxy, an ingress whose
    /// backend restarts. Whether the object exists, only a listing tells.
    #[error("404, but not in the store's own words (is a proxy in the way?): {0}")]
    Unconfirmed(String),
    #[error("no such bucket")]
    NoSuchBucket,
    #[error("expired")]
    Expired,
    #[error("its Expires cannot be read (--on-unparsable=error)")]
    Unparsable,
    #[error("replaced or deleted since it was looked up")]
    Stale,
    /// 412 to a change, which was not made. Nor was one that met with the next two.
    #[error("a condition of the request does not hold")]
    PreconditionFailed,
    /// 409: the same request may succeed later.
    #[error("another change of the same object was under way: {0}")]
    Conflict(String),
    #[error("the store does not know how to do this: {0}")]
    Unsupported(String),
    /// A change that may have been made, or may yet be: its answer is lost, or says nothing.
    #[error("no clear answer to a change, which may have been made: {0}")]
    Unclear(String),
    #[error("the store gives no ETag, so the rest could be of another version")]
    NotResumable,
    #[error("access denied: {0}")]
    Denied(String),
    #[error("archived in storage class {0}: restore it first")]
    Archived(String),
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
    Unreachable(String),
    /// An answer of the kind 4xx: asking again would not change it.
    #[error("the store refused: {0}")]
    Refused(String),
    /// 503 SlowDown or 429, while there was time to ask again.
    #[error("the store is being asked too much: {0}")]
    Throttled(String),
    /// An answer of the kind 5xx, after all tries.
    #[error("the store failed: {0}")]
    Store(String),
    #[error("a wrong answer from the store: {0}")]
    Protocol(String),
    #[error("is a directory")]
    IsADirectory,
    #[error("not a directory")]
    NotADirectory,
    #[error("the name is too long")]
    NameTooLong,
    #[error("the mount is read-only")]
    ReadOnly,
    #[error("there is one already")]
    Exists,
    #[error("the directory is not empty: {0}")]
    NotEmpty(String),
    #[error("not permitted: {0}")]
    NotPermitted(&'static str),
    #[error("not supported: {0}")]
    NotSupported(&'static str),
    #[error("directories are not renamed: copy and delete instead, as mv(1) does")]
    CrossDevice,
    #[error("an argument that makes no sense here: {0}")]
    Invalid(&'static str),
    #[error("no room left for what is written: {0}")]
    NoSpace(String),
    #[error("larger than an object of this mount can be, {most} bytes (--part-size)")]
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
    /// What the system call says.
    pub fn errno(&self) -> c_int {
        match self {
            Error::NotFound | Error::Expired => libc::ENOENT,
            Error::Stale | Error::PreconditionFailed => libc::ESTALE,
            Error::Denied(_) => libc::EACCES,
            Error::TooManyBodies { .. } | Error::OutOfDescriptors(_) => libc::ENFILE,
            Error::Unconfirmed(_)
            | Error::NoSuchBucket
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

    /// What reading a directory says: never ENOENT, which readdir(3) of glibc takes for the end of
    /// the directory, so that a failure would look like an empty one.
    pub fn errno_of_readdir(&self) -> c_int {
        match self.errno() {
            libc::ENOENT => libc::EIO,
            errno => errno,
        }
    }

    /// How loudly it is logged: what happens on a healthy mount is not an error.
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
            // Logged once, where it is met first.
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
            | Error::NoSuchBucket
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

/// An error and its causes, in one line; a cause that only repeats its effect is left out.
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
