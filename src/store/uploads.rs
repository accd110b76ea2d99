//! Iterates over the pages of incomplete uploads, and refuses a list that never ends.

use std::time::SystemTime;

use super::Guard;
use super::write::{Upload, WriteStore};
use crate::error::Result;

/// The uploads whose keys begin with a prefix, page by page.
pub struct UploadPages<'a> {
    store: &'a dyn WriteStore,
    prefix: &'a str,
    after: Option<Upload>,
    ended: bool,
    guard: Guard,
}

impl<'a> UploadPages<'a> {
    pub fn new(store: &'a dyn WriteStore, prefix: &'a str) -> UploadPages<'a> {
        UploadPages { store, prefix, after: None, ended: false, guard: Guard::default() }
    }

    /// The uploads of the next page, each with the time at which it was created; `None` after the last
    /// one.
    ///
    /// # Errors
    /// Those of the store. `Protocol` if the list does not end, see [`Guard`].
    pub async fn next(&mut self) -> Result<Option<Vec<(Upload, SystemTime)>>> {
        if self.ended {
            return Ok(None);
        }
        let page = self.store.uploads(self.prefix, self.after.as_ref()).await?;
        match page.next {
            Some(next) => {
                let first = page.uploads.first().map(|(upload, _)| token(upload));
                let after = self.after.as_ref().map(token);
                self.guard.pass(after.as_deref(), first.as_deref(), &token(&next))?;
                self.after = Some(next);
            }
            None => self.ended = true,
        }
        Ok(Some(page.uploads))
    }
}

/// An upload as a text, unlike that of any other.
fn token(upload: &Upload) -> String {
    format!("{} {}", upload.id, upload.key)
}
