//! `expirefs mount`: mounts a bucket, and serves it until it is unmounted.

use std::path::Path;
use std::process::ExitCode;

use super::background::Starter;
use super::on_runtime_of_a_mount;
use super::signals::Signals;
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
        let mut signals = Signals::rotating(log.rotation(), background)?;
        let mut starter = background.then(Starter::at_standard_input).transpose()?;
        let give_up = async {
            tokio::select! {
                () = signals.next() => {}
                () = gone(&mut starter) => {}
            }
        };
        let tell = |line: &str| say(&format!("expirefs: {line}"));
        let mut mounted = Mounted::start(config, budget, log.filter.clone(), give_up, tell).await?;
        let dir = mounted.dir().display().to_string();
        let cap = mounted.status().cap;
        let line = format!("expirefs: mounted {source} on {dir}, at most {cap} open bodies");
        let goes_on = match starter {
            Some(starter) => starter.leave(&line).await,
            None => {
                say(&line);
                Ok(true)
            }
        };
        if goes_on == Ok(true) {
            tokio::select! {
                () = mounted.until_done() => {}
                () = signals.next() => {}
            }
        }
        mounted.unmount(signals.next()).await?;
        match goes_on? {
            true => say(&format!("expirefs: unmounted {dir}")),
            false => return Err("interrupted; nothing is mounted".to_owned()),
        }
        Ok(ExitCode::SUCCESS)
    })
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
