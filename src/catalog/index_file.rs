//! The index in a file, for the next mount of the bucket. It is only a cache: if the file cannot be
//! used, the mount logs why and continues without it.

use std::fs;
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use redb::{
    CommitError, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError,
    TableDefinition, TableError, TransactionError,
};
use tokio::time::Instant;
use tracing::{info, warn};

use super::index::{Encoded, Id};
use crate::expiry::seconds;

/// Page cache of the database, in bytes.
const PAGE_CACHE: usize = 4 << 20;

/// The most puts queued for writing; further ones are dropped.
const QUEUE: usize = 64 << 10;

/// A transaction is committed after this many puts or this much time.
const BATCH: usize = 10_000;
const BATCH_TIME: Duration = Duration::from_secs(2);

/// Entries not used during a whole period are deleted at the next open, so that the file does not
/// grow without limit.
const PERIOD: Duration = Duration::from_secs(14 * 86_400);

const FORMAT: &str = "1";
const ABOUT: TableDefinition<'_, &str, &str> = TableDefinition::new("about");
/// Versions used in the current period, and those used only in the period before.
const RECENT: TableDefinition<'_, [u8; 16], Encoded> = TableDefinition::new("recent");
const BEFORE: TableDefinition<'_, [u8; 16], Encoded> = TableDefinition::new("before");

/// An index in a file. A separate thread writes to it asynchronously.
pub struct IndexFile {
    path: PathBuf,
    database: Arc<Database>,
    /// Set after a failure: the file is no longer used.
    broken: Arc<AtomicBool>,
    queue: SyncSender<Task>,
    writer: Option<JoinHandle<()>>,
}

enum Task {
    Put(Id, Encoded),
    Flush(SyncSender<()>),
    End,
}

/// Why a file cannot be used.
#[derive(Debug)]
enum Fault {
    /// It is damaged or not an index of this bucket: set it aside.
    Wrong(String),
    /// It may be intact: leave it.
    Unusable(String),
}

/// Failures in an opened database mean that it is damaged.
macro_rules! damaged {
    ($($error:ty),*) => {$(
        impl From<$error> for Fault {
            fn from(error: $error) -> Fault {
                Fault::Wrong(redb::Error::from(error).to_string())
            }
        }
    )*};
}

damaged!(CommitError, StorageError, TableError, TransactionError);

