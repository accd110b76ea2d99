//! A mount of the binary under test, from its start to a checked end.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;
use std::{env, fs, thread};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::embedded::Embedded;
use super::process::{Process, alive_in_group};
use super::s3_server::Bucket;
use super::wait::{at_most, equal, eventually};
use super::{Endpoint, REGION};

const BINARY: &str = env!("CARGO_BIN_EXE_expirefs");

/// The start of the line that the daemon prints when the mount is ready.
const READY: &str = "expirefs: mounted ";

fn is_ready(lines: &[String]) -> bool {
    lines.iter().any(|line| line.starts_with(READY))
}

/// From the start of the daemon to that line, or to its failure.
const START_BOUND: Duration = Duration::from_secs(30);

/// From SIGTERM to the end of the process; reads in flight get 5 s of it.
const STOP_BOUND: Duration = Duration::from_secs(15);

/// From the last close to the end of all connections; an idle one is kept for up to twice the time of
/// `--pool-idle`, 10 s by default.
const GIVE_BACK_BOUND: Duration = Duration::from_secs(20);

/// How long a mount may live. A test that hangs in a system call on it hangs no longer than this.
const LIFE_BOUND: Duration = Duration::from_secs(120);

/// What to mount, and how.
#[derive(Clone, Debug)]
pub struct Setup {
    bucket: String,
    /// `None`: the command gets no endpoint.
    endpoint: Option<Endpoint>,
    args: Vec<String>,
    /// The folder for `--spool` of a writable mount, unless `args` name one.
    spool: Option<Arc<TempDir>>,
    env: Vec<(String, String)>,
    nofile: Option<String>,
    ignored: Option<&'static str>,
    no_control: bool,
    no_runtime_dir: bool,
    background: bool,
    life: Duration,
}

impl Bucket {
    pub fn mounting(&self) -> Setup {
        Setup::new(self.endpoint(), &self.name)
    }
}

impl Embedded {
    pub fn mounting(&self) -> Setup {
        Setup::new(self.endpoint(), Embedded::BUCKET)
    }
}

impl Setup {
    /// `bucket` may have a prefix: `bucket/prefix`.
    pub fn new(endpoint: &Endpoint, bucket: &str) -> Setup {
        Setup { endpoint: Some(endpoint.clone()), ..Setup::anywhere(bucket) }
    }

    /// The bucket of an embedded server that is reached at this URL.
    pub fn embedded_at(url: &str) -> Setup {
        Setup::new(&Endpoint { url: url.to_owned(), credentials: None }, Embedded::BUCKET)
    }

    /// A bucket at the endpoint of environment and profile.
    pub fn anywhere(bucket: &str) -> Setup {
        Setup {
            bucket: bucket.to_owned(),
            endpoint: None,
            args: Vec::new(),
            spool: None,
            env: Vec::new(),
            nofile: None,
            ignored: None,
            no_control: false,
            no_runtime_dir: false,
            background: false,
            life: LIFE_BOUND,
        }
    }

    /// More arguments for `expirefs mount`, as one would type them.
    pub fn with(mut self, args: &str) -> Setup {
        self.args.extend(args.split_whitespace().map(str::to_owned));
        self
    }

    /// A writable mount; what is written lives for an hour.
    pub fn writable(mut self) -> Setup {
        // What a killed daemon leaves for the next one is removed with the last of its mounts.
        self.spool = Some(Arc::new(tempfile::tempdir().expect("a folder")));
        self.with("--writable --ttl 1h")
    }

