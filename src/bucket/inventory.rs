//! The objects of a bucket, including expired ones (`expirefs ls`): a stream over its listing, with
//! the expiry of each object.

use std::fmt;

use futures_util::{Stream, StreamExt, TryStreamExt, future, stream};
use serde::Serialize;

use crate::bucket::{Bucket, Judged};
use crate::error::Result;
use crate::expiry::{Basis, Presence, rfc3339};
use crate::shown::Shown;
use crate::store::{Headers, ListRequest, Object, Pages, Version, head_of_listed};

/// What part of a bucket to list.
pub struct Inventory {
    pub bucket: Bucket,
    /// The prefix of the keys.
    pub prefix: String,
    /// All keys, instead of one level.
    pub recursive: bool,
    /// Maximum number of HEAD requests in flight.
    pub fan_out: usize,
}

/// One item of the inventory. Field names are part of the interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    pub key: String,
    pub state: State,
    /// When it expires or expired (RFC 3339); `None` if no instant is known.
    pub instant: Option<String>,
    pub decided_by: Option<Basis>,
    /// Bytes. This and the following fields are `None` for a common prefix.
    pub size: Option<u64>,
    pub last_modified: Option<String>,
    pub etag: Option<String>,
    /// `Expires` as it was sent.
    pub expires_raw: Option<String>,
    /// Why its state is not known.
    pub error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Live,
    Expired,
    /// An expiry header cannot be parsed (`--on-unparsable error`).
    Unreadable,
    /// The store refused the HEAD.
    Unknown,
    /// A common prefix.
    Prefix,
}

/// A name in the listing.
enum Listed {
    Object(Version),
    Prefix(String),
    /// A key that is not UTF-8, as it was sent.
    Undecodable(String),
}

impl Inventory {
    /// All items in key order. Requests for pages and for headers overlap.
    pub fn items(&self) -> impl Stream<Item = Result<Item>> + '_ {
        self.pages()
            .map_ok(|page| stream::iter(page.into_iter().map(Ok)))
            .try_flatten()
            .map(move |listed| async move {
                match listed? {
                    Listed::Prefix(key) => Ok(Some(Item::prefix(key))),
                    Listed::Object(version) => self.object(version).await,
                    Listed::Undecodable(key) => Ok(Some(Item {
                        state: State::Unknown,
                        error: Some("the key is not UTF-8; it is shown as it was sent".to_owned()),
                        ..Item::prefix(key)
                    })),
                }
            })
            .buffered(self.fan_out)
            .try_filter_map(future::ok)
    }

    /// The pages of the listing, each sorted by name.
    fn pages(&self) -> impl Stream<Item = Result<Vec<Listed>>> + '_ {
        let first = ListRequest { recursive: self.recursive, ..ListRequest::level(&self.prefix) };
        Pages::new(&*self.bucket.store, first).stream().map_ok(|page| {
            let objects = page.objects.into_iter().map(Listed::Object);
            let mut names: Vec<_> = objects
                .chain(page.prefixes.into_iter().map(Listed::Prefix))
                .chain(page.undecodable.into_iter().map(Listed::Undecodable))
                .collect();
            names.sort_by(|a, b| a.name().cmp(b.name()));
            names
        })
    }

    async fn object(&self, listed: Version) -> Result<Option<Item>> {
        let object = match self.bucket.policy.needs_headers() {
            false => Object { version: listed, headers: Headers::default() },
            true => match head_of_listed(&*self.bucket.store, &listed.key).await {
                Ok(Some(object)) => object,
                Ok(None) => return Ok(None),
                // An object whose HEAD fails does not hide the others.
                Err(error) if error.concerns_one_object() => {
                    return Ok(Some(Item {
                        error: Some(error.to_string()),
                        ..Item::of(listed, State::Unknown)
                    }));
                }
                Err(error) => return Err(error),
            },
        };
        let Judged { judgement, presence, .. } = self.bucket.judge(&object);
        let state = match presence {
            Presence::Live { .. } => State::Live,
            Presence::Expired => State::Expired,
            Presence::Unreadable => State::Unreadable,
        };
        Ok(Some(Item {
            instant: judgement.expiry.instant().map(rfc3339),
            decided_by: Some(judgement.basis),
            expires_raw: object.headers.expires,
            ..Item::of(object.version, state)
        }))
    }
}

impl Listed {
    fn name(&self) -> &str {
        match self {
            Listed::Object(version) => &version.key,
            Listed::Prefix(text) | Listed::Undecodable(text) => text,
        }
    }
}

impl Item {
    fn prefix(key: String) -> Item {
        Item {
            key,
            state: State::Prefix,
            instant: None,
            decided_by: None,
            size: None,
            last_modified: None,
            etag: None,
            expires_raw: None,
            error: None,
        }
    }

    fn of(version: Version, state: State) -> Item {
        Item {
            state,
            size: Some(version.size),
            last_modified: Some(rfc3339(version.last_modified)),
            etag: Some(version.etag.to_string()),
            ..Item::prefix(version.key.to_string())
        }
    }

    /// The item as a line of text, with more columns if `long`. A key with control characters is
    /// quoted.
    pub fn line(&self, long: bool) -> String {
        let dash = || "-".to_owned();
        let instant = self.instant.clone().unwrap_or_else(dash);
        let mut line = format!("{:<10} {instant:<20} ", self.state.to_string());
        if long {
            let size = self.size.map_or_else(dash, |size| size.to_string());
            let modified = self.last_modified.clone().unwrap_or_else(dash);
            let basis = self.decided_by.map_or_else(dash, |basis| basis.to_string());
            line += &format!("{size:>12} {modified:<20} {basis:<18} ");
        }
        line += &Shown(&self.key).to_string();
        if let Some(error) = &self.error {
            line += &format!("  ({})", Shown(error));
        }
        line
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Live => "live",
            State::Expired => "expired",
            State::Unreadable => "unreadable",
            State::Unknown => "unknown",
            State::Prefix => "prefix",
        })
    }
}
