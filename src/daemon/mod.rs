//! The life cycle of a mount: check, mount, serve, drain, unmount.
//!
//! Owns the session with the kernel, the background tasks and the control socket. Knows nothing of
//! arguments as typed, of what commands print, or of the rules of names and expiry.

mod answers;
mod chores;
pub mod client;
mod control;
pub mod mounts;
mod parts;
mod passed;
mod places;
mod protocol;
mod runtime_dir;
mod scrape;
mod session;
pub mod status;
pub mod survey;
mod waiting;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use tracing::warn;

use crate::body::Accounts;
use crate::bucket::Bucket;
use crate::clock::Clock;
use crate::config::Config;
use crate::fd_budget::{Budget, Peak};
use crate::fs::Fs;
use crate::fs::listing::Exactness;
use crate::fuse::{Closing, Fuse, PageCache, Workers};
use crate::log::Filter;
use crate::metrics::Metrics;
use answers::Answers;
use chores::Chores;
use control::{Server, Service};
use mounts::MountEntry;
pub use parts::{budget, budget_without_mount, open_index};
use status::{Started, Status};

/// How long an unmount waits for reads in flight.
const DRAIN: Duration = Duration::from_secs(5);

/// How long the kernel may take to end the session once no handle is open, and to send what is mapped.
const FAREWELL: Duration = Duration::from_secs(1);

const INTERRUPTED: &str = "interrupted; nothing is mounted";

/// A mount that is being served.
pub struct Mounted {
    fs: Arc<Fs>,
    entry: MountEntry,
    answers: Arc<Answers>,
    /// Ready when the kernel has ended the session.
    ended: oneshot::Receiver<()>,
    pages: PageCache,
    control: Option<Server>,
    _chores: Chores,
    _workers: Closing,
}

impl Mounted {
    /// Checks the mount point and the bucket, unless `give_up` comes first, and mounts. `tell` gets
    /// lines for the operator about what this waits for.
    ///
    /// # Errors
    /// One line for the operator; nothing is mounted then.
    pub async fn start(
        config: Config,
        budget: Budget,
        log: Filter,
        give_up: impl Future<Output = ()>,
        tell: impl Fn(&str),
    ) -> Result<Mounted, String> {
        session::check(&config.dir, config.replace_dead)?;
        let metrics_at = match &config.metrics {
            Some(address) => Some(scrape::Listener::bind(address).await?),
            None => None,
        };
        let clock = Arc::new(if config.local_clock { Clock::local() } else { Clock::server() });
        let metrics = Arc::new(Metrics::default());
        tokio::pin!(give_up);
        let opened = tokio::select! {
            opened = parts::open_store(&config, &budget, clock.clone(), metrics.clone()) => opened?,
            () = &mut give_up => return Err(INTERRUPTED.to_owned()),
        };
        let what = format!("{}{}", config.url(), opened.site.at());
        let report = waiting::report(what, opened.store.last_failure(), tell);
        tokio::pin!(report);
        tokio::select! {
            checked = parts::check_bucket(&*opened.impatient, &opened.site, &config) => checked?,
            () = &mut give_up => return Err(INTERRUPTED.to_owned()),
            never = &mut report => match never {},
        }
        let (memory, file) = (config.index_memory, config.index.clone());
        let index = open_index(memory, file, opened.site.identity()).await?;
        let (memory, _) = config.memory();
        let accounts = Accounts::new(budget.cap, config.parking, memory);
        let bucket = Bucket { store: opened.store.clone(), clock, policy: config.policy };
        let writing = tokio::select! {
            writing = parts::open_writing(&config, &opened, &bucket, &accounts) => writing?,
            () = &mut give_up => return Err(INTERRUPTED.to_owned()),
            never = &mut report => match never {},
        };
        let asked = Bucket { store: opened.impatient, ..bucket.clone() };
        let settings = config.settings.clone();
        let fs = Arc::new(Fs::new(bucket, metrics, accounts, settings, index, writing));

        let (alive, ended) = oneshot::channel();
        let plus = config.settings.listing.exactness == Exactness::Exact;
        let pages = PageCache::default();
        let (workers, closing) = Workers::on(Handle::current());
        let fuse = Fuse::new(
            fs.clone(),
            workers,
            config.ownership,
            plus,
            pages.clone(),
            config.slow,
            alive,
        );
        let source = config.url();
        let (entry, notifier) = session::mount(fuse, &config, &source).await?;
        pages.reached_by(notifier.clone());

        let peak = Arc::new(Peak::default());
        let answers = Arc::new(Answers {
            fs: fs.clone(),
            bucket: asked,
            bucket_name: config.endpoint.bucket,
            source,
            dir: entry.dir.display().to_string(),
            budget,
            idle_warn: config.idle_warn,
            started: Started::now(fs.clock()),
            metrics_at: metrics_at.as_ref().map(scrape::Listener::at),
            peak: peak.clone(),
            log,
        });
        let control = Server::start(&entry, answers.clone());
        let control = control.inspect_err(|error| {
            warn!("no control socket, so no `expirefs status`: {error}");
        });
        let mut chores = Chores::default();
        chores.keep_peak(peak);
        chores.drop_names(fs.clone(), notifier);
        if let Some(after) = config.idle_warn {
            chores.report_idle_bodies(fs.clone(), after);
        }
        if let Some(listener) = metrics_at {
            let answers = answers.clone();
            let expose = Arc::new(move |format| answers.summary().exposed(format));
            chores.serve_metrics(listener, expose);
        }
        chores.audit_descriptors(fs.clone());
        let control = control.ok();
        Ok(Mounted {
            fs,
            entry,
            answers,
            ended,
            pages,
            control,
            _chores: chores,
            _workers: closing,
        })
    }

