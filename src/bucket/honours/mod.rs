//! Which conditions the store of a writable mount honours, proved before the mount serves.
//!
//! A store that does not know a condition makes the change anyway, some never match an ETag in
//! quotes, and some treat RenameObject as a PUT of an empty object. None of them reports this. So
//! each condition is tried on scratch objects, see [`proof`].
//!
//! Owns the table of results, and its texts. Knows nothing of files, or of how a HEAD replaces a
//! condition that is ignored.

mod proof;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinError;

use crate::deadline::Deadline;
use crate::error::Error;
use crate::name::Prefix;
use crate::store::write::WriteStore;

/// Which conditions a store was seen to honour: a change whose condition does not hold is refused,
/// and one whose condition holds is made. `false` also if the request is denied, not known, or gets
/// no clear response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Honours {
    /// ETags in the conditions of changes must have no quotes: in quotes they never match.
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
    /// A store that honours no condition.
    pub const NONE: Honours = Honours {
        bare_etags: false,
        put_if_absent: false,
        put_if_match: false,
        complete_if_absent: false,
        complete_if_match: false,
        copy_source_if_match: false,
        copy_if_absent: false,
        copy_if_match: false,
        delete_if_match: false,
        rename: false,
        may_delete: true,
    };

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

    /// A warning for the operator, in one line: what is missing, and what is less safe without it.
    ///
    /// RenameObject alone is not reported: a copy and a DELETE, each with its condition, replace
    /// it.
    pub fn lacking(&self) -> Option<String> {
        let copied = self.rename || self.copy_if_absent && self.copy_if_match;
        let edited = self.put_if_match && self.complete_if_match;
        // A new file replaces an expired object with If-Match.
        let new = self.put_if_absent && self.complete_if_absent && edited && copied;
        // Unknown if DELETE is denied.
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

/// The texts of the entries that are false.
fn missing<'a>(table: &[(bool, &'a str)]) -> Vec<&'a str> {
    table.iter().filter(|(is_so, _)| !is_so).map(|(_, text)| *text).collect()
}

/// A store in both spellings of the ETags in conditions.
#[derive(Clone)]
pub struct Spellings {
    pub quoted: Arc<dyn WriteStore>,
    pub bare: Arc<dyn WriteStore>,
}

/// Why a bucket cannot be mounted writable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotWritable {
    /// A key, and the error of the store.
    #[error("s3:PutObject is not permitted on {0}: {1}")]
    Denied(String, Error),
    #[error("what the store honours cannot be proved: {0}")]
    Unproved(Error),
}

impl Spellings {
    /// The store in the spelling that matched.
    pub fn fitting(&self, honours: &Honours) -> Arc<dyn WriteStore> {
        match honours.bare_etags {
            true => self.bare.clone(),
            false => self.quoted.clone(),
        }
    }

    /// Proves that objects can be put under `prefix`, and what the store honours. `random`
    /// distinguishes the scratch objects of two mounts. At most `bodies` requests in flight carry
    /// content.
    ///
    /// A store that honours everything gets 50 requests, at most seven of them in sequence if
    /// `bodies` is large enough. All ends `within` that time: the probes have half of it, and the
    /// removal of their objects the rest.
    ///
    /// # Errors
    /// `Denied` if the first PUT is denied. `Unproved` if the store refuses it for another reason,
    /// cannot be reached, throttles or does not answer.
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
            reason = "it ends within a time limit, and removes its objects even if nobody waits for it"
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
    fn a_warning_names_missing_conditions_and_their_risks() {
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
        // Copies with a condition on the target are made only without RenameObject.
        let no_copy = Honours { copy_if_absent: false, ..Honours::ALL };
        assert_eq!(no_copy.lacking(), None);
        let no_copy = Honours { rename: false, ..no_copy }.lacking().unwrap();
        assert!(no_copy.contains("If-None-Match of CopyObject; "), "{no_copy}");
        assert!(no_copy.contains("RENAME_NOREPLACE"), "{no_copy}");
        assert!(!no_copy.contains("an edit"), "{no_copy}");
    }

    #[test]
    fn if_delete_is_denied_its_condition_is_unknown() {
        let denied = Honours { delete_if_match: false, may_delete: false, ..Honours::ALL };
        let lacking = denied.lacking().unwrap();
        assert!(lacking.starts_with("DELETE is denied (s3:DeleteObject): "), "{lacking}");
        assert!(!lacking.contains("honour"), "{lacking}");
    }
}
