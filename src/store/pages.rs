//! Iterates over the pages of a listing, and refuses a listing that never ends.

use futures_util::{Stream, stream};

use super::{ListRequest, Page, Store};
use crate::error::{Error, Result};

/// The pages of a listing, one after the other.
pub struct Pages<'a> {
    store: &'a dyn Store,
    /// Has the token of the first page, unless it is the start of the listing.
    first: ListRequest<'a>,
    next: Next,
    guard: Guard,
}

enum Next {
    First,
    Token(String),
    None,
}

impl<'a> Pages<'a> {
    /// The listing from this request on.
    pub fn new(store: &'a dyn Store, first: ListRequest<'a>) -> Pages<'a> {
        Pages { store, first, next: Next::First, guard: Guard::default() }
    }

    /// The next page; `None` after the last one.
    ///
    /// # Errors
    /// Those of the store: the next call requests the same page again. `Protocol` if the listing
    /// does not end, see [`Guard`].
    pub async fn next(&mut self) -> Result<Option<Page>> {
        let token = match &self.next {
            Next::First => self.first.token,
            Next::Token(token) => Some(token.as_str()),
            Next::None => return Ok(None),
        };
        let page = self.store.list(ListRequest { token, ..self.first }).await?;
        if let Some(next) = &page.next {
            self.guard.pass(token, page.first_name(), next)?;
        }
        self.next = page.next.clone().map_or(Next::None, Next::Token);
        Ok(Some(page))
    }

    /// All pages, up to the first error.
    pub fn stream(self) -> impl Stream<Item = Result<Page>> + use<'a> {
        stream::try_unfold(self, |mut pages| async move {
            Ok(pages.next().await?.map(|page| (page, pages)))
        })
    }
}

/// Detects a listing that goes round in a circle: the token of a page leads to the same page, or
/// tokens repeat, or names repeat under new tokens.
///
/// Needs constant memory. A page that leads to itself is detected at once; a circle is detected
/// after at most three times the number of its pages or of the pages before it, whichever is
/// larger.
#[derive(Debug, Default)]
pub struct Guard {
    tokens: Cycle,
    first_names: Cycle,
}

impl Guard {
    /// Records a page that was requested with `token`, has the first name `first`, if any, and is
    /// followed by the page of the token `next`. To be called for each page, in order.
    ///
    /// # Errors
    /// `Protocol` if the listing does not end. The page is not recorded then.
    pub fn pass(&mut self, token: Option<&str>, first: Option<&str>, next: &str) -> Result<()> {
        if token == Some(next) {
            return Err(Error::Protocol("a listing that does not go on".into()));
        }
        if self.tokens.has_met(next) {
            return Err(Error::Protocol("a listing that goes round in a circle".into()));
        }
        // A page without names is ignored: there may be several in a row.
        if first.is_some_and(|first| self.first_names.has_met(first)) {
            return Err(Error::Protocol("a page that begins as one before".into()));
        }
        self.tokens.note(next);
        first.into_iter().for_each(|first| self.first_names.note(first));
        Ok(())
    }
}

/// Brent's cycle detection ("An improved Monte Carlo factorization algorithm", BIT 20, 1980): each
/// item is compared with the last one whose position was a power of two.
#[derive(Debug, Default)]
struct Cycle {
    kept: Option<String>,
    /// Items recorded so far.
    count: u64,
}

impl Cycle {
    fn has_met(&self, item: &str) -> bool {
        self.kept.as_deref() == Some(item)
    }

