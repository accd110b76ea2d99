//! Why an object is visible or not (`expirefs explain`): its headers, how each was parsed, both
//! clocks, and the verdict.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::bucket::Bucket;
use crate::error::Result;
use crate::expiry::{Basis, Judgement, Presence, Statement, Term, rfc3339};
use crate::name::{self, Prefix};
use crate::shown::Shown;
use crate::store::{Object, any_below, settle};

/// Field names are part of the interface. Instants are in RFC 3339.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explanation {
    pub bucket: String,
    pub key: String,
    pub verdict: Verdict,
    /// What set the expiry time; `None` if there is no object.
    pub decided_by: Option<Basis>,
    /// When it expires or expired; `None` if no instant is known.
    pub instant: Option<String>,
    /// Seconds from now to that instant; negative if it has passed.
    pub seconds_left: Option<f64>,
    pub object: Option<Found>,
    /// The headers that can set an expiry time, including absent and ignored ones.
    pub headers: Vec<Header>,
    /// In seconds (`--default-ttl`).
    pub default_ttl: Option<u64>,
    pub clocks: Clocks,
    /// Whether keys lie below it: a mount shows a directory unless a live file has the name.
    pub directory: bool,
    /// Why a mount hides it regardless of its expiry, if so.
    pub hidden: Option<String>,
    /// If a mount was asked: what it has cached.
    pub mount: Option<Belief>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Live,
    Expired,
    /// An expiry header cannot be parsed; the answer is EIO (`--on-unparsable error`).
    Unreadable,
    /// No object has this key, but some keys lie below it.
    Directory,
    /// The store has no such object.
    Absent,
}

impl Explanation {
    /// The exit status of `expirefs explain`: 0 if a mount shows the name, 4 if it answers ENOENT,
    /// and 1 (as for an error) if it answers EIO.
    pub fn exit_status(&self) -> u8 {
        match self.verdict {
            _ if self.hidden.is_some() => 4,
            Verdict::Live | Verdict::Directory => 0,
            Verdict::Expired if self.directory => 0,
            Verdict::Expired | Verdict::Absent => 4,
            Verdict::Unreadable => 1,
        }
    }
}

