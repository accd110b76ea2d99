//! Incomplete uploads that are old (`--uploads`): until they are aborted, they cost storage.

use std::time::{Duration, SystemTime};

use super::{Item, Outcome, Sweeping};
use crate::error::Result;
use crate::expiry::rfc3339;
use crate::store::UploadPages;
use crate::store::write::Upload;

impl Sweeping {
    /// Lists or aborts uploads that were created longer ago than this.
    pub(super) async fn sweep_uploads(&self, age: Duration) -> Result<()> {
        let mut pages = UploadPages::new(&*self.sweep.store, &self.sweep.prefix);
        loop {
            self.turn().await;
            let Some(uploads) = pages.next().await? else { return Ok(()) };
            let now = self.sweep.bucket.clock.now();
            for (upload, created) in uploads {
                if self.stop.is_set() {
                    return Ok(());
                }
                if now.duration_since(created).is_ok_and(|since| since >= age) {
                    self.sweep_upload(upload, created).await;
                }
            }
        }
    }

    async fn sweep_upload(&self, upload: Upload, created: SystemTime) {
        self.count().old_uploads += 1;
        let aborted = match self.sweep.delete {
            false => None,
            true => {
                self.turn().await;
                Some(self.sweep.store.abort(&upload).await)
            }
        };
        let (outcome, error) = match aborted {
            None => (Outcome::Due, None),
            Some(Ok(())) => (Outcome::Deleted, None),
            Some(Err(error)) => (Outcome::Failed, Some(error.to_string())),
        };
        match outcome {
            Outcome::Deleted => self.count().aborted_uploads += 1,
            Outcome::Failed => self.count().failed += 1,
            _ => {}
        }
        let item = Item {
            outcome,
            last_modified: Some(rfc3339(created)),
            upload_id: Some(upload.id),
            error,
            ..Item::of(&upload.key)
        };
        self.show(item).await;
    }
}
