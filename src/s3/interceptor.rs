//! An interceptor of the SDK, for what concerns every request: counters, clock, throttling.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use aws_sdk_s3::config::interceptors::{
    BeforeDeserializationInterceptorContextMut, BeforeDeserializationInterceptorContextRef,
    BeforeTransmitInterceptorContextMut, BeforeTransmitInterceptorContextRef,
    FinalizerInterceptorContextRef,
};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use aws_smithy_runtime_api::http::Headers;
use aws_smithy_types::config_bag::{Storable, StoreReplace};
use tokio::time::Instant;

use super::gate::Gate;
use super::http::Answer;
use crate::clock::Clock;
use crate::expiry;
use crate::metrics::{Metrics, Outcome, Requests};
use crate::waits::{Wait, Waiting};

/// Sees every try of every request: counts it, and reads the `Date` of its response.
#[derive(Debug)]
pub struct Interceptor {
    pub clock: Arc<Clock>,
    pub metrics: Arc<Metrics>,
    pub gate: Arc<Gate>,
}

/// A try of a request in flight, which is counted once.
#[derive(Debug)]
struct InFlight {
    operation: String,
    sent: Instant,
    sent_at: SystemTime,
    is_counted: AtomicBool,
    metrics: Arc<Metrics>,
}

impl InFlight {
    fn ends(&self, outcome: Outcome) {
        if !self.is_counted.swap(true, Ordering::Relaxed) {
            let answers = kind(&self.operation, &self.metrics.answers).0;
            answers.add(outcome, self.sent.elapsed());
        }
    }
}

/// A request that nobody waits for any more is dropped with all of its state.
impl Drop for InFlight {
    fn drop(&mut self) {
        self.ends(Outcome::Cancelled);
    }
}

impl Storable for InFlight {
    type Storer = StoreReplace<InFlight>;
}

/// What the request waits for now.
#[derive(Debug)]
struct Current(#[expect(dead_code, reason = "ends when it is dropped")] Waiting);

impl Storable for Current {
    type Storer = StoreReplace<Current>;
}

/// What is kept about an operation (S3 API reference, "Actions"), and what its successful response
/// contains.
fn kind<'a, N>(operation: &str, requests: &'a Requests<N>) -> (&'a N, Answer) {
    let kept = match operation {
        "GetObject" => return (&requests.get, Answer::Content),
        "ListObjectsV2" => return (&requests.list, Answer::Listing),
        "HeadObject" => &requests.head,
        "PutObject" => &requests.put,
        "CopyObject" => &requests.copy,
        "RenameObject" => &requests.rename,
        "DeleteObject" | "DeleteObjects" => &requests.delete,
        "CreateMultipartUpload" => &requests.create_upload,
        "UploadPart" => &requests.upload_part,
        "UploadPartCopy" => &requests.copy_part,
        "CompleteMultipartUpload" => &requests.complete_upload,
        "AbortMultipartUpload" => &requests.abort_upload,
        _ => &requests.other,
    };
    (kept, Answer::Document)
}

/// Whether a response has content. What has no length may be empty, but not as HTML.
fn has_page(headers: &Headers) -> bool {
    match headers.get("content-length") {
        Some(length) => length != "0",
        None => headers.get("content-type").is_some_and(|kind| kind.starts_with("text/html")),
    }
}

impl Intercept for Interceptor {
    fn name(&self) -> &'static str {
        "Interceptor"
    }

    fn read_before_attempt(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        // Storing a wait ends the one before.
        bag.interceptor_state().store_put(Current(Wait::Response.begin()));
        Ok(())
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let operation = bag.load::<Metadata>().map_or("", Metadata::name).to_owned();
        let (counter, answer) = kind(&operation, &self.metrics.requests);
        counter.add(1);
        context.request_mut().add_extension(answer);
        bag.interceptor_state().store_put(InFlight {
            operation,
            sent: Instant::now(),
            sent_at: self.clock.local_now(),
            is_counted: AtomicBool::new(false),
            metrics: self.metrics.clone(),
        });
        Ok(())
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let operation = bag.load::<InFlight>().map_or("", |sent| &sent.operation);
        let has_no_content = matches!(operation, "PutObject" | "UploadPart");
        let partial = context.response().status().as_u16() == 206;
        let headers = context.response_mut().headers_mut();
        // The SDK panics on an Expires that is not UTF-8 (s3_expires_interceptor.rs, 1.157). It is
        // not a date in any case.
        if headers.contains_key("expires") && headers.get("expires").is_none() {
            headers.insert("expires", "(not UTF-8)");
        }
        // A partial response without its range (RFC 9110 §15.3.7.1) must not be taken for the whole
        // object.
        if partial && !headers.contains_key("content-range") {
            headers.insert("content-range", "(none)");
        }
        // The ETag of a page that a proxy answers with is not that of the object.
        if has_no_content && has_page(headers) {
            headers.remove("etag");
        }
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let (status, sent) = (context.response().status().as_u16(), bag.load::<InFlight>());
        sent.inspect(|sent| sent.ends(Outcome::of_status(status)));
        match status {
            429 | 503 => {
                self.metrics.throttled.add(1);
                self.gate.throttled();
            }
            _ => self.gate.answered(),
        }
        let date = context.response().headers().get("date");
        // A response from a cache on the way has an old date (RFC 9111 §5.1).
        let date = date.filter(|_| !context.response().headers().contains_key("age"));
        if let (Some(date), Some(InFlight { sent_at, .. })) = (date, sent) {
            let received = self.clock.local_now();
            if let Some(date) = expiry::http_date(date, received) {
                self.clock.learn(date, *sent_at, received);
            }
        }
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let outcome = match context.output_or_error() {
            Some(Err(error)) if error.is_timeout_error() => Outcome::Timeout,
            Some(Err(error)) => match error.as_connector_error() {
                Some(error) if error.is_timeout() => Outcome::Timeout,
                Some(_) => Outcome::Connection,
                None => Outcome::Other,
            },
            _ => Outcome::Other,
        };
        // One with a response was counted before.
        bag.load::<InFlight>().inspect(|sent| sent.ends(outcome));
        // Until the next try, or the end of the request.
        bag.interceptor_state().store_put(Current(Wait::Backoff.begin()));
        Ok(())
    }
}
