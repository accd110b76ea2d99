//! Changes of a store. Each call is one atomic change of one object, and can have conditions.
//!
//! Some stores ignore conditions and make the change anyway. A caller that relies on a condition
//! must first prove that the store honours it.
//!
//! An implementation retries a request if that is harmless. If it is not, and there was no clear
//! response, the error is `Unclear`: the change may have been made, or may still be made. All other
//! errors mean that it was not made.

use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Store, Version};
use crate::error::{Error, Result};

/// An ETag for conditions: opaque, without quotes and `W/`, never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag(Arc<str>);

impl Tag {
    /// `None` if it is empty.
    pub fn new(opaque: impl Into<Arc<str>>) -> Option<Tag> {
        Some(opaque.into()).filter(|opaque| !opaque.is_empty()).map(Tag)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Version {
    /// `None` if the store sends no ETag.
    pub fn tag(&self) -> Option<Tag> {
        Tag::new(self.etag.clone())
    }
}

/// The condition on the key under which a new object is put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// No condition: the last change wins.
    Any,
    /// No object (`If-None-Match: *`). An expired object counts as one.
    Absent,
    /// An object with this ETag (`If-Match`); another version with the same bytes has it too.
    Is(Tag),
}

/// The condition on the key that is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeleteIf {
    /// Any object under the key.
    Any,
    /// An object with this ETag (`If-Match`).
    Is(Tag),
    /// Exactly this version: its size and Last-Modified, and its ETag if it has one. AWS supports
    /// the former two only for directory buckets (S3 API reference, DeleteObject).
    Version(Version),
}

/// The most objects of one [`WriteStore::delete_all`] (S3 API reference, DeleteObjects).
pub const MOST_DELETED: usize = 1000;

/// What a deletion has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Whether the versions of the object are kept, behind a delete marker (versioned buckets).
    pub marker: bool,
}

/// The name of the metadata (`x-amz-meta-…`) by which a HEAD shows which request made an object: no two
/// have the same value. Size, Expires and Last-Modified may be those of another version, and an ETag
/// tells the bytes, not the writer. Copies have that of their source.
pub const NONCE: &str = "expirefs-commit";

/// The headers of a new object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewHeaders {
    /// `Expires`, rounded up to a second, so that no object expires early.
    pub expires: Option<SystemTime>,
    /// None: the store's default (S3: `binary/octet-stream`).
    pub content_type: Option<String>,
    pub cache_control: Option<String>,
    /// None for the class STANDARD.
    pub storage_class: Option<String>,
    /// See [`NONCE`].
    pub nonce: Option<String>,
}

/// Settings of all new objects of a mount, including copies, which do not take them from their
/// source (S3 API reference, CopyObject).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewObjects {
    /// None: the bucket's setting.
    pub sse: Option<Sse>,
    /// The id, alias or ARN of a key of AWS KMS. None: the key of the bucket, or of S3 itself.
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
    /// With a key of AWS KMS, in two layers.
    KmsDsse,
}

/// A copy within the bucket, made by the store.
#[derive(Clone, Copy, Debug)]
pub struct CopyRequest<'a> {
    /// If it has an ETag, the copy requires it (`x-amz-copy-source-if-match`).
    pub source: &'a Version,
    /// May be the same key only with [`CopyHeaders::AllButExpires`].
    pub key: &'a str,
    pub headers: CopyHeaders,
    /// The class of the copy, which S3 does not take from the source. None: STANDARD.
    pub storage_class: Option<&'a str>,
    pub condition: &'a Condition,
}

/// Which headers a copy takes from its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyHeaders {
    All,
    /// All except `Expires`, which is set to this one, if any. Costs a HEAD of the source.
    AllButExpires(Option<SystemTime>),
}

/// The version that a change has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// `None` if the store sends no ETag.
    pub tag: Option<Tag>,
    /// Set for copies only (S3 API reference, CopyObject).
    pub last_modified: Option<SystemTime>,
}

/// A multipart upload that is neither complete nor aborted: until then, it costs storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    pub key: Arc<str>,
    pub id: String,
}

/// An upload that was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    pub upload: Upload,
    /// Whether an earlier try may have created another one, since its response was lost.
    pub perhaps_others: bool,
}

