//! `expirefs umount`.

use std::process::ExitCode;

use super::on_runtime;
use crate::config::args::UmountArgs;
use crate::daemon::control::Request;
use crate::daemon::{client, mounts};

pub fn run(args: &UmountArgs) -> Result<ExitCode, String> {
    on_runtime(1, umount(args))
}

/// Has the daemon unmount. A mount is detached without its daemon only if that is known to be dead,
/// or with `force`.
async fn umount(UmountArgs { dir, force }: &UmountArgs) -> Result<ExitCode, String> {
    let mount = client::mount_at(dir, false)?;
    let asked = match *force {
        true => None,
        false => Some(client::ask(&mount, &Request::Unmount).await),
    };
    match asked {
        Some(Ok(failure)) if failure.is_empty() => {}
        Some(Ok(failure)) => return Err(failure),
        Some(Err(error)) if !mount.is_dead() => {
            return Err(format!(
                "{error}; it is still mounted: `expirefs umount --force {}` detaches it without \
                 its daemon",
                dir.display()
            ));
        }
        Some(Err(_)) | None => {
            mounts::detach(&mount).map_err(|e| format!("{}: {e}", dir.display()))?;
        }
    }
    match mounts::at(dir) {
        Ok(Some(now)) if now.device == mount.device => {
            Err(format!("{} is still mounted", dir.display()))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}
