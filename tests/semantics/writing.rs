//! What is written: pending files, their commits, and the names they get. Rules W1 to W10, W12, W13,
//! W15 and W17.

use std::sync::Arc;
use std::time::Duration;

use expirefs::bucket::honours::Honours;
use expirefs::catalog::Trust;
use expirefs::error::Error;
use expirefs::expiry::{Touch, Ttl, format_http_date};
use expirefs::fs::OpenMode;
use expirefs::fs::attributes::NewAttr;
use expirefs::fs::change::Replace;
use expirefs::fs::inode::ROOT;
use expirefs::pending::journal::Journal;
use expirefs::store::write::{NewHeaders, WriteStore};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngAlgorithm;
use tokio::sync::Semaphore;

use super::memory::writes::{Change, Changed, Fate};
use super::{Make, MakeWriting, PART, Rig, SECOND, Write, expires, pattern, start, this_process};

/// One that has everything but RenameObject, as AWS for general purpose buckets.
const NO_RENAME: Honours = Honours { rename: false, ..Honours::ALL };

fn rig() -> Rig {
    MakeWriting { honours: NO_RENAME, ..MakeWriting::default() }.rig()
}

fn holding(rig: &Rig, key: &str) -> Option<Vec<u8>> {
    rig.store.content(key).map(|bytes| bytes.to_vec())
}

fn unclear(made: bool) -> Fate {
    Fate::Unclear { made }
}