/// Some of the uploads that are neither complete nor aborted, in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UploadsPage {
    /// Each with the time at which it was created, by the store's clock.
    pub uploads: Vec<(Upload, SystemTime)>,
    /// The last one, if there are more pages.
    pub next: Option<Upload>,
}

/// The minimum size of a part that is not the last one (Amazon S3 user guide, "multipart upload
/// limits").
pub const SMALLEST_PART: usize = 5 << 20;

/// A part that was uploaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// 1 to 10,000 (same source).
    pub number: u16,
    pub tag: Tag,
}

/// Implementations limit every call, including retries, by the timeout they were built with. `put`
/// and `upload_part` carry content: as with `get`, the caller limits how many are in flight.
///
/// Errors of all calls, besides those of reading:
/// - `PreconditionFailed`: a condition does not hold. For an absent key some stores report
///   `NotFound`.
/// - `Conflict`: another change was in flight until the timeout.
/// - `Unsupported`: the store does not implement the request, or one of its headers.
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

    /// Begins a multipart upload. If a response is lost, an unknown upload remains in the store.
    async fn create_upload(&self, key: &str, headers: &NewHeaders) -> Result<Created>;

    /// Sends a part, which replaces an earlier one of the same number.
    ///
    /// # Errors
    /// `NotFound` if the upload no longer exists.
    async fn upload_part(&self, upload: &Upload, number: u16, bytes: Bytes) -> Result<Part>;

    /// Makes the store copy a part from an object, which must have the ETag of `source`, if any.
    ///
    /// # Errors
    /// `NotFound` if the upload no longer exists, or there is no such object.
    async fn copy_part(
        &self,
        upload: &Upload,
        number: u16,
        source: &Version,
        range: Range<u64>,
    ) -> Result<Part>;

    /// Makes an object of these parts, which must be in the order of their numbers.
    ///
    /// # Errors
    /// `NotFound` if the upload no longer exists. `Conflict` ends the upload: all of it must be
    /// sent again (S3 API reference, CompleteMultipartUpload).
    async fn complete(
        &self,
        upload: &Upload,
        parts: &[Part],
        condition: &Condition,
    ) -> Result<Written>;

    /// Removes an upload and its parts. A missing upload is no error.
    async fn abort(&self, upload: &Upload) -> Result<()>;

    /// The uploads whose keys begin with `prefix`: the first page, or the one after `after`.
    async fn uploads(&self, prefix: &str, after: Option<&Upload>) -> Result<UploadsPage>;

    /// Whether an upload has parts.
    ///
    /// # Errors
    /// `NotFound` if it no longer exists.
    async fn has_parts(&self, upload: &Upload) -> Result<bool>;

    /// Copies an object of at most 5 GiB.
    ///
    /// # Errors
    /// `PreconditionFailed` does not show which of the two conditions failed.
    async fn copy(&self, request: CopyRequest<'_>) -> Result<Written>;

    /// Removes an object. A missing object is no error, unless the request has a condition.
    async fn delete(&self, key: &str, delete_if: &DeleteIf) -> Result<Deleted>;

    /// The same, in one request that is never sent again: for a caller who must look at the object
    /// before each try.
    async fn delete_once(&self, key: &str, delete_if: &DeleteIf) -> Result<Deleted>;

    /// Removes at most [`MOST_DELETED`] objects with one request, each only if it is exactly this
    /// version (see [`DeleteIf::Version`]). Returns what became of each, in their order. Whether a
    /// store honours the conditions here does not follow from `delete`.
    ///
    /// # Errors
    /// Inside, those of `delete`, and `Unclear` for one that the answer does not name.
    async fn delete_all(&self, versions: &[Version]) -> Result<Vec<Result<Deleted>>> {
        Err(Error::Unsupported(
            format!("to delete {} objects with one request", versions.len()).into(),
        ))
    }

    /// Gives an object another key, with all of its headers (RenameObject).
    ///
    /// A store that does not know the request may treat it as a PUT of an empty object under the
    /// new key: so it must be tried on scratch objects first.
    async fn rename(&self, source: &Version, key: &str, condition: &Condition) -> Result<()>;
}
