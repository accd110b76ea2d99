//! Shared by the test binaries: real S3 servers, real mounts, and ways to inspect both.

pub mod content;
pub mod dir_stream;
pub mod embedded;
pub mod forward;
pub mod http;
pub mod mount;
pub mod nginx;
pub mod process;
pub mod prometheus;
pub mod proxy;
pub mod s3_server;
pub mod sdk;
pub mod stuck;
pub mod tls;
pub mod tmpfs;
pub mod tmux;
pub mod tools;
pub mod wait;

use std::future::Future;
use std::sync::LazyLock;

/// Runs a future to its end on the runtime that all helpers share. Its worker outlives the tests,
/// so a server that a future leaves running in a task continues.
pub fn block_on<F: Future>(future: F) -> F::Output {
    static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime for the tests' own requests")
    });
    RUNTIME.block_on(future)
}

/// An `Expires` in the past.
pub const PAST: &str = "Wed, 01 Jan 2020 00:00:00 GMT";
/// An `Expires` far in the future.
pub const FUTURE: &str = "Fri, 01 Jan 2100 00:00:00 GMT";

/// The URL of an S3 server, and credentials for it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub url: String,
    /// `None`: requests are not signed.
    pub credentials: Option<Credentials>,
}

#[derive(Clone, Debug, Default)]
pub struct Credentials {
    pub access_key_id: String,
    pub secret_access_key: String,
}

pub const REGION: &str = "us-east-1";
