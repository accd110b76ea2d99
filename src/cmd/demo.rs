//! `expirefs demo`: a bucket in this process, mounted like any other, for trying things out.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Parser;

use super::on_runtime_of_a_mount;
use super::signals::Signals;
use crate::config::Config;
use crate::config::args::{Cli, Command, DemoArgs};
use crate::daemon::{self, Mounted};
use crate::embedded::{Handle, Object, Server};
use crate::expiry::format_http_date;
use crate::log::{Filter, Log};
use crate::output::{self, Reader, say};

const BUCKET: &str = "cache";

/// Lifetime of `soon.txt`: interactive, and in the tour.
const SOON: Duration = Duration::from_secs(30);
const SOON_ON_TOUR: Duration = Duration::from_secs(3);

/// What the demo writes, and the rule of the mount for it.
const WRITTEN: &str = "written.txt";
const WRITTEN_TTL: Duration = Duration::from_secs(10);
const TTL_RULE: &str = "--ttl-rule=written.txt=10s";
const WRITTEN_TEXT: &str = "This file was written through the mount.\n";

const README: &str = "This file has no Expires: it lives until somebody deletes it.\n";
const PAGE: &str = "<p>This page expires in an hour.</p>\n";
const SOON_TEXT: &str = "This file is about to expire.\n";

pub fn run(args: DemoArgs, log: &Log) -> Result<ExitCode, String> {
    let work = async {
        let mut signals = Signals::new()?;
        demo(args.exit, &log.filter, signals.next()).await
    };
    on_runtime_of_a_mount(1, work).map(|()| ExitCode::SUCCESS)
}

/// Serves the demo until `stop` is ready, or until the tour ends.
///
/// # Errors
/// In words for the operator: what failed, or which result of the tour was wrong.
async fn demo(tour: bool, log: &Filter, stop: impl Future<Output = ()>) -> Result<(), String> {
    let server = Server::start().await.map_err(|e| format!("no server: {e}"))?;
    let ends = SystemTime::now() + if tour { SOON_ON_TOUR } else { SOON };
    fill(&server.handle(), ends);

    let dir = MountPoint::new().map_err(|e| format!("no mount point: {e}"))?;
    let mut mounted = mount(&server.endpoint(), &dir.0, log.clone()).await?;
    let outcome = if tour {
        let path = dir.0.clone();
        let tour = tokio::task::spawn_blocking(move || take_tour(&path));
        let seen = tokio::select! {
            seen = tour => seen.map_err(|e| format!("the tour was interrupted: {e}")).flatten(),
            () = stop => Err("interrupted".to_owned()),
        };
        seen.and_then(|()| tell(&format!("\n$ expirefs status DIR\n{}", mounted.status())))
            .and_then(|()| check_status(&mounted))
    } else {
        let told = explain(&mounted, ends);
        if told == Ok(Reader::There) {
            tokio::select! {
                () = stop => {}
                () = mounted.until_done() => {}
                () = output::gone() => {}
            }
        }
        told.map(drop)
    };
    mounted.unmount(std::future::pending()).await?;
    server.stop().await;
    outcome?;
    match tour {
        true => tell("All of it was right."),
        false => Ok(()),
    }
}

/// Prints a line. If standard output is closed, the demo goes on.
fn tell(line: &str) -> Result<(), String> {
    output::print(&format!("{line}\n")).map(drop)
}

/// A directory that is removed when this value is dropped.
struct MountPoint(PathBuf);

impl MountPoint {
    fn new() -> io::Result<MountPoint> {
        let dir = std::env::temp_dir().join(format!("expirefs-demo-{}", std::process::id()));
        fs::create_dir(&dir)?;
        Ok(MountPoint(dir))
    }
}

impl Drop for MountPoint {
    fn drop(&mut self) {
        // A directory that is still a mount point stays; the error names it.
        let _ = fs::remove_dir(&self.0);
    }
}

