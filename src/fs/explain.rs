//! `explain` for a name in a mount: what the store says, and what the mount has cached.

use super::Fs;
use crate::bucket::Bucket;
use crate::bucket::explain::{Belief, Explanation, explain};
use crate::catalog::Known;
use crate::error::Result;
use crate::expiry::{Expiry, Presence, rfc3339};
use crate::name;

impl Fs {
    /// Explains why the name at `path`, below the mount point, is visible or not. `bucket` is the
    /// mount's bucket, possibly with another timeout.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn explain(
        &self,
        bucket: &Bucket,
        path: &str,
        name: &str,
        dir: &str,
    ) -> Result<Explanation> {
        let key = self.settings.prefix.key(path);
        // Before the request to the store, which may change the cache.
        let mount = self.belief(&key, dir);
        let mut explanation = explain(bucket, name, &key).await?;
        for (slash, _) in path.match_indices('/') {
            let above = self.settings.prefix.key(&path[..slash]);
            if !name::is_legal(above.rsplit('/').next().unwrap_or_default()) {
                continue;
            }
            let fact = self.catalog.resolve(&above, |_| true).await?;
            let live = matches!(self.catalog.presence(&fact), Presence::Live { .. });
            if live && matches!(fact.known, Known::File { .. }) {
                explanation.hidden = Some(format!("the live file {above} hides this name"));
                break;
            }
        }
        explanation.mount = Some(mount);
        Ok(explanation)
    }

    fn belief(&self, key: &str, dir: &str) -> Belief {
        let fact = self.catalog.remembered(key);
        let (believes, etag, expiry) = match fact.as_ref().map(|fact| &fact.known) {
            Some(Known::File { version, expiry, .. }) => {
                ("file", Some(version.etag.to_string()), Some(*expiry))
            }
            Some(Known::Directory) => ("directory", None, None),
            Some(Known::Absent) => ("absent", None, None),
            None => ("nothing", None, None),
        };
        Belief {
            dir: dir.to_owned(),
            believes: believes.to_owned(),
            etag,
            instant: expiry.and_then(Expiry::instant).map(rfc3339),
            trusted_s: fact.map_or(0.0, |fact| self.catalog.ttl(&fact).as_secs_f64()),
            open_handles: self.handles.count_of(key),
        }
    }
}
