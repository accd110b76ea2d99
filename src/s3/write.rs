//! Changes over aws-sdk-s3. The SDK sends each request once; all retries are made here.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{
    CompletedMultipartUpload, CompletedPart, MetadataDirective, ObjectCannedAcl,
    ServerSideEncryption, StorageClass,
};
use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::timeout;

use super::progress::leaving_time;
use super::{S3, batch, etag, length, page, version};
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::store::Version;
use crate::store::write::{
    Condition, CopyHeaders, CopyRequest, Created, DeleteIf, Deleted, NONCE, NewHeaders, NewObjects,
    Part, Sse, Tag, Upload, UploadsPage, WriteStore, Written,
};

/// Sets what all new objects have alike: PutObject, CreateMultipartUpload and CopyObject have builders
/// of their own with the same setters.
macro_rules! with_new_objects {
    ($request:expr, $new:expr) => {
        $request
            .set_server_side_encryption($new.sse.map(encryption))
            .set_ssekms_key_id($new.sse_kms_key_id.clone())
            .set_acl($new.acl.as_deref().map(ObjectCannedAcl::from))
    };
}

/// Sets the headers of a new object, for the first two of these.
macro_rules! with_headers {
    ($request:expr, $headers:expr, $new:expr) => {
        with_new_objects!($request, $new)
            .set_expires($headers.expires.map(rounded_up))
            .set_content_type($headers.content_type.clone())
            .set_cache_control($headers.cache_control.clone())
            .set_storage_class(storage_class($headers.storage_class.as_deref()))
            .set_metadata(metadata($headers.nonce.as_deref()))
    };
}

/// When a change may be retried.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Resend {
    /// The change is idempotent: retried after each failure that may be temporary.
    Always,
    /// A repetition would fail because of the first success: retried only if the answer, or the lack of
    /// a connection, shows that the change was not made.
    IfNotMade,
}

/// A change, and its tries so far.
struct Sending {
    resend: Resend,
    /// A try without a clear answer may have made it.
    unclear: AtomicBool,
}

impl Sending {
    /// An idempotent change.
    fn always() -> Sending {
        Sending { resend: Resend::Always, unclear: AtomicBool::new(false) }
    }

    fn if_not_made() -> Sending {
        Sending { resend: Resend::IfNotMade, unclear: AtomicBool::new(false) }
    }

    /// A change that is idempotent except for its condition.
    fn under(condition: &Condition) -> Sending {
        match condition {
            Condition::Any => Sending::always(),
            Condition::Absent | Condition::Is(_) => Sending::if_not_made(),
        }
    }
}

impl S3 {
    /// The same bucket, for a store that compares the ETags of a condition literally with its own,
    /// which have no quotes (Ceph RGW 16).
    pub fn with_bare_etags(&self) -> S3 {
        S3 { bare_etags: true, ..self.clone() }
    }

    /// The same bucket, whose new objects, copies too, have all of this from now on.
    pub fn with_new_objects(&self, new_objects: NewObjects) -> S3 {
        S3 { new_objects, ..self.clone() }
    }

    /// The value of `If-Match`.
    fn if_match(&self, tag: &Tag) -> String {
        match self.bare_etags {
            true => tag.as_str().to_owned(),
            false => format!("\"{}\"", tag.as_str()),
        }
    }

    /// The values of `If-None-Match` and `If-Match`.
    fn conditions(&self, condition: &Condition) -> (Option<String>, Option<String>) {
        match condition {
            Condition::Any => (None, None),
            Condition::Absent => (Some("*".to_owned()), None),
            Condition::Is(tag) => (None, Some(self.if_match(tag))),
        }
    }

    /// `x-amz-copy-source`, which is percent-encoded, and the condition on it.
    fn source(&self, source: &Version) -> (String, Option<String>) {
        let tag = source.tag().map(|tag| self.if_match(&tag));
        (copy_source(&self.bucket, &source.key), tag)
    }

