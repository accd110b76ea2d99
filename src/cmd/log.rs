//! `expirefs log`: shows or changes what a running mount logs.

use std::process::ExitCode;

use super::on_runtime;
use crate::config::args::ChangeLogArgs;
use crate::daemon::client;
use crate::output::{Reader, print};

pub fn run(args: ChangeLogArgs) -> Result<ExitCode, String> {
    let ChangeLogArgs { dir, filter } = args;
    let mount = client::mount_at(&dir, true)?;
    let shows = filter.is_none();
    let current = on_runtime(1, async {
        client::log_filter(&mount, filter).await.map_err(|e| e.to_string())
    })?;
    if shows {
        let _: Reader = print(&format!("{current}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}
