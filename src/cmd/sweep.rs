//! `expirefs sweep`: lists or deletes what has expired.

use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::object::{At, PARTLY};
use super::progress::{Progress, SILENCE};
use super::signals::Signals;
use super::{Failed, on_runtime};
use crate::catalog::index::Index;
use crate::config::Query;
use crate::config::args::{OutputArgs, SweepArgs};
use crate::daemon;
use crate::log::Log;
use crate::name::Prefix;
use crate::output::{Reader, print, print_json, say};
use crate::shown::Shown;
use crate::store::ListRequest;
use crate::sweep::{
    Ended, Item, Outcome, Range, Rules, State, Stop, Summary, Sweep, Sweeping, Totals, replace_file,
};

/// How far the clocks of the store and of this host may differ (rule S3).
const SKEW: Duration = Duration::from_secs(30);

/// Memory for expiry headers, in bytes: as much as a mount has by default.
const INDEX_MEMORY: usize = 16 << 20;

/// Items that are not shown yet.
const BACKLOG: usize = 1000;

pub fn run(args: SweepArgs, log: &Log) -> Result<ExitCode, Failed> {
    let mut query = Query::new(&args.url, args.object.clone()).map_err(Failed::Usage)?;
    let prefix = Prefix::new(&query.key);
    query.key = prefix.as_str().to_owned();
    let swept = on_runtime(2, async {
        let command = Command { index: open_index(&args, &query).await?, args, query };
        command.run(Signals::rotating(log.rotation(), false)?).await
    });
    Ok(swept?)
}

async fn open_index(args: &SweepArgs, query: &Query) -> Result<Option<Arc<Index>>, String> {
    if args.index.is_none() {
        return Ok(None);
    }
    let identity = At::new(query).await?.identity;
    daemon::open_index(INDEX_MEMORY, args.index.clone(), identity).await.map(Some)
}

struct Command {
    args: SweepArgs,
    query: Query,
    index: Option<Arc<Index>>,
}

/// Whether to sweep again.
#[derive(PartialEq, Eq)]
enum Again {
    Yes,
    /// Nobody reads what it prints.
    Unread,
    /// A signal has ended it: the usual end of one with `--interval`.
    Signal,
}

impl Command {
    async fn run(self, mut signals: Signals) -> Result<ExitCode, String> {
        loop {
            let began = Instant::now();
            let swept = self.sweep(&mut signals).await;
            let Some(interval) = self.args.interval else { return swept.map(|(status, _)| status) };
            match swept {
                Ok((_, Again::Signal)) => return Ok(ExitCode::SUCCESS),
                Ok((status, Again::Unread)) => return Ok(status),
                Ok(_) => {}
                Err(error) => say(&format!("expirefs: {error}")),
            }
            tokio::select! {
                () = sleep_until(began + interval) => {}
                () = signals.next() => return Ok(ExitCode::SUCCESS),
            }
        }
    }

    fn url(&self) -> String {
        format!("s3://{}/{}", self.query.endpoint.bucket, self.query.key)
    }

    async fn sweep(&self, signals: &mut Signals) -> Result<(ExitCode, Again), String> {
        let SweepArgs { delete, lifecycle_advice, .. } = self.args;
        let at = At::new(&self.query).await?;
        self.check(&at).await?;
        let (state, ranges) = match &self.args.state {
            None => (None, vec![Range::all()]),
            Some(path) => {
                let what = if delete { "deleted" } else { "listed" };
                let of = format!("what is {what} of {} at {}", self.url(), at.identity);
                State::open(path, of).map(|(state, left)| (Some(state), left))?
            }
        };
        let (items, mut shown) = mpsc::channel(BACKLOG);
        let stop = Arc::new(Stop::default());
        let began = Instant::now();
        let sweeping = Sweeping::new(self.plan(&at), ranges, state, stop.clone(), items);
        let progress = Progress::of_objects(self.args.output.quiet);
        let tell = |Totals { listed, due, deleted, .. }| {
            progress.tell(listed, format_args!("{due} due, {deleted} deleted"));
        };
        let mut again = Again::Yes;
        let ended = {
            let mut running = pin!(sweeping.run());
            loop {
                tokio::select! {
                    ended = &mut running => break ended,
                    Some(item) = shown.recv() => {
                        tell(sweeping.totals());
                        if progress.suspend(|| self.show(&item))? == Reader::Gone {
                            again = Again::Unread;
                            stop.stop();
                        }
                    }
                    () = tokio::time::sleep(SILENCE) => tell(sweeping.totals()),
                    () = signals.next() => {
                        again = Again::Signal;
                        stop.stop();
                    }
                }
            }
        };
        progress.end();
        while let Ok(item) = shown.try_recv() {
            let _: Reader = self.show(&item)?;
        }
        if let Some(index) = &self.index {
            index.flush();
        }
        let requests = at.metrics.requests.now();
        let (totals, guard) = (sweeping.totals(), sweeping.guard());
        let summary = Summary {
            url: self.url(),
            delete,
            complete: ended == Ended::Complete,
            ended_by: self.why(&ended),
            totals,
            guard,
            seconds: began.elapsed().as_secs_f64(),
            usd: requests.usd(),
            requests,
        };
        // Without this file the sweep is still what its summary says.
        let reported = self.report(&summary, at.bucket().clock.now());
        let is_reported = reported.inspect_err(|error| say(&format!("expirefs: {error}"))).is_ok();
        if let (Ended::Failed(_) | Ended::Skewed(_) | Ended::NoState(_), false) =
            (&ended, summary.totals.has_done_any())
        {
            let why = summary.ended_by.unwrap_or_default();
            return Err(format!("{}: {why}", summary.url));
        }
        match lifecycle_advice {
            true if ended == Ended::Complete => self.advise(&summary.totals)?,
            true => return Err(format!("{}: the sweep was not complete", summary.url)),
            false => self.sum_up(&summary)?,
        }
        let well = summary.complete && summary.totals.failed == 0 && is_reported;
        Ok((if well { ExitCode::SUCCESS } else { ExitCode::from(PARTLY) }, again))
    }

