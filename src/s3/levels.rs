//! Ordered listings of directory buckets (S3 Express One Zone). Their own have no order, cannot begin
//! at a key, and know only prefixes that end in `/` (S3 API reference, ListObjectsV2).
//!
//! A directory is listed to its end and sorted. A recursive listing walks the directories in the order
//! of their names, which is the order of all keys. A listing keeps the directories that it is in, as
//! they were when it came to them, so that its next page need not list them again.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use lru::LruCache;

use crate::error::{Error, Result};
use crate::store::{Guard, ListRequest, PAGE, Page, Version};

/// The most names of one directory, and of all that are kept: some 200 MiB.
const MOST: usize = 1_000_000;

/// Directories that are kept.
const KEPT: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// Whether this is the name of a directory bucket, or of an access point of one (S3 User Guide,
/// "Directory bucket naming rules").
pub fn is_directory_bucket(bucket: &str) -> bool {
    bucket.ends_with("--x-s3") || bucket.ends_with("--xa-s3")
}

/// Where the unordered pages come from.
#[async_trait]
pub trait Source: Sync {
    async fn page(&self, request: ListRequest<'_>) -> Result<Page>;
}

/// What a directory contains.
#[derive(Clone, Debug)]
enum Name {
    File(Version),
    /// Ends in `/`.
    Directory(String),
}

impl Name {
    fn key(&self) -> &str {
        match self {
            Name::File(version) => &version.key,
            Name::Directory(prefix) => prefix,
        }
    }

    /// Whether it, or a key below it, comes after this key.
    fn reaches_beyond(&self, after: &str, recursive: bool) -> bool {
        let is_on_the_way = recursive && matches!(self, Name::Directory(_));
        self.key() > after || is_on_the_way && after.starts_with(self.key())
    }
}

/// A directory at one moment, its names in byte order.
#[derive(Debug, Default)]
struct Level {
    names: Vec<Name>,
    undecodable: Vec<String>,
}

type Kept = LruCache<(u64, String), Arc<Level>>;

/// The directories of the listings that go on.
#[derive(Debug)]
pub struct Levels {
    listings: AtomicU64,
    kept: Mutex<Kept>,
}

impl Default for Levels {
    fn default() -> Levels {
        Levels { listings: AtomicU64::new(0), kept: Mutex::new(LruCache::new(KEPT)) }
    }
}

impl Levels {
    /// A page in byte order.
    ///
    /// # Errors
    /// Those of the source; `Refused` for a directory with too many names.
    pub async fn page(&self, source: &dyn Source, request: ListRequest<'_>) -> Result<Page> {
        let (listing, after) = match request.token {
            Some(token) => of_token(token)?,
            None => {
                let listing = self.listings.fetch_add(1, Ordering::Relaxed);
                (listing, request.start_after.unwrap_or_default())
            }
        };
        if request.max_keys == 1 && after.is_empty() && is_directory(request.prefix) {
            return any(source, request).await;
        }
        let page = self.walk(source, listing, after, request).await?;
        if page.next.is_none() {
            self.end(listing);
        }
        Ok(page)
    }

    async fn walk(
        &self,
        source: &dyn Source,
        listing: u64,
        after: &str,
        request: ListRequest<'_>,
    ) -> Result<Page> {
        let ListRequest { prefix, recursive, max_keys, .. } = request;
        let root = &prefix[..prefix.rfind('/').map_or(0, |slash| slash + 1)];
        let mut page = Page::default();
        let mut last = None;
        let mut stack = vec![self.enter(source, listing, root, after, recursive).await?];
        while let Some((level, next)) = stack.last_mut() {
            let Some(name) = level.names.get(*next).cloned() else {
                stack.pop();
                continue;
            };
            *next += 1;
            if !name.key().starts_with(prefix) {
                continue;
            }
            if let (Name::Directory(below), true) = (&name, recursive) {
                stack.push(self.enter(source, listing, below, after, recursive).await?);
                continue;
            }
            if page.objects.len() + page.prefixes.len() == usize::from(max_keys) {
                page.next = last.map(|last: String| token_of(listing, &last));
                break;
            }
            last = Some(name.key().to_owned());
            match name {
                Name::File(version) => page.objects.push(version),
                Name::Directory(below) => page.prefixes.push(below),
            }
        }
        if after.is_empty() && !recursive {
            page.undecodable.clone_from(&self.level(source, listing, root).await?.undecodable);
        }
        Ok(page)
    }

    /// A directory, and the index of its first name that reaches beyond `after`.
    async fn enter(
        &self,
        source: &dyn Source,
        listing: u64,
        directory: &str,
        after: &str,
        recursive: bool,
    ) -> Result<(Arc<Level>, usize)> {
        let level = self.level(source, listing, directory).await?;
        let first = level.names.partition_point(|name| !name.reaches_beyond(after, recursive));
        Ok((level, first))
    }