    /// Sets a variable in the daemon's environment.
    pub fn env(mut self, name: &str, value: &str) -> Setup {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The descriptor limits that the daemon starts with, in the form of prlimit(1): `64` for both,
    /// or `SOFT:HARD`.
    pub fn nofile(mut self, limits: impl ToString) -> Setup {
        self.nofile = Some(limits.to_string());
        self
    }

    /// A signal, in the form of env(1), that is ignored when the daemon starts.
    pub fn ignoring(mut self, signal: &'static str) -> Setup {
        self.ignored = Some(signal);
        self
    }

    /// How long the mount may live, for long tests.
    pub fn living(mut self, life: Duration) -> Setup {
        self.life = life;
        self
    }

    /// The path of the daemon's socket would be too long (unix(7), `sun_path`), so it has none:
    /// `Mount::status` cannot be used.
    pub fn without_control(mut self) -> Setup {
        self.no_control = true;
        self
    }

    /// The daemon gets no XDG_RUNTIME_DIR, as under su(1) or cron.
    pub fn without_runtime_dir(mut self) -> Setup {
        self.no_runtime_dir = true;
        self
    }

    /// [`Setup::command`] returns when the mount serves, and leaves a daemon.
    pub fn in_background(mut self) -> Setup {
        self.background = true;
        self
    }

    /// Mounts on a new folder. Panics, with the daemon's output, unless it becomes ready.
    #[track_caller]
    pub fn start(&self) -> Mount {
        self.start_at(Place::new())
    }

    /// The same on an existing folder.
    #[track_caller]
    pub fn start_on(&self, dir: &Path) -> Mount {
        self.start_at(Place { dir: dir.to_owned(), ..Place::new() })
    }

    #[track_caller]
    fn start_at(&self, place: Place) -> Mount {
        let daemon = Daemon::spawn(self.command(&place.dir, &place.runtime));
        let mut mount = Mount {
            watchdog: Watchdog::over(daemon.pid(), &place.dir, self.life),
            daemon,
            place,
            _spool: self.spool.clone(),
        };
        if !mount.daemon.output.wait_for(START_BOUND, is_ready) {
            let status = mount.daemon.ended_within(Duration::ZERO);
            panic!("no line {READY:?} within {START_BOUND:?} (status {status:?})");
        }
        mount
    }

    /// Tries to mount on `dir`, which must fail. Panics if the daemon still runs after a while.
    #[track_caller]
    pub fn refused_on(&self, dir: &Path) -> Output {
        let place = Place::new();
        let mut daemon = Daemon::spawn(self.command(dir, &place.runtime));
        let watchdog = Watchdog::over(daemon.pid(), dir, self.life);
        let ready = daemon.output.wait_for(START_BOUND, is_ready);
        let status = if ready { None } else { daemon.ended_within(Duration::ZERO) };
        let Some(status) = status else {
            daemon.signal(Signal::SIGKILL);
            detach(dir);
            panic!("it runs, where it had to refuse; it said {:#?}", daemon.output.lines());
        };
        drop(watchdog);
        let (stdout, stderr) = daemon.output.streams();
        Output { status, stdout: stdout.into(), stderr: stderr.into() }
    }

    /// The command that mounts on `dir`, not yet run; `runtime` is the folder for its socket.
    pub fn command(&self, dir: &Path, runtime: &Path) -> Command {
        // Both exec the rest of their arguments. If the test process is killed, the daemon gets
        // SIGTERM and unmounts; the kernel sends it when the *thread* that started the daemon ends,
        // so a mount belongs only to the test that started it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "prlimit"]);
        command.args(self.nofile.iter().map(|limits| format!("--nofile={limits}")));
        // Otherwise a signal that is ignored in the tests, as by nohup(1), would stay ignored.
        command.args(["--", "env", "--default-signal=HUP,INT,QUIT"]);
        command.args(self.ignored.map(|signal| format!("--ignore-signal={signal}")));
        command.args([BINARY, "mount", &self.bucket]).arg(dir);
        if !self.background {
            command.arg("--foreground");
        }
        let runtime = match self.no_control {
            false => runtime.to_owned(),
            true => {
                let long = runtime.join("x".repeat(120));
                fs::create_dir_all(&long).expect("a folder with a long name");
                long
            }
        };
        environment(&mut command, &runtime);
        if self.no_runtime_dir {
            command.env_remove("XDG_RUNTIME_DIR");
        }
        if let Some(endpoint) = &self.endpoint {
            endpoint.reached_by(&mut command);
        }
        if let Some(spool) = &self.spool
            && !self.args.iter().any(|arg| arg == "--spool" || arg == "--no-spool")
        {
            command.arg("--spool").arg(spool.path());
        }
        command.args(&self.args).envs(self.env.iter().cloned());
        command
    }
}

impl Endpoint {
    /// `expirefs COMMAND URL` with further arguments, for a bucket of this server; not yet run.
    pub fn expirefs(&self, command: &str, url: &str, args: &[&str]) -> Command {
        self.typed(&[&[command, url], args].concat())
    }

