//! What is known of names: which object version, directory or nothing each one is, for how long
//! that may be believed, and when it expires. Everything it forgets can be asked again.

pub mod index;
pub mod index_file;
pub mod probe;
pub mod walk;
mod weighed;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use lru::LruCache;
use tracing::{Instrument, info, warn};

use crate::bucket::{Bucket, Judged};
use crate::error::{Error, Result};
use crate::expiry::{Basis, Expiry, Judgement, OnUnparsable, Presence, Terms};
use crate::metrics::Metrics;
use crate::name;
use crate::store::{Headers, ListRequest, Object, Version, head_of_listed, settle};
use crate::xattr::About;
use index::Index;
use probe::Probes;
use walk::Walks;
use weighed::{Weighed, Weight};

/// Bytes of names remembered, where they are believed for a time that is set: seconds, mostly.
const FACTS: usize = 24 << 20;

/// The same where they are believed until they expire: whatever the kernel may hold is answered
/// from here, when it asks again.
const FACTS_UNTIL_EXPIRY: usize = 64 << 20;

/// Descriptions that objects share, remembered so as to be kept once.
const DESCRIPTIONS: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Peculiarities of names remembered so as to be logged once.
const TOLD: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// An open that comes this soon after its lookup has ceased to be believed follows from it: the
/// kernel sends both for one open(2).
const OPEN_AFTER_LOOKUP: Duration = Duration::from_secs(1);

/// After so long no other object can have its Last-Modified: two clocks of whole seconds. Not so of
/// multipart uploads, see `index`.
const SETTLED: Duration = Duration::from_secs(2);

/// How often a lookup asks again for an object that is listed and answered by a 404 of another's,
/// and the pause before the first time, which doubles.
const CONFIRMATIONS: usize = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// How long an object without an expiry is trusted under `--metadata-ttl=expiry`.
const TRUST_WITHOUT_EXPIRY: Duration = Duration::from_secs(60);

/// How long what the store said is believed (`--metadata-ttl`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    For(Duration),
    /// Until the object expires, as HTTP has it for a fresh response.
    UntilExpiry,
}

/// What a name stands for.
#[derive(Clone, Debug)]
pub enum Known {
    File {
        version: Arc<Version>,
        expiry: Expiry,
        /// Where the headers of the object have been seen.
        about: Option<Arc<About>>,
    },
    Directory,
    Absent,
}

/// What a name stands for, and until when that may be believed without asking again.
#[derive(Clone, Debug)]
pub struct Fact {
    pub known: Known,
    pub until: SystemTime,
    /// The file has been opened: its content is with the kernel, or on its way there.
    opened: bool,
    /// A listing for a walk told it.
    walked: bool,
}

impl Weight<Arc<str>> for Fact {
    fn weight(&self, key: &Arc<str>) -> usize {
        // What a description takes is shared by most that have it, and counted for each.
        key.len()
            + match &self.known {
                Known::File { version, about, .. } => {
                    300 + version.etag.len() + about.as_ref().map_or(0, |about| about.text_len())
                }
                Known::Directory | Known::Absent => 180,
            }
    }
}

impl Fact {
    fn is_of(&self, version: &Version) -> bool {
        matches!(&self.known, Known::File { version: known, .. } if **known == *version)
    }
}

/// A question under way. Its task takes itself for current only while the table says so: one
/// that was dropped by [`Catalog::forget`] answers who waits for it, and is not remembered.
#[derive(Clone)]
struct Question {
    id: u64,
    asked: SystemTime,
    answer: Shared<BoxFuture<'static, Result<Fact>>>,
}

/// Takes a question off the table when it ends, by a panic too: the next one asks anew.
struct Asked<'a> {
    catalog: &'a Catalog,
    key: &'a Arc<str>,
    id: u64,
}

