//! `expirefs top`, by what a terminal shows.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::FileExt;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::FUTURE;
use crate::support::content::{MIB, content};
use crate::support::embedded::Embedded;
use crate::support::mount::Mount;
use crate::support::stuck::end_of;
use crate::support::tmux::Tmux;

/// A command as a shell takes it.
fn typed(command: &Command, before: &str) -> String {
    let quoted =
        |text: &OsStr| format!("'{}'", text.to_str().expect("text").replace('\'', "'\\''"));
    let env = command.get_envs().map(|(name, value)| match value {
        Some(value) => format!("{}={}", name.display(), quoted(value)),
        None => format!("-u {}", name.display()),
    });
    // Options of env(1) come first.
    let mut env: Vec<_> = env.collect();
    env.sort_by_key(|it| !it.starts_with('-'));
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(quoted);
    format!("env {} {before} {}", env.join(" "), words.collect::<Vec<_>>().join(" "))
}

/// `top` of this mount in a terminal, followed by its status and the mode of the terminal.
fn top(mount: &Mount, (width, height): (u16, u16), before: &str) -> Tmux {
    let command = typed(&mount.control_command("top", mount.dir(), &[]), before);
    let script =
        format!("{command}; echo \"status $?\"; stty -a | grep -ow -e '-*icanon'; sleep 300");
    Tmux::start(width, height, &script)
}

fn store() -> Embedded {
    let store = Embedded::start();
    for (n, name) in ["alpha", "beta", "gamma"].into_iter().enumerate() {
        store.put(name, content(n as u64, 24 * MIB));
    }
    store.put_expiring("small", "text", FUTURE);
    store
}

/// Opens files in this order and reads a little of each.
fn opened(mount: &Mount, names: &[&str]) -> Vec<fs::File> {
    let open = |name: &&str| {
        let file = fs::File::open(mount.path(name)).expect("open");
        file.read_exact_at(&mut [0; 4096], 0).expect("read");
        file
    };
    names.iter().map(open).collect()
}

/// The keys in the order of the screen.
fn keys(lines: &[String]) -> Vec<&str> {
    let after = lines.iter().skip_while(|line| !line.trim_start().starts_with("PID "));
    let handles = after.skip(1).take_while(|line| line.contains('%'));
    handles.filter_map(|line| line.split("% ").nth(1)).collect()
}

fn has(lines: &[String], text: &str) -> bool {
    lines.iter().any(|line| line.contains(text))
}

#[test]
fn it_shows_a_mount_at_80x24_and_gives_the_terminal_back() {
    let store = store();
    let mount = store.mounting().with("--max-open-bodies 7").start();
    fs::read(mount.path("small")).expect("read");
    let files = opened(&mount, &["alpha", "beta", "gamma"]);
    let screen = top(&mount, (80, 24), "");
    let lines = screen.eventually("three handles", |lines| keys(lines).len() == 3);
    assert!(lines[0].starts_with("s3://embedded/ on /"), "{lines:#?}");
    assert!(lines[1].contains("3 of 7 open, 0 parked, 0 forgotten, 0 waiting"), "{lines:#?}");
    for text in ["OPERATION", "REQUEST", "list price 0.0", "\nread ", "\nopen ", "mounted"] {
        assert!(lines.join("\n").contains(text), "no {text:?} in {lines:#?}");
    }
    assert!(lines.last().expect("a line").contains("3 of 3 handles"), "{lines:#?}");
    assert!(screen.coloured().contains("\u{1b}["), "it has attributes");
    // It follows what happens.
    drop(files);
    screen.eventually("no handles", |lines| {
        lines[1].contains("0 of 7 open") && keys(lines).is_empty()
    });
    screen.keys(&["q"]);
    let lines = screen.eventually("its end", |lines| has(lines, "icanon"));
    assert!(has(&lines, "status 0") && !has(&lines, "-icanon") && !has(&lines, "OPERATION"));
}

#[test]
fn keys_sort_filter_pause_and_help() {
    let store = store();
    let mount = store.mounting().start();
    let _files = opened(&mount, &["beta", "gamma", "alpha"]);
    let screen = top(&mount, (80, 24), "");
    let in_order = |want: &'static [&str]| move |lines: &[String]| keys(lines) == want;
    screen.eventually("by idle time", in_order(&["beta", "gamma", "alpha"]));
    screen.keys(&["s", "s", "s", "s"]);
    screen.eventually("by key", in_order(&["alpha", "beta", "gamma"]));
    screen.keys(&["r"]);
    screen.eventually("reversed", in_order(&["gamma", "beta", "alpha"]));
    screen.keys(&["/", "l", "p", "h"]);
    screen.eventually("filtered", |lines| keys(lines) == ["alpha"] && has(lines, "/lph_"));
    screen.keys(&["Enter"]);
    screen.eventually("kept", |lines| has(lines, "filter: lph") && keys(lines) == ["alpha"]);
    screen.keys(&["Escape"]);
    screen.eventually("cleared", |lines| keys(lines).len() == 3);
    screen.keys(&["?"]);
    screen.eventually("help", |lines| has(lines, "reverse the order") && keys(lines).is_empty());
    screen.keys(&["?", "p"]);
    screen.eventually("paused", |lines| has(lines, "PAUSED") && keys(lines).len() == 3);
    screen.keys(&["p"]);
    screen.resize(120, 10);
    screen.eventually("resized", |lines| lines.len() == 10 && lines[9].starts_with("q quit"));
    screen.resize(80, 24);
    screen.eventually("and back", |lines| lines.len() == 24 && lines[23].starts_with("q quit"));
}

