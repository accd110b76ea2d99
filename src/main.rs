//! Parse, build, run.

#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use futures_util::StreamExt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::de::DeserializeOwned;
use tokio::runtime::Builder;

use expirefs::cli::{Cli, Command};
use expirefs::client;
use expirefs::clock::Clock;
use expirefs::config::{Config, Query};
use expirefs::control::Request;
use expirefs::daemon::{self, Mounted};
use expirefs::explain::{Explanation, explain};
use expirefs::inventory::{Inventory, Item, State};
use expirefs::log;
use expirefs::metrics::Metrics;
use expirefs::mounts;
use expirefs::output::{Reader, print, print_json, say};
use expirefs::s3::{BRIEF_OUTAGE, QUIET, S3};
use expirefs::signals::Signals;
use expirefs::status::Status;
use expirefs::store::Store;

/// The SDK allocates some hundred times a request, on one thread what another frees: with this
/// allocator a small file takes a sixth less CPU than with glibc's, at the same memory (measured).
#[global_allocator]
static GLOBAL: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match log::start(&cli.log, QUIET).and_then(|()| run(cli.command)) {
        Ok(status) => status,
        Err(error) => {
            say(&format!("expirefs: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode, String> {
    let done = |_: Reader| ExitCode::SUCCESS;
    match command {
        Command::Mount(args) => mount(Config::new(*args)?).map(|()| ExitCode::SUCCESS),
        Command::Umount { dir, force } => {
            on_runtime(1, umount(&dir, force)).map(|()| ExitCode::SUCCESS)
        }
        Command::Status { dir, json } => {
            let mount = client::mount_at(&dir, true)?;
            let answer = on_runtime(1, client::ask(&mount, &Request::Status))?;
            match json {
                true => print_json(&answer).map(done),
                false => print(&read_answer::<Status>(&answer)?.to_string()).map(done),
            }
        }
        Command::Ls { url, expired, live, all: _, recursive, long, json, object } => {
            let query = Query::new(&url, *object)?;
            let shown = move |state| match state {
                State::Expired => !live,
                State::Live | State::Prefix => !expired,
                State::Unreadable | State::Unknown => !live && !expired,
            };
            let form = move |item: &Item| match json {
                true => print_json(&serde_json::to_string(item).map_err(|e| e.to_string())?),
                false => print(&format!("{}\n", item.line(long))),
            };
            on_runtime(1, ls(query, recursive, shown, form)).map(|()| ExitCode::SUCCESS)
        }
        Command::Explain { path, json, object } => {
            let explanation = match path.starts_with("s3://") {
                true => {
                    let query = Query::new(&path, *object)?;
                    on_runtime(1, explain_object(query))?
                }
                false => {
                    let (mount, below) = client::path_in_mount(Path::new(&path))?;
                    let answer = on_runtime(1, client::ask(&mount, &Request::Explain(below)))?;
                    read_answer::<Result<Explanation, String>>(&answer)?
                        .map_err(|e| format!("{path}: {e}"))?
                }
            };
            let _: Reader = match json {
                true => {
                    print_json(&serde_json::to_string(&explanation).map_err(|e| e.to_string())?)?
                }
                false => print(&explanation.to_string())?,
            };
            Ok(ExitCode::from(explanation.exit_status()))
        }
        #[cfg(feature = "demo")]
        Command::Demo { exit } => on_runtime(1, async {
            let mut signals = Signals::new()?;
            expirefs::demo::run(exit, signals.next()).await
        })
        .map(|()| ExitCode::SUCCESS),
    }
}

/// Mounts, and serves it until it is unmounted.
fn mount(config: Config) -> Result<(), String> {
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

fn read_answer<T: DeserializeOwned>(answer: &str) -> Result<T, String> {
    serde_json::from_str(answer).map_err(|e| format!("the daemon's answer cannot be read: {e}"))
}

/// A bucket without a mount.
async fn bucket(query: &Query) -> Result<(Arc<dyn Store>, Arc<Clock>), String> {
    let clock = Arc::new(if query.local_clock { Clock::local() } else { Clock::server() });
    let budget = daemon::budget_without_mount(query.metadata_concurrency)?;
    let metrics = Arc::new(Metrics::default());
    let site = query.endpoint.clone().locate().await?;
    let store = S3::new(&site, &budget, query.timeout, clock.clone(), metrics).await?;
    Ok((Arc::new(store.with_outage(BRIEF_OUTAGE)), clock))
}

async fn explain_object(query: Query) -> Result<Explanation, String> {
    let (store, clock) = bucket(&query).await?;
    let bucket = &query.endpoint.bucket;
    let explanation = explain(&*store, &clock, &query.policy, bucket, &query.key).await;
    explanation.map_err(|e| format!("s3://{bucket}/{}: {e}", query.key))
}

/// How long a listing may take before it says how far it is.
const SILENCE: Duration = Duration::from_secs(1);

/// Prints the items of a bucket as they come; where that takes long and standard error is a
/// terminal, a line there tells how far it is.
async fn ls(
    query: Query,
    recursive: bool,
    shown: impl Fn(State) -> bool,
    show: impl Fn(&Item) -> Result<Reader, String>,
) -> Result<(), String> {
    let (store, clock) = bucket(&query).await?;
    let from = format!("s3://{}/{}", query.endpoint.bucket, query.key);
    let inventory = Inventory {
        store,
        clock,
        policy: query.policy,
        prefix: query.key,
        recursive,
        fan_out: query.metadata_concurrency,
    };
    let progress = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    let style = ProgressStyle::with_template("{spinner} {human_pos} objects ({per_sec}), {msg}");
    progress.set_style(style.map_err(|e| e.to_string())?);
    let started = Instant::now();
    let (mut silent, mut expired) = (true, 0);
    let (mut any_shown, mut prefixes) = (false, 0);
    let mut items = pin!(inventory.items());
    while let Some(item) = items.next().await {
        let item = item.map_err(|e| format!("{from}: {e}"))?;
        if silent && started.elapsed() > SILENCE {
            silent = false;
            progress.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
        }
        expired += u64::from(item.state == State::Expired);
        progress.inc(1);
        if !silent {
            progress.set_message(format!("{expired} of them expired"));
        }
        prefixes += u64::from(item.state == State::Prefix);
        if shown(item.state) {
            any_shown = true;
            if progress.suspend(|| show(&item))? == Reader::Gone {
                break;
            }
        }
    }
    progress.finish_and_clear();
    if !any_shown && prefixes > 0 {
        say(&format!(
            "expirefs: none directly below {from}, and {prefixes} prefixes lie deeper: \
             --recursive (-r) lists what is in them"
        ));
    }
    Ok(())
}

/// Has the daemon unmount. A mount is detached without its daemon only if that is known to be dead,
/// or with `force`.
async fn umount(dir: &Path, force: bool) -> Result<(), String> {
    let mount = client::mount_at(dir, false)?;
    let asked = match force {
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
