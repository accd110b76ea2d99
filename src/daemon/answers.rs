//! The replies of a mount on its control socket: its status, and explanations of names.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tracing::info;

use crate::bucket::Bucket;
use crate::bucket::explain::Explanation;
use crate::daemon::control::Service;
use crate::daemon::protocol::Reply;
use crate::daemon::status::{Started, Status};
use crate::fd_budget::{Budget, Peak};
use crate::fs::Fs;
use crate::log::Filter;

/// What the replies are made from.
pub struct Answers {
    pub fs: Arc<Fs>,
    /// The same bucket, with a short timeout if the store cannot be reached.
    pub bucket: Bucket,
    pub bucket_name: String,
    pub source: String,
    pub dir: String,
    pub budget: Budget,
    pub idle_warn: Option<Duration>,
    pub started: Started,
    /// Where metrics are served.
    pub metrics_at: Option<String>,
    pub peak: Arc<Peak>,
    pub log: Filter,
}

#[async_trait]
impl Service for Answers {
    fn status(&self) -> Status {
        self.summary().with_handles(&self.fs)
    }

    fn summary(&self) -> Status {
        let in_use = self.peak.look().unwrap_or_default();
        let Answers { fs, idle_warn, budget, source, dir, started, .. } = self;
        let status = Status::of(fs, *idle_warn, budget, in_use, source, dir, *started);
        Status { metrics_at: self.metrics_at.clone(), ..status }
    }

    fn log_filter(&self, new: Option<&str>) -> Reply<String> {
        if let Some(new) = new {
            self.log.set(new)?;
            info!(filter = new, "the filter of the log was changed");
        }
        Ok(self.log.current())
    }

    async fn explain(&self, path: &str) -> Reply<Explanation> {
        let explained = self.fs.explain(&self.bucket, path, &self.bucket_name, &self.dir).await;
        explained.map_err(|error| error.to_string())
    }
}
