//! The endpoint of the bucket: arguments, environment and profile, resolved once.

use std::path::PathBuf;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::{BehaviorVersion, ConfigLoader, Region};
use aws_sdk_s3::config::SharedHttpClient;
use aws_types::service_config::ServiceConfigKey;
use hyper::Uri;

use super::Endpoint;

/// For the filter of the log: at `trace` the SDK logs endpoint URLs as it reads them, before
/// [`Endpoint::locate`] has checked that there is no password in them.
pub const QUIET: &str = "aws_runtime::env_config=debug";

/// A bucket and its endpoint.
#[derive(Clone, Debug)]
pub struct Site {
    pub(super) endpoint: Endpoint,
    /// Certificates to trust instead of the system's (`--ca-bundle`, `AWS_CA_BUNDLE`, `ca_bundle`).
    pub(super) ca_bundle: Option<PathBuf>,
    /// The profile's region.
    pub(super) region: Option<String>,
}

impl Endpoint {
    /// Adds the settings of the environment and the profile, as the AWS CLI does. Sends nothing.
    ///
    /// # Errors
    /// If the endpoint's URL cannot be used, in words for the operator.
    pub async fn locate(mut self) -> Result<Site, String> {
        // With a region and without credentials, so that no provider of either is queried.
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::from_static("us-east-1"))
            .no_credentials();
        if let Some(profile) = &self.profile {
            loader = loader.profile_name(profile);
        }
        let shared = loader.load().await;
        let read = |env, profile| {
            let key = ServiceConfigKey::builder().service_id("S3").env(env).profile(profile);
            shared.service_config()?.load_config(key.build().ok()?)
        };
        self.endpoint_url = self.endpoint_url.or_else(|| read("AWS_ENDPOINT_URL", "endpoint_url"));
        if let Some(url) = &self.endpoint_url {
            check(url)?;
        }
        if self.endpoint_url.is_some() && (self.fips || self.dual_stack) {
            return Err(
                "--fips and --dual-stack choose an endpoint of AWS, and cannot be used with \
                        --endpoint-url, AWS_ENDPOINT_URL or a profile's endpoint_url"
                    .to_owned(),
            );
        }
        let ca_bundle = self.ca_bundle.clone();
        let ca_bundle = ca_bundle.or_else(|| read("AWS_CA_BUNDLE", "ca_bundle").map(PathBuf::from));
        let region = read("AWS_REGION", "region");
        Ok(Site { endpoint: self, ca_bundle, region })
    }
}

impl Site {
    /// Reads environment and profile for credentials and region; `http` fetches them.
    pub(super) fn loader(&self, http: SharedHttpClient) -> ConfigLoader {
        let Site { endpoint, region, .. } = self;
        let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http);
        if endpoint.region.is_some() || endpoint.endpoint_url.is_some() {
            // With an explicit endpoint, the region is only used in signatures, so the instance
            // metadata service is not queried for it.
            let region = RegionProviderChain::first_try(endpoint.region.clone().map(Region::new))
                .or_else(EnvironmentVariableRegionProvider::new())
                .or_else(region.clone().map(Region::new))
                .or_else("us-east-1");
            loader = loader.region(region);
        }
        if let Some(profile) = &endpoint.profile {
            loader = loader.profile_name(profile);
        }
        // Otherwise the environment or the profile decides.
        if endpoint.fips {
            loader = loader.use_fips(true);
        }
        if endpoint.dual_stack {
            loader = loader.use_dual_stack(true);
        }
        if endpoint.no_sign_request {
            loader = loader.no_credentials();
        }
        loader
    }

    pub fn bucket(&self) -> &str {
        &self.endpoint.bucket
    }

    /// The identity of the bucket for an index: its name and endpoint.
    pub fn identity(&self) -> String {
        let at = self.endpoint.endpoint_url.as_deref().unwrap_or("AWS");
        format!("{} at {}", self.endpoint.bucket, at.trim_end_matches('/'))
    }

    /// For messages: ` at URL`, or nothing for AWS.
    pub fn at(&self) -> String {
        self.endpoint.endpoint_url.as_ref().map(|url| format!(" at {url}")).unwrap_or_default()
    }
}

/// A URL with a password is refused and not shown: it would appear in messages and logs.
fn check(url: &str) -> Result<(), String> {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(
            "the endpoint's URL (not shown) carries a user name or password, which S3 does \
                    not use: leave it out, and give an access key, as for the AWS CLI"
                .to_owned(),
        );
    }
    let uri = url.parse::<Uri>().ok();
    let is_right = uri.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
    });
    match is_right {
        true => Ok(()),
        false => Err(format!(
            "the endpoint's URL is {url:?}; expected http://HOST[:PORT] or https://HOST[:PORT]"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_with_a_password_is_refused_and_not_shown() {
        for url in ["http://u:secret@h", "https://secret@h:1/x", "u:secret@h", "ftp://u:secret@h"] {
            let says = check(url).unwrap_err();
            assert!(says.contains("password") && !says.contains("secret"), "{says}");
        }
        for url in ["", "h:9000", "ftp://h", "http://", "http://:1", "http:///x"] {
            assert!(check(url).unwrap_err().contains("expected http://"), "{url}");
        }
        for url in ["http://h", "https://h:1", "http://[::1]:9000", "http://h/path@x"] {
            assert_eq!(check(url), Ok(()), "{url}");
        }
    }
}
