//! Deviations of the server from S3, as in real stores.

use hyper::header::{HeaderMap, HeaderValue};
use s3s::{S3Result, s3_error};

use super::Stored;

/// How the server treats conditions, and requests that not every store knows. By default it honours
/// them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Personality {
    /// Conditions that are accepted and ignored.
    pub ignores: &'static [Conditions],
    /// The conditions of changes are compared literally with ETags: one in quotes never matches.
    pub bare_etags: bool,
    /// RenameObject is not known, and treated as a PUT of an empty object.
    pub takes_rename_for_put: bool,
}

/// The conditions of which request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditions {
    /// Of PutObject.
    Put,
    /// Of CompleteMultipartUpload.
    Complete,
    /// Of CopyObject and UploadPartCopy, on what they copy.
    CopySource,
    /// Of CopyObject, on what it replaces.
    CopyTarget,
    /// Of DeleteObject.
    Delete,
    /// Of DeleteObjects.
    DeleteObjects,
    /// Of RenameObject, on both keys.
    Rename,
}

impl Personality {
    pub const S3: Personality =
        Personality { ignores: &[], bare_etags: false, takes_rename_for_put: false };

    /// Garage 2.5.0, as measured.
    pub const GARAGE: Personality = Personality {
        ignores: &[
            Conditions::Put,
            Conditions::Complete,
            Conditions::CopyTarget,
            Conditions::Delete,
            Conditions::DeleteObjects,
        ],
        bare_etags: false,
        takes_rename_for_put: true,
    };

    /// Ceph RGW 16.2.15, as measured.
    pub const CEPH: Personality = Personality {
        ignores: &[
            Conditions::Complete,
            Conditions::CopySource,
            Conditions::CopyTarget,
            Conditions::Delete,
            Conditions::DeleteObjects,
        ],
        bare_etags: true,
        takes_rename_for_put: true,
    };

    /// Whether these conditions are checked.
    pub(super) fn honours(&self, conditions: Conditions) -> bool {
        !self.ignores.contains(&conditions)
    }

    /// Checks `If-Match` and `If-None-Match` against the object under the key.
    pub(super) fn check(
        &self,
        conditions: Conditions,
        headers: &HeaderMap,
        found: Option<&Stored>,
    ) -> S3Result {
        self.check_match(conditions, headers.get("if-match"), found)?;
        // S3 supports only the value `*` for If-None-Match.
        match self.honours(conditions) && headers.contains_key("if-none-match") && found.is_some() {
            true => Err(s3_error!(PreconditionFailed)),
            false => Ok(()),
        }
    }

    /// Checks a condition such as `If-Match` against the object under the key.
    pub(super) fn check_match(
        &self,
        conditions: Conditions,
        wanted: Option<&HeaderValue>,
        found: Option<&Stored>,
    ) -> S3Result {
        let Some(wanted) = wanted.filter(|_| self.honours(conditions)) else { return Ok(()) };
        let Some(found) = found else { return Err(s3_error!(NoSuchKey)) };
        match self.names(wanted.as_bytes(), found.etag.as_strong().unwrap_or_default().as_bytes()) {
            true => Ok(()),
            false => Err(s3_error!(PreconditionFailed)),
        }
    }

    fn names(&self, wanted: &[u8], tag: &[u8]) -> bool {
        let quoted = wanted.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
        match quoted {
            Some(inside) => inside == tag && !self.bare_etags,
            None => wanted == tag || wanted == b"*",
        }
    }
}

impl Default for Personality {
    fn default() -> Personality {
        Personality::S3
    }
}