fn fill(bucket: &Handle, soon: SystemTime) {
    let now = SystemTime::now();
    let (hour, day) = (Duration::from_secs(3600), Duration::from_secs(86400));
    let until = |at| format_http_date(at);
    let put = |key, object| bucket.put(BUCKET, key, object);
    put("readme.txt", Object::new(README));
    put("soon.txt", Object::new(SOON_TEXT).expires(until(soon)));
    put("expired.txt", Object::new("Nobody reads this.\n").expires(until(now - day)));
    put("unparsable.txt", Object::new("Nor this.\n").expires("never"));
    put("site/page.html", Object::new(PAGE).expires(until(now + hour)));
    put("site/stale.html", Object::new("<p>Old.</p>\n").expires(until(now - hour)));
    put("big.bin", Object::new(vec![0xA5; 32 << 20]).expires(until(now + day)));
}

async fn mount(endpoint: &str, dir: &Path, log: Filter) -> Result<Mounted, String> {
    let dir = dir.to_string_lossy().into_owned();
    let writing = ["--writable", "--ttl=1h", TTL_RULE];
    let store = ["--no-sign-request", "--region=us-east-1", "--endpoint-url"];
    let options = writing.into_iter().chain(store);
    let typed = ["expirefs", "mount", BUCKET, &dir].into_iter().chain(options).chain([endpoint]);
    let typed: Vec<&str> = typed.collect();
    tell(&format!("$ {}", typed.join(" ")))?;
    let Command::Mount(args) = Cli::try_parse_from(&typed).map_err(|e| e.to_string())?.command
    else {
        return Err("the demo's own command line is wrong".to_owned());
    };
    let mut config = Config::new(*args)?;
    // Both ends of each connection are in this process.
    let whole = daemon::budget(&config)?;
    config.max_open_bodies = Some((whole.available.saturating_sub(whole.metadata) / 2).max(1));
    let budget = daemon::budget(&config)?;
    Mounted::start(config, budget, log, std::future::pending(), say).await
}

fn explain(mounted: &Mounted, soon: SystemTime) -> Result<Reader, String> {
    let dir = mounted.dir().display();
    let left = soon.duration_since(SystemTime::now()).unwrap_or_default().as_secs();
    output::print(&format!(
        "
A bucket with live, expired and soon-to-expire objects is mounted. Try in another terminal:

    ls -l {dir}                      expired.txt and unparsable.txt are not there
    cat {dir}/readme.txt
    cat {dir}/expired.txt            No such file or directory
    watch -n 0.2 ls {dir}            soon.txt vanishes in {left} s, at its instant
    cp {dir}/big.bin /dev/null
    echo hello > {dir}/{WRITTEN}
    getfattr -d {dir}/{WRITTEN}      it ends 10 s after it was written
    expirefs status {dir}

{}
Ctrl-C unmounts.
",
        mounted.status()
    ))
}

