//! Sweeping a bucket: what has expired is listed, or deleted (rules S1 to S3).
//!
//! Workers go through ranges of the key space. Each lists its keys, gets the headers of those that
//! the listing, the index or a promise of the operator does not decide, and deletes what is due.
//! Owns the decision what is due, and that nothing else is deleted. Knows nothing of mounts.

mod advice;
mod allowance;
mod batch;
mod item;
mod ranges;
mod removal;
mod state;
mod stop;
mod totals;
mod uploads;
mod verdict;

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt, future, stream};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub use advice::Advice;
use allowance::{Allowance, Allowed};
pub use item::{Item, Outcome};
use ranges::Work;
pub use ranges::{Range, Ranges};
pub use removal::Guard;
use removal::{Due, Removal, Removed};
pub use state::{State, replace_file};
pub use stop::{Ended, Stop};
pub use totals::{Summary, Totals};
use verdict::ByAge;
pub use verdict::{Kept, Rules, Verdict};

use crate::bucket::{Bucket, Judged};
use crate::catalog::index::Index;
use crate::error::{Error, Result};
use crate::expiry::Terms;
use crate::store::write::WriteStore;
use crate::store::{ListRequest, PAGE, Page, Pages, Version, head_of_listed};

/// Objects after which the state is saved: so many are judged again after a crash, and those in flight.
const SAVE_AFTER: usize = 100;

/// What to sweep, and how.
pub struct Sweep {
    pub store: Arc<dyn WriteStore>,
    pub bucket: Bucket,
    /// Empty, or a directory: it ends in `/`.
    pub prefix: String,
    pub rules: Rules,
    /// Otherwise what is due is only listed.
    pub delete: bool,
    /// The most objects to delete.
    pub most: Option<u64>,
    /// Incomplete uploads are swept too, if they are older than this.
    pub uploads: Option<Duration>,
    /// Requests per second.
    pub rate: Option<NonZeroU32>,
    /// Objects in flight in each range.
    pub concurrency: usize,
    pub shards: usize,
    /// By how much the clocks of the store and of this host may differ. `None`: by any time, since the
    /// operator has said which one counts.
    pub skew: Option<Duration>,
    /// Known headers of versions.
    pub index: Option<Arc<Index>>,
}

/// What the listing, the index or a promise tells of an object.
enum Judging {
    /// Too young to have expired.
    Young,
    /// Old enough to be due.
    Old,
    Judged(Judged),
    Unknown,
}

/// What was done with an object.
enum Treated {
    /// It is not due.
    Kept,
    Due(Box<Item>),
    /// The sweep ends before it.
    Stopped(Option<Box<Item>>),
}

/// A sweep in progress.
pub struct Sweeping {
    sweep: Sweep,
    removal: Removal,
    pace: Option<DefaultDirectRateLimiter>,
    ranges: Arc<Ranges>,
    state: Option<Mutex<State>>,
    stop: Arc<Stop>,
    totals: Mutex<Totals>,
    allowance: Option<Allowance>,
    items: mpsc::Sender<Item>,
}

impl Sweeping {
    /// Prepares a sweep of these ranges. What is due is sent to `items`; if nobody receives them any
    /// more, the sweep stops.
    pub fn new(
        sweep: Sweep,
        ranges: Vec<Range>,
        state: Option<State>,
        stop: Arc<Stop>,
        items: mpsc::Sender<Item>,
    ) -> Arc<Sweeping> {
        let Sweep { store, bucket, rules, skew, .. } = &sweep;
        let removal = Removal::new(store.clone(), bucket.clone(), *rules, *skew);
        Arc::new(Sweeping {
            removal,
            allowance: sweep.most.map(Allowance::new),
            pace: sweep.rate.map(|rate| RateLimiter::direct(Quota::per_second(rate))),
            sweep,
            ranges: Ranges::new(ranges),
            state: state.map(Mutex::new),
            stop,
            totals: Mutex::default(),
            items,
        })
    }

    /// Counts so far.
    pub fn totals(&self) -> Totals {
        self.count().clone()
    }

    /// How exactly deletions are limited, if that is known by now.
    pub fn guard(&self) -> Option<Guard> {
        self.removal.guard()
    }

    /// Sweeps until all is done, or it is stopped.
    pub async fn run(self: &Arc<Self>) -> Ended {
        let mut workers = JoinSet::new();
        for _ in 0..self.sweep.shards {
            let this = self.clone();
            workers.spawn(async move {
                if let Err(error) = this.work().await {
                    this.stop.because(Ended::Failed(error));
                }
            });
        }
        while let Some(ended) = workers.join_next().await {
            if let Err(panicked) = ended {
                self.stop.because(Ended::Failed(Error::Defect(panicked.to_string())));
            }
        }
        if let Some(age) = self.sweep.uploads
            && !self.stop.is_set()
            && let Err(error) = self.sweep_uploads(age).await
        {
            self.stop.because(Ended::Failed(error));
        }
        self.save();
        let ended = self.stop.why().clone().unwrap_or(Ended::Complete);
        match &self.state {
            Some(state) if ended == Ended::Complete => {
                let state = state.lock().unwrap_or_else(PoisonError::into_inner);
                state.remove().map_or_else(Ended::NoState, |()| Ended::Complete)
            }
            _ => ended,
        }
    }

