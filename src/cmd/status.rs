//! `expirefs status`.

use std::process::ExitCode;

use super::on_runtime;
use crate::config::args::{OutputArgs, StatusArgs};
use crate::daemon::client;
use crate::daemon::status::Format;
use crate::output::{Reader, print, print_json};

pub fn run(args: &StatusArgs) -> Result<ExitCode, String> {
    let mount = client::mount_at(&args.dir, true)?;
    let status = on_runtime(1, async { client::status(&mount).await.map_err(|e| e.to_string()) })?;
    if args.openmetrics {
        let _: Reader = print(&status.exposed(Format::OpenMetrics))?;
        return Ok(ExitCode::SUCCESS);
    }
    let _: Reader = match args.output {
        OutputArgs { quiet: true, .. } => Reader::There,
        OutputArgs { json: true, .. } => {
            print_json(&serde_json::to_string(&status).map_err(|e| e.to_string())?)?
        }
        OutputArgs { .. } => print(&status.to_string())?,
    };
    Ok(ExitCode::SUCCESS)
}