impl Asked<'_> {
    /// Remembers the answer, if the question still is the current one of its name.
    fn end(self, answer: Option<&Fact>) {
        let table = self.catalog.asking();
        if let Some(fact) = answer
            && table.get(self.key).is_some_and(|question| question.id == self.id)
            // An absence not to be believed would only take the place of something known.
            && !(matches!(fact.known, Known::Absent) && self.catalog.ttl(fact).is_zero())
        {
            self.catalog.facts().put(self.key.clone(), fact.clone());
        }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let mut table = self.catalog.asking();
        if table.get(self.key).is_some_and(|question| question.id == self.id) {
            table.remove(self.key);
        }
    }
}

/// What a catalog goes by.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub trust: Trust,
    /// How long a name is believed absent.
    pub negative_ttl: Duration,
    /// Bounds each question, however many requests it takes.
    pub timeout: Duration,
    pub probe: probe::Limits,
}

pub struct Catalog {
    bucket: Bucket,
    metrics: Arc<Metrics>,
    rules: Rules,
    probes: Probes,
    index: Arc<Index>,
    walks: Walks,
    // No lock is held over a wait. Order: `asking` before `facts`.
    facts: Mutex<Weighed<Arc<str>, Fact>>,
    asking: Mutex<HashMap<Arc<str>, Question>>,
    told: Mutex<LruCache<String, ()>>,
    descriptions: Mutex<LruCache<Arc<About>, ()>>,
    next_question: AtomicU64,
}

impl Catalog {
    pub fn new(
        bucket: Bucket,
        metrics: Arc<Metrics>,
        rules: Rules,
        index: Arc<Index>,
    ) -> Arc<Catalog> {
        let room = match rules.trust {
            Trust::For(_) => FACTS,
            Trust::UntilExpiry => FACTS_UNTIL_EXPIRY,
        };
        Arc::new(Catalog {
            bucket,
            metrics,
            rules,
            probes: Probes::new(rules.probe),
            index,
            walks: Walks::default(),
            facts: Mutex::new(Weighed::new(room)),
            asking: Mutex::default(),
            told: Mutex::new(LruCache::new(TOLD)),
            descriptions: Mutex::new(LruCache::new(DESCRIPTIONS)),
            next_question: AtomicU64::new(0),
        })
    }

    /// What the name `key` (no final `/`) stands for: from memory while that may be believed,
    /// else from the store. Equal questions under way at one time are one question, as long as its
    /// answer may be believed: one asked before may be answered with what was there then.
    pub async fn resolve(self: &Arc<Self>, key: &str) -> Result<Fact> {
        if let Some(fact) = self.believed(key) {
            if fact.walked {
                self.walks.spared(key);
            }
            return Ok(fact);
        }
        let question = {
            let mut table = self.asking();
            match table.get(key) {
                Some(question) if self.still_believed(question.asked) => question.clone(),
                _ => {
                    let key: Arc<str> = key.into();
                    let question = self.question(key.clone());
                    table.insert(key, question.clone());
                    question
                }
            }
        };
        question.answer.await
    }

