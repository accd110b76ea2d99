//! The requests that change a bucket, with their conditions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use hyper::header::HeaderMap;
use md5::{Digest, Md5};
use s3s::dto::*;
use s3s::{S3Request, S3Result, s3_error};

use super::mutations::{Effect, Operation};
use super::personality::Conditions;
use super::{Object, RawExpires, State, Stored, hex};

/// The minimum size of a part that is not the last one (Amazon S3 user guide, "multipart upload
/// limits").
const SMALLEST_PART: usize = 5 << 20;

/// A multipart upload.
pub(super) struct Upload {
    pub bucket: String,
    pub key: String,
    created: SystemTime,
    /// Without its content.
    object: Object,
    parts: BTreeMap<i32, Part>,
}

struct Part {
    bytes: Bytes,
    etag: ETag,
}

/// Which object to remove, in addition to the conditions in the headers.
pub(super) struct Exactly {
    /// The request that says so.
    pub by: Conditions,
    pub etag: Option<ETag>,
    pub size: Option<i64>,
    pub modified: Option<Timestamp>,
}

impl Object {
    /// The object that a request puts, or a copy that takes no headers from its source.
    pub(super) fn of<T>(req: &S3Request<T>, body: Bytes) -> Object {
        let text = |name| Some(req.headers.get(name)?.to_str().ok()?.to_owned());
        let others = req.headers.iter().filter(|(name, value)| match name.as_str() {
            "content-encoding" => !value.as_bytes().starts_with(b"aws-chunked"),
            "content-disposition" | "content-language" => true,
            "x-amz-website-redirect-location" => true,
            name => name.starts_with("x-amz-meta-"),
        });
        Object {
            body,
            expires: req.extensions.get().map(|RawExpires(raw)| raw.clone()),
            content_type: text("content-type"),
            cache_control: text("cache-control"),
            storage_class: text("x-amz-storage-class").filter(|class| class != "STANDARD"),
            others: others.map(|(name, value)| (name.clone(), value.clone())).collect(),
            last_modified: None,
        }
    }
}

impl State {
    pub(super) fn put_object(
        &mut self,
        bucket: &str,
        key: String,
        headers: &HeaderMap,
        stored: Stored,
    ) -> S3Result {
        self.check(Conditions::Put, bucket, &key, headers)?;
        self.note(bucket, Operation::PutObject, || [Effect::stored(&key, &stored)]);
        self.bucket(bucket)?.insert(key, Arc::new(stored));
        Ok(())
    }

    pub(super) fn delete_object(
        &mut self,
        bucket: &str,
        key: &str,
        headers: &HeaderMap,
        exactly: Exactly,
    ) -> S3Result {
        let Exactly { by, etag, size, modified } = exactly;
        self.check(by, bucket, key, headers)?;
        let honours = self.personality.honours(by);
        let objects = self.bucket(bucket)?;
        if honours && let Some(found) = objects.get(key) {
            let is_it = etag.is_none_or(|etag| etag == found.etag)
                && size.is_none_or(|size| size == found.size())
                && modified.is_none_or(|modified| modified == found.modified);
            if !is_it {
                return Err(s3_error!(PreconditionFailed));
            }
        }
        if objects.remove(key).is_some() {
            let removed = || [Effect::Removed { key: key.to_owned() }];
            self.note(bucket, Operation::DeleteObject, removed);
        }
        Ok(())
    }

    pub(super) fn copy_object(
        &mut self,
        req: &S3Request<CopyObjectInput>,
    ) -> S3Result<CopyObjectResult> {
        let input = &req.input;
        let (key, source) = self.source(&input.copy_source, &req.headers)?;
        let class = req.headers.get("x-amz-storage-class");
        let replaces = input.metadata_directive.as_ref().is_some_and(|it| it.as_str() == "REPLACE");
        let object = match replaces {
            true => Object::of(req, source.object.body.clone()),
            false if key == input.key && class.is_none() => {
                return Err(s3_error!(InvalidRequest, "a copy onto itself that changes nothing"));
            }
            false => Object {
                storage_class: Object::of(req, Bytes::new()).storage_class,
                last_modified: None,
                ..source.object.clone()
            },
        };
        self.check(Conditions::CopyTarget, &input.bucket, &input.key, &req.headers)?;
        let copy = Arc::new(Stored::new(object));
        let stored = || [Effect::stored(&input.key, &copy)];
        self.note(&input.bucket, Operation::CopyObject, stored);
        self.bucket(&input.bucket)?.insert(input.key.clone(), copy.clone());
        Ok(CopyObjectResult {
            e_tag: Some(copy.etag.clone()),
            last_modified: Some(copy.modified.clone()),
            ..Default::default()
        })
    }

