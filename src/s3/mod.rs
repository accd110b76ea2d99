//! The store over aws-sdk-s3: the only place that knows the SDK.
//!
//! Owns connections, credentials, retries and throttling. One HTTP client serves the bucket; its
//! cap on sockets is the number of bodies plus that of metadata requests, each of which acquires a
//! permit first. So sockets stay within the descriptor budget, and a request waits at most for a
//! socket to close. A second client with a few sockets serves the hosts of credentials. Knows
//! nothing of expiry rules, paths or the mount.

mod batch;
mod checksum;
mod document;
mod etag;
mod failure;
mod gate;
pub mod http;
mod identity;
mod interceptor;
mod levels;
mod owner;
mod page;
mod progress;
pub mod proxy;
mod retry;
mod site;
mod tls;
mod write;

use std::convert::Infallible;
use std::future::pending;
use std::ops::Range;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::SharedHttpClient;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    RequestChecksumCalculation, ResponseChecksumValidation, StalledStreamProtectionConfig,
};
use aws_sdk_s3::operation::RequestId;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{ChecksumMode, EncodingType, RequestPayer};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::{JoinError, spawn_blocking};

use crate::clock::Clock;
use crate::error::{Error, Report, Result, chain};
use crate::fd_budget::Budget;
use crate::metrics::Metrics;
use crate::store::write::NONCE;
use crate::store::write::NewObjects;
use crate::store::{Checksum, Content, Headers, ListRequest, Object, Page, Store, Version};
use etag::Etags;
use failure::{archived, not_the_store};
use gate::Gate;
use identity::Identities;
use interceptor::Interceptor;
use levels::{Levels, Source, is_directory_bucket};
use owner::OwnedBy;
use proxy::{Proxies, Routes};
pub use retry::LastFailure;
use retry::{LeaveOutages, Retry};
pub use site::{QUIET, Site};

/// How long a connection is kept for the next request, unless an [`Endpoint`] says otherwise.
const POOL_IDLE: Duration = Duration::from_secs(10);

/// How long commands, and the check before a mount, retry a store that cannot be reached.
pub const BRIEF_OUTAGE: Duration = Duration::from_secs(3);

/// Tries of one request by the SDK if the store reports a failure. The pauses double, each reduced
/// by a random factor: some 4 s in total.
const ATTEMPTS: u32 = 6;
const FIRST_BACKOFF: Duration = Duration::from_millis(250);

/// How long a lookup that has received the headers waits for the content.
const CONTENT: Duration = Duration::from_secs(1);

/// The location of the bucket, and how to connect to it.
#[derive(Clone, Debug, Default)]
pub struct Endpoint {
    pub bucket: String,
    pub endpoint_url: Option<String>,
    pub region: Option<String>,
    pub profile: Option<String>,
    pub no_sign_request: bool,
    pub addressing: Addressing,
    pub requester_pays: bool,
    /// How long a connection is kept for the next request.
    pub pool_idle: Option<Duration>,
    pub proxies: Proxies,
    /// Certificates to trust instead of the system's.
    pub ca_bundle: Option<PathBuf>,
    /// Endpoints of AWS that are certified for FIPS 140, and those with IPv6.
    pub fips: bool,
    pub dual_stack: bool,
    /// The account that must own the bucket.
    pub owner: Option<String>,
}

/// Where the bucket's name goes in a URL (`--addressing-style`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Addressing {
    /// In the host for AWS, in the path for any other endpoint.
    #[default]
    Auto,
    /// `http://HOST/BUCKET/KEY`
    Path,
    /// `http://BUCKET.HOST/KEY`
    Virtual,
}

/// Runs a future on a thread where it may block: the SDK reads files by `std::fs`, and a disk of a
/// network may not answer. If this is dropped, it is polled no more.
pub async fn on_its_own_thread<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> T {
    let runtime = Handle::current();
    let (_waits, dropped) = oneshot::channel::<Infallible>();
    let done = spawn_blocking(move || {
        runtime.block_on(async {
            tokio::select! {
                biased;
                _ = dropped => None,
                done = work => Some(done),
            }
        })
    });
    match done.await.map_err(JoinError::try_into_panic) {
        Ok(Some(done)) => done,
        Err(Ok(panic)) => resume_unwind(panic),
        // The runtime ends.
        Ok(None) | Err(Err(_)) => pending().await,
    }
}

