//! Makes the pages of a directory handle from the store's listing and the cached facts of the
//! objects.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use futures_util::{FutureExt, StreamExt, future, stream};
use tokio::sync::oneshot;
use tracing::warn;

use super::fetch::{Loaded, Met, Start, bytes_of};
use super::{DirEntry, Exactness, Rules, What};
use crate::catalog::{Catalog, Fact};
use crate::error::{Error, Result};
use crate::expiry::Presence;
use crate::metrics::Metrics;
use crate::name::{self, Prefix, Shadows};
use crate::store::{ListRequest, Pages, Store, Version};

/// Limit on the store's pages that are read for one page of a handle, after keys were added to it.
const MERGED: usize = 64;

/// What fetching a page needs.
pub struct Source {
    pub store: Arc<dyn Store>,
    pub catalog: Arc<Catalog>,
    pub metrics: Arc<Metrics>,
    pub prefix: Prefix,
    pub rules: Rules,
    pub hasher: RandomState,
}

/// A name as the store lists it.
enum Raw {
    File(Version),
    Directory,
}

/// A page as the store lists it.
struct Listed {
    /// In byte order.
    names: Vec<(String, Raw)>,
    next: Option<Arc<str>>,
}

impl Source {
    /// Fetches a page; `None` if there is no such page. When its LIST is answered, `answered` gets
    /// the token of the next page.
    pub async fn page(
        self: Arc<Self>,
        start: Start,
        answered: oneshot::Sender<Option<Arc<str>>>,
    ) -> Result<Option<Loaded>> {
        let (token, met, shadows) = match start {
            Start::At(mark) => (mark.token, mark.met, future::ready(Ok(mark.shadows)).boxed()),
            Start::After(before) => match before.next().await {
                Some(token) => (Some(token), None, before.shadows().boxed()),
                // It is the last page, or it failed.
                None => return before.loaded.await.map(|_| None),
            },
        };
        let last = met.as_ref().and_then(|met| met.last.as_deref());
        let Listed { names, next } = self.list(token.as_deref(), last).await?;
        // If the receiver is gone, the page is not needed.
        let _ = answered.send(next.clone());
        let first = names.first().map(|(key, _)| key.clone());
        let met = met.unwrap_or_else(|| {
            let order = names.iter().map(|(key, _)| self.hasher.hash_one(key)).collect();
            Arc::new(Met { order, last: names.last().map(|(key, _)| key.clone()) })
        });
        let found = self.entries(names, next.is_some()).await?;
        let (shown, shadows) = self.unhidden(found, shadows.await?);
        let entries = self.arrange(shown, &met.order);
        let bytes = bytes_of(&entries);
        Ok(Some(Loaded { entries, met, first, next, shadows, bytes }))
    }

    /// Lists a page; if it was fetched before, up to the key that was its last one then.
    async fn list(&self, token: Option<&str>, last: Option<&str>) -> Result<Listed> {
        let (level, max_keys) = (ListRequest::level(self.prefix.as_str()), self.rules.page);
        let mut pages = Pages::new(&*self.store, ListRequest { token, max_keys, ..level });
        let mut names = Vec::new();
        // Of a page without a token it is known where it begins.
        let mut inquiry = token.is_none().then(|| self.catalog.inquire(self.prefix.as_str()));
        for _ in 0..MERGED {
            let Some(page) = pages.next().await? else { return Ok(Listed { names, next: None }) };
            if let Some(inquiry) = inquiry.take() {
                inquiry.end("", &page);
            }
            page.undecodable.iter().for_each(|key| self.skip(key));
            names.extend(page.objects.into_iter().map(|v| (v.key.to_string(), Raw::File(v))));
            names.extend(page.prefixes.into_iter().map(|p| (p, Raw::Directory)));
            if names.len() >= 1 << 16 {
                return Err(Error::Protocol(format!("a page of {} entries", names.len()).into()));
            }
            names.sort_by(|a: &(String, Raw), b| a.0.cmp(&b.0));
            if last <= names.last().map(|(key, _)| key.as_str()) {
                return Ok(Listed { names, next: page.next.map(Arc::from) });
            }
        }
        Err(Error::Protocol(format!("one page has grown to over {MERGED} pages").into()))
    }