    pub fn status(&self) -> Status {
        self.answers.status()
    }

    /// The same without the open handles, at any time while this is waited for.
    pub fn summary(&self) -> impl Fn() -> Status + use<> {
        let answers = self.answers.clone();
        move || answers.summary()
    }

    pub fn entry(&self) -> &MountEntry {
        &self.entry
    }

    pub fn dir(&self) -> &Path {
        &self.entry.dir
    }

    /// Waits until it has been unmounted, or a client asks for that over the control socket.
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

    /// Refuses new opens, waits for reads in flight until `hurry` is ready or 5 s have passed, and
    /// unmounts; handles that are still open then end with this process.
    ///
    /// # Errors
    /// In words for the operator, if it stays mounted.
    pub async fn unmount(mut self, hurry: impl Future<Output = ()>) -> Result<(), String> {
        let lost_before = self.lost();
        let (fs, pages, ended) = (&self.fs, &self.pages, &mut self.ended);
        let shut_down = async {
            fs.shut_down(DRAIN).await;
            pages.write_back(fs.inodes_open_for_writing(), FAREWELL).await;
            fs.commit_closed().await;
        };
        let drained = async {
            if !ended.is_terminated() {
                tokio::select! {
                    () = shut_down => return,
                    _ = &mut *ended => {}
                }
            }
            fs.finish_up().await;
        };
        tokio::select! {
            () = drained => {}
            () = hurry => {}
        }
        let entry = self.entry.clone();
        // The kernel has ended the session: it was unmounted, or its connection was aborted.
        let is_over = !matches!(self.ended.try_recv(), Err(TryRecvError::Empty));
        let detach = if is_over { mounts::detach_dead } else { mounts::detach };
        let detached = tokio::task::spawn_blocking(move || detach(&entry)).await;
        let detached = detached.map_err(|e| io::Error::other(e.to_string())).flatten();
        let outcome =
            detached.map_err(|e| format!("cannot unmount {}: {e}", self.entry.dir.display()));
        let fs = self.fs.clone();
        let _ = tokio::task::spawn_blocking(move || fs.index().flush()).await;
        // With open handles the session ends only with this process.
        if !self.ended.is_terminated() && self.fs.open_handles().is_empty() {
            let _ = tokio::time::timeout(FAREWELL, &mut self.ended).await;
        }
        let (dir, lost) = (self.entry.dir.display(), self.lost() - lost_before);
        let told = match lost {
            0 => outcome.clone(),
            lost => outcome.clone().and(Err(format!(
                "{dir} is unmounted, but {lost} of the files that programs had closed could not be \
                 committed and are lost; its log names them"
            ))),
        };
        if let Some(control) = self.control {
            control.stop(&told).await;
        }
        outcome
    }

    /// Files that could not be committed after programs had closed them.
    fn lost(&self) -> u64 {
        self.fs.writing().map_or(0, |writing| writing.writer.commits.untold.get())
    }
}