impl IndexFile {
    /// Opens the index of the bucket named by `source`, or creates one. A file that is damaged or
    /// belongs to something else is set aside. `None` if the path cannot be used; the reason is
    /// logged.
    ///
    /// Reads the whole file to verify its checksums.
    pub fn open(path: &Path, source: &str) -> Option<IndexFile> {
        let shown = path.display();
        let is_new = !path.exists();
        let database = match open(path, source) {
            Ok(database) => database,
            Err(Fault::Unusable(why)) => {
                if is_new {
                    // A half-created file would count as damaged at the next open.
                    let _ = fs::remove_file(path);
                }
                warn!("the index {shown} cannot be used: {why}; going on without it");
                return None;
            }
            Err(Fault::Wrong(why)) => {
                let aside = match set_aside(path) {
                    Ok(aside) => aside,
                    Err(error) => {
                        warn!(
                            "the index {shown} cannot be used: {why}; nor can it be set aside: \
                             {error}; going on without it"
                        );
                        return None;
                    }
                };
                warn!(
                    "the index {shown} cannot be used: {why}; it is set aside as {}, and a new \
                     one made",
                    aside.display()
                );
                match open(path, source) {
                    Ok(database) => database,
                    Err(Fault::Wrong(why) | Fault::Unusable(why)) => {
                        warn!("no new index {shown}: {why}; going on without it");
                        return None;
                    }
                }
            }
        };
        let (queue, tasks) = sync_channel(QUEUE);
        let database = Arc::new(database);
        let broken = Arc::new(AtomicBool::new(false));
        let writer = {
            let (database, broken, path) = (database.clone(), broken.clone(), path.to_owned());
            #[expect(
                clippy::disallowed_methods,
                reason = "`IndexFile` owns it and joins it in `drop`"
            )]
            std::thread::Builder::new().name("index".into()).spawn(move || {
                if let Err(why) = write_behind(&database, &tasks) {
                    broken.store(true, Ordering::Relaxed);
                    warn!(
                        "the index {} cannot be written: {why}; going on without it",
                        path.display()
                    );
                }
            })
        };
        match writer {
            Ok(writer) => Some(IndexFile {
                path: path.to_owned(),
                database,
                broken,
                queue,
                writer: Some(writer),
            }),
            Err(error) => {
                warn!("no thread for the index {shown}: {error}; going on without it");
                None
            }
        }
    }

    pub fn put(&self, id: Id, encoded: Encoded) {
        if !self.broken.load(Ordering::Relaxed) {
            let _ = self.queue.try_send(Task::Put(id, encoded));
        }
    }

    pub fn get(&self, ids: &[Id]) -> Vec<Option<Encoded>> {
        if self.broken.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let read = || -> Result<Vec<_>, redb::Error> {
            let transaction = self.database.begin_read()?;
            let recent = transaction.open_table(RECENT)?;
            let before = transaction.open_table(BEFORE)?;
            ids.iter()
                .map(|id| {
                    if let Some(found) = recent.get(id.0)? {
                        return Ok(Some(found.value()));
                    }
                    let found = before.get(id.0)?.map(|found| found.value());
                    if let Some(encoded) = found {
                        self.put(*id, encoded);
                    }
                    Ok(found)
                })
                .collect()
        };
        match unless_it_panics(read) {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => self.fail(&error.to_string()),
            Err(panic) => self.fail(&panic),
        }
    }

    fn fail<T>(&self, why: &str) -> Vec<T> {
        if !self.broken.swap(true, Ordering::Relaxed) {
            warn!("the index {} cannot be read: {why}; going on without it", self.path.display());
        }
        Vec::new()
    }

    pub fn flush(&self) {
        let (done, written) = sync_channel(1);
        if self.queue.send(Task::Flush(done)).is_ok() {
            // Fails if the writer has ended.
            let _ = written.recv();
        }
    }
}

