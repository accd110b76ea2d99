//! TLS: which certificates are trusted, and the errors of connections.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::Path;

use hyper::Uri;
use hyper_rustls::ConfigBuilderExt;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CertificateError, ClientConfig, RootCertStore};

use crate::error::chain;

/// Trusts the certificates in a PEM file, as the AWS CLI does, or else the system's.
///
/// # Errors
/// If there are none, in words for the operator.
pub fn config(ca_bundle: Option<&Path>) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder();
    let trusting = match ca_bundle {
        None => builder
            .with_native_roots()
            .map_err(|e| format!("no root certificates: {} (is ca-certificates installed?)", e))?,
        Some(file) => {
            let roots = roots(file).map_err(|e| {
                format!(
                    "certificates in {} (--ca-bundle, AWS_CA_BUNDLE or ca_bundle): {e}",
                    file.display()
                )
            })?;
            builder.with_root_certificates(roots)
        }
    };
    Ok(trusting.with_no_client_auth())
}

fn roots(file: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|e| e.to_string())? {
        let certificate = certificate.map_err(|e| e.to_string())?;
        roots.add(certificate).map_err(|e| e.to_string())?;
    }
    match roots.is_empty() {
        true => Err("it holds none".to_owned()),
        false => Ok(roots),
    }
}

type BoxError = Box<dyn StdError + Send + Sync>;

/// A connection that failed, or did not return HTTP: host, port, cause and a hint.
#[derive(Debug)]
pub struct NoConnection {
    host: String,
    port: u16,
    is_https: bool,
    cause: BoxError,
}

impl NoConnection {
    pub fn new(uri: &Uri, cause: BoxError) -> NoConnection {
        let is_https = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        NoConnection { host: uri.host().unwrap_or_default().to_owned(), port, is_https, cause }
    }

    fn hint(&self) -> Option<String> {
        let NoConnection { host, port, .. } = self;
        let is_no_http = is_no_http(&*self.cause);
        Some(match find::<rustls::Error>(&*self.cause) {
            None if is_no_http && !self.is_https => {
                format!("does it speak https? try https://{host}:{port}")
            }
            Some(rustls::Error::InvalidMessage(_)) => {
                format!("does it speak http? try http://{host}:{port}")
            }
            Some(rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::Other(_),
            )) => "nobody trusted has signed its certificate: name the file with that of its \
                   authority by --ca-bundle"
                .to_owned(),
            _ => return None,
        })
    }
}

impl fmt::Display for NoConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NoConnection { host, port, cause, .. } = self;
        write!(f, "no connection to {host}:{port}: {}", chain(&**cause))?;
        match self.hint() {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl StdError for NoConnection {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.cause)
    }
}

/// How TLS servers written in Go answer plain HTTP.
#[derive(Debug, thiserror::Error)]
#[error("it answers 400 in HTTP/1.0")]
pub struct TlsWanted;

/// Whether the response to a request shows that the server does not speak plain HTTP.
pub fn is_no_http(error: &(dyn StdError + 'static)) -> bool {
    let is_wanted = find::<TlsWanted>(error).is_some();
    is_wanted || find::<hyper::Error>(error).is_some_and(hyper::Error::is_parse)
}

/// The first cause of this type. An `io::Error` hides the error inside it.
fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        let within = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = match within {
            Some(inner) => Some(inner as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_that_holds_no_certificate_is_named() {
        let says = config(Some(Path::new("/no/such/bundle"))).unwrap_err();
        assert!(says.contains("/no/such/bundle") && says.contains("AWS_CA_BUNDLE"), "{says}");
        assert!(config(Some(Path::new("/dev/null"))).unwrap_err().contains("none"));
    }

    #[test]
    fn a_failure_names_host_and_port() {
        let refused = || Box::new(io::Error::from(io::ErrorKind::ConnectionRefused));
        let says =
            |uri: &'static str| NoConnection::new(&Uri::from_static(uri), refused()).to_string();
        assert_eq!(says("http://h/x"), "no connection to h:80: connection refused");
        assert_eq!(says("https://h:9/x"), "no connection to h:9: connection refused");
        let tls = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        let cause = Box::new(io::Error::new(io::ErrorKind::InvalidData, tls));
        let says = NoConnection::new(&Uri::from_static("https://h:9"), cause).to_string();
        assert!(says.ends_with("try http://h:9"), "{says}");
    }
}
