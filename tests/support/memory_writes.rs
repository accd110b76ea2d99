//! The half of the store in memory that is written to: conditions, uploads, and a log of what has
//! changed, whose prefixes are what a crash leaves.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use expirefs::bucket::honours::Honours;
use expirefs::clock::Clock;
use expirefs::error::{Error, Result};
use expirefs::expiry::format_http_date;
use expirefs::store::Version;
use expirefs::store::write::{
    Condition, CopyHeaders, CopyRequest, Created, DeleteIf, Deleted, NewHeaders, Part, Tag, Upload,
    UploadsPage, WriteStore, Written,
};
use tokio::sync::Semaphore;

use super::{Asked, Memory, Moment, Stored, start, version};

/// A request that changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    Put,
    Create,
    Part,
    CopyPart,
    Complete,
    Abort,
    Copy,
    Delete,
    Rename,
}

/// What becomes of a change.
#[derive(Clone, Debug)]
pub enum Fate {
    Well,
    /// It is not made.
    Fails(Error),
    /// It is not made, or it is, and nobody is told which.
    Unclear {
        made: bool,
    },
    /// The same, when a request's time is over.
    Late {
        made: bool,
    },
    /// It waits for a permit.
    Waits(Arc<Semaphore>),
    /// It is made, and its answer waits for a permit.
    Lags(Arc<Semaphore>),
}

/// What has changed, one entry a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    Stored(String, Bytes),
    Removed(String),
    /// From one key to another.
    Moved(String, String, Bytes),
    Began(Upload),
    Part(Upload),
    /// The object of this upload.
    Completed(Upload, Bytes),
    Aborted(Upload),
}

/// What a store does with the size and the Last-Modified of a DELETE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OfVersion {
    /// It compares them, if it compares the ETag.
    #[default]
    Compared,
    /// As buckets of AWS that are not directory buckets do.
    Refused,
    Ignored,
}

type Fates = Box<dyn FnMut(Change, &str) -> Fate + Send>;

#[derive(Default)]
pub struct Writes {
    uploads: Mutex<BTreeMap<String, Ongoing>>,
    log: Mutex<Vec<Changed>>,
    asked: Mutex<Vec<(Change, String)>>,
    fates: Mutex<Option<Fates>>,
    /// What it honours; all, unless told otherwise.
    honours: Mutex<Option<Honours>>,
    of_version: Mutex<OfVersion>,
    pretends: AtomicBool,
    ids: Mutex<usize>,
}

struct Ongoing {
    key: String,
    created: SystemTime,
    headers: NewHeaders,
    parts: BTreeMap<u16, (Bytes, Tag)>,
}

impl Memory {
    /// A store that can be written to.
    pub fn writable(chunk: usize, clock: Arc<Clock>) -> Memory {
        Memory { clock: Some(clock), ..Memory::of_chunks(chunk) }
    }

    /// Decides what becomes of each change from now on.
    pub fn decide(&self, fates: impl FnMut(Change, &str) -> Fate + Send + 'static) {
        *self.writes.fates.lock().unwrap() = Some(Box::new(fates));
    }

    /// Decides what becomes of the `n`th change of this kind from now on, 1 being the next one.
    pub fn decide_one(&self, change: Change, n: usize, fate: Fate) {
        let mut seen = 0;
        self.decide(move |asked, _| {
            seen += usize::from(asked == change);
            if asked == change && seen == n { fate.clone() } else { Fate::Well }
        });
    }

    pub fn make_all(&self) {
        *self.writes.fates.lock().unwrap() = None;
    }

    /// What it honours from now on.
    pub fn honour(&self, honours: Honours) {
        *self.writes.honours.lock().unwrap() = Some(honours);
    }

    /// What it does with the size and the Last-Modified of a DELETE from now on.
    pub fn treat_versions_as(&self, of_version: OfVersion) {
        *self.writes.of_version.lock().unwrap() = of_version;
    }

    /// Says from now on that it deletes, and does not.
    pub fn pretend_to_delete(&self) {
        self.writes.pretends.store(true, Ordering::Relaxed);
    }

    fn honours(&self) -> Honours {
        self.writes.honours.lock().unwrap().unwrap_or(Honours::ALL)
    }

    /// Changes asked for since this was called last, whatever became of them.
    pub fn changes(&self) -> Vec<(Change, String)> {
        std::mem::take(&mut self.writes.asked.lock().unwrap())
    }

