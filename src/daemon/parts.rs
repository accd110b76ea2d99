//! The parts of a mount that exist before it is mounted: descriptor budget, store, index.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::task::spawn_blocking;
use tracing::{info, warn};

use crate::body::{Accounts, Ledger, Unit};
use crate::bucket::Bucket;
use crate::bucket::honours::Spellings;
use crate::catalog::index::Index;
use crate::catalog::index_file::IndexFile;
use crate::clock::Clock;
use crate::config::{Config, SpoolPlace};
use crate::daemon::scrape;
use crate::fd_budget::{self, Budget};
use crate::fs::{self, Overlay};
use crate::metrics::Metrics;
use crate::name::Prefix;
use crate::pending::journal::Journal;
use crate::pending::{self, Room, Spool, Writer};
use crate::s3::{self, BRIEF_OUTAGE, S3, Site};
use crate::store::{ListRequest, Store, any_below};

/// Divides the descriptors of this process. Call it before the runtime opens its own.
///
/// # Errors
/// In words for the operator.
pub fn budget(config: &Config) -> Result<Budget, String> {
    let read = |e: io::Error| format!("the limit of file descriptors: {e}");
    let limit = fd_budget::descriptor_limit(config.keep_fd_limit).map_err(read)?;
    let inherited = fd_budget::in_use().map_err(read)?.fds;
    let optional = if config.metrics.is_some() { scrape::DESCRIPTORS } else { 0 };
    let (bodies, metadata) = (config.max_open_bodies, config.metadata_concurrency);
    let budget = Budget::plan_with(limit, inherited, optional, bodies, metadata)
        .map_err(|e| e.to_string())?;
    info!("{budget}");
    Ok(budget)
}

/// The same for a command without a mount, which has so many bodies open.
///
/// # Errors
/// In words for the operator.
pub fn budget_without_mount(bodies: usize, metadata: usize) -> Result<Budget, String> {
    let limit = fd_budget::descriptor_limit(false);
    let limit = limit.map_err(|e| format!("the limit of file descriptors: {e}"))?;
    Budget::plan(limit, 3, Some(bodies), metadata).map_err(|e| e.to_string())
}

/// The store of the bucket.
pub struct Opened {
    pub site: Site,
    pub store: Arc<S3>,
    /// The same for commands, with a short timeout if the store cannot be reached.
    pub impatient: Arc<S3>,
}

/// Makes the store. Files of the configuration are read, and credentials and region may be queried;
/// the bucket is not.
///
/// # Errors
/// In words for the operator.
pub async fn open_store(
    config: &Config,
    budget: &Budget,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
) -> Result<Opened, String> {
    let (endpoint, budget) = (config.endpoint.clone(), budget.clone());
    let timeout = config.settings.patience.timeout;
    let opened = s3::on_its_own_thread(async move {
        let site = endpoint.locate().await?;
        let store = S3::new(&site, &budget, timeout, clock, metrics).await?;
        Ok::<_, String>((site, store))
    });
    let (site, store) = opened.await?;
    let new_objects = config.writing.as_ref().map(|writing| writing.new_objects.clone());
    let store = store.with_new_objects(new_objects.unwrap_or_default());
    let impatient = store.with_outage(BRIEF_OUTAGE);
    Ok(Opened { site, store: Arc::new(store), impatient: Arc::new(impatient) })
}

/// An index of expiry headers with so many bytes of memory, and its file if there is one (`--index`),
/// for the bucket that `of` names.
///
/// # Errors
/// In words for the operator. A file that cannot be used is no error.
pub async fn open_index(
    memory: usize,
    file: Option<PathBuf>,
    of: String,
) -> Result<Arc<Index>, String> {
    let file = match file {
        None => None,
        Some(path) => {
            let open = spawn_blocking(move || IndexFile::open(&path, &of));
            open.await.map_err(|e| format!("the index: {e}"))?
        }
    };
    Ok(Index::new(memory, file))
}

/// What a writable mount has in addition; `None` for a read-only one.
///
/// # Errors
/// In words for the operator, if writing is not permitted, or there is no room for it.
pub async fn open_writing(
    config: &Config,
    opened: &Opened,
    bucket: &Bucket,
    accounts: &Accounts,
) -> Result<Option<fs::Writing>, String> {
    let Some(rules) = config.writing.clone() else { return Ok(None) };
    let spellings = |store: &Arc<S3>| Spellings {
        quoted: store.clone(),
        bare: Arc::new(store.with_bare_etags()),
    };
    let prefix = &config.settings.prefix;
    let timeout = config.settings.patience.timeout;
    let impatient = spellings(&opened.impatient);
    let proved = impatient.prove(prefix, random(), accounts.bodies.cap(), timeout).await;
    let honours = proved.map_err(|e| format!("cannot write to {}: {e}", config.url()))?;
    if let Some(lacking) = honours.lacking() {
        warn!("{lacking}");
    }
    let spool = match rules.spool.clone() {
        None => None,
        Some(SpoolPlace { dir, size }) => {
            let open = spawn_blocking(move || {
                let spool = Spool::open(&dir, size, rules.part_size);
                spool.map_err(|e| {
                    format!("no spool can be made in {}: {e} (--spool)", dir.display())
                })
            });
            Some(open.await.map_err(|e| e.to_string())??)
        }
    };
    let (dir, of) = (rules.journal.clone(), opened.site.identity());
    let open = spawn_blocking(move || {
        let journal = Journal::open(&dir, &of);
        journal.map_err(|e| format!("no list of uploads can be made in {}: {e}", dir.display()))
    });
    let (journal, left) = open.await.map_err(|e| e.to_string())??;
    let (_, memory) = config.memory();
    let memory = Ledger::new(Unit::Kib, (memory >> 10) as usize, true);
    let writer = Writer::new(
        bucket.clone(),
        spellings(&opened.store).fitting(&honours),
        honours,
        pending::Rules {
            prefix: prefix.clone(),
            ttl: rules.ttl,
            content_type_by_name: rules.content_type_by_name,
            storage_class: rules.storage_class,
            timeout,
        },
        Room { part: rules.part_size, memory, spool },
        accounts.bodies.clone(),
        Some(journal),
    );
    writer.take_over(left);
    Ok(Some(fs::Writing {
        writer,
        stage: rules.stage,
        touch: rules.touch,
        strict_attributes: rules.strict_attributes,
        overlay: Overlay::default(),
        told_of_order: AtomicBool::new(false),
    }))
}

#[expect(clippy::disallowed_methods, reason = "two mounts must not use the same scratch objects")]
fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

/// Lists one key, which checks bucket, permission, credentials, region and endpoint.
///
/// # Errors
/// In words for the operator.
pub async fn check_bucket(store: &dyn Store, site: &Site, config: &Config) -> Result<(), String> {
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

/// Warns if no key begins with the prefix: a wrong prefix looks as if all objects had expired.
async fn warn_of_empty(store: &dyn Store, prefix: &Prefix) {
    let Some(object) = prefix.as_str().strip_suffix('/') else { return };
    // If the store does not answer, the mount reports that.
    if !matches!(any_below(store, prefix.as_str()).await, Ok(false)) {
        return;
    }
    match store.head(object).await {
        Ok(_) => warn!("{object} is an object, and no key begins with {prefix}: mount a prefix"),
        Err(_) => warn!("no key begins with {prefix}: is the prefix right?"),
    }
}