    /// `expirefs` with these arguments, for buckets of this server; not yet run.
    pub fn typed(&self, args: &[&str]) -> Command {
        let mut expirefs = Command::new(BINARY);
        expirefs.args(args).stdin(Stdio::null());
        environment(&mut expirefs, Path::new("/dev/null"));
        self.reached_by(&mut expirefs);
        expirefs
    }

    /// Adds endpoint and credentials to a command.
    fn reached_by(&self, command: &mut Command) {
        command.args(["--addressing-style", "path", "--region", REGION]);
        command.args(["--endpoint-url", &self.url]);
        match &self.credentials {
            Some(credentials) => {
                command.env("AWS_ACCESS_KEY_ID", &credentials.access_key_id);
                command.env("AWS_SECRET_ACCESS_KEY", &credentials.secret_access_key);
            }
            None => _ = command.arg("--no-sign-request"),
        }
    }
}

/// Makes a command find `expirefs`, the programs in a folder, and this server.
pub fn environment_of_a_shell(command: &mut Command, endpoint: &Endpoint, programs: &Path) {
    environment(command, Path::new("/dev/null"));
    let ours = Path::new(BINARY).parent().expect("a folder");
    let path = env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{}:{path}", ours.display(), programs.display()));
    command.env("AWS_ENDPOINT_URL", &endpoint.url).env("AWS_REGION", REGION);
    if let Some(credentials) = &endpoint.credentials {
        command.env("AWS_ACCESS_KEY_ID", &credentials.access_key_id);
        command.env("AWS_SECRET_ACCESS_KEY", &credentials.secret_access_key);
    }
}

/// Removes the machine's settings for S3 and expirefs from the command's environment.
fn environment(command: &mut Command, runtime: &Path) {
    let ours = |name: &str| name.starts_with("AWS_") || name.starts_with("EXPIREFS_");
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_str().is_some_and(ours)) {
        command.env_remove(name);
    }
    command.env("AWS_CONFIG_FILE", "/dev/null").env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
    command.env("AWS_EC2_METADATA_DISABLED", "true");
    command.env("XDG_RUNTIME_DIR", runtime).env("LC_ALL", "C");
}

/// A mount point, and next to it the runtime folder of its daemon.
pub struct Place {
    pub dir: PathBuf,
    pub runtime: PathBuf,
    _folder: TempDir,
}

impl Place {
    pub fn new() -> Place {
        assert!(
            Path::new("/dev/fuse").exists(),
            "/dev/fuse is missing: nothing can be mounted here"
        );
        let folder = tempfile::Builder::new().prefix("expirefs-test-").tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("its path"); // as mountinfo has it
        let [dir, runtime] = ["mnt", "run"].map(|name| root.join(name));
        for path in [&dir, &runtime] {
            fs::create_dir(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
        Place { dir, runtime, _folder: folder }
    }
}

/// A running mount. On drop its gauges must return to zero, SIGTERM must end it with status 0, and
/// nothing may be left; if the test has already failed, its output is printed.
pub struct Mount {
    watchdog: Watchdog,
    daemon: Daemon,
    place: Place,
    _spool: Option<Arc<TempDir>>,
}

/// No command waits so long for a daemon.
const CONTROL_HANGS: Duration = Duration::from_secs(90);

/// In which system calls the threads of a process are (proc_pid_stack(5)).
fn stacks_of(process: u32) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_else(|e| format!("({e})\n"));
    let mut all = format!("process {process}: {}", read(&format!("/proc/{process}/comm")));
    for thread in fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten() {
        let at = thread.path();
        let status = read(&format!("{}/status", at.display()));
        let state = status.lines().filter(|line| line.starts_with("State:"));
        all += &format!("{} {}\n", at.display(), state.collect::<String>());
        all += &read(&format!("{}/stack", at.display()));
    }
    all
}

impl Mount {
    /// What request counters have grown by during an action.
    pub fn grown<T>(&self, names: &[&str], action: impl FnOnce() -> T) -> Vec<i64> {
        let count = || -> Vec<i64> {
            let status = self.status();
            names.iter().map(|name| status.number(&format!("requests.{name}"))).collect()
        };
        let before = count();
        action();
        count().iter().zip(before).map(|(now, before)| now - before).collect()
    }