    /// Sends a change without content, once it has a permit for metadata requests.
    async fn change<T, F>(&self, sending: &Sending, ask: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let in_turn = || async {
            let _turn = self.gate.turn().await;
            let whole = Deadline::after(self.retry.timeout);
            let by = match sending.resend {
                // A try that gets no answer leaves time for one more, on another connection.
                Resend::Always => whole.half(),
                Resend::IfNotMade => whole,
            };
            within(by, ask()).await
        };
        self.send(sending, in_turn).await
    }

    /// Sends a change, and retries it if that is allowed and the failure may be temporary. The
    /// error is `Unclear` if any of the tries may have made the change.
    async fn send<T, F>(&self, sending: &Sending, ask: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let Sending { resend, unclear } = sending;
        let tried = self.run(|| async {
            let before = unclear.swap(true, Ordering::Relaxed);
            // At the timeout, this ends here.
            let answer = ask().await;
            match answer {
                // Ends the tries.
                Err(Error::Unclear(_)) if *resend == Resend::IfNotMade => return Ok(answer),
                Err(Error::Unclear(_)) => {}
                _ => unclear.store(before, Ordering::Relaxed),
            }
            answer.map(Ok)
        });
        tried.await.flatten().map_err(|error| match error {
            Error::Unclear(_) => error,
            error if unclear.load(Ordering::Relaxed) => {
                let report = error.report().cloned().unwrap_or_default();
                Error::Unclear(report.with_text(error.to_string()))
            }
            error => error,
        })
    }

    /// Sends one DeleteObject.
    async fn send_delete(&self, key: &str, delete_if: &DeleteIf) -> Result<Deleted> {
        let mut delete = self.changes.delete_object().bucket(&self.bucket).key(key);
        let tag = match delete_if {
            DeleteIf::Any => None,
            DeleteIf::Is(tag) => Some(tag.clone()),
            DeleteIf::Version(version) => {
                delete = delete
                    .if_match_size(i64::try_from(version.size).unwrap_or(i64::MAX))
                    .if_match_last_modified_time(version.last_modified.into());
                version.tag()
            }
        };
        let delete =
            delete.set_if_match(tag.map(|tag| self.if_match(&tag))).set_request_payer(self.payer());
        match delete.send().await.map_err(|e| self.change_failure(e)) {
            Ok(out) => Ok(Deleted { marker: out.delete_marker == Some(true) }),
            Err(Error::NotFound) if *delete_if == DeleteIf::Any => Ok(Deleted::default()),
            Err(error) => Err(error),
        }
    }

    async fn copy_object(&self, request: CopyRequest<'_>) -> Result<Written> {
        let (from, source_if_match) = self.source(request.source);
        let (if_none_match, if_match) = self.conditions(request.condition);
        let mut copy = with_new_objects!(self.changes.copy_object(), self.new_objects)
            .bucket(&self.bucket)
            .key(request.key)
            .copy_source(from)
            .set_copy_source_if_match(source_if_match)
            .set_storage_class(storage_class(request.storage_class))
            .set_if_none_match(if_none_match)
            .set_if_match(if_match)
            .set_request_payer(self.payer());
        if let CopyHeaders::AllButExpires(expires) = request.headers {
            let headers = self.source_headers(request.source).await?;
            copy = copy
                .metadata_directive(MetadataDirective::Replace)
                .set_expires(expires.map(rounded_up))
                .set_cache_control(headers.cache_control)
                .set_content_disposition(headers.content_disposition)
                .set_content_encoding(headers.content_encoding)
                .set_content_language(headers.content_language)
                .set_content_type(headers.content_type)
                .set_metadata(headers.metadata)
                .set_website_redirect_location(headers.website_redirect_location);
        }
        let ask = || async {
            let out = copy.clone().send().await.map_err(|e| self.change_failure(e))?;
            let copied = out.copy_object_result;
            let (etag, modified) = copied.map(|it| (it.e_tag, it.last_modified)).unzip();
            written(etag.flatten().as_deref(), modified.flatten())
        };
        self.change(&Sending::under(request.condition), ask).await
    }

