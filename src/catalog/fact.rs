//! What is known of one name.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::weighed::Weight;
use crate::expiry::Expiry;
use crate::store::Version;
use crate::xattr::About;

/// How long what the store said is believed (`--metadata-ttl`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    For(Duration),
    /// Until the object expires, as HTTP has it for a fresh response.
    UntilExpiry,
}

/// What a name stands for.
#[derive(Clone, Debug)]
pub enum Known {
    File {
        version: Arc<Version>,
        expiry: Expiry,
        /// Where the headers of the object have been seen.
        about: Option<Arc<About>>,
    },
    Directory,
    Absent,
}

/// What a name stands for, and until when that may be believed without asking again.
#[derive(Clone, Debug)]
pub struct Fact {
    pub known: Known,
    pub until: SystemTime,
    /// A listing for a walk told it.
    pub(super) walked: bool,
}

impl Weight<Arc<str>> for Fact {
    fn weight(&self, key: &Arc<str>) -> usize {
        // What a description takes is shared by most that have it, and counted for each.
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
        matches!(&self.known, Known::File { version: known, .. } if **known == *version)
    }
}
