//! The options of the log, which every command has.

use std::env;
use std::os::fd::AsFd;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use nix::sys::stat::fstat;

use crate::log::{Place, Style};

#[derive(Clone, Debug, Args)]
pub struct LogArgs {
    /// What to log: a level, or levels by module (`expirefs=debug`). Of a running mount it is
    /// changed by `expirefs log`
    #[arg(
        long,
        global = true,
        value_name = "FILTER",
        env = "EXPIREFS_LOG",
        default_value = "warn,aws_config=error,aws_runtime=error,aws_smithy_runtime=error"
    )]
    pub log: String,
    /// Where to log [default: standard error, or the journal if systemd has connected standard error
    /// to it; a mount in the background: the journal if there is one, else syslog, else nowhere]
    #[arg(long, global = true, value_name = "WHERE", conflicts_with = "log_file")]
    pub log_to: Option<LogTo>,
    /// Append the log to this file. SIGHUP makes a mount open it anew, for logrotate(8)
    #[arg(long, global = true, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// The form of a line of the log
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub log_format: Style,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogTo {
    /// Standard error
    Stderr,
    /// syslog(3), with the facility `daemon`
    Syslog,
    /// The journal of systemd, with each field of an event as `EXPIREFS_…`
    Journald,
}

impl LogArgs {
    /// Where to log. `in_background`: nobody reads standard error.
    ///
    /// # Errors
    /// If the options cannot be used there, in words for the operator.
    pub fn place(&self, in_background: bool) -> Result<Place, String> {
        match (&self.log_file, self.log_to) {
            (Some(path), _) => Ok(Place::File(path.clone())),
            (None, Some(LogTo::Syslog)) => Ok(Place::Syslog),
            (None, Some(LogTo::Journald)) => Ok(Place::Journal),
            (None, Some(LogTo::Stderr)) if in_background => {
                Err("--log-to stderr needs --foreground: in the background there is no standard \
                     error"
                    .to_owned())
            }
            (None, Some(LogTo::Stderr)) => Ok(Place::Stderr),
            (None, None) if in_background => Ok(Place::of_the_host()),
            (None, None) if stderr_is_the_journal() => Ok(Place::Journal),
            (None, None) => Ok(Place::Stderr),
        }
    }
}

/// Whether systemd has connected standard error to the journal, which then gets the fields of
/// events too (systemd.exec(5), `JOURNAL_STREAM`). The variable may be inherited by a process with
/// another standard error.
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = env::var("JOURNAL_STREAM") else { return false };
    let stderr = fstat(std::io::stderr().as_fd());
    stderr.is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::args::Cli;
    use super::*;

    fn place(typed: &[&str], in_background: bool) -> Result<Place, String> {
        let typed = ["expirefs", "status", "/mnt"].iter().chain(typed);
        Cli::try_parse_from(typed).map_err(|e| e.to_string())?.log.place(in_background)
    }

    #[test]
    fn the_options_say_where_and_the_background_has_no_standard_error() {
        assert_eq!(place(&[], false), Ok(Place::Stderr));
        for in_background in [false, true] {
            let place = |typed: &[&str]| place(typed, in_background);
            assert_eq!(place(&["--log-file", "/l"]), Ok(Place::File("/l".into())));
            assert_eq!(place(&["--log-to", "syslog"]), Ok(Place::Syslog));
            assert_eq!(place(&["--log-to", "journald"]), Ok(Place::Journal));
            let both = place(&["--log-to", "syslog", "--log-file", "/l"]).unwrap_err();
            assert!(both.contains("cannot be used with"), "{both}");
        }
        assert_eq!(place(&["--log-to", "stderr"], false), Ok(Place::Stderr));
        assert!(place(&["--log-to", "stderr"], true).unwrap_err().contains("--foreground"));
        assert_ne!(place(&[], true), Ok(Place::Stderr));
    }
}
