//! Parse, build, run.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use expirefs::cli::{Cli, Command};
use expirefs::config::Config;
use expirefs::control::{self, Request};
use expirefs::daemon::{self, Mounted};
use expirefs::mounts;
use expirefs::status::Status;

/// The SDK allocates some hundred times a request, on one thread what another frees: with this
/// allocator a small file takes a sixth less CPU than with glibc's, at the same memory (measured).
#[global_allocator]
static GLOBAL: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match start_log(&cli.log).and_then(|()| run(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("expirefs: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), String> {
    match command {
        Command::Mount(args) => {
            let config = Config::new(*args)?;
            // Before the runtime, whose descriptors have their place in the sum.
            let budget = daemon::budget(&config)?;
            let source = config.url();
            on_runtime(config.workers, async {
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
                Ok(())
            })
        }
        Command::Umount { dir } => on_runtime(1, umount(&dir)),
        Command::Status { dir, json } => {
            let mount = control::mount_at(&dir, true)?;
            let answer = on_runtime(1, control::ask(&mount, Request::Status))?;
            let mut out = std::io::stdout();
            let written = if json {
                writeln!(out, "{answer}")
            } else {
                let status: Status = serde_json::from_str(&answer)
                    .map_err(|e| format!("the daemon's answer cannot be read: {e}"))?;
                write!(out, "{status}")
            };
            written.map_err(|e| format!("standard output: {e}"))
        }
        #[cfg(feature = "demo")]
        Command::Demo { exit } => on_runtime(1, async {
            let mut signals = Signals::new()?;
            expirefs::demo::run(exit, signals.next()).await
        }),
    }
}

/// Has the daemon unmount; where none answers, takes the dead mount away.
async fn umount(dir: &Path) -> Result<(), String> {
    let mount = control::mount_at(dir, false)?;
    match control::ask(&mount, Request::Unmount).await {
        Ok(failure) if failure.is_empty() => {}
        Ok(failure) => return Err(failure),
        Err(_) => mounts::detach(&mount).map_err(|e| format!("{}: {e}", dir.display()))?,
    }
    match mounts::at(dir) {
        Ok(Some(now)) if now.device == mount.device => {
            Err(format!("{} is still mounted", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Runs to the end of `work`, on this many threads. What hangs in the system then (a DNS query) is
/// not waited for.
fn on_runtime<T>(
    workers: usize,
    work: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let built = Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    let runtime = built.map_err(|e| format!("no runtime: {e}"))?;
    let done = runtime.block_on(work);
    runtime.shutdown_background();
    done
}

/// SIGINT and SIGTERM.
struct Signals(Signal, Signal);

impl Signals {
    fn new() -> Result<Signals, String> {
        let listen = |kind| signal(kind).map_err(|e| format!("no signal handler: {e}"));
        Ok(Signals(listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?))
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

fn start_log(filter: &str) -> Result<(), String> {
    let parsed = EnvFilter::try_new(filter).map_err(|e| {
        format!("--log {filter:?}: {e}; expected a level such as `info`, or `expirefs=debug,warn`")
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}

/// A line for the operator; where nobody reads it, it is lost, and nothing else is.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
