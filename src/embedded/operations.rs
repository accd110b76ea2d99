//! The S3 operations that s3s calls: reading and changing the buckets of a [`Handle`].

use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::header::{ETAG, EXPIRES, HeaderMap};
use hyper::http::Extensions;
use hyper::{Method, Uri};
use percent_encoding::percent_decode_str;
use s3s::dto::{self, *};
use s3s::route::S3Route;
use s3s::{Body, S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};

use super::changes::Exactly;
use super::{Bucket, Conditions, Handle, Object, State, Stored, has, hex};

type Reply<T> = S3Result<S3Response<T>>;

#[async_trait]
impl S3 for Handle {
    async fn create_bucket(&self, req: S3Request<CreateBucketInput>) -> Reply<CreateBucketOutput> {
        let mut state = self.state();
        if state.buckets.contains_key(&req.input.bucket) {
            return Err(s3_error!(BucketAlreadyOwnedByYou));
        }
        state.buckets.insert(req.input.bucket, Bucket::new());
        Ok(S3Response::new(CreateBucketOutput::default()))
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> Reply<HeadBucketOutput> {
        self.state().bucket(&req.input.bucket)?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn create_session(
        &self,
        req: S3Request<CreateSessionInput>,
    ) -> Reply<CreateSessionOutput> {
        self.state().bucket(&req.input.bucket)?;
        if !is_directory_bucket(&req.input.bucket) {
            return Err(s3_error!(NotImplemented));
        }
        let credentials = SessionCredentials {
            access_key_id: "session".to_owned(),
            secret_access_key: "secret".to_owned(),
            session_token: "token".to_owned(),
            // Of real sessions, after five minutes.
            expiration: Timestamp::from(SystemTime::now() + Duration::from_secs(300)),
        };
        Ok(S3Response::new(CreateSessionOutput { credentials, ..Default::default() }))
    }

    async fn put_object(&self, mut req: S3Request<PutObjectInput>) -> Reply<PutObjectOutput> {
        let body = received(req.input.body.take(), &req.headers).await?;
        let stored = Stored::new(Object::of(&req, body));
        let e_tag = Some(stored.etag.clone());
        self.state().put_object(&req.input.bucket, req.input.key, &req.headers, stored)?;
        Ok(S3Response::new(PutObjectOutput { e_tag, ..Default::default() }))
    }

    async fn copy_object(&self, req: S3Request<CopyObjectInput>) -> Reply<CopyObjectOutput> {
        let copied = self.state().copy_object(&req)?;
        let copy_object_result = Some(copied);
        Ok(S3Response::new(CopyObjectOutput { copy_object_result, ..Default::default() }))
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> Reply<CreateMultipartUploadOutput> {
        let object = Object::of(&req, Bytes::new());
        let CreateMultipartUploadInput { bucket, key, .. } = req.input;
        let id = self.state().create_upload(bucket.clone(), key.clone(), object)?;
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(bucket),
            key: Some(key),
            upload_id: Some(id),
            ..Default::default()
        }))
    }

    async fn upload_part(&self, mut req: S3Request<UploadPartInput>) -> Reply<UploadPartOutput> {
        let bytes = received(req.input.body.take(), &req.headers).await?;
        let UploadPartInput { upload_id, part_number, .. } = req.input;
        let e_tag = Some(self.state().upload_part(&upload_id, part_number, bytes)?);
        Ok(S3Response::new(UploadPartOutput { e_tag, ..Default::default() }))
    }

