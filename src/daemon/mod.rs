//! The life of a mount: checked, mounted, served, drained, unmounted.
//!
//! Owns the session with the kernel, the background tasks and the control socket. Knows nothing of
//! arguments as typed, of what commands print, or of the rules of names and expiry.

mod answers;
pub mod client;
mod control;
pub mod mounts;
mod protocol;
mod runtime_dir;
mod session;
pub mod status;

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fuser::{INodeNo, Notifier};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::body::Accounts;
use crate::bucket::Bucket;
use crate::catalog::index::Index;
use crate::catalog::index_file::IndexFile;
use crate::clock::Clock;
use crate::config::Config;
use crate::fd_budget::{self, Budget, InUse};
use crate::fs::Fs;
use crate::fs::inode::Idle;
use crate::fs::listing::Exactness;
use crate::fuse::{Fuse, PageCache};
use crate::metrics::Metrics;
use crate::name::Prefix;
use crate::s3::{BRIEF_OUTAGE, S3, Site};
use crate::store::{ListRequest, Store, any_below};
use answers::Answers;
use control::{Server, Service};
use mounts::MountEntry;
use status::{Status, process_of};

/// What running reads are given when the mount is taken down.
const DRAIN: Duration = Duration::from_secs(5);

/// What the kernel is given to end the session once nothing is open any more.
const FAREWELL: Duration = Duration::from_secs(1);

/// Names the kernel is asked to drop, one after the other, before the chore can be ended.
const IDLE_NAMES: usize = 64;

/// A mount that is being served.
pub struct Mounted {
    fs: Arc<Fs>,
    entry: MountEntry,
    answers: Arc<Answers>,
    /// Ends when the kernel has let go of the mount, whoever unmounted it.
    ended: oneshot::Receiver<()>,
    control: Option<Server>,
    _chores: JoinSet<()>,
}

/// Divides the descriptors of this process. To be called before the runtime opens its own.
///
/// # Errors
/// In words for the operator.
pub fn budget(config: &Config) -> Result<Budget, String> {
    let read = |e: io::Error| format!("the limit of file descriptors: {e}");
    let limit = fd_budget::descriptor_limit(config.keep_fd_limit).map_err(read)?;
    let inherited = fd_budget::in_use().map_err(read)?.fds;
    let budget =
        Budget::plan(limit, inherited, config.max_open_bodies, config.metadata_concurrency)
            .map_err(|e| e.to_string())?;
    info!("{budget}");
    Ok(budget)
}

/// The same for a command that only asks.
///
/// # Errors
/// In words for the operator.
pub fn budget_without_mount(metadata: usize) -> Result<Budget, String> {
    let limit = fd_budget::descriptor_limit(false);
    let limit = limit.map_err(|e| format!("the limit of file descriptors: {e}"))?;
    Budget::plan(limit, 3, Some(1), metadata).map_err(|e| e.to_string())
}

