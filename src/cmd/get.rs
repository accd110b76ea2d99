//! `expirefs get`: an object that has not expired goes to a file or to standard output.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::Pin;
use std::process::ExitCode;

use tokio::fs::File;
use tokio::io::{AsyncWrite, stdout};

use super::object::{At, Done, Form, Outcomes, Progress};
use super::on_runtime;
use super::signals::Signals;
use crate::body::Accounts;
use crate::config::Query;
use crate::config::args::GetArgs;
use crate::expiry::rfc3339;
use crate::output::Reader;
use crate::transfer::{Failure, Get, get};

/// Bytes of the window.
const MEMORY: u64 = 16 << 20;

pub fn run(args: GetArgs) -> Result<ExitCode, String> {
    let GetArgs { url, file, if_live_for, json, output, object } = args;
    let to_stdout = file.as_os_str() == "-";
    if to_stdout && json {
        return Err("--json needs a FILE: standard output is for the object".to_owned());
    }
    let query = Query::of_object(&url, object)?;
    let file = match !to_stdout && file.is_dir() {
        true => file.join(query.key.rsplit('/').next().unwrap_or_default()),
        false => file,
    };
    let form = Form { json, quiet: output.quiet };
    on_runtime(1, async {
        let bucket = At::new(&query).await?.bucket();
        let accounts = Accounts::new(1, true, MEMORY);
        let (live_for, timeout) = (if_live_for, query.timeout);
        let wanted =
            Get { bucket: &bucket, accounts: &accounts, key: &query.key, live_for, timeout };
        // It is removed if it does not become the file.
        let mut temporary = None;
        let progress = Progress::new();
        let open = |object: &crate::store::Object| {
            progress.of(object.version.size);
            let sink: Pin<Box<dyn AsyncWrite + Send>> = match to_stdout {
                true => Box::pin(stdout()),
                false => {
                    let directory = file.parent().filter(|dir| !dir.as_os_str().is_empty());
                    let made = tempfile::Builder::new()
                        .prefix(".expirefs-")
                        .permissions(Permissions::from_mode(0o666))
                        .tempfile_in(directory.unwrap_or(Path::new(".")))?;
                    let sink = File::from_std(made.reopen()?);
                    temporary = Some(made);
                    Box::pin(sink)
                }
            };
            Ok(sink)
        };
        let mut signals = Signals::new()?;
        let got = tokio::select! {
            got = get(&wanted, open, |bytes| progress.at(bytes)) => got,
            () = signals.next() => return Err(format!("{url}: a signal came first")),
        };
        progress.end();
        let (object, _) = match got {
            Ok(got) => got,
            Err(Failure::Store(error)) => {
                let mut outcomes = Outcomes::default();
                outcomes.note(&url, Err(error));
                return Ok(outcomes.status());
            }
            // Its reader has seen enough, as `head` does.
            Err(Failure::Stream(e)) if to_stdout && e.kind() == std::io::ErrorKind::BrokenPipe => {
                return Ok(ExitCode::SUCCESS);
            }
            Err(Failure::Stream(error)) => return Err(format!("{}: {error}", file.display())),
        };
        let Some(temporary) = temporary else { return Ok(ExitCode::SUCCESS) };
        temporary.persist(&file).map_err(|e| format!("{}: {}", file.display(), e.error))?;
        let expires = bucket.judge(&object).judgement.expiry.instant().map(rfc3339);
        let _: Reader = form.show(&Done::to(&url, "fetched", &object, expires))?;
        Ok(ExitCode::SUCCESS)
    })
}