/// An object in the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Found {
    pub size: u64,
    pub etag: String,
    pub last_modified: String,
    pub content_type: Option<String>,
    pub storage_class: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Header {
    pub name: String,
    /// As it was sent; `None` if it was not.
    pub raw: Option<String>,
    /// How it was parsed.
    pub reading: Reading,
    /// The expiry time it sets.
    pub instant: Option<String>,
    /// Why it does not count, if so.
    pub ignored: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reading {
    Absent,
    /// It sets an expiry time.
    Understood,
    /// It was sent and cannot be parsed.
    Unreadable,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Clocks {
    /// The clock that decides.
    pub store: String,
    pub local: String,
    /// Store clock minus local clock, in milliseconds.
    pub offset_ms: i64,
}

/// What a mount has cached about a name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Belief {
    pub dir: String,
    /// `file`, `directory`, `absent`, or `nothing` if nothing is cached.
    pub believes: String,
    /// The cached version and its expiry time.
    pub etag: Option<String>,
    pub instant: Option<String>,
    /// Seconds until the entry is revalidated; 0: at the next lookup.
    pub trusted_s: f64,
    /// Open handles on the name, of any version.
    pub open_handles: usize,
}

/// Requests `key` from the store and explains the response. `name` is the name of the bucket.
///
/// # Errors
/// Those of the store.
pub async fn explain(bucket: &Bucket, name: &str, key: &str) -> Result<Explanation> {
    let store = &*bucket.store;
    // The root has no key, and always exists.
    let is_root = key.is_empty();
    let (found, below) = match is_root {
        true => (None, true),
        false => match store.head(key).await {
            Ok(object) => {
                let prefix = Prefix::new(key);
                (Some(object), any_below(store, prefix.as_str()).await?)
            }
            Err(error) => (None, settle(store, key, error).await?),
        },
    };
    let judged = found.as_ref().map(|object| bucket.judge(object));
    let verdict = match judged.map(|judged| judged.presence) {
        Some(Presence::Live { .. }) => Verdict::Live,
        Some(Presence::Expired) => Verdict::Expired,
        Some(Presence::Unreadable) => Verdict::Unreadable,
        None if below => Verdict::Directory,
        None => Verdict::Absent,
    };
    let (clock, judgement) = (&bucket.clock, judged.map(|judged| judged.judgement));
    let now = judged.map_or_else(|| clock.now(), |judged| judged.at);
    let end = judgement.and_then(|judgement| judgement.expiry.instant());
    let headers = match (&found, &judgement) {
        (Some(object), Some(judgement)) => headers(object, judgement),
        _ => Vec::new(),
    };
    Ok(Explanation {
        bucket: name.to_owned(),
        key: key.to_owned(),
        verdict,
        decided_by: judgement.map(|judgement| judgement.basis),
        instant: end.map(rfc3339),
        seconds_left: end.map(|end| seconds_between(now, end)),
        object: found.map(|Object { version, headers }| Found {
            size: version.size,
            etag: version.etag.to_string(),
            last_modified: rfc3339(version.last_modified),
            content_type: headers.content_type,
            storage_class: headers.storage_class,
        }),
        headers,
        default_ttl: bucket.policy.default_ttl.map(|ttl| ttl.as_secs()),
        clocks: Clocks {
            store: rfc3339(now),
            local: rfc3339(clock.local_now()),
            offset_ms: clock.offset_ms(),
        },
        directory: below,
        hidden: unnameable(key),
        mount: None,
    })
}

/// Rule N1: why a key cannot be a path, if it cannot.
fn unnameable(key: &str) -> Option<String> {
    let path = key.strip_suffix('/').unwrap_or(key);
    if path.is_empty() {
        return None;
    }
    let bad = path.split('/').find(|component| !name::is_legal(component))?;
    Some(format!("no path can have a component {bad:?}"))
}

/// The headers that can set an expiry time, and how each was parsed.
fn headers(object: &Object, judgement: &Judgement) -> Vec<Header> {
    let sent = &object.headers;
    let Judgement { expires, cache_control, lifecycle, .. } = judgement;
    let header = |name: &str, raw: &Option<String>, statement: &Statement| {
        let (reading, end) = match (statement.says, raw) {
            (Term::Is(end), _) => (Reading::Understood, end.instant()),
            (Term::Unreadable, _) => (Reading::Unreadable, None),
            (Term::Absent, _) => (Reading::Absent, None),
        };
        Header {
            name: name.to_owned(),
            raw: raw.clone(),
            reading,
            instant: end.map(rfc3339),
            ignored: statement
                .ignored
                .filter(|_| reading != Reading::Absent)
                .map(|why| why.to_string()),
        }
    };
    vec![
        header("Expires", &sent.expires, expires),
        header("Cache-Control", &sent.cache_control, cache_control),
        header("x-amz-expiration", &sent.expiration, lifecycle),
    ]
}

/// Seconds from `a` to `b`; negative if `b` is before `a`.
fn seconds_between(a: SystemTime, b: SystemTime) -> f64 {
    match b.duration_since(a) {
        Ok(ahead) => ahead.as_secs_f64(),
        Err(behind) => -behind.duration().as_secs_f64(),
    }
}

/// A time span as text, to the second.
fn span(seconds: f64) -> String {
    humantime::format_duration(Duration::from_secs(seconds.abs() as u64)).to_string()
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, text: String| writeln!(f, "{name:<17}{text}");
        let key = format!("s3://{}/{}", self.bucket, self.key);
        line("key", Shown(&key).to_string())?;
        match &self.object {
            Some(Found { size, etag, last_modified, content_type, storage_class }) => {
                let mut text =
                    format!("{size} bytes, ETag {}, modified {last_modified}", Shown(etag));
                for more in [content_type, storage_class].into_iter().flatten() {
                    text += &format!(", {}", Shown(more));
                }
                line("object", text)?;
            }
            None => line("object", "none".to_owned())?,
        }
        for Header { name, raw, reading, instant, ignored } in &self.headers {
            let mut text = match raw {
                None => "not sent".to_owned(),
                Some(raw) => format!("{raw:?}"),
            };
            match (raw, reading, instant) {
                (_, Reading::Understood, Some(instant)) => text += &format!(", that is {instant}"),
                (_, Reading::Unreadable, _) => text += ", which cannot be read",
                (Some(_), Reading::Absent, _) => text += ", which sets no expiry time",
                _ => {}
            }
            if let Some(why) = ignored {
                text += &format!("; does not count ({why})");
            }
            line(name, text)?;
        }
        if let Some(ttl) = self.default_ttl {
            line("--default-ttl", span(ttl as f64))?;
        }
        let Clocks { store, local, offset_ms } = &self.clocks;
        line("clock", format!("store {store}, local {local}, offset {offset_ms} ms"))?;
        let by = self.decided_by.map(|basis| format!(", by {basis}")).unwrap_or_default();
        let when = match (&self.instant, self.seconds_left) {
            (Some(at), Some(left)) if left > 0.0 => format!(", until {at}, in {}", span(left)),
            (Some(at), Some(left)) => format!(", since {at}, {} ago", span(left)),
            _ => String::new(),
        };
        let verdict = match self.verdict {
            Verdict::Live => "live",
            Verdict::Expired => "expired",
            Verdict::Unreadable => "unreadable: EIO",
            Verdict::Directory => "a directory",
            Verdict::Absent => "absent: the store has no such object",
        };
        line("verdict", format!("{verdict}{by}{when}"))?;
        if self.directory && self.object.is_some() {
            let shown = if self.verdict == Verdict::Live { "hides" } else { "shows" };
            line("below", format!("keys lie below this name; a mount {shown} that directory"))?;
        }
        if let Some(why) = &self.hidden {
            line("hidden", why.clone())?;
        }
        if let Some(Belief { dir, believes, etag, instant, trusted_s, open_handles }) = &self.mount
        {
            let mut text = match believes.as_str() {
                "nothing" => "nothing cached for this name".to_owned(),
                other => format!("cached as {other}"),
            };
            for (what, value) in [("ETag", etag), ("until", instant)] {
                if let Some(value) = value {
                    text += &format!(", {what} {}", Shown(value));
                }
            }
            text += &match *trusted_s {
                t if t > 0.0 => format!("; revalidated in {t:.1} s"),
                _ => "; revalidated at the next lookup".to_owned(),
            };
            line("mount", format!("{}: {text}; {open_handles} open handles", Shown(dir)))?;
        }
        Ok(())
    }
}