    /// How many changes of a kind were asked for since [`Memory::changes`] was called last.
    pub fn count_of(&self, change: Change) -> usize {
        self.writes.asked.lock().unwrap().iter().filter(|(asked, _)| *asked == change).count()
    }

    /// All that has changed.
    pub fn log(&self) -> Vec<Changed> {
        self.writes.log.lock().unwrap().clone()
    }

    /// The content under a key.
    pub fn content(&self, key: &str) -> Option<Bytes> {
        self.objects.lock().unwrap().get(key).map(|stored| stored.bytes.clone())
    }

    /// The `Expires` of what is under a key.
    pub fn expires(&self, key: &str) -> Option<String> {
        self.objects.lock().unwrap().get(key)?.expires.clone()
    }

    pub fn content_type(&self, key: &str) -> Option<String> {
        self.objects.lock().unwrap().get(key)?.content_type.clone()
    }

    pub fn keys(&self) -> Vec<String> {
        self.objects.lock().unwrap().keys().cloned().collect()
    }

    /// Uploads that are neither complete nor aborted.
    pub fn uploads(&self) -> usize {
        self.writes.uploads.lock().unwrap().len()
    }

    /// Their ids and keys.
    pub fn upload_ids(&self) -> Vec<(String, String)> {
        let uploads = self.writes.uploads.lock().unwrap();
        uploads.iter().map(|(id, ongoing)| (id.clone(), ongoing.key.clone())).collect()
    }

    /// The store loses its uploads.
    pub fn lose_uploads(&self) {
        self.writes.uploads.lock().unwrap().clear();
    }

    pub(super) fn store(&self, key: &str, stored: Stored) {
        self.note(Changed::Stored(key.to_owned(), stored.bytes.clone()));
        self.objects.lock().unwrap().insert(key.to_owned(), stored);
    }

    pub(super) fn remove(&self, key: &str) {
        if self.objects.lock().unwrap().remove(key).is_some() {
            self.note(Changed::Removed(key.to_owned()));
        }
    }

    fn note(&self, changed: Changed) {
        self.writes.log.lock().unwrap().push(changed);
    }

    /// Makes a change, or not. It is under way for a while before and after that.
    async fn change<T>(
        &self,
        change: Change,
        key: &str,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        self.count(Asked::Change(change, key))?;
        self.writes.asked.lock().unwrap().push((change, key.to_owned()));
        let fate = match &mut *self.writes.fates.lock().unwrap() {
            Some(fates) => fates(change, key),
            None => Fate::Well,
        };
        self.look(Moment::Before(Asked::Change(change, key)));
        tokio::task::yield_now().await;
        let lost = || Error::Unclear("the answer is lost, as told".into());
        match fate {
            Fate::Well => {}
            Fate::Waits(until) => until.acquire().await.expect("open").forget(),
            Fate::Lags(until) => {
                let made = make();
                until.acquire().await.expect("open").forget();
                return made;
            }
            Fate::Fails(error) => return Err(error),
            Fate::Unclear { made: false } => return Err(lost()),
            Fate::Unclear { made: true } => {
                make()?;
                self.look(Moment::After(Asked::Change(change, key)));
                return Err(lost());
            }
            Fate::Late { made } => {
                if made {
                    make()?;
                }
                tokio::time::sleep(Duration::from_secs(30)).await;
                return Err(lost());
            }
        }
        let made = make();
        self.look(Moment::After(Asked::Change(change, key)));
        tokio::task::yield_now().await;
        made
    }

    fn now(&self) -> SystemTime {
        let now = self.clock.as_ref().map_or_else(start, |clock| clock.now());
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
    }

    fn stored(&self, bytes: Bytes, etag: String, headers: &NewHeaders) -> Stored {
        Stored {
            bytes,
            etag,
            modified: self.now(),
            expires: headers.expires.map(rounded_up).map(format_http_date),
            content_type: headers.content_type.clone(),
            nonce: headers.nonce.clone(),
            expires_on_get: None,
        }
    }

    /// Holds a condition against what is under a key. `honoured`: absent, match.
    fn check(&self, key: &str, condition: &Condition, honoured: (bool, bool)) -> Result<()> {
        let found = self.objects.lock().unwrap().get(key).map(|stored| stored.etag.clone());
        match (condition, found) {
            (Condition::Absent, Some(_)) if honoured.0 => Err(Error::PreconditionFailed),
            (Condition::Is(_), None) if honoured.1 => Err(Error::NotFound),
            (Condition::Is(tag), Some(found)) if honoured.1 && tag.as_str() != found => {
                Err(Error::PreconditionFailed)
            }
            _ => Ok(()),
        }
    }

