//! Operations that are dropped at each of their awaits. Nothing drops them but the end of the runtime; if
//! anything ever does, the file goes on: nothing that was written before is lost, nothing hangs, and all
//! that was held is given back. Rules W3, W13 and W14.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use expirefs::bucket::honours::Honours;
use expirefs::error::{Error, Result};
use expirefs::fs::change::Replace;
use expirefs::pending::journal::Journal;

use super::memory::writes::Changed;
use super::{MakeWriting, Rig, Write, this_process};

/// Bytes of a part.
const PART: usize = 4 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Write(usize, usize),
    Truncate(usize),
    Fsync,
    Flush,
    Release,
    Rename,
    Unlink,
    Stamp,
    Read,
}

const OPERATIONS: [Operation; 10] = [
    Operation::Write(10, 20),
    Operation::Write(PART - 10, 2 * PART),
    Operation::Truncate(PART + 5),
    Operation::Fsync,
    Operation::Flush,
    Operation::Release,
    Operation::Rename,
    Operation::Unlink,
    Operation::Stamp,
    Operation::Read,
];

impl Operation {
    async fn run(self, rig: &Rig, file: Write) -> Result<()> {
        let fs = &rig.fs;
        match self {
            Operation::Write(at, length) => rig.write(file, at as u64, &vec![9; length]).await,
            Operation::Truncate(size) => {
                fs.truncate(file.ino, Some(file.fh), size as u64).await.map(|_| ())
            }
            Operation::Fsync => fs.fsync(file.fh).await,
            Operation::Flush => fs.flush(file.fh, this_process()).await,
            Operation::Release => fs.release(file.fh).await,
            Operation::Rename => rig.rename("a", "b", Replace::Yes).await,
            Operation::Unlink => rig.unlink("a").await,
            Operation::Stamp => {
                fs.set_end(file.ino, "user.expirefs.ttl".as_ref(), Some(b"2h")).await
            }
            Operation::Read => fs.read(file.fh, 0, 1 << 20).await.map(|_| ()),
        }
    }

    /// What it makes of some content.
    fn apply(self, content: &[u8]) -> Vec<u8> {
        let mut content = content.to_vec();
        match self {
            Operation::Write(at, length) => {
                content.resize(content.len().max(at + length), 0);
                content[at..at + length].fill(9);
            }
            Operation::Truncate(size) => content.resize(size, 0),
            _ => {}
        }
        content
    }
}

/// Where each file is written to after that.
const MORE: usize = 5;

fn with_more(content: &[u8]) -> Vec<u8> {
    let mut content = content.to_vec();
    content.resize(content.len().max(MORE + 4), 0);
    content[MORE..MORE + 4].copy_from_slice(b"more");
    content
}

/// Whether some content is the old or the new one; of a write that was dropped each byte may be either.
fn is_between(content: &[u8], old: &[u8], new: &[u8]) -> bool {
    let sizes = old.len().min(new.len())..=old.len().max(new.len());
    let at = |content: &[u8], i: usize| content.get(i).copied().unwrap_or(0);
    let is_either = |(i, byte): (usize, &u8)| *byte == at(old, i) || *byte == at(new, i);
    sizes.contains(&content.len()) && content.iter().enumerate().all(is_either)
}

