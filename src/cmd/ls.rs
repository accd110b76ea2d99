//! `expirefs ls`: lists a bucket, including expired objects.

use std::pin::pin;
use std::process::ExitCode;

use futures_util::StreamExt;

use super::progress::Progress;
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
    let progress = Progress::of_objects(quiet);
    let (mut seen, mut expired) = (0, 0);
    let (mut any_shown, mut prefixes) = (false, 0);
    let mut items = pin!(inventory.items());
    while let Some(item) = items.next().await {
        let item = item.map_err(|e| format!("{from}: {e}"))?;
        expired += u64::from(item.state == State::Expired);
        seen += 1;
        progress.tell(seen, format_args!("{expired} of them expired"));
        prefixes += u64::from(item.state == State::Prefix);
        if shown(item.state) {
            any_shown = true;
            if progress.suspend(|| show(&item))? == Reader::Gone {
                break;
            }
        }
    }
    progress.end();
    if !any_shown && prefixes > 0 && !quiet {
        say(&format!(
            "expirefs: none directly below {from}, and {prefixes} prefixes lie deeper: \
             --recursive (-r) lists what is in them"
        ));
    }
    Ok(())
}
