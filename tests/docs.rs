//! Checks what is generated from the definition of the command line: a part of
//! docs/CONFIGURATION.md, and the man pages and completions in scripts/package.
//!
//! `UPDATE_DOCS=1 cargo test --test docs` writes it.

use std::fmt::Write;
use std::path::Path;
use std::process::Command as Process;
use std::{env, fs};

use clap::{Arg, Command, CommandFactory};
use expirefs::config::args::Cli;

#[path = "docs/metrics.rs"]
mod metrics;
#[path = "docs/packaged.rs"]
mod packaged;

/// The only man page that is not generated.
const BY_HAND: &str = "man/mount.expirefs.8";

/// The text after this line is generated here.
const MARK: &str = "<!-- Below this line: made by `UPDATE_DOCS=1 cargo test --test docs`. -->\n";

#[test]
fn configuration_lists_every_option_of_every_command() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/CONFIGURATION.md");
    let page = fs::read_to_string(&path).expect("docs/CONFIGURATION.md");
    let (by_hand, _) = page.split_once(MARK).expect("the line below which it is made");
    let made = format!("{by_hand}{MARK}{}", commands());
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, made).expect("docs/CONFIGURATION.md is written");
    } else {
        let different = page.lines().zip(made.lines()).find(|(is, should)| is != should);
        assert!(
            page == made,
            "docs/CONFIGURATION.md is outdated; set UPDATE_DOCS=1: {different:#?}"
        );
    }
}

#[test]
fn man_pages_and_completions_are_those_of_the_command_line() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let package = root.join("scripts/package");
    let page = fs::read_to_string(root.join("docs/CONFIGURATION.md")).expect("the page");
    let files = packaged::files(&Cli::command(), &page);
    for folder in ["man", "completions"] {
        for entry in fs::read_dir(package.join(folder)).expect("a folder") {
            let name = format!("{folder}/{}", entry.expect("an entry").file_name().display());
            let made = name == BY_HAND || files.iter().any(|(made, _)| *made == name);
            assert!(made, "scripts/package/{name} is of no command: remove it");
        }
    }
    for (name, made) in files {
        let path = package.join(&name);
        if env::var_os("UPDATE_DOCS").is_some() {
            fs::write(&path, made).unwrap_or_else(|e| panic!("{name}: {e}"));
        } else {
            let current = fs::read(&path).is_ok_and(|is| is == made);
            assert!(current, "scripts/package/{name} is outdated; set UPDATE_DOCS=1");
        }
    }
}

#[test]
fn bash_completes_commands_options_and_values() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/package/completions/expirefs");
    // As bash calls it: with the command, the word to complete and the word before it.
    let script = r#"
        compopt() { :; } # works only in a completion that bash itself has begun
        source "$1"; shift
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        _expirefs expirefs "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        echo "${COMPREPLY[@]}""#;
    let completed = |words: &[&str]| {
        let bash = Process::new("bash").args(["-uc", script, "bash", file]).args(words).output();
        let bash = bash.expect("bash runs");
        assert!(bash.status.success() && bash.stderr.is_empty(), "{bash:?}");
        String::from_utf8(bash.stdout).expect("UTF-8").trim().to_owned()
    };
    assert_eq!(completed(&["expirefs", "um"]), "umount");
    assert_eq!(completed(&["expirefs", "mount", "b", "/", "--repl"]), "--replace-dead");
    assert_eq!(completed(&["expirefs", "mount", "--ls", ""]), "exact lazy");
    let part = file.strip_suffix("/completions/expirefs").expect("as above").to_owned() + "/compl";
    let whole = part.clone() + "etions";
    assert_eq!(completed(&["expirefs", "sweep", "s3://b", "--state", &part]), whole);
    assert_eq!(completed(&["expirefs", "demo", "--ex"]), "", "packages do not have the demo");
    assert_eq!(completed(&["expirefs", "mount", "b", "/", "--pool"]), "", "it is hidden");
}

fn commands() -> String {
    let mut cli = Cli::command();
    cli.build();
    let mut text = String::new();
    let global: Vec<&Arg> = cli.get_arguments().filter(|arg| arg.is_global_set()).collect();
    section(&mut text, "\n## Options of every command\n", &global);
    for command in cli.get_subcommands().filter(|command| command.get_name() != "help") {
        describe(&mut text, command);
    }
    text
}

fn describe(text: &mut String, command: &Command) {
    let arguments: Vec<&Arg> = command
        .get_arguments()
        .filter(|arg| !arg.is_global_set() && !arg.is_hide_set() && arg.get_id() != "help")
        .collect();
    let about = command.get_about().expect("what the command does");
    let names: Vec<String> =
        arguments.iter().filter(|arg| arg.is_positional()).map(|arg| format!(" {arg}")).collect();
    let _ = write!(text, "\n## `expirefs {}{}`\n\n{about}.\n", command.get_name(), names.concat());
    let mut headings: Vec<Option<&str>> = Vec::new();
    for argument in &arguments {
        if !headings.contains(&argument.get_help_heading()) {
            headings.push(argument.get_help_heading());
        }
    }
    for heading in headings {
        let title = heading.map(|heading| format!("\n### {heading}\n")).unwrap_or_default();
        let under: Vec<&Arg> =
            arguments.iter().copied().filter(|arg| arg.get_help_heading() == heading).collect();
        section(text, &title, &under);
    }
}

fn section(text: &mut String, title: &str, arguments: &[&Arg]) {
    let _ = write!(text, "{title}\n| option | default | meaning |\n|---|---|---|\n");
    for argument in arguments {
        let _ = writeln!(text, "{}", row(argument).replace('\n', " "));
    }
}

fn row(argument: &Arg) -> String {
    let help = argument.get_long_help().or(argument.get_help()).expect("a help text").to_string();
    let (meaning, stated) = match help.split_once(" [default: ") {
        Some((meaning, default)) => (meaning, Some(default.trim_end_matches(']').to_owned())),
        None => (help.as_str(), None),
    };
    let mut meaning = format!("{meaning}.");
    let mut default = Some("off".to_owned());
    if argument.get_action().takes_values() {
        let value = argument.get_default_values().first();
        default = value.map(|value| format!("`{}`", value.to_string_lossy())).or(stated);
        for value in argument.get_possible_values() {
            let help = value.get_help().map(|help| format!(": {help}")).unwrap_or_default();
            let _ = write!(meaning, " `{}`{help}.", value.get_name());
        }
    }
    if let Some(variable) = argument.get_env() {
        let _ = write!(meaning, " Environment: `{}`.", variable.to_string_lossy());
    }
    let short = argument.get_short().map(|short| format!("-{short}, ")).unwrap_or_default();
    let name = argument.to_string().replace('|', "\\|");
    format!(
        "| `{short}{name}` | {} | {} |",
        default.unwrap_or_default(),
        meaning.replace('|', "\\|")
    )
}
