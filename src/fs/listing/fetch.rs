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

/// How to fetch a page.
#[derive(Clone, Default)]
pub struct Mark {
    /// None for the first page.
    pub token: Option<Arc<str>>,
    /// Of the pages before.
    pub shadows: Shadows,
    /// None before it was met.
    pub met: Option<Arc<Met>>,
}

/// A page as it was when its entries were given their places. By this it is found again, whatever
/// came or went since.
#[derive(Debug)]
pub struct Met {
    /// A hash of each name, in order.
    pub order: Box<[u64]>,
    /// The last name: those that came since may push it to a later page of the store's.
    pub last: Option<String>,
}

/// A page as fetched.
pub struct Loaded {
    /// In their places. `None`: hidden or deleted.
    pub entries: Vec<Option<DirEntry>>,
    pub met: Arc<Met>,
    /// The first name that the store has on it.
    pub first: Option<String>,
    /// The token of the page after it, if there is one.
    pub next: Option<Arc<str>>,
    /// What the pages after it may be hidden by.
    pub shadows: Shadows,
    /// See [`bytes_of`].
    pub bytes: usize,
}

/// What an entry takes beside its name, in bytes.
const ENTRY: usize = 200;

/// What the entries of a page take in memory, some bytes more or less.
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
    /// One that the directory is known to have.
    At(Mark),
    /// The one after this one, if there is one. Its LIST goes out when that of this one is answered.
    After(Fetch),
}

/// A page in flight or loaded. Its task ends with the last clone.
#[derive(Clone)]
pub struct Fetch {
    next: Shared<oneshot::Receiver<Option<Arc<str>>>>,
    /// `None` where there is no such page.
    pub loaded: Shared<BoxFuture<'static, Result<Option<Arc<Loaded>>>>>,
}

impl Fetch {
    pub fn start(source: &Arc<Source>, start: Start) -> Fetch {
        let (answered, next) = oneshot::channel();
        let mut task = JoinSet::new();
        task.spawn(source.clone().page(start, answered).in_current_span());
        // Dropping the last clone, that of the listing included, drops the set and ends the task.
        let loaded = async move {
            match task.join_next().await {
                Some(Ok(loaded)) => loaded.map(|loaded| loaded.map(Arc::new)),
                Some(Err(panic)) => Err(Error::Defect(panic.to_string())),
                None => Err(Error::Defect("a page without a task".into())),
            }
        };
        Fetch { next: next.shared(), loaded: loaded.boxed().shared() }
    }

    /// The token of the page after it, when its LIST is answered; `None` where none follows, be it
    /// that its LIST failed.
    pub async fn next(&self) -> Option<Arc<str>> {
        self.next.clone().await.ok().flatten()
    }

    /// The same, if its LIST is answered or has failed.
    pub fn next_now(&self) -> Option<Option<Arc<str>>> {
        self.next().now_or_never()
    }

    /// What the pages after it may be hidden by, when it is loaded.
    pub async fn shadows(self) -> Result<Shadows> {
        match self.loaded.await? {
            Some(loaded) => Ok(loaded.shadows.clone()),
            None => Err(Error::Defect("a page that follows none".into())),
        }
    }
}
