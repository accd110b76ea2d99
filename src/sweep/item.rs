//! What a sweep shows of an object or an upload.

use std::fmt;

use serde::Serialize;

use crate::expiry::{Basis, Judgement, rfc3339};
use crate::store::Version;

/// An object that is due, or an upload that is old, and what became of it. Field names are part of the
/// interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    pub key: String,
    pub outcome: Outcome,
    /// When it expired (RFC 3339); `None` if no instant is known.
    pub instant: Option<String>,
    pub decided_by: Option<Basis>,
    /// Bytes.
    pub size: Option<u64>,
    /// For an upload: when it was created.
    pub last_modified: Option<String>,
    pub upload_id: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Due,
    Deleted,
    Renewed,
    Gone,
    Failed,
}

impl Item {
    pub(super) fn of(key: &str) -> Item {
        Item {
            key: key.to_owned(),
            outcome: Outcome::Due,
            instant: None,
            decided_by: None,
            size: None,
            last_modified: None,
            upload_id: None,
            error: None,
        }
    }

    /// An object that was judged, or is due by its age.
    pub(super) fn due(version: &Version, judgement: Option<Judgement>) -> Item {
        Item {
            instant: judgement.and_then(|it| it.expiry.instant()).map(rfc3339),
            decided_by: judgement.map(|judgement| judgement.basis),
            size: Some(version.size),
            last_modified: Some(rfc3339(version.last_modified)),
            ..Item::of(&version.key)
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Due => "due",
            Outcome::Deleted => "deleted",
            Outcome::Renewed => "renewed",
            Outcome::Gone => "gone",
            Outcome::Failed => "failed",
        })
    }
}
