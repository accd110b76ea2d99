//! What is known of names: the object version, directory or absence behind each one, how long that
//! may be cached, and when it expires.
//!
//! Owns the cached facts, the questions in flight and the index of expiry headers; all of it can be
//! evicted and requested again. Knows nothing of inodes, handles, bodies or the kernel.

mod fact;
pub mod index;
pub mod index_file;
mod level;
mod misses;
pub mod probe;
mod questions;
mod ranges;
pub mod walk;
mod weighed;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use lru::LruCache;
use tracing::{info, warn};

use crate::bucket::{Bucket, Judged};
use crate::error::Result;
use crate::expiry::{Basis, Expiry, Judgement, OnUnparsable, Presence, Terms};
use crate::metrics::Metrics;
use crate::name;
use crate::store::{Headers, Object, Version, head_of_listed};
use crate::xattr::About;
pub use fact::{Fact, Known, Trust};
use index::Index;
use misses::Misses;
use probe::Probes;
use questions::Question;
use ranges::Ranges;
use walk::Walks;
use weighed::Weighed;

/// Memory for cached names under `--metadata-ttl=D`, which is mostly seconds.
const FACTS: usize = 24 << 20;

/// The same under `--metadata-ttl=expiry`: enough to answer from the cache whatever the kernel may
/// revalidate.
const FACTS_UNTIL_EXPIRY: usize = 64 << 20;

/// Descriptions kept for sharing between objects.
const DESCRIPTIONS: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Messages about names remembered to log each only once.
const TOLD: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// An OPEN within this time of its lookup's TTL belongs to the same open(2).
const OPEN_AFTER_LOOKUP: Duration = Duration::from_secs(1);

/// TTL of an object without an expiry under `--metadata-ttl=expiry`.
const TRUST_WITHOUT_EXPIRY: Duration = Duration::from_secs(60);

/// The settings of a catalog.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub trust: Trust,
    /// TTL of an absent name.
    pub negative_ttl: Duration,
    /// Limit of each question, over all its requests.
    pub timeout: Duration,
    pub probe: probe::Limits,
}