    /// RenameObject: the object as it is, under another key.
    pub(super) fn rename_object(
        &mut self,
        source: &CopySource,
        bucket: &str,
        key: &str,
        headers: &HeaderMap,
    ) -> S3Result {
        let CopySource::Bucket { bucket: from, key: old, .. } = source else {
            return Err(s3_error!(InvalidArgument));
        };
        if **from != *bucket {
            return Err(s3_error!(InvalidArgument, "a rename is within one bucket"));
        }
        let wanted = headers.get("x-amz-rename-source-if-match");
        let personality = self.personality;
        let found = self.bucket(bucket)?.get(&**old).cloned();
        let found = found.ok_or_else(|| s3_error!(NoSuchKey))?;
        personality.check_match(Conditions::Rename, wanted, Some(&found))?;
        self.check(Conditions::Rename, bucket, key, headers)?;
        // The other way round a rename onto itself would lose the object.
        let moved = || [Effect::Removed { key: old.to_string() }, Effect::stored(key, &found)];
        self.note(bucket, Operation::RenameObject, moved);
        let objects = self.bucket(bucket)?;
        objects.remove(&**old);
        objects.insert(key.to_owned(), found);
        Ok(())
    }

    pub(super) fn create_upload(
        &mut self,
        bucket: String,
        key: String,
        object: Object,
    ) -> S3Result<String> {
        self.bucket(&bucket)?;
        self.created += 1;
        let id = format!("{:016x}", self.created);
        let begun = || [Effect::Begun { key: key.clone(), id: id.clone() }];
        self.note(&bucket, Operation::CreateMultipartUpload, begun);
        let created = SystemTime::now();
        let upload = Upload { bucket, key, created, object, parts: BTreeMap::new() };
        self.uploads.insert(id.clone(), upload);
        Ok(id)
    }

    /// Up to `max` uploads after this key and id, by key, then by id, which is the order of creation;
    /// and whether there are more.
    pub(super) fn list_uploads(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<(String, Option<String>)>,
        max: usize,
    ) -> (Vec<MultipartUpload>, bool) {
        // Without an id: after all uploads of the key (S3 API reference, ListMultipartUploads).
        let is_after = |key: &str, id: &str| match &after {
            None => true,
            Some((marker, None)) => key > marker.as_str(),
            Some((marker, Some(id_marker))) => (key, id) > (marker, id_marker),
        };
        let mut found: Vec<(&String, &Upload)> = self.uploads.iter().collect();
        found.retain(|(id, upload)| {
            let Upload { bucket: of, key, .. } = upload;
            of == bucket && key.starts_with(prefix) && is_after(key, id)
        });
        found.sort_by_key(|(id, upload)| (&upload.key, *id));
        let more = found.len() > max;
        let page = found.into_iter().take(max).map(|(id, upload)| MultipartUpload {
            key: Some(upload.key.clone()),
            upload_id: Some(id.clone()),
            initiated: Some(upload.created.into()),
            ..Default::default()
        });
        (page.collect(), more)
    }

