//! `expirefs top`: a live screen of a mount, or of all mounts of the host.

mod figures;
mod model;
mod screen;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use ratatui::text::Text;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep_until};

use super::on_runtime;
use super::signals::Signals;
use crate::config::args::TopArgs;
use crate::daemon::mounts::{self, MountEntry};
use crate::daemon::{client, survey};
use crate::output::{Reader, is_screen, print};
use model::{Seen, Then, Top};

/// How long the terminal is waited for before the reader of keys checks whether it should end.
const KEYS: Duration = Duration::from_millis(100);

/// A sample may take this share of the time: the status of many open files is not free.
const SHARE: u32 = 10;

/// What is shown.
#[derive(Clone)]
enum Subject {
    /// The mount at this place: another daemon may serve it later.
    One(MountEntry),
    All,
}

pub fn run(args: &TopArgs) -> Result<ExitCode, String> {
    let subject = match &args.dir {
        Some(dir) => Subject::One(client::mount_at(dir, true)?),
        None => Subject::choose(mounts::ours()?)?,
    };
    on_runtime(1, async {
        match is_screen() {
            true => live(subject, args.interval).await?,
            false => {
                let mut top = Top::default();
                top.took(look(subject).await?, Instant::now());
                let _: Reader = print(&screen::printed(&top))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

impl Subject {
    fn choose(mut ours: Vec<MountEntry>) -> Result<Subject, String> {
        match ours.len() {
            0 => Err("no expirefs mount is on this host".to_owned()),
            1 => Ok(ours.pop().map_or(Subject::All, Subject::One)),
            _ => Ok(Subject::All),
        }
    }
}

/// One sample.
async fn look(subject: Subject) -> Result<Seen, String> {
    let Subject::One(mount) = subject else { return survey::mounts().await.map(Seen::All) };
    // The last one is on top.
    let now = mounts::ours()?.into_iter().rfind(|now| now.dir == mount.dir);
    let now = now.ok_or_else(|| format!("{} is no longer mounted", mount.dir.display()))?;
    let status = client::status(&now).await.map_err(|error| error.to_string())?;
    Ok(Seen::One(Box::new(status)))
}

/// Takes the terminal, and gives it back when it is dropped, or when this process panics.
struct Screen(DefaultTerminal);

impl Screen {
    fn take() -> io::Result<Screen> {
        ratatui::try_init().inspect_err(|_| ratatui::restore()).map(Screen)
    }

    fn draw(&mut self, top: &Top) -> io::Result<()> {
        let draw = |frame: &mut ratatui::Frame<'_>| {
            let lines = screen::lines(top, frame.area().width, frame.area().height);
            frame.render_widget(Text::from(lines), frame.area());
        };
        self.0.draw(draw).map(drop)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Shows samples until a key or a signal ends it. While the mount does not answer, the last sample stays
/// and new ones are tried.
async fn live(subject: Subject, interval: Duration) -> Result<(), String> {
    let failed = |error: io::Error| format!("the terminal: {error}");
    let mut signals = Signals::new()?;
    let mut screen = Screen::take().map_err(failed)?;
    let mut events = events();
    let (mut top, mut looking) = (Top::default(), JoinSet::new());
    let (mut began, mut next) = (Instant::now(), Instant::now());
    loop {
        screen.draw(&top).map_err(failed)?;
        tokio::select! {
            event = events.recv() => match event {
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    if top.key(key) == Then::Quit {
                        return Ok(());
                    }
                }
                Some(_) => {}
                // The terminal is gone.
                None => return Ok(()),
            },
            Some(seen) = looking.join_next() => {
                match seen {
                    Ok(Ok(seen)) => top.took(seen, Instant::now()),
                    Ok(Err(error)) => top.failed(error),
                    // The terminal was given back already.
                    Err(panic) => return Err(panic.to_string()),
                }
                next = began + interval.max(SHARE * began.elapsed());
            }
            () = sleep_until(next), if looking.is_empty() && !top.is_paused() => {
                began = Instant::now();
                looking.spawn(look(subject.clone()));
            }
            () = signals.next() => return Ok(()),
        }
    }
}

/// What comes from the terminal, until it fails or nobody receives it.
fn events() -> mpsc::UnboundedReceiver<Event> {
    let (sender, receiver) = mpsc::unbounded_channel();
    spawn_blocking(move || {
        while !sender.is_closed() {
            match event::poll(KEYS) {
                Ok(false) => {}
                Ok(true) => match event::read() {
                    Ok(event) => drop(sender.send(event)),
                    Err(_) => return,
                },
                Err(_) => return,
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_folder_the_only_mount_is_shown_or_a_table_of_all() {
        let lines = [1, 2]
            .map(|n| format!("3{n} 35 0:9{n} / /mnt{n} rw - fuse.expirefs expirefs:s3://b rw"));
        let [one, two] = lines.map(|line| mounts::parse(line.as_bytes()).unwrap());
        assert!(Subject::choose(vec![]).is_err_and(|why| why.contains("no expirefs mount")));
        let only = Subject::choose(vec![one.clone()]);
        assert!(matches!(only, Ok(Subject::One(mount)) if mount == one));
        assert!(matches!(Subject::choose(vec![one, two]), Ok(Subject::All)));
    }
}
