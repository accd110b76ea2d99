//! How the bucket is reached: the options of the store, and the proxies of the environment.

use std::env;

use super::absolute;
use super::args::StoreArgs;
use crate::s3::Endpoint;
use crate::s3::proxy::Proxies;

/// # Errors
/// If a path cannot be made absolute, in words for the operator.
pub fn endpoint(bucket: String, store: StoreArgs) -> Result<Endpoint, String> {
    Ok(Endpoint {
        bucket,
        endpoint_url: store.endpoint_url,
        region: store.region,
        profile: store.profile,
        no_sign_request: store.no_sign_request,
        addressing: store.addressing_style,
        requester_pays: store.requester_pays,
        pool_idle: None,
        proxies: proxies(),
        ca_bundle: store.ca_bundle.map(absolute).transpose()?,
        fips: store.fips,
        dual_stack: store.dual_stack,
        owner: store.expected_bucket_owner,
    })
}

/// As curl reads them: `HTTP_PROXY` is not used, which a client of a CGI program can set by a header
/// `Proxy`.
fn proxies() -> Proxies {
    let first = |names: &[&str]| {
        let set = names.iter().filter_map(|name| env::var(name).ok());
        set.map(|value| value.trim().to_owned()).find(|value| !value.is_empty()).unwrap_or_default()
    };
    Proxies {
        http: first(&["http_proxy"]),
        https: first(&["https_proxy", "HTTPS_PROXY"]),
        all: first(&["all_proxy", "ALL_PROXY"]),
        except: first(&["no_proxy", "NO_PROXY"]),
    }
}
