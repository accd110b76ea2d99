//! What the store of a writable mount honours, proved before the mount serves.
//!
//! A store that does not know a condition makes the change all the same, some never find that an
//! ETag in quotes matches, and some take RenameObject for the PUT of an empty object. None says so.
//! So each condition is tried on scratch objects, see [`proof`].
//!
//! Owns the table of what was shown, and its words. Knows nothing of files, nor of how a HEAD stands
//! in for a condition that is ignored.

mod proof;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinError;

use crate::deadline::Deadline;
use crate::error::Error;
use crate::name::Prefix;
use crate::store::write::WriteStore;

/// Which conditions a store was seen to honour: one that does not hold is refused, and one that
/// holds is not. `false` also where the request is denied, not known, or never clearly answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Honours {
    /// ETags go without quotes into the conditions of changes: in quotes they never match.
    pub bare_etags: bool,
    /// `If-None-Match: *` of PutObject.
    pub put_if_absent: bool,
    /// `If-Match` of PutObject.
    pub put_if_match: bool,
    /// `If-None-Match: *` of CompleteMultipartUpload.
    pub complete_if_absent: bool,
    /// `If-Match` of CompleteMultipartUpload.
    pub complete_if_match: bool,
    /// `x-amz-copy-source-if-match` of CopyObject. UploadPartCopy was measured to do the same.
    pub copy_source_if_match: bool,
    /// `If-None-Match: *` of CopyObject, on its target.
    pub copy_if_absent: bool,
    /// `If-Match` of CopyObject, on its target.
    pub copy_if_match: bool,
    /// `If-Match` of DeleteObject.
    pub delete_if_match: bool,
    /// RenameObject, with conditions on both of its keys.
    pub rename: bool,
    /// DeleteObject is not denied.
    pub may_delete: bool,
}

impl Honours {
    /// A store that honours everything.
    pub const ALL: Honours = Honours {
        bare_etags: false,
        put_if_absent: true,
        put_if_match: true,
        complete_if_absent: true,
        complete_if_match: true,
        copy_source_if_match: true,
        copy_if_absent: true,
        copy_if_match: true,
        delete_if_match: true,
        rename: true,
        may_delete: true,
    };

    /// A warning for the operator, in one line: what is lacking, and what is less safe for it.
    ///
    /// RenameObject alone is not missed: a copy and a DELETE, each under its condition, take its
    /// place.
    pub fn lacking(&self) -> Option<String> {
        let copied = self.rename || self.copy_if_absent && self.copy_if_match;
        let edited = self.put_if_match && self.complete_if_match;
        // Where an expired object lies, a new file replaces it under If-Match.
        let new = self.put_if_absent && self.complete_if_absent && edited && copied;
        // Of what is denied it is not known.
        let deleted = self.delete_if_match || !self.may_delete;
        let ignored = [
            (self.put_if_absent, "If-None-Match of PutObject"),
            (self.put_if_match, "If-Match of PutObject"),
            (self.complete_if_absent, "If-None-Match of CompleteMultipartUpload"),
            (self.complete_if_match, "If-Match of CompleteMultipartUpload"),
            (self.copy_source_if_match, "x-amz-copy-source-if-match of CopyObject"),
            (self.rename || self.copy_if_absent, "If-None-Match of CopyObject"),
            (self.rename || self.copy_if_match, "If-Match of CopyObject"),
            (deleted, "If-Match of DeleteObject"),
        ];
        let at_risk = [
            (new, "O_EXCL and RENAME_NOREPLACE may replace a new file of another writer"),
            (edited, "an edit may overwrite that of another writer"),
            (self.copy_source_if_match, "a rename or a new TTL may copy a newer version"),
            (deleted, "unlink and rename may delete a newer version"),
        ];
        let mut says = Vec::new();
        let ignored = missing(&ignored);
        if !ignored.is_empty() {
            says.push(format!(
                "the store does not honour {}; a HEAD before such a change stands in, and between \
                 the two {}",
                ignored.join(", "),
                missing(&at_risk).join(", ")
            ));
        }
        if !self.may_delete {
            says.push(
                "DELETE is denied (s3:DeleteObject): unlink and rmdir fail, and a renamed file may \
                 stay under its old name too"
                    .to_owned(),
            );
        }
        (!says.is_empty()).then(|| says.join("; "))
    }
}

