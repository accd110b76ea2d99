//! Failed requests: the error for the file system, and the text for the operator.

use std::error::Error as StdError;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use aws_sdk_s3::operation::get_object::GetObjectError;
use aws_sdk_s3::operation::head_object::HeadObjectError;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Error;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use super::S3;
use super::identity::is_of_credentials;
use crate::error::{Error, Report, chain};
use crate::s3::tls::{NoConnection, is_no_http};

/// The error for an object that has to be restored before it can be read.
pub fn archived(error: &SdkError<GetObjectError, HttpResponse>) -> Option<Error> {
    let error = error.as_service_error()?;
    match error {
        GetObjectError::InvalidObjectState(state) => {
            let class = state.storage_class();
            let class = class.map_or_else(|| "unknown".to_owned(), ToString::to_string);
            Some(Error::Archived(report(error, class)))
        }
        _ => None,
    }
}

/// The same failure in these words.
fn report(error: &impl ProvideErrorMetadata, text: String) -> Report {
    let meta = error.meta();
    let request_id = meta.request_id().map(Into::into);
    Report { text, code: meta.code().map(Into::into), request_id }
}

impl S3 {
    /// The error of a failed request, with a text for the operator.
    pub(super) fn failure<E>(&self, error: SdkError<E, HttpResponse>) -> Error
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        if let Some(says) = lacks_credentials(&error) {
            return Error::Denied(says.into());
        }
        match &error {
            SdkError::ServiceError(context) => refusal(context.err(), context.raw()),
            SdkError::TimeoutError(_) => Error::TimedOut(self.retry.timeout),
            _ if is_out_of_descriptors(&error) => Error::OutOfDescriptors(chain(&error)),
            SdkError::ResponseError(_) => Error::Protocol(chain(&error).into()),
            // It was not sent, for example because of an invalid header, or a key of spaces only.
            SdkError::ConstructionFailure(_) => Error::Refused(chain(&error).into()),
            _ => match find_cause::<NoConnection>(&error) {
                Some(failure) => Error::Unreachable(failure.to_string().into()),
                None => Error::Unreachable(chain(&error).into()),
            },
        }
    }

    /// The same for a change: `Unclear` unless it is certain that it was not made.
    pub(super) fn change_failure<E>(&self, error: SdkError<E, HttpResponse>) -> Error
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let was_sent = find_cause::<NoConnection>(&error).is_none_or(|error| is_no_http(error));
        let is_unread = error.raw_response().is_some_and(|raw| raw.status().is_success());
        let code = error.as_service_error().and_then(ProvideErrorMetadata::code);
        let has_code = code.is_some();
        // S3 did not receive the whole request (S3 API reference, "Error responses").
        let is_cut_off = code == Some("RequestTimeout");
        match self.failure(error) {
            Error::Stale => Error::PreconditionFailed,
            Error::Refused(says) if is_cut_off => Error::Unreachable(says),
            Error::Refused(says) if is_unread => Error::Unclear(says),
            Error::Unreachable(says) if was_sent => Error::Unclear(says),
            // Not from S3, but from a proxy that may have forwarded the request.
            Error::Throttled(says) if !has_code => Error::Unclear(says),
            Error::Store(says) | Error::Protocol(says) => Error::Unclear(says),
            timeout @ Error::TimedOut(_) => Error::Unclear(timeout.to_string().into()),
            other => other,
        }
    }

    /// The same for a HEAD, whose response has no document with `NoSuchKey`: the store's own 404
    /// has the id that S3 gives to each request (S3 API reference, "Common response headers"). Some
    /// stores send no id (Garage, moto).
    pub(super) fn head_failure(&self, error: SdkError<HeadObjectError, HttpResponse>) -> Error {
        let raw = error.raw_response();
        let is_marked = raw.is_some_and(|raw| raw.headers().contains_key("x-amz-request-id"));
        match self.failure(error) {
            Error::Unconfirmed(_) if is_marked => Error::NotFound,
            other => other,
        }
    }

    /// The same for a LIST, which has no key that could be missing.
    pub(super) fn list_failure(&self, error: SdkError<ListObjectsV2Error, HttpResponse>) -> Error {
        match self.failure(error) {
            Error::NotFound => Error::Unreachable(not_the_store("NoSuchKey (404)".into())),
            Error::Unconfirmed(says) => Error::Unreachable(not_the_store(says)),
            other => other,
        }
    }
}