/// Drops a future at its `n`th await, if it has not ended before.
async fn up_to<T>(n: usize, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let mut polls = 0;
    std::future::poll_fn(|cx| {
        polls += 1;
        match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if polls == n => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// How a file is when an operation on it is dropped.
#[derive(Clone, Copy, Debug)]
struct Setup {
    /// Bytes that were there, of an edit.
    base: Option<usize>,
    /// Bytes that were written since.
    written: usize,
    /// Bytes of memory.
    memory: usize,
    renames: bool,
}

/// Drops an operation at its `n`th await, and uses the file after that. Returns whether it was dropped.
async fn cancelled(setup: Setup, operation: Operation, n: usize) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(dir.path(), "bucket").unwrap();
    let Setup { base, written, memory, renames } = setup;
    let rig = MakeWriting {
        honours: Honours { rename: renames, ..Honours::ALL },
        memory,
        part: PART as u64,
        journal: Some(journal),
        ..MakeWriting::default()
    };
    let rig = rig.rig();
    let mut content = vec![1; base.unwrap_or(0)];
    let file = match base {
        Some(_) => {
            rig.store.put("a", content.clone(), None);
            rig.edit("a", false).await.unwrap()
        }
        None => rig.create("a", false).await.unwrap(),
    };
    rig.write(file, 0, &vec![2; written]).await.unwrap();
    content.resize(content.len().max(written), 0);
    content[..written].fill(2);

    let done = up_to(n, operation.run(&rig, file)).await;
    let at = format!("{operation:?} dropped at {n} of {setup:?}");
    if let Some(done) = &done {
        assert_eq!(*done, Ok(()), "{at}");
    }
    // What the program had been told is there, with what was dropped or without it.
    let (old, new) = (content.clone(), operation.apply(&content));
    let told = match operation {
        Operation::Release => Ok(()),
        _ => {
            let wrote = rig.write(file, MORE as u64, b"more").await;
            let read = rig.read(file).await;
            let closed = rig.close(file).await;
            let told = wrote.and(closed);
            if let (Ok(read), Ok(())) = (&read, &told) {
                let is_right = is_between(read, &with_more(&old), &with_more(&new));
                assert!(is_right, "{at}: {} bytes are read", read.len());
            }
            told
        }
    };
    // A commit whose answer nobody got may have replaced what an edit requires. That is told.
    let is_stale = base.is_some() && done.is_none() && told == Err(Error::Stale);
    assert!(told == Ok(()) || is_stale, "{at}: {told:?}");
    // A file whose release was dropped is committed when the mount ends.
    rig.fs.shut_down(Duration::from_secs(1)).await;
    rig.fs.commit_closed().await;

    let found = ["a", "b"].map(|key| rig.store.content(key).map(|bytes| bytes.to_vec()));
    let sizes = found.each_ref().map(|it| it.as_ref().map(Vec::len));
    let (more_old, more_new) = (with_more(&old), with_more(&new));
    let is_last = |it: &Vec<u8>| match told.is_ok() && operation != Operation::Release {
        true => is_between(it, &more_old, &more_new),
        false => is_between(it, &old, &new),
    };
    // What was dropped may have made an earlier commit, or left what it was to replace.
    let earlier = [vec![1; base.unwrap_or(0)], old.clone(), new.clone()];
    let may_be = |it: &Vec<u8>| is_last(it) || (done.is_none() && earlier.contains(it));
    assert!(found.iter().flatten().all(may_be), "{at}: {sizes:?}");
    let is_there = found.iter().flatten().any(|it| is_last(it) || is_stale && earlier.contains(it));
    assert!(is_there || operation == Operation::Unlink, "{at}: lost, {sizes:?}");
    if operation != Operation::Release {
        let drafts = rig.fs.writing().unwrap().overlay.drafts();
        assert!(drafts.is_empty(), "{at}: it is pending still");
        rig.must_have_given_back().await;
    }
    // An upload whose id nobody got is for a lifecycle rule of the bucket.
    rig.writer().until_aborted().await;
    let has_part = |(id, _): &(String, String)| {
        let is_its = |it: &Changed| matches!(it, Changed::Part(upload) if upload.id == *id);
        rig.store.log().iter().any(is_its)
    };
    assert!(!rig.store.upload_ids().iter().any(has_part), "{at}: an upload is left");
    done.is_none()
}

#[test]
fn an_operation_that_is_dropped_at_any_await_loses_nothing_and_holds_nothing() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().unwrap();
    let mut dropped = 0;
    for base in [None, Some(100), Some(2 * PART + 100)] {
        for written in [50, 3 * PART] {
            for (memory, renames) in [(16 * PART, true), (PART, false)] {
                for operation in OPERATIONS {
                    let setup = Setup { base, written, memory, renames };
                    let mut n = 1;
                    while runtime.block_on(cancelled(setup, operation, n)) {
                        n += 1;
                        dropped += 1;
                    }
                }
            }
        }
    }
    assert!(dropped > 200, "{dropped}");
}
