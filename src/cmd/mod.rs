//! The commands, one file each: parsed arguments in, lines for the operator and an exit status out.
//!
//! Owns the process: its log, signals, runtime and output. Has no rules of its own: a command gets
//! what it prints from the modules below, and none of those prints or exits.

mod background;
#[cfg(feature = "demo")]
#[expect(clippy::disallowed_methods, reason = "the demo uses the wall clock")]
mod demo;
mod explain;
mod get;
mod list;
mod log;
mod ls;
mod mount;
mod object;
mod progress;
mod put;
mod rm;
mod signals;
mod status;
mod supervisor;
mod sweep;
mod top;
mod ttl;
mod umount;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::runtime::{Builder, Runtime};

use crate::bucket::Bucket;
use crate::config::args::{Cli, Command};
use crate::config::helper::{self, Typed, Wrong};
use crate::config::{Config, LogArgs, Query};
use crate::log::{Filter, Log};
use crate::output::say;
use crate::s3::QUIET;

/// Why a command failed, in words for the operator.
enum Failed {
    /// The command line is wrong. What clap finds has the same exit status.
    Usage(String),
    Other(String),
}

impl From<String> for Failed {
    fn from(why: String) -> Failed {
        Failed::Other(why)
    }
}

/// Exit status of a wrong command line.
const USAGE: u8 = 2;

/// The same, and that of a mount that failed, of a helper of mount(8).
const HELPER_USAGE: u8 = 1;
const HELPER_FAILED: u8 = 32;

/// Runs the command of these arguments, and prints the error if it fails.
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    let Typed { arguments, is_helper, fake } = match helper::typed(arguments) {
        Ok(typed) => typed,
        Err(wrong) => {
            let (why, status) = match wrong {
                Wrong::Usage(why) => (why, HELPER_USAGE),
                Wrong::Mount(why) => (why, HELPER_FAILED),
            };
            say(&format!("expirefs: {why}"));
            return ExitCode::from(status);
        }
    };
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            let usage = u8::try_from(error.exit_code()).unwrap_or(USAGE);
            return ExitCode::from(if is_helper { HELPER_USAGE } else { usage });
        }
    };
    let done = match cli.command {
        Command::Mount(args) if fake => match Config::new(*args) {
            Ok(_) => Ok(ExitCode::SUCCESS),
            Err(why) => Err(Failed::Usage(why)),
        },
        // The daemon has the log.
        Command::Mount(args) if !args.foreground && !cli.in_background => {
            background::start(&arguments, args.env_file.as_deref()).map_err(Failed::Other)
        }
        _ => run_here(cli),
    };
    let status = done.unwrap_or_else(|failed| {
        let (error, status) = match failed {
            Failed::Usage(error) => (error, ExitCode::from(USAGE)),
            Failed::Other(error) => (error, ExitCode::FAILURE),
        };
        say(&format!("expirefs: {error}"));
        status
    });
    match is_helper {
        false => status,
        true if status == ExitCode::SUCCESS => status,
        true if status == ExitCode::from(USAGE) => ExitCode::from(HELPER_USAGE),
        true => ExitCode::from(HELPER_FAILED),
    }
}

fn run_here(cli: Cli) -> Result<ExitCode, Failed> {
    let log = start_log(&cli.log, cli.in_background)?;
    match cli.command {
        Command::Mount(args) => Ok(mount::run(*args, &log, cli.in_background)?),
        Command::Log(args) => Ok(log::run(args)?),
        Command::Umount(args) => Ok(umount::run(&args)?),
        Command::Status(args) => Ok(status::run(&args)?),
        Command::Top(args) => Ok(top::run(&args)?),
        Command::List(args) => Ok(list::run(&args)?),
        Command::Ls(args) => ls::run(*args),
        Command::Explain(args) => explain::run(*args),
        Command::Put(args) => put::run(*args),
        Command::Get(args) => get::run(*args),
        Command::Rm(args) => rm::run(*args),
        Command::Ttl(args) => ttl::run(*args),
        Command::Sweep(args) => sweep::run(*args, &log),
        #[cfg(feature = "demo")]
        Command::Demo(args) => Ok(demo::run(args, &log)?),
    }
}

/// Starts logging. `in_background`: nobody will read standard error.
fn start_log(args: &LogArgs, in_background: bool) -> Result<Log, Failed> {
    let (filter, filtering) = Filter::new(&args.log, QUIET).map_err(Failed::Usage)?;
    let place = args.place(in_background).map_err(Failed::Usage)?;
    Ok(Log::start(filter, filtering, &place, args.log_format, in_background)?)
}

/// A bucket without a mount.
async fn bucket(query: &Query) -> Result<Bucket, String> {
    Ok(object::At::new(query).await?.bucket())
}

/// Runs `work` to its end, on this many threads. Does not wait for system calls that still block
/// then, such as a DNS query.
fn on_runtime<T>(
    workers: usize,
    work: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let runtime = runtime(workers)?;
    let done = runtime.block_on(work);
    runtime.shutdown_background();
    done
}

/// How long the end of a mount waits for requests in flight to be dropped, and for system calls.
const FAREWELL: Duration = Duration::from_secs(1);

/// The same for a mount, whose requests in flight are answered with EIO in the end. The kernel would
/// end them with the last descriptor of the device, but a thread in FUSE_NOTIFY_INVAL_ENTRY may keep
/// that open: it waits for the lock of a directory, which such a request holds.
fn on_runtime_of_a_mount<T>(
    workers: usize,
    work: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let runtime = runtime(workers)?;
    let done = runtime.block_on(work);
    runtime.shutdown_timeout(FAREWELL);
    done
}

fn runtime(workers: usize) -> Result<Runtime, String> {
    let built = Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    built.map_err(|e| format!("no runtime: {e}"))
}
