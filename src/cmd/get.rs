//! `expirefs get`: an object that has not expired goes to a file or to standard output.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::ExitCode;

use tempfile::NamedTempFile;
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncWrite, stdout};

use super::object::{At, Done, Outcomes};
use super::progress::Progress;
use super::signals::Signals;
use super::{Failed, on_runtime};
use crate::body::Accounts;
use crate::config::Query;
use crate::config::args::GetArgs;
use crate::output::Reader;
use crate::store::Object;
use crate::transfer::{Failure, Get, get};

/// Bytes of the window.
const MEMORY: u64 = 16 << 20;

/// Where the object goes.
#[derive(PartialEq)]
enum Target {
    Stdout,
    /// A device or a pipe, which is written to.
    Stream(PathBuf),
    /// It is replaced once the object is complete.
    File(PathBuf),
}

type Sink = Pin<Box<dyn AsyncWrite + Send>>;

pub fn run(args: GetArgs) -> Result<ExitCode, Failed> {
    let GetArgs { url, file, if_live_for, output, object } = args;
    let query = Query::of_object(&url, object).map_err(Failed::Usage)?;
    let failed = |error: io::Error| format!("{}: {error}", file.display());
    let target = Target::of(&file, &query.key).map_err(failed)?;
    if target == Target::Stdout && output.json {
        let why = "--json needs a FILE: standard output is for the object";
        return Err(Failed::Usage(why.to_owned()));
    }
    let done = on_runtime(1, async {
        let bucket = At::new(&query).await?.bucket();
        let accounts = Accounts::new(1, true, MEMORY);
        let (live_for, timeout) = (if_live_for, query.timeout);
        let wanted =
            Get { bucket: &bucket, accounts: &accounts, key: &query.key, live_for, timeout };
        // It is removed if it does not become the file.
        let mut temporary = None;
        let progress = Progress::of_bytes(output.quiet);
        let open = async |object: &Object| {
            progress.ends_at(object.version.size);
            let (sink, made) = target.open().await?;
            temporary = made;
            Ok(sink)
        };
        let mut signals = Signals::new()?;
        let got = tokio::select! {
            got = get(&wanted, open, |bytes| progress.at(bytes)) => got,
            () = signals.next() => return Err(format!("{url}: a signal came first")),
        };
        progress.end();
        let object = match got {
            Ok((object, _)) => object,
            Err(Failure::Store(error)) => {
                let mut outcomes = Outcomes::default();
                outcomes.add(output, &url, Err(error))?;
                return Ok(outcomes.status());
            }
            // Its reader has seen enough, as `head` does.
            Err(Failure::Stream(error))
                if target == Target::Stdout && error.kind() == ErrorKind::BrokenPipe =>
            {
                return Ok(ExitCode::SUCCESS);
            }
            Err(Failure::Stream(error)) => return Err(failed(error)),
        };
        if let (Target::File(path), Some(temporary)) = (&target, temporary) {
            temporary.persist(path).map_err(|error| failed(error.error))?;
        }
        if target != Target::Stdout {
            let _: Reader = output.show(&Done::of(&url, "fetched", &object, &bucket))?;
        }
        Ok(ExitCode::SUCCESS)
    });
    Ok(done?)
}

impl Target {
    fn of(file: &Path, key: &str) -> io::Result<Target> {
        if file.as_os_str() == "-" {
            return Ok(Target::Stdout);
        }
        let file = match file.is_dir() {
            true => file.join(key.rsplit('/').next().unwrap_or_default()),
            false => file.to_owned(),
        };
        match fs::metadata(&file) {
            Ok(about) if about.is_file() => file.canonicalize().map(Target::File),
            // Of a key that ends with `/..`, or where a directory has the name of the object.
            Ok(about) if about.is_dir() => Err(io::Error::from_raw_os_error(libc::EISDIR)),
            Ok(_) => Ok(Target::Stream(file)),
            // A rename would replace the link.
            Err(error) if file.is_symlink() => Err(error),
            Err(_) if file.as_os_str().as_encoded_bytes().ends_with(b"/") => {
                Err(io::Error::from_raw_os_error(libc::ENOTDIR))
            }
            Err(_) => Ok(Target::File(file)),
        }
    }

    /// Waits for a reader, if it is a pipe.
    async fn open(&self) -> io::Result<(Sink, Option<NamedTempFile>)> {
        match self {
            Target::Stdout => Ok((Box::pin(stdout()), None)),
            Target::Stream(path) => {
                let file = OpenOptions::new().write(true).open(path).await?;
                Ok((Box::pin(file), None))
            }
            Target::File(path) => {
                let directory = path.parent().filter(|dir| !dir.as_os_str().is_empty());
                let made = tempfile::Builder::new()
                    .prefix(".expirefs-")
                    .permissions(Permissions::from_mode(0o666))
                    .tempfile_in(directory.unwrap_or(Path::new(".")))?;
                if let Ok(old) = fs::metadata(path) {
                    let mode = old.permissions().mode() & 0o777;
                    made.as_file().set_permissions(Permissions::from_mode(mode))?;
                }
                let file = File::from_std(made.reopen()?);
                Ok((Box::pin(file), Some(made)))
            }
        }
    }
}
