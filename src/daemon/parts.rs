//! The parts of a mount that exist before it is mounted: descriptor budget, store, index.

use std::io;
use std::sync::Arc;

use tracing::{info, warn};

use crate::catalog::index::Index;
use crate::catalog::index_file::IndexFile;
use crate::clock::Clock;
use crate::config::Config;
use crate::fd_budget::{self, Budget};
use crate::metrics::Metrics;
use crate::name::Prefix;
use crate::s3::{BRIEF_OUTAGE, S3, Site};
use crate::store::{ListRequest, Store, any_below};

/// Divides the descriptors of this process. Call it before the runtime opens its own.
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

/// The store of the bucket, which has answered one request.
pub struct Opened {
    pub site: Site,
    pub store: Arc<S3>,
    /// The same for commands: it gives up early on a store that cannot be reached.
    pub impatient: Arc<S3>,
}

/// Makes the store and lists one key of it.
///
/// # Errors
/// In words for the operator.
pub async fn open_store(
    config: &Config,
    budget: &Budget,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
) -> Result<Opened, String> {
    let site = config.endpoint.clone().locate().await?;
    let timeout = config.settings.patience.timeout;
    let store = S3::new(&site, budget, timeout, clock, metrics).await?;
    let impatient = store.with_outage(BRIEF_OUTAGE);
    check_bucket(&impatient, &site, config).await?;
    Ok(Opened { site, store: Arc::new(store), impatient: Arc::new(impatient) })
}

/// The index of expiry headers, with its file if there is one (`--index`).
///
/// # Errors
/// In words for the operator. A file that cannot be used is none.
pub async fn open_index(config: &Config, site: &Site) -> Result<Arc<Index>, String> {
    let file = match config.index.clone() {
        None => None,
        Some(path) => {
            let of = site.identity();
            let open = tokio::task::spawn_blocking(move || IndexFile::open(&path, &of));
            open.await.map_err(|e| format!("the index: {e}"))?
        }
    };
    Ok(Index::new(config.index_memory, file))
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