/// A bucket.
#[derive(Clone)]
pub struct S3 {
    client: Client,
    /// For changes: sends each request once.
    changes: Client,
    bucket: String,
    requester_pays: bool,
    /// ETags in the conditions of changes have no quotes.
    bare_etags: bool,
    new_objects: NewObjects,
    retry: Retry,
    /// Limits the HEAD and LIST requests in flight.
    gate: Arc<Gate>,
    etags: Arc<Etags>,
    /// Of a directory bucket.
    levels: Option<Arc<Levels>>,
    metrics: Arc<Metrics>,
    /// `None`: requests are not signed.
    identities: Option<Identities>,
}

impl S3 {
    /// A client for the bucket; nothing is sent yet. Each call ends within `timeout`, and retries a
    /// store that cannot be reached until then.
    ///
    /// # Errors
    /// If no HTTP client can be made, in words for the operator.
    pub async fn new(
        site: &Site,
        budget: &Budget,
        timeout: Duration,
        clock: Arc<Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<S3, String> {
        let bucket = http::Limits {
            sockets: budget.connections(),
            idle: Some(site.endpoint.pool_idle.unwrap_or(POOL_IDLE)),
            connect: timeout.min(Duration::from_secs(5)),
            untaken: timeout,
        };
        // Credentials have their own sockets: a refresh never waits for bodies.
        let elsewhere = http::Limits { sockets: budget.credentials, idle: None, ..bucket };
        let ca_bundle = site.ca_bundle.as_deref();
        let routes = Routes::new(&site.endpoint.proxies)?;
        let [bucket, elsewhere] =
            http::clients([bucket, elsewhere], ca_bundle, routes, metrics.clone())
                .map_err(|e| format!("no HTTP client: {e}"))?;

        let elsewhere = SharedHttpClient::new(elsewhere);
        let shared = site.loader(elsewhere.clone()).load().await;
        let endpoint = site.endpoint.clone();
        let is_elsewhere = endpoint.endpoint_url.is_some();
        let path_style = match endpoint.addressing {
            Addressing::Auto => is_elsewhere,
            Addressing::Path => true,
            Addressing::Virtual => false,
        };
        let gate = Arc::new(Gate::new(budget.metadata));
        let timeouts = TimeoutConfig::builder()
            // A try without a response leaves time for one more, on another connection.
            .operation_attempt_timeout(timeout / 2)
            .operation_timeout(timeout)
            .build();
        let retries =
            RetryConfig::standard().with_max_attempts(ATTEMPTS).with_initial_backoff(FIRST_BACKOFF);
        let mut config = aws_sdk_s3::config::Builder::from(&shared);
        config.set_endpoint_url(endpoint.endpoint_url);
        let config = config
            .http_client(bucket)
            .force_path_style(path_style)
            .timeout_config(timeouts)
            .retry_config(retries)
            .retry_classifier(LeaveOutages)
            .stalled_stream_protection(StalledStreamProtectionConfig::enabled().build())
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            // That of the ARN of an access point.
            .use_arn_region(true)
            .interceptor(Interceptor { clock, metrics: metrics.clone(), gate: gate.clone() });
        let identities = (!endpoint.no_sign_request).then(|| {
            let site = site.clone();
            Identities::new(&shared, move || site.loader(elsewhere.clone()))
        });
        let config = match identities.clone() {
            Some(identities) => {
                config.identity_cache(identities.clone()).credentials_provider(identities)
            }
            None => config,
        };
        let config = match endpoint.owner {
            Some(owner) => config.interceptor(OwnedBy::new(owner)),
            None => config,
        };
        if shared.region().is_none() {
            return Err("no region: give --region, or set AWS_REGION".to_owned());
        }
        let config = config.build();
        let once = config
            .to_builder()
            .timeout_config(TimeoutConfig::builder().disable_operation_attempt_timeout().build())
            .retry_config(RetryConfig::disabled())
            .build();
        Ok(S3 {
            client: Client::from_conf(config),
            changes: Client::from_conf(once),
            levels: is_directory_bucket(&endpoint.bucket).then(Arc::default),
            bucket: endpoint.bucket,
            requester_pays: endpoint.requester_pays,
            bare_etags: false,
            new_objects: NewObjects::default(),
            retry: Retry { timeout, outage: timeout, last_failure: LastFailure::default() },
            gate,
            etags: Arc::default(),
            metrics,
            identities,
        })
    }

    /// The same bucket, for calls that retry an unreachable store only for `outage`.
    pub fn with_outage(&self, outage: Duration) -> S3 {
        S3 { retry: Retry { outage, ..self.retry.clone() }, ..self.clone() }
    }

    /// Of all calls of this value and of those made from it.
    pub fn last_failure(&self) -> LastFailure {
        self.retry.last_failure.clone()
    }

    fn payer(&self) -> Option<RequestPayer> {
        self.requester_pays.then_some(RequestPayer::Requester)
    }

    /// The headers of an object. The caller holds a permit of the gate.
    async fn headers(&self, key: &str) -> Result<Object> {
        self.object(key, self.ask_head(key, None).await?)
    }

    async fn ask_head(&self, key: &str, mode: Option<ChecksumMode>) -> Result<HeadObjectOutput> {
        let head = self.client.head_object().bucket(&self.bucket).key(key);
        let head = head.set_checksum_mode(mode).set_request_payer(self.payer());
        head.send().await.map_err(|e| self.head_failure(e))
    }

    fn object(&self, key: &str, out: HeadObjectOutput) -> Result<Object> {
        let size = length(out.content_length)?;
        self.etags.note(key, out.e_tag.as_deref());
        let version = version(key, out.e_tag.as_deref(), out.last_modified, size)?;
        let headers = Headers {
            expires: out.expires_string,
            cache_control: out.cache_control,
            expiration: out.expiration,
            content_type: out.content_type,
            storage_class: out.storage_class.map(|class| class.as_str().to_owned()),
            nonce: out.metadata.and_then(|mut metadata| metadata.remove(NONCE)),
        };
        Ok(Object { version, headers })
    }

    /// A response with the bytes `range` of this version.
    async fn content(&self, asked: &Version, range: Range<u64>) -> Result<(Object, Content)> {
        let whole = range == (0..asked.size);
        let mut get = self.client.get_object().bucket(&self.bucket).key(&*asked.key);
        if !asked.etag.is_empty() && !self.etags.are_weak() {
            get = get.if_match(format!("\"{}\"", asked.etag));
        }
        if !whole {
            get = get.range(format!("bytes={}-{}", range.start, range.end - 1));
        }
        let answer = get.set_request_payer(self.payer()).send().await;
        let mut out = answer.map_err(|error| match archived(&error) {
            Some(archived) => archived,
            None => match self.failure(error) {
                Error::NotFound => Error::Stale,
                Error::Unconfirmed(says) => Error::Unreachable(not_the_store(says)),
                other => other,
            },
        })?;
        let length = length(out.content_length)?;
        let size = match (whole, out.content_range.as_deref()) {
            (true, None) => length,
            (_, Some(text)) => match content_range(text) {
                Some((got, size)) if got == range => size,
                _ => {
                    return Err(Error::Protocol(
                        format!("{text:?} for the range {range:?}").into(),
                    ));
                }
            },
            (false, None) => return Err(Error::Protocol(format!("no range for {range:?}").into())),
        };
        let version = version(&asked.key, out.e_tag.as_deref(), out.last_modified, size)?;
        if !asked.is(&version) {
            return Err(Error::Stale);
        }
        if length != range.end - range.start {
            return Err(Error::Protocol(format!("{length} bytes for the range {range:?}").into()));
        }
        let headers = headers(&mut out);
        let id = request_id(&out);
        Ok((Object { version, headers }, received(out.body, id, self.metrics.clone())))
    }

    /// Runs a metadata request once it has a permit of the gate.
    async fn metadata<T, F>(&self, ask: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let in_turn = || async {
            let _turn = self.gate.turn().await;
            ask().await
        };
        self.run(in_turn).await
    }

    /// Retries a request while the failure may be temporary; once, with other credentials, if it may
    /// have failed because of these.
    async fn run<T, F>(&self, ask: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let Some(identities) = &self.identities else { return self.retry.run(ask).await };
        let once_more = || async {
            let generation = identities.generation();
            match ask().await {
                Err(error) if identities.is_outdated(generation, &error) => ask().await,
                answer => answer,
            }
        };
        self.retry.run(once_more).await
    }
}

#[async_trait]
impl Store for S3 {
    async fn head(&self, key: &str) -> Result<Object> {
        self.metadata(|| self.headers(key)).await
    }

