//! How a store is changed. Each call is one change of one object, made whole or not at all, and can
//! be held to conditions.
//!
//! Some stores ignore conditions and make the change. A caller that relies on a condition must prove
//! first that the store honours it.
//!
//! An implementation sends a request again where that can do no harm. Where it cannot, and no clear
//! answer came, the error is `Unclear`: the change may have been made, or may yet be. All other
//! errors say that it was not made.

use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Store, Version};
use crate::error::Result;

/// An ETag that a request can be held to: opaque, without quotes and `W/`, never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag(Arc<str>);

impl Tag {
    /// `None` of the empty one.
    pub fn new(opaque: impl Into<Arc<str>>) -> Option<Tag> {
        Some(opaque.into()).filter(|opaque| !opaque.is_empty()).map(Tag)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Version {
    /// `None` where the store gives no ETag.
    pub fn tag(&self) -> Option<Tag> {
        Tag::new(self.etag.clone())
    }
}

/// The condition on the key under which a new object is put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// No condition: the last change wins.
    Any,
    /// No object (`If-None-Match: *`). An expired one is one.
    Absent,
    /// An object with this ETag (`If-Match`), which another version of the same bytes has too.
    Is(Tag),
}

/// The condition on the key that is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeleteIf {
    /// Whatever is under the key.
    Any,
    /// An object with this ETag (`If-Match`).
    Is(Tag),
    /// Exactly this version: its size and Last-Modified, and its ETag if it has one. AWS takes the
    /// former two for directory buckets only (S3 API reference, DeleteObject).
    Version(Version),
}

/// The headers of a new object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewHeaders {
    /// `Expires`, rounded up to a second, so that no object ends early.
    pub expires: Option<SystemTime>,
    /// None: what the store gives an object without one (S3: `binary/octet-stream`).
    pub content_type: Option<String>,
    pub cache_control: Option<String>,
    /// None for the class STANDARD.
    pub storage_class: Option<String>,
}

/// What all new objects of a mount have alike, copies too: no copy has any of it from its source
/// (S3 API reference, CopyObject).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewObjects {
    /// None: what the bucket is set to.
    pub sse: Option<Sse>,
    /// Of a key of AWS KMS: its id, alias or ARN. None: that of the bucket, or of S3 itself.
    pub sse_kms_key_id: Option<String>,
    /// A canned ACL. None: `private`.
    pub acl: Option<String>,
}

/// How the store encrypts an object (`x-amz-server-side-encryption`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sse {
    /// With keys of the store.
    Aes256,
    /// With a key of AWS KMS.
    Kms,
    /// The same in two layers.
    KmsDsse,
}

/// A copy within the bucket, made by the store.
#[derive(Clone, Copy, Debug)]
pub struct CopyRequest<'a> {
    /// Where it has an ETag the copy is held to it (`x-amz-copy-source-if-match`).
    pub source: &'a Version,
    /// The same key only with [`CopyHeaders::AllButExpires`].
    pub key: &'a str,
    pub headers: CopyHeaders,
    /// The class of the copy, for no copy has that of its source by itself. None: STANDARD.
    pub storage_class: Option<&'a str>,
    pub condition: &'a Condition,
}

/// What a copy has of the headers of its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyHeaders {
    All,
    /// All but `Expires`, which is this one, if any. Costs a HEAD of the source.
    AllButExpires(Option<SystemTime>),
}

/// The version that a change has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// `None` where the store gives no ETag.
    pub tag: Option<Tag>,
    /// Told of copies only (S3 API reference, CopyObject).
    pub last_modified: Option<SystemTime>,
}

/// A multipart upload that is neither complete nor aborted: it costs storage until it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    pub key: Arc<str>,
    pub id: String,
}

/// The fewest bytes of a part that is not the last one (Amazon S3 user guide, "multipart upload
/// limits").
pub const SMALLEST_PART: usize = 5 << 20;

/// A part that the store has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// 1 to 10,000 (there as well).
    pub number: u16,
    pub tag: Tag,
}

/// Implementations bound every call by the timeout they were built with, retries included. `put` and
/// `upload_part` carry content: as with `get`, the caller bounds how many are under way.
///
/// Errors of all calls, besides those of reading:
/// - `PreconditionFailed`: a condition does not hold. Of an absent key some stores say `NotFound`.
/// - `Conflict`: another change was under way, until the time was over.
/// - `Unsupported`: the store does not know the request, or a header of it.
/// - `Unclear`: see above.
#[async_trait]
pub trait WriteStore: Store {
    /// Puts an object of these bytes, at most 5 GiB.
    async fn put(
        &self,
        key: &str,
        headers: &NewHeaders,
        bytes: Bytes,
        condition: &Condition,
    ) -> Result<Written>;

    /// Begins a multipart upload. If the answer is lost, an unknown upload remains in the store.
    async fn create_upload(&self, key: &str, headers: &NewHeaders) -> Result<Upload>;

    /// Sends a part, in place of the one of that number.
    ///
    /// # Errors
    /// `NotFound` where there is no such upload any more.
    async fn upload_part(&self, upload: &Upload, number: u16, bytes: Bytes) -> Result<Part>;

    /// Has the store take a part from an object, which is held to its ETag, if it has one.
    ///
    /// # Errors
    /// `NotFound` where there is no such upload any more, or no such object.
    async fn copy_part(
        &self,
        upload: &Upload,
        number: u16,
        source: &Version,
        range: Range<u64>,
    ) -> Result<Part>;

    /// Makes an object of these parts, which stand in the order of their numbers.
    ///
    /// # Errors
    /// `NotFound` where there is no such upload any more. `Conflict` ends the upload: all of it is to
    /// be sent again (S3 API reference, CompleteMultipartUpload).
    async fn complete(
        &self,
        upload: &Upload,
        parts: &[Part],
        condition: &Condition,
    ) -> Result<Written>;

    /// Removes an upload and its parts. A missing upload is no error.
    async fn abort(&self, upload: &Upload) -> Result<()>;

    /// Copies an object of at most 5 GiB.
    ///
    /// # Errors
    /// `PreconditionFailed` does not tell which of the two conditions it was.
    async fn copy(&self, request: CopyRequest<'_>) -> Result<Written>;

    /// Removes an object. A missing object is no error, unless the request is held to a version.
    async fn delete(&self, key: &str, delete_if: &DeleteIf) -> Result<()>;

    /// Gives an object another key, with all of its headers (RenameObject).
    ///
    /// A store that does not know the request may take it for a PUT of an empty object under the new
    /// key: to be tried on scratch objects first.
    async fn rename(&self, source: &Version, key: &str, condition: &Condition) -> Result<()>;
}