    /// The mount point.
    pub fn dir(&self) -> &Path {
        &self.place.dir
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.place.dir.join(name)
    }

    pub fn process(&self) -> Process {
        Process(self.daemon.child.id())
    }

    /// The lines the daemon has printed so far, on both streams.
    pub fn said(&self) -> Vec<String> {
        self.daemon.output.lines()
    }

    /// The folder in which the daemon keeps its socket.
    pub fn runtime_dir(&self) -> &Path {
        &self.place.runtime
    }

    /// Runs `expirefs COMMAND DIR` with further arguments.
    pub fn control(&self, command: &str, args: &[&str]) -> Output {
        self.control_at(command, self.dir(), args)
    }

    /// Runs `expirefs COMMAND PATH` with further arguments.
    pub fn control_at(&self, command: &str, path: &Path, args: &[&str]) -> Output {
        let mut expirefs = self.control_command(command, path, args);
        let child = expirefs.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let child = child.unwrap_or_else(|e| panic!("{BINARY}: {e}"));
        let (id, (done, output)) = (child.id(), mpsc::channel());
        thread::spawn(move || done.send(child.wait_with_output()));
        match output.recv_timeout(CONTROL_HANGS) {
            Ok(output) => output.unwrap_or_else(|e| panic!("{BINARY}: {e}")),
            Err(_) => {
                let stuck: String = [id, self.daemon.child.id(), std::process::id()]
                    .into_iter()
                    .map(stacks_of)
                    .collect();
                panic!("expirefs {command} takes longer than {CONTROL_HANGS:?}\n{stuck}");
            }
        }
    }

    /// The same, not yet run.
    pub fn control_command(&self, command: &str, path: &Path, args: &[&str]) -> Command {
        let mut expirefs = Command::new(BINARY);
        expirefs.arg(command).arg(path).args(args).stdin(Stdio::null());
        environment(&mut expirefs, &self.place.runtime);
        expirefs
    }

    /// A command that finds the socket of this mount, not yet run.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut expirefs = Command::new(BINARY);
        expirefs.args(args).stdin(Stdio::null());
        environment(&mut expirefs, &self.place.runtime);
        expirefs
    }

    /// What `expirefs list --json` says about this mount. Other tests have mounts, too.
    #[track_caller]
    pub fn listed(&self) -> serde_json::Value {
        let Output { status, stdout, stderr } =
            self.command(&["list", "--json"]).output().expect("it runs");
        assert!(status.success(), "{status}: {}", String::from_utf8_lossy(&stderr));
        let lines = String::from_utf8(stdout).expect("text");
        let dir = self.dir().to_str().expect("text");
        let mut all = lines.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        all.find(|it: &serde_json::Value| it["dir"] == dir)
            .unwrap_or_else(|| panic!("no {dir}: {lines}"))
    }

    /// The output of `expirefs status DIR --json`.
    #[track_caller]
    pub fn status(&self) -> Status {
        let output = self.control("status", &["--json"]);
        assert!(output.status.success(), "expirefs status: {output:?}");
        let json = serde_json::from_slice(&output.stdout);
        Status(json.unwrap_or_else(|e| panic!("expirefs status: {e}: {output:?}")))
    }

    /// Rule B6: panics unless the daemon soon holds no body, has no waiters and no half-closed
    /// sockets, and at most `fds` descriptors.
    #[track_caller]
    pub fn assert_all_given_back(&self, fds: usize) {
        let daemon = self.process();
        eventually(GIVE_BACK_BOUND, || {
            let status = self.status();
            equal("bodies_open", status.number("bodies_open"), 0)?;
            equal("opens_waiting", status.number("opens_waiting"), 0)?;
            equal("CLOSE_WAIT sockets", daemon.close_wait(), 0)?;
            at_most("descriptors", daemon.fds(), fds)
        });
    }

