//! `expirefs umount`.

use std::io;
use std::process::ExitCode;

use super::on_runtime;
use crate::config::args::UmountArgs;
use crate::daemon::client::{self, Failure};
use crate::daemon::mounts;
use crate::output::say;

pub fn run(args: &UmountArgs) -> Result<ExitCode, String> {
    on_runtime(1, umount(args))
}

/// Makes the daemon unmount. A mount is detached without its daemon only if the daemon is known to
/// be dead, or with `force`.
async fn umount(UmountArgs { dir, force }: &UmountArgs) -> Result<ExitCode, String> {
    let failed = |error: io::Error| format!("{}: {error}", dir.display());
    let mount = client::mount_at(dir, false)?;
    let is_mounted = || mount.now().map(|now| now.is_some()).map_err(failed);
    let waits = || {
        say(&format!("expirefs: {} has closed files that are not committed yet", dir.display()));
    };
    let asked = if *force { None } else { Some(client::unmount(&mount, waits).await) };
    match asked {
        Some(Ok(())) => {}
        Some(Err(Failure::Refused(why))) => return Err(why),
        Some(Err(Failure::Unanswered(why))) => match mount.hold().map_err(failed)? {
            // The daemon has ended before it could answer.
            None => {}
            Some(mount) if client::has_lost_its_daemon(&mount) => mount.clear().map_err(failed)?,
            Some(_) => {
                return Err(format!(
                    "{why}; it is still mounted: `expirefs umount --force {}` detaches it without \
                     its daemon",
                    dir.display()
                ));
            }
        },
        None => mounts::detach(&mount).map_err(failed)?,
    }
    match is_mounted()? {
        true => Err(format!("{} is still mounted", dir.display())),
        false => Ok(ExitCode::SUCCESS),
    }
}
