//! `expirefs ls`: lists a bucket, including expired objects.

use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use futures_util::StreamExt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use super::{Failed, bucket, on_runtime};
use crate::bucket::inventory::{Inventory, Item, State};
use crate::config::Query;
use crate::config::args::{LsArgs, OutputArgs};
use crate::output::{Reader, print, print_json, say};

pub fn run(args: LsArgs) -> Result<ExitCode, Failed> {
    let LsArgs { url, expired, live, all: _, recursive, long, output, object } = args;
    let query = Query::new(&url, object).map_err(Failed::Usage)?;
    let shown = move |state| match state {
        State::Expired => !live,
        State::Live | State::Prefix => !expired,
        State::Unreadable | State::Unknown => !live && !expired,
    };
    let form = move |item: &Item| match output {
        OutputArgs { quiet: true, .. } => Ok(Reader::There),
        OutputArgs { json: true, .. } => {
            print_json(&serde_json::to_string(item).map_err(|e| e.to_string())?)
        }
        OutputArgs { .. } => print(&format!("{}\n", item.line(long))),
    };
    on_runtime(1, ls(query, recursive, output.quiet, shown, form))?;
    Ok(ExitCode::SUCCESS)
}

/// How long a listing runs before it shows its progress.
const SILENCE: Duration = Duration::from_secs(1);

/// Prints the items of a bucket as they arrive; if that takes long and standard error is a
/// terminal, shows a progress line there.
async fn ls(
    query: Query,
    recursive: bool,
    quiet: bool,
    shown: impl Fn(State) -> bool,
    show: impl Fn(&Item) -> Result<Reader, String>,
) -> Result<(), String> {
    let bucket = bucket(&query).await?;
    let from = format!("s3://{}/{}", query.endpoint.bucket, query.key);
    let inventory =
        Inventory { bucket, prefix: query.key, recursive, fan_out: query.metadata_concurrency };
    let progress = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    let style = ProgressStyle::with_template("{spinner} {human_pos} objects ({per_sec}), {msg}");
    progress.set_style(style.map_err(|e| e.to_string())?);
    let started = Instant::now();
    let (mut silent, mut expired) = (true, 0);
    let (mut any_shown, mut prefixes) = (false, 0);
    let mut items = pin!(inventory.items());
    while let Some(item) = items.next().await {
        let item = item.map_err(|e| format!("{from}: {e}"))?;
        if silent && !quiet && started.elapsed() > SILENCE {
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
    if !any_shown && prefixes > 0 && !quiet {
        say(&format!(
            "expirefs: none directly below {from}, and {prefixes} prefixes lie deeper: \
             --recursive (-r) lists what is in them"
        ));
    }
    Ok(())
}
