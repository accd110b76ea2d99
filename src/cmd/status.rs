//! `expirefs status`.

use std::process::ExitCode;
use std::time::Duration;

use super::on_runtime;
use super::signals::Signals;
use crate::config::args::{OutputArgs, StatusArgs};
use crate::daemon::client;
use crate::daemon::mounts::MountEntry;
use crate::daemon::status::{Format, Status};
use crate::output::{Reader, clear, print, print_json, say};

pub fn run(args: &StatusArgs) -> Result<ExitCode, String> {
    let mount = client::mount_at(&args.dir, true)?;
    on_runtime(1, async {
        let status = client::status(&mount).await.map_err(|e| e.to_string())?;
        let reader = show(args, &status)?;
        match args.watch {
            Some(interval) if reader == Reader::There => watch(args, &mount, interval).await?,
            _ => {}
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn show(args: &StatusArgs, status: &Status) -> Result<Reader, String> {
    if args.openmetrics {
        return print(&status.exposed(Format::OpenMetrics));
    }
    match args.output {
        OutputArgs { quiet: true, .. } => Ok(Reader::There),
        OutputArgs { json: true, .. } => {
            print_json(&serde_json::to_string(status).map_err(|e| e.to_string())?)
        }
        OutputArgs { .. } => print(&status.to_string()),
    }
}

/// Shows the status anew until a signal comes, nobody reads it, or the mount is gone.
async fn watch(args: &StatusArgs, mount: &MountEntry, interval: Duration) -> Result<(), String> {
    let mut signals = Signals::new()?;
    loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = signals.next() => return Ok(()),
        }
        let asked = tokio::select! {
            status = client::status(mount) => status,
            () = signals.next() => return Ok(()),
        };
        let reader = match asked {
            Ok(status) if args.output.json => show(args, &status)?,
            Ok(status) => match clear()? {
                Reader::There => show(args, &status)?,
                Reader::Gone => Reader::Gone,
            },
            Err(error) => match mount.now() {
                Ok(None) => return Err(format!("{} is no longer mounted", mount.dir.display())),
                // It may hang, or be replaced.
                _ => {
                    say(&format!("expirefs: {error}"));
                    Reader::There
                }
            },
        };
        if reader == Reader::Gone {
            return Ok(());
        }
    }
}
