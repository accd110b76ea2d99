//! Only the store itself can report an absence (rule R5): a listing decides what a HEAD or GET
//! leaves open.

use super::{ListRequest, Object, Page, Pages, Store};
use crate::error::{Error, Result};

/// Whether any key lies below this prefix.
///
/// # Errors
/// Those of the store; the caller limits the time.
pub async fn any_below(store: &dyn Store, prefix: &str) -> Result<bool> {
    let first = first_names(store, prefix, 1).await?;
    Ok(!first.objects.is_empty() || !first.prefixes.is_empty())
}

/// Whether a listing has an object of exactly this key.
async fn lists(store: &dyn Store, key: &str) -> Result<bool> {
    // Names that begin with the key come after it. Some stores sort by path component, with `key/`
    // first.
    let first = first_names(store, key, 2).await?;
    Ok(first.objects.iter().any(|version| *version.key == *key))
}

/// The first page that has a name that begins with `prefix`; an empty page if none has. A page may
/// be empty and not the last one (S3 API reference, ListObjectsV2, `IsTruncated`).
async fn first_names(store: &dyn Store, prefix: &str, max_keys: u16) -> Result<Page> {
    let mut pages = Pages::new(store, ListRequest { max_keys, ..ListRequest::level(prefix) });
    while let Some(page) = pages.next().await? {
        if !page.objects.is_empty() || !page.prefixes.is_empty() {
            return Ok(page);
        }
    }
    Ok(Page::default())
}

/// Decides what a name stands for after a HEAD or GET of it failed with `error`. If no object has
/// the key, returns whether keys lie below it.
///
/// Only the store itself can report an absence (rule R5): a 404 that something else may have sent
/// counts only if a listing has no such key. So does a 403, which S3 also sends for a missing key
/// if the caller lacks the permission to list (S3 API reference, HeadObject).
///
/// # Errors
/// `error` itself if it is not about absence, or the object is listed.
pub async fn settle(store: &dyn Store, key: &str, error: Error) -> Result<bool> {
    let prefix = if key.ends_with('/') { key.to_owned() } else { format!("{key}/") };
    match error {
        Error::NotFound => any_below(store, &prefix).await,
        Error::Unconfirmed(_) | Error::Denied(_) => match lists(store, key).await {
            Ok(false) => any_below(store, &prefix).await,
            // A policy may permit listings below the name, but not of the name (`s3:prefix`).
            Err(Error::Denied(_)) => match any_below(store, &prefix).await {
                Ok(true) => Ok(true),
                _ => Err(error),
            },
            Ok(true) => Err(error),
            Err(other) => Err(other),
        },
        other => Err(other),
    }
}

/// The answer to a HEAD of a key; `None` if no object has it, by the rules of [`settle`].
///
/// # Errors
/// That of the answer, or of the listing.
pub async fn found<T>(store: &dyn Store, key: &str, answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(Error::NotFound) => Ok(None),
        Err(error @ (Error::Unconfirmed(_) | Error::Denied(_))) => match lists(store, key).await {
            Ok(false) => Ok(None),
            Ok(true) | Err(Error::Denied(_)) => Err(error),
            Err(other) => Err(other),
        },
        Err(other) => Err(other),
    }
}

/// The headers of an object that was just listed; `None` if it was deleted since. A HEAD with 404
/// is not enough: the listing is requested again.
///
/// # Errors
/// `Unconfirmed` if each listing has the object, and each HEAD gets 404.
pub async fn head_of_listed(store: &dyn Store, key: &str) -> Result<Option<Object>> {
    let denied = |error: &Error| matches!(error, Error::NotFound | Error::Unconfirmed(_));
    match store.head(key).await {
        Err(error) if denied(&error) => {}
        other => return other.map(Some),
    }
    if !lists(store, key).await? {
        return Ok(None);
    }
    match store.head(key).await {
        Err(error) if denied(&error) => {
            Err(Error::Unconfirmed("the object is listed, and HEAD denies it".into()))
        }
        other => other.map(Some),
    }
}
