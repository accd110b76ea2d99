//! One LIST of a directory, from a name on, in place of requests for one name after the other.

use super::ranges::{Inquiry, Plan, until};
use super::{Catalog, Fact, Known, walk};
use crate::error::Result;
use crate::expiry::Presence;
use crate::name;
use crate::store::{ListRequest, PAGE, Page, Version};

impl Catalog {
    /// Revalidates `key` and the names after it in its directory with one LIST; `None` where that
    /// does not tell what `key` is.
    pub(super) async fn confirm_from(&self, key: &str) -> Result<Option<Fact>> {
        if !self.bucket.store.begins_anywhere() {
            return Ok(None);
        }
        let (page, fact) = self.list_level(key, &walk::just_before(key), PAGE).await?;
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
        Ok(found.and_then(|(_, fact)| fact).filter(|fact| self.is_live(fact)).or(fact))
    }

    /// Answers a lookup of `key` by a LIST, after misses in its directory; `None`: the store has to
    /// be asked for the name itself. `content`: first bytes are wanted if it is a file.
    pub(super) async fn ask_level(&self, key: &str, content: bool) -> Option<Fact> {
        let now = self.bucket.clock.now();
        if !self.bucket.store.begins_anywhere() || !self.misses.are_worth_a_listing(key, now) {
            return None;
        }
        let fact = self.list_for(key, content).await;
        self.misses.listed(key, fact.is_some(), self.bucket.clock.now());
        fact
    }

    async fn list_for(&self, key: &str, content: bool) -> Option<Fact> {
        let Plan { gap, max_keys } = self.ranges.plan(key, self.bucket.clock.now());
        // The gap may be too large for a page; then from the name on.
        for from in gap.into_iter().chain([walk::just_before(key)]) {
            let (page, fact) = self.list_level(key, &from, max_keys).await.ok()?;
            if fact.is_some() {
                return fact;
            }
            if let Some(version) = page.objects.iter().find(|version| *version.key == *key) {
                let confirmed = match content {
                    true => None,
                    false => self.confirm(&[version]).await.pop().flatten(),
                };
                return confirmed.filter(|fact| self.is_live(fact));
            }
        }
        None
    }

    /// One LIST of the directory of `key`, for names after `from`, and what it says of `key` if no
    /// object has that name. What it proves of other names is cached.
    async fn list_level(
        &self,
        key: &str,
        from: &str,
        max_keys: u16,
    ) -> Result<(Page, Option<Fact>)> {
        let directory = name::directory(key);
        let inquiry = self.inquire(directory);
        let start_after = Some(from).filter(|from| !from.is_empty());
        let request = ListRequest { start_after, max_keys, ..ListRequest::level(directory) };
        let page = self.bucket.store.list(request).await?;
        let fact = self.learn_level(inquiry, from, &page, key);
        Ok((page, fact))
    }

    /// Caches what a page proves: the range it covers, and the directories in it. Returns what it
    /// says of `key`, which is nothing if an object of that name is listed.
    fn learn_level(
        &self,
        inquiry: Inquiry<'_>,
        from: &str,
        page: &Page,
        key: &str,
    ) -> Option<Fact> {
        let asked = inquiry.asked;
        // Under one lock, so that no directory replaces what is learnt of its name meanwhile.
        let mut facts = self.facts();
        let coverage = inquiry.end(from, page)?;
        let is_object = |key: &str| page.objects.binary_search_by(|v| (*v.key).cmp(key)).is_ok();
        let is_settled = |key: &str| coverage.covers(key) && !is_object(key);
        let directory = Fact {
            known: Known::Directory,
            until: until(asked, self.ttl_without_expiry()),
            walked: false,
        };
        let mut is_directory = false;
        for name in page.prefixes.iter().filter_map(|prefix| prefix.strip_suffix('/')) {
            if is_settled(name) {
                facts.put(name.into(), directory.clone());
                is_directory |= name == key;
            }
        }
        match is_directory {
            true => Some(directory),
            false => is_settled(key).then(|| {
                let until = until(asked, self.settings.negative_ttl);
                Fact { known: Known::Absent, until, walked: false }
            }),
        }
    }

    /// To be called before a LIST of a directory is sent, whose page [`Inquiry::end`] is told of.
    pub fn inquire<'a>(&'a self, directory: &'a str) -> Inquiry<'a> {
        self.ranges.inquire(directory, self.bucket.clock.now())
    }

    fn is_live(&self, fact: &Fact) -> bool {
        matches!(self.presence(fact), Presence::Live { .. })
    }
}
