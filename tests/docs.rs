//! Checks the part of docs/CONFIGURATION.md that is generated from the definition of the command
//! line.
//!
//! `UPDATE_DOCS=1 cargo test --test docs` writes it.

use std::fmt::Write;
use std::path::Path;
use std::{env, fs};

use clap::{Arg, Command, CommandFactory};
use expirefs::config::args::Cli;

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