    /// The entries of a page without the directories that are hidden by a file (rule N2) on this
    /// page or an earlier one; and the files that may hide directories on later pages.
    fn unhidden(&self, found: Vec<DirEntry>, mut shadows: Shadows) -> (Vec<DirEntry>, Shadows) {
        let mut shown = Vec::with_capacity(found.len());
        for entry in found {
            match &entry.what {
                What::Directory(..) if shadows.hides(&entry.name) => {
                    let key = self.prefix.key(&entry.name);
                    if self.catalog.is_news(format!("hidden: {key}/")) {
                        warn!(key, "a directory is hidden by the live file of its name");
                    }
                    continue;
                }
                What::Directory(_, fact) => {
                    self.catalog.note_directory(&self.prefix.key(&entry.name), fact);
                }
                What::File(_) | What::Listed(_) => shadows.file(&entry.name),
            }
            shown.push(entry);
        }
        (shown, shadows)
    }

    /// Each entry at the offset it had when the page was first fetched.
    fn arrange(&self, shown: Vec<DirEntry>, order: &[u64]) -> Vec<Option<DirEntry>> {
        let mut by_hash: HashMap<u64, DirEntry> = shown
            .into_iter()
            .map(|entry| {
                let slash = if matches!(entry.what, What::Directory(..)) { "/" } else { "" };
                let key = format!("{}{}{slash}", self.prefix, entry.name);
                (self.hasher.hash_one(key), entry)
            })
            .collect();
        order.iter().map(|hash| by_hash.remove(hash)).collect()
    }

    /// The name of a key or a common prefix in this directory, if it is a legal path component.
    fn name(&self, key: &str, raw: &Raw) -> Option<String> {
        let name = key.strip_prefix(self.prefix.as_str())?;
        let name = match raw {
            Raw::Directory => name.strip_suffix('/').unwrap_or(name),
            // The marker of this directory itself, or of one below (rule N3).
            Raw::File(_) if name.is_empty() || name.ends_with('/') => return None,
            Raw::File(_) => name,
        };
        if name::is_legal(name) {
            return Some(name.to_owned());
        }
        self.skip(key);
        None
    }

    /// Counts a key that cannot be a path, and logs one of them per directory (rule N1).
    fn skip(&self, key: &str) {
        self.metrics.unnameable.add(1);
        if self.catalog.is_news(format!("unnameable: {}", self.prefix)) {
            warn!(key, directory = %self.prefix, "keys that cannot be a path are not shown, such as this one");
        }
    }

    /// The entries for the names of a page, without those that have expired. `more`: other pages
    /// follow.
    async fn entries(&self, raw: Vec<(String, Raw)>, more: bool) -> Result<Vec<DirEntry>> {
        let named: Vec<(String, Raw)> =
            raw.into_iter().filter_map(|(key, raw)| Some((self.name(&key, &raw)?, raw))).collect();
        let files: Vec<(&str, &Version)> = named
            .iter()
            .filter_map(|(name, raw)| match raw {
                Raw::File(version) => Some((name.as_str(), version)),
                Raw::Directory => None,
            })
            .collect();
        let versions: Vec<&Version> = files.iter().map(|(_, version)| *version).collect();
        let known = self.catalog.confirm(&versions).await.into_iter();
        let mut answers: Vec<Answer> =
            known.map(|fact| fact.map_or(Answer::NameOnly, Answer::Fact)).collect();
        let clashing = match self.rules.exactness {
            Exactness::Exact => None,
            Exactness::Lazy => Some(clashing(&named, more)),
        };
        let unknown = files.iter().enumerate().filter(|(i, (name, _))| {
            matches!(answers[*i], Answer::NameOnly)
                && clashing.as_ref().is_none_or(|clashing| clashing.contains(name))
        });
        let unknown: Vec<_> = unknown.map(|(i, (_, version))| (i, version.key.clone())).collect();
        self.ask(unknown, &mut answers).await?;

        let mut answers = answers.into_iter();
        let mut found = Vec::new();
        for (name, raw) in named {
            let what = match raw {
                Raw::Directory => {
                    let prefix = Prefix::new(&self.prefix.key(&name));
                    What::Directory(prefix, self.catalog.directory())
                }
                Raw::File(version) => match answers.next() {
                    Some(Answer::Fact(fact)) => {
                        if self.catalog.presence(&fact) == Presence::Expired {
                            self.metrics.expired_hidden.add(1);
                            continue;
                        }
                        What::File(fact)
                    }
                    Some(Answer::Gone) => continue,
                    Some(Answer::NameOnly) | None => What::Listed(version),
                },
            };
            found.push(DirEntry { name, what });
        }
        Ok(found)
    }