/// A 404 that a store has no reason to send: it may come from an ingress whose backend restarts.
pub fn not_the_store(says: Report) -> Report {
    let text = format!("something else answers in its place: {says}");
    says.with_text(text)
}

fn refusal(error: &(impl ProvideErrorMetadata + StdError), raw: &HttpResponse) -> Error {
    let status = raw.status().as_u16();
    let mut says = match (error.code(), status) {
        (Some(code), _) => format!("{code} ({status})"),
        (None, 200..=299) => format!("{status}, with a document that cannot be read"),
        (None, 301) => "PermanentRedirect (301)".to_owned(),
        (None, 403) => "Forbidden (403)".to_owned(),
        (None, 407) => "the proxy wants another user name and password (407)".to_owned(),
        (None, 400) if wants_tls(raw) => {
            "plain HTTP was sent to an HTTPS port (400): give the endpoint as https://".to_owned()
        }
        (None, _) => format!("an error ({status})"),
    };
    if let Some(message) = error.message() {
        says += &format!(": {message}");
    }
    if let Some(region) = raw.headers().get("x-amz-bucket-region") {
        says += &format!("; the bucket is in region {region}");
    }
    let mut says = report(error, says);
    // The SDK drops the id of a failure that has no document, such as one of HEAD.
    let id = raw.headers().get("x-amz-request-id");
    says.request_id = says.request_id.or_else(|| id.map(Into::into));
    if let Some(id) = &says.request_id {
        says.text += &format!("; request id {id}");
    }
    match (told_late(raw, error.code()).unwrap_or(status), error.code()) {
        (404, Some("NoSuchKey" | "NoSuchUpload")) => Error::NotFound,
        (404, Some("NoSuchBucket")) => Error::NoSuchBucket(says),
        // A proxy may send this too, with or without a page of its own.
        (404, _) => Error::Unconfirmed(says),
        (401 | 403 | 407, _) => Error::Denied(says),
        // Some of them are 400.
        (_, Some(code)) if is_of_credentials(code) => Error::Denied(says),
        (412, _) => Error::Stale,
        (409, _) => Error::Conflict(says),
        (429 | 503, _) => Error::Throttled(says),
        (501, _) => Error::Unsupported(says),
        (500.., _) => Error::Store(says),
        _ => Error::Refused(says),
    }
}

/// Whether it is the page that nginx or Apache sends for plain HTTP on a TLS port.
fn wants_tls(raw: &HttpResponse) -> bool {
    let page = String::from_utf8_lossy(raw.body().bytes().unwrap_or_default());
    ["sent to HTTPS port", "plain HTTP to an SSL-enabled"].iter().any(|text| page.contains(text))
}

/// The status of a failure that was reported after a 200: S3 sends 200 before it has finished a
/// slow operation (S3 API reference, CopyObject).
fn told_late(raw: &HttpResponse, code: Option<&str>) -> Option<u16> {
    let code = code.filter(|_| raw.status().is_success())?;
    Some(match code {
        "NoSuchKey" | "NoSuchUpload" => 404,
        "ConditionalRequestConflict" | "OperationAborted" => 409,
        "PreconditionFailed" => 412,
        "SlowDown" | "ServiceUnavailable" => 503,
        _ => 500,
    })
}

fn is_out_of_descriptors(error: &(dyn StdError + 'static)) -> bool {
    let io = find_cause::<std::io::Error>(error).and_then(std::io::Error::raw_os_error);
    matches!(io, Some(libc::EMFILE | libc::ENFILE))
}

/// The text for a chain of credential providers that found no credentials.
fn lacks_credentials(error: &(dyn StdError + 'static)) -> Option<String> {
    let cause = find_cause::<CredentialsError>(error)?;
    Some(match cause {
        CredentialsError::CredentialsNotLoaded(_) => "no credentials found: set AWS_ACCESS_KEY_ID \
            and AWS_SECRET_ACCESS_KEY, give --profile, or --no-sign-request for a public bucket"
            .to_owned(),
        other => format!("no credentials: {}", chain(other)),
    })
}

/// The first cause of this type.
fn find_cause<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}