    async fn head_with_checksum(&self, key: &str) -> Result<(Object, Option<Checksum>)> {
        let ask = || async {
            let out = self.ask_head(key, Some(ChecksumMode::Enabled)).await?;
            let checksum = checksum::of_whole_object(&out);
            Ok((self.object(key, out)?, checksum))
        };
        self.metadata(ask).await
    }

    async fn probe(&self, key: &str, most: u64) -> Result<(Object, Bytes)> {
        let ask = || async {
            let last = most.saturating_sub(1);
            let get = self.client.get_object().bucket(&self.bucket).key(key);
            let get = get.range(format!("bytes=0-{last}")).set_request_payer(self.payer());
            let mut out = match get.send().await {
                Ok(out) => out,
                Err(error) => {
                    let archived = archived(&error).is_some();
                    return match self.failure(error) {
                        // The first bytes are missing if the object is empty (416), or cannot be
                        // read: it is archived, or its encryption key is denied. Its headers are
                        // still available.
                        Error::Refused(_) | Error::Denied(_) => self.headers(key).await,
                        _ if archived => self.headers(key).await,
                        other => Err(other),
                    }
                    .map(|object| (object, Bytes::new()));
                }
            };
            let size = match out.content_range.as_deref() {
                None => length(out.content_length)?,
                Some(text) => match content_range(text) {
                    Some((range, size)) if range.start == 0 && range.end <= size => size,
                    _ => {
                        return Err(Error::Protocol(
                            format!("{text:?} for the first bytes").into(),
                        ));
                    }
                },
            };
            self.etags.note(key, out.e_tag.as_deref());
            let version = version(key, out.e_tag.as_deref(), out.last_modified, size)?;
            let headers = headers(&mut out);
            let body = received(out.body, None, self.metrics.clone());
            let first = tokio::time::timeout(CONTENT, first_bytes(body, most.min(size)));
            // A read requests the missing bytes again.
            let first = first.await.unwrap_or_default();
            Ok((Object { version, headers }, first))
        };
        self.metadata(ask).await
    }

