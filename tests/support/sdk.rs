//! The HTTP client of the AWS SDK in tests.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::config::HttpClient;
use expirefs::s3::http::{Limits, clients};
use expirefs::s3::proxy::Routes;

/// The project's own HTTP client: the SDK is built without one.
pub fn http() -> impl HttpClient + 'static {
    let (idle, connect) = (Duration::from_secs(10), Duration::from_secs(5));
    let limits = Limits { sockets: 64, idle: Some(idle), connect, untaken: connect };
    let [client] =
        clients([limits], None, Routes::default(), Arc::default()).expect("an HTTP client");
    client
}
