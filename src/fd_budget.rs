//! Divides RLIMIT_NOFILE: what everything except bodies may use, and the cap on bodies that is
//! left.

use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;

/// The lowest limit that leaves room for at least one body.
pub const MIN_LIMIT: usize = 47;

/// Used for a moment: DNS, root certificates, opening a log, trying a second address.
const TRANSIENT: usize = 8;
/// Sockets to the hosts of credentials, which are not kept open.
const CREDENTIALS: usize = 2;
/// Sockets of dropped bodies that the kernel has not closed yet (≤ 20 ms).
const CLOSING: usize = 8;
/// `/dev/fuse`, the helper of auto-unmount, 2 epoll, 1 eventfd, 3 for signals, the index, the
/// control socket, three of its clients and one that waits, the spool, the journal of uploads, and
/// a journal of a dead mount.
const DAEMON: usize = 17;

/// How the descriptors of this process are divided. The sum of all parts is at most `limit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Budget {
    /// The soft RLIMIT_NOFILE in force.
    pub limit: usize,
    /// Descriptors open before the mount: standard streams and what was inherited.
    pub inherited: usize,
    pub daemon: usize,
    /// Maximum number of concurrent HEAD and LIST requests.
    pub metadata: usize,
    /// Maximum number of sockets to hosts other than the bucket's.
    pub credentials: usize,
    pub transient: usize,
    pub closing: usize,
    /// The rest, available for bodies, before `--max-open-bodies`.
    pub available: usize,
    /// Maximum number of open bodies.
    pub cap: usize,
}

/// Why no budget fits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    #[error(
        "a limit of {limit} file descriptors is too low ({inherited} are in use \
         already; {MIN_LIMIT} is the least, with 3 in use): raise it with `ulimit -n`"
    )]
    TooLow { limit: usize, inherited: usize },
    #[error(
        "--max-open-bodies {asked} does not fit: of {limit} file descriptors {reserve} are kept \
         for other uses, so at most {available} bodies can be open; raise `ulimit -n` or ask for less"
    )]
    TooMany { asked: usize, limit: usize, reserve: usize, available: usize },
}

impl Budget {
    /// Divides `limit` descriptors, `inherited` of which are open already, with up to `metadata`
    /// concurrent metadata requests.
    pub fn plan(
        limit: usize,
        inherited: usize,
        max_open_bodies: Option<usize>,
        metadata: usize,
    ) -> Result<Budget, BudgetError> {
        Budget::plan_with(limit, inherited, 0, max_open_bodies, metadata)
    }

    /// The same for a daemon that needs `optional` more descriptors for what it was asked to do.
    pub fn plan_with(
        limit: usize,
        inherited: usize,
        optional: usize,
        max_open_bodies: Option<usize>,
        metadata: usize,
    ) -> Result<Budget, BudgetError> {
        let daemon = DAEMON + optional;
        // Small limits get fewer metadata connections rather than no bodies.
        let metadata = metadata.min((limit / 8).max(4));
        let reserve = inherited + daemon + metadata + CREDENTIALS + TRANSIENT + CLOSING;
        let available = limit.saturating_sub(reserve);
        if limit < MIN_LIMIT || available == 0 {
            return Err(BudgetError::TooLow { limit, inherited });
        }
        let cap = match max_open_bodies {
            Some(asked) if asked > available => {
                return Err(BudgetError::TooMany { asked, limit, reserve, available });
            }
            Some(asked) => asked,
            None => available,
        };
        Ok(Budget {
            limit,
            inherited,
            daemon,
            metadata,
            credentials: CREDENTIALS,
            transient: TRANSIENT,
            closing: CLOSING,
            available,
            cap,
        })
    }

    /// Maximum number of sockets to the bucket, including idle ones.
    pub fn connections(&self) -> usize {
        self.cap + self.metadata
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} descriptors - {} inherited - {} daemon - {} metadata - {} credentials - {} transient - {} closing \
             = {} for bodies, cap {}",
            self.limit,
            self.inherited,
            self.daemon,
            self.metadata,
            self.credentials,
            self.transient,
            self.closing,
            self.available,
            self.cap
        )
    }
}

