//! The command line of mount(8) and mount.fuse3(8), as that of `expirefs mount`.
//!
//! mount(8) runs `/sbin/mount.expirefs SOURCE DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]`, and
//! mount.fuse3 `expirefs SOURCE DIR -o OPTIONS`. Each long option of `mount` is an option there, as
//! `name=value`; the definition of the command line is the only list of them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use clap::{Arg, Command, CommandFactory};

use super::args::Cli;

/// Names under which mount(8) runs this program: the types `expirefs` and `fuse.expirefs`.
const HELPERS: [&str; 2] = ["mount.expirefs", "mount.fuse.expirefs"];

/// What mount(8), systemd.mount(5), autofs and fstab(5) add, that is not for a file system, or that a
/// mount of ours is in any case: `nodev` and `nosuid`, `noatime`, `default_permissions`. Times are
/// those of objects, and each commit is synchronous.
const PASSED_OVER: &[&str] = &[
    "_netdev",
    "_rnetdev",
    "async",
    "atime",
    "auto",
    "auto_unmount",
    "default_permissions",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "group",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "noauto",
    "nodev",
    "nodiratime",
    "nofail",
    "nogroup",
    "noiversion",
    "nolazytime",
    "nomand",
    "nonempty",
    "noowner",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "nouser",
    "nousers",
    "owner",
    "relatime",
    "rw",
    "silent",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "user",
    "users",
    "comment",
    "helper",
    "uhelper",
    "subtype",
];

/// Options of `mount` that have no meaning for mount(8).
const NOT_FOR_HELPERS: [&str; 3] = ["foreground", "help", "version"];

/// A command line.
#[derive(Debug, PartialEq, Eq)]
pub struct Typed {
    /// As for `expirefs mount`.
    pub arguments: Vec<OsString>,
    /// The exit status is that of a helper (mount(8), "EXIT STATUS").
    pub is_helper: bool,
    /// Everything is checked, and nothing is mounted (`mount --fake`).
    pub fake: bool,
}

/// Why it is not one.
#[derive(Debug, PartialEq, Eq)]
pub enum Wrong {
    Usage(String),
    /// The file system cannot do it.
    Mount(String),
}

/// # Errors
/// What is wrong with the options of mount(8), in one line.
pub fn typed(arguments: Vec<OsString>) -> Result<Typed, Wrong> {
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    if name.is_some_and(|name| HELPERS.iter().any(|helper| name == *helper)) {
        return helper(&arguments[1..]);
    }
    // mount.fuse3 takes the program from the type `fuse.expirefs`.
    let is_fuse = arguments.len() > 3 && arguments[3] == "-o" && !is_command(&arguments[1]);
    match is_fuse {
        true => helper(&arguments[1..]),
        false => Ok(Typed { arguments, is_helper: false, fake: false }),
    }
}

fn is_command(word: &OsStr) -> bool {
    let known = Cli::command().get_subcommands().any(|command| word == command.get_name());
    known || word == "help" || word.as_bytes().starts_with(b"-")
}

fn helper(arguments: &[OsString]) -> Result<Typed, Wrong> {
    let (mut fake, mut sloppy) = (false, false);
    let (mut places, mut options) = (Vec::new(), Vec::new());
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let letters = match argument.as_bytes() {
            [b'-', letters @ ..] if !letters.is_empty() => letters,
            _ => {
                places.push(argument.clone());
                continue;
            }
        };
        for (at, letter) in letters.iter().enumerate() {
            // The value follows in the same word, or is the next one.
            let mut value = || match &letters[at + 1..] {
                [] => rest
                    .next()
                    .cloned()
                    .ok_or_else(|| Wrong::Usage(format!("-{} needs a value", char::from(*letter)))),
                value => Ok(OsString::from_vec(value.to_vec())),
            };
            match letter {
                b'f' => fake = true,
                b's' => sloppy = true,
                b'n' | b'v' | b'w' => {}
                b'r' => options.push(OsString::from("ro")),
                b'o' => {
                    options.extend(split(&value()?));
                    break;
                }
                b't' => {
                    value()?;
                    break;
                }
                b'N' => {
                    let why = "-N is not supported: run mount(8) in the namespace, by nsenter(1)";
                    return Err(Wrong::Usage(why.to_owned()));
                }
                letter => {
                    let letter = char::from(*letter);
                    return Err(Wrong::Usage(format!("unknown option -{letter}")));
                }
            }
        }
    }
    let Ok([source, dir]) = <[OsString; 2]>::try_from(places) else {
        return Err(Wrong::Usage("expected SOURCE DIR [-o OPTIONS]".to_owned()));
    };
    let mut arguments: Vec<OsString> = vec!["expirefs".into(), "mount".into()];
    let long = translate(&options, sloppy)?;
    // mount(8) finds what is mounted already by the source that fstab has.
    if !long.iter().any(|option| option.as_bytes().starts_with(b"--fsname=")) {
        arguments.push(joined("--fsname=", &source));
    }
    arguments.extend(long);
    arguments.extend(["--".into(), source, dir]);
    Ok(Typed { arguments, is_helper: true, fake })
}