#[test]
fn keys_of_objects_do_not_control_the_terminal() {
    let store = store();
    let name = "a\u{1b}[2J\u{1b}]0;owned\u{7}b\rc";
    store.put(name, content(1, 24 * MIB));
    let mount = store.mounting().start();
    let _files = opened(&mount, &[name]);
    let screen = top(&mount, (100, 24), "");
    let lines = screen.eventually("its handle", |lines| keys(lines).len() == 1);
    assert_eq!(keys(&lines), [r#""a\u{1b}[2J\u{1b}]0;owned\u{7}b\rc""#]);
    assert!(lines[0].starts_with("s3://embedded/ on /"), "the screen is whole: {lines:#?}");
}

#[test]
fn no_color_means_no_colour() {
    let store = store();
    let mount = store.mounting().start();
    let _files = opened(&mount, &["alpha"]);
    let has_colour = |screen: &Tmux| {
        screen.eventually("a handle", |lines| keys(lines).len() == 1);
        // SGR 30 to 37 and 90 to 97 are colours; 38;5 are those of 256.
        let text = screen.coloured();
        let codes =
            text.split("\u{1b}[").filter_map(|code| code.split_once('m')).map(|(code, _)| code);
        codes.flat_map(|code| code.split(';')).any(|code| matches!(code.parse(), Ok(30..=38)))
    };
    assert!(has_colour(&top(&mount, (80, 24), "")));
    assert!(!has_colour(&top(&mount, (80, 24), "NO_COLOR=1")));
}

#[test]
fn it_prints_once_where_there_is_no_screen() {
    let store = store();
    let mount = store.mounting().start();
    let _files = opened(&mount, &["alpha"]);
    let Output { status, stdout, .. } =
        mount.control_command("top", mount.dir(), &[]).output().expect("it runs");
    let text = String::from_utf8(stdout).expect("text");
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    assert!(status.success() && keys(&lines) == ["alpha"], "{text}");
    assert!(!text.contains('\u{1b}'), "{text:?}");
    let screen = top(&mount, (80, 50), "TERM=dumb");
    let lines = screen.eventually("its end", |lines| has(lines, "status 0"));
    assert_eq!(keys(&lines), ["alpha"]);
}

#[test]
fn a_signal_gives_the_terminal_back() {
    let store = store();
    let mount = store.mounting().start();
    let screen = top(&mount, (80, 24), "");
    screen.eventually("a screen", |lines| has(lines, "OPERATION"));
    let kill = ["-TERM", "-x", "-P", &screen.process(), "expirefs"];
    assert!(Command::new("pkill").args(kill).status().expect("pkill").success());
    let lines = screen.eventually("its end", |lines| has(lines, "icanon"));
    assert!(has(&lines, "status 0") && !has(&lines, "-icanon"), "{lines:#?}");
}

/// It says that there is no answer, and shows the next mount at the same place.
#[test]
fn it_goes_on_after_the_daemon_has_died() {
    let store = store();
    let mut mount = store.mounting().start();
    let screen = top(&mount, (80, 24), "");
    screen.eventually("a screen", |lines| has(lines, "OPERATION"));
    mount.signal(Signal::SIGKILL);
    mount.ended();
    screen.eventually("the failure", |lines| {
        has(lines, "no answer, trying again") && has(lines, "OPERATION")
    });
    assert!(mount.control("umount", &[]).status.success());
    screen.eventually("no mount", |lines| has(lines, "no longer mounted"));
    let mut again = store.mounting().command(mount.dir(), mount.runtime_dir());
    let mut again = again.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a daemon");
    screen.eventually("the next mount", |lines| {
        lines[0].contains(&format!("pid {}", again.id())) && !has(lines, "no answer")
    });
    kill(Pid::from_raw(again.id() as i32), Signal::SIGTERM).expect("a signal");
    assert!(end_of(&mut again).success());
}

#[test]
fn without_a_folder_it_shows_the_mount_or_a_table_of_them() {
    let store = store();
    let (one, two) = (store.mounting().start(), store.mounting().start());
    let dirs = [&one, &two].map(|mount| mount.dir().to_str().expect("text").to_owned());
    let Output { status, stdout, .. } = one.command(&["top"]).output().expect("it runs");
    let text = String::from_utf8(stdout).expect("text");
    assert!(status.success() && dirs.iter().all(|dir| text.contains(dir)), "{text}");
    let script = format!("{}; sleep 300", typed(&one.command(&["top"]), ""));
    let screen = Tmux::start(160, 50, &script);
    screen.eventually("a table", |lines| {
        has(lines, "SOURCE") && dirs.iter().all(|dir| has(lines, dir))
    });
}
