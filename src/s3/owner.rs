//! An interceptor of the SDK: the account that must own the bucket, on every request.

use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_smithy_runtime_api::client::orchestrator::Metadata;

/// Requests that have no such parameter (S3 API reference, "RenameObject", "CreateSession").
const WITHOUT: [&str; 2] = ["RenameObject", "CreateSession"];

/// Adds the account to each request, and to a copy as the owner of its source too (S3 User Guide,
/// "Verifying bucket ownership with bucket owner condition"). Here no request can be forgotten.
#[derive(Debug)]
pub struct OwnedBy(String);

impl OwnedBy {
    pub fn new(account: String) -> OwnedBy {
        OwnedBy(account)
    }
}

impl Intercept for OwnedBy {
    fn name(&self) -> &'static str {
        "OwnedBy"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let operation = bag.load::<Metadata>().map_or("", Metadata::name);
        if WITHOUT.contains(&operation) {
            return Ok(());
        }
        let headers = context.request_mut().headers_mut();
        headers.try_insert("x-amz-expected-bucket-owner", self.0.clone())?;
        if headers.contains_key("x-amz-copy-source") {
            headers.try_insert("x-amz-source-expected-bucket-owner", self.0.clone())?;
        }
        Ok(())
    }
}