/// Divides at commas, except at `\,` and between double quotes (mount(8), libfuse).
fn split(options: &OsStr) -> Vec<OsString> {
    let (mut found, mut quoted) = (vec![Vec::new()], false);
    let mut bytes = options.as_bytes().iter();
    while let Some(byte) = bytes.next() {
        let last = found.last_mut().expect("there is one always");
        match byte {
            b'\\' => last.extend(bytes.next().or(Some(byte))),
            b'"' => quoted = !quoted,
            b',' if !quoted => found.push(Vec::new()),
            byte => last.push(*byte),
        }
    }
    found.into_iter().filter(|option| !option.is_empty()).map(OsString::from_vec).collect()
}

/// The options as long ones of `expirefs mount`.
fn translate(options: &[OsString], sloppy: bool) -> Result<Vec<OsString>, Wrong> {
    let mut cli = Cli::command();
    cli.build();
    let mount = cli.find_subcommand("mount").expect("the command `mount`");
    let mut long = Vec::new();
    if options.iter().any(|option| option == "remount") {
        let why = "an expirefs mount cannot be remounted: unmount it, and mount it again with other \
                   options";
        return Err(Wrong::Mount(why.to_owned()));
    }
    for option in options {
        let (name, value) = match option.as_bytes().iter().position(|b| *b == b'=') {
            Some(at) => (&option.as_bytes()[..at], Some(&option.as_bytes()[at..])),
            None => (option.as_bytes(), None),
        };
        let name = String::from_utf8_lossy(name).into_owned();
        if let Some(known) = find(mount, &name) {
            let known = OsString::from(format!("--{known}"));
            long.push(value.map_or(known.clone(), |value| joined_bytes(known, value)));
        } else if name == "ro" {
            if options.iter().any(|other| other == "writable") {
                return Err(Wrong::Usage("`ro` and `writable` contradict each other".to_owned()));
            }
        } else if !is_passed_over(&name) && !sloppy {
            let near = nearest(mount, &name);
            let hint = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
            return Err(Wrong::Usage(format!("unknown mount option {name:?}{hint}")));
        }
    }
    Ok(long)
}

fn joined(first: &str, second: &OsStr) -> OsString {
    joined_bytes(first.into(), second.as_bytes())
}

fn joined_bytes(mut first: OsString, second: &[u8]) -> OsString {
    first.push(OsStr::from_bytes(second));
    first
}

fn is_passed_over(name: &str) -> bool {
    name.starts_with("x-") || name.starts_with("X-") || PASSED_OVER.contains(&name)
}

fn names(mount: &Command) -> impl Iterator<Item = &str> {
    mount.get_arguments().filter_map(Arg::get_long).filter(|name| !NOT_FOR_HELPERS.contains(name))
}

/// The long option of this name; FUSE writes `allow_other`.
fn find<'a>(mount: &'a Command, name: &str) -> Option<&'a str> {
    let name = name.replace('_', "-");
    names(mount).find(|known| *known == name)
}