    pub fn signal(&self, signal: Signal) {
        self.daemon.signal(signal);
    }

    /// Waits for its exit status, for a limited time.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        let Some(status) = self.daemon.ended_within(STOP_BOUND) else {
            panic!("still running after {STOP_BOUND:?}");
        };
        status
    }

    /// Waits until the daemon has ended: with status 0, and nothing of it is left.
    #[track_caller]
    pub fn assert_ended_well(&mut self) {
        let status = self.ended();
        assert_eq!(status.code(), Some(0), "{status}; it said {:#?}", self.said());
        self.assert_nothing_left();
    }

    /// Panics unless the mount, its processes and its socket are gone.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        let dir = self.dir();
        assert!(!is_mounted(dir), "{} is still mounted", dir.display());
        let processes = alive_in_group(self.daemon.child.id());
        assert!(processes.is_empty(), "still running: {processes:#?}");
        let sockets = sockets_under(&self.place.runtime);
        assert!(sockets.is_empty(), "left behind: {sockets:?}");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if thread::panicking() {
            self.daemon.signal(Signal::SIGTERM);
            if self.daemon.ended_within(STOP_BOUND).is_none() {
                self.daemon.signal(Signal::SIGKILL);
            }
            detach(&self.place.dir);
            eprintln!("the daemon of {} said:", self.place.dir.display());
            self.said().iter().for_each(|line| eprintln!("  {line}"));
            return;
        }
        if self.daemon.status.is_none() {
            eventually(Duration::from_secs(5), || {
                let status = self.status();
                for gauge in ["handles", "bodies_open", "bodies_parked", "opens_waiting"] {
                    equal(gauge, status.number(gauge), 0)?;
                }
                Ok(())
            });
            self.daemon.signal(Signal::SIGTERM);
            let status = self.ended();
            assert!(status.success(), "after SIGTERM: {status}; it said {:#?}", self.said());
        }
        self.watchdog.stop();
        let panics: Vec<_> =
            self.said().into_iter().filter(|line| line.contains("panicked")).collect();
        assert!(panics.is_empty(), "a panic in the daemon: {panics:#?}");
        if !self.daemon.killed() {
            self.assert_nothing_left();
        }
        detach(&self.place.dir);
    }
}

/// The output of `expirefs status --json`.
#[derive(Debug)]
pub struct Status(pub serde_json::Value);

impl Status {
    /// A number by its name; `requests.get` is the field `get` of the object `requests`.
    #[track_caller]
    pub fn number(&self, name: &str) -> i64 {
        let value = name.split('.').fold(&self.0, |value, field| &value[field]);
        value.as_i64().unwrap_or_else(|| panic!("status has no number {name}: {:#}", self.0))
    }
}

/// The process under test, leader of its own group, and its output.
struct Daemon {
    child: Child,
    output: Arc<Lines>,
    status: Option<ExitStatus>,
}