    async fn level(
        &self,
        source: &dyn Source,
        listing: u64,
        directory: &str,
    ) -> Result<Arc<Level>> {
        let at = (listing, directory.to_owned());
        if let Some(level) = self.kept().get(&at) {
            return Ok(level.clone());
        }
        let level = Arc::new(fetch(source, directory).await?);
        let mut kept = self.kept();
        kept.put(at, level.clone());
        let size = |kept: &Kept| kept.iter().map(|(_, level)| level.names.len()).sum::<usize>();
        while size(&kept) > MOST && kept.len() > 1 {
            kept.pop_lru();
        }
        Ok(level)
    }

    /// Drops what a listing has kept. One that is never read to its end loses it to others.
    fn end(&self, listing: u64) {
        let mut kept = self.kept();
        let of_it = kept.iter().filter(|((of, _), _)| *of == listing);
        let of_it: Vec<_> = of_it.map(|(at, _)| at.clone()).collect();
        of_it.iter().for_each(|at| _ = kept.pop(at));
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_directory(prefix: &str) -> bool {
    prefix.is_empty() || prefix.ends_with('/')
}

fn token_of(listing: u64, last: &str) -> String {
    format!("{listing}:{last}")
}

fn of_token(token: &str) -> Result<(u64, &str)> {
    let parts = token.split_once(':').and_then(|(id, last)| Some((id.parse().ok()?, last)));
    parts.ok_or_else(|| Error::Protocol("a token of another listing".into()))
}

/// The first name that the store gives, if there is any: all that a page of one is asked for. It need
/// not be the first in order.
async fn any(source: &dyn Source, request: ListRequest<'_>) -> Result<Page> {
    let mut guard = Guard::default();
    let mut token: Option<String> = None;
    loop {
        let page = source.page(ListRequest { token: token.as_deref(), ..request }).await?;
        match page.next.clone() {
            Some(next) if page.first_name().is_none() => {
                guard.pass(token.as_deref(), None, &next)?;
                token = Some(next);
            }
            _ => return Ok(Page { next: None, ..page }),
        }
    }
}

async fn fetch(source: &dyn Source, directory: &str) -> Result<Level> {
    let mut level = Level::default();
    let mut guard = Guard::default();
    let mut token: Option<String> = None;
    loop {
        let request = ListRequest::level(directory);
        let request = ListRequest { token: token.as_deref(), max_keys: PAGE, ..request };
        let mut page = source.page(request).await?;
        if let Some(next) = &page.next {
            guard.pass(token.as_deref(), page.first_name(), next)?;
        }
        level.names.extend(page.objects.drain(..).map(Name::File));
        level.names.extend(page.prefixes.drain(..).map(Name::Directory));
        level.undecodable.append(&mut page.undecodable);
        if level.names.len() > MOST {
            let why = format!("{directory:?} has over {MOST} names, too many to sort");
            return Err(Error::Refused(why.into()));
        }
        match page.next {
            Some(next) => token = Some(next),
            None => break,
        }
    }
    level.names.sort_by(|a, b| a.key().cmp(b.key()));
    level.names.dedup_by(|a, b| a.key() == b.key());
    Ok(level)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::{Duration, SystemTime};

    use super::*;

    /// A directory bucket: pages of two names in no order, no start_after, no prefix but directories.
    struct Unordered {
        keys: Mutex<Vec<&'static str>>,
        asked: AtomicU64,
    }

    impl Unordered {
        fn new(keys: &[&'static str]) -> Unordered {
            Unordered { keys: Mutex::new(keys.to_vec()), asked: AtomicU64::new(0) }
        }

        fn asked(&self) -> u64 {
            self.asked.swap(0, Ordering::Relaxed)
        }
    }

    fn version(key: &str) -> Version {
        Version {
            key: key.into(),
            etag: "e".into(),
            last_modified: SystemTime::UNIX_EPOCH,
            slack: Duration::ZERO,
            size: 1,
        }
    }

    #[async_trait]
    impl Source for Unordered {
        async fn page(&self, request: ListRequest<'_>) -> Result<Page> {
            assert!(is_directory(request.prefix) && request.start_after.is_none());
            assert!(!request.recursive);
            self.asked.fetch_add(1, Ordering::Relaxed);
            let mut names = Vec::new();
            for key in self.keys.lock().unwrap().iter() {
                let Some(rest) = key.strip_prefix(request.prefix) else { continue };
                let length = rest.find('/').map_or(rest.len(), |slash| slash + 1);
                let name = &key[..request.prefix.len() + length];
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            let at: usize = request.token.map_or(0, |token| token.parse().unwrap());
            let end = names.len().min(at + 2);
            let mut page = Page::default();
            for name in &names[at..end] {
                match name.ends_with('/') {
                    true => page.prefixes.push((*name).to_owned()),
                    false => page.objects.push(version(name)),
                }
            }
            page.next = (end < names.len()).then(|| end.to_string());
            Ok(page)
        }
    }

    const KEYS: [&str; 9] = ["d/z", "b", "d/e/y", "d-", "d/e/x", "a", "d0", "d/e-", "c/1"];

    /// All names of a listing in pages of `max_keys`.
    async fn all(levels: &Levels, source: &Unordered, request: ListRequest<'_>) -> Vec<String> {
        let (mut names, mut token) = (Vec::new(), None::<String>);
        loop {
            let request = ListRequest { token: token.as_deref(), ..request };
            let page = levels.page(source, request).await.unwrap();
            let mut of_page: Vec<_> = page.objects.iter().map(|v| v.key.to_string()).collect();
            of_page.extend(page.prefixes);
            of_page.sort();
            assert!(of_page.len() <= usize::from(request.max_keys));
            names.extend(of_page);
            match page.next {
                Some(next) => token = Some(next),
                None => return names,
            }
        }
    }

    /// What a bucket with an order lists.
    fn expected(request: ListRequest<'_>) -> Vec<String> {
        let names = KEYS.iter().filter(|key| key.starts_with(request.prefix)).map(|key| {
            let rest = &key[request.prefix.len()..];
            match rest.find('/').filter(|_| !request.recursive) {
                Some(slash) => key[..request.prefix.len() + slash + 1].to_owned(),
                None => (*key).to_owned(),
            }
        });
        let after = request.start_after.unwrap_or_default();
        names.filter(|name| name.as_str() > after).collect::<BTreeSet<_>>().into_iter().collect()
    }

    #[tokio::test]
    async fn any_listing_of_a_directory_bucket_is_that_of_a_bucket_with_an_order() {
        let (levels, source) = (Levels::default(), Unordered::new(&KEYS));
        for recursive in [false, true] {
            for prefix in ["", "d", "d/", "d/e", "d/e/", "x", "x/"] {
                for after in ["", "a", "a0", "d", "d-", "d/", "d/e-", "d/e/x", "d/zz", "e"] {
                    for max_keys in [2, 3, 1000] {
                        let request = ListRequest {
                            prefix,
                            recursive,
                            token: None,
                            start_after: Some(after).filter(|after| !after.is_empty()),
                            max_keys,
                        };
                        let listed = all(&levels, &source, request).await;
                        assert_eq!(listed, expected(request), "{request:?}");
                    }
                }
            }
        }
        assert_eq!(levels.kept().len(), 0);
    }

    #[tokio::test]
    async fn a_page_of_one_costs_one_request_and_tells_whether_there_is_a_name() {
        let (levels, source) = (Levels::default(), Unordered::new(&KEYS));
        for (prefix, there) in [("", true), ("d/", true), ("x/", false)] {
            let request = ListRequest { max_keys: 1, ..ListRequest::level(prefix) };
            let page = levels.page(&source, request).await.unwrap();
            assert_eq!((page.first_name().is_some(), page.next), (there, None), "{prefix}");
            assert_eq!(source.asked(), 1);
        }
    }

    #[tokio::test]
    async fn the_next_page_lists_nothing_again_and_a_new_listing_does() {
        let (levels, source) = (Levels::default(), Unordered::new(&KEYS));
        let request = ListRequest { max_keys: 4, ..ListRequest::level("") };
        let first = levels.page(&source, request).await.unwrap();
        assert!(source.asked() > 0);
        source.keys.lock().unwrap().push("a-new");
        let token = first.next.as_deref();
        let second = levels.page(&source, ListRequest { token, ..request }).await.unwrap();
        assert_eq!((source.asked(), second.next), (0, None));
        assert!(all(&levels, &source, request).await.contains(&"a-new".to_owned()));
    }

    #[tokio::test]
    async fn a_listing_whose_directories_are_no_longer_kept_goes_on_after_its_last_name() {
        let (levels, source) = (Levels::default(), Unordered::new(&KEYS));
        let request = ListRequest { max_keys: 4, recursive: true, ..ListRequest::level("") };
        let first = levels.page(&source, request).await.unwrap();
        levels.kept().clear();
        let token = first.next.as_deref();
        let second = levels.page(&source, ListRequest { token, ..request }).await.unwrap();
        let keys: Vec<_> = second.objects.iter().map(|version| &*version.key).collect();
        assert_eq!(keys, ["d/e-", "d/e/x", "d/e/y", "d/z"]);
        let foreign = levels.page(&source, ListRequest { token: Some("x"), ..request }).await;
        assert!(matches!(foreign, Err(Error::Protocol(_))), "{foreign:?}");
    }
}