async fn eventually(what: impl Fn() -> bool) {
    for _ in 0..1000 {
        if what() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it has not come");
}

// When a commit is made, and what is seen before it.

#[tokio::test(start_paused = true)]
async fn a_pending_file_is_seen_here_and_nowhere_else_until_its_commit() {
    let rig = rig();
    let file = rig.create("a", false).await.unwrap();
    rig.write(file, 0, b"hello").await.unwrap();
    let seen = rig.look("a").await.unwrap().unwrap();
    assert_eq!((seen.ino, seen.size, seen.ttl), (file.ino, 5, Duration::ZERO));
    assert_eq!(rig.list("", 10).await.unwrap(), ["a"]);
    assert_eq!(rig.cat("a").await.unwrap(), b"hello");
    assert_eq!(rig.store.changes(), [], "W2");
    rig.close(file).await.unwrap();
    assert_eq!(rig.store.changes(), [(Change::Put, "a".to_owned())], "W3");
    assert_eq!(holding(&rig, "a").unwrap(), b"hello");
    assert_eq!(rig.cat("a").await.unwrap(), b"hello");
    rig.must_be_written().await;
}

#[tokio::test(start_paused = true)]
async fn a_close_commits_once_and_only_by_the_process_that_opened_the_file() {
    let rig = rig();
    let file = rig.create("a", false).await.unwrap();
    rig.write(file, 0, b"x").await.unwrap();
    // Process 1 is another one.
    rig.fs.flush(file.fh, 1).await.unwrap();
    assert_eq!(rig.store.changes(), []);
    for _ in 0..3 {
        rig.fs.flush(file.fh, this_process()).await.unwrap();
    }
    rig.fs.fsync(file.fh).await.unwrap();
    rig.fs.release(file.fh).await.unwrap();
    assert_eq!(rig.store.changes().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_was_only_created_or_emptied_is_committed_at_its_last_close() {
    let rig = rig();
    let file = rig.create("a", false).await.unwrap();
    rig.fs.flush(file.fh, this_process()).await.unwrap();
    assert_eq!(rig.store.changes(), []);
    rig.fs.release(file.fh).await.unwrap();
    assert_eq!(holding(&rig, "a").unwrap(), b"");
    rig.make("b", b"full").await.unwrap();
    let file = rig.edit("b", true).await.unwrap();
    rig.fs.flush(file.fh, this_process()).await.unwrap();
    assert_eq!(holding(&rig, "b").unwrap(), b"full");
    rig.fs.release(file.fh).await.unwrap();
    assert_eq!(holding(&rig, "b").unwrap(), b"");
}

/// As flock(1) opens its lock file, and as `O_RDONLY | O_TRUNC` empties a file on Linux.
#[tokio::test(start_paused = true)]
async fn a_handle_that_only_reads_commits_the_file_that_its_open_has_made_or_emptied() {
    let rig = rig();
    let (parent, name) = rig.place("a").await;
    let mode = OpenMode { writes: false, truncate: false, exclusive: false };
    let (attr, fh) = rig.fs.create(parent, name, mode, this_process()).await.unwrap();
    rig.close(Write { ino: attr.ino, fh }).await.unwrap();
    assert_eq!(holding(&rig, "a").unwrap(), b"");
    rig.make("b", b"full").await.unwrap();
    let ino = rig.ino("b").await;
    let mode = OpenMode { truncate: true, ..mode };
    let fh = rig.fs.open_for_writing(ino, mode, this_process()).await.unwrap();
    rig.close(Write { ino, fh }).await.unwrap();
    assert_eq!(holding(&rig, "b").unwrap(), b"");
    rig.fs.forget(attr.ino, 1);
    rig.must_be_written().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_was_opened_and_not_changed_costs_no_request() {
    let rig = rig();
    rig.store.put("a", "old", expires(100));
    let file = rig.edit("a", false).await.unwrap();
    rig.fs.truncate(file.ino, Some(file.fh), 3).await.unwrap();
    rig.close(file).await.unwrap();
    assert_eq!(rig.store.changes(), []);
    assert_eq!(rig.cat("a").await.unwrap(), b"old");
}

#[tokio::test(start_paused = true)]
async fn truncating_by_path_commits_and_one_that_fails_leaves_the_file_as_it_was() {
    let rig = rig();
    rig.store.put("a", "abcdef", expires(100));
    let ino = rig.ino("a").await;
    rig.fs.truncate(ino, None, 3).await.unwrap();
    assert_eq!(holding(&rig, "a").unwrap(), b"abc");
    let ino = rig.ino("a").await;
    let refused = rig.fs.truncate(ino, None, u64::MAX).await;
    assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
    assert_eq!(rig.cat("a").await.unwrap(), b"abc");
    rig.must_be_written().await;
}

// The bytes.

/// The kernel releases a handle some time after close(2) has returned.
#[tokio::test(start_paused = true)]
async fn truncating_by_path_commits_also_before_the_handle_of_a_closed_file_is_released() {
    for content in [&b""[..], b"content"] {
        let rig = rig();
        let file = rig.create("a", false).await.unwrap();
        rig.write(file, 0, content).await.unwrap();
        rig.fs.truncate(file.ino, None, 60).await.unwrap();
        assert_eq!(holding(&rig, "a"), None, "it is being written");
        rig.fs.flush(file.fh, this_process()).await.unwrap();
        rig.fs.truncate(file.ino, None, 50).await.unwrap();
        assert_eq!(holding(&rig, "a").map(|bytes| bytes.len()), Some(50));
        rig.write(file, 50, b"more").await.unwrap();
        rig.fs.truncate(file.ino, None, 52).await.unwrap();
        assert_eq!(holding(&rig, "a").map(|bytes| bytes.len()), Some(50), "it is written again");
        rig.close(file).await.unwrap();
        assert_eq!(holding(&rig, "a").map(|bytes| bytes.len()), Some(52));
        rig.must_be_written().await;
    }
}

#[tokio::test(start_paused = true)]
async fn parts_leave_while_a_file_is_written_and_one_that_changes_is_sent_again() {
    let rig = rig();
    let mut content = pattern(1, 5 * PART / 2);
    let file = rig.create("a", false).await.unwrap();
    for (i, piece) in content.chunks(10_000).enumerate() {
        rig.write(file, i as u64 * 10_000, piece).await.unwrap();
    }
    eventually(|| rig.store.count_of(Change::Part) == 2).await;
    content[7] = 99;
    rig.write(file, 7, &[99]).await.unwrap();
    assert_eq!(rig.read(file).await.unwrap(), content);
    rig.close(file).await.unwrap();
    assert_eq!(rig.store.count_of(Change::Part), 4);
    assert_eq!(holding(&rig, "a").unwrap(), content);
    rig.must_be_written().await;
}

/// Two requests of one part number are never under way at a time: the store keeps the one that comes
/// last.
#[tokio::test(start_paused = true)]
async fn a_part_that_changes_while_it_is_sent_is_sent_again_after_that() {
    for truncates in [false, true] {
        let rig = rig();
        let file = rig.create("a", false).await.unwrap();
        let gate = Arc::new(Semaphore::new(0));
        rig.store.decide_one(Change::Part, 1, Fate::Waits(gate.clone()));
        rig.write(file, 0, &pattern(1, 2 * PART)).await.unwrap();
        eventually(|| rig.store.count_of(Change::Part) > 0).await;
        if truncates {
            rig.fs.truncate(file.ino, Some(file.fh), 0).await.unwrap();
        }
        let content = pattern(2, 2 * PART);
        rig.write(file, 0, &content).await.unwrap();
        let committing = rig.fs.fsync(file.fh);
        let opening = async {
            for _ in 0..200 {
                tokio::task::yield_now().await;
            }
            gate.add_permits(1);
        };
        let (committed, ()) = tokio::join!(committing, opening);
        committed.unwrap();
        assert_eq!(holding(&rig, "a").unwrap(), content);
        rig.close(file).await.unwrap();
        rig.must_be_written().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_part_that_was_cut_off_before_it_was_sent_is_whole_when_the_file_grows_again() {
    let rig = rig();
    let file = rig.create("a", false).await.unwrap();
    let (one, end) = (PART as u64, 2 * PART as u64);
    rig.fs.write(file.fh, 0, pattern(1, 2 * PART).into()).await.unwrap();
    // Before the parts are sent another thread truncates.
    rig.fs.truncate(file.ino, Some(file.fh), one + 100).await.unwrap();
    rig.fs.send_parts(file.fh, end).await;
    rig.fs.write(file.fh, end, pattern(3, 10).into()).await.unwrap();
    rig.close(file).await.unwrap();
    let mut content = pattern(1, PART + 100);
    content.resize(2 * PART, 0);
    content.extend(pattern(3, 10));
    assert!(holding(&rig, "a").unwrap() == content);
    rig.must_be_written().await;
}

#[tokio::test(start_paused = true)]
async fn a_part_in_a_full_spool_comes_back_into_memory() {
    let make = MakeWriting { memory: PART, spool: Some(1000), ..MakeWriting::default() };
    let rig = make.rig();
    let large = rig.create("large", false).await.unwrap();
    rig.write(large, 0, &pattern(1, PART)).await.unwrap();
    let small = rig.create("small", false).await.unwrap();
    rig.write(small, 0, &[1; 900]).await.unwrap();
    rig.close(large).await.unwrap();
    // The kernel forgets it: its memory is free.
    rig.forget(large.ino);
    let written = rig.write(small, 900, &[2; 900]);
    tokio::time::timeout(60 * SECOND, written).await.expect("an end").unwrap();
    rig.close(small).await.unwrap();
    assert_eq!(holding(&rig, "small").unwrap(), [[1; 900], [2; 900]].concat());
    rig.must_be_written().await;
}

/// However many files are written, of what lies in the spool little is in memory to be sent.
#[tokio::test(start_paused = true)]
async fn parts_that_are_being_sent_are_bounded_in_memory() {
    const MEMORY: usize = 4;
    let writing = MakeWriting { memory: MEMORY * PART, ..MakeWriting::default() };
    let rig = Make { cap: 100, writing: Some(writing), ..Make::default() }.rig();
    let gate = Arc::new(Semaphore::new(0));
    rig.store.decide({
        let gate = gate.clone();
        move |change, _| match change {
            Change::Part => Fate::Waits(gate.clone()),
            _ => Fate::Well,
        }
    });
    let mut files = Vec::new();
    for i in 0..8 {
        let name = format!("f{i}");
        let file = rig.create(&name, false).await.unwrap();
        for (n, piece) in pattern(i, 3 * PART).chunks(PART).enumerate() {
            rig.write(file, (n * PART) as u64, piece).await.unwrap();
        }
        files.push((name, file));
    }
    // All that can be sent now are, and those of the spool were read by threads.
    let mut under_way = 0;
    for _ in 0..100 {
        tokio::time::sleep(SECOND / 100).await;
        under_way = rig.store.count_of(Change::Part);
    }
    // Half as many again come from the spool.
    assert!((1..=MEMORY + MEMORY / 2).contains(&under_way), "{under_way} parts");
    gate.add_permits(1000);
    for (i, (name, file)) in files.into_iter().enumerate() {
        rig.close(file).await.unwrap();
        assert!(holding(&rig, &name).unwrap() == pattern(i as u8, 3 * PART));
    }
    rig.must_be_written().await;
}

#[tokio::test(start_paused = true)]
async fn without_room_a_write_waits_and_then_fails_for_good() {
    let make = MakeWriting { memory: PART, spool: None, ..MakeWriting::default() };
    let rig = make.rig();
    let first = rig.create("first", false).await.unwrap();
    rig.write(first, 0, &pattern(1, PART)).await.unwrap();
    let second = rig.create("second", false).await.unwrap();
    let refused = rig.write(second, 0, b"x").await;
    assert!(matches!(refused, Err(Error::NoSpace(_))), "W12: {refused:?}");
    assert_eq!(rig.close(second).await, refused, "W13");
    rig.close(first).await.unwrap();
    assert_eq!(rig.store.keys(), ["first"]);
    rig.must_be_written().await;
}

/// The next write may come before the parts that the last one has filled are sent.
#[tokio::test(start_paused = true)]
async fn a_write_that_waits_for_memory_sends_the_full_parts_of_its_file() {
    let make = MakeWriting { memory: PART, spool: None, ..MakeWriting::default() };
    let rig = make.rig();
    let content = pattern(1, 3 * PART);
    let file = rig.create("a", false).await.unwrap();
    for (i, piece) in content.chunks(PART / 2).enumerate() {
        rig.fs.write(file.fh, (i * PART / 2) as u64, piece.to_vec().into()).await.unwrap();
    }
    rig.close(file).await.unwrap();
    assert!(holding(&rig, "a").unwrap() == content);
    rig.must_be_written().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_spool_files_are_written_in_order_and_renamed_and_stamped_all_the_same() {
    let make = || MakeWriting { spool: None, honours: NO_RENAME, ..MakeWriting::default() };
    let content = pattern(1, 3 * PART + 5);
    let filled = async |rig: &Rig| {
        let file = rig.create("a", false).await.unwrap();
        for (i, piece) in content.chunks(20_000).enumerate() {
            rig.write(file, i as u64 * 20_000, piece).await.unwrap();
        }
        file
    };
    let rig = make().rig();
    let file = filled(&rig).await;
    assert_eq!(rig.write(file, 0, b"x").await, Err(Error::NotInOrder), "W4");
    assert_eq!(rig.close(file).await, Err(Error::NotInOrder));
    assert_eq!(rig.store.keys(), [""; 0]);
    rig.must_be_written().await;

    let rig = make().rig();
    let file = filled(&rig).await;
    rig.rename("a", "b", Replace::Yes).await.unwrap();
    rig.close(file).await.unwrap();
    assert_eq!(
        (rig.store.keys(), holding(&rig, "b").unwrap() == content),
        (vec!["b".into()], true)
    );
    rig.must_be_written().await;

    let rig = make().rig();
    let file = filled(&rig).await;
    let name = "user.expirefs.ttl".as_ref();
    rig.fs.set_end(file.ino, name, Some(b"10s")).await.unwrap();
    rig.close(file).await.unwrap();
    assert!(holding(&rig, "a").unwrap() == content);
    assert_eq!(rig.store.expires("a"), expires(10));
    rig.must_be_written().await;
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize, usize),
    Truncate(usize),
    Read(usize, usize),
    Fsync,
    Reopen,
    Empty,
}

fn step() -> impl Strategy<Value = Step> {
    let at = || prop_oneof![0usize..4 * PART, (0usize..5).prop_map(|i| i * PART)];
    let length = || prop_oneof![1usize..5000, 1usize..2 * PART, Just(PART)];
    prop_oneof![
        8 => (at(), length()).prop_map(|(at, length)| Step::Write(at, length)),
        3 => at().prop_map(Step::Truncate),
        3 => (at(), length()).prop_map(|(at, length)| Step::Read(at, length)),
        2 => Just(Step::Fsync),
        1 => Just(Step::Reopen),
        1 => Just(Step::Empty),
    ]
}

async fn any_content(base: Option<usize>, memory: usize, spool: Option<u64>, steps: Vec<Step>) {
    let make = MakeWriting { memory, spool, ..MakeWriting::default() };
    let rig = make.rig();
    let mut model = base.map_or(Vec::new(), |size| pattern(0, size));
    let mut file: Write = match base {
        Some(_) => {
            rig.store.put("a", model.clone(), expires(1000));
            rig.edit("a", false).await.unwrap()
        }
        None => rig.create("a", false).await.unwrap(),
    };
    let mut last = base.map(|_| model.clone());
    let mut failed = None;
    for (i, step) in steps.into_iter().enumerate() {
        let done = match step {
            Step::Write(at, length) => {
                let bytes = pattern(i as u8 + 1, length);
                let wrote = rig.write(file, at as u64, &bytes).await;
                if wrote.is_ok() {
                    model.resize(model.len().max(at + length), 0);
                    model[at..at + length].copy_from_slice(&bytes);
                }
                wrote
            }
            Step::Truncate(size) => {
                let cut = rig.fs.truncate(file.ino, Some(file.fh), size as u64).await.map(drop);
                if cut.is_ok() {
                    model.resize(size, 0);
                }
                cut
            }
            Step::Read(at, length) => {
                let read = rig.fs.read(file.fh, at as u64, length as u32).await;
                if let Ok(read) = &read {
                    let end = model.len().min(at + length);
                    assert!(read[..] == model[at.min(end)..end], "{length} bytes at {at}");
                }
                // What cannot be read now is no failure of the file.
                match read {
                    Err(Error::NotInOrder | Error::NoSpace(_)) => Ok(()),
                    read => read.map(drop),
                }
            }
            Step::Fsync => rig.fs.fsync(file.fh).await.inspect(|()| last = Some(model.clone())),
            Step::Reopen | Step::Empty => {
                if let Err(error) = rig.close(file).await {
                    // The commit of a file that was cut off may need what was sent.
                    let may = matches!(error, Error::NoSpace(_) | Error::NotInOrder);
                    assert!(may && spool.is_none_or(|size| size < 1 << 20), "{error}");
                    assert!(holding(&rig, "a") == last, "W13");
                    return rig.must_be_written().await;
                }
                last = Some(model.clone());
                assert!(holding(&rig, "a") == last);
                assert!(rig.cat("a").await.unwrap() == model);
                let truncates = matches!(step, Step::Empty);
                if truncates {
                    model.clear();
                }
                file = rig.edit("a", truncates).await.unwrap();
                Ok(())
            }
        };
        if let Err(error) = done {
            let tight = spool.is_none_or(|size| size < 1 << 20);
            let may = matches!(error, Error::NoSpace(_) | Error::NotInOrder) && tight;
            assert!(may, "{error}");
            failed = Some(error);
            break;
        }
        assert_eq!(rig.fs.getattr(file.ino).unwrap().size, model.len() as u64);
    }
    let closed = rig.close(file).await;
    match failed {
        Some(error) => {
            assert_eq!(closed, Err(error), "W13");
            assert!(holding(&rig, "a") == last, "W13: a prefix is never published");
        }
        None => {
            // Nor is it while it is being committed.
            match closed {
                Ok(()) => assert!(holding(&rig, "a").unwrap() == model),
                Err(Error::NoSpace(_) | Error::NotInOrder)
                    if spool.is_none_or(|it| it < 1 << 20) =>
                {
                    assert!(holding(&rig, "a") == last);
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    rig.must_be_written().await;
}

proptest! {
    #![proptest_config(ProptestConfig {
        rng_algorithm: RngAlgorithm::XorShift,
        ..ProptestConfig::with_cases(300)
    })]

    #[test]
    fn any_writes_and_truncates_give_the_bytes_that_a_vector_has(
        base in select(vec![None, None, Some(0), Some(1000), Some(PART), Some(5 * PART / 2)]),
        memory in select(vec![16 * PART, 3 * PART, PART, PART / 8]),
        spool in select(vec![Some(1 << 30), Some(1 << 30), Some(3 * PART as u64), Some(5000), None]),
        steps in prop::collection::vec(step(), 1..25),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all().start_paused(true).build().unwrap();
        runtime.block_on(any_content(base, memory, spool, steps));
    }
}

// Conditions.

#[tokio::test(start_paused = true)]
async fn o_excl_fails_over_a_live_object_and_replaces_a_corpse() {
    for honours in [Honours::ALL, Honours::NONE] {
        for size in [3, 2 * PART] {
            let rig = MakeWriting { honours, ..MakeWriting::default() }.rig();
            let content = pattern(1, size);
            let commit = async |key: &str| {
                let file = rig.create(key, true).await.unwrap();
                rig.write(file, 0, &content).await.unwrap();
                if key != "new" {
                    rig.store.put(key, "of another", expires(if key == "live" { 9 } else { -9 }));
                }
                rig.close(file).await
            };
            assert_eq!(commit("live").await, Err(Error::Exists), "W6");
            assert_eq!(holding(&rig, "live").unwrap(), b"of another");
            assert_eq!(rig.cat("live").await.unwrap(), b"of another");
            for key in ["corpse", "new"] {
                commit(key).await.unwrap();
                assert!(holding(&rig, key).unwrap() == content);
                assert_eq!(rig.create(key, true).await.err(), Some(Error::Exists));
            }
            rig.must_be_written().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_edit_of_what_was_replaced_meanwhile_is_stale_and_loses_nothing() {
    for honours in [Honours::ALL, Honours::NONE] {
        for (size, deleted) in [(3, false), (3, true), (5 * PART / 2, false), (5 * PART / 2, true)]
        {
            let rig = MakeWriting { honours, ..MakeWriting::default() }.rig();
            rig.store.put("a", pattern(1, size), expires(100));
            let file = rig.edit("a", false).await.unwrap();
            rig.write(file, 0, b"x").await.unwrap();
            match deleted {
                true => rig.store.delete("a"),
                false => rig.store.put("a", pattern(2, size), expires(100)),
            }
            let failed = rig.close(file).await.unwrap_err();
            assert_eq!(failed.errno(), libc::ESTALE, "W5: {failed}");
            let there = (!deleted).then(|| pattern(2, size));
            assert!(holding(&rig, "a") == there);
            rig.must_be_written().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_edit_sends_what_has_changed_and_the_store_copies_the_rest() {
    let rig = rig();
    let mut content = pattern(1, 3 * PART + 10);
    rig.store.put("a", content.clone(), expires(100));
    let file = rig.edit("a", false).await.unwrap();
    content[5] = 200;
    rig.write(file, 5, &[200]).await.unwrap();
    rig.close(file).await.unwrap();
    assert!(holding(&rig, "a").unwrap() == content);
    // Parts of less than 5 MiB that are not the last one are sent.
    assert_eq!(rig.store.count_of(Change::CopyPart), 1, "W5");
    rig.must_be_written().await;
}

#[tokio::test(start_paused = true)]
async fn the_last_commit_wins() {
    let rig = rig();
    let (first, second) =
        (rig.create("a", false).await.unwrap(), rig.create("b", false).await.unwrap());
    rig.write(first, 0, b"first").await.unwrap();
    rig.store.put("a", "of another", expires(100));
    rig.close(first).await.unwrap();
    assert_eq!(holding(&rig, "a").unwrap(), b"first");
    rig.write(second, 0, b"one").await.unwrap();
    rig.fs.fsync(second.fh).await.unwrap();
    rig.store.put("b", "of another", expires(100));
    rig.write(second, 0, b"two").await.unwrap();
    rig.close(second).await.unwrap();
    assert_eq!(holding(&rig, "b").unwrap(), b"two");
}

// Lost answers.

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_settled() {
    for (change, size) in [(Change::Put, 5), (Change::Complete, 2 * PART)] {
        for fate in [unclear(true), unclear(false), Fate::Late { made: true }] {
            for mode in ["new", "any", "edit"] {
                let rig = rig();
                rig.store.put("edit", pattern(1, size), expires(100));
                rig.store.put("any", "old", expires(100));
                rig.clock.advance(1000 * SECOND / 20);
                let file = match mode {
                    "new" => rig.create("new", true).await.unwrap(),
                    mode => rig.edit(mode, mode == "any").await.unwrap(),
                };
                let content = pattern(2, size);
                rig.write(file, 0, &content).await.unwrap();
                rig.store.decide_one(change, 1, fate.clone());
                rig.close(file).await.unwrap_or_else(|e| panic!("W13: {change:?} of {mode}: {e}"));
                assert!(holding(&rig, mode).unwrap() == content, "{change:?} of {mode}");
                assert!(rig.cat(mode).await.unwrap() == content);
                rig.must_be_written().await;
            }
        }
    }
}

/// The old version has the size, the end and the time of the new one.
#[tokio::test(start_paused = true)]
async fn what_was_there_before_is_not_taken_for_a_commit_that_was_not_made() {
    for size in [5, 2 * PART] {
        let rig = MakeWriting { ttl: Ttl::Never, ..MakeWriting::default() }.rig();
        let change = if size > PART { Change::Complete } else { Change::Put };
        let file = rig.create("a", false).await.unwrap();
        rig.write(file, 0, &pattern(1, size)).await.unwrap();
        rig.fs.fsync(file.fh).await.unwrap();
        rig.write(file, 0, &pattern(2, size)).await.unwrap();
        rig.store.decide_one(change, 1, unclear(false));
        rig.close(file).await.unwrap();
        assert!(holding(&rig, "a").unwrap() == pattern(2, size), "W13");
        let file = rig.edit("a", false).await.unwrap();
        rig.write(file, 0, &pattern(3, size)).await.unwrap();
        rig.store.decide_one(change, 1, unclear(false));
        rig.close(file).await.unwrap();
        assert!(holding(&rig, "a").unwrap() == pattern(3, size), "W13");
        let file = rig.edit("a", true).await.unwrap();
        rig.write(file, 0, &pattern(4, size)).await.unwrap();
        rig.store.decide_one(change, 1, unclear(false));
        rig.close(file).await.unwrap();
        assert!(holding(&rig, "a").unwrap() == pattern(4, size), "W13");
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_whose_id_was_lost_is_aborted() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(dir.path(), "bucket").unwrap();
    let rig = MakeWriting { journal: Some(journal), ..MakeWriting::default() }.rig();
    // Of another writer, which has sent a part, and of another key.
    let none = NewHeaders::default();
    let other = rig.store.create_upload("a", &none).await.unwrap().upload;
    let longer = rig.store.create_upload("ab", &none).await.unwrap().upload;
    rig.store.upload_part(&other, 1, "x".into()).await.unwrap();
    rig.store.decide_one(Change::Create, 1, unclear(true));
    let file = rig.create("a", false).await.unwrap();
    rig.write(file, 0, &pattern(1, 2 * PART)).await.unwrap();
    assert!(matches!(rig.close(file).await, Err(Error::Unclear(_))));
    rig.writer().until_aborted().await;
    let left: Vec<String> = rig.store.upload_ids().into_iter().map(|(id, _)| id).collect();
    assert_eq!(left, [&*other.id, &*longer.id]);
    let journal = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    assert_eq!(std::fs::read_to_string(journal).unwrap().lines().count(), 1, "only its header");
    rig.store.lose_uploads();
    rig.must_be_written().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_upload_is_sent_again() {
    for edits in [false, true] {
        let rig = rig();
        rig.store.put("a", pattern(9, 3 * PART), expires(100));
        let file = rig.edit("a", !edits).await.unwrap();
        let content = pattern(1, 3 * PART);
        rig.write(file, 0, &content).await.unwrap();
        eventually(|| rig.store.count_of(Change::Part) > 1).await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        rig.store.lose_uploads();
        rig.close(file).await.unwrap();
        assert!(holding(&rig, "a").unwrap() == content);
        rig.must_be_written().await;
    }
}

/// The target has the size and the end of the source. What was not made is done again.
#[tokio::test(start_paused = true)]
async fn a_rename_whose_copy_has_no_answer_loses_neither_file() {
    for honours in [Honours::ALL, NO_RENAME, Honours::NONE] {
        for made in [true, false] {
            for replace in [Replace::Yes, Replace::No] {
                let make = MakeWriting { honours, ttl: Ttl::Never, ..MakeWriting::default() };
                let rig = make.rig();
                rig.make("a", b"new").await.unwrap();
                if replace == Replace::Yes {
                    rig.make("b", b"old").await.unwrap();
                }
                let change = if honours.rename { Change::Rename } else { Change::Copy };
                rig.store.decide_one(change, 1, unclear(made));
                rig.rename("a", "b", replace).await.unwrap();
                assert_eq!(rig.store.keys(), ["b"]);
                assert_eq!(rig.cat("b").await.unwrap(), b"new");
                rig.must_be_written().await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_conflict_at_complete_has_all_sent_again() {
    let rig = rig();
    let file = rig.create("a", false).await.unwrap();
    rig.write(file, 0, &pattern(1, 3 * PART)).await.unwrap();
    rig.store.decide_one(Change::Complete, 1, Fate::Fails(Error::Conflict("409".into())));
    rig.close(file).await.unwrap();
    assert!(holding(&rig, "a").unwrap() == pattern(1, 3 * PART), "W13");
    rig.must_be_written().await;
}

#[tokio::test(start_paused = true)]
async fn the_first_failure_sticks_and_no_prefix_is_published() {
    for change in [Change::Create, Change::Part, Change::Complete] {
        let rig = rig();
        rig.store.put("a", "old", expires(100));
        let file = rig.edit("a", true).await.unwrap();
        rig.store.decide(move |asked, _| match asked == change {
            true => Fate::Fails(Error::Store("500".into())),
            false => Fate::Well,
        });
        let mut told = None;
        for i in 0..4 {
            let wrote = rig.write(file, i * PART as u64, &pattern(1, PART)).await;
            told = told.or(wrote.err());
        }
        let synced = rig.fs.fsync(file.fh).await.unwrap_err();
        assert_eq!(told.get_or_insert(synced.clone()), &synced, "W13");
        rig.store.make_all();
        assert_eq!(rig.write(file, 0, b"x").await, Err(synced.clone()));
        assert_eq!(rig.fs.fsync(file.fh).await, Err(synced.clone()));
        assert_eq!(rig.close(file).await, Err(synced));
        assert_eq!(rig.cat("a").await.unwrap(), b"old");
        rig.must_be_written().await;
    }
}

// Names.

#[tokio::test(start_paused = true)]
async fn an_unlinked_file_is_not_committed_and_lives_as_long_as_its_handles() {
    let rig = rig();
    rig.store.put("old", "old", expires(100));
    for (name, size) in [("a", 10), ("b", 3 * PART), ("old", 3 * PART)] {
        let file = match name {
            "old" => rig.edit(name, true).await.unwrap(),
            _ => rig.create(name, false).await.unwrap(),
        };
        rig.write(file, 0, &pattern(1, size)).await.unwrap();
        rig.unlink(name).await.unwrap();
        assert_eq!(rig.look(name).await.unwrap(), None);
        rig.write(file, 0, b"y").await.unwrap();
        assert_eq!(rig.read(file).await.unwrap()[1..], pattern(1, size)[1..]);
        rig.fs.fsync(file.fh).await.unwrap();
        rig.close(file).await.unwrap();
        assert_eq!(holding(&rig, name), None, "W8");
    }
    assert_eq!(rig.unlink("a").await, Err(Error::NotFound));
    rig.must_be_written().await;
}

#[tokio::test(start_paused = true)]
async fn an_edit_of_a_small_file_goes_on_when_that_is_unlinked_or_replaced() {
    for replaces in [false, true] {
        let rig = rig();
        rig.make("a", b"abc").await.unwrap();
        rig.make("b", b"other").await.unwrap();
        let file = rig.edit("a", false).await.unwrap();
        match replaces {
            true => rig.rename("b", "a", Replace::Yes).await.unwrap(),
            false => rig.unlink("a").await.unwrap(),
        }
        rig.write(file, 1, b"x").await.unwrap();
        assert_eq!(rig.read(file).await.unwrap(), b"axc", "W8");
        rig.close(file).await.unwrap();
        assert_eq!(holding(&rig, "a"), replaces.then(|| b"other".to_vec()));
        rig.must_be_written().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_edit_of_one_part_that_grew_goes_on_when_that_is_unlinked_or_replaced() {
    for replaces in [false, true] {
        let rig = rig();
        rig.make("a", &pattern(1, PART)).await.unwrap();
        rig.make("b", b"other").await.unwrap();
        let file = rig.edit("a", false).await.unwrap();
        rig.write(file, PART as u64, b"more").await.unwrap();
        match replaces {
            true => rig.rename("b", "a", Replace::Yes).await.unwrap(),
            false => rig.unlink("a").await.unwrap(),
        }
        let whole = [&pattern(1, PART)[..], b"more"].concat();
        assert_eq!(rig.read(file).await.unwrap(), whole, "W8");
        rig.close(file).await.unwrap();
        rig.must_be_written().await;
    }
}

#[tokio::test(start_paused = true)]
async fn unlink_of_an_expired_name_asks_nothing() {
    let rig = rig();
    rig.store.put("a", "corpse", expires(-5));
    assert_eq!(rig.look("a").await.unwrap(), None);
    assert_eq!(rig.unlink("a").await, Err(Error::NotFound));
    assert_eq!(rig.store.changes(), [], "W8");
    assert!(holding(&rig, "a").is_some());
}

/// The orders in which a commit, an unlink and a rename may get at one file: the operations are
/// queued behind a request that is held.
#[tokio::test(start_paused = true)]
async fn a_commit_that_is_queued_between_leaves_nothing_behind() {
    for renames in [false, true] {
        for written_before in [false, true] {
            let rig = rig();
            let file = rig.create("a", false).await.unwrap();
            if written_before {
                rig.write(file, 0, b"before").await.unwrap();
                rig.fs.fsync(file.fh).await.unwrap();
            }
            rig.write(file, 0, &pattern(1, 2 * PART)).await.unwrap();
            let gate = Arc::new(Semaphore::new(0));
            rig.store.decide_one(Change::Complete, 1, Fate::Waits(gate.clone()));
            let syncing = rig.fs.fsync(file.fh);
            let change = async {
                eventually(|| rig.store.count_of(Change::Complete) > 0).await;
                match renames {
                    true => rig.rename("a", "b", Replace::Yes).await,
                    false => rig.unlink("a").await,
                }
            };
            let writing = async {
                eventually(|| rig.store.count_of(Change::Complete) > 0).await;
                rig.write(file, 0, b"later").await.unwrap();
                rig.fs.flush(file.fh, this_process()).await
            };
            let opening = async {
                for _ in 0..50 {
                    tokio::task::yield_now().await;
                }
                gate.add_permits(1);
            };
            let (synced, changed, flushed, ()) = tokio::join!(syncing, change, writing, opening);
            synced.unwrap();
            changed.unwrap();
            flushed.unwrap();
            rig.close(file).await.unwrap();
            let mut content = pattern(1, 2 * PART);
            content[..5].copy_from_slice(b"later");
            match renames {
                true => {
                    assert_eq!(rig.store.keys(), ["b"], "W7");
                    assert!(holding(&rig, "b").unwrap() == content);
                    assert!(rig.cat("b").await.unwrap() == content);
                }
                false => assert_eq!(rig.store.keys(), [""; 0], "W8"),
            }
            assert_eq!(rig.look("a").await.unwrap(), None, "W15");
            rig.must_be_written().await;
        }
    }
}

/// The same where parts are being sent, and nothing was committed before.
#[tokio::test(start_paused = true)]
async fn a_first_commit_that_is_queued_between_leaves_nothing_behind() {
    for renames in [false, true] {
        let rig = rig();
        let file = rig.create("a", false).await.unwrap();
        rig.fs.write(file.fh, 0, pattern(1, 2 * PART).into()).await.unwrap();
        let gate = Arc::new(Semaphore::new(0));
        rig.store.decide_one(Change::Create, 1, Fate::Waits(gate.clone()));
        let sending = rig.fs.send_parts(file.fh, 2 * PART as u64);
        let change = async {
            eventually(|| rig.store.count_of(Change::Create) > 0).await;
            match renames {
                true => rig.rename("a", "b", Replace::Yes).await,
                false => rig.unlink("a").await,
            }
        };
        let syncing = async {
            eventually(|| rig.store.count_of(Change::Create) > 0).await;
            rig.fs.fsync(file.fh).await
        };
        let opening = async {
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
            gate.add_permits(1);
        };
        let ((), changed, synced, ()) = tokio::join!(sending, change, syncing, opening);
        changed.unwrap();
        synced.unwrap();
        rig.close(file).await.unwrap();
        let left = if renames { vec!["b"] } else { vec![] };
        assert_eq!(rig.store.keys(), left, "W7, W8");
        assert_eq!(rig.look("a").await.unwrap(), None, "W15");
        rig.must_be_written().await;
    }
}

#[tokio::test(start_paused = true)]
async fn rename_commits_under_the_new_name_while_the_file_is_open() {
    for (size, honours) in [(10, Honours::ALL), (3 * PART, NO_RENAME), (3 * PART, Honours::NONE)] {
        let rig = MakeWriting { honours, ..MakeWriting::default() }.rig();
        rig.store.put("b", "old", expires(100));
        let file = rig.create("a.tmp", false).await.unwrap();
        rig.write(file, 0, &pattern(1, size)).await.unwrap();
        rig.rename("a.tmp", "b", Replace::Yes).await.unwrap();
        assert_eq!(rig.store.keys(), ["b"], "W3");
        assert!(rig.cat("b").await.unwrap() == pattern(1, size), "W15");
        assert_eq!(rig.look("a.tmp").await.unwrap(), None);
        rig.write(file, 0, b"more").await.unwrap();
        rig.close(file).await.unwrap();
        assert_eq!(&holding(&rig, "b").unwrap()[..4], b"more");
        assert_eq!(rig.store.keys(), ["b"]);
        rig.must_be_written().await;
    }
}

#[tokio::test(start_paused = true)]
async fn rename_takes_what_lies_under_the_old_name_away() {
    for honours in [Honours::ALL, NO_RENAME, Honours::NONE] {
        for (synced, then_written) in [(true, false), (true, true), (false, true)] {
            let rig = MakeWriting { honours, ..MakeWriting::default() }.rig();
            rig.store.put("a", "old", expires(100));
            let file = rig.edit("a", false).await.unwrap();
            if synced {
                rig.write(file, 3, b"+1").await.unwrap();
                rig.fs.fsync(file.fh).await.unwrap();
            }
            if then_written {
                rig.write(file, 0, b"O").await.unwrap();
            }
            let content = rig.read(file).await.unwrap();
            rig.rename("a", "b", Replace::No).await.unwrap();
            assert_eq!(rig.store.keys(), ["b"], "W7");
            rig.close(file).await.unwrap();
            assert_eq!(
                (rig.store.keys(), holding(&rig, "b").unwrap()),
                (vec!["b".into()], content)
            );
            rig.must_be_written().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn noreplace_fails_over_a_live_object_and_replaces_a_corpse() {
    for honours in [Honours::ALL, NO_RENAME, Honours::NONE] {
        for pending in [false, true] {
            let rig = MakeWriting { honours, ..MakeWriting::default() }.rig();
            rig.store.put("corpse", "corpse", expires(-5));
            rig.store.put("live", "live", expires(100));
            for target in ["live", "corpse"] {
                rig.make("a", b"new").await.unwrap();
                let file = match pending {
                    true => Some(rig.edit("a", false).await.unwrap()),
                    false => None,
                };
                if let Some(file) = file {
                    rig.write(file, 0, b"N").await.unwrap();
                }
                let renamed = rig.rename("a", target, Replace::No).await;
                if let Some(file) = file {
                    rig.close(file).await.unwrap();
                }
                let new: &[u8] = if pending { b"New" } else { b"new" };
                match target {
                    "live" => {
                        assert_eq!(renamed, Err(Error::Exists), "W6");
                        assert_eq!(holding(&rig, "live").unwrap(), b"live");
                        assert_eq!(holding(&rig, "a").unwrap(), new);
                    }
                    _ => {
                        renamed.unwrap();
                        assert_eq!(holding(&rig, "corpse").unwrap(), new);
                        assert_eq!(rig.cat("corpse").await.unwrap(), new);
                        assert_eq!(holding(&rig, "a"), None);
                    }
                }
            }
            rig.must_be_written().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_was_replaced_during_its_rename_stays_and_is_seen() {
    let rig = rig();
    rig.make("a", b"mine").await.unwrap();
    let store = rig.store.clone();
    rig.store.decide(move |change, _| {
        if change == Change::Delete {
            store.put("a", "of another", expires(100));
        }
        Fate::Well
    });
    rig.rename("a", "b", Replace::Yes).await.unwrap();
    assert_eq!(rig.cat("b").await.unwrap(), b"mine");
    assert_eq!(rig.cat("a").await.unwrap(), b"of another");
    rig.store.make_all();
}

#[tokio::test(start_paused = true)]
async fn what_is_written_while_an_unchanged_file_is_renamed_is_committed_under_its_new_name() {
    let rig = rig();
    rig.store.put("a", "old", expires(100));
    let file = rig.edit("a", false).await.unwrap();
    let gate = Arc::new(Semaphore::new(0));
    rig.store.decide_one(Change::Copy, 1, Fate::Waits(gate.clone()));
    let renaming = rig.rename("a", "b", Replace::Yes);
    let writing = async {
        eventually(|| rig.store.count_of(Change::Copy) == 1).await;
        rig.write(file, 0, b"new").await.unwrap();
        rig.fs.fsync(file.fh).await
    };
    let opening = async {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        gate.add_permits(1);
    };
    let (renamed, synced, ()) = tokio::join!(renaming, writing, opening);
    renamed.unwrap();
    synced.unwrap();
    assert_eq!((holding(&rig, "a"), holding(&rig, "b").unwrap()), (None, b"new".to_vec()));
    rig.close(file).await.unwrap();
    rig.must_be_written().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_pending_under_a_name_that_another_gets_is_never_committed_there() {
    let rig = rig();
    rig.store.put("a", "old", expires(100));
    let below = rig.create("b", false).await.unwrap();
    rig.write(below, 0, b"below").await.unwrap();
    let file = rig.edit("a", true).await.unwrap();
    rig.write(file, 0, b"above").await.unwrap();
    // It is closed while the other gets its name.
    let gate = Arc::new(Semaphore::new(0));
    rig.store.decide_one(Change::Delete, 1, Fate::Waits(gate.clone()));
    let renaming = rig.rename("a", "b", Replace::Yes);
    let closing = async {
        let is_there = Changed::Stored("b".to_owned(), "above".into());
        eventually(|| rig.store.log().contains(&is_there)).await;
        rig.close(below).await
    };
    let opening = async {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        gate.add_permits(1);
    };
    let (renamed, closed, ()) = tokio::join!(renaming, closing, opening);
    renamed.unwrap();
    closed.unwrap();
    rig.close(file).await.unwrap();
    assert_eq!(holding(&rig, "b").unwrap(), b"above");
    rig.must_be_written().await;
}

/// close(2) returns at the FLUSH; the RELEASE may come while a rename is under way, as after git's
/// lock files.
#[tokio::test(start_paused = true)]
async fn a_file_released_during_its_rename_is_read_under_its_new_name() {
    let rig = rig();
    let file = rig.create("a", true).await.unwrap();
    rig.write(file, 0, b"content").await.unwrap();
    rig.fs.flush(file.fh, this_process()).await.unwrap();
    let gate = Arc::new(Semaphore::new(0));
    rig.store.decide_one(Change::Delete, 1, Fate::Waits(gate.clone()));
    let renaming = rig.rename("a", "b", Replace::Yes);
    let releasing = async {
        eventually(|| holding(&rig, "b").is_some()).await;
        rig.fs.release(file.fh).await.unwrap();
        gate.add_permits(1);
    };
    let (renamed, ()) = tokio::join!(renaming, releasing);
    renamed.unwrap();
    assert_eq!((holding(&rig, "a"), holding(&rig, "b").unwrap()), (None, b"content".to_vec()));
    // The inode that the kernel has moved to the new name.
    let open = rig.open_ino(file.ino).await.unwrap();
    assert_eq!(open.read_all().await.unwrap(), b"content");
    drop(open);
    assert_eq!(rig.ino("b").await, file.ino);
    rig.must_be_written().await;
}

#[tokio::test(start_paused = true)]
async fn a_staged_file_is_put_once_under_the_name_it_gets() {
    let rig = MakeWriting { stage: vec!["*.tmp"], ..MakeWriting::default() }.rig();
    let file = rig.create("a.tmp", false).await.unwrap();
    rig.write(file, 0, b"x").await.unwrap();
    let renaming = async {
        tokio::time::sleep(SECOND).await;
        rig.rename("a.tmp", "a", Replace::Yes).await
    };
    let (closed, renamed) = tokio::join!(rig.close(file), renaming);
    closed.unwrap();
    renamed.unwrap();
    assert_eq!(rig.store.changes(), [(Change::Put, "a".to_owned())], "W16");
    let file = rig.create("b.tmp", false).await.unwrap();
    rig.write(file, 0, b"x").await.unwrap();
    rig.close(file).await.unwrap();
    assert_eq!(rig.store.changes(), [(Change::Put, "b.tmp".to_owned())], "W16");
    rig.must_be_written().await;
}

/// At an unmount, its close and the unmount itself commit it.
#[tokio::test(start_paused = true)]
async fn a_staged_file_that_two_commits_lose_counts_once() {
    let rig = MakeWriting { stage: vec!["*.tmp"], ..MakeWriting::default() }.rig();
    let file = rig.create("a.tmp", false).await.unwrap();
    rig.write(file, 0, b"x").await.unwrap();
    rig.store.decide(|_, _| Fate::Late { made: false });
    let unmounting = async {
        tokio::time::sleep(SECOND).await;
        rig.fs.shut_down(SECOND).await;
        rig.fs.commit_closed().await;
    };
    let (closed, ()) = tokio::join!(rig.close(file), unmounting);
    closed.unwrap();
    let commits = &rig.writer().commits;
    assert_eq!((commits.failed.get(), commits.untold.get()), (1, 1));
}

// Directories.

#[tokio::test(start_paused = true)]
async fn rmdir_takes_corpses_along_and_nothing_that_is_live() {
    let rig = rig();
    let here = ROOT;
    let attr = rig.fs.mkdir(here, "d".as_ref()).await.unwrap();
    rig.tell(attr.ino);
    assert_eq!(rig.fs.mkdir(here, "d".as_ref()).await.err(), Some(Error::Exists));
    rig.store.put("d/corpse", "x", expires(5));
    rig.store.put("d/live", "x", expires(100));
    rig.clock.advance(10 * SECOND);
    let refused = rig.fs.rmdir(here, "d".as_ref()).await;
    assert!(matches!(refused, Err(Error::NotEmpty(_))), "W9: {refused:?}");
    assert_eq!(rig.store.keys(), ["d/", "d/corpse", "d/live"]);
    rig.unlink("d/live").await.unwrap();
    let file = rig.create("d/pending", false).await.unwrap();
    let refused = rig.fs.rmdir(here, "d".as_ref()).await;
    assert!(matches!(refused, Err(Error::NotEmpty(_))), "W9: {refused:?}");
    rig.unlink("d/pending").await.unwrap();
    rig.close(file).await.unwrap();
    rig.fs.rmdir(here, "d".as_ref()).await.unwrap();
    assert_eq!(rig.store.keys(), [""; 0]);
    assert_eq!(rig.look("d").await.unwrap(), None);
    rig.must_be_written().await;
}

// Ends.

#[tokio::test(start_paused = true)]
async fn the_end_is_that_of_the_attribute_or_the_first_rule_or_the_option() {
    let ttl_rules = vec![
        ("*.log", Ttl::For(10 * SECOND)),
        ("keep/**", Ttl::Never),
        ("**/*.log", Ttl::For(99 * SECOND)),
    ];
    let ttl = Ttl::For(Duration::from_millis(1500));
    let rig = MakeWriting { ttl, ttl_rules, honours: NO_RENAME, ..MakeWriting::default() }.rig();
    rig.clock.advance(Duration::from_millis(100));
    rig.make("a.txt", b"x").await.unwrap();
    assert_eq!(rig.store.expires("a.txt"), expires(2), "W1: rounded up");
    assert_eq!(rig.store.content_type("a.txt").as_deref(), Some("text/plain"));
    rig.make("a.log", b"x").await.unwrap();
    assert_eq!(rig.store.expires("a.log"), expires(11));
    let file = rig.create("b.log", false).await.unwrap();
    rig.write(file, 0, b"x").await.unwrap();
    let ttl_of = |text: &'static str| ("user.expirefs.ttl", text);
    let set = async |ino: u64, (name, value): (&str, &str)| {
        rig.fs.set_end(ino, name.as_ref(), Some(value.as_bytes())).await
    };
    set(file.ino, ttl_of("50s")).await.unwrap();
    rig.close(file).await.unwrap();
    assert_eq!(rig.store.expires("b.log"), expires(51));
    // A live file is stamped anew, under its version.
    let ino = rig.ino("a.log").await;
    set(ino, ttl_of("1h")).await.unwrap();
    assert_eq!(rig.store.expires("a.log"), expires(3601), "W10");
    assert_eq!(rig.store.content_type("a.log").as_deref(), Some("text/plain"));
    let at = format_http_date(start() + 77 * SECOND);
    set(ino, ("user.expirefs.expires", &at)).await.unwrap();
    assert_eq!(rig.store.expires("a.log"), expires(77));
    rig.store.put("a.log", "of another", expires(100));
    assert_eq!(set(ino, ttl_of("1h")).await, Err(Error::Stale));
    assert_eq!(rig.store.expires("a.log"), expires(100));
    // The end goes with a rename, unless another rule holds for the new name.
    rig.rename("a.log", "c.log", Replace::Yes).await.unwrap();
    assert_eq!(rig.store.expires("c.log"), expires(100), "W7");
    rig.rename("c.log", "c.txt", Replace::Yes).await.unwrap();
    assert_eq!(rig.store.expires("c.txt"), expires(2));
    rig.must_be_written().await;
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_took_more_than_half_of_its_ttl_is_stamped_again() {
    let ttl = Ttl::For(100 * SECOND);
    let rig = MakeWriting { ttl, ..MakeWriting::default() }.rig();
    let file = rig.create("a", false).await.unwrap();
    rig.write(file, 0, &pattern(1, 2 * PART)).await.unwrap();
    rig.clock.advance(60 * SECOND);
    rig.write(file, 2 * PART as u64, b"x").await.unwrap();
    rig.close(file).await.unwrap();
    assert_eq!(rig.store.expires("a"), expires(160), "W1");
    assert_eq!(rig.store.count_of(Change::Copy), 1);
    assert_eq!(rig.cat("a").await.unwrap().len(), 2 * PART + 1);
    rig.must_be_written().await;
}

#[tokio::test(start_paused = true)]
async fn touch_renews_an_end_of_which_less_than_half_is_left() {
    let ttl = Ttl::For(100 * SECOND);
    let rig = MakeWriting { ttl, touch: Touch::Renew, ..MakeWriting::default() }.rig();
    rig.make("a", b"x").await.unwrap();
    let now = NewAttr { times: true, now: true, ..NewAttr::default() };
    for (advance, end) in [(40, 100), (20, 160), (10, 160)] {
        rig.clock.advance(advance * SECOND);
        let ino = rig.ino("a").await;
        rig.fs.set_attributes(ino, now).await.unwrap();
        assert_eq!(rig.store.expires("a"), expires(end), "W10");
    }
    rig.must_be_written().await;
}

/// The kernel keeps a name for as long as it was told, and what a program has open is answered for.
#[tokio::test(start_paused = true)]
async fn the_kernel_drops_the_name_of_a_file_that_is_made_to_expire_earlier() {
    let ttl_rules = vec![("*.log", Ttl::For(10 * SECOND))];
    let writing = Some(MakeWriting { ttl_rules, ..MakeWriting::default() });
    let mut make = Make { writing, ..Make::default() };
    make.settings.trust = Trust::UntilExpiry;
    let rig = make.rig();
    let set = async |ino: u64, ttl: &str| {
        let name = "user.expirefs.ttl".as_ref();
        rig.fs.set_end(ino, name, Some(ttl.as_bytes())).await.unwrap();
    };
    let dropped = || rig.fs.idle_now().map(|idle| (idle.parent, idle.name));
    rig.make("a", b"x").await.unwrap();
    rig.store.put("d/", "", None);
    let (ino, directory) = (rig.ino("a").await, rig.ino("d").await);
    set(ino, "2h").await;
    assert_eq!(dropped(), None, "it lives longer");
    set(ino, "10m").await;
    assert_eq!(dropped(), Some((ROOT, "a".to_owned())), "E7");
    rig.rename("a", "d/a.log", Replace::Yes).await.unwrap();
    assert_eq!(dropped(), Some((directory, "a.log".to_owned())), "E7");
    rig.must_be_written().await;
}
