//! What is known of names: the object version, directory or absence behind each one, how long that
//! may be cached, and when it expires.
//!
//! Owns the cached facts, the questions in flight and the index of expiry headers; all of it can be
//! evicted and asked for again. Knows nothing of inodes, handles, bodies or the kernel.

mod fact;
pub mod index;
pub mod index_file;
pub mod probe;
mod questions;
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
use crate::store::{Headers, ListRequest, Object, Version, head_of_listed};
use crate::xattr::About;
pub use fact::{Fact, Known, Trust};
use index::Index;
use probe::Probes;
use questions::Question;
use walk::Walks;
use weighed::Weighed;

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

/// How long an object without an expiry is trusted under `--metadata-ttl=expiry`.
const TRUST_WITHOUT_EXPIRY: Duration = Duration::from_secs(60);

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

    /// Notes that a file is being opened, `first` since the kernel knows it, and gives its first
    /// bytes, as far as they are here and the store's word that this is the version of its name is
    /// believed still, or was just now.
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
        self.file(Arc::new(version), expiry, Some(about), now)
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
        Fact { known: Known::File { version, expiry, about }, until, walked: false }
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
        Fact { known: Known::Directory, until, walked: false }
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