/// The texts of what is not so.
fn missing<'a>(table: &[(bool, &'a str)]) -> Vec<&'a str> {
    table.iter().filter(|(is_so, _)| !is_so).map(|(_, text)| *text).collect()
}

/// A store in both spellings of the ETags that its changes are held to.
#[derive(Clone)]
pub struct Spellings {
    pub quoted: Arc<dyn WriteStore>,
    pub bare: Arc<dyn WriteStore>,
}

/// Why a bucket cannot be mounted to be written to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotWritable {
    /// A key, and what the store says.
    #[error("s3:PutObject is not permitted on {0}: {1}")]
    Denied(String, Error),
    #[error("what the store honours cannot be proved: {0}")]
    Unproved(Error),
}

impl Spellings {
    /// The store in the spelling that was seen to match.
    pub fn fitting(&self, honours: &Honours) -> Arc<dyn WriteStore> {
        match honours.bare_etags {
            true => self.bare.clone(),
            false => self.quoted.clone(),
        }
    }

    /// Proves that objects can be put under `prefix`, and what the store honours. `random` tells the
    /// scratch objects of two mounts apart. Up to `bodies` requests at one time carry content.
    ///
    /// A store that honours everything is sent 50 requests: seven one after the other, if `bodies`
    /// does not keep them waiting. All of it ends `within` that time, of which the probes have half
    /// and the removal of their objects the rest.
    ///
    /// # Errors
    /// `Denied` where the first PUT is. `Unproved` where the store refuses it otherwise, cannot be
    /// reached, throttles or does not answer.
    pub async fn prove(
        &self,
        prefix: &Prefix,
        random: u64,
        bodies: usize,
        within: Duration,
    ) -> Result<Honours, NotWritable> {
        let base = prefix.key(&format!(".expirefs-probe-{random:016x}-"));
        let proof = proof::run(self.clone(), base, bodies, Deadline::after(within));
        #[expect(
            clippy::disallowed_methods,
            reason = "it ends within a bound, and removes its objects even if nobody waits for it"
        )]
        let proof = tokio::spawn(proof);
        let defect = |e: JoinError| Err(NotWritable::Unproved(Error::Defect(e.to_string())));
        proof.await.unwrap_or_else(defect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_says_what_is_lacking_and_what_is_less_safe_for_it() {
        for complete in [Honours::ALL, Honours { rename: false, ..Honours::ALL }] {
            assert_eq!(complete.lacking(), None);
        }
        let bare = Honours { bare_etags: true, ..Honours::ALL };
        assert_eq!(bare.lacking(), None);
        let lacking = Honours { delete_if_match: false, ..Honours::ALL }.lacking();
        assert_eq!(
            lacking.as_deref(),
            Some(
                "the store does not honour If-Match of DeleteObject; a HEAD before such a change \
                 stands in, and between the two unlink and rename may delete a newer version"
            )
        );
        // Copies with a condition on the target are made only where there is no RenameObject.
        let no_copy = Honours { copy_if_absent: false, ..Honours::ALL };
        assert_eq!(no_copy.lacking(), None);
        let no_copy = Honours { rename: false, ..no_copy }.lacking().unwrap();
        assert!(no_copy.contains("If-None-Match of CopyObject; "), "{no_copy}");
        assert!(no_copy.contains("RENAME_NOREPLACE"), "{no_copy}");
        assert!(!no_copy.contains("an edit"), "{no_copy}");
    }

    #[test]
    fn where_delete_is_denied_its_condition_is_not_known() {
        let denied = Honours { delete_if_match: false, may_delete: false, ..Honours::ALL };
        let lacking = denied.lacking().unwrap();
        assert!(lacking.starts_with("DELETE is denied (s3:DeleteObject): "), "{lacking}");
        assert!(!lacking.contains("honour"), "{lacking}");
    }
}
