//! Questions to the store about names: concurrent lookups of one name share one question.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use backon::Retryable;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tracing::Instrument;

use super::ranges::Said;
use super::{Catalog, Fact, Known};
use crate::deadline::{Deadline, pauses};
use crate::error::{Error, Result};
use crate::expiry::Presence;
use crate::store::{Version, settle};
use crate::waits::{Wait, inherited};

/// How often a lookup is retried if the object is listed but the 404 did not come from the store,
/// and the first pause, which doubles.
const CONFIRMATIONS: usize = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// A question in flight. Its answer is cached only if the table still has it: after
/// [`Catalog::forget`] it only serves its waiters.
#[derive(Clone)]
pub(super) struct Question {
    id: u64,
    asked: SystemTime,
    answer: Shared<BoxFuture<'static, Result<Fact>>>,
}

/// Removes a question from the table when it ends, also by panic: the next lookup asks again.
struct Asked<'a> {
    catalog: &'a Catalog,
    key: &'a Arc<str>,
    id: u64,
}

impl Asked<'_> {
    /// Caches the answer, if the table still has this question.
    fn end(self, answer: Option<&Fact>) {
        let table = self.catalog.asking();
        if answer.is_some_and(|fact| !matches!(fact.known, Known::Absent)) {
            self.catalog.ranges.except(self.key);
        }
        if let Some(fact) = answer
            && table.get(self.key).is_some_and(|question| question.id == self.id)
            // An absence without a TTL would only replace a useful fact.
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

impl Catalog {
    /// What the name `key` (no final `/`) stands for: from the cache while the entry is fresh, else
    /// from the store. A question in flight is shared as long as its answer would still be fresh,
    /// counted from when it was asked.
    ///
    /// `in_kernel` says whether the kernel has a version's content or is getting it: then no
    /// content is fetched with the answer.
    pub async fn resolve(
        self: &Arc<Self>,
        key: &str,
        in_kernel: impl Fn(&Version) -> bool,
    ) -> Result<Fact> {
        let (caches, fresh) = (&self.metrics.caches, self.fresh(key));
        caches.names.counted(fresh.is_some());
        if let Some(fact) = fresh {
            if fact.walked {
                self.walks.spared(key);
            }
            return Ok(fact);
        }
        let said = self.ranges.say(key, self.bucket.clock.now());
        caches.absences.counted(matches!(said, Said::Absent { .. }));
        if let Said::Absent { until } = said {
            return Ok(Fact { known: Known::Absent, until, walked: false });
        }
        let (question, is_shared) = {
            let mut table = self.asking();
            let asked = table.get(key).filter(|question| self.would_be_fresh(question.asked));
            caches.questions.counted(asked.is_some());
            match asked {
                Some(question) => (question.clone(), true),
                None => {
                    let useful = self.content_is_useful(key, in_kernel);
                    let key: Arc<str> = key.into();
                    let question = self.question(key.clone(), useful);
                    table.insert(key, question.clone());
                    (question, false)
                }
            }
        };
        match is_shared {
            true => Wait::Turn.during(question.answer).await,
            false => question.answer.await,
        }
    }

    /// Runs a question as a task, so that it completes even if its first waiter is cancelled.
    fn question(self: &Arc<Self>, key: Arc<str>, content: bool) -> Question {
        let id = self.next_question.fetch_add(1, Ordering::Relaxed);
        let asked = self.bucket.clock.now();
        let catalog = self.clone();
        let asking = async move {
            let question = Asked { catalog: &catalog, key: &key, id };
            let by = Deadline::after(catalog.settings.timeout);
            let answer = by.bound(catalog.ask(&key, content)).await;
            question.end(answer.as_ref().ok());
            answer
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "the first waiter may be cancelled while others wait; a timeout ends the task"
        )]
        let answer = tokio::spawn(inherited(asking).in_current_span())
            .map(|joined| joined.unwrap_or_else(|e| Err(Error::Defect(e.to_string()))))
            .boxed()
            .shared();
        Question { id, asked, answer }
    }

    /// Retries if the object is listed but a HEAD or GET got a 404 that is not the store's:
    /// whatever sent it may let the next request through.
    async fn ask(&self, key: &str, content: bool) -> Result<Fact> {
        let once = || self.ask_once(key, content);
        let pauses = pauses(FIRST_PAUSE).with_max_times(CONFIRMATIONS);
        once.retry(pauses).when(|error| matches!(error, Error::Unconfirmed(_))).await
    }

    /// Asks for the object first, and sends a LIST (some twelve times the price) only if there is
    /// no live file, except after misses.
    async fn ask_once(&self, key: &str, content: bool) -> Result<Fact> {
        let expected = self.ranges.say(key, self.bucket.clock.now()) == Said::Exists;
        if !expected && let Some(fact) = self.ask_level(key, content).await {
            return Ok(fact);
        }
        let most = if content { self.probes.ask().await } else { 0 };
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
                if !expected {
                    self.misses.hit(key);
                }
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
                // The expired file stays cached, so that listings need not ask for its headers.
                (fact.known, settle(&*self.bucket.store, key, Error::NotFound).await?)
            }
            Err(error) => (Known::Absent, settle(&*self.bucket.store, key, error).await?),
        };
        Ok(match below {
            true => self.directory(),
            false => {
                if matches!(gone, Known::Absent) {
                    self.misses.missed(key, self.bucket.clock.now());
                }
                let until = self.after(self.settings.negative_ttl);
                Fact { known: gone, until, walked: false }
            }
        })
    }

    /// Whether to fetch the first bytes of a file with the answer: not if they are cached, if the
    /// kernel has them, if the file has expired, or if the name was a directory.
    fn content_is_useful(&self, key: &str, in_kernel: impl Fn(&Version) -> bool) -> bool {
        let known = self.facts().peek(key).map(|fact| fact.known.clone());
        match known {
            Some(Known::Directory) => false,
            Some(Known::File { version, expiry, .. }) => {
                matches!(expiry.at(self.bucket.clock.now()), Presence::Live { .. })
                    && self.probes.first_bytes(&version).is_empty()
                    && !in_kernel(&version)
            }
            Some(Known::Absent) | None => true,
        }
    }
}
