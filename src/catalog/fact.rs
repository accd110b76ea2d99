//! What is cached about one name.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::weighed::Weight;
use crate::expiry::Expiry;
use crate::store::Version;
use crate::xattr::About;

/// How long answers of the store are cached (`--metadata-ttl`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    For(Duration),
    /// Until the object expires, like a fresh response in HTTP.
    UntilExpiry,
}

/// What a name stands for.
#[derive(Clone, Debug)]
pub enum Known {
    File {
        version: Arc<Version>,
        expiry: Expiry,
        /// Set once the object's headers were received.
        about: Option<Arc<About>>,
    },
    Directory,
    Absent,
}

/// What a name stands for, and until when that is served without revalidation.
#[derive(Clone, Debug)]
pub struct Fact {
    pub known: Known,
    pub until: SystemTime,
    /// It comes from a listing sent for a walk.
    pub(super) walked: bool,
}

impl Weight<Arc<str>> for Fact {
    fn weight(&self, key: &Arc<str>) -> usize {
        // Descriptions are mostly shared; each is counted in full all the same.
        key.len()
            + match &self.known {
                Known::File { version, about, .. } => {
                    300 + version.etag.len() + about.as_ref().map_or(0, |about| about.text_len())
                }
                Known::Directory | Known::Absent => 180,
            }
    }
}

impl Fact {
    pub(super) fn is_of(&self, version: &Version) -> bool {
        matches!(&self.known, Known::File { version: known, .. } if known.is(version))
    }
}