impl Daemon {
    fn spawn(mut command: Command) -> Daemon {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let output = Arc::new(Lines::default());
        output.collect(Stream::Stdout, child.stdout.take().expect("it is piped"));
        output.collect(Stream::Stderr, child.stderr.take().expect("it is piped"));
        Daemon { child, output, status: None }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    /// Sends a signal, unless the process was waited for and its id may be reused.
    fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            kill(self.pid(), signal).unwrap_or_else(|e| panic!("{signal} to the daemon: {e}"));
        }
    }

    /// Its status, once it has ended; `None` if it has not within `bound`.
    fn ended_within(&mut self, bound: Duration) -> Option<ExitStatus> {
        if self.status.is_none() && self.output.wait_for_end(bound) {
            self.status = Some(self.child.wait().expect("the status of a child"));
        }
        self.status
    }

    fn killed(&self) -> bool {
        self.status.is_some_and(|status| status.signal() == Some(Signal::SIGKILL as i32))
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Stream {
    Stdout,
    Stderr,
}

/// The lines of both streams in the order of arrival, and how many streams have ended.
#[derive(Default)]
struct Lines {
    state: Mutex<(Vec<(Stream, String)>, u32)>,
    changed: Condvar,
}

impl Lines {
    fn collect(self: &Arc<Self>, stream: Stream, source: impl Read + Send + 'static) {
        let lines = Arc::clone(self);
        thread::spawn(move || {
            for line in BufReader::new(source).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                lines.state.lock().unwrap().0.push((stream, line));
                lines.changed.notify_all();
            }
            lines.state.lock().unwrap().1 += 1;
            lines.changed.notify_all();
        });
    }

    fn lines(&self) -> Vec<String> {
        self.state.lock().unwrap().0.iter().map(|(_, line)| line.clone()).collect()
    }

    /// Standard output and standard error, each as one text.
    fn streams(&self) -> (String, String) {
        let state = self.state.lock().unwrap();
        let [stdout, stderr] = [Stream::Stdout, Stream::Stderr].map(|wanted| {
            let lines = state.0.iter().filter(|(stream, _)| *stream == wanted);
            lines.map(|(_, line)| format!("{line}\n")).collect()
        });
        (stdout, stderr)
    }

    /// Whether `found` becomes true for the lines before the output ends or `bound` has passed.
    fn wait_for(&self, bound: Duration, found: impl Fn(&[String]) -> bool) -> bool {
        let yes = |state: &(Vec<(Stream, String)>, u32)| {
            found(&state.0.iter().map(|(_, line)| line.clone()).collect::<Vec<_>>())
        };
        let state = self.state.lock().unwrap();
        let waiting = self.changed.wait_timeout_while(state, bound, |s| !yes(s) && s.1 < 2);
        yes(&waiting.unwrap().0)
    }

    /// Whether both streams end within `bound`, as they do when the process ends.
    fn wait_for_end(&self, bound: Duration) -> bool {
        let state = self.state.lock().unwrap();
        self.changed.wait_timeout_while(state, bound, |s| s.1 < 2).unwrap().0.1 == 2
    }
}

/// Kills a daemon that lives too long, so that system calls stuck on its mount fail.
struct Watchdog(Option<mpsc::Sender<()>>);

impl Watchdog {
    fn over(pid: Pid, dir: &Path, life: Duration) -> Watchdog {
        let (alive, gone) = mpsc::channel::<()>();
        let dir = dir.to_owned();
        thread::spawn(move || {
            if gone.recv_timeout(life) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{} mounted for {life:?}: killing its daemon", dir.display());
                _ = kill(pid, Signal::SIGKILL);
                detach(&dir);
            }
        });
        Watchdog(Some(alive))
    }

    /// To be called before the process is waited for, or soon after: its id may be reused.
    fn stop(&mut self) {
        self.0 = None;
    }
}

/// Whether something is mounted on `dir`, dead or alive.
pub fn is_mounted(dir: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    let dir = dir.to_str().expect("a path in UTF-8");
    table.lines().any(|row| row.split(' ').nth(4) == Some(dir))
}

/// Detaches a mount in any state; does nothing if there is none.
pub fn detach(dir: &Path) {
    let lazily = |program: &str, flag: &str| Command::new(program).arg(flag).arg(dir).output();
    if is_mounted(dir) && !lazily("umount", "-l").is_ok_and(|output| output.status.success()) {
        _ = lazily("fusermount3", "-uz");
    }
}

/// The Unix sockets in a folder, at any depth.
pub fn sockets_under(folder: &Path) -> Vec<PathBuf> {
    use std::os::unix::fs::FileTypeExt;
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut sockets = Vec::new();
    for entry in entries.map(|entry| entry.expect("an entry")) {
        let kind = entry.file_type().expect("its type");
        if kind.is_dir() {
            sockets.extend(sockets_under(&entry.path()));
        } else if kind.is_socket() {
            sockets.push(entry.path());
        }
    }
    sockets
}
