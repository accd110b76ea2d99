//! The S3 operations that s3s calls: reading and changing the buckets of a [`Handle`].

use std::ops::Bound;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::header::{ETAG, EXPIRES, HeaderMap};
use s3s::dto::{self, *};
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};

use super::{Bucket, Handle, Object, RawExpires, State, Stored, hex};

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

    async fn put_object(&self, req: S3Request<PutObjectInput>) -> Reply<PutObjectOutput> {
        let input = req.input;
        let body = input.body.map(s3s::Body::from).unwrap_or_default();
        let cut = |source| S3Error::with_source(S3ErrorCode::IncompleteBody, source);
        let mut body = body.collect().await.map_err(cut)?.to_bytes();
        // s3s decodes aws-chunked bodies only for those who sign.
        if req.headers.contains_key("x-amz-decoded-content-length") {
            body = decode_aws_chunked(&body).ok_or_else(|| s3_error!(IncompleteBody))?;
        }
        let stored = Stored::new(Object {
            body,
            expires: req.extensions.get().map(|RawExpires(raw)| raw.clone()),
            content_type: input.content_type,
            cache_control: input.cache_control,
            last_modified: None,
        });
        let e_tag = Some(stored.etag.clone());
        let mut state = self.state();
        let bucket = state.bucket(&input.bucket)?;
        match bucket.get(&input.key) {
            // `*` is the only value that S3 knows here.
            Some(_) if input.if_none_match.is_some() => return Err(s3_error!(PreconditionFailed)),
            Some(old) => old.check(input.if_match, None)?,
            None if input.if_match.is_some() => return Err(s3_error!(NoSuchKey)),
            None => {}
        }
        bucket.insert(input.key, Arc::new(stored));
        Ok(S3Response::new(PutObjectOutput { e_tag, ..Default::default() }))
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
                // The suffix of an empty object, which s3s lets pass.
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
            e_tag: Some(found.etag.clone()),
            last_modified: Some(found.modified.clone()),
            // One frame, which hyper writes from where it lies, as much as the socket takes.
            body: Some(s3s::Body::from(body).into()),
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
            e_tag: Some(found.etag.clone()),
            last_modified: Some(found.modified.clone()),
            ..Default::default()
        };
        Ok(S3Response::with_headers(output, found.raw_headers()))
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> Reply<DeleteObjectOutput> {
        let mut state = self.state();
        state.bucket(&req.input.bucket)?.remove(&req.input.key);
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> Reply<DeleteObjectsOutput> {
        let Delete { objects, quiet } = req.input.delete;
        let mut state = self.state();
        let bucket = state.bucket(&req.input.bucket)?;
        let mut output = DeleteObjectsOutput::default();
        for ObjectIdentifier { key, .. } in objects {
            bucket.remove(&key);
            if quiet != Some(true) {
                let key = Some(key);
                let deleted = output.deleted.get_or_insert_default();
                deleted.push(DeletedObject { key, ..Default::default() });
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
        let (page, more) = list(bucket, &prefix, &delimiter, &after, max_keys as usize);

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

impl State {
    fn bucket(&mut self, name: &str) -> S3Result<&mut Bucket> {
        let found = self.buckets.get_mut(name);
        found.ok_or_else(|| s3_error!(NoSuchBucket))
    }
}

impl Stored {
    fn size(&self) -> i64 {
        self.object.body.len() as i64
    }

    /// The headers that s3s must not write itself.
    fn raw_headers(&self) -> HeaderMap {
        HeaderMap::from_iter(self.object.expires.clone().map(|raw| (EXPIRES, raw)))
    }

    /// Holds a request's conditions against the object, in the order of RFC 9110 §13.2.2.
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

/// A line of a listing: a key with its object, or a common prefix with none.
type Entry<'a> = (&'a str, Option<&'a Stored>);

/// The first `max` entries whose names come after `after`, and whether there are more. An empty
/// `delimiter` is none.
///
/// Keys and common prefixes are one sequence, and both count against `max`. Names rise strictly, and
/// that alone keeps a common prefix from being repeated: neither another key under it nor the page
/// after the one it ended can name it again. A start-after within a common prefix passes over it.
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

/// A continuation token is the last entry's name in hex, since names may hold what XML cannot.
fn encode_token(name: &str) -> String {
    hex(name.as_bytes())
}

fn decode_token(token: &str) -> Option<String> {
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = token.as_bytes().chunks(2).map(byte).collect();
    String::from_utf8(bytes?).ok()
}

/// For `encoding-type=url`. A space becomes `%20` where S3 writes `+`: every decoder reads that.
fn percent_encode(name: &str) -> String {
    let encode = |byte: u8| match byte {
        b'-' | b'_' | b'.' | b'~' | b'/' => char::from(byte).into(),
        _ if byte.is_ascii_alphanumeric() => char::from(byte).into(),
        _ => format!("%{byte:02X}"),
    };
    name.bytes().map(encode).collect()
}

/// Joins the chunks of an `aws-chunked` body: `LENGTH[;SIGNATURE] CRLF DATA CRLF` until a LENGTH,
/// in hex, of 0; then trailers. Signatures and the checksum in the trailers are not looked at.
/// `None` if it is cut short or malformed.
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