    async fn upload_part_copy(
        &self,
        req: S3Request<UploadPartCopyInput>,
    ) -> Reply<UploadPartCopyOutput> {
        let e_tag = Some(self.state().copy_part(&req)?);
        let copy_part_result = Some(CopyPartResult { e_tag, ..Default::default() });
        Ok(S3Response::new(UploadPartCopyOutput { copy_part_result, ..Default::default() }))
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> Reply<CompleteMultipartUploadOutput> {
        let e_tag = Some(self.state().complete_upload(&req)?);
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket: Some(req.input.bucket),
            key: Some(req.input.key),
            e_tag,
            ..Default::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> Reply<AbortMultipartUploadOutput> {
        self.state().abort_upload(&req.input.upload_id)?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> Reply<ListMultipartUploadsOutput> {
        let input = req.input;
        let max_uploads = input.max_uploads.unwrap_or(1000).clamp(1, 1000);
        let prefix = input.prefix.unwrap_or_default();
        let after = input.key_marker.map(|key| (key, input.upload_id_marker));
        let mut state = self.state();
        state.bucket(&input.bucket)?;
        let (mut uploads, more) =
            state.list_uploads(&input.bucket, &prefix, after, max_uploads as usize);
        let url = Some(EncodingType::from_static(EncodingType::URL));
        if input.encoding_type == url {
            for upload in &mut uploads {
                upload.key = upload.key.as_deref().map(percent_encode);
            }
        }
        let last = uploads.last().filter(|_| more);
        Ok(S3Response::new(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            is_truncated: Some(more),
            next_key_marker: last.and_then(|last| last.key.clone()),
            next_upload_id_marker: last.and_then(|last| last.upload_id.clone()),
            max_uploads: Some(max_uploads),
            encoding_type: input.encoding_type,
            uploads: Some(uploads),
            ..Default::default()
        }))
    }

    async fn list_parts(&self, req: S3Request<ListPartsInput>) -> Reply<ListPartsOutput> {
        let input = req.input;
        let max_parts = input.max_parts.unwrap_or(1000).clamp(1, 1000);
        let after = input.part_number_marker.unwrap_or_default();
        let (parts, more) = self.state().list_parts(&input.upload_id, after, max_parts as usize)?;
        let next = parts.last().filter(|_| more).and_then(|part: &Part| part.part_number);
        Ok(S3Response::new(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            is_truncated: Some(more),
            next_part_number_marker: next,
            max_parts: Some(max_parts),
            parts: Some(parts),
            ..Default::default()
        }))
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> Reply<GetObjectOutput> {
        let input = req.input;
        let found = self.find(&input.bucket, &input.key)?;
        found.check(input.if_match, input.if_none_match)?;
        let mut body = found.object.body.clone();
        let mut content_range = None;
        if let Some(range) = input.range {
            let size = body.len();
            let asked = range.check(size as u64)?;
            if asked.is_empty() {
                // A suffix range of an empty object, which s3s accepts.
                return Err(s3_error!(InvalidRange));
            }
            content_range = Some(format!("bytes {}-{}/{size}", asked.start, asked.end - 1));
            body = body.slice(asked.start as usize..asked.end as usize);
        }
        let output = GetObjectOutput {
            accept_ranges: Some("bytes".into()),
            cache_control: found.object.cache_control.clone(),
            content_length: Some(body.len() as i64),
            content_range,
            content_type: found.object.content_type.clone(),
            storage_class: found.object.storage_class.clone().map(StorageClass::from),
            e_tag: Some(found.etag.clone()),
            last_modified: Some(found.modified.clone()),
            // One frame, which hyper writes without a copy, as much as the socket accepts.
            body: Some(Body::from(body).into()),
            ..Default::default()
        };
        Ok(S3Response::with_headers(output, found.raw_headers()))
    }

    /// `Range` is ignored: s3s answers every HeadObject with 200, where S3 has 206.
    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> Reply<HeadObjectOutput> {
        let input = req.input;
        let found = self.find(&input.bucket, &input.key)?;
        found.check(input.if_match, input.if_none_match)?;
        let output = HeadObjectOutput {
            accept_ranges: Some("bytes".into()),
            cache_control: found.object.cache_control.clone(),
            content_length: Some(found.size()),
            content_type: found.object.content_type.clone(),
            storage_class: found.object.storage_class.clone().map(StorageClass::from),
            e_tag: Some(found.etag.clone()),
            last_modified: Some(found.modified.clone()),
            ..Default::default()
        };
        Ok(S3Response::with_headers(output, found.raw_headers()))
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> Reply<DeleteObjectOutput> {
        let input = req.input;
        let exactly = Exactly {
            by: Conditions::Delete,
            etag: None,
            size: input.if_match_size,
            modified: input.if_match_last_modified_time,
        };
        self.state().delete_object(&input.bucket, &input.key, &req.headers, exactly)?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> Reply<DeleteObjectsOutput> {
        let Delete { objects, quiet } = req.input.delete;
        let mut state = self.state();
        state.bucket(&req.input.bucket)?;
        let mut output = DeleteObjectsOutput::default();
        for ObjectIdentifier { key, e_tag, size, last_modified_time, .. } in objects {
            let by = Conditions::DeleteObjects;
            let exactly = Exactly { by, etag: e_tag, size, modified: last_modified_time };
            let none = HeaderMap::new();
            match state.delete_object(&req.input.bucket, &key, &none, exactly) {
                Ok(()) if quiet == Some(true) => {}
                Ok(()) => {
                    let deleted = output.deleted.get_or_insert_default();
                    deleted.push(DeletedObject { key: Some(key), ..Default::default() });
                }
                Err(error) => {
                    let code = Some(error.code().as_str().to_owned());
                    let errors = output.errors.get_or_insert_default();
                    errors.push(Error { key: Some(key), code, ..Default::default() });
                }
            }
        }
        Ok(S3Response::new(output))
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> Reply<ListObjectsV2Output> {
        let input = req.input;
        let max_keys = input.max_keys.unwrap_or(1000).clamp(0, 1000);
        let prefix = input.prefix.unwrap_or_default();
        let delimiter = input.delimiter.unwrap_or_default();
        let after = match &input.continuation_token {
            Some(token) => decode_token(token).ok_or_else(|| s3_error!(InvalidArgument))?,
            None => input.start_after.clone().unwrap_or_default(),
        };
        let mut state = self.state();
        let bucket = state.bucket(&input.bucket)?;
        let most = max_keys as usize;
        let (page, more) = match is_directory_bucket(&input.bucket) {
            true if input.start_after.is_some() => return Err(s3_error!(NotImplemented)),
            true => list_without_order(bucket, &prefix, &delimiter, &after, most)?,
            false => list(bucket, &prefix, &delimiter, &after, most),
        };

        let url = Some(EncodingType::from_static(EncodingType::URL));
        let encode = if input.encoding_type == url { percent_encode } else { str::to_owned };
        let standard = ObjectStorageClass::from_static(ObjectStorageClass::STANDARD);
        let (mut contents, mut common_prefixes) = (Vec::new(), Vec::new());
        for (name, object) in &page {
            let name = Some(encode(name));
            match object {
                Some(stored) => contents.push(dto::Object {
                    e_tag: Some(stored.etag.clone()),
                    key: name,
                    last_modified: Some(stored.modified.clone()),
                    size: Some(stored.size()),
                    storage_class: Some(standard.clone()),
                    ..Default::default()
                }),
                None => common_prefixes.push(CommonPrefix { prefix: name }),
            }
        }
        let last = page.last().filter(|_| more);
        Ok(S3Response::new(ListObjectsV2Output {
            key_count: Some(page.len() as i32),
            is_truncated: Some(last.is_some()),
            next_continuation_token: last.map(|(name, _)| encode_token(name)),
            contents: Some(contents),
            common_prefixes: Some(common_prefixes),
            prefix: Some(encode(&prefix)),
            delimiter: Some(encode(&delimiter)).filter(|delimiter| !delimiter.is_empty()),
            start_after: input.start_after.as_deref().map(encode),
            name: Some(input.bucket),
            max_keys: Some(max_keys),
            continuation_token: input.continuation_token,
            encoding_type: input.encoding_type,
            ..Default::default()
        }))
    }
}

impl Handle {
    fn find(&self, bucket: &str, key: &str) -> S3Result<Arc<Stored>> {
        let found = self.state().bucket(bucket)?.get(key).cloned();
        found.ok_or_else(|| s3_error!(NoSuchKey))
    }
}

/// The whole body of a request.
async fn received(body: Option<StreamingBlob>, headers: &HeaderMap) -> S3Result<Bytes> {
    let body = body.map(Body::from).unwrap_or_default();
    let cut = |source| S3Error::with_source(S3ErrorCode::IncompleteBody, source);
    let body = body.collect().await.map_err(cut)?.to_bytes();
    // s3s decodes aws-chunked bodies only for signed requests.
    match headers.contains_key("x-amz-decoded-content-length") {
        true => decode_aws_chunked(&body).ok_or_else(|| s3_error!(IncompleteBody)),
        false => Ok(body),
    }
}

/// RenameObject, which s3s does not know and treats as a PUT.
pub(super) struct RenameObject(pub Handle);

#[async_trait]
impl S3Route for RenameObject {
    fn is_match(&self, method: &Method, uri: &Uri, _: &HeaderMap, _: &mut Extensions) -> bool {
        let is_rename = uri.query().is_some_and(|query| has(query, "renameObject"));
        method == Method::PUT && is_rename && !self.0.state().personality.takes_rename_for_put
    }

    async fn check_access(&self, _: &mut S3Request<Body>) -> S3Result<()> {
        Ok(())
    }

    async fn call(&self, req: S3Request<Body>) -> Reply<Body> {
        let source = req.headers.get("x-amz-rename-source").and_then(|it| it.to_str().ok());
        let source = source.and_then(|it| CopySource::parse(it).ok());
        let source = source.ok_or_else(|| s3_error!(InvalidArgument))?;
        let path = percent_decode_str(req.uri.path()).decode_utf8();
        let path = path.map_err(|_| s3_error!(InvalidArgument))?;
        let (bucket, key) = path[1..].split_once('/').ok_or_else(|| s3_error!(InvalidArgument))?;
        self.0.state().rename_object(&source, bucket, key, &req.headers)?;
        Ok(S3Response::new(Body::empty()))
    }
}

impl State {
    pub(super) fn bucket(&mut self, name: &str) -> S3Result<&mut Bucket> {
        let found = self.buckets.get_mut(name);
        found.ok_or_else(|| s3_error!(NoSuchBucket))
    }
}

impl Stored {
    pub(super) fn size(&self) -> i64 {
        self.object.body.len() as i64
    }

    /// The headers that s3s must not write itself.
    fn raw_headers(&self) -> HeaderMap {
        let mut headers = self.object.others.clone();
        headers.extend(self.object.expires.clone().map(|raw| (EXPIRES, raw)));
        headers
    }

    /// Checks a request's conditions against the object, in the order of RFC 9110 §13.2.2.
    fn check(&self, if_match: Option<IfMatch>, if_none_match: Option<IfNoneMatch>) -> S3Result {
        // No ETag in a condition means that it is `*`.
        let same = |tag: &ETag| tag.strong_cmp(&self.etag);
        if if_match.is_some_and(|wanted| !wanted.as_etag().is_none_or(same)) {
            return Err(s3_error!(PreconditionFailed));
        }
        let known = |tag: &ETag| tag.weak_cmp(&self.etag);
        if if_none_match.is_some_and(|held| held.as_etag().is_none_or(known)) {
            let mut headers = self.raw_headers();
            headers.insert(ETAG, self.etag.to_http_header().expect("hex digits"));
            let mut not_modified = s3_error!(NotModified);
            not_modified.set_headers(headers);
            return Err(not_modified);
        }
        Ok(())
    }
}

/// An entry of a listing: a key with its object, or a common prefix without one.
type Entry<'a> = (&'a str, Option<&'a Stored>);

/// The first `max` entries whose names come after `after`, and whether there are more. An empty
/// `delimiter` is none.
///
/// Keys and common prefixes are one sequence, and both count against `max`. Names are strictly
/// ascending, so a common prefix is never repeated: neither by another key under it, nor on the
/// next page. A start-after within a common prefix skips it.
fn list<'a>(
    bucket: &'a Bucket,
    prefix: &str,
    delimiter: &str,
    after: &str,
    max: usize,
) -> (Vec<Entry<'a>>, bool) {
    let mut page: Vec<Entry<'_>> = Vec::new();
    let start = Bound::Included(after.max(prefix));
    for (key, stored) in bucket.range::<str, _>((start, Bound::Unbounded)) {
        let Some(rest) = key.strip_prefix(prefix) else {
            break;
        };
        let (name, object) = match rest.split_once(delimiter) {
            Some((head, _)) if !delimiter.is_empty() => {
                (&key[..prefix.len() + head.len() + delimiter.len()], None)
            }
            _ => (&key[..], Some(&**stored)),
        };
        if name <= page.last().map_or(after, |(name, _)| name) {
            continue;
        }
        if page.len() == max {
            return (page, true);
        }
        page.push((name, object));
    }
    (page, false)
}

/// Directory buckets (S3 Express One Zone) are known by their names.
fn is_directory_bucket(bucket: &str) -> bool {
    bucket.ends_with("--x-s3")
}

/// The same for a directory bucket, whose names come in an order of their own: here, that of the names
/// read backwards. A prefix must be a directory (S3 API reference, ListObjectsV2).
fn list_without_order<'a>(
    bucket: &'a Bucket,
    prefix: &str,
    delimiter: &str,
    after: &str,
    max: usize,
) -> S3Result<(Vec<Entry<'a>>, bool)> {
    if !prefix.is_empty() && !prefix.ends_with('/') || !["", "/"].contains(&delimiter) {
        return Err(s3_error!(InvalidArgument, "prefix and delimiter must end in /"));
    }
    let backwards = |name: &str| name.bytes().rev().collect::<Vec<_>>();
    let (mut names, _) = list(bucket, prefix, delimiter, "", usize::MAX);
    names.sort_by_key(|(name, _)| backwards(name));
    let first = match after {
        "" => 0,
        _ => names.partition_point(|(name, _)| backwards(name) <= backwards(after)),
    };
    let page: Vec<_> = names.split_off(first);
    let more = page.len() > max;
    Ok((page.into_iter().take(max).collect(), more))
}

/// A continuation token is the last entry's name in hex, since names may contain characters that
/// XML cannot.
fn encode_token(name: &str) -> String {
    hex(name.as_bytes())
}

fn decode_token(token: &str) -> Option<String> {
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = token.as_bytes().chunks(2).map(byte).collect();
    String::from_utf8(bytes?).ok()
}

/// For `encoding-type=url`. A space becomes `%20`, where S3 writes `+`: every decoder accepts both.
fn percent_encode(name: &str) -> String {
    let encode = |byte: u8| match byte {
        b'-' | b'_' | b'.' | b'~' | b'/' => char::from(byte).into(),
        _ if byte.is_ascii_alphanumeric() => char::from(byte).into(),
        _ => format!("%{byte:02X}"),
    };
    name.bytes().map(encode).collect()
}

/// Joins the chunks of an `aws-chunked` body: `LENGTH[;SIGNATURE] CRLF DATA CRLF` until a LENGTH,
/// in hex, of 0; then trailers. Signatures and the checksum in the trailers are ignored. `None` if
/// it is truncated or malformed.
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming-trailers.html>
fn decode_aws_chunked(mut body: &[u8]) -> Option<Bytes> {
    let mut decoded = Vec::with_capacity(body.len());
    loop {
        let line_end = body.windows(2).position(|pair| pair == b"\r\n")?;
        let line = std::str::from_utf8(&body[..line_end]).ok()?;
        let length = usize::from_str_radix(line.split(';').next()?, 16).ok()?;
        body = &body[line_end + 2..];
        if length == 0 {
            return Some(decoded.into());
        }
        let (data, rest) = body.split_at_checked(length)?;
        decoded.extend_from_slice(data);
        body = rest.strip_prefix(b"\r\n")?;
    }
}