impl Drop for IndexFile {
    fn drop(&mut self) {
        let _ = self.queue.send(Task::End);
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// Writes queued puts until the queue is closed.
fn write_behind(database: &Database, tasks: &Receiver<Task>) -> Result<(), String> {
    let mut batch = Vec::new();
    let mut due = None;
    loop {
        let task = match due {
            None => tasks.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(due) => {
                tasks.recv_timeout(Instant::saturating_duration_since(&due, Instant::now()))
            }
        };
        let (mut flushed, mut ended) = (None, false);
        match task {
            Ok(Task::Put(id, encoded)) => {
                batch.push((id, encoded));
                due.get_or_insert_with(|| Instant::now() + BATCH_TIME);
                if batch.len() < BATCH {
                    continue;
                }
            }
            Ok(Task::Flush(done)) => flushed = Some(done),
            Ok(Task::End) | Err(RecvTimeoutError::Disconnected) => ended = true,
            Err(RecvTimeoutError::Timeout) => {}
        }
        due = None;
        if !batch.is_empty() {
            let write = || -> Result<(), redb::Error> {
                let transaction = database.begin_write()?;
                {
                    let mut recent = transaction.open_table(RECENT)?;
                    for (id, encoded) in batch.drain(..) {
                        recent.insert(id.0, encoded)?;
                    }
                }
                Ok(transaction.commit()?)
            };
            unless_it_panics(write)?.map_err(|error| error.to_string())?;
        }
        drop(flushed);
        if ended {
            return Ok(());
        }
    }
}

/// A damaged file may make the library panic.
fn unless_it_panics<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    std::panic::catch_unwind(AssertUnwindSafe(work))
        .map_err(|_| "the library that reads it panicked".to_owned())
}

/// Opens and verifies the database at `path`, creates its tables, and deletes unused entries.
fn open(path: &Path, source: &str) -> Result<Database, Fault> {
    let opened = unless_it_panics(|| {
        Database::builder()
            .set_cache_size(PAGE_CACHE)
            .set_check_integrity_on_open(true)
            .create(path)
    });
    let mut database = match opened {
        Ok(Ok(database)) => database,
        Ok(Err(error)) => return Err(fault(error)),
        Err(panic) => return Err(Fault::Wrong(panic)),
    };
    if unless_it_panics(|| prepare(&database, source)).map_err(Fault::Wrong)?? {
        info!("unused entries of the index {} were deleted", path.display());
        // If this fails, the file only stays larger than needed.
        let _ = database.compact();
    }
    Ok(database)
}

/// Creates the tables, and returns whether entries were deleted. Refuses the index of another
/// bucket.
fn prepare(database: &Database, source: &str) -> Result<bool, Fault> {
    #[expect(
        clippy::disallowed_methods,
        reason = "eviction from the file goes by this host's clock; no object expires by it"
    )]
    let now = seconds(SystemTime::now());
    let transaction = database.begin_write()?;
    let mut dropped = false;
    {
        let mut about = match transaction.open_table(ABOUT) {
            Ok(about) => about,
            Err(
                error @ (TableError::TableTypeMismatch { .. } | TableError::TableIsMultimap(_)),
            ) => {
                return Err(Fault::Wrong(format!("it is no index of expirefs ({error})")));
            }
            Err(error) => return Err(error.into()),
        };
        let mut say = |name: &'static str, value: &str| -> Result<String, Fault> {
            let said = about.get(name)?.map(|said| said.value().to_owned());
            if said.is_none() {
                about.insert(name, value)?;
            }
            Ok(said.unwrap_or_else(|| value.to_owned()))
        };
        let format = say("format", FORMAT)?;
        if format != FORMAT {
            return Err(Fault::Wrong(format!(
                "it is of format {format}, and this version of expirefs writes format {FORMAT}"
            )));
        }
        let of = say("source", source)?;
        if of != source {
            return Err(Fault::Wrong(format!("it is of {of}, and this is {source}")));
        }
        let since = say("since", &now.to_string())?;
        let since: i64 = since.parse().unwrap_or(0);
        drop(transaction.open_table(RECENT)?);
        drop(transaction.open_table(BEFORE)?);
        if now - since > PERIOD.as_secs() as i64 {
            transaction.delete_table(BEFORE)?;
            transaction.rename_table(RECENT, BEFORE)?;
            drop(transaction.open_table(RECENT)?);
            about.insert("since", now.to_string().as_str())?;
            dropped = true;
        }
    }
    transaction.commit()?;
    Ok(dropped)
}

fn fault(error: DatabaseError) -> Fault {
    let says = error.to_string();
    match error {
        DatabaseError::DatabaseAlreadyOpen => {
            Fault::Unusable("another process has it open".to_owned())
        }
        DatabaseError::LockProtocolMismatch => Fault::Unusable(says),
        DatabaseError::Storage(StorageError::Io(error)) => match error.kind() {
            io::ErrorKind::InvalidData
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::UnexpectedEof => Fault::Wrong(error.to_string()),
            _ => Fault::Unusable(error.to_string()),
        },
        _ => Fault::Wrong(says),
    }
}