/// The option that looks most like `name`, if one does.
fn nearest<'a>(mount: &'a Command, name: &str) -> Option<&'a str> {
    const LOOKS_ALIKE: f64 = 0.8;
    let name = name.replace('_', "-");
    let others = names(mount).chain(["ro", "rw", "noauto", "nofail", "_netdev"]);
    let rated = others.map(|other| (strsim::jaro_winkler(&name, other), other));
    let best = rated.max_by(|(one, _), (other, _)| one.total_cmp(other));
    best.filter(|(likeness, _)| *likeness > LOOKS_ALIKE).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &[&str]) -> Result<Typed, Wrong> {
        typed(line.iter().map(OsString::from).collect())
    }

    /// The long options that an `-o` becomes.
    fn options(text: &str) -> Vec<String> {
        let typed = run(&["/sbin/mount.expirefs", "b", "/d", "-o", text]).unwrap();
        let typed = typed.arguments.into_iter().map(|arg| arg.into_string().unwrap());
        typed.skip(2).take_while(|arg| arg != "--").collect()
    }

    fn refused(line: &[&str]) -> String {
        match run(line).unwrap_err() {
            Wrong::Usage(why) | Wrong::Mount(why) => why,
        }
    }

    #[test]
    fn each_long_option_of_mount_is_an_option_of_mount8() {
        let mut cli = Cli::command();
        cli.build();
        let mount = cli.find_subcommand("mount").unwrap();
        let mut seen = 0;
        for arg in mount.get_arguments().filter(|arg| arg.get_long().is_some()) {
            let name = arg.get_long().unwrap();
            if !NOT_FOR_HELPERS.contains(&name) {
                assert_eq!(
                    options(&format!("rw,{name}=1,noauto")).last(),
                    Some(&format!("--{name}=1"))
                );
                seen += 1;
            }
        }
        assert!(seen > 40, "{seen}");
        // None of them hides one of mount(8).
        assert_eq!(names(mount).find(|name| is_passed_over(name) || *name == "ro"), None);
    }

    #[test]
    fn commas_in_values() {
        let cases = [
            ("a,b=1", vec!["a", "b=1"]),
            (r"a=1\,2,b", vec!["a=1,2", "b"]),
            (r#"a="1,2",b"#, vec!["a=1,2", "b"]),
            (r"a=\\,b", vec![r"a=\", "b"]),
            (",a,,", vec!["a"]),
            ("", vec![]),
            (r"a\", vec![r"a\"]),
        ];
        for (text, parts) in cases {
            assert_eq!(split(OsStr::new(text)), parts, "{text}");
        }
    }

    #[test]
    fn what_mount8_adds_is_passed_over() {
        let text = "rw,noauto,user,noexec,nosuid,nodev,_netdev,nofail,x-systemd.automount,X-mount.mkdir,\
                    comment=x,defaults,relatime,default_permissions,allow_other,uid=7,ttl=1h";
        assert_eq!(
            options(text),
            ["--fsname=b", "--noexec", "--allow-other", "--uid=7", "--ttl=1h"].map(str::to_owned)[..]
        );
        assert_eq!(options("fsname=x,ro"), ["--fsname=x"]);
    }

    #[test]
    fn unknown_options_are_named_with_the_nearest_unless_sloppy() {
        let line = |option| ["mount.fuse.expirefs", "b", "/d", "-o", option];
        assert_eq!(
            refused(&line("writeable")),
            r#"unknown mount option "writeable"; did you mean "writable"?"#
        );
        assert_eq!(refused(&line("zzz=1")), r#"unknown mount option "zzz""#);
        assert!(refused(&line("foreground")).starts_with("unknown mount option"));
        assert!(refused(&line("remount,ro")).contains("unmount it"));
        assert!(refused(&line("ro,writable")).contains("contradict"));
        assert!(run(&["mount.expirefs", "b", "/d", "-s", "-o", "zzz"]).is_ok());
    }

    #[test]
    fn the_command_lines_of_mount8_and_of_mount_fuse3() {
        let right: [(&[&str], bool); 4] = [
            (
                &["mount.expirefs", "s3://b/p", "/a dir", "-n", "-v", "-t", "expirefs", "-o", "rw"],
                false,
            ),
            (
                &["mount.fuse.expirefs", "-vn", "-orw", "s3://b/p", "/a dir", "-tfuse.expirefs"],
                false,
            ),
            (&["mount.expirefs", "s3://b/p", "/a dir", "-f"], true),
            (&["expirefs", "s3://b/p", "/a dir", "-o", "rw,nosuid"], false),
        ];
        for (line, fake) in right {
            let arguments = ["expirefs", "mount", "--fsname=s3://b/p", "--", "s3://b/p", "/a dir"]
                .map(OsString::from);
            let typed = Typed { arguments: arguments.into(), is_helper: true, fake };
            assert_eq!(run(line), Ok(typed), "{line:?}");
        }
        for line in [
            &["expirefs", "mount", "b", "-o", "rw"][..],
            &["expirefs", "--log", "x", "-o", "rw"],
            &["expirefs", "b", "/d"],
            &["expirefs"],
        ] {
            let arguments = line.iter().map(OsString::from).collect();
            assert_eq!(run(line), Ok(Typed { arguments, is_helper: false, fake: false }));
        }
        for line in [
            &["mount.expirefs", "b"][..],
            &["mount.expirefs", "b", "/d", "/e"],
            &["mount.expirefs", "b", "/d", "-o"],
            &["mount.expirefs", "b", "/d", "-x"],
            &["mount.expirefs", "b", "/d", "-N", "/proc/1/ns/mnt"],
        ] {
            assert!(run(line).is_err(), "{line:?}");
        }
    }
}
