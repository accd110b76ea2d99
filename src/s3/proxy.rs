//! HTTP proxies: which requests go by one, and the connection to it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use hyper::Uri;
use hyper::header::HeaderValue;
use hyper_util::client::legacy::connect::HttpConnector as TcpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use tower_service::Service;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The proxies as the environment names them; each empty if there is none. They may have passwords,
/// so none is ever shown.
#[derive(Clone, Default)]
pub struct Proxies {
    /// For http:// and https:// URLs.
    pub http: String,
    pub https: String,
    /// For both, where the others are empty.
    pub all: String,
    /// Hosts that are reached directly, as curl reads `NO_PROXY`.
    pub except: String,
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proxies")
    }
}

/// Decides which host is reached by which proxy.
#[derive(Clone, Debug)]
pub struct Routes(Arc<Matcher>);

/// No proxy.
impl Default for Routes {
    fn default() -> Routes {
        Routes(Arc::new(Matcher::builder().build()))
    }
}

impl Routes {
    /// # Errors
    /// If a proxy cannot be used, in words for the operator. The URL is not shown.
    pub fn new(proxies: &Proxies) -> Result<Routes, String> {
        let named = [
            ("http_proxy", &proxies.http),
            ("HTTPS_PROXY", &proxies.https),
            ("ALL_PROXY", &proxies.all),
        ];
        for (name, url) in named.into_iter().filter(|(_, url)| !url.is_empty()) {
            let alone = Matcher::builder().all(url.clone()).build();
            let found = alone.intercept(&Uri::from_static("http://host"));
            if found.is_none_or(|found| found.uri().scheme_str() != Some("http")) {
                return Err(format!(
                    "the proxy of {name} (not shown) cannot be used: expected http://[USER:PASSWORD@]HOST[:PORT]"
                ));
            }
        }
        let Proxies { http, https, all, except } = proxies.clone();
        Ok(Routes(Arc::new(Matcher::builder().http(http).https(https).all(all).no(except).build())))
    }

    /// The proxy by which a host is reached.
    pub fn proxy_of(&self, uri: &Uri) -> Option<Intercept> {
        if uri.host().is_some_and(is_of_this_machine) {
            return None;
        }
        self.0.intercept(uri)
    }

    /// `Proxy-Authorization` of a request that is sent to the proxy itself: one by plain HTTP.
    pub fn authorization(&self, uri: &Uri) -> Option<HeaderValue> {
        if uri.scheme_str() != Some("http") {
            return None;
        }
        let mut authorization = self.proxy_of(uri)?.basic_auth()?.clone();
        // Not for the log of hyper.
        authorization.set_sensitive(true);
        Some(authorization)
    }
}

/// Services that each machine or container has for itself, which a proxy cannot reach: the
/// credentials of an instance, a task or a pod (AWS SDKs reference, "IMDS", "Container credential
/// provider").
fn is_of_this_machine(host: &str) -> bool {
    const INSTANCE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    const POD: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23);
    match host.trim_matches(['[', ']']).parse() {
        Ok(IpAddr::V4(ip)) => ip.is_link_local(),
        Ok(IpAddr::V6(ip)) => ip == INSTANCE || ip == POD,
        Err(_) => false,
    }
}

/// Connects to a host, or to the proxy by which it is reached: then the connection is to the host if
/// it is to speak TLS (CONNECT), else to the proxy.
#[derive(Clone)]
pub struct Connector {
    pub tcp: TcpConnector,
    pub routes: Routes,
}

impl Service<Uri> for Connector {
    type Response = <TcpConnector as Service<Uri>>::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Some(proxy) = self.routes.proxy_of(&uri) else {
            let connecting = self.tcp.call(uri);
            return Box::pin(async move { Ok(connecting.await?) });
        };
        let address = shown(&proxy);
        let connecting: BoxFuture<'static, Result<_, BoxError>> = match uri.scheme_str() {
            Some("https") => {
                let mut tunnel = Tunnel::new(proxy.uri().clone(), self.tcp.clone());
                if let Some(authorization) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(authorization.clone());
                }
                let connecting = tunnel.call(uri);
                Box::pin(async move { Ok(connecting.await?) })
            }
            _ => {
                let connecting = self.tcp.call(proxy.uri().clone());
                Box::pin(async move { Ok(connecting.await?) })
            }
        };
        Box::pin(async move { connecting.await.map_err(|cause| ByProxy { address, cause }.into()) })
    }
}