    async fn get(&self, asked: &Version, range: Range<u64>) -> Result<(Object, Content)> {
        self.run(|| self.content(asked, range.clone())).await
    }

    fn begins_anywhere(&self) -> bool {
        self.levels.is_none()
    }

    async fn list(&self, request: ListRequest<'_>) -> Result<Page> {
        match &self.levels {
            Some(levels) => levels.page(self, request).await,
            None => self.page(request).await,
        }
    }
}

#[async_trait]
impl Source for S3 {
    async fn page(&self, request: ListRequest<'_>) -> Result<Page> {
        let ask = || async {
            let list = self
                .client
                .list_objects_v2()
                .bucket(&self.bucket)
                .prefix(request.prefix)
                .set_delimiter((!request.recursive).then(|| "/".to_owned()))
                .max_keys(i32::from(request.max_keys))
                // XML 1.0 cannot represent all keys (S3 API reference, ListObjectsV2).
                .encoding_type(EncodingType::Url)
                .set_continuation_token(request.token.map(str::to_owned))
                .set_start_after(request.start_after.map(str::to_owned))
                .set_request_payer(self.payer());
            page::read(list.send().await.map_err(|e| self.list_failure(e))?)
        };
        self.metadata(ask).await
    }
}

/// Moves the headers out of a response.
fn headers(out: &mut GetObjectOutput) -> Headers {
    Headers {
        expires: out.expires_string.take(),
        cache_control: out.cache_control.take(),
        expiration: out.expiration.take(),
        content_type: out.content_type.take(),
        storage_class: out.storage_class.take().map(|class| class.as_str().to_owned()),
        nonce: out.metadata.take().and_then(|mut metadata| metadata.remove(NONCE)),
    }
}

fn request_id(of: &impl RequestId) -> Option<Box<str>> {
    of.request_id().map(Into::into)
}

/// The body of the response to request `id`; dropping it closes the response.
fn received(mut body: ByteStream, id: Option<Box<str>>, metrics: Arc<Metrics>) -> Content {
    let chunks =
        futures_util::stream::poll_fn(move |cx| std::pin::Pin::new(&mut body).poll_next(cx));
    chunks
        .map(move |chunk| match chunk {
            Ok(chunk) => {
                metrics.bytes_received.add(chunk.len() as u64);
                Ok(chunk)
            }
            Err(error) => Err(Error::Unreachable(Report {
                text: format!("the body broke: {}", chain(&error)),
                request_id: id.clone(),
                code: None,
            })),
        })
        .boxed()
}

/// Up to `most` first bytes of a body, in a buffer of exactly their size: a chunk of the HTTP
/// client may be a small part of a large buffer. The bytes received before a body broke are valid,
/// too.
async fn first_bytes(mut body: Content, most: u64) -> Bytes {
    let most = most as usize;
    let mut first = BytesMut::with_capacity(most);
    while first.len() < most
        && let Some(Ok(chunk)) = body.next().await
    {
        first.extend_from_slice(&chunk[..chunk.len().min(most - first.len())]);
    }
    first.freeze()
}

fn length(length: Option<i64>) -> Result<u64> {
    length
        .and_then(|n| u64::try_from(n).ok())
        .ok_or_else(|| Error::Protocol(format!("a length of {length:?}").into()))
}

fn version(
    key: &str,
    etag: Option<&str>,
    modified: Option<DateTime>,
    size: u64,
) -> Result<Version> {
    // Whole seconds, as in headers; a listing may have fractions.
    let seconds = modified.map_or(0, |at| at.secs());
    let at = SystemTime::try_from(DateTime::from_secs(seconds))
        .map_err(|e| Error::Protocol(format!("a Last-Modified of {seconds}: {e}").into()))?;
    let etag = etag::opaque(etag.unwrap_or_default());
    let slack = Duration::ZERO;
    Ok(Version { key: key.into(), etag: etag.into(), last_modified: at, slack, size })
}

/// `bytes FIRST-LAST/SIZE` (RFC 9110 §14.4), as a range and the object's size.
fn content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let end = last.parse::<u64>().ok()?.checked_add(1)?;
    Some((first.parse().ok()?..end, size.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(content_range("bytes 0-9/10"), Some((0..10, 10)));
        assert_eq!(content_range("bytes 5-9/100"), Some((5..10, 100)));
        for bad in ["", "bytes */10", "bytes 5-9/*", "5-9/10", "bytes 5-/10", "bytes -9/10"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
        assert_eq!(content_range("bytes 0-18446744073709551615/1"), None);
    }

    #[test]
    fn versions_ignore_quotes_and_fractions_of_seconds() {
        let at = |nanos| Some(DateTime::from_secs_and_nanos(1_700_000_000, nanos));
        let headers = version("k", Some("\"abc\""), at(0), 1).unwrap();
        let listed = version("k", Some("abc"), at(123_456_789), 1).unwrap();
        assert_eq!(headers, listed);
    }
}