    /// Up to `max` parts of an upload after this number; and whether there are more.
    pub(super) fn list_parts(
        &self,
        id: &str,
        after: i32,
        max: usize,
    ) -> S3Result<(Vec<s3s::dto::Part>, bool)> {
        let upload = self.uploads.get(id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        let mut parts = upload.parts.range(after + 1..);
        let page = parts.by_ref().take(max).map(|(number, part)| s3s::dto::Part {
            part_number: Some(*number),
            e_tag: Some(part.etag.clone()),
            size: Some(part.bytes.len() as i64),
            ..Default::default()
        });
        let page = page.collect();
        Ok((page, parts.next().is_some()))
    }

    pub(super) fn upload_part(&mut self, id: &str, number: i32, bytes: Bytes) -> S3Result<ETag> {
        let upload = self.uploads.get_mut(id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        if !(1..=10_000).contains(&number) {
            return Err(s3_error!(InvalidArgument));
        }
        let etag = ETag::Strong(hex(&Md5::digest(&bytes)));
        let (bucket, size) = (upload.bucket.clone(), bytes.len());
        upload.parts.insert(number, Part { bytes, etag: etag.clone() });
        let part = || [Effect::Part { id: id.to_owned(), number, bytes: size }];
        self.note(&bucket, Operation::UploadPart, part);
        Ok(etag)
    }

    pub(super) fn copy_part(&mut self, req: &S3Request<UploadPartCopyInput>) -> S3Result<ETag> {
        let input = &req.input;
        let (_, source) = self.source(&input.copy_source, &req.headers)?;
        let body = &source.object.body;
        let range = match input.copy_source_range.as_deref() {
            None => 0..body.len(),
            Some(text) => {
                let ends = text.strip_prefix("bytes=").and_then(|ends| ends.split_once('-'));
                let parsed = ends.and_then(|(first, last)| {
                    Some(first.parse::<usize>().ok()?..last.parse::<usize>().ok()?.checked_add(1)?)
                });
                let range = parsed.ok_or_else(|| s3_error!(InvalidArgument))?;
                if range.is_empty() || range.end > body.len() {
                    return Err(s3_error!(InvalidRange));
                }
                range
            }
        };
        self.upload_part(&input.upload_id, input.part_number, body.slice(range))
    }

    pub(super) fn complete_upload(
        &mut self,
        req: &S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<ETag> {
        let input = &req.input;
        let upload = self.uploads.get(&input.upload_id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        let wanted = input.multipart_upload.as_ref().and_then(|upload| upload.parts.as_deref());
        let wanted = wanted.unwrap_or_default();
        if wanted.is_empty() {
            return Err(s3_error!(MalformedXML));
        }
        let (mut body, mut digests, mut before) = (BytesMut::new(), Md5::new(), 0);
        for (i, part) in wanted.iter().enumerate() {
            let number = part.part_number.unwrap_or_default();
            let Some(Part { bytes, etag }) = upload.parts.get(&number) else {
                return Err(s3_error!(InvalidPart));
            };
            if part.e_tag.as_ref() != Some(etag) {
                return Err(s3_error!(InvalidPart));
            }
            if number <= before {
                return Err(s3_error!(InvalidPartOrder));
            }
            if bytes.len() < SMALLEST_PART && i + 1 < wanted.len() {
                return Err(s3_error!(EntityTooSmall));
            }
            before = number;
            body.extend_from_slice(bytes);
            digests.update(Md5::digest(bytes));
        }
        let etag = ETag::Strong(format!("{}-{}", hex(&digests.finalize()), wanted.len()));
        let object = Object { body: body.freeze(), ..upload.object.clone() };
        let (bucket, key) = (upload.bucket.clone(), upload.key.clone());
        self.check(Conditions::Complete, &bucket, &key, &req.headers)?;
        self.uploads.remove(&input.upload_id);
        let stored = Stored { etag: etag.clone(), ..Stored::new(object) };
        let ended = Effect::Ended { id: input.upload_id.clone() };
        let done = || [Effect::stored(&key, &stored), ended];
        self.note(&bucket, Operation::CompleteMultipartUpload, done);
        self.bucket(&bucket)?.insert(key, Arc::new(stored));
        Ok(etag)
    }

    pub(super) fn abort_upload(&mut self, id: &str) -> S3Result {
        let upload = self.uploads.remove(id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        let ended = || [Effect::Ended { id: id.to_owned() }];
        self.note(&upload.bucket, Operation::AbortMultipartUpload, ended);
        Ok(())
    }

    /// The source of a copy, and its key.
    fn source(
        &mut self,
        source: &CopySource,
        headers: &HeaderMap,
    ) -> S3Result<(String, Arc<Stored>)> {
        let CopySource::Bucket { bucket, key, .. } = source else {
            return Err(s3_error!(NotImplemented));
        };
        let wanted = headers.get("x-amz-copy-source-if-match");
        let personality = self.personality;
        let found = self.bucket(bucket)?.get(&**key).cloned();
        let found = found.ok_or_else(|| s3_error!(NoSuchKey))?;
        personality.check_match(Conditions::CopySource, wanted, Some(&found))?;
        Ok((key.to_string(), found))
    }

    /// Checks the conditions of a change against the object it would replace or remove.
    fn check(
        &mut self,
        conditions: Conditions,
        bucket: &str,
        key: &str,
        headers: &HeaderMap,
    ) -> S3Result {
        let personality = self.personality;
        let found = self.bucket(bucket)?.get(key);
        personality.check(conditions, headers, found.map(|found| &**found))
    }
}