    /// The headers of the source of a copy.
    async fn source_headers(&self, source: &Version) -> Result<HeadObjectOutput> {
        let ask = || async {
            let head = self.client.head_object().bucket(&self.bucket).key(&*source.key);
            let out = head.set_request_payer(self.payer()).send().await;
            out.map_err(|e| self.head_failure(e))
        };
        let out = self.metadata(ask).await?;
        let size = length(out.content_length)?;
        match source.is(&version(&source.key, out.e_tag.as_deref(), out.last_modified, size)?) {
            true => Ok(out),
            false => Err(Error::PreconditionFailed),
        }
    }
}

#[async_trait]
impl WriteStore for S3 {
    async fn put(
        &self,
        key: &str,
        headers: &NewHeaders,
        bytes: Bytes,
        condition: &Condition,
    ) -> Result<Written> {
        let (if_none_match, if_match) = self.conditions(condition);
        let by = Deadline::after(self.retry.timeout);
        let ask = || async {
            let put = with_headers!(self.changes.put_object(), headers, self.new_objects)
                .bucket(&self.bucket)
                .key(key)
                .set_if_none_match(if_none_match.clone())
                .set_if_match(if_match.clone())
                .body(bytes.clone().into())
                .set_request_payer(self.payer());
            let put = put.customize().mutate_request(leaving_time(by));
            let out = put.send().await.map_err(|e| self.change_failure(e))?;
            written(out.e_tag.as_deref(), None)
        };
        self.send(&Sending::under(condition), ask).await
    }

    async fn create_upload(&self, key: &str, headers: &NewHeaders) -> Result<Created> {
        let create = self.changes.create_multipart_upload();
        let create = with_headers!(create, headers, self.new_objects)
            .bucket(&self.bucket)
            .key(key)
            .set_request_payer(self.payer());
        let ask = || async {
            let out = create.clone().send().await.map_err(|e| self.change_failure(e))?;
            let id = out.upload_id.ok_or_else(|| says_too_little("an upload without an id"))?;
            Ok(Upload { key: key.into(), id })
        };
        let sending = Sending::always();
        let upload = self.change(&sending, ask).await?;
        Ok(Created { upload, perhaps_others: sending.unclear.into_inner() })
    }

    async fn upload_part(&self, upload: &Upload, number: u16, bytes: Bytes) -> Result<Part> {
        let by = Deadline::after(self.retry.timeout);
        let ask = || async {
            let part = self
                .changes
                .upload_part()
                .bucket(&self.bucket)
                .key(&*upload.key)
                .upload_id(&upload.id)
                .part_number(number.into())
                .body(bytes.clone().into())
                .set_request_payer(self.payer());
            let part = part.customize().mutate_request(leaving_time(by));
            let out = part.send().await.map_err(|e| self.change_failure(e))?;
            part_of(number, out.e_tag.as_deref())
        };
        self.send(&Sending::always(), ask).await
    }

    async fn copy_part(
        &self,
        upload: &Upload,
        number: u16,
        source: &Version,
        range: Range<u64>,
    ) -> Result<Part> {
        let (from, source_if_match) = self.source(source);
        let copy = self
            .changes
            .upload_part_copy()
            .bucket(&self.bucket)
            .key(&*upload.key)
            .upload_id(&upload.id)
            .part_number(number.into())
            .copy_source(from)
            .set_copy_source_if_match(source_if_match)
            .copy_source_range(format!("bytes={}-{}", range.start, range.end - 1))
            .set_request_payer(self.payer());
        let ask = || async {
            let out = copy.clone().send().await.map_err(|e| self.change_failure(e))?;
            part_of(number, out.copy_part_result.as_ref().and_then(|part| part.e_tag()))
        };
        self.change(&Sending::always(), ask).await
    }

