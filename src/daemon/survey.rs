//! The expirefs mounts of this host, and the state of each.

use std::time::Duration;

use nix::unistd::Uid;
use serde::Serialize;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

use crate::daemon::client;
use crate::daemon::mounts::{self, MountEntry};

/// A daemon that has not answered within this time is silent.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether a mount is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Serving,
    /// Its daemon is gone.
    Dead,
    /// Its daemon is run by another user, and answers only that one.
    OtherUser,
    /// Its daemon does not answer, but is not known to be gone.
    Silent,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Serving => "serving",
            State::Dead => "dead",
            State::OtherUser => "other user",
            State::Silent => "silent",
        }
    }
}

/// A mount. Field names are part of the interface of `list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mount {
    pub source: String,
    pub dir: String,
    pub user: Option<u32>,
    pub state: State,
    /// These are known only of a mount that is served.
    pub pid: Option<u32>,
    pub bodies_open: Option<usize>,
    pub cap: Option<usize>,
    pub opens_waiting: Option<usize>,
}

/// All of them, in the order of the mount table.
///
/// # Errors
/// If the mount table cannot be read, in words for the operator.
pub async fn mounts() -> Result<Vec<Mount>, String> {
    let entries = mounts::ours()?;
    let mut asking = JoinSet::new();
    for (place, entry) in entries.into_iter().enumerate() {
        asking.spawn(async move { (place, look_at(entry).await) });
    }
    let mut found = asking.join_all().await;
    found.sort_by_key(|(place, _)| *place);
    Ok(found.into_iter().map(|(_, mount)| mount).collect())
}

async fn look_at(entry: MountEntry) -> Mount {
    let source = entry.source.strip_prefix(mounts::SOURCE).unwrap_or(&entry.source).to_owned();
    let (dir, user) = (entry.dir.display().to_string(), entry.user);
    let unknown = Mount {
        source,
        dir,
        user,
        state: State::Silent,
        pid: None,
        bodies_open: None,
        cap: None,
        opens_waiting: None,
    };
    if let Ok(Ok(status)) = timeout(PATIENCE, client::summary(&entry)).await {
        return Mount {
            state: State::Serving,
            pid: Some(status.pid),
            bodies_open: Some(status.bodies_open),
            cap: Some(status.cap),
            opens_waiting: Some(status.opens_waiting),
            ..unknown
        };
    }
    let is_dead =
        spawn_blocking(move || client::has_lost_its_daemon(&entry)).await.unwrap_or(false);
    let is_foreign = user.is_some_and(|user| user != Uid::effective().as_raw());
    let state = match (is_dead, is_foreign) {
        (true, _) => State::Dead,
        (false, true) => State::OtherUser,
        (false, false) => State::Silent,
    };
    Mount { state, ..unknown }
}