/// The soft limit of this process. Raises it to the hard limit unless `keep`.
///
/// # Errors
/// What getrlimit(2) and setrlimit(2) say.
pub fn descriptor_limit(keep: bool) -> io::Result<usize> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let limit = if keep || soft >= hard {
        soft
    } else {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        hard
    };
    Ok(usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Open descriptors of this process, and the sockets among them, as `/proc` shows them now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InUse {
    pub fds: usize,
    pub sockets: usize,
}

/// Counts what is open; the descriptor that reads `/proc/self/fd` is not counted.
pub fn in_use() -> io::Result<InUse> {
    let mut found = InUse::default();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        found.fds += 1;
        // A descriptor that was closed meanwhile is not counted as a socket.
        if let Ok(target) = std::fs::read_link(entry?.path()) {
            found.sockets +=
                usize::from(target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
        }
    }
    found.fds -= 1;
    Ok(found)
}

/// The highest use of descriptors that was seen.
#[derive(Debug, Default)]
pub struct Peak(Mutex<InUse>);

impl Peak {
    /// What is open now, which counts, and the highest use so far.
    pub fn look(&self) -> io::Result<(InUse, InUse)> {
        let now = in_use()?;
        let mut peak = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        peak.fds = peak.fds.max(now.fds);
        peak.sockets = peak.sockets.max(now.sockets);
        Ok((now, *peak))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_use_that_was_seen_is_kept() {
        const FILES: usize = 300;
        let peak = Peak::default();
        let open = || std::fs::File::open("/dev/null").unwrap();
        let files: Vec<_> = (0..FILES).map(|_| open()).collect();
        let (now, first) = peak.look().unwrap();
        assert!(now.fds >= FILES && first.fds == now.fds, "{now:?} {first:?}");
        drop(files);
        let (_, second) = peak.look().unwrap();
        assert!(second.fds >= first.fds, "{first:?} {second:?}");
    }

    #[test]
    fn the_parts_never_exceed_the_limit() {
        for limit in 0..3000 {
            for inherited in [3, 5, 20] {
                let Ok(b) = Budget::plan(limit, inherited, None, 64) else { continue };
                assert!(limit >= MIN_LIMIT && b.cap >= 1);
                let sockets = b.metadata + b.credentials + b.transient + b.closing;
                let reserve = b.inherited + b.daemon + sockets;
                assert_eq!(reserve + b.cap, limit);
                assert_eq!(b.connections(), b.cap + b.metadata);
            }
        }
    }

    #[test]
    fn small_limits_still_mount() {
        assert!(Budget::plan(64, 3, None, 64).unwrap().cap >= 16);
        assert!(Budget::plan(MIN_LIMIT, 3, None, 64).unwrap().cap >= 1);
        assert_eq!(
            Budget::plan(MIN_LIMIT - 1, 3, None, 64),
            Err(BudgetError::TooLow { limit: MIN_LIMIT - 1, inherited: 3 })
        );
        assert!(Budget::plan(64, 60, None, 64).is_err(), "nothing left after what is open already");
    }

    #[test]
    fn what_is_optional_leaves_less_for_bodies() {
        let plain = Budget::plan(128, 3, None, 64).unwrap();
        let more = Budget::plan_with(128, 3, 6, None, 64).unwrap();
        assert_eq!((more.cap + 6, more.daemon), (plain.cap, plain.daemon + 6));
    }

    #[test]
    fn an_impossible_cap_is_refused_with_both_numbers() {
        let refused = Budget::plan(128, 3, Some(100), 64).unwrap_err().to_string();
        let available = Budget::plan(128, 3, None, 64).unwrap().available;
        assert!(refused.contains("100") && refused.contains(&available.to_string()), "{refused}");
        assert_eq!(Budget::plan(128, 3, Some(8), 64).unwrap().cap, 8);
    }

    #[test]
    fn counts_this_process() {
        let before = in_use().unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let with = in_use().unwrap();
        // Other tests in this process open and close descriptors, too.
        assert!(with.fds >= 4 && with.sockets >= 1, "{before:?} {with:?}");
        drop(socket);
    }
}