    async fn complete(
        &self,
        upload: &Upload,
        parts: &[Part],
        condition: &Condition,
    ) -> Result<Written> {
        let (if_none_match, if_match) = self.conditions(condition);
        let parts = parts.iter().map(|Part { number, tag }| {
            let etag = format!("\"{}\"", tag.as_str());
            CompletedPart::builder().part_number(i32::from(*number)).e_tag(etag).build()
        });
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build();
        let complete = self
            .changes
            .complete_multipart_upload()
            .bucket(&self.bucket)
            .key(&*upload.key)
            .upload_id(&upload.id)
            .multipart_upload(parts)
            .set_if_none_match(if_none_match)
            .set_if_match(if_match)
            .set_request_payer(self.payer());
        let ask = || async {
            match complete.clone().send().await.map_err(|e| self.change_failure(e)) {
                Ok(out) => written(out.e_tag.as_deref(), None).map(Ok),
                // The upload is lost: no other try.
                Err(Error::Conflict(says)) => Ok(Err(Error::Conflict(says))),
                Err(error) => Err(error),
            }
        };
        // A completed upload no longer exists.
        self.change(&Sending::if_not_made(), ask).await.flatten()
    }

    async fn abort(&self, upload: &Upload) -> Result<()> {
        let abort = self
            .changes
            .abort_multipart_upload()
            .bucket(&self.bucket)
            .key(&*upload.key)
            .upload_id(&upload.id)
            .set_request_payer(self.payer());
        let ask = || async {
            match abort.clone().send().await.map_err(|e| self.change_failure(e)) {
                Ok(_) | Err(Error::NotFound) => Ok(()),
                Err(error) => Err(error),
            }
        };
        self.change(&Sending::always(), ask).await
    }

    async fn uploads(&self, prefix: &str, after: Option<&Upload>) -> Result<UploadsPage> {
        let list = self
            .client
            .list_multipart_uploads()
            .bucket(&self.bucket)
            .prefix(prefix)
            .set_key_marker(after.map(|upload| upload.key.to_string()))
            .set_upload_id_marker(after.map(|upload| upload.id.clone()))
            .set_request_payer(self.payer());
        let ask = || async { list.clone().send().await.map_err(|e| self.failure(e)) };
        page::of_uploads(self.metadata(ask).await?)
    }

    async fn has_parts(&self, upload: &Upload) -> Result<bool> {
        let list = self
            .client
            .list_parts()
            .bucket(&self.bucket)
            .key(&*upload.key)
            .upload_id(&upload.id)
            .max_parts(1)
            .set_request_payer(self.payer());
        let ask = || async { list.clone().send().await.map_err(|e| self.failure(e)) };
        Ok(!self.metadata(ask).await?.parts().is_empty())
    }

    async fn copy(&self, request: CopyRequest<'_>) -> Result<Written> {
        // Both requests together.
        within(Deadline::after(self.retry.timeout), self.copy_object(request)).await
    }

    async fn delete(&self, key: &str, delete_if: &DeleteIf) -> Result<Deleted> {
        let sending = match delete_if {
            DeleteIf::Any => Sending::always(),
            DeleteIf::Is(_) | DeleteIf::Version(_) => Sending::if_not_made(),
        };
        self.change(&sending, || self.send_delete(key, delete_if)).await
    }

    async fn delete_once(&self, key: &str, delete_if: &DeleteIf) -> Result<Deleted> {
        let _turn = self.gate.turn().await;
        let by = Deadline::after(self.retry.timeout);
        within(by, self.send_delete(key, delete_if)).await
    }