/// Checks every promise of the demo once.
fn take_tour(dir: &Path) -> Result<(), String> {
    let path = |name: &str| dir.join(name);
    tell("\n$ ls DIR")?;
    let shown = names(dir)?;
    tell(&Vec::from_iter(shown.iter().map(String::as_str)).join("  "))?;
    must("the names", &shown, &set(["big.bin", "readme.txt", "site", "soon.txt"]))?;
    must("the names in site", &names(&path("site"))?, &set(["page.html"]))?;

    for (name, content) in [("readme.txt", README), ("site/page.html", PAGE)] {
        tell(&format!("$ cat DIR/{name}"))?;
        let got = fs::read_to_string(path(name)).map_err(|e| format!("{name}: {e}"))?;
        output::print(&got).map(drop)?;
        must(name, &got.as_str(), &content)?;
    }
    for name in ["expired.txt", "unparsable.txt", "site/stale.html"] {
        tell(&format!("$ cat DIR/{name}"))?;
        let error = fs::read(path(name)).err();
        tell(&error.as_ref().map_or("it was read".to_owned(), ToString::to_string))?;
        must(name, &error.and_then(|e| e.raw_os_error()), &Some(libc::ENOENT))?;
    }
    tell(&format!("$ echo ... > DIR/{WRITTEN}"))?;
    let before = SystemTime::now();
    fs::write(path(WRITTEN), WRITTEN_TEXT).map_err(|e| format!("{WRITTEN}: {e}"))?;
    let written = fs::read_to_string(path(WRITTEN)).map_err(|e| format!("{WRITTEN}: {e}"))?;
    must(WRITTEN, &written.as_str(), &WRITTEN_TEXT)?;
    let end = end_of(&path(WRITTEN))?;
    tell(&format!("$ getfattr -n user.expirefs.expires DIR/{WRITTEN}"))?;
    tell(&humantime::format_rfc3339_seconds(end).to_string())?;
    let ttl = end.duration_since(before).unwrap_or_default();
    // `Expires` has whole seconds, and is rounded up.
    let most = WRITTEN_TTL + Duration::from_secs(3);
    must("that it has ten seconds to live", &(ttl >= WRITTEN_TTL && ttl <= most), &true)?;
    let big = fs::read(path("big.bin")).map_err(|e| format!("big.bin: {e}"))?;
    must("big.bin", &(big.len(), big.iter().all(|b| *b == 0xA5)), &(32 << 20, true))?;

    let mut held = fs::File::open(path("soon.txt")).map_err(|e| format!("soon.txt: {e}"))?;
    tell("$ while ls DIR/soon.txt; do :; done")?;
    until_gone(&path("soon.txt"), SystemTime::now() + SOON_ON_TOUR)?;
    tell("soon.txt: No such file or directory")?;
    let then = set(["big.bin", "readme.txt", "site", WRITTEN]);
    must("the names then", &names(dir)?, &then)?;
    let mut text = String::new();
    let read = held.rewind().and_then(|()| held.read_to_string(&mut text));
    read.map_err(|e| format!("soon.txt, opened before: {e}"))?;
    must("soon.txt, opened before,", &text.as_str(), &SOON_TEXT)?;

    tell(&format!("$ while ls DIR/{WRITTEN}; do :; done"))?;
    until_gone(&path(WRITTEN), end)?;
    let (gone, half) = (SystemTime::now(), Duration::from_millis(500));
    must("that it was there to its end", &(gone + half >= end), &true)?;
    tell(&format!("{WRITTEN}: No such file or directory"))?;
    must("the names in the end", &names(dir)?, &set(["big.bin", "readme.txt", "site"]))
}

/// When a file ends, by its extended attribute.
fn end_of(file: &Path) -> Result<SystemTime, String> {
    let name = "user.expirefs.expires";
    let value = xattr::get(file, name).map_err(|e| format!("{name} of {}: {e}", file.display()))?;
    let text = String::from_utf8(value.unwrap_or_default()).unwrap_or_default();
    humantime::parse_rfc3339(&text).map_err(|e| format!("{name}, {text:?}: {e}"))
}

/// Waits until a file is gone.
///
/// # Errors
/// If it is there 5 s after its end.
fn until_gone(file: &Path, end: SystemTime) -> Result<(), String> {
    let patience = end + Duration::from_secs(5);
    while file.exists() {
        if SystemTime::now() > patience {
            return Err(format!("{} does not vanish", file.display()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn check_status(mounted: &Mounted) -> Result<(), String> {
    let status = mounted.status();
    must("the number of unparsable keys", &status.unparsable, &1)?;
    must("that expired names were hidden", &(status.expired_hidden > 0), &true)?;
    must("the number of open bodies", &status.bodies_open, &0)
}

fn names(dir: &Path) -> Result<BTreeSet<String>, String> {
    let entries = fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = entries.map_err(|e| format!("{}: {e}", dir.display()))?;
    Ok(entries.iter().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

fn must<T: PartialEq + std::fmt::Debug>(what: &str, got: &T, want: &T) -> Result<(), String> {
    if got == want {
        return Ok(());
    }
    Err(format!("{what}: expected {want:?}, saw {got:?}"))
}