    /// The source of a copy.
    fn source(&self, source: &Version) -> Result<Stored> {
        let found = self.objects.lock().unwrap().get(&*source.key).cloned();
        let found = found.ok_or(Error::NotFound)?;
        match !self.honours().copy_source_if_match || *found.etag == *source.etag {
            true => Ok(found),
            false => Err(Error::PreconditionFailed),
        }
    }

    fn add_part(&self, upload: &Upload, number: u16, bytes: Bytes) -> Result<Part> {
        assert!((1..=10_000).contains(&number));
        let tag = tag_of(&[&bytes]);
        let mut uploads = self.writes.uploads.lock().unwrap();
        let ongoing = uploads.get_mut(&upload.id).ok_or(Error::NotFound)?;
        assert_eq!(ongoing.key, *upload.key);
        ongoing.parts.insert(number, (bytes, tag.clone()));
        self.note(Changed::Part(upload.clone()));
        Ok(Part { number, tag })
    }
}

fn rounded_up(at: SystemTime) -> SystemTime {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    at + Duration::from_nanos(u64::from((1_000_000_000 - since.subsec_nanos()) % 1_000_000_000))
}

/// The ETag of these parts: the same of the same bytes, as with S3.
pub fn tag_of(parts: &[&[u8]]) -> Tag {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    Tag::new(format!("{:016x}-{}", hasher.finish(), parts.len())).unwrap()
}

fn written(stored: &Stored, is_copy: bool) -> Written {
    Written { tag: Tag::new(&*stored.etag), last_modified: is_copy.then_some(stored.modified) }
}

#[async_trait]
impl WriteStore for Memory {
    async fn put(
        &self,
        key: &str,
        headers: &NewHeaders,
        bytes: Bytes,
        condition: &Condition,
    ) -> Result<Written> {
        self.change(Change::Put, key, || {
            let honours = self.honours();
            self.check(key, condition, (honours.put_if_absent, honours.put_if_match))?;
            let etag = tag_of(&[&bytes]).as_str().to_owned();
            let stored = self.stored(bytes, etag, headers);
            self.store(key, stored.clone());
            Ok(written(&stored, false))
        })
        .await
    }

    async fn create_upload(&self, key: &str, headers: &NewHeaders) -> Result<Created> {
        self.change(Change::Create, key, || {
            let mut ids = self.writes.ids.lock().unwrap();
            *ids += 1;
            let upload = Upload { key: key.into(), id: ids.to_string() };
            let ongoing = Ongoing {
                key: key.to_owned(),
                created: self.now(),
                headers: headers.clone(),
                parts: BTreeMap::new(),
            };
            self.writes.uploads.lock().unwrap().insert(upload.id.clone(), ongoing);
            self.note(Changed::Began(upload.clone()));
            Ok(Created { upload, perhaps_others: false })
        })
        .await
    }

    async fn upload_part(&self, upload: &Upload, number: u16, bytes: Bytes) -> Result<Part> {
        let add = || self.add_part(upload, number, bytes);
        self.change(Change::Part, &upload.key, add).await
    }

    async fn copy_part(
        &self,
        upload: &Upload,
        number: u16,
        source: &Version,
        range: Range<u64>,
    ) -> Result<Part> {
        self.change(Change::CopyPart, &upload.key, || {
            let stored = self.source(source)?;
            let bytes = stored.bytes.slice(range.start as usize..range.end as usize);
            self.add_part(upload, number, bytes)
        })
        .await
    }

    async fn complete(
        &self,
        upload: &Upload,
        parts: &[Part],
        condition: &Condition,
    ) -> Result<Written> {
        self.change(Change::Complete, &upload.key, || {
            let honours = self.honours();
            let honoured = (honours.complete_if_absent, honours.complete_if_match);
            let mut uploads = self.writes.uploads.lock().unwrap();
            let ongoing = uploads.get(&upload.id).ok_or(Error::NotFound)?;
            self.check(&upload.key, condition, honoured)?;
            let (mut bytes, mut pieces, mut before) = (BytesMut::new(), Vec::new(), 0);
            for Part { number, tag } in parts {
                match ongoing.parts.get(number) {
                    Some((piece, there)) if there == tag && *number > before => {
                        bytes.extend_from_slice(piece);
                        pieces.push(&piece[..]);
                    }
                    _ => return Err(Error::Refused(format!("InvalidPart {number}").into())),
                }
                before = *number;
            }
            let sizes: Vec<usize> = pieces.iter().map(|piece| piece.len()).collect();
            assert!(sizes.windows(2).all(|pair| pair[0] >= pair[1]), "parts of {sizes:?}");
            let etag = tag_of(&pieces).as_str().to_owned();
            let bytes = bytes.freeze();
            let stored = self.stored(bytes.clone(), etag, &ongoing.headers);
            uploads.remove(&upload.id);
            self.note(Changed::Completed(upload.clone(), bytes));
            self.objects.lock().unwrap().insert(upload.key.to_string(), stored.clone());
            Ok(written(&stored, false))
        })
        .await
    }

