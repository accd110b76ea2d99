//! O1: a mount in the background. The command returns when the mount serves, or has failed; nothing
//! of a daemon whose command has failed or died is left.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, getsid, mkfifo};

use crate::support::mount::{self, Setup, detach, is_mounted};
use crate::support::proxy::{Fault, Proxy, Request};
use crate::support::s3_server::{Bucket, object, seaweedfs};
use crate::support::stuck::end_of;
use crate::support::wait::{HANGS, at_most, equal, eventually};
use crate::support::{Endpoint, REGION};

fn bucket() -> Bucket {
    let bucket = seaweedfs().bucket("background");
    bucket.put("small", object("small"));
    bucket
}

/// A mount point and the folder of its socket; on drop, no daemon is left there.
struct Place(mount::Place);

impl Place {
    fn new() -> Place {
        Place(mount::Place::new())
    }

    fn path(&self) -> PathBuf {
        self.0.dir.parent().expect("its folder").to_owned()
    }

    fn dir(&self) -> PathBuf {
        self.0.dir.clone()
    }

    fn runtime(&self) -> PathBuf {
        self.0.runtime.clone()
    }

    fn command(&self, setup: &Setup) -> Command {
        let mut command = setup.clone().in_background().command(&self.dir(), &self.runtime());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Mounts; both streams of the command end with it.
    #[track_caller]
    fn mount(&self, setup: &Setup) -> Output {
        let output = self.command(setup).output().expect("it runs");
        assert!(output.status.success(), "{output:?}");
        output
    }

    /// The daemon of a mount that serves, by its status.
    #[track_caller]
    fn daemon(&self, endpoint: &Endpoint) -> u32 {
        let dir = self.dir();
        let status = self.control(endpoint, &["status", dir.to_str().expect("text"), "--json"]);
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect("JSON");
        status["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("a process")
    }

    /// The same without options for the store.
    fn control(&self, endpoint: &Endpoint, args: &[&str]) -> Output {
        let full = endpoint.typed(args);
        let mut command = Command::new(full.get_program());
        command.args(args).env("XDG_RUNTIME_DIR", self.runtime()).output().expect("it runs")
    }

    /// Unmounts, and waits for the end of the daemon.
    #[track_caller]
    fn unmount(&self, endpoint: &Endpoint) {
        let dir = self.dir();
        let output = self.control(endpoint, &["umount", dir.to_str().expect("text")]);
        assert!(output.status.success(), "{output:?}");
        self.assert_nothing_left();
    }

    #[track_caller]
    fn assert_nothing_left(&self) {
        eventually(HANGS, || equal("daemons", self.daemons(), vec![]));
        assert!(!is_mounted(&self.dir()));
    }

    /// The processes that were started for this place.
    fn daemons(&self) -> Vec<u32> {
        let here = self.path();
        let here = here.as_os_str().as_encoded_bytes();
        let found = fs::read_dir("/proc").expect("/proc").filter_map(|entry| {
            let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let is_daemon = line.split(|b| *b == 0).any(|arg| arg == b"--in-background");
            (is_daemon && line.windows(here.len()).any(|part| part == here)).then_some(pid)
        });
        found.collect()
    }

    #[track_caller]
    fn the_daemon(&self) -> u32 {
        eventually(HANGS, || self.daemons().first().copied().ok_or("no daemon yet".to_owned()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let left = self.daemons();
        left.iter().for_each(|pid| signal(*pid, Signal::SIGKILL));
        detach(&self.dir());
        assert!(left.is_empty() || std::thread::panicking(), "left behind: {left:?}");
    }
}

fn signal(process: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(process as i32), signal);
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a process prints on standard error until all who hold it have closed it.
fn all_of_stderr(child: &mut Child) -> String {
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    said
}

/// A proxy that does not answer, and a mount behind it.
fn unanswered(bucket: &Bucket) -> (Proxy, Setup) {
    unanswered_if(bucket, |_| true)
}

/// The same for some requests only.
fn unanswered_if(
    bucket: &Bucket,
    which: impl Fn(&Request) -> bool + Send + Sync + 'static,
) -> (Proxy, Setup) {
    let proxy = Proxy::start(bucket.endpoint(), move |request| match which(request) {
        true => Fault::Delay(std::time::Duration::MAX),
        false => Fault::None,
    });
    let setup = Setup::new(proxy.endpoint(), &bucket.name);
    (proxy, setup)
}

#[test]
fn mount_returns_when_the_mount_serves_and_leaves_a_daemon_in_a_session_of_its_own() {
    let (bucket, place) = (bucket(), Place::new());
    let output = place.mount(&bucket.mounting());
    let read = fs::read_to_string(place.dir().join("small")).expect("it serves");
    assert_eq!((read.as_str(), output.stdout.is_empty()), ("small", true));
    let said = stderr(&output);
    let expected =
        format!("expirefs: mounted s3://{}/ on {}, ", bucket.name, place.dir().display());
    assert!(said.starts_with(&expected) && said.lines().count() == 1, "{said:?}");

    let daemon = place.daemon(bucket.endpoint());
    let pid = Pid::from_raw(daemon as i32);
    assert_eq!(getsid(Some(pid)).expect("its session"), pid);
    let link = |name: &str| fs::read_link(format!("/proc/{daemon}/{name}")).expect("a link");
    for name in ["fd/0", "fd/1", "fd/2"] {
        assert_eq!(link(name), Path::new("/dev/null"), "{name}");
    }
    assert_eq!(link("cwd"), Path::new("/"));
    let name = fs::read_to_string(format!("/proc/{daemon}/comm")).expect("its name");
    assert_eq!(name, "expirefs\n");
    place.unmount(bucket.endpoint());
}

#[test]
fn with_allow_other_no_helper_holds_the_streams_of_the_command() {
    let (bucket, place) = (bucket(), Place::new());
    place.mount(&bucket.mounting().with("--allow-other"));
    fs::read(place.dir().join("small")).expect("it serves");
    place.unmount(bucket.endpoint());
}

#[test]
fn the_error_of_the_daemon_is_shown_once_and_is_the_status_of_the_command() {
    let (bucket, place) = (bucket(), Place::new());
    let absent = Setup::new(bucket.endpoint(), &format!("{}-absent", bucket.name));
    let table = [
        (absent, 1, "no such bucket"),
        (bucket.mounting().with("--writable"), 1, "--ttl"),
        (bucket.mounting().with("--log nonsense=nonsense"), 2, "--log"),
        (bucket.mounting().nofile(20), 1, "20 file descriptors"),
    ];
    for (setup, status, says) in table {
        let output = place.command(&setup).output().expect("it runs");
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(status), "{said}");
        assert!(said.starts_with("expirefs: ") && said.lines().count() == 1, "{said:?}");
        assert!(said.contains(says), "no {says:?} in {said:?}");
        place.assert_nothing_left();
    }
}

#[test]
fn a_relative_path_keeps_its_meaning_after_the_daemon_has_changed_its_directory() {
    let (bucket, place) = (bucket(), Place::new());
    let work = place.path();
    for name in ["spool", "config"] {
        fs::create_dir(work.join(name)).expect("a folder");
    }
    fs::write(work.join("config/aws"), "").expect("a file");
    let setup = bucket.mounting().with("--writable --ttl 1h --spool spool --index index.db");
    let mut command = place.command(&setup.env("AWS_CONFIG_FILE", "config/aws"));
    // The mount point as it would be typed here.
    let (program, args) = (command.get_program().to_owned(), command.get_args());
    let dir = place.dir();
    let args: Vec<_> =
        args.map(|arg| if *arg == dir { "mnt".into() } else { arg.to_owned() }).collect();
    let mut typed = Command::new(program);
    typed.args(args).current_dir(&work);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => typed.env(name, value),
            None => typed.env_remove(name),
        };
    }
    command = typed;
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{output:?}");

    fs::write(place.dir().join("new"), vec![7; 20 << 20]).expect("written by the spool");
    let status = place.dir();
    let status =
        place.control(bucket.endpoint(), &["status", status.to_str().expect("text"), "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect("JSON");
    let daemon = status["pid"].as_u64().expect("a process");
    let env = fs::read(format!("/proc/{daemon}/environ")).expect("its environment");
    let config = format!("AWS_CONFIG_FILE={}/config/aws", work.display());
    assert!(env.split(|b| *b == 0).any(|line| line == config.as_bytes()));
    let output = place.control(bucket.endpoint(), &["umount", place.dir().to_str().expect("text")]);
    assert!(output.status.success(), "{output:?}");
    // The arguments of this daemon name no folder of this place.
    eventually(HANGS, || equal("it runs", Path::new(&format!("/proc/{daemon}")).exists(), false));
    assert!(work.join("index.db").exists() && !is_mounted(&place.dir()));
}

#[test]
fn a_daemon_gives_up_if_its_command_dies_before_it_serves() {
    let (bucket, place) = (bucket(), Place::new());
    let (proxy, setup) = unanswered(&bucket);
    let mut command = place.command(&setup).spawn().expect("it runs");
    eventually(HANGS, || at_most("requests to come", 1, proxy.did("delay")));
    assert_eq!(place.daemons().len(), 1);
    signal(command.id(), Signal::SIGKILL);
    let status = end_of(&mut command);
    assert_eq!(status.signal(), Some(Signal::SIGKILL as i32));
    assert_eq!(all_of_stderr(&mut command), "expirefs: interrupted; nothing is mounted\n");
    place.assert_nothing_left();
}

#[test]
fn an_interrupted_command_ends_after_its_daemon_with_nothing_mounted() {
    let bucket = bucket();
    // While the bucket is checked, and while it is found out which conditions the store honours.
    let checked = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].map(|signal| (signal, false));
    for (interruption, writable) in checked.into_iter().chain([(Signal::SIGINT, true)]) {
        let place = Place::new();
        let (proxy, setup) = unanswered_if(&bucket, move |it| !writable || it.method != "GET");
        let setup = if writable { setup.writable() } else { setup };
        let mut command = place.command(&setup).spawn().expect("it runs");
        eventually(HANGS, || at_most("requests to come", 1, proxy.did("delay")));
        signal(command.id(), interruption);
        let status = end_of(&mut command);
        assert!(place.daemons().is_empty(), "{interruption}");
        assert_eq!(status.code(), Some(1), "{interruption}");
        let said = all_of_stderr(&mut command);
        assert_eq!(said, "expirefs: interrupted; nothing is mounted\n", "{interruption}");
    }
}

/// As on a network disk that does not answer, or with a program that does not end. Each of them is asked
/// before anything is sent.
#[test]
fn a_mount_that_waits_for_its_configuration_can_be_interrupted() {
    let bucket = bucket();
    let asked =
        ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CA_BUNDLE", "credential_process"];
    for asked in asked {
        for options in ["", "-f"] {
            let place = Place::new();
            let pipe = place.path().join("pipe");
            mkfifo(&pipe, Mode::S_IRWXU).expect("a pipe");
            let pipe = pipe.to_str().expect("text");
            let url = &bucket.endpoint().url;
            let setup = Setup::anywhere(&bucket.name).with(options);
            let setup = setup.with(&format!("--endpoint-url {url} --region {REGION}"));
            let setup = match asked {
                "credential_process" => {
                    let config = place.path().join("config");
                    let text = format!("[default]\ncredential_process = cat {pipe}\n");
                    fs::write(&config, text).expect("a file");
                    setup.env("AWS_CONFIG_FILE", config.to_str().expect("text"))
                }
                variable => setup.env(variable, pipe),
            };
            let mut command = place.command(&setup).spawn().expect("it runs");
            // Nothing is ever written to it, so its reader waits for the end.
            let opened = || {
                let mut writing = OpenOptions::new();
                let opened = writing.write(true).custom_flags(libc::O_NONBLOCK).open(pipe);
                opened.map_err(|error| format!("{asked} {options}: {error}"))
            };
            let _writer = eventually(HANGS, opened);
            signal(command.id(), Signal::SIGTERM);
            assert_eq!(end_of(&mut command).code(), Some(1), "{asked} {options}");
            let said = all_of_stderr(&mut command);
            assert_eq!(said, "expirefs: interrupted; nothing is mounted\n", "{asked} {options}");
            place.assert_nothing_left();
        }
    }
}

#[test]
fn a_daemon_that_is_killed_before_it_serves_is_reported() {
    let (bucket, place) = (bucket(), Place::new());
    let (proxy, setup) = unanswered(&bucket);
    let mut command = place.command(&setup).spawn().expect("it runs");
    eventually(HANGS, || at_most("requests to come", 1, proxy.did("delay")));
    signal(place.the_daemon(), Signal::SIGKILL);
    let status = end_of(&mut command);
    assert_eq!(status.code(), Some(1));
    let said = all_of_stderr(&mut command);
    assert_eq!(said, "expirefs: the daemon was killed by signal 9 (SIGKILL) before it served\n");
}

/// In the foreground as in the background.
#[test]
fn a_slow_check_of_the_bucket_shows_what_it_waits_for() {
    let bucket = bucket();
    for options in ["", "-f"] {
        let place = Place::new();
        let (proxy, setup) = unanswered(&bucket);
        let mut command = place.command(&setup.with(options)).spawn().expect("it runs");
        let mut lines = BufReader::new(command.stderr.take().expect("piped")).lines();
        let mut line = || lines.next().expect("a line").expect("text");
        let at = format!("s3://{}/ at {}", bucket.name, proxy.endpoint().url);
        assert_eq!(line(), format!("expirefs: waiting for {at}: no answer yet"), "{options}");
        signal(command.id(), Signal::SIGTERM);
        assert_eq!(line(), "expirefs: interrupted; nothing is mounted", "{options}");
        assert_eq!(end_of(&mut command).code(), Some(1), "{options}");
    }
}

/// Neither a closed standard error nor one that nobody reads keeps the mount from serving.
#[test]
fn the_daemon_serves_whatever_becomes_of_the_streams_of_its_command() {
    let bucket = bucket();
    for redirection in [">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full", "2> >(:)"] {
        let place = Place::new();
        let command = place.command(&bucket.mounting().with("--log debug"));
        let mut bash = Command::new("bash");
        bash.args(["-c", &format!("\"$0\" \"$@\" {redirection}")]);
        bash.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => bash.env(name, value),
                None => bash.env_remove(name),
            };
        }
        let status = bash.status().expect("bash");
        assert!(status.success(), "{redirection}: {status}");
        fs::read(place.dir().join("small")).unwrap_or_else(|e| panic!("{redirection}: {e}"));
        place.unmount(bucket.endpoint());
    }
}

#[test]
fn only_the_command_itself_can_start_a_daemon() {
    let (bucket, place) = (bucket(), Place::new());
    let dir = place.dir();
    let args = ["--in-background", "mount", &bucket.name, dir.to_str().expect("text")];
    // As a group's leader it would get no session.
    let output = bucket.endpoint().typed(&args).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("--in-background is only for"), "{output:?}");
}