/// Host and port, without a password.
pub fn shown(proxy: &Intercept) -> String {
    let uri = proxy.uri();
    format!("{}:{}", uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(80))
}

/// A proxy that cannot be reached, or does not connect to the host.
#[derive(Debug, thiserror::Error)]
#[error("by the proxy {address}")]
struct ByProxy {
    address: String,
    #[source]
    cause: BoxError,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(http: &str, https: &str, all: &str, except: &str) -> Routes {
        let [http, https, all, except] = [http, https, all, except].map(str::to_owned);
        Routes::new(&Proxies { http, https, all, except }).unwrap()
    }

    /// Host and port of the proxy for this URL, or nothing.
    fn proxy_of(routes: &Routes, uri: &str) -> String {
        routes.proxy_of(&uri.parse().unwrap()).as_ref().map(shown).unwrap_or_default()
    }

    #[test]
    fn each_scheme_has_its_proxy() {
        let both = routes("http://p:1", "u:secret@q", "", "");
        assert_eq!(proxy_of(&both, "http://h/x"), "p:1");
        assert_eq!(proxy_of(&both, "https://h/x"), "q:80");
        let all = routes("", "", "http://a:3", "");
        assert_eq!(proxy_of(&all, "http://h"), "a:3");
        assert_eq!(proxy_of(&all, "https://h"), "a:3");
        assert_eq!(proxy_of(&routes("", "", "", ""), "https://h"), "");
    }

    #[test]
    fn hosts_of_no_proxy_are_reached_directly() {
        let except = "example.com, .internal,10.0.0.0/8,192.168.1.7,[fd00::]/8,::1";
        let routes = routes("http://p", "http://p", "", except);
        for direct in [
            "https://example.com",
            "https://b.s3.example.com:9000",
            "http://x.internal",
            "http://10.1.2.3:9000",
            "http://192.168.1.7",
            "http://[::1]:9000",
        ] {
            assert_eq!(proxy_of(&routes, direct), "", "{direct}");
        }
        for by_proxy in ["https://notexample.com", "http://192.168.1.8", "https://example.org"] {
            assert_eq!(proxy_of(&routes, by_proxy), "p:80", "{by_proxy}");
        }
        let proxies = Proxies { all: "http://p".into(), except: "*".into(), ..Proxies::default() };
        assert_eq!(proxy_of(&Routes::new(&proxies).unwrap(), "https://example.org"), "");
    }

    #[test]
    fn the_services_of_the_machine_are_never_asked_by_a_proxy() {
        let routes = routes("", "", "http://p", "");
        for host in ["169.254.169.254", "169.254.170.2", "169.254.170.23", "[fd00:ec2::254]"] {
            assert_eq!(proxy_of(&routes, &format!("http://{host}/latest")), "", "{host}");
        }
        assert_eq!(proxy_of(&routes, "http://[fd00:ec2::1]"), "p:80");
    }

    #[test]
    fn a_password_is_sent_to_the_proxy_of_plain_http_and_shown_nowhere() {
        let proxies = Proxies { all: "http://u:s%20cret@p:1".into(), ..Proxies::default() };
        let routes = Routes::new(&proxies).unwrap();
        let sent = routes.authorization(&Uri::from_static("http://h/x")).unwrap();
        assert_eq!(sent, "Basic dTpzIGNyZXQ=");
        // By CONNECT it is sent, not with the request.
        assert_eq!(routes.authorization(&Uri::from_static("https://h/x")), None);
        let shown = format!("{proxies:?} {routes:?}");
        assert!(!shown.contains("cret") && !shown.contains("dTpz"), "{shown}");
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_refused_and_not_shown() {
        for url in ["https://u:secret@p", "socks5://u:secret@p", "http://u:secret@", "secret p"] {
            for name in ["http_proxy", "HTTPS_PROXY", "ALL_PROXY"] {
                let mut proxies = Proxies::default();
                match name {
                    "http_proxy" => proxies.http = url.into(),
                    "HTTPS_PROXY" => proxies.https = url.into(),
                    _ => proxies.all = url.into(),
                }
                let says = Routes::new(&proxies).unwrap_err();
                assert!(says.contains(name) && !says.contains("secret"), "{says}");
            }
        }
    }
}
