//! The S3 server inside this process: for objects that SeaweedFS cannot store, such as one with an
//! unparsable `Expires`, or a key below another key.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use expirefs::embedded::{Handle, Mutation, Object, Personality, Requests, Server};
use expirefs::expiry::http_date;

use super::{Endpoint, block_on};

/// A server with one bucket. Each test has its own.
pub struct Embedded {
    bucket: &'static str,
    handle: Handle,
    endpoint: Endpoint,
    _server: Server,
}

impl Embedded {
    pub const BUCKET: &str = "embedded";

    pub fn start() -> Embedded {
        Embedded::with_bucket(Self::BUCKET)
    }

    /// With a bucket of another name: that of a directory bucket makes it one.
    pub fn with_bucket(bucket: &'static str) -> Embedded {
        let server = block_on(Server::start()).expect("a server on loopback");
        let handle = server.handle();
        handle.create_bucket(bucket);
        let endpoint = Endpoint { url: server.endpoint(), credentials: None };
        Embedded { bucket, handle, endpoint, _server: server }
    }

    /// With one file, `file`, which has the content `x`.
    pub fn with_a_file() -> Embedded {
        let server = Embedded::start();
        server.put("file", "x");
        server
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub fn port(&self) -> u16 {
        self.endpoint.url.rsplit_once(':').expect("a port").1.parse().expect("a number")
    }

    pub fn put(&self, key: &str, bytes: impl Into<Bytes>) {
        self.put_object(key, Object::new(bytes.into()).last_modified(a_minute_ago()));
    }

    /// `expires` may be any legal header value.
    pub fn put_expiring(&self, key: &str, bytes: impl Into<Bytes>, expires: impl AsRef<[u8]>) {
        let object = Object::new(bytes.into()).last_modified(a_minute_ago());
        self.put_object(key, object.expires(expires));
    }

    pub fn put_object(&self, key: &str, object: Object) {
        self.handle.put(self.bucket, key, object);
    }

    pub fn delete(&self, key: &str) {
        self.handle.delete(self.bucket, key);
    }

    pub fn get(&self, key: &str) -> Option<Object> {
        self.handle.get(self.bucket, key)
    }

    /// The content of an object that has to be there.
    #[track_caller]
    pub fn body(&self, key: &str) -> Bytes {
        self.get(key).unwrap_or_else(|| panic!("there is no {key}")).body
    }

    /// When an object that has to be there ends; `None` if it has no `Expires`.
    #[track_caller]
    pub fn expires(&self, key: &str) -> Option<SystemTime> {
        let object = self.get(key).unwrap_or_else(|| panic!("there is no {key}"));
        let raw = object.expires?;
        let text = raw.to_str().expect("an Expires in ASCII");
        let at = http_date(text, SystemTime::now());
        Some(at.unwrap_or_else(|| panic!("{key} has the Expires {text}")))
    }

    /// Multipart uploads that are neither complete nor aborted.
    pub fn uploads(&self) -> usize {
        self.handle.uploads(self.bucket)
    }

    /// Deviates from S3 in this way from now on.
    pub fn behave_as(&self, personality: Personality) {
        self.handle.behave_as(personality);
    }

    /// Keeps a log of all changes from now on.
    pub fn keep_mutations(&self) {
        self.handle.keep_mutations();
    }

    /// The changes so far, if they are kept.
    pub fn mutations(&self) -> Vec<Mutation> {
        self.handle.mutations(self.bucket)
    }

    /// The HTTP requests so far.
    pub fn requests(&self) -> Requests {
        self.handle.requests()
    }
}

/// Objects are old enough that no other can get the same Last-Modified.
fn a_minute_ago() -> SystemTime {
    SystemTime::now() - Duration::from_secs(60)
}
