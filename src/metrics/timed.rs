//! What was done, by kind: how often with each result, and how long it took.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Counter;
use super::histogram::{Counts, Histogram, LATENCY};

/// An enum whose variants have names, which are labels of metrics.
macro_rules! named {
    ($(#[$doc:meta])* $type:ident { $($(#[$about:meta])* $variant:ident = $name:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $type { $($(#[$about])* $variant,)+ }

        impl $type {
            pub const ALL: &'static [$type] = &[$($type::$variant,)+];

            pub const fn name(self) -> &'static str {
                match self { $($type::$variant => $name,)+ }
            }
        }
    };
}

named! {
    /// A request of the kernel, by the names of fuse(4).
    Operation {
        Access = "access",
        CopyFileRange = "copy_file_range",
        Create = "create",
        Fallocate = "fallocate",
        Flush = "flush",
        Fsync = "fsync",
        Getattr = "getattr",
        Getxattr = "getxattr",
        Link = "link",
        Listxattr = "listxattr",
        Lookup = "lookup",
        Mkdir = "mkdir",
        Mknod = "mknod",
        Open = "open",
        Opendir = "opendir",
        Read = "read",
        Readdir = "readdir",
        Readdirplus = "readdirplus",
        Release = "release",
        Releasedir = "releasedir",
        Removexattr = "removexattr",
        Rename = "rename",
        Rmdir = "rmdir",
        Setattr = "setattr",
        Setxattr = "setxattr",
        Symlink = "symlink",
        Unlink = "unlink",
        Write = "write",
    }
}

named! {
    /// What came of one try of a request to the store: the class of its HTTP status, or why there was
    /// no response.
    Outcome {
        Success = "2xx",
        Redirect = "3xx",
        Refused = "4xx",
        Failed = "5xx",
        Timeout = "timeout",
        /// No connection, or it broke before the response.
        Connection = "connection",
        /// Nobody waited for it any more: an interrupted program, or the timeout of the whole call.
        Cancelled = "cancelled",
        /// It was not sent, or the response could not be read.
        Other = "other",
    }
}

impl Outcome {
    pub fn of_status(status: u16) -> Outcome {
        match status {
            100..=299 => Outcome::Success,
            300..=399 => Outcome::Redirect,
            400..=499 => Outcome::Refused,
            _ => Outcome::Failed,
        }
    }
}

/// The highest errno of Linux, and one (asm-generic/errno.h).
const ERRNOS: usize = 134;

/// One kind of thing, with so many results.
#[derive(Debug)]
pub struct Timed<const RESULTS: usize> {
    results: [Counter; RESULTS],
    took: Histogram,
}

impl<const RESULTS: usize> Default for Timed<RESULTS> {
    fn default() -> Timed<RESULTS> {
        let results = std::array::from_fn(|_| Counter::default());
        Timed { results, took: Histogram::new(&LATENCY) }
    }
}

impl<const RESULTS: usize> Timed<RESULTS> {
    fn add(&self, result: usize, took: Duration) {
        self.results[result].add(1);
        self.took.add(took);
    }

    /// Results that have not occurred are left out, except those that `always` names; `None` if it was
    /// never done.
    fn now(&self, name: impl Fn(usize) -> String, always: &[usize]) -> Option<TimedCounts> {
        let took = self.took.now();
        let results = self.results.iter().enumerate().map(|(i, count)| (i, count.get()));
        let results = results.filter(|(i, count)| *count > 0 || always.contains(i));
        let results = results.map(|(i, count)| (name(i), count)).collect();
        (took.count() > 0).then_some(TimedCounts { results, took })
    }
}

/// The same at one moment. Field names are those of `status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TimedCounts {
    pub results: BTreeMap<String, u64>,
    pub took: Counts,
}

/// By kind of operation or request.
pub type ByKind = BTreeMap<String, TimedCounts>;

/// The operations of a mount. A result is an errno; 0: none.
#[derive(Debug)]
pub struct Operations([Timed<ERRNOS>; Operation::ALL.len()]);

impl Default for Operations {
    fn default() -> Operations {
        Operations(std::array::from_fn(|_| Timed::default()))
    }
}

impl Operations {
    /// `errno`: 0 if it succeeded.
    pub fn add(&self, operation: Operation, errno: i32, took: Duration) {
        let errno = usize::try_from(errno).ok().filter(|errno| *errno < ERRNOS);
        self.0[operation as usize].add(errno.unwrap_or(ERRNOS - 1), took);
    }

    /// `name`: of an errno. Results that alerts are about are there from the start.
    pub fn now(&self, name: impl Fn(i32) -> String) -> ByKind {
        let name = |errno| match errno {
            0 => "ok".to_owned(),
            errno => name(errno as i32),
        };
        let always = [0, libc::EIO as usize, libc::ENFILE as usize];
        let all = Operation::ALL.iter().zip(&self.0);
        all.filter_map(|(it, timed)| Some((it.name().to_owned(), timed.now(name, &always)?)))
            .collect()
    }
}

/// The tries of one kind of request, from sending it until the headers of its response have come.
#[derive(Debug, Default)]
pub struct Answers(Timed<{ Outcome::ALL.len() }>);

impl Answers {
    pub fn add(&self, outcome: Outcome, took: Duration) {
        self.0.add(outcome as usize, took);
    }

    pub fn now(&self) -> Option<TimedCounts> {
        use Outcome::{Connection, Failed, Refused, Success, Timeout};
        let always =
            [Success, Refused, Failed, Timeout, Connection].map(|outcome| outcome as usize);
        self.0.now(|i| Outcome::ALL[i].name().to_owned(), &always)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_counted_by_their_errno() {
        let operations = Operations::default();
        assert!(operations.now(|errno| errno.to_string()).is_empty());
        let took = Duration::from_millis(2);
        for errno in [0, 0, libc::ENOENT, libc::EIO, 4711, -1] {
            operations.add(Operation::Write, errno, took);
        }
        let now = operations.now(|errno| errno.to_string());
        let results: Vec<_> = now["write"].results.iter().map(|(r, n)| (r.as_str(), *n)).collect();
        assert_eq!(results, [("133", 2), ("2", 1), ("23", 0), ("5", 1), ("ok", 2)]);
        assert_eq!(
            (now.len(), now["write"].took.count(), now["write"].took.sum_s),
            (1, 6, 6.0 * 0.002)
        );
    }

    #[test]
    fn the_name_of_each_variant_is_its_place_in_the_list() {
        for (i, operation) in Operation::ALL.iter().enumerate() {
            assert_eq!(*operation as usize, i);
        }
        for (i, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, i);
        }
    }
}
