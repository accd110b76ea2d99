//! `expirefs status`.

use std::process::ExitCode;

use super::{on_runtime, read_answer};
use crate::config::args::StatusArgs;
use crate::daemon::client;
use crate::daemon::control::Request;
use crate::daemon::status::Status;
use crate::output::{Reader, print, print_json};

pub fn run(args: &StatusArgs) -> Result<ExitCode, String> {
    let mount = client::mount_at(&args.dir, true)?;
    let answer = on_runtime(1, client::ask(&mount, &Request::Status))?;
    let _: Reader = match args.json {
        true => print_json(&answer)?,
        false => print(&read_answer::<Status>(&answer)?.to_string())?,
    };
    Ok(ExitCode::SUCCESS)
}