pub struct Catalog {
    bucket: Bucket,
    metrics: Arc<Metrics>,
    settings: Settings,
    probes: Probes,
    index: Arc<Index>,
    walks: Walks,
    misses: Misses,
    // No lock is held across an await. Lock order: `asking`, `facts`, the lock of `ranges`.
    ranges: Ranges,
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
        settings: Settings,
        index: Arc<Index>,
    ) -> Arc<Catalog> {
        let room = match settings.trust {
            Trust::For(_) => FACTS,
            Trust::UntilExpiry => FACTS_UNTIL_EXPIRY,
        };
        Arc::new(Catalog {
            bucket,
            metrics,
            settings,
            probes: Probes::new(settings.probe),
            index,
            walks: Walks::default(),
            misses: Misses::default(),
            ranges: Ranges::new(settings.negative_ttl),
            facts: Mutex::new(Weighed::new(room)),
            asking: Mutex::default(),
            told: Mutex::new(LruCache::new(TOLD)),
            descriptions: Mutex::new(LruCache::new(DESCRIPTIONS)),
            next_question: AtomicU64::new(0),
        })
    }

    /// Records an open of a file, and returns its first bytes if they are cached and the name's
    /// entry is still fresh (or was until just now) and has this version. `first`: no open of this
    /// inode came before.
    pub fn opened(&self, version: &Version, first: bool) -> Bytes {
        let until = self
            .facts()
            .get(&version.key)
            .filter(|fact| fact.is_of(version))
            .map(|fact| fact.until.checked_add(OPEN_AFTER_LOOKUP).unwrap_or(fact.until));
        let Some(until) = until else { return Bytes::new() };
        if first {
            self.probes.opened(version);
        }
        match self.bucket.clock.now() < until {
            true => self.probes.first_bytes(version),
            false => Bytes::new(),
        }
    }

    /// Records that the kernel has all of a file's content.
    pub fn delivered(&self, version: &Version) {
        self.probes.forget(version);
    }

    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Bytes cached for later opens.
    pub fn probed_bytes(&self) -> usize {
        self.probes.bytes()
    }

    /// Caches an object with its headers as the fact about its name.
    pub fn learn(&self, object: Object) -> Fact {
        let key = object.version.key.clone();
        let fact = self.read(object);
        let mut facts = self.facts();
        self.ranges.except(&key);
        self.remember(&mut facts, &fact);
        fact
    }

    /// Caches a version that this mount has written, and its first bytes for the next open.
    pub fn wrote(&self, object: Object, first: Bytes) -> Fact {
        let key = object.version.key.clone();
        self.appeared(&key);
        let fact = self.read(object);
        self.facts().put(key, fact.clone());
        if let Known::File { version, .. } = &fact.known
            && version.is_resumable()
            && !first.is_empty()
        {
            self.probes.keep(version, first);
        }
        fact
    }

    /// Caches that this mount has removed a name.
    pub fn removed(&self, key: &str) {
        self.forget(key);
        let until = self.after(self.settings.negative_ttl);
        self.facts().put(key.into(), Fact { known: Known::Absent, until, walked: false });
    }

    /// Caches a fact about a file. An expired file is cached only in place of an older fact: a
    /// listing does not show it, so no lookup follows.
    fn remember(&self, facts: &mut Weighed<Arc<str>, Fact>, fact: &Fact) {
        if let Known::File { version, .. } = &fact.known
            && (self.presence(fact) != Presence::Expired || facts.contains(&version.key))
        {
            facts.put(version.key.clone(), fact.clone());
        }
    }

    /// What an object is as a fact about its name, which is not cached yet.
    pub fn read(&self, object: Object) -> Fact {
        let Judged { at: now, terms, judgement, .. } = self.bucket.judge(&object);
        let Judgement { expiry, basis, unparsable, .. } = judgement;
        let Object { version, headers } = object;
        if self.bucket.policy.needs_headers() {
            self.index.learn(&version, &terms, now);
        }
        let news = || self.is_news(format!("unparsable: {} of {}", version.etag, version.key));
        if unparsable && news() {
            self.metrics.unparsable.add(1);
            let Headers { expires, cache_control, .. } = &headers;
            match self.bucket.policy.on_unparsable {
                OnUnparsable::Error => {
                    warn!(key = %version.key, expires, cache_control, %basis, "an expiry header cannot be parsed: EIO for this object");
                }
                policy => {
                    info!(key = %version.key, expires, cache_control, ?policy, "an expiry header cannot be parsed");
                }
            }
        }
        let about = self.describe(&headers, expiry, basis);
        self.file(self.as_known(version), expiry, Some(about), now)
    }

    /// The version under which this one is known: what this mount has written keeps the Last-Modified
    /// of that moment.
    fn as_known(&self, seen: Version) -> Arc<Version> {
        let facts = self.facts();
        match facts.peek(&seen.key).map(|fact| &fact.known) {
            Some(Known::File { version, .. }) if version.is(&seen) => version.clone(),
            _ => Arc::new(seen),
        }
    }

    /// The description of an object, shared with equal ones.
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

    /// The facts about listed versions that need no HEAD, as of now: the listing revalidates what
    /// is cached.
    pub async fn confirm(&self, versions: &[&Version]) -> Vec<Option<Fact>> {
        let policy = &self.bucket.policy;
        let terms = match policy.needs_headers() {
            true => self.index.known(versions).await,
            false => vec![Some(Terms::default()); versions.len()],
        };
        if policy.needs_headers() {
            let cache = &self.metrics.caches.expiry_headers;
            terms.iter().for_each(|terms| _ = cache.counted(terms.is_some()));
        }
        let now = self.bucket.clock.now();
        let mut facts = self.facts();
        let confirm = |(version, terms): (&&Version, Option<Terms>)| {
            self.ranges.except(&version.key);
            let expiry = self.bucket.judge_by(terms?, version, now).judgement.expiry;
            let before = facts.get_mut(&version.key).filter(|fact| fact.is_of(version));
            let (version, about) = match before {
                Some(Fact { known: Known::File { version, about, .. }, .. }) => {
                    (version.clone(), about.clone())
                }
                _ => (Arc::new((*version).clone()), None),
            };
            let fact = self.file(version, expiry, about, now);
            self.remember(&mut facts, &fact);
            Some(fact)
        };
        versions.iter().zip(terms).map(confirm).collect()
    }

    /// Whether a listing is enough to judge this version.
    fn is_known(&self, version: &Version) -> bool {
        !self.bucket.policy.needs_headers() || self.index.knows(version)
    }

    /// Sends a HEAD for a listed object for which [`Catalog::confirm`] has no fact; `None` if it is
    /// gone.
    pub async fn head(&self, key: &str) -> Result<Option<Fact>> {
        let object = head_of_listed(&*self.bucket.store, key).await?;
        Ok(object.map(|object| self.learn(object)))
    }

    /// Caches that `key` is a directory and no live file has its name.
    pub fn note_directory(&self, key: &str, fact: &Fact) {
        let mut facts = self.facts();
        self.ranges.except(key);
        facts.put(key.into(), fact.clone());
    }

    /// Invalidates `key`: the next lookup asks the store, even if a question is in flight. No range
    /// that was asked for before answers for it, or for a directory above it.
    pub fn forget(&self, key: &str) {
        self.asking().remove(key);
        let mut facts = self.facts();
        if let Some(fact) = facts.get_mut(key) {
            fact.until = SystemTime::UNIX_EPOCH;
        }
        name::names_up_from(key).for_each(|name| self.ranges.except(name));
    }

    /// Records that this mount has created an object of this key. From now on neither it nor a
    /// directory above it is absent by an answer that was asked for before.
    pub fn appeared(&self, key: &str) {
        for name in name::names_up_from(key) {
            self.asking().remove(name);
            let mut facts = self.facts();
            if let Some(fact) = facts.peek_mut(name)
                && self.presence(fact) == Presence::Expired
            {
                fact.until = SystemTime::UNIX_EPOCH;
            }
            self.ranges.except(name);
        }
    }

    /// The last fact about a name, fresh or not.
    pub fn remembered(&self, key: &str) -> Option<Fact> {
        self.facts().peek(key).cloned()
    }

    /// Whether this text is new: for messages that are logged once.
    pub fn is_news(&self, text: String) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.put(text, ()).is_none()
    }

    /// The remaining TTL of a fact (rule E7).
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

    /// The fact about a name, if it is fresh. Asks nothing.
    pub fn fresh(&self, key: &str) -> Option<Fact> {
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
        Fact { known: Known::File { version, expiry, about }, until, walked: false }
    }

    /// The TTL of an object with this expiry: as configured, and never beyond its expiry time.
    pub fn lifetime(&self, expiry: Expiry) -> Duration {
        match (expiry.at(self.bucket.clock.now()), self.settings.trust) {
            (Presence::Live { left: Some(left) }, Trust::UntilExpiry) => left,
            (Presence::Live { left }, Trust::For(ttl)) => left.map_or(ttl, |left| left.min(ttl)),
            (Presence::Live { left: None }, Trust::UntilExpiry) => TRUST_WITHOUT_EXPIRY,
            // `ask` sets the negative TTL once it has established the absence.
            (Presence::Expired | Presence::Unreadable, _) => Duration::ZERO,
        }
    }

    /// The fact of a directory seen just now.
    pub fn directory(&self) -> Fact {
        let until = self.after(self.ttl_without_expiry());
        Fact { known: Known::Directory, until, walked: false }
    }

    /// Whether an answer from the time `asked` would still be fresh.
    fn would_be_fresh(&self, asked: SystemTime) -> bool {
        let until = asked.checked_add(self.ttl_without_expiry());
        until.is_none_or(|until| self.bucket.clock.now() < until)
    }

    /// The TTL of a fact that does not expire.
    fn ttl_without_expiry(&self) -> Duration {
        match self.settings.trust {
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
