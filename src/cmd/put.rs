//! `expirefs put`: a file or standard input becomes an object with an expiry.

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use tokio::fs::File;
use tokio::io::{AsyncRead, stdin};
use tracing::warn;

use super::object::{At, Done, Making};
use super::progress::Progress;
use super::{Failed, on_runtime, signals::Signals};
use crate::config::args::PutArgs;
use crate::config::{PART, Query, SPOOL};
use crate::expiry::Ttl;
use crate::output::Reader;
use crate::pending::journal::Journal;
use crate::pending::{End, MOST_PARTS, Wanted};
use crate::transfer::{Failure, put};

pub fn run(args: PutArgs) -> Result<ExitCode, Failed> {
    let PutArgs { file, url, ttl, expires, if_absent, output, objects, object } = args;
    let name = file.to_str().filter(|name| *name != "-").map(Path::new);
    let name = name.and_then(Path::file_name).and_then(|name| name.to_str());
    let url = match (url.ends_with('/'), name) {
        (true, Some(name)) => url + name,
        _ => url,
    };
    let query = Query::of_object(&url, object).map_err(Failed::Usage)?;
    let says = |error: io::Error| format!("{}: {error}", file.display());
    let new_objects = objects.copied.new_objects().map_err(Failed::Usage)?;
    let wanted = if if_absent { Wanted::New } else { Wanted::Any };
    let done = on_runtime(1, async {
        let (source, regular): (Box<dyn AsyncRead + Unpin + Send>, _) = match file.to_str() {
            Some("-") => (Box::new(stdin()), None),
            _ => {
                let source = File::open(&file).await.map_err(says)?;
                let about = source.metadata().await.map_err(says)?;
                if about.is_dir() {
                    return Err(format!("{}: is a directory", file.display()));
                }
                let twin = source.try_clone().await.map_err(says)?.into_std().await;
                let regular = Regular { file: twin, size: about.len() };
                (Box::new(source), Some(regular).filter(|_| about.is_file()))
            }
        };
        let size = regular.as_ref().map(|regular| regular.size);
        let at = At::new(&query).await?;
        // As by a mount.
        let journal = Journal::open(Path::new(SPOOL), &at.identity);
        // A host may have no place for it.
        let no_list = |error: &io::Error| {
            warn!(
                "no list of uploads can be made in {SPOOL}, so that one that is left by a crash stays: {error}"
            );
        };
        let (journal, left) = journal.inspect_err(no_list).ok().unzip();
        // Larger parts where more than the maximum would be needed.
        let part =
            size.unwrap_or(0).div_ceil(MOST_PARTS).next_multiple_of(1 << 20).max(PART.as_u64());
        let writer = at.writer(Making {
            ttl: ttl.unwrap_or(Ttl::Never),
            content_type_by_name: !objects.no_content_type_by_name,
            storage_class: objects.storage_class,
            new_objects,
            part,
            journal,
        });
        writer.take_over(left.unwrap_or_default());
        let mut signals = Signals::new()?;
        let progress = Progress::of_bytes(output.quiet);
        if let Some(size) = size {
            progress.ends_at(size);
        }
        let end = expires.map(End::At);
        let moved = |bytes| progress.at(bytes);
        let committing = Cell::new(false);
        let is_whole = |read| {
            committing.set(true);
            regular.as_ref().map_or(Ok(()), |regular| regular.is_whole(read))
        };
        let put = put(&writer, &query.key, wanted, end, source, moved, is_whole);
        let stored = tokio::select! {
            stored = put => stored.map_err(|failure| match failure {
                Failure::Stream(error) => says(error),
                Failure::Store(error) => format!("{url}: {error}"),
            }),
            () = signals.next() => Err(match committing.get() {
                // The store may have the last request.
                true => format!("{url}: perhaps not stored: a signal came first"),
                false => format!("{url}: not stored: a signal came first"),
            }),
        };
        progress.end();
        // Who interrupts twice does not wait: the list has what is left.
        tokio::select! {
            () = writer.end() => {}
            () = signals.next() => {}
        }
        let _: Reader = output.show(&Done::of(&url, "stored", &stored?, &writer.bucket))?;
        Ok(ExitCode::SUCCESS)
    });
    Ok(done?)
}

/// A regular file, as it was when it was opened.
struct Regular {
    file: std::fs::File,
    size: u64,
}

impl Regular {
    /// Fails if what was read lacks an end that the file had. Files of /proc and /sys have other
    /// sizes than contents, and keep them.
    fn is_whole(&self, read: u64) -> io::Result<()> {
        match read < self.size && self.file.metadata()?.len() < self.size {
            true => Err(io::Error::other("was truncated while it was read")),
            false => Ok(()),
        }
    }
}
