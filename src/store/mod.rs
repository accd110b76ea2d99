//! What an object store can do, as traits; `s3` implements them over S3.
//!
//! Owns the vocabulary (keys, versions, objects, pages) and the guards against listings that never
//! end. Knows nothing of any protocol, of when an object expires, or of the file system.

mod absence;
mod checksum;
mod pages;
mod uploads;

pub mod write;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::error::Result;
use crate::expiry::Stamps;
pub use absence::{any_below, found, head_of_listed, settle};
pub use checksum::{Algorithm, Checksum, Sum};
pub use pages::{Guard, Pages};
pub use uploads::UploadPages;

/// One version of one object. If ETag or Last-Modified differ, it is another version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    pub key: Arc<str>,
    /// The opaque tag (RFC 9110 §8.8.3), without quotes and `W/`; empty if the store sends none.
    pub etag: Arc<str>,
    /// Truncated to the second, as in headers: listings of some stores have fractions.
    pub last_modified: SystemTime,
    /// How far `last_modified` may be from what the store has: zero, unless this process wrote the
    /// version and has not asked since. Answers to PUT do not tell it.
    pub slack: Duration,
    /// Bytes.
    pub size: u64,
}

impl Version {
    /// Whether a version that an answer has shown is this one.
    pub fn is(&self, seen: &Version) -> bool {
        let apart = match self.last_modified.duration_since(seen.last_modified) {
            Ok(apart) => apart,
            Err(error) => error.duration(),
        };
        (&self.key, &self.etag, self.size) == (&seen.key, &seen.etag, seen.size)
            && (apart.is_zero() || (apart <= self.slack && self.is_resumable()))
    }

    /// Whether a later request can be limited to this version. Without an ETag, only size and
    /// Last-Modified distinguish versions, and the bytes of two could be mixed.
    pub fn is_resumable(&self) -> bool {
        !self.etag.is_empty()
    }
}

/// The headers that listings do not contain, as they were sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    pub expires: Option<String>,
    pub cache_control: Option<String>,
    /// `x-amz-expiration`
    pub expiration: Option<String>,
    pub content_type: Option<String>,
    /// None for the class STANDARD (S3 API reference, HeadObject).
    pub storage_class: Option<String>,
    /// See [`write::NONCE`].
    pub nonce: Option<String>,
}

impl Headers {
    /// Those that set the expiry time.
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

/// The largest chunk received from the network, in bytes.
pub const CHUNK: usize = 256 << 10;

/// The bytes of a response, as they arrive. Dropping it closes the response.
pub type Content = BoxStream<'static, Result<Bytes>>;

/// What to list under a prefix, from a continuation token on.
#[derive(Clone, Copy, Debug)]
pub struct ListRequest<'a> {
    pub prefix: &'a str,
    /// All keys under the prefix, instead of one level and the common prefixes below it.
    pub recursive: bool,
    pub token: Option<&'a str>,
    /// Only names after this one; used without a token.
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
    /// Keys and prefixes that are not UTF-8, as they were sent: they cannot be requested.
    pub undecodable: Vec<String>,
    /// The token of the next page, if there is one.
    pub next: Option<String>,
}

impl Page {
    /// The first name in byte order, of keys and prefixes.
    pub fn first_name(&self) -> Option<&str> {
        let keys = self.objects.iter().map(|version| &*version.key);
        let others = self.prefixes.iter().chain(&self.undecodable);
        keys.chain(others.map(String::as_str)).min()
    }
}

/// Implementations limit every call, including retries, by the timeout they were built with.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// # Errors
    /// `NotFound` only if the store itself reports it; `Unconfirmed` if something else may have
    /// sent the 404.
    async fn head(&self, key: &str) -> Result<Object>;

    /// The same, with the checksum of the whole object, if the store has one.
    async fn head_with_checksum(&self, key: &str) -> Result<(Object, Option<Checksum>)> {
        Ok((self.head(key).await?, None))
    }

    /// The same, with up to `most` first bytes of the object.
    async fn probe(&self, key: &str, most: u64) -> Result<(Object, Bytes)>;

    /// Requests the bytes `range` of exactly this version; the range must not be empty, and must be
    /// within the size. The content yields exactly these bytes or an error.
    ///
    /// # Errors
    /// `Stale` if the key holds another version, or none.
    async fn get(&self, version: &Version, range: Range<u64>) -> Result<(Object, Content)>;

    /// Whether a listing that begins at a key costs one request. Otherwise its directory is read whole.
    fn begins_anywhere(&self) -> bool {
        true
    }

    /// # Errors
    /// Never `NotFound`: without names below the prefix the page is empty. `Protocol` if the page
    /// is incomplete.
    async fn list(&self, request: ListRequest<'_>) -> Result<Page>;
}
