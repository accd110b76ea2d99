//! A store in memory that counts requests and open contents, and fails on demand.

#[path = "memory_writes.rs"]
pub mod writes;

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use expirefs::clock::Clock;
use expirefs::error::{Error, Result};
use expirefs::store::{Content, Headers, ListRequest, Object, Page, Store, Version};
use futures_util::StreamExt;

/// The start of a test's clock. Objects were modified a minute before it.
pub fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_430_000)
}

#[derive(Clone)]
struct Stored {
    bytes: Bytes,
    etag: String,
    modified: SystemTime,
    expires: Option<String>,
    content_type: Option<String>,
    nonce: Option<String>,
    /// What GET says of Expires, where it is not what HEAD says.
    expires_on_get: Option<String>,
}

/// Requests answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    pub head: usize,
    pub probe: usize,
    pub get: usize,
    pub list: usize,
}

/// How requests are answered from now on.
#[derive(Clone, Default)]
pub enum Mood {
    #[default]
    Well,
    /// Every request fails with this error.
    Fails(Error),
    /// One request in this many fails.
    FailsAt(usize, Error),
    /// Requests fail with the error that this returns.
    Refuses(Arc<dyn Fn(Asked<'_>) -> Option<Error> + Send + Sync>),
    /// HEADs of this key are never answered.
    StallsAt(String),
    /// GET returns headers, and then no byte.
    Stalls,
    /// Contents need this time to their first byte, and this time for each MiB.
    Slow(Duration, Duration),
    /// GET panics.
    Panics,
    /// Contents break after this many bytes, with an error or an early end.
    Breaks(usize, Break),
}

/// A request, by its key or prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked<'a> {
    Head(&'a str),
    Probe(&'a str),
    Get(&'a str),
    List(&'a str),
    Change(writes::Change, &'a str),
}

/// A moment at which others may change the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment<'a> {
    /// The request has not reached the store.
    Before(Asked<'a>),
    /// The answer has not reached the client.
    After(Asked<'a>),
}

type Look = Box<dyn FnMut(Moment<'_>) + Send>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    Reset,
    Short,
    Long,
}

/// The order of listings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// As S3 has it.
    #[default]
    Bytes,
    /// By path component, `a/` before `a.b`, as SeaweedFS has it.
    Components,
    /// As S3 has it, and a directory is read whole for each listing of it, as in a directory bucket.
    ReadWhole,
    /// None, and `start_after` is ignored.
    Scrambled,
}

#[derive(Default)]
pub struct Memory {
    objects: Mutex<BTreeMap<String, Stored>>,
    /// When what is written was modified; none of a store that is only read.
    clock: Option<Arc<Clock>>,
    writes: writes::Writes,
    requests: Mutex<Requests>,
    mood: Mutex<Mood>,
    order: Mutex<Order>,
    look: Mutex<Option<Look>>,
    /// How much later than HEAD listings say that objects were modified.
    listed_later: Mutex<Duration>,
    etags: AtomicUsize,
    open: Arc<AtomicUsize>,
    most_open: Arc<AtomicUsize>,
    /// Bytes of contents sent.
    sent: Arc<AtomicUsize>,
    chunk: usize,
}

impl Memory {
    /// A store whose contents come in chunks of this many bytes; 0: all at once.
    pub fn of_chunks(chunk: usize) -> Memory {
        Memory { chunk, ..Memory::default() }
    }

    /// Puts an object, and replaces an existing one.
    pub fn put(&self, key: &str, bytes: impl Into<Vec<u8>>, expires: Option<String>) {
        let etag = format!("e{}", self.etags.fetch_add(1, Ordering::Relaxed));
        let modified = start() - Duration::from_secs(60);
        let bytes: Vec<u8> = bytes.into();
        let bytes = bytes.into();
        self.put_version(key, bytes, etag, expires, modified);
    }

    /// Puts an object whose ETag is that of its bytes, as S3 does.
    pub fn put_at(&self, key: &str, bytes: &str, expires: Option<String>, modified: SystemTime) {
        let etag = writes::tag_of(&[bytes.as_bytes()]).as_str().to_owned();
        self.put_version(key, Bytes::from(bytes.to_owned()), etag, expires, modified);
    }

    fn put_version(
        &self,
        key: &str,
        bytes: Bytes,
        etag: String,
        expires: Option<String>,
        modified: SystemTime,
    ) {
        let stored = Stored {
            bytes,
            etag,
            modified,
            expires,
            content_type: None,
            nonce: None,
            expires_on_get: None,
        };
        self.store(key, stored);
    }

    /// Listings say that objects were modified so much later than HEAD does, from now on.
    pub fn list_later(&self, by: Duration) {
        *self.listed_later.lock().unwrap() = by;
    }

    /// Called at each moment of each HEAD, LIST and change from now on.
    pub fn watch(&self, look: impl FnMut(Moment<'_>) + Send + 'static) {
        *self.look.lock().unwrap() = Some(Box::new(look));
    }

    pub fn unwatch(&self) {
        *self.look.lock().unwrap() = None;
    }

    fn look(&self, moment: Moment<'_>) {
        if let Some(look) = &mut *self.look.lock().unwrap() {
            look(moment);
        }
    }

    /// The store sends no ETag for this object from now on.
    pub fn drop_etag(&self, key: &str) {
        self.objects.lock().unwrap().get_mut(key).unwrap().etag.clear();
    }

    pub fn delete(&self, key: &str) {
        self.remove(key);
    }

    pub fn say_on_get(&self, key: &str, expires: String) {
        self.objects.lock().unwrap().get_mut(key).unwrap().expires_on_get = Some(expires);
    }

    pub fn be(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// Listings come in this order from now on.
    pub fn list_by(&self, order: Order) {
        *self.order.lock().unwrap() = order;
    }

    /// The requests since the last call.
    pub fn asked(&self) -> Requests {
        std::mem::take(&mut self.requests.lock().unwrap())
    }

    /// Number of open contents.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub fn most_open(&self) -> usize {
        self.most_open.load(Ordering::Relaxed)
    }

    /// Bytes of contents that were read since the last call.
    pub fn sent(&self) -> usize {
        self.sent.swap(0, Ordering::Relaxed)
    }

    pub fn refuse(&self, how: impl Fn(Asked<'_>) -> Option<Error> + Send + Sync + 'static) {
        self.be(Mood::Refuses(Arc::new(how)));
    }

    fn count(&self, asked: Asked<'_>) -> Result<Mood> {
        let mut requests = self.requests.lock().unwrap();
        match asked {
            Asked::Head(_) => requests.head += 1,
            Asked::Probe(_) => requests.probe += 1,
            Asked::Get(_) => requests.get += 1,
            Asked::List(_) => requests.list += 1,
            Asked::Change(..) => {}
        }
        let Requests { head, probe, get, list } = *requests;
        match self.mood.lock().unwrap().clone() {
            Mood::Fails(error) => Err(error),
            Mood::Refuses(how) => how(asked).map_or(Ok(Mood::Well), Err),
            Mood::FailsAt(n, error) if (head + probe + get + list) % n == 0 => Err(error),
            mood => Ok(mood),
        }
    }

    /// A page of one level in another order than that of bytes.
    fn list_in(&self, order: Order, request: ListRequest<'_>) -> Page {
        assert!(!request.recursive);
        let objects = self.objects.lock().unwrap();
        let level = objects.iter().filter_map(|(key, stored)| {
            let rest = key.strip_prefix(request.prefix)?;
            let slash = rest.find('/').map(|slash| request.prefix.len() + slash + 1);
            Some((&key[..slash.unwrap_or(key.len())], stored))
        });
        let level: BTreeMap<&str, &Stored> = level.collect();
        let place = |name: &str| match order {
            Order::Scrambled => name.bytes().fold(7, |hash: u32, b| {
                (hash ^ u32::from(b)).wrapping_mul(0x9e37_79b1).rotate_left(11)
            }),
            Order::Bytes | Order::ReadWhole | Order::Components => 0,
        };
        let place = |name: &str| (place(name), name.trim_end_matches('/').to_owned());
        let mut names: Vec<&str> = level.keys().copied().collect();
        names.sort_by_key(|name| place(name));
        let after = request.token.or(request.start_after.filter(|_| order != Order::Scrambled));
        names.retain(|name| after.is_none_or(|after| place(after) < place(name)));
        let more = names.split_off(names.len().min(usize::from(request.max_keys)));
        let mut page = Page::default();
        for name in &names {
            match name.ends_with('/') {
                true => page.prefixes.push((*name).to_owned()),
                false => page.objects.push(version(name, level[name])),
            }
        }
        page.next = names.last().filter(|_| !more.is_empty()).map(|last| (*last).to_owned());
        page
    }

    fn find(&self, key: &str) -> Result<Stored> {
        self.objects.lock().unwrap().get(key).cloned().ok_or(Error::NotFound)
    }
}

fn version(key: &str, stored: &Stored) -> Version {
    Version {
        key: key.into(),
        etag: stored.etag.as_str().into(),
        last_modified: stored.modified,
        slack: Duration::ZERO,
        size: stored.bytes.len() as u64,
    }
}

fn headers(stored: &Stored, expires: Option<String>) -> Headers {
    let (content_type, nonce) = (stored.content_type.clone(), stored.nonce.clone());
    Headers { expires, content_type, nonce, ..Headers::default() }
}

/// Counts one open content.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl Store for Memory {
    fn begins_anywhere(&self) -> bool {
        *self.order.lock().unwrap() != Order::ReadWhole
    }

    async fn head(&self, key: &str) -> Result<Object> {
        if let Mood::StallsAt(stalled) = self.count(Asked::Head(key))?
            && stalled == key
        {
            futures_util::future::pending::<()>().await;
        }
        self.look(Moment::Before(Asked::Head(key)));
        let stored = self.find(key);
        self.look(Moment::After(Asked::Head(key)));
        // Like every store, takes a while to respond.
        tokio::task::yield_now().await;
        let stored = stored?;
        Ok(Object {
            version: version(key, &stored),
            headers: headers(&stored, stored.expires.clone()),
        })
    }

    async fn probe(&self, key: &str, most: u64) -> Result<(Object, Bytes)> {
        let mood = self.count(Asked::Probe(key))?;
        let stored = self.find(key);
        tokio::task::yield_now().await;
        let stored = stored?;
        let most = match mood {
            Mood::Stalls => 0,
            _ => stored.bytes.len().min(most as usize),
        };
        let first = stored.bytes.slice(..most);
        Ok((
            Object {
                version: version(key, &stored),
                headers: headers(&stored, stored.expires.clone()),
            },
            first,
        ))
    }

    async fn get(&self, asked: &Version, range: Range<u64>) -> Result<(Object, Content)> {
        assert!(range.start < range.end && range.end <= asked.size, "{range:?} of {asked:?}");
        let mood = self.count(Asked::Get(&asked.key))?;
        tokio::task::yield_now().await;
        if let Mood::Slow(first_byte, _) = mood {
            tokio::time::sleep(first_byte).await;
        }
        let stored = self.find(&asked.key).map_err(|_| Error::Stale)?;
        if !asked.is(&version(&asked.key, &stored)) {
            return Err(Error::Stale);
        }
        let now = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_open.fetch_max(now, Ordering::Relaxed);
        let open = Open(self.open.clone());
        let mut bytes = stored.bytes.slice(range.start as usize..range.end as usize);
        let whole = bytes.clone();
        let chunk = if self.chunk == 0 { bytes.len() } else { self.chunk };
        let mut chunks = Vec::new();
        while !bytes.is_empty() {
            chunks.push(Ok(bytes.split_to(chunk.min(bytes.len()))));
        }
        let content = match mood {
            Mood::Stalls => futures_util::stream::pending().boxed(),
            Mood::Slow(_, per_mib) => {
                let (began, mut bytes) = (tokio::time::Instant::now(), 0);
                let chunks = chunks.into_iter().map(move |chunk: Result<Bytes>| {
                    bytes += chunk.as_ref().map_or(0, Bytes::len);
                    (began + per_mib.mul_f64(bytes as f64 / (1 << 20) as f64), chunk)
                });
                let come = |(at, chunk)| async move {
                    tokio::time::sleep_until(at).await;
                    chunk
                };
                futures_util::stream::iter(chunks).then(come).boxed()
            }
            Mood::Panics => panic!("as told"),
            Mood::Breaks(after, how) => {
                let mut pieces = Vec::new();
                match how {
                    Break::Long => pieces.push(Ok([&whole[..], &[7]].concat().into())),
                    _ => pieces.push(Ok(whole.slice(..after.min(whole.len())))),
                }
                if how == Break::Reset {
                    pieces.push(Err(Error::Unreachable("reset, as told".into())));
                }
                futures_util::stream::iter(pieces).boxed()
            }
            _ => futures_util::stream::iter(chunks).boxed(),
        };
        let sent = self.sent.clone();
        let content = content.map(move |chunk| {
            let _open = &open;
            sent.fetch_add(chunk.as_ref().map_or(0, Bytes::len), Ordering::Relaxed);
            chunk
        });
        let expires = stored.expires_on_get.clone().or(stored.expires.clone());
        let headers = headers(&stored, expires);
        Ok((Object { version: version(&asked.key, &stored), headers }, content.boxed()))
    }

    async fn list(&self, request: ListRequest<'_>) -> Result<Page> {
        self.count(Asked::List(request.prefix))?;
        self.look(Moment::Before(Asked::List(request.prefix)));
        tokio::task::yield_now().await;
        let order = *self.order.lock().unwrap();
        let page = match order {
            Order::Bytes | Order::ReadWhole => self.list_in_order(request),
            order => self.list_in(order, request),
        };
        self.look(Moment::After(Asked::List(request.prefix)));
        Ok(page)
    }
}

impl Memory {
    fn list_in_order(&self, request: ListRequest<'_>) -> Page {
        let objects = self.objects.lock().unwrap();
        let after = request.token.or(request.start_after).unwrap_or("").to_owned();
        let mut page = Page::default();
        let mut last = after.clone();
        for (key, stored) in
            objects.range((Bound::Included(request.prefix.to_owned()), Bound::Unbounded))
        {
            let Some(rest) = key.strip_prefix(request.prefix) else { break };
            let name = match rest.find('/').filter(|_| !request.recursive) {
                Some(slash) => &key[..request.prefix.len() + slash + 1],
                None => key,
            };
            if name <= last.as_str() {
                continue;
            }
            if page.objects.len() + page.prefixes.len() == usize::from(request.max_keys) {
                page.next = Some(last);
                break;
            }
            last = name.to_owned();
            match request.recursive || !rest.contains('/') {
                true => page.objects.push(version(key, stored)),
                false => page.prefixes.push(name.to_owned()),
            }
        }
        let later = *self.listed_later.lock().unwrap();
        page.objects.iter_mut().for_each(|version| version.last_modified += later);
        page
    }
}