    fn plan(&self, at: &At) -> Sweep {
        let args = &self.args;
        Sweep {
            store: at.write_store(),
            bucket: at.bucket(),
            prefix: self.query.key.clone(),
            rules: Rules {
                grace: args.grace,
                unparsable: args.unparsable,
                ttl_between: args.ttl_between(),
            },
            delete: args.delete,
            most: args.max_delete,
            uploads: args.uploads,
            rate: args.rate,
            concurrency: self.query.metadata_concurrency,
            shards: args.shards,
            skew: self.skew(),
            index: self.index.clone(),
        }
    }

    /// The first request: the bucket is there, and the clocks agree.
    async fn check(&self, at: &At) -> Result<(), String> {
        let bucket = at.bucket();
        let first =
            ListRequest { max_keys: 1, recursive: true, ..ListRequest::level(&self.query.key) };
        bucket.store.list(first).await.map_err(|e| format!("{}: {e}", self.url()))?;
        let skew = bucket.clock.skew();
        match self.skew() {
            Some(most) if skew > most => Err(format!("{}: {}", self.url(), skewed(skew))),
            _ => Ok(()),
        }
    }

    /// Writes the summary as metrics (`--metrics`).
    fn report(&self, summary: &Summary, ended: SystemTime) -> Result<(), String> {
        let Some(path) = &self.args.metrics else { return Ok(()) };
        let text = summary.open_metrics(ended)?;
        replace_file(path, text.as_bytes())
            .map_err(|e| format!("--metrics {}: {e}", path.display()))
    }

    /// By how much the two clocks may differ.
    fn skew(&self) -> Option<Duration> {
        (!self.query.clock_is_given).then_some(SKEW)
    }

    fn show(&self, item: &Item) -> Result<Reader, String> {
        let OutputArgs { json, quiet } = self.args.output;
        let url = || format!("s3://{}/{}", self.query.endpoint.bucket, item.key);
        if item.outcome == Outcome::Failed {
            say(&format!("expirefs: {}: {}", url(), item.error.as_deref().unwrap_or_default()));
        }
        match (json, quiet || self.args.lifecycle_advice) {
            (_, true) => Ok(Reader::There),
            (true, _) => print_json(&serde_json::to_string(item).map_err(|e| e.to_string())?),
            (false, _) if item.outcome == Outcome::Failed => Ok(Reader::There),
            (false, _) => {
                let instant = item.instant.as_deref().unwrap_or("-");
                let of = if item.upload_id.is_some() { "  (upload)" } else { "" };
                let outcome = item.outcome.to_string();
                print(&format!("{outcome:<8} {instant:<20} {}{of}\n", Shown(&url())))
            }
        }
    }

    fn sum_up(&self, summary: &Summary) -> Result<(), String> {
        let OutputArgs { json, quiet } = self.args.output;
        if json {
            let _: Reader = print_json(&json!({ "summary": summary }).to_string())?;
        } else if !quiet {
            say(&format!("expirefs: {}", summary.line()));
        }
        if summary.totals.delete_markers > 0 && !quiet {
            say(&format!(
                "expirefs: {}: the bucket is versioned: {} of the deleted objects are kept behind delete \
                 markers, and billed, until a lifecycle rule for noncurrent versions deletes them",
                summary.url, summary.totals.delete_markers
            ));
        }
        Ok(())
    }

    fn advise(&self, totals: &Totals) -> Result<(), String> {
        let advice = totals.lifetimes.advice(&self.query.key, self.args.uploads);
        let advice = advice.map_err(|why| format!("{}: {why}", self.url()))?;
        let text = match self.args.output.json {
            true => advice.configuration.to_string(),
            false => format!("{:#}", advice.configuration),
        };
        let _: Reader = print_json(&text)?;
        if !self.args.output.quiet {
            advice.differs.iter().for_each(|line| say(&format!("expirefs: {line}")));
        }
        Ok(())
    }

    fn why(&self, ended: &Ended) -> Option<String> {
        let goes_on = match self.args.state {
            Some(_) => "; the next one with this --state goes on",
            None => "",
        };
        match ended {
            Ended::Complete => None,
            Ended::AtMost(most) => Some(format!("--max-delete {most}{goes_on}")),
            Ended::Stopped => Some(format!("it was stopped{goes_on}")),
            Ended::Failed(error) => Some(format!("{error}{goes_on}")),
            Ended::Skewed(by) => Some(skewed(*by)),
            Ended::NoState(error) => Some(error.clone()),
        }
    }
}

fn skewed(by: Duration) -> String {
    format!(
        "the store's clock and this host's differ by {} s: correct the wrong one, or say which one \
         counts with --clock server or --clock local",
        by.as_secs()
    )
}
