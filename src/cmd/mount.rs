//! `expirefs mount`: mounts a bucket, and serves it until it is unmounted.

use std::convert::Infallible;
use std::path::Path;
use std::process::ExitCode;

use super::background::Starter;
use super::on_runtime_of_a_mount;
use super::signals::Signals;
use super::supervisor::Supervisor;
use crate::config::Config;
use crate::config::args::MountArgs;
use crate::daemon::{self, Mounted};
use crate::log::Log;
use crate::output::say;

/// `background`: a command waits for this daemon.
pub fn run(args: MountArgs, log: &Log, background: bool) -> Result<ExitCode, String> {
    if background {
        Starter::name_process()?;
    }
    let config = Config::new(args)?;
    if let Some(file) = log.file().filter(|file| lies_below(file, &config.dir)) {
        return Err(format!("--log-file {} would lie in the mount itself", file.display()));
    }
    // Before the runtime opens its descriptors, which the budget counts.
    let budget = daemon::budget(&config)?;
    let source = config.url();
    on_runtime_of_a_mount(config.workers, async {
        // Not of a daemon whose command it has started.
        let supervisor = if background { None } else { Supervisor::find() };
        // `systemctl reload` sends SIGHUP.
        let stays = background || supervisor.is_some();
        let mut signals = Signals::rotating(log.rotation(), stays)?;
        let mut starter = background.then(Starter::at_standard_input).transpose()?;
        let give_up = async {
            tokio::select! {
                () = signals.next() => {}
                () = gone(&mut starter) => {}
            }
        };
        let tell = |line: &str| {
            say(&format!("expirefs: {line}"));
            if let Some(supervisor) = supervisor {
                supervisor.waits(line);
            }
        };
        let mut mounted = Mounted::start(config, budget, log.filter.clone(), give_up, tell).await?;
        let dir = mounted.dir().display().to_string();
        let summary = mounted.summary();
        let first = summary();
        let line =
            format!("expirefs: mounted {source} on {dir}, at most {} open bodies", first.cap);
        let goes_on = match starter {
            Some(starter) => starter.leave(&line).await,
            None => {
                say(&line);
                Ok(true)
            }
        };
        let watched = match supervisor {
            Some(supervisor) => supervisor.serves(mounted.entry().clone(), &first),
            None => Ok(None),
        };
        let goes_on = goes_on.and_then(|goes_on| watched.map(|watchdog| (goes_on, watchdog)));
        if let Ok((true, _)) = &goes_on {
            tokio::select! {
                () = mounted.until_done() => {}
                () = signals.next() => {}
                never = told(supervisor.map(|supervisor| supervisor.report(summary))) => match never {},
            }
        }
        tokio::select! {
            unmounted = mounted.unmount(signals.next()) => unmounted?,
            never = told(supervisor.map(Supervisor::stops)) => match never {},
        }
        let (goes_on, _watchdog) = goes_on?;
        match goes_on {
            true => say(&format!("expirefs: unmounted {dir}")),
            false => return Err("interrupted; nothing is mounted".to_owned()),
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Tells a supervisor, if there is one.
async fn told(telling: Option<impl Future<Output = Infallible>>) -> Infallible {
    match telling {
        Some(telling) => telling.await,
        None => std::future::pending().await,
    }
}

/// Waits until the command that has started this daemon is gone, if there is one.
async fn gone(starter: &mut Option<Starter>) {
    match starter {
        Some(starter) => starter.gone().await,
        None => std::future::pending().await,
    }
}

fn lies_below(file: &Path, dir: &Path) -> bool {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new(".")).canonicalize();
    matches!((folder, dir.canonicalize()), (Ok(folder), Ok(dir)) if folder.starts_with(&dir))
}
