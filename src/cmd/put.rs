//! `expirefs put`: a file or standard input becomes an object with an expiry.

use std::path::Path;
use std::process::ExitCode;

use tokio::fs::File;
use tokio::io::{AsyncRead, stdin};

use super::object::{At, Done, Form, Making, Progress};
use super::{on_runtime, signals::Signals};
use crate::config::Query;
use crate::config::args::PutArgs;
use crate::expiry::{self, Ttl, rfc3339};
use crate::output::Reader;
use crate::pending::journal::{Entry, Journal};
use crate::pending::{End, Wanted};
use crate::transfer::put;

/// Where uploads in progress are recorded, as by a mount: its default.
const JOURNAL: &str = "/var/tmp";

/// The maximum number of parts of an upload (Amazon S3 user guide, "multipart upload limits").
const MOST_PARTS: u64 = 10_000;

const PART: u64 = 8 << 20;

pub fn run(args: PutArgs) -> Result<ExitCode, String> {
    let PutArgs { file, url, ttl, expires, if_absent, json, output, objects, object } = args;
    let name = file.to_str().filter(|name| *name != "-").map(Path::new);
    let name = name.and_then(Path::file_name).and_then(|name| name.to_str());
    let url = match (url.ends_with('/'), name) {
        (true, Some(name)) => url + name,
        _ => url,
    };
    let query = Query::of_object(&url, object)?;
    let form = Form { json, quiet: output.quiet };
    let new_objects = objects.new_objects()?;
    let wanted = if if_absent { Wanted::New } else { Wanted::Any };
    on_runtime(1, async {
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
        let journal = Journal::open(Path::new(JOURNAL), &at.identity);
        let (journal, left) =
            journal.map_err(|e| format!("no list of uploads can be made in {JOURNAL}: {e}"))?;
        // Larger parts where more than the maximum would be needed.
        let part = size.unwrap_or(0).div_ceil(MOST_PARTS).next_multiple_of(1 << 20).max(PART);
        let writer = at.writer(Making {
            ttl: ttl.unwrap_or(Ttl::Never),
            content_type_by_name: !objects.no_content_type_by_name,
            storage_class: objects.storage_class,
            new_objects,
            part,
            journal: Some(journal),
        });
        for entry in left {
            match entry {
                Entry::Upload(upload) => writer.abort(upload),
                Entry::Creation(creation) => writer.abort_created(creation),
            }
        }
        let mut signals = Signals::new()?;
        let progress = Progress::new();
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
        let object = stored?;
        let expires = object.headers.expires.as_deref();
        let expires = expires.and_then(|text| expiry::http_date(text, writer.bucket.clock.now()));
        let _: Reader = form.show(&Done::to(&url, "stored", &object, expires.map(rfc3339)))?;
        Ok(ExitCode::SUCCESS)
    })
}