impl Mounted {
    /// Checks the mount point and the bucket, unless `give_up` comes first, and mounts.
    ///
    /// # Errors
    /// One line for the operator; nothing is mounted then.
    pub async fn start(
        config: Config,
        budget: Budget,
        give_up: impl Future<Output = ()>,
    ) -> Result<Mounted, String> {
        session::check(&config.dir, config.replace_dead)?;
        let clock = Arc::new(if config.local_clock { Clock::local() } else { Clock::server() });
        let metrics = Arc::new(Metrics::default());
        let timeout = config.settings.patience.timeout;
        let store = async {
            let (clock, metrics) = (clock.clone(), metrics.clone());
            let site = config.endpoint.clone().locate().await?;
            let s3 = S3::new(&site, &budget, timeout, clock, metrics).await?;
            let impatient = s3.with_outage(BRIEF_OUTAGE);
            check_bucket(&impatient, &site, &config).await?;
            Ok::<_, String>((site, Arc::new(s3), Arc::new(impatient)))
        };
        let (site, store, impatient) = tokio::select! {
            store = store => store?,
            () = give_up => return Err("interrupted; nothing is mounted".to_owned()),
        };

        let index_file = match config.index.clone() {
            None => None,
            Some(path) => {
                let of = site.identity();
                let open = tokio::task::spawn_blocking(move || IndexFile::open(&path, &of));
                open.await.map_err(|e| format!("the index: {e}"))?
            }
        };
        let index = Index::new(config.index_memory, index_file);
        let accounts = Accounts::new(budget.cap, config.parking, config.buffer_memory);
        let settings = config.settings.clone();
        let bucket = Bucket { store, clock, policy: config.policy };
        let asked = Bucket { store: impatient, ..bucket.clone() };
        let fs = Arc::new(Fs::new(bucket, metrics, accounts, settings, index));
        let (alive, ended) = oneshot::channel();
        let plus = config.settings.listing.exactness == Exactness::Exact;
        let pages = PageCache::default();
        let fuse =
            Fuse::new(fs.clone(), Handle::current(), config.ownership, plus, pages.clone(), alive);
        let source = config.url();
        let (entry, notifier) = session::mount(fuse, &config, &source).await?;
        pages.reached_by(notifier.clone());

        let peak = Arc::new(Mutex::new(InUse::default()));
        let answers = Arc::new(Answers {
            fs: fs.clone(),
            bucket: asked,
            bucket_name: config.endpoint.bucket,
            source,
            dir: entry.dir.display().to_string(),
            budget,
            idle_warn: config.idle_warn,
            started: Instant::now(),
            peak: peak.clone(),
        });
        let mut chores = JoinSet::new();
        chores.spawn(sample(peak));
        chores.spawn(have_names_dropped(fs.clone(), notifier));
        if let Some(after) = config.idle_warn {
            chores.spawn(report_forgotten_bodies(fs.clone(), after));
        }
        let control = Server::start(&entry, answers.clone());
        let control = control.inspect_err(|error| {
            warn!("no control socket, so no `expirefs status`: {error}");
        });
        chores.spawn(audit(fs.clone()));
        Ok(Mounted { fs, entry, answers, ended, control: control.ok(), _chores: chores })
    }

    pub fn status(&self) -> Status {
        self.answers.status()
    }

    pub fn dir(&self) -> &Path {
        &self.entry.dir
    }