    /// Requests the headers of these files, and stores each answer at its index.
    ///
    /// If a request fails, the other objects are still listed, and this one by name only. If all
    /// requests of a page fail, so does the page.
    async fn ask(&self, unknown: Vec<(usize, Arc<str>)>, answers: &mut [Answer]) -> Result<()> {
        let mut answered = unknown.len() < answers.len();
        let mut pending: BTreeMap<usize, Arc<str>> = unknown.iter().cloned().collect();
        let head =
            |(i, key): (usize, Arc<str>)| async move { (i, self.catalog.head(&key).await, key) };
        // Unordered, so that no answer waits for a slower one before it.
        let mut heads = stream::iter(unknown).map(head).buffer_unordered(self.rules.fan_out);
        let mut failure = None;
        loop {
            let stragglers = answered && pending.len() <= self.rules.fan_out;
            let next = match stragglers {
                false => heads.next().await,
                // All missing headers are in flight; the other entries wait for them for a bounded
                // time.
                true => match tokio::time::timeout(self.rules.patience, heads.next()).await {
                    Ok(next) => next,
                    Err(_) => break,
                },
            };
            let Some((i, answer, key)) = next else { break };
            pending.remove(&i);
            match answer {
                Ok(fact) => {
                    answered = true;
                    answers[i] = fact.map_or(Answer::Gone, Answer::Fact);
                }
                Err(error) => {
                    // A caller that may list but not read gets the names.
                    answered |= matches!(error, Error::Denied(_) | Error::Refused(_));
                    self.note_unanswered(&key, &error);
                    failure = Some(error);
                }
            }
        }
        for key in pending.into_values() {
            self.note_unanswered(&key, &Error::TimedOut(self.rules.patience));
        }
        failure.filter(|_| !answered).map_or(Ok(()), Err)
    }

    fn note_unanswered(&self, key: &str, error: &Error) {
        if self.catalog.is_news(format!("unanswered: {key}")) {
            warn!(key, "listed without its headers, so it may have expired: {error}");
        }
    }
}

/// Known facts of a listed file.
enum Answer {
    Fact(Fact),
    /// It was deleted since it was listed.
    Gone,
    NameOnly,
}

/// The files of a page whose expiry decides whether a directory of the same name is shown (rule
/// N2): the directory is on this page, or may be on one of those that follow.
fn clashing(named: &[(String, Raw)], more: bool) -> HashSet<&str> {
    let mut clashing = HashSet::new();
    let mut shadows = Shadows::default();
    for (name, raw) in named {
        match raw {
            Raw::File(_) => shadows.file(name),
            Raw::Directory => _ = shadows.hides(name).then(|| clashing.insert(name.as_str())),
        }
    }
    if more {
        let open = |name: &&str| shadows.names().any(|open| open == *name);
        clashing.extend(named.iter().map(|(name, _)| name.as_str()).filter(open));
    }
    clashing
}