/// Renames a file to a free name in the same directory.
fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let numbered = |n: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".set-aside-{n}"));
        PathBuf::from(name)
    };
    let free = (1..1000).map(numbered).find(|aside| !aside.exists());
    let aside = free.ok_or_else(|| io::Error::other("a thousand files were set aside before"))?;
    fs::rename(path, &aside)?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::index::tests::{fill, known};
    use crate::catalog::index::{BYTES_PER_VERSION, Index};

    const SOURCE: &str = "bucket at AWS";

    fn opened(path: &Path) -> Arc<Index> {
        Index::new(1 << 20, IndexFile::open(path, SOURCE))
    }

    #[tokio::test]
    async fn a_version_takes_no_more_bytes_than_documented() {
        const N: usize = 100_000;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let index = Index::new(N * BYTES_PER_VERSION, IndexFile::open(&path, SOURCE));
        for n in 0..N / 10_000 {
            fill(&index, n * 10_000..(n + 1) * 10_000);
        }
        let memory = index.memory.memory_used().total() / index.len();
        assert!(index.len() > N * 9 / 10 && memory <= BYTES_PER_VERSION, "{memory} bytes");
        drop(index);
        let file = fs::metadata(&path).unwrap().len() as usize / N;
        println!("{memory} bytes in memory, {file} in the file");
        assert!(file <= 120, "{file} bytes in the file");
    }

    #[tokio::test]
    async fn the_next_mount_reads_what_this_one_wrote() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        fill(&opened(&path), 0..3000);
        let index = opened(&path);
        assert_eq!((index.len(), known(&index, 4000).await), (0, 3000));
        // Now from memory.
        assert_eq!((index.len(), known(&index, 4000).await), (3000, 3000));
    }

    #[tokio::test]
    async fn unused_entries_are_dropped_after_two_periods() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let a_period_passes = || {
            let database = Database::open(&path).unwrap();
            let transaction = database.begin_write().unwrap();
            let long_ago = seconds(SystemTime::now()) - PERIOD.as_secs() as i64 - 1;
            let since = long_ago.to_string();
            transaction.open_table(ABOUT).unwrap().insert("since", since.as_str()).unwrap();
            transaction.commit().unwrap();
        };
        fill(&opened(&path), 0..1000);
        a_period_passes();
        {
            let index = opened(&path);
            assert_eq!(known(&index, 100).await, 100, "used in the previous period");
            index.flush();
        }
        a_period_passes();
        {
            let index = opened(&path);
            assert_eq!(known(&index, 1000).await, 100, "those that were used");
        }
        a_period_passes();
        drop(opened(&path));
        a_period_passes();
        assert_eq!(known(&opened(&path), 1000).await, 0);
    }

    #[tokio::test]
    async fn a_file_in_use_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let first = opened(&path);
        assert!(IndexFile::open(&path, SOURCE).is_none());
        fill(&first, 0..10);
        drop(first);
        assert_eq!(known(&opened(&path), 10).await, 10, "it was not set aside");
    }

    /// Changes bytes of a small index: all entries returned are right, or none are returned.
    #[tokio::test]
    async fn a_damaged_file_is_never_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        fill(&opened(&path), 0..500);
        let good = fs::read(&path).unwrap();
        // Mostly non-zero bytes: few of the zeros matter.
        let places = (0..good.len()).filter(|at| good[*at] != 0 || at % 4096 < 4).step_by(211);
        let (mut set_aside, mut whole) = (0, 0);
        for at in places {
            let mut bad = good.clone();
            bad[at] ^= 0x55;
            fs::write(&path, &bad).unwrap();
            let index = opened(&path);
            match known(&index, 500).await {
                0 => set_aside += 1,
                // The change hit nothing that matters.
                500 => whole += 1,
                some => panic!("{some} are known with byte {at} changed"),
            }
            drop(index);
            for entry in fs::read_dir(folder.path()).unwrap() {
                fs::remove_file(entry.unwrap().path()).unwrap();
            }
        }
        assert!(set_aside > 20 && whole > 0, "{set_aside} set aside, {whole} whole");
    }

    #[tokio::test]
    async fn a_cut_or_foreign_file_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        fill(&opened(&path), 0..500);
        let good = fs::read(&path).unwrap();
        let of_another = IndexFile::open(&path, "another bucket at AWS");
        assert!(of_another.is_some());
        drop(of_another);
        let mut n = 1;
        let aside = |n: usize| folder.path().join(format!("index.set-aside-{n}"));
        assert!(aside(n).exists());
        for bad in [&good[..good.len() / 2], &good[..10], b"[section]\nkey = value\n"] {
            fs::write(&path, bad).unwrap();
            let index = opened(&path);
            assert_eq!(known(&index, 500).await, 0);
            fill(&index, 0..10);
            drop(index);
            n += 1;
            assert_eq!(fs::read(aside(n)).unwrap(), bad, "nothing is lost");
            assert_eq!(known(&opened(&path), 500).await, 10, "the new one works");
        }
    }

    #[test]
    fn a_path_that_is_not_a_file_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        assert!(IndexFile::open(folder.path(), SOURCE).is_none());
        assert!(folder.path().is_dir());
        assert!(IndexFile::open(&folder.path().join("no/index"), SOURCE).is_none());
    }
}
