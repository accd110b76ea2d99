//! `expirefs mount`: mounts a bucket, and serves it until it is unmounted.

use std::process::ExitCode;

use super::on_runtime_of_a_mount;
use super::signals::Signals;
use crate::config::Config;
use crate::config::args::MountArgs;
use crate::daemon::{self, Mounted};
use crate::output::say;

pub fn run(args: MountArgs) -> Result<ExitCode, String> {
    let config = Config::new(args)?;
    // Before the runtime opens its descriptors, which the budget counts.
    let budget = daemon::budget(&config)?;
    let source = config.url();
    on_runtime_of_a_mount(config.workers, async {
        let mut signals = Signals::new()?;
        let mut mounted = Mounted::start(config, budget, signals.next()).await?;
        let dir = mounted.dir().display().to_string();
        let cap = mounted.status().cap;
        say(&format!("expirefs: mounted {source} on {dir}, at most {cap} open bodies"));
        tokio::select! {
            () = mounted.until_done() => {}
            () = signals.next() => {}
        }
        mounted.unmount(signals.next()).await?;
        say(&format!("expirefs: unmounted {dir}"));
        Ok(ExitCode::SUCCESS)
    })
}
