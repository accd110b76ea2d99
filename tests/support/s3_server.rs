//! S3 servers of other projects: one of each kind per test binary, started by `scripts/s3-server`
//! at first use.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{self, Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};
use std::{env, mem};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    BehaviorVersion, Config, Credentials as SdkCredentials, Region, RequestChecksumCalculation,
};
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::wait::{HANGS, eventually};
use super::{Credentials, Endpoint, REGION, block_on, sdk};

/// Starts a server, or a program with a server in its environment.
pub const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/s3-server");

/// Concurrent uploads.
const UPLOADS: usize = 48;

/// A running server.
pub struct S3Server {
    pub endpoint: Endpoint,
    client: Client,
    /// Its standard input keeps it alive: when this process ends, for whatever reason, the pipe
    /// closes and the server stops. `None`: `scripts/s3-server run` started this process, and stops
    /// it.
    _server: Option<Child>,
}

/// SeaweedFS, the server of most tests.
pub fn seaweedfs() -> &'static S3Server {
    static SERVER: LazyLock<S3Server> = LazyLock::new(|| S3Server::start("seaweedfs"));
    &SERVER
}

/// moto's stand-in for AWS.
pub fn moto() -> &'static S3Server {
    static SERVER: LazyLock<S3Server> = LazyLock::new(|| S3Server::start("moto"));
    &SERVER
}

/// The name of the server that `scripts/s3-server run` put into this process's environment, if it
/// started this process.
pub fn given() -> Option<String> {
    env::var("EXPIREFS_TEST_SERVER").ok()
}

