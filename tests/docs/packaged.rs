//! Man pages and completions, as packages install them.

use clap::{ArgGroup, Command};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

/// Of the man pages: when what they say changed last in a release.
const DATE: &str = "2026-11-26";

/// What belongs in scripts/package, by its path there.
pub fn files(cli: &Command, configuration: &str) -> Vec<(String, Vec<u8>)> {
    let mut cli = shown(cli);
    let mut files = Vec::new();
    for (shell, name) in
        [(Shell::Bash, "expirefs"), (Shell::Zsh, "_expirefs"), (Shell::Fish, "expirefs.fish")]
    {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut cli.clone(), "expirefs", &mut text);
        files.push((format!("completions/{name}"), text));
    }
    cli = cli.disable_help_subcommand(true);
    cli.build();
    files.push(page(&cli, &[exit_status(configuration), environment(), see_also("", &cli)]));
    for command in cli.get_subcommands() {
        files.push(page(command, &[see_also(command.get_name(), &cli)]));
    }
    files
}

/// The command without what is hidden, and without the demo, which packages do not have.
fn shown(command: &Command) -> Command {
    let mut shown = Command::new(&*command.get_name().to_owned().leak())
        .args(command.get_arguments().filter(|arg| !arg.is_hide_set()))
        .subcommands(
            command
                .get_subcommands()
                .filter(|command| !command.is_hide_set() && command.get_name() != "demo")
                .map(shown),
        )
        .groups(command.get_groups().filter(|group| group.is_required_set()).map(|group| {
            ArgGroup::new(group.get_id().clone()).args(group.get_args().cloned()).required(true)
        }))
        .subcommand_required(command.is_subcommand_required_set());
    if let Some(about) = command.get_about() {
        shown = shown.about(about.clone());
    }
    if command.get_version().is_some() {
        shown = shown.version(env!("CARGO_PKG_VERSION"));
    }
    shown
}

fn page(command: &Command, more: &[Roff]) -> (String, Vec<u8>) {
    let man = Man::new(command.clone())
        .date(DATE)
        .source(concat!("expirefs ", env!("CARGO_PKG_VERSION")))
        .manual("expirefs");
    let mut text = Vec::new();
    let written = man
        .render_title(&mut text)
        .and_then(|()| man.render_name_section(&mut text))
        .and_then(|()| man.render_synopsis_section(&mut text))
        .and_then(|()| man.render_description_section(&mut text))
        .and_then(|()| man.render_options_section(&mut text))
        .and_then(|()| match command.has_subcommands() {
            true => man.render_subcommands_section(&mut text),
            false => Ok(()),
        })
        .and_then(|()| more.iter().try_for_each(|section| section.to_writer(&mut text)));
    written.expect("memory can be written");
    // An empty line between two breaks is not portable (mandoc -Tlint).
    let text = String::from_utf8(text).expect("UTF-8").replace("\n.br\n\n.br\n", "\n.sp\n");
    (format!("man/{}", man.get_filename()), text.into_bytes())
}

/// As the table of docs/CONFIGURATION.md says.
fn exit_status(configuration: &str) -> Roff {
    let mut section = Roff::new();
    section.control("SH", ["EXIT STATUS"]);
    let table = configuration.split("## Exit status").nth(1).expect("a section on exit status");
    let rows = table.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    for row in rows.take_while(|line| line.starts_with('|')) {
        let (status, meaning) =
            row.trim_matches(['|', ' ']).split_once(" | ").expect("a row of two columns");
        section.control("TP", []).text([bold(status)]).text([roman(meaning.replace('`', ""))]);
    }
    section
}

fn environment() -> Roff {
    let mut section = Roff::new();
    section.control("SH", ["ENVIRONMENT"]);
    for (names, meaning) in [
        ("EXPIREFS_LOG", "The default of --log."),
        (
            "AWS_*",
            "Credentials, region, profile and endpoint, and the files that have them, as for the \
             AWS CLI.",
        ),
    ] {
        section.control("TP", []).text([bold(names)]).text([roman(meaning)]);
    }
    section
}

fn see_also(name: &str, cli: &Command) -> Roff {
    let others = cli.get_subcommands().map(|command| command.get_name());
    let mut pages = vec!["expirefs(1)".to_owned()];
    pages.extend(others.map(|name| format!("expirefs-{name}(1)")));
    let own =
        if name.is_empty() { "expirefs(1)".to_owned() } else { format!("expirefs-{name}(1)") };
    pages.retain(|page| *page != own);
    pages.extend(["mount.expirefs(8)".to_owned(), "fusermount3(1)".to_owned()]);
    let mut section = Roff::new();
    section.control("SH", ["SEE ALSO"]).text([roman(pages.join(", "))]);
    section
}
