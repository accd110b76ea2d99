//! `expirefs list`.

use std::process::ExitCode;

use super::on_runtime;
use crate::config::args::{ListArgs, OutputArgs};
use crate::daemon::survey::{self, Mount};
use crate::output::{Reader, print, print_json};
use crate::shown::Shown;

pub fn run(args: &ListArgs) -> Result<ExitCode, String> {
    let mounts = on_runtime(1, survey::mounts())?;
    match args.output {
        OutputArgs { quiet: true, .. } => {}
        OutputArgs { json: true, .. } => {
            for mount in &mounts {
                let json = serde_json::to_string(mount).map_err(|e| e.to_string())?;
                if print_json(&json)? == Reader::Gone {
                    break;
                }
            }
        }
        OutputArgs { .. } => {
            let _: Reader = print(&table(&mounts))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// For people: a line for each mount, below a title; nothing if there is none.
pub fn table(mounts: &[Mount]) -> String {
    if mounts.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "{:>8}  {:10}  {:>15}  {:>7}  {:30} DIR\n",
        "PID", "STATE", "BODIES", "WAITING", "SOURCE"
    );
    for mount in mounts {
        let number = |n: Option<usize>| n.map_or("-".to_owned(), |n| n.to_string());
        let pid = mount.pid.map_or("-".to_owned(), |pid| pid.to_string());
        let bodies = match (mount.bodies_open, mount.cap) {
            (Some(open), Some(cap)) => format!("{open}/{cap}"),
            _ => "-".to_owned(),
        };
        text += &format!(
            "{pid:>8}  {:10}  {bodies:>15}  {:>7}  {:30} {}\n",
            mount.state.name(),
            number(mount.opens_waiting),
            Shown(&mount.source),
            Shown(&mount.dir)
        );
    }
    text
}
