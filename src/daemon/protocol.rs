//! The protocol of the control socket, between a command and the daemon of a mount.
//!
//! One request per connection: a line of JSON with the version of the protocol. The [`Reply`] is
//! JSON up to the end of the stream.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::daemon::mounts::MountEntry;

/// Incremented when an older peer would misread a request or a reply.
const PROTOCOL: u32 = 1;

/// The longest request, in bytes: a path (PATH_MAX of Linux), each byte of it escaped.
pub const LONGEST: u64 = 6 * 4096 + 64;

/// A request of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Answered by a [`crate::daemon::status::Status`].
    Status,
    /// The same without the open handles.
    Summary,
    /// Explain why the name at this path below the mount point is visible or not. Answered by a
    /// [`crate::bucket::explain::Explanation`]; may take as long as requests to the store.
    Explain(String),
    /// Log what this filter says, if there is one. Answered by the filter in force.
    Log(Option<String>),
    /// Answered by `()` when it is unmounted.
    Unmount,
}

/// A reply, or why there is none, in words for the operator.
pub type Reply<T> = Result<T, String>;

#[derive(Serialize)]
struct Line<'a> {
    protocol: u32,
    request: &'a Request,
}

/// Read first, to distinguish a request of another version from a malformed one.
#[derive(Deserialize)]
struct Version {
    protocol: u32,
}

#[derive(Deserialize)]
struct Body {
    request: Request,
}

/// A request as a line.
pub fn encode(request: &Request) -> serde_json::Result<String> {
    let line = Line { protocol: PROTOCOL, request };
    serde_json::to_string(&line).map(|line| line + "\n")
}

/// The request in a line.
///
/// # Errors
/// A text for the sender. It is not JSON, so a command of any version shows it or reports that it
/// cannot read it.
pub fn decode(line: &str) -> Result<Request, String> {
    let name = concat!("expirefs ", env!("CARGO_PKG_VERSION"));
    match serde_json::from_str(line) {
        Ok(Version { protocol: PROTOCOL }) => {
            let body: serde_json::Result<Body> = serde_json::from_str(line);
            body.map(|body| body.request).map_err(|e| format!("{name}: not a request: {e}\n"))
        }
        Ok(Version { .. }) | Err(_) => Err(format!(
            "the daemon of this mount is {name}, and the command is of another version of expirefs: \
             use the one that the mount was started with\n"
        )),
    }
}

/// The socket of a mount, in the folder where its daemon keeps it.
pub fn socket_of(dir: &Path, mount: &MountEntry) -> PathBuf {
    dir.join(format!("{}.sock", mount.device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_it_was_sent() {
        let path = "\u{1}".repeat(4096);
        for request in [
            Request::Status,
            Request::Summary,
            Request::Explain(path),
            Request::Log(None),
            Request::Log(Some("warn".into())),
            Request::Unmount,
        ] {
            let line = encode(&request).unwrap();
            assert!(line.len() as u64 <= LONGEST, "{} bytes", line.len());
            assert_eq!(line.matches('\n').count(), 1);
            assert_eq!(decode(&line), Ok(request));
        }
    }

    #[test]
    fn a_request_of_another_version_gets_an_error_that_says_so() {
        let others = [
            // Before requests had a version.
            "\"status\"\n",
            r#"{"explain":"a"}"#,
            r#"{"protocol":2,"request":"status"}"#,
            r#"{"protocol":2,"ask":{"a":1}}"#,
        ];
        for line in others {
            let told = decode(line).unwrap_err();
            assert!(told.contains("another version") && told.ends_with('\n'), "{line}: {told}");
            assert!(serde_json::from_str::<serde_json::Value>(&told).is_err(), "{told}");
        }
        let told = decode(r#"{"protocol":1,"request":"sing"}"#).unwrap_err();
        assert!(told.contains("not a request"), "{told}");
    }
}
