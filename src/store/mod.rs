//! What an object store can do, in the words of this file system. `s3.rs` does it over S3.

use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::error::{Error, Result};
use crate::expiry::Stamps;

/// One version of one object. Where ETag or Last-Modified differ it is another version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    pub key: Arc<str>,
    /// The opaque tag (RFC 9110 §8.8.3), without quotes and `W/`; empty where the store has none.
    pub etag: Arc<str>,
    /// To the second, which is all that headers carry: listings of some stores have more.
    pub last_modified: SystemTime,
    /// Bytes.
    pub size: u64,
}

impl Version {
    /// Whether a second request can be held to this version. Without an ETag only size and second
    /// tell two versions apart, and bytes of both could be mixed.
    pub fn is_resumable(&self) -> bool {
        !self.etag.is_empty()
    }
}

/// What only the headers of an object tell, as they were sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    pub expires: Option<String>,
    pub cache_control: Option<String>,
    /// `x-amz-expiration`
    pub expiration: Option<String>,
    pub content_type: Option<String>,
    /// None for the class STANDARD (S3 API reference, HeadObject).
    pub storage_class: Option<String>,
}

impl Headers {
    /// Those that tell when the object ends.
    pub fn stamps(&self) -> Stamps<'_> {
        Stamps {
            expires: self.expires.as_deref(),
            cache_control: self.cache_control.as_deref(),
            expiration: self.expiration.as_deref(),
        }
    }
}

/// A version and its headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub version: Version,
    pub headers: Headers,
}

/// The most bytes that come from the wire in one piece.
pub const CHUNK: usize = 256 << 10;

/// The bytes of a response, as they come from the wire. Dropping it closes the response.
pub type Content = BoxStream<'static, Result<Bytes>>;

/// What to list under a prefix, from a continuation token on.
#[derive(Clone, Copy, Debug)]
pub struct ListRequest<'a> {
    pub prefix: &'a str,
    /// All keys under the prefix, instead of one level and the common prefixes below it.
    pub recursive: bool,
    pub token: Option<&'a str>,
    /// Only names that come after this one, where there is no token.
    pub start_after: Option<&'a str>,
    /// At most 1,000 (ListObjectsV2, `MaxKeys`).
    pub max_keys: u16,
}

/// The most keys and prefixes of a page (ListObjectsV2, `MaxKeys`).
pub const PAGE: u16 = 1000;

impl<'a> ListRequest<'a> {
    /// The first page of one level.
    pub fn level(prefix: &'a str) -> ListRequest<'a> {
        ListRequest { prefix, recursive: false, token: None, start_after: None, max_keys: PAGE }
    }
}

/// One page of a listing, keys and prefixes each in the order the store gave them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub objects: Vec<Version>,
    /// Common prefixes, each ending in `/`.
    pub prefixes: Vec<String>,
    /// Keys and prefixes, as they were sent, that are no UTF-8: nothing can be asked of them.
    pub undecodable: Vec<String>,
    /// The token of the next page, if there is one.
    pub next: Option<String>,
}

/// Whether any key lies below this prefix.
///
/// # Errors
/// Of the store; the caller bounds the time.
pub async fn any_below(store: &dyn Store, prefix: &str) -> Result<bool> {
    let first = first_names(store, prefix, 1).await?;
    Ok(!first.objects.is_empty() || !first.prefixes.is_empty())
}

/// Whether a listing has an object of exactly this key.
async fn lists(store: &dyn Store, key: &str) -> Result<bool> {
    // What begins with a key comes after it. Some stores have `key/` first, by path component.
    let first = first_names(store, key, 2).await?;
    Ok(first.objects.iter().any(|version| *version.key == *key))
}

/// The first names that begin with `prefix`. A page may be empty and not the last one (S3 API
/// reference, ListObjectsV2, `IsTruncated`).
async fn first_names(store: &dyn Store, prefix: &str, max_keys: u16) -> Result<Page> {
    let mut token: Option<String> = None;
    loop {
        let level = ListRequest::level(prefix);
        let request = ListRequest { max_keys, token: token.as_deref(), ..level };
        let page = store.list(request).await?;
        match page.next {
            _ if !page.objects.is_empty() || !page.prefixes.is_empty() => return Ok(page),
            None => return Ok(page),
            Some(next) if token.as_ref() == Some(&next) => {
                return Err(Error::Protocol("a listing that does not go on".into()));
            }
            next => token = next,
        }
    }
}

/// Settles what a name is of which a HEAD or GET has shown no object but `error`: no object has
/// the key, and the answer is whether keys lie below it.
///
/// Absence is the store's own word (rule R5): a 404 that something else may have sent counts only
/// if a listing has no such key; nor does a 403, which S3 also sends for a missing key where HEAD
/// needs a permission to list that the caller lacks (S3 API reference, HeadObject).
///
/// # Errors
/// `error` itself where it stands, or the object exists by the listing.
pub async fn settle(store: &dyn Store, key: &str, error: Error) -> Result<bool> {
    let prefix = if key.ends_with('/') { key.to_owned() } else { format!("{key}/") };
    match error {
        Error::NotFound => any_below(store, &prefix).await,
        Error::Unconfirmed(_) | Error::Denied(_) => match lists(store, key).await {
            Ok(false) => any_below(store, &prefix).await,
            // A policy may permit listings below the name and not of it (`s3:prefix`).
            Err(Error::Denied(_)) => match any_below(store, &prefix).await {
                Ok(true) => Ok(true),
                _ => Err(error),
            },
            Ok(true) => Err(error),
            Err(other) => Err(other),
        },
        other => Err(other),
    }
}

/// The headers of an object that a listing has just named; `None` where it is gone since. A HEAD
/// that denies it is not enough: the listing is asked again.
///
/// # Errors
/// `Unconfirmed` where the object is listed each time, and denied each time.
pub async fn head_of_listed(store: &dyn Store, key: &str) -> Result<Option<Object>> {
    let denied = |error: &Error| matches!(error, Error::NotFound | Error::Unconfirmed(_));
    match store.head(key).await {
        Err(error) if denied(&error) => {}
        other => return other.map(Some),
    }
    if !lists(store, key).await? {
        return Ok(None);
    }
    match store.head(key).await {
        Err(error) if denied(&error) => {
            Err(Error::Unconfirmed("the object is listed, and HEAD denies it".into()))
        }
        other => other.map(Some),
    }
}

/// Implementations bound every call by the timeout they were built with, retries included.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// # Errors
    /// `NotFound` on the store's word only; `Unconfirmed` where a 404 may be another's.
    async fn head(&self, key: &str) -> Result<Object>;

    /// The same, and the first bytes of the object with it: `most` of them, or fewer.
    async fn probe(&self, key: &str, most: u64) -> Result<(Object, Bytes)>;

    /// Asks for the bytes `range` of exactly this version, a range that is not empty and lies
    /// within its size. The content yields exactly these bytes or an error.
    ///
    /// # Errors
    /// `Stale` if the key holds another version, or none.
    async fn get(&self, version: &Version, range: Range<u64>) -> Result<(Object, Content)>;

    /// # Errors
    /// Never `NotFound`: nothing below a prefix is an empty page. `Protocol` where the page is not
    /// whole.
    async fn list(&self, request: ListRequest<'_>) -> Result<Page>;
}