    async fn delete_all(&self, versions: &[Version]) -> Result<Vec<Result<Deleted>>> {
        let delete = self
            .changes
            .delete_objects()
            .bucket(&self.bucket)
            .delete(batch::of(versions, |tag| self.if_match(tag))?)
            .set_request_payer(self.payer());
        let ask = || async { delete.clone().send().await.map_err(|e| self.change_failure(e)) };
        // No version comes back, so a repetition deletes nothing else.
        let sending = Sending::always();
        let out = self.change(&sending, ask).await?;
        Ok(batch::outcomes(&out, versions, sending.unclear.into_inner()))
    }

    async fn rename(&self, source: &Version, key: &str, condition: &Condition) -> Result<()> {
        let (from, source_if_match) = self.source(source);
        let (if_none_match, if_match) = self.conditions(condition);
        let rename = self
            .changes
            .rename_object()
            .bucket(&self.bucket)
            .key(key)
            .rename_source(from)
            .set_source_if_match(source_if_match)
            .set_destination_if_none_match(if_none_match)
            .set_destination_if_match(if_match);
        let ask = || async {
            rename.clone().send().await.map(|_| ()).map_err(|e| self.change_failure(e))
        };
        // Once it is made, the source no longer exists.
        self.change(&Sending::if_not_made(), ask).await
    }
}

/// A change without a response by then may have been made.
async fn within<T>(by: Deadline, change: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Err(Error::Unclear(by.missed().to_string().into()));
    timeout(by.left(), change).await.unwrap_or_else(late)
}

/// The SDK writes dates without fractions of a second, which would let an object expire early.
fn rounded_up(at: SystemTime) -> DateTime {
    let at = DateTime::from(at);
    DateTime::from_secs(at.secs() + i64::from(at.subsec_nanos() > 0))
}

fn encryption(sse: Sse) -> ServerSideEncryption {
    match sse {
        Sse::Aes256 => ServerSideEncryption::Aes256,
        Sse::Kms => ServerSideEncryption::AwsKms,
        Sse::KmsDsse => ServerSideEncryption::AwsKmsDsse,
    }
}

fn metadata(nonce: Option<&str>) -> Option<HashMap<String, String>> {
    nonce.map(|nonce| HashMap::from([(NONCE.to_owned(), nonce.to_owned())]))
}

fn storage_class(class: Option<&str>) -> Option<StorageClass> {
    class.map(StorageClass::from)
}

fn tag(etag: Option<&str>) -> Option<Tag> {
    Tag::new(etag::opaque(etag.unwrap_or_default()))
}

fn part_of(number: u16, etag: Option<&str>) -> Result<Part> {
    let tag = tag(etag).ok_or_else(|| says_too_little("a part without an ETag"))?;
    Ok(Part { number, tag })
}

/// The result of a response; the status alone means nothing: S3 sends 200 before it is done (S3 API
/// reference, CompleteMultipartUpload and CopyObject), and a proxy may answer a PUT with a page of its
/// own.
fn written(etag: Option<&str>, modified: Option<DateTime>) -> Result<Written> {
    let tag = tag(etag).ok_or_else(|| says_too_little("an answer without an ETag"))?;
    let last_modified =
        modified.and_then(|at| SystemTime::try_from(DateTime::from_secs(at.secs())).ok());
    Ok(Written { tag: Some(tag), last_modified })
}

fn says_too_little(what: &str) -> Error {
    Error::Unclear(what.to_owned().into())
}

/// `x-amz-copy-source`; the bucket may be the ARN of an access point (S3 API reference, CopyObject).
fn copy_source(bucket: &str, key: &str) -> String {
    const NOT_IN_A_KEY: AsciiSet =
        NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');
    let key = utf8_percent_encode(key, &NOT_IN_A_KEY);
    match bucket.starts_with("arn:") {
        true => format!("{bucket}/object/{key}"),
        false => format!("{bucket}/{key}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn expiry_is_rounded_up_to_a_second() {
        for (nanos, secs) in [(0, 7), (1, 8), (999_999_999, 8)] {
            let at = UNIX_EPOCH + Duration::new(7, nanos);
            assert_eq!(rounded_up(at), DateTime::from_secs(secs));
        }
    }
}
