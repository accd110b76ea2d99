//! An interceptor of the SDK's: what every request and every answer tells, whatever it is about.

use std::sync::Arc;
use std::time::SystemTime;

use aws_sdk_s3::config::interceptors::{
    BeforeDeserializationInterceptorContextMut, BeforeDeserializationInterceptorContextRef,
    BeforeTransmitInterceptorContextRef,
};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_smithy_types::config_bag::{Storable, StoreReplace};

use super::gate::Gate;
use crate::clock::Clock;
use crate::expiry;
use crate::metrics::Metrics;

/// Sees every try of every request: counts it, and reads the clock in its answer.
#[derive(Debug)]
pub struct Witness {
    pub clock: Arc<Clock>,
    pub metrics: Arc<Metrics>,
    pub gate: Arc<Gate>,
}

#[derive(Debug)]
struct SentAt(SystemTime);

impl Storable for SentAt {
    type Storer = StoreReplace<SentAt>;
}

impl Intercept for Witness {
    fn name(&self) -> &'static str {
        "Witness"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request();
        match request.method() {
            "HEAD" => self.metrics.head.add(1),
            _ if request.uri().contains("list-type=2") => self.metrics.list.add(1),
            _ => self.metrics.get.add(1),
        }
        bag.interceptor_state().store_put(SentAt(self.clock.local_now()));
        Ok(())
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let partial = context.response().status().as_u16() == 206;
        let headers = context.response_mut().headers_mut();
        // The SDK panics on an Expires that is not UTF-8 (s3_expires_interceptor.rs, 1.157). It
        // is no date either way.
        if headers.contains_key("expires") && headers.get("expires").is_none() {
            headers.insert("expires", "(not UTF-8)");
        }
        // A part that does not tell which one it is (RFC 9110 §15.3.7.1) must not pass for all.
        if partial && !headers.contains_key("content-range") {
            headers.insert("content-range", "(none)");
        }
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        match context.response().status().as_u16() {
            429 | 503 => {
                self.metrics.throttled.add(1);
                self.gate.throttled();
            }
            _ => self.gate.answered(),
        }
        let date = context.response().headers().get("date");
        // An answer out of some cache on the way tells an old time (RFC 9111 §5.1).
        let date = date.filter(|_| !context.response().headers().contains_key("age"));
        if let (Some(date), Some(SentAt(sent))) = (date, bag.load::<SentAt>()) {
            let received = self.clock.local_now();
            if let Some(date) = expiry::http_date(date, received) {
                self.clock.learn(date, *sent, received);
            }
        }
        Ok(())
    }
}