    fn note(&mut self, item: &str) {
        self.count += 1;
        if self.count.is_power_of_two() {
            self.kept = Some(item.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::Range;

    use async_trait::async_trait;
    use bytes::Bytes;
    use futures_util::FutureExt;

    use crate::store::{Content, Object, Version};

    /// A store whose listing has the page `page(i)` at position `i`, whatever is requested.
    struct Listed<F>(F, std::sync::atomic::AtomicUsize);

    #[async_trait]
    impl<F: Fn(usize) -> Result<Page> + Send + Sync + 'static> Store for Listed<F> {
        async fn head(&self, _: &str) -> Result<Object> {
            unreachable!()
        }
        async fn probe(&self, _: &str, _: u64) -> Result<(Object, Bytes)> {
            unreachable!()
        }
        async fn get(&self, _: &Version, _: Range<u64>) -> Result<(Object, Content)> {
            unreachable!()
        }
        async fn list(&self, request: ListRequest<'_>) -> Result<Page> {
            let i = self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(request.token.is_some(), i > 0, "page {i}");
            self.0(i)
        }
    }

    /// A page with the names `first` and `first`-more, if any, and the next one's token, if any.
    fn page(first: Option<String>, next: Option<String>) -> Result<Page> {
        let more = first.clone().map(|first| format!("{first}-more"));
        Ok(Page { prefixes: more.into_iter().chain(first).collect(), next, ..Page::default() })
    }

    /// The number of pages before the listing ends (`Ok`) or is refused (`Err`).
    fn walk(page: impl Fn(usize) -> Result<Page> + Send + Sync + 'static) -> Result<usize, usize> {
        let store = Listed(page, 0.into());
        let mut pages = Pages::new(&store, ListRequest::level(""));
        for count in 0.. {
            match pages.next().now_or_never().unwrap() {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(count),
                Err(Error::Protocol(_)) => return Err(count),
                Err(other) => panic!("{other}"),
            }
        }
        unreachable!()
    }

    #[test]
    fn a_listing_is_read_to_its_end_including_empty_pages() {
        for pages in [1, 2, 3, 1000] {
            let name = |i: usize| i.is_multiple_of(3).then(|| i.to_string());
            let token = move |i| (i + 1 < pages).then(|| format!("after {i}"));
            assert_eq!(walk(move |i| page(name(i), token(i))), Ok(pages));
        }
    }

    #[test]
    fn a_token_that_leads_to_itself_is_refused_at_once() {
        for before in [0, 1, 5, 100] {
            let token = move |i: usize| Some(i.min(before).to_string());
            for named in [true, false] {
                let name = move |i: usize| named.then(|| i.to_string());
                assert_eq!(walk(move |i| page(name(i), token(i))), Err(before + 1));
            }
        }
    }

    #[test]
    fn circles_of_tokens_and_of_names_are_refused_soon() {
        for before in [0, 1, 2, 7, 100] {
            for around in [2, 3, 10, 100] {
                let bound = 3 * before.max(around) + 1;
                let at = move |i: usize| match i.checked_sub(before) {
                    Some(i) => before + i % around,
                    None => i,
                };
                let (same, new) =
                    (move |i| Some(at(i).to_string()), |i: usize| Some(i.to_string()));
                // Tokens with new names and with none; names with new tokens; both.
                let walks = [
                    walk(move |i| page(new(i), same(i))),
                    walk(move |i| page(None, same(i))),
                    walk(move |i| page(same(i), new(i))),
                    walk(move |i| page(same(i), same(i))),
                ];
                for (kind, refused) in walks.into_iter().enumerate() {
                    let pages = refused.expect_err("a listing without end is refused");
                    assert!(
                        (before + around..=bound).contains(&pages),
                        "kind {kind}, {around} pages after {before}: {pages}"
                    );
                }
            }
        }
    }

    /// Names repeat, and every second page has none.
    #[test]
    fn empty_pages_do_not_hide_a_circle() {
        let name = |i: usize| i.is_multiple_of(2).then(|| "a".to_owned());
        let pages = walk(move |i| page(name(i), Some(i.to_string())));
        assert_eq!(pages, Err(2));
    }

    #[test]
    fn a_failed_page_is_requested_again() {
        let store = Listed(
            |i| match i {
                0 => page(Some("a".into()), Some("b".into())),
                1 => Err(Error::Throttled("503".into())),
                _ => page(Some("b".into()), None),
            },
            0.into(),
        );
        let mut pages = Pages::new(&store, ListRequest::level(""));
        let mut next = || pages.next().now_or_never().unwrap();
        assert!(next().unwrap().is_some());
        assert!(next().is_err());
        assert_eq!(next().unwrap().unwrap().prefixes[1], "b");
        assert_eq!(next(), Ok(None));
    }
}
