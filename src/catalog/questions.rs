//! What is asked of the store about a name: each question once, however many want its answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use backon::Retryable;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tracing::Instrument;

use super::{Catalog, Fact, Known};
use crate::deadline::{Deadline, pauses};
use crate::error::{Error, Result};
use crate::expiry::Presence;
use crate::store::{Version, settle};

/// How often a lookup asks again for an object that is listed and answered by a 404 of another's,
/// and the pause before the first time, which doubles.
const CONFIRMATIONS: usize = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// A question under way. Its task takes itself for current only while the table says so: one
/// that was dropped by [`Catalog::forget`] answers who waits for it, and is not remembered.
#[derive(Clone)]
pub(super) struct Question {
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

impl Catalog {
    /// What the name `key` (no final `/`) stands for: from memory while that may be believed,
    /// else from the store. Equal questions under way at one time are one question, as long as its
    /// answer may be believed: one asked before may be answered with what was there then.
    ///
    /// `in_kernel` says whether the content of a version is with the kernel, or on its way there:
    /// then none comes with the answer.
    pub async fn resolve(
        self: &Arc<Self>,
        key: &str,
        in_kernel: impl Fn(&Version) -> bool,
    ) -> Result<Fact> {
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
                    let useful = self.content_is_useful(key, in_kernel);
                    let key: Arc<str> = key.into();
                    let question = self.question(key.clone(), useful);
                    table.insert(key, question.clone());
                    question
                }
            }
        };
        question.answer.await
    }

    /// A question as a task of its own, so that it ends whoever waits for it still.
    fn question(self: &Arc<Self>, key: Arc<str>, content: bool) -> Question {
        let id = self.next_question.fetch_add(1, Ordering::Relaxed);
        let asked = self.bucket.clock.now();
        let catalog = self.clone();
        let asking = async move {
            let question = Asked { catalog: &catalog, key: &key, id };
            let by = Deadline::after(catalog.rules.timeout);
            let answer = by.bound(catalog.ask(&key, content)).await;
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
    async fn ask(&self, key: &str, content: bool) -> Result<Fact> {
        let once = || self.ask_once(key, content);
        let pauses = pauses(FIRST_PAUSE).with_max_times(CONFIRMATIONS);
        once.retry(pauses).when(|error| matches!(error, Error::Unconfirmed(_))).await
    }

    /// The object first, a LIST only where there is no live file: it costs some twelve times as
    /// much.
    async fn ask_once(&self, key: &str, content: bool) -> Result<Fact> {
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
                Fact { known: gone, until, walked: false }
            }
        })
    }

    /// Whether the first bytes of a file should come with the answer: not if they are here, or with
    /// the kernel, or if nobody may see them; nor of what was a directory.
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
