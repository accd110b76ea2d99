//! A page of a directory, in flight or loaded.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing::Instrument;

use super::source::Source;
use super::{DirEntry, What};
use crate::catalog::{Fact, Known};
use crate::error::{Error, Result};
use crate::name::Shadows;
use crate::waits::inherited;

/// How to fetch a page.
#[derive(Clone, Default)]
pub struct Mark {
    /// None for the first page.
    pub token: Option<Arc<str>>,
    /// Shadows of the pages before.
    pub shadows: Shadows,
    /// None until the page was fetched once.
    pub met: Option<Arc<Met>>,
}

/// A page as it was when its entries got their offsets. With it, the page is found again after
/// names were added or removed.
#[derive(Debug)]
pub struct Met {
    /// A hash of each name, in order.
    pub order: Box<[u64]>,
    /// The last name: names added since may move it to a later page of the store.
    pub last: Option<String>,
}

/// A page as fetched.
pub struct Loaded {
    /// In the order of their offsets. `None`: hidden or deleted.
    pub entries: Vec<Option<DirEntry>>,
    pub met: Arc<Met>,
    /// The first name that the store lists on it.
    pub first: Option<String>,
    /// The token of the next page, if there is one.
    pub next: Option<Arc<str>>,
    /// Files that may hide directories on later pages.
    pub shadows: Shadows,
    /// See [`bytes_of`].
    pub bytes: usize,
}

/// Memory per entry, in bytes, without its name.
const ENTRY: usize = 200;

/// Approximate memory of the entries of a page.
pub fn bytes_of(entries: &[Option<DirEntry>]) -> usize {
    let bytes = |entry: &DirEntry| {
        let about = match &entry.what {
            What::File(Fact { known: Known::File { about: Some(about), .. }, .. }) => {
                about.text_len()
            }
            _ => 0,
        };
        2 * entry.name.len() + about
    };
    entries.iter().map(|entry| ENTRY + entry.as_ref().map_or(0, bytes)).sum()
}

/// Which page a task fetches.
pub enum Start {
    /// A page that the directory is known to have.
    At(Mark),
    /// The page after this one, if there is one. Its LIST is sent when that of this one is
    /// answered.
    After(Fetch),
}

/// A page in flight or loaded. Its task ends with the last clone.
#[derive(Clone)]
pub struct Fetch {
    next: Shared<oneshot::Receiver<Option<Arc<str>>>>,
    /// `None` if there is no such page.
    pub loaded: Shared<BoxFuture<'static, Result<Option<Arc<Loaded>>>>>,
}

impl Fetch {
    pub fn start(source: &Arc<Source>, start: Start) -> Fetch {
        let (answered, next) = oneshot::channel();
        let mut task = JoinSet::new();
        task.spawn(inherited(source.clone().page(start, answered)).in_current_span());
        // Dropping the last clone, including the listing's, drops the set and ends the task.
        let loaded = async move {
            match task.join_next().await {
                Some(Ok(loaded)) => loaded.map(|loaded| loaded.map(Arc::new)),
                Some(Err(panic)) => Err(Error::Defect(panic.to_string())),
                None => Err(Error::Defect("a page without a task".into())),
            }
        };
        Fetch { next: next.shared(), loaded: loaded.boxed().shared() }
    }

    /// Waits for the LIST, and returns the token of the next page; `None` if there is none, or the
    /// LIST failed.
    pub async fn next(&self) -> Option<Arc<str>> {
        self.next.clone().await.ok().flatten()
    }

    /// The same without waiting; `None` while the LIST is in flight.
    pub fn next_now(&self) -> Option<Option<Arc<str>>> {
        self.next().now_or_never()
    }

    /// Waits for the page, and returns the files that may hide directories on later pages.
    pub async fn shadows(self) -> Result<Shadows> {
        match self.loaded.await? {
            Some(loaded) => Ok(loaded.shadows.clone()),
            None => Err(Error::Defect("a page after a page that does not exist".into())),
        }
    }
}