impl S3Server {
    /// Starts the server with this name in `scripts/s3-server`.
    fn start(name: &str) -> S3Server {
        if given().is_some_and(|given| given == name) {
            let [url, id, secret] =
                ["AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
                    .map(|name| env::var(name).unwrap_or_else(|_| panic!("{name} is not set")));
            return S3Server::at(url, id, secret, None);
        }
        let mut child = Command::new(SCRIPT)
            .args(["--server", name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{SCRIPT}: {e}"));
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line of the script");
        let Ok(info) = serde_json::from_str::<serde_json::Value>(&line) else {
            let status = child.wait().expect("its status");
            panic!("scripts/s3-server did not start ({status}); it says why above");
        };
        let field = |name: &str| info[name].as_str().expect(name).to_owned();
        let [url, id, secret] = ["endpoint", "access_key_id", "secret_access_key"].map(field);
        S3Server::at(url, id, secret, Some(child))
    }

    fn at(url: String, id: String, secret: String, server: Option<Child>) -> S3Server {
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(sdk::http())
            .region(Region::new(REGION))
            .endpoint_url(&url)
            .force_path_style(true)
            .credentials_provider(SdkCredentials::new(&id, &secret, None, None, "tests"))
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .build();
        S3Server {
            endpoint: Endpoint {
                url,
                credentials: Some(Credentials { access_key_id: id, secret_access_key: secret }),
            },
            client: Client::from_conf(config),
            _server: server,
        }
    }

    /// A new empty bucket; `theme` is part of its name.
    pub fn bucket(&'static self, theme: &str) -> Bucket {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{theme}-{}-{count}", process::id());
        block_on(self.client.create_bucket().bucket(&name).send())
            .unwrap_or_else(|e| panic!("create bucket {name}: {e:?}"));
        Bucket { name, server: self }
    }
}

/// A bucket on one of them. It stays until the server stops.
pub struct Bucket {
    pub name: String,
    server: &'static S3Server,
}

/// What to upload under a key.
#[derive(Clone, Debug)]
pub struct Upload {
    bytes: Bytes,
    expires: Option<String>,
}

/// An object with these bytes and no `Expires`.
pub fn object(bytes: impl Into<Bytes>) -> Upload {
    Upload { bytes: bytes.into(), expires: None }
}

impl Upload {
    /// With this literal `Expires`. SeaweedFS accepts none that it cannot parse.
    pub fn expires(mut self, expires: impl Into<String>) -> Upload {
        self.expires = Some(expires.into());
        self
    }
}

/// An instant as an IMF-fixdate, which has no fractions of a second.
pub fn http_date(instant: SystemTime) -> String {
    DateTime::from(instant).fmt(DateTimeFormat::HttpDate).expect("a year of four digits")
}

impl Bucket {
    pub fn endpoint(&self) -> &Endpoint {
        &self.server.endpoint
    }

    /// The client, for requests without a method here.
    pub fn client(&self) -> &Client {
        &self.server.client
    }

    pub fn put(&self, key: &str, upload: Upload) {
        block_on(self.send(key, upload));
    }

    /// Uploads many, some at a time.
    pub fn put_all(&self, uploads: impl IntoIterator<Item = (String, Upload)>) {
        let uploads = uploads.into_iter().map(|(key, upload)| async move {
            self.send(&key, upload).await;
        });
        block_on(stream::iter(uploads).buffer_unordered(UPLOADS).collect::<()>());
    }

    async fn send(&self, key: &str, mut upload: Upload) {
        let put = self.client().put_object().bucket(&self.name).key(key);
        let expires = mem::take(&mut upload.expires);
        put.body(upload.bytes.into())
            .customize()
            .disable_payload_signing() // hashing 800 MiB without optimisation takes its time
            .mutate_request(move |request| {
                if let Some(expires) = &expires {
                    request.headers_mut().insert("expires", expires.clone());
                }
            })
            .send()
            .await
            .unwrap_or_else(|e| panic!("put {key} into {}: {e:?}", self.name));
    }

    /// Waits until an object is so old that no other version can have its Last-Modified: a sweep spares
    /// younger ones.
    pub fn until_settled(&self, key: &str) {
        let modified = self.head(key).last_modified.expect("Last-Modified").secs();
        let settled = SystemTime::UNIX_EPOCH + Duration::from_secs(modified as u64 + 3);
        eventually(HANGS, || match settled.duration_since(SystemTime::now()) {
            Ok(left) => Err(format!("{key} is {left:?} too young")),
            Err(_) => Ok(()),
        });
    }

    pub fn delete(&self, key: &str) {
        block_on(self.client().delete_object().bucket(&self.name).key(key).send())
            .unwrap_or_else(|e| panic!("delete {key} in {}: {e:?}", self.name));
    }

    /// The HEAD response of the store for a key.
    pub fn head(&self, key: &str) -> HeadObjectOutput {
        block_on(self.client().head_object().bucket(&self.name).key(key).send())
            .unwrap_or_else(|e| panic!("head {key} in {}: {e:?}", self.name))
    }

    /// Every key in the store, expired or not.
    pub fn keys(&self) -> BTreeSet<String> {
        let list = self.client().list_objects_v2().bucket(&self.name);
        let mut pages = list.into_paginator().send();
        let mut keys = BTreeSet::new();
        while let Some(page) = block_on(pages.next()) {
            let page = page.unwrap_or_else(|e| panic!("list {}: {e:?}", self.name));
            keys.extend(page.contents().iter().filter_map(|object| object.key.clone()));
        }
        keys
    }

    /// The whole object of a key, if there is one.
    pub fn content(&self, key: &str) -> Option<Bytes> {
        block_on(async {
            match self.client().get_object().bucket(&self.name).key(key).send().await {
                Ok(got) => Some(got.body.collect().await.expect("a whole object").into_bytes()),
                Err(error) if error.as_service_error().is_some_and(|e| e.is_no_such_key()) => None,
                Err(error) => panic!("get {key} in {}: {error:?}", self.name),
            }
        })
    }

    /// The keys of multipart uploads that are neither complete nor aborted.
    pub fn uploads(&self) -> Vec<String> {
        let list = block_on(self.client().list_multipart_uploads().bucket(&self.name).send());
        let list = list.unwrap_or_else(|e| panic!("list the uploads in {}: {e:?}", self.name));
        list.uploads().iter().map(|upload| upload.key().unwrap_or_default().to_owned()).collect()
    }
}