    /// A question as a task of its own, so that it ends whoever waits for it still.
    fn question(self: &Arc<Self>, key: Arc<str>) -> Question {
        let id = self.next_question.fetch_add(1, Ordering::Relaxed);
        let asked = self.bucket.clock.now();
        let catalog = self.clone();
        let asking = async move {
            let question = Asked { catalog: &catalog, key: &key, id };
            let answer = tokio::time::timeout(catalog.rules.timeout, catalog.ask(&key)).await;
            let answer = answer.unwrap_or(Err(Error::TimedOut(catalog.rules.timeout)));
            question.end(answer.as_ref().ok());
            answer
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "whoever asked first may leave, and others wait for the answer; a timeout ends it"
        )]
        let answer = tokio::spawn(asking.in_current_span())
            .map(|joined| joined.unwrap_or_else(|e| Err(Error::Defect(e.to_string()))))
            .boxed()
            .shared();
        Question { id, asked, answer }
    }

    /// Asks again where the object is listed, and a HEAD or GET was answered by a 404 that is not the
    /// store's own: what is in the way may let the next one pass.
    async fn ask(&self, key: &str) -> Result<Fact> {
        let once = || self.ask_once(key);
        let pauses = ExponentialBuilder::default()
            .with_min_delay(FIRST_PAUSE)
            .with_max_times(CONFIRMATIONS)
            .with_jitter();
        once.retry(pauses).when(|error| matches!(error, Error::Unconfirmed(_))).await
    }

    /// The object first, a LIST only where there is no live file: it costs some twelve times as
    /// much.
    async fn ask_once(&self, key: &str) -> Result<Fact> {
        let most = self.content_wanted(key).await;
        if most == 0
            && self.walks.is_worth_a_listing(key)
            && let Ok(Some(fact)) = self.confirm_from(key).await
        {
            return Ok(fact);
        }
        let answer = match most {
            0 => self.bucket.store.head(key).await.map(|object| (object, Bytes::new())),
            most => self.bucket.store.probe(key, most).await,
        };
        if most > 0 && matches!(answer, Err(Error::NotFound)) {
            self.probes.took_nothing();
        }
        let (gone, below) = match answer {
            Ok((object, first)) => {
                if most == 0 && self.is_known(&object.version) {
                    self.walks.missed(key);
                }
                let fact = self.read(object);
                let presence = self.presence(&fact);
                if let (Known::File { version, .. }, Presence::Live { .. }) =
                    (&fact.known, presence)
                    && version.is_resumable()
                {
                    self.probes.keep(version, first);
                }
                if presence != Presence::Expired {
                    return Ok(fact);
                }
                // What has expired stays known: no listing asks for its headers again.
                (fact.known, settle(&*self.bucket.store, key, Error::NotFound).await?)
            }
            Err(error) => (Known::Absent, settle(&*self.bucket.store, key, error).await?),
        };
        Ok(match below {
            true => self.directory(),
            false => {
                let until = self.after(self.rules.negative_ttl);
                Fact { known: gone, until, opened: false, walked: false }
            }
        })
    }

    /// How many first bytes to ask for with a lookup: none of a file whose content is here, or
    /// with the kernel, or that nobody may see; none of what was a directory.
    async fn content_wanted(&self, key: &str) -> u64 {
        let known = self.facts().peek(key).cloned();
        match known {
            Some(Fact { known: Known::Directory, .. }) => 0,
            Some(Fact { known: Known::File { version, expiry, .. }, opened, .. })
                if opened
                    || !matches!(expiry.at(self.bucket.clock.now()), Presence::Live { .. })
                    || !self.probes.first_bytes(&version).is_empty() =>
            {
                0
            }
            _ => self.probes.ask().await,
        }
    }

    /// Notes that a file is being opened, and gives its first bytes, as far as they are here and
    /// the store's word that this is the version of its name is believed still, or was just now.
    pub fn opened(&self, version: &Version) -> Bytes {
        let (first_time, believed) = {
            let mut facts = self.facts();
            match facts.get_mut(&version.key).filter(|fact| fact.is_of(version)) {
                None => return Bytes::new(),
                Some(fact) => {
                    let until = fact.until.checked_add(OPEN_AFTER_LOOKUP).unwrap_or(fact.until);
                    (!std::mem::replace(&mut fact.opened, true), self.bucket.clock.now() < until)
                }
            }
        };
        if first_time {
            self.probes.opened(version);
        }
        if believed { self.probes.first_bytes(version) } else { Bytes::new() }
    }

    /// Notes that the kernel has all of a file's content.
    pub fn delivered(&self, version: &Version) {
        self.probes.forget(version);
    }

    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Bytes kept for opens to come.
    pub fn probed_bytes(&self) -> usize {
        self.probes.bytes()
    }

    /// What an object's headers say of its name; remembered.
    pub fn learn(&self, object: Object) -> Fact {
        let fact = self.read(object);
        self.remember(&mut self.facts(), &fact);
        fact
    }

    /// Remembers what is known of a file. One that has expired and was not met before takes no
    /// place: what is shown is looked up next.
    fn remember(&self, facts: &mut Weighed<Arc<str>, Fact>, fact: &Fact) {
        if let Known::File { version, .. } = &fact.known
            && (self.presence(fact) != Presence::Expired || facts.contains(&version.key))
        {
            facts.put(version.key.clone(), fact.clone());
        }
    }

    fn read(&self, object: Object) -> Fact {
        let Judged { at: now, terms, judgement, .. } = self.bucket.judge(&object);
        let Judgement { expiry, basis, unparsable, .. } = judgement;
        let Object { version, headers } = object;
        // Put again within the second that Last-Modified can tell, the same bytes could be the same
        // version with another end: what is that young is asked for again.
        let settled = version.last_modified.checked_add(SETTLED).is_none_or(|at| at <= now);
        if self.bucket.policy.needs_headers() && settled {
            self.index.put(&version, &terms);
        }
        let before = self.facts().peek(&version.key).filter(|fact| fact.is_of(&version)).cloned();
        let news = || self.is_news(format!("unparsable: {} of {}", version.etag, version.key));
        if unparsable && news() {
            self.metrics.unparsable.add(1);
            let Headers { expires, cache_control, .. } = &headers;
            match self.bucket.policy.on_unparsable {
                OnUnparsable::Error => {
                    warn!(key = %version.key, expires, cache_control, %basis, "it cannot be read, so EIO for this object");
                }
                policy => {
                    info!(key = %version.key, expires, cache_control, ?policy, "it cannot be read");
                }
            }
        }
        let about = self.describe(&headers, expiry, basis);
        let opened = before.is_some_and(|fact| fact.opened);
        Fact { opened, ..self.file(Arc::new(version), expiry, Some(about), now) }
    }

    /// The description of an object, kept once for all that share it.
    fn describe(&self, headers: &Headers, expiry: Expiry, basis: Basis) -> Arc<About> {
        let about =
            About::of(headers, if basis == Basis::Expires { expiry } else { Expiry::Never });
        let mut shared = self.descriptions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((about, ())) = shared.get_key_value(&about) {
            return about.clone();
        }
        let about = Arc::new(about);
        shared.put(about.clone(), ());
        about
    }

    /// What is known of listed versions without asking for their headers; the listing confirms
    /// what is remembered of them.
    pub async fn confirm(&self, versions: &[&Version]) -> Vec<Option<Fact>> {
        let policy = &self.bucket.policy;
        let terms = match policy.needs_headers() {
            true => self.index.known(versions).await,
            false => vec![Some(Terms::default()); versions.len()],
        };
        let now = self.bucket.clock.now();
        let mut facts = self.facts();
        let confirm = |(version, terms): (&&Version, Option<Terms>)| {
            let expiry = self.bucket.judge_by(terms?, version, now).judgement.expiry;
            let before = facts.get_mut(&version.key).filter(|fact| fact.is_of(version));
            let (version, about, opened) = match before {
                Some(Fact { known: Known::File { version, about, .. }, opened, .. }) => {
                    (version.clone(), about.clone(), *opened)
                }
                _ => (Arc::new((*version).clone()), None, false),
            };
            let fact = Fact { opened, ..self.file(version.clone(), expiry, about, now) };
            self.remember(&mut facts, &fact);
            Some(fact)
        };
        versions.iter().zip(terms).map(confirm).collect()
    }

    /// Whether a listing would tell the end of a version.
    fn is_known(&self, version: &Version) -> bool {
        !self.bucket.policy.needs_headers() || self.index.knows(version)
    }

    /// Confirms what is known of `key` and of the names that follow it in its directory by one
    /// LIST; `None` where that does not tell whether it is a live file.
    async fn confirm_from(&self, key: &str) -> Result<Option<Fact>> {
        let before = walk::just_before(key);
        let level = ListRequest::level(name::directory(key));
        let request = ListRequest { start_after: Some(&before), ..level };
        let page = self.bucket.store.list(request).await?;
        let versions: Vec<&Version> = page.objects.iter().collect();
        let confirmed = self.confirm(&versions).await;
        let mut facts = self.facts();
        for version in &versions {
            if let Some(fact) = facts.peek_mut(&version.key) {
                fact.walked = true;
            }
        }
        drop(facts);
        let found = versions.iter().zip(confirmed).find(|(version, _)| *version.key == *key);
        let live = |fact: &Fact| matches!(self.presence(fact), Presence::Live { .. });
        Ok(found.and_then(|(_, fact)| fact).filter(live))
    }

    /// Asks the store for a listed object that [`Catalog::confirm`] knows nothing of; `None` where
    /// it is gone since.
    pub async fn head(&self, key: &str) -> Result<Option<Fact>> {
        let object = head_of_listed(&*self.bucket.store, key).await?;
        Ok(object.map(|object| self.learn(object)))
    }

    /// Notes that `key` is a directory with no live file of its name beside it.
    pub fn note_directory(&self, key: &str, fact: &Fact) {
        self.facts().put(key.into(), fact.clone());
    }

    /// Drops what is believed of `key`; the next question goes to the store, whatever is under
    /// way.
    pub fn forget(&self, key: &str) {
        self.asking().remove(key);
        if let Some(fact) = self.facts().get_mut(key) {
            fact.until = SystemTime::UNIX_EPOCH;
        }
    }

    /// What is believed of a name, or was last, however long ago.
    pub fn remembered(&self, key: &str) -> Option<Fact> {
        self.facts().peek(key).cloned()
    }

    /// Whether this is the first time it is asked with this text: what is logged once asks here.
    pub fn is_news(&self, text: String) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.put(text, ()).is_none()
    }

    /// How long a fact that was just established may still be believed (rule E7).
    pub fn ttl(&self, fact: &Fact) -> Duration {
        fact.until.duration_since(self.bucket.clock.now()).unwrap_or_default()
    }

    pub fn presence(&self, fact: &Fact) -> Presence {
        match &fact.known {
            Known::File { expiry, .. } => expiry.at(self.bucket.clock.now()),
            Known::Directory => Presence::Live { left: None },
            Known::Absent => Presence::Expired,
        }
    }

    fn believed(&self, key: &str) -> Option<Fact> {
        let mut facts = self.facts();
        let fact = facts.get(key)?;
        (self.bucket.clock.now() < fact.until).then(|| fact.clone())
    }

    fn file(
        &self,
        version: Arc<Version>,
        expiry: Expiry,
        about: Option<Arc<About>>,
        now: SystemTime,
    ) -> Fact {
        let until = now.checked_add(self.lifetime(expiry)).unwrap_or(now);
        Fact { known: Known::File { version, expiry, about }, until, opened: false, walked: false }
    }

    /// How long from now on an object with this expiry may be believed in: the trust set, and
    /// never beyond its end.
    pub fn lifetime(&self, expiry: Expiry) -> Duration {
        match (expiry.at(self.bucket.clock.now()), self.rules.trust) {
            (Presence::Live { left: Some(left) }, Trust::UntilExpiry) => left,
            (Presence::Live { left }, Trust::For(ttl)) => left.map_or(ttl, |left| left.min(ttl)),
            (Presence::Live { left: None }, Trust::UntilExpiry) => TRUST_WITHOUT_EXPIRY,
            // Absence is believed for the negative TTL, once it is established by `ask`.
            (Presence::Expired | Presence::Unreadable, _) => Duration::ZERO,
        }
    }

    /// A directory seen just now.
    pub fn directory(&self) -> Fact {
        let until = self.after(self.trusted_for());
        Fact { known: Known::Directory, until, opened: false, walked: false }
    }

    /// Whether what the store may have said at `asked` may be believed now.
    fn still_believed(&self, asked: SystemTime) -> bool {
        let until = asked.checked_add(self.trusted_for());
        until.is_none_or(|until| self.bucket.clock.now() < until)
    }

    /// How long what has no end of its own is believed in from when it was seen.
    fn trusted_for(&self) -> Duration {
        match self.rules.trust {
            Trust::For(ttl) => ttl,
            Trust::UntilExpiry => TRUST_WITHOUT_EXPIRY,
        }
    }

    fn after(&self, ttl: Duration) -> SystemTime {
        let now = self.bucket.clock.now();
        now.checked_add(ttl).unwrap_or(now)
    }

    fn facts(&self) -> MutexGuard<'_, Weighed<Arc<str>, Fact>> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asking(&self) -> MutexGuard<'_, HashMap<Arc<str>, Question>> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
