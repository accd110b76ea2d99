//! `expirefs put`: a file or standard input becomes an object with an expiry.

use std::path::Path;
use std::process::ExitCode;

use tokio::fs::File;
use tokio::io::{AsyncRead, stdin};

use super::object::{At, Done, Making, Progress};
use super::{Failed, on_runtime, signals::Signals};
use crate::config::args::PutArgs;
use crate::config::{PART, Query, SPOOL};
use crate::expiry::Ttl;
use crate::output::Reader;
use crate::pending::journal::Journal;
use crate::pending::{End, MOST_PARTS, Wanted};
use crate::transfer::put;

pub fn run(args: PutArgs) -> Result<ExitCode, Failed> {
    let PutArgs { file, url, ttl, expires, if_absent, output, objects, object } = args;
    let name = file.to_str().filter(|name| *name != "-").map(Path::new);
    let name = name.and_then(Path::file_name).and_then(|name| name.to_str());
    let url = match (url.ends_with('/'), name) {
        (true, Some(name)) => url + name,
        _ => url,
    };
    let query = Query::of_object(&url, object).map_err(Failed::Usage)?;
    let new_objects = objects.copied.new_objects().map_err(Failed::Usage)?;
    let wanted = if if_absent { Wanted::New } else { Wanted::Any };
    let done = on_runtime(1, async {
        let (source, size): (Box<dyn AsyncRead + Unpin + Send>, _) = match file.to_str() {
            Some("-") => (Box::new(stdin()), None),
            _ => {
                let says = |e| format!("{}: {e}", file.display());
                let source = File::open(&file).await.map_err(says)?;
                let about = source.metadata().await.map_err(says)?;
                if about.is_dir() {
                    return Err(format!("{}: is a directory", file.display()));
                }
                (Box::new(source), Some(about.len()).filter(|_| about.is_file()))
            }
        };
        let at = At::new(&query).await?;
        // As by a mount.
        let journal = Journal::open(Path::new(SPOOL), &at.identity);
        let (journal, left) =
            journal.map_err(|e| format!("no list of uploads can be made in {SPOOL}: {e}"))?;
        // Larger parts where more than the maximum would be needed.
        let part =
            size.unwrap_or(0).div_ceil(MOST_PARTS).next_multiple_of(1 << 20).max(PART.as_u64());
        let writer = at.writer(Making {
            ttl: ttl.unwrap_or(Ttl::Never),
            content_type_by_name: !objects.no_content_type_by_name,
            storage_class: objects.storage_class,
            new_objects,
            part,
            journal: Some(journal),
        });
        writer.take_over(left);
        let mut signals = Signals::new()?;
        let progress = Progress::new(output.quiet);
        if let Some(size) = size {
            progress.of(size);
        }
        let end = expires.map(End::At);
        let put = put(&writer, &query.key, wanted, end, source, |bytes| progress.at(bytes));
        let stored = tokio::select! {
            stored = put => stored.map_err(|e| format!("{url}: {e}")),
            () = signals.next() => Err(format!("{url}: not stored: a signal came first")),
        };
        progress.end();
        writer.end().await;
        let _: Reader = output.show(&Done::of(&url, "stored", &stored?, &writer.bucket))?;
        Ok(ExitCode::SUCCESS)
    });
    Ok(done?)
}