    /// Sweeps ranges until there is none left, and none to share.
    async fn work(&self) -> Result<()> {
        while !self.stop.is_set() {
            match self.ranges.take() {
                Some(work) => self.sweep_range(work).await?,
                None if self.sweep.shards == 1 => break,
                None => match self.ranges.split(PAGE, |range, n| self.nth_key(range, n)).await? {
                    true => {}
                    false => break,
                },
            }
        }
        Ok(())
    }

    /// The n-th key of a range, if it has so many.
    async fn nth_key(&self, range: Range, n: u16) -> Result<Option<String>> {
        self.turn().await;
        let start_after = Some(range.after.as_str()).filter(|after| !after.is_empty());
        let request = ListRequest { start_after, max_keys: n, ..self.listing() };
        let Page { objects, .. } = self.sweep.bucket.store.list(request).await?;
        let last = objects.get(usize::from(n) - 1).map(|version| version.key.to_string());
        Ok(last.filter(|last| range.contains(last)))
    }

    fn listing(&self) -> ListRequest<'_> {
        ListRequest { recursive: true, ..ListRequest::level(&self.sweep.prefix) }
    }

    async fn sweep_range(&self, work: Work) -> Result<()> {
        let start = work.after();
        let start_after = Some(start.as_str()).filter(|start| !start.is_empty());
        let mut pages =
            Pages::new(&*self.sweep.bucket.store, ListRequest { start_after, ..self.listing() });
        self.turn().await;
        let mut page = pages.next().await?;
        let mut before = start.clone();
        while let Some(Page { objects, undecodable, .. }) = page {
            let mut last =
                objects.last().map_or(before.as_str(), |version| &version.key).to_owned();
            if !objects.is_sorted_by(|a, b| a.key < b.key)
                || objects.first().is_some_and(|first| *first.key <= *before)
            {
                if self.sweep.shards > 1 || self.state.is_some() {
                    return Err(Error::Protocol(
                        "a listing that is not in the order of keys, without which neither --shards \
                         nor --state can be used"
                            .into(),
                    ));
                }
                last = String::new();
            }
            let range = work.begin(&last);
            let ours = |version: &Version| last.is_empty() || range.contains(&version.key);
            if range.upto.as_deref() == Some(&last) {
                for key in undecodable {
                    self.count().listed += 1;
                    self.count().failed += 1;
                    let why = "the key is not UTF-8; it is shown as it was sent".to_owned();
                    let (outcome, error) = (Outcome::Failed, Some(why));
                    self.show(Item { outcome, error, ..Item::of(&key) }).await;
                }
            }
            let objects: Vec<Version> = objects.into_iter().filter(ours).collect();
            let next = async {
                match !last.is_empty() && work.ends_by(&last) {
                    true => Ok(None),
                    false => {
                        self.turn().await;
                        pages.next().await
                    }
                }
            };
            let (swept, next) = future::join(self.sweep_page(&work, objects), next).await;
            if !swept {
                return Ok(());
            }
            if let Some(upto) = &range.upto {
                work.done(upto);
            }
            self.save();
            page = next?;
            before = last;
        }
        work.end();
        Ok(())
    }

    /// Returns whether it was not stopped.
    async fn sweep_page(&self, work: &Work, versions: Vec<Version>) -> bool {
        self.count().listed += versions.len() as u64;
        let known = match &self.sweep.index {
            Some(index) => index.known(&versions.iter().collect::<Vec<_>>()).await,
            None => vec![None; versions.len()],
        };
        let deleted = self.delete_batch(&versions, &known).await;
        let mut treated = stream::iter(versions.into_iter().zip(known).zip(deleted))
            .map(|((version, terms), deleted)| async move {
                let key = version.key.clone();
                let treated = match deleted {
                    Some(treated) => treated,
                    None => self.treat(version, terms).await,
                };
                (key, treated)
            })
            .buffered(self.sweep.concurrency);
        let (mut stopped, mut unsaved) = (false, 0);
        // To the end also if it is stopped: what is in flight is done.
        while let Some((key, treated)) = treated.next().await {
            let item = match treated {
                Treated::Kept => None,
                Treated::Due(item) => Some(item),
                Treated::Stopped(item) => {
                    stopped = true;
                    item
                }
            };
            if let Some(item) = item {
                self.show(*item).await;
            }
            if !stopped {
                work.done(&key);
                unsaved += 1;
                if unsaved == SAVE_AFTER {
                    unsaved = 0;
                    self.save();
                }
            }
        }
        !stopped
    }

    /// What is known of an object without a HEAD.
    fn judging(&self, listed: &Version, known: Option<Terms>, now: SystemTime) -> Judging {
        let Sweep { bucket, rules, .. } = &self.sweep;
        match (rules.by_age(listed, now), known) {
            (ByAge::Young, _) => Judging::Young,
            (_, Some(terms)) => Judging::Judged(bucket.judge_by(terms, listed, now)),
            (ByAge::Old, None) => Judging::Old,
            (ByAge::Unknown, None) if !bucket.policy.needs_headers() => {
                Judging::Judged(bucket.judge_by(Terms::default(), listed, now))
            }
            (ByAge::Unknown, None) => Judging::Unknown,
        }
    }

    /// Judges an object, and deletes it if it is due.
    async fn treat(&self, listed: Version, known: Option<Terms>) -> Treated {
        if self.stop.is_set() {
            return Treated::Stopped(None);
        }
        let Sweep { bucket, rules, .. } = &self.sweep;
        let (version, judged, fresh) = match self.judging(&listed, known, bucket.clock.now()) {
            Judging::Young => {
                self.count().kept(Kept::Live);
                return Treated::Kept;
            }
            Judging::Old => (listed, None, false),
            Judging::Judged(judged) => (listed, Some(judged), false),
            Judging::Unknown => {
                self.turn().await;
                if self.stop.is_set() {
                    return Treated::Stopped(None);
                }
                let object = match head_of_listed(&*bucket.store, &listed.key).await {
                    Ok(Some(object)) => object,
                    Ok(None) => {
                        self.count().gone += 1;
                        return Treated::Kept;
                    }
                    Err(error) => {
                        self.count().failed += 1;
                        return self.failed(Item::of(&listed.key), error);
                    }
                };
                let judged = bucket.judge(&object);
                if let Some(index) = &self.sweep.index {
                    index.learn(&object.version, &judged.terms, judged.at);
                }
                (object.version, Some(judged), true)
            }
        };
        if let Some(judged) = &judged {
            self.count().judged(judged, &version);
            let modified = version.last_modified;
            if let Verdict::Kept(why) = rules.verdict(&judged.judgement, modified, judged.at) {
                self.count().kept(why);
                return Treated::Kept;
            }
        }
        let item = Item::due(&version, judged.map(|judged| judged.judgement));
        self.due(item, version, fresh).await
    }

    async fn due(&self, item: Item, version: Version, mut fresh: bool) -> Treated {
        let size = version.size;
        if !self.sweep.delete {
            self.count().due(size);
            return Treated::Due(Box::new(item));
        }
        if let Some(by) = self.removal.is_skewed() {
            self.stop.because(Ended::Skewed(by));
            return Treated::Stopped(None);
        }
        let mut allowed = None;
        if let Some(allowance) = &self.allowance {
            allowed = allowance.try_take();
            if allowed.is_none() {
                fresh = false;
                allowed = allowance.take().await;
            }
            if allowed.is_none() {
                self.stop.because(Ended::AtMost(allowance.most()));
                return Treated::Stopped(None);
            }
        }
        if !fresh {
            // Otherwise nothing may lie between the HEAD and the DELETE.
            self.turn().await;
            if self.stop.is_set() {
                return Treated::Stopped(None);
            }
        }
        let removed = self.removal.remove(Due { version, fresh }).await;
        self.removed(item, size, removed, allowed)
    }

    /// Counts and shows what became of an object that was due.
    fn removed(
        &self,
        item: Item,
        size: u64,
        removed: Removed,
        allowed: Option<Allowed<'_>>,
    ) -> Treated {
        self.count().due(size);
        self.count().removed(&removed, size);
        if let Some(allowed) = allowed
            && matches!(removed, Removed::Deleted { .. } | Removed::Failed(Error::Unclear(_)))
        {
            allowed.used();
        }
        let outcome = match removed {
            Removed::Deleted { .. } => Outcome::Deleted,
            Removed::Renewed => Outcome::Renewed,
            Removed::Gone => Outcome::Gone,
            Removed::Failed(error) => {
                if let Some(by) = self.removal.is_skewed() {
                    self.stop.because(Ended::Skewed(by));
                }
                return self.failed(item, error);
            }
        };
        Treated::Due(Box::new(Item { outcome, ..item }))
    }

    /// An object that failed. A failure that concerns others too ends the sweep before it.
    fn failed(&self, item: Item, error: Error) -> Treated {
        let item =
            Box::new(Item { outcome: Outcome::Failed, error: Some(error.to_string()), ..item });
        match error.concerns_one_object() {
            true => Treated::Due(item),
            false => {
                self.stop.because(Ended::Failed(error));
                Treated::Stopped(Some(item))
            }
        }
    }

    async fn show(&self, item: Item) {
        if self.items.send(item).await.is_err() {
            self.stop.stop();
        }
    }

    /// Waits until another request may be sent (`--rate`). Also for those of deletions, which wait for
    /// nothing: they are paid for here.
    async fn turn(&self) {
        let Some(pace) = &self.pace else { return };
        let turns = async {
            for _ in 0..=self.removal.take_sent() {
                pace.until_ready().await;
            }
        };
        tokio::select! {
            () = turns => {}
            () = self.stop.stopped() => {}
        }
    }

    /// Saves what is left.
    fn save(&self) {
        let Some(state) = &self.state else { return };
        let state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = state.save(self.ranges.left()) {
            self.stop.because(Ended::NoState(error));
        }
    }

    fn count(&self) -> MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