    async fn abort(&self, upload: &Upload) -> Result<()> {
        self.change(Change::Abort, &upload.key, || {
            if self.writes.uploads.lock().unwrap().remove(&upload.id).is_some() {
                self.note(Changed::Aborted(upload.clone()));
            }
            Ok(())
        })
        .await
    }

    async fn uploads(&self, prefix: &str, after: Option<&Upload>) -> Result<UploadsPage> {
        assert_eq!(after, None, "all are on one page");
        let uploads = self.writes.uploads.lock().unwrap();
        let of_prefix =
            uploads.iter().filter(|(_, it)| it.key.starts_with(prefix)).map(|(id, it)| {
                let upload = Upload { key: it.key.as_str().into(), id: id.clone() };
                (upload, it.created)
            });
        Ok(UploadsPage { uploads: of_prefix.collect(), next: None })
    }

    async fn has_parts(&self, upload: &Upload) -> Result<bool> {
        let uploads = self.writes.uploads.lock().unwrap();
        uploads.get(&upload.id).map(|it| !it.parts.is_empty()).ok_or(Error::NotFound)
    }

    async fn copy(&self, request: CopyRequest<'_>) -> Result<Written> {
        self.change(Change::Copy, request.key, || {
            let honours = self.honours();
            let mut stored = self.source(request.source)?;
            let honoured = (honours.copy_if_absent, honours.copy_if_match);
            self.check(request.key, request.condition, honoured)?;
            assert!(*request.source.key != *request.key || request.headers != CopyHeaders::All);
            if let CopyHeaders::AllButExpires(expires) = request.headers {
                stored.expires = expires.map(rounded_up).map(format_http_date);
            }
            stored.modified = self.now();
            self.store(request.key, stored.clone());
            Ok(written(&stored, true))
        })
        .await
    }

    async fn delete(&self, key: &str, delete_if: &DeleteIf) -> Result<Deleted> {
        self.change(Change::Delete, key, || {
            let honours = self.honours();
            match delete_if {
                DeleteIf::Any => {}
                DeleteIf::Is(tag) => {
                    let condition = Condition::Is(tag.clone());
                    self.check(key, &condition, (true, honours.delete_if_match))?;
                }
                DeleteIf::Version(wanted) => {
                    let of_version = *self.writes.of_version.lock().unwrap();
                    if of_version == OfVersion::Refused {
                        let says = "x-amz-if-match-size".to_owned();
                        return Err(Error::Unsupported(says.into()));
                    }
                    let found = self.objects.lock().unwrap().get(key).cloned();
                    let found = version(key, &found.ok_or(Error::NotFound)?);
                    let is_it = match of_version {
                        OfVersion::Ignored => wanted.etag == found.etag,
                        OfVersion::Compared | OfVersion::Refused => wanted.is(&found),
                    };
                    if honours.delete_if_match && !is_it {
                        return Err(Error::PreconditionFailed);
                    }
                }
            }
            if !self.writes.pretends.load(Ordering::Relaxed) {
                self.remove(key);
            }
            Ok(Deleted::default())
        })
        .await
    }

    async fn delete_once(&self, key: &str, delete_if: &DeleteIf) -> Result<Deleted> {
        WriteStore::delete(self, key, delete_if).await
    }

    async fn rename(&self, source: &Version, key: &str, condition: &Condition) -> Result<()> {
        self.change(Change::Rename, key, || {
            assert!(self.honours().rename, "it would put an empty object");
            let found = self.source(source)?;
            self.check(key, condition, (true, true))?;
            let from = source.key.to_string();
            self.note(Changed::Moved(from.clone(), key.to_owned(), found.bytes.clone()));
            let mut objects = self.objects.lock().unwrap();
            objects.remove(&from);
            objects.insert(key.to_owned(), found);
            Ok(())
        })
        .await
    }
}
