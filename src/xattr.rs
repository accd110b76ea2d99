//! The extended attributes of an object, from what is cached. Pure.

use std::time::SystemTime;

use crate::expiry::{Expiry, format_http_date, rfc3339};
use crate::store::{Headers, Version};

/// The headers of an object that its attributes show. Most objects of a bucket share equal ones, so
/// an `Expires` in its usual form is not stored here.
///
/// No text is longer than [`TEXT`]: bucket writers control them, up to some kilobytes per object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct About {
    expires: RawExpires,
    content_type: Option<String>,
    storage_class: String,
}

/// An `Expires` as it was sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum RawExpires {
    None,
    /// Equal to the expiry of the object as IMF-fixdate.
    OfExpiry,
    As(String),
}

/// The most bytes kept of a header.
pub const TEXT: usize = 256;

/// Truncates a text to [`TEXT`] bytes, at a character boundary.
fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT)].to_owned()
}

/// The storage class that S3 omits (S3 API reference, HeadObject).
const STANDARD: &str = "STANDARD";

impl About {
    /// `by_expires`: the object's expiry, if its `Expires` decided it.
    pub fn of(headers: &Headers, by_expires: Expiry) -> About {
        let expires = match (headers.expires.as_deref(), by_expires) {
            (None, _) => RawExpires::None,
            (Some(raw), Expiry::At(at)) if format_http_date(at) == raw => RawExpires::OfExpiry,
            (Some(raw), _) => RawExpires::As(cut(raw)),
        };
        About {
            expires,
            content_type: headers.content_type.as_deref().map(cut),
            storage_class: cut(headers.storage_class.as_deref().unwrap_or(STANDARD)),
        }
    }

    /// `Expires` as it was sent, of an object of this expiry.
    fn expires(&self, expiry: Expiry) -> Option<String> {
        match &self.expires {
            RawExpires::OfExpiry => expiry.instant().map(format_http_date),
            RawExpires::As(raw) => Some(raw.clone()),
            RawExpires::None => None,
        }
    }

    /// The headers it came from, of an object of this expiry.
    pub fn headers(&self, expiry: Expiry) -> Headers {
        Headers {
            expires: self.expires(expiry),
            content_type: self.content_type.clone(),
            storage_class: Some(self.storage_class.clone()).filter(|class| class != STANDARD),
            ..Headers::default()
        }
    }

    /// Total length of its texts, in bytes.
    pub fn text_len(&self) -> usize {
        let expires = match &self.expires {
            RawExpires::As(raw) => raw.len(),
            RawExpires::None | RawExpires::OfExpiry => 0,
        };
        expires + self.content_type.as_ref().map_or(0, String::len) + self.storage_class.len()
    }
}

/// The attributes that set when a file expires.
pub const TTL: &str = "user.expirefs.ttl";
pub const EXPIRES: &str = "user.expirefs.expires";

/// The prefix of all attribute names.
const NAMESPACE: &str = "user.expirefs.";

/// The extended attributes of a file, by name. Those that need headers are missing until the
/// headers were received.
pub fn attributes(
    version: &Version,
    expiry: Expiry,
    about: Option<&About>,
) -> Vec<(String, String)> {
    let all = [
        ("expires", expiry.instant().map(rfc3339)),
        ("expires_raw", about.and_then(|about| about.expires(expiry))),
        ("etag", Some(version.etag.to_string()).filter(|etag| !etag.is_empty())),
        ("key", Some(version.key.to_string())),
        ("storage_class", about.map(|about| about.storage_class.clone())),
        ("content_type", about.and_then(|about| about.content_type.clone())),
    ];
    known(all)
}

/// Those of a pending file, which would end at `expires` if it were committed now.
pub fn of_pending(key: &str, expires: Option<SystemTime>) -> Vec<(String, String)> {
    known([("expires", expires.map(rfc3339)), ("key", Some(key.to_owned()))])
}

fn known<const N: usize>(all: [(&str, Option<String>); N]) -> Vec<(String, String)> {
    let known = all.into_iter().filter_map(|(name, value)| Some((name, value?)));
    known.map(|(name, value)| (format!("{NAMESPACE}{name}"), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    fn shown(headers: Headers, expiry: Expiry, known: bool) -> Vec<(String, String)> {
        let version = Version {
            key: "d/f".into(),
            etag: "e".into(),
            last_modified: SystemTime::UNIX_EPOCH,
            slack: Duration::ZERO,
            size: 1,
        };
        let about = About::of(&headers, expiry);
        attributes(&version, expiry, known.then_some(&about))
    }

    #[test]
    fn attributes_show_what_is_cached() {
        let ours = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(n, v)| (format!("{NAMESPACE}{n}"), (*v).to_owned())).collect()
        };
        let at = Expiry::At(SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777));
        for raw in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            let headers = Headers {
                expires: Some(raw.to_owned()),
                content_type: Some("text/html".to_owned()),
                ..Headers::default()
            };
            let want = ours(&[
                ("expires", "1994-11-06T08:49:37Z"),
                ("expires_raw", raw),
                ("etag", "e"),
                ("key", "d/f"),
                ("storage_class", "STANDARD"),
                ("content_type", "text/html"),
            ]);
            assert_eq!(shown(headers.clone(), at, true), want);
            let listed =
                ours(&[("expires", "1994-11-06T08:49:37Z"), ("etag", "e"), ("key", "d/f")]);
            assert_eq!(shown(headers, at, false), listed);
        }
        let long = format!("{}äß", "x".repeat(TEXT - 1));
        let headers = Headers { content_type: Some(long), ..Headers::default() };
        let value = shown(headers, Expiry::Never, true).pop().map(|(_, value)| value);
        assert_eq!(value, Some("x".repeat(TEXT - 1)), "cut before the character that does not fit");

        let never = Headers {
            expires: Some("never".to_owned()),
            storage_class: Some("GLACIER_IR".to_owned()),
            ..Headers::default()
        };
        let want = ours(&[
            ("expires_raw", "never"),
            ("etag", "e"),
            ("key", "d/f"),
            ("storage_class", "GLACIER_IR"),
        ]);
        assert_eq!(shown(never, Expiry::Never, true), want);
    }
}
