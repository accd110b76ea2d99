//! ETags as a store sends them (RFC 9110 §8.8.3), and whether they can be relied on.

use std::sync::atomic::{AtomicBool, Ordering};

use tracing::warn;

/// Which kinds of ETags a store has sent so far.
#[derive(Debug, Default)]
pub struct Etags {
    weak: AtomicBool,
    missing: AtomicBool,
}

impl Etags {
    /// Records the ETag of a response, and logs once what its kind means for the mount.
    pub fn note(&self, key: &str, etag: Option<&str>) {
        let once = |seen: &AtomicBool| {
            !seen.load(Ordering::Relaxed) && !seen.swap(true, Ordering::Relaxed)
        };
        match etag.map(opaque) {
            None | Some("") if once(&self.missing) => warn!(
                key,
                "the store gives no ETag: such files can be read from start to end only, since the \
                 bytes of a second request could be of another version"
            ),
            Some(_) if is_weak(etag.unwrap_or_default()) && once(&self.weak) => warn!(
                key,
                "the store gives weak ETags, which If-Match never matches: versions are compared \
                 after each answer instead"
            ),
            _ => {}
        }
    }

    /// Whether If-Match would fail (RFC 9110 §13.1.1: it compares strongly).
    pub fn are_weak(&self) -> bool {
        self.weak.load(Ordering::Relaxed)
    }
}

fn is_weak(etag: &str) -> bool {
    etag.starts_with("W/")
}

/// The tag without quotes and `W/`: a proxy that compresses makes a strong tag weak, but it still
/// means the same version, which listings show with the strong tag.
pub fn opaque(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_and_strong_tags_of_a_version_are_one() {
        for etag in ["abc", "\"abc\"", "W/\"abc\""] {
            assert_eq!(opaque(etag), "abc");
        }
        let etags = Etags::default();
        for (etag, weak) in [("\"abc\"", false), ("W/\"abc\"", true), ("\"abc\"", true)] {
            etags.note("k", Some(etag));
            assert_eq!(etags.are_weak(), weak);
        }
    }
}
