//! DeleteObjects: the document that names the versions, and the answer for each of them.

use std::collections::HashMap;

use aws_sdk_s3::error::BuildError;
use aws_sdk_s3::operation::delete_objects::DeleteObjectsOutput;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};

use crate::error::{Error, Result};
use crate::store::Version;
use crate::store::write::{Deleted, Tag};

/// Names exactly these versions. `if_match` writes an ETag.
pub fn of(versions: &[Version], if_match: impl Fn(&Tag) -> String) -> Result<Delete> {
    let object = |version: &Version| {
        ObjectIdentifier::builder()
            .key(&*version.key)
            .set_e_tag(version.tag().map(|tag| if_match(&tag)))
            .size(i64::try_from(version.size).unwrap_or(i64::MAX))
            .last_modified_time(version.last_modified.into())
            .build()
    };
    let objects: Result<_, BuildError> = versions.iter().map(object).collect();
    let batch = objects.and_then(|objects| Delete::builder().set_objects(Some(objects)).build());
    batch.map_err(|error| Error::Defect(error.to_string()))
}

/// What became of each of these versions. `unclear`: an earlier try may have deleted them.
pub fn outcomes(
    out: &DeleteObjectsOutput,
    versions: &[Version],
    unclear: bool,
) -> Vec<Result<Deleted>> {
    let deleted = out.deleted().iter().map(|deleted| {
        let marker = deleted.delete_marker() == Some(true);
        (deleted.key(), Ok(Deleted { marker }))
    });
    let refused = out.errors().iter().map(|error| {
        let outcome = match error.code() {
            Some("NoSuchKey") if unclear => Ok(Deleted::default()),
            Some("NoSuchKey") => Err(Error::NotFound),
            Some("PreconditionFailed") => Err(Error::PreconditionFailed),
            code => {
                Err(Error::Refused(code.unwrap_or("an error without a code").to_owned().into()))
            }
        };
        (error.key(), outcome)
    });
    let mut outcomes: HashMap<_, _> = deleted.chain(refused).collect();
    let of = versions.iter().map(|version| {
        let unnamed = || Err(Error::Unclear("an answer that does not name the key".into()));
        outcomes.remove(&Some(&*version.key)).unwrap_or_else(unnamed)
    });
    of.collect()
}