    /// Waits until somebody has unmounted it, or asks for it over the control socket.
    pub async fn until_done(&mut self) {
        let asked = async {
            match &mut self.control {
                Some(control) => control.until_asked_to_unmount().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = &mut self.ended => {}
            () = asked => {}
        }
    }

    /// Refuses new opens, waits for running reads until `hurry` is over or 5 s have passed, and
    /// unmounts; what is still open then ends with this process.
    ///
    /// # Errors
    /// In words for the operator, where it stays mounted.
    pub async fn unmount(mut self, hurry: impl Future<Output = ()>) -> Result<(), String> {
        if !self.ended.is_terminated() {
            tokio::select! {
                () = self.fs.shut_down(DRAIN) => {}
                () = hurry => {}
                _ = &mut self.ended => {}
            }
        }
        let entry = self.entry.clone();
        let detached = tokio::task::spawn_blocking(move || mounts::detach(&entry)).await;
        let detached = detached.map_err(|e| io::Error::other(e.to_string())).flatten();
        let outcome =
            detached.map_err(|e| format!("cannot unmount {}: {e}", self.entry.dir.display()));
        let fs = self.fs.clone();
        let _ = tokio::task::spawn_blocking(move || fs.index().flush()).await;
        // With handles open the session ends with this process, and no sooner.
        if !self.ended.is_terminated() && self.fs.open_handles().is_empty() {
            let _ = tokio::time::timeout(FAREWELL, &mut self.ended).await;
        }
        if let Some(control) = self.control {
            control.stop(&outcome).await;
        }
        outcome
    }
}

/// Lists one key: that needs the bucket, access to it, credentials, the region and the endpoint.
async fn check_bucket(store: &dyn Store, site: &Site, config: &Config) -> Result<(), String> {
    let prefix = config.settings.prefix.as_str();
    let request = ListRequest { max_keys: 1, ..ListRequest::level(prefix) };
    let listed = store.list(request).await;
    let page =
        listed.map_err(|error| format!("cannot list {}{}: {error}", config.url(), site.at()))?;
    if page.objects.is_empty() && page.prefixes.is_empty() {
        warn_of_empty(store, &config.settings.prefix).await;
    }
    Ok(())
}

/// Says that no key begins with the prefix, if so: a wrong one looks as if all had expired.
async fn warn_of_empty(store: &dyn Store, prefix: &Prefix) {
    let Some(object) = prefix.as_str().strip_suffix('/') else { return };
    // Where the store does not answer, nothing is known, and the mount will say so.
    if !matches!(any_below(store, prefix.as_str()).await, Ok(false)) {
        return;
    }
    match store.head(object).await {
        Ok(_) => warn!("{object} is an object, and no key begins with {prefix}: mount a prefix"),
        Err(_) => warn!("no key begins with {prefix}: is the prefix right?"),
    }
}

/// Has the kernel drop names: where it knows too many, and where one is not to be believed.
async fn have_names_dropped(fs: Arc<Fs>, notifier: Notifier) {
    loop {
        let first = fs.idle().await;
        let (fs, notifier) = (fs.clone(), notifier.clone());
        // The kernel takes the directory's lock for each, and waits for it.
        let dropped = tokio::task::spawn_blocking(move || {
            let more = std::iter::from_fn(|| fs.idle_now()).take(IDLE_NAMES);
            for Idle { parent, name } in std::iter::once(first).chain(more) {
                // One that is not there any more is as good.
                let _ = notifier.inval_entry(INodeNo(parent), OsStr::new(&name));
            }
        });
        if dropped.await.is_err() {
            return;
        }
    }
}

/// Says once of each body that somebody holds without reading it: a leak is loud on its first day.
async fn report_forgotten_bodies(fs: Arc<Fs>, after: Duration) {
    let pause = (after / 10).clamp(Duration::from_millis(100), Duration::from_secs(60));
    loop {
        tokio::time::sleep(pause).await;
        for handle in fs.newly_idle(after) {
            let Ok(handle) = handle.reading() else { continue };
            let reader = &handle.reader;
            let held = Duration::from_secs(handle.held_for().unwrap_or(after).as_secs());
            let (pid, command) = process_of(handle.pid).unzip();
            warn!(
                key = %reader.version().key,
                pid = pid.unwrap_or(handle.pid),
                command = command.unwrap_or_else(|| "gone".to_owned()),
                offset = reader.offset(),
                age = %humantime::format_duration(Duration::from_secs(reader.age().as_secs())),
                "a body is held open and has not been read for {}",
                humantime::format_duration(held)
            );
        }
    }
}

/// Descriptors that may be in use for moments when it is looked: clients of the control socket,
/// names being resolved, sockets about to be closed.
const UNACCOUNTED: usize = 16;

/// Compares what this process has open with what it accounts for, and says where it has more: what
/// leaks is not in its account.
async fn audit(fs: Arc<Fs>) {
    let accounted = || {
        let metrics = fs.metrics();
        let closed = metrics.connections_closed.get();
        metrics.connections_opened.get().saturating_sub(closed) as usize
    };
    let Ok(start) = fd_budget::in_use() else { return };
    let others = start.fds.saturating_sub(accounted());
    let (mut before, mut reported) = (0, UNACCOUNTED);
    loop {
        tokio::time::sleep(Duration::from_secs(60)).await;
        let Ok(now) = fd_budget::in_use() else { continue };
        let account = others + accounted();
        let more = now.fds.saturating_sub(account);
        // Twice in a row, and more than at the last report.
        if more.min(before) > reported {
            reported = more;
            warn!(
                "{} descriptors are open and {account} accounted for: please report this leak, \
                 with the output of `ls -l /proc/{}/fd` and `expirefs status`",
                now.fds,
                std::process::id()
            );
        }
        before = more;
    }
}

/// Keeps the most descriptors seen. Looking costs by their number: never over 1 % of the time.
async fn sample(peak: Arc<Mutex<InUse>>) {
    loop {
        let started = Instant::now();
        if let Ok(now) = fd_budget::in_use() {
            let mut peak = peak.lock().unwrap_or_else(PoisonError::into_inner);
            peak.fds = peak.fds.max(now.fds);
            peak.sockets = peak.sockets.max(now.sockets);
        }
        let pause = Duration::from_secs(1).max(100 * started.elapsed());
        tokio::time::sleep(pause).await;
    }
}
