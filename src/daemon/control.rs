//! The daemon's end of the control socket, which serves `status`, `explain` and `umount`.
//!
//! The socket lies in a directory that only its owner may enter, is named after the device number of
//! the mount, and is removed with it.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nix::unistd::Uid;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::bucket::explain::Explanation;
use crate::daemon::mounts::MountEntry;
use crate::daemon::places::{self, Silence};
use crate::daemon::protocol::{self, LONGEST, Reply, Request, socket_of};
use crate::daemon::runtime_dir;
use crate::daemon::status::Status;

/// Clients served at the same time. Each uses a descriptor, and so does one that waits for a place;
/// the budget counts four.
const CLIENTS: usize = 3;

/// A client that sends or receives nothing for this long is disconnected.
const CLIENT_PATIENCE: Duration = Duration::from_secs(5);

/// The requests that a mount answers by itself. Unmounting is left to the owner of the [`Server`].
#[async_trait]
pub trait Service: Send + Sync + 'static {
    fn status(&self) -> Status;

    /// The same without the open handles.
    fn summary(&self) -> Status;

    /// Changes the filter of the log if there is a new one. Returns the one in force.
    fn log_filter(&self, new: Option<&str>) -> Reply<String>;

    /// Explains why the name at this path below the mount point is visible or not.
    async fn explain(&self, path: &str) -> Reply<Explanation>;
}

/// A client that waits for its one reply.
struct Client(UnixStream);

impl Client {
    async fn tell<T: Serialize>(self, reply: &Reply<T>) -> io::Result<()> {
        let text = serde_json::to_string(reply)?;
        self.say(&text).await
    }

    async fn say(mut self, text: &str) -> io::Result<()> {
        timeout(CLIENT_PATIENCE, self.0.write_all(text.as_bytes())).await?
    }
}

/// The socket and its clients. Dropping it removes the socket and disconnects the clients.
pub struct Server {
    path: PathBuf,
    inode: u64,
    clients: JoinSet<()>,
    asked_to_unmount: mpsc::UnboundedReceiver<Client>,
    waiting: Vec<Client>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // The next mount may have the device number already, and its socket in place of ours.
        if inode_of(&self.path).is_ok_and(|inode| inode == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
        // It fails if other daemons of the user have sockets in it.
        let _ = self.path.parent().map(fs::remove_dir);
    }
}

impl Server {
    /// Listens for the mount.
    ///
    /// # Errors
    /// If there is no folder for the socket, or no socket can be made in it.
    pub fn start(mount: &MountEntry, service: Arc<dyn Service>) -> io::Result<Server> {
        let (path, listener) = listen(mount)?;
        let inode = inode_of(&path)?;
        let (unmount, asked_to_unmount) = mpsc::unbounded_channel();
        let mut clients = JoinSet::new();
        clients.spawn(accept(listener, service, unmount));
        Ok(Server { path, inode, clients, asked_to_unmount, waiting: Vec::new() })
    }

    /// Waits until a client has requested to unmount.
    pub async fn until_asked_to_unmount(&mut self) {
        match self.asked_to_unmount.recv().await {
            Some(client) => self.waiting.push(client),
            // The listener has ended: no request will come.
            None => std::future::pending().await,
        }
    }

    /// Ends, and sends the outcome to all clients that asked to unmount.
    pub async fn stop(mut self, outcome: &Reply<()>) {
        self.clients.shutdown().await;
        while let Ok(client) = self.asked_to_unmount.try_recv() {
            self.waiting.push(client);
        }
        let waiting = std::mem::take(&mut self.waiting);
        // The socket is removed before the replies, so that a client finds none after its reply.
        drop(self);
        for client in waiting {
            let _ = client.tell(outcome).await;
        }
    }
}

fn inode_of(path: &Path) -> io::Result<u64> {
    fs::symlink_metadata(path).map(|meta| meta.ino())
}

/// Serves all clients that connect, until it is dropped.
async fn accept(
    listener: UnixListener,
    service: Arc<dyn Service>,
    unmount: mpsc::UnboundedSender<Client>,
) {
    let slow = Arc::new(Semaphore::new(CLIENTS - 1));
    let talk = |client, silence| {
        let (service, slow, unmount) = (service.clone(), slow.clone(), unmount.clone());
        async move {
            // A broken connection concerns only the client.
            let _ = serve(client, &silence, &*service, &slow, &unmount).await;
        }
    };
    places::serve(listener, CLIENTS, talk).await;
}

fn listen(mount: &MountEntry) -> io::Result<(PathBuf, UnixListener)> {
    if mount.device.is_empty() {
        return Err(io::Error::other("the number of the FUSE connection is unknown"));
    }
    let dirs = runtime_dir::of_this_user();
    let mut tries = 0;
    loop {
        let path = socket_of(runtime_dir::create(&dirs, Uid::effective())?, mount);
        // The device number is ours now: a socket of this name was left by a crash.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        tries += 1;
        let listener = match UnixListener::bind(&path) {
            // Another daemon has ended and removed the empty folder.
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries < 10 => continue,
            other => {
                other.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?
            }
        };
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        return Ok((path, listener));
    }
}

async fn serve(
    client: UnixStream,
    silence: &Silence,
    service: &dyn Service,
    slow: &Semaphore,
    unmount: &mpsc::UnboundedSender<Client>,
) -> io::Result<()> {
    let mut client = BufReader::new(client.take(LONGEST));
    let mut line = String::new();
    timeout(CLIENT_PATIENCE, client.read_line(&mut line)).await??;
    if !silence.end() {
        return Ok(());
    }
    let client = Client(client.into_inner().into_inner());
    match protocol::decode(&line) {
        Ok(Request::Status) => client.tell(&Ok(service.status())).await,
        Ok(Request::Summary) => client.tell(&Ok(service.summary())).await,
        Ok(Request::Log(new)) => client.tell(&service.log_filter(new.as_deref())).await,
        Ok(Request::Explain(path)) => {
            // One place stays free for `status`.
            let Ok(_turn) = slow.try_acquire() else {
                let busy = "too many `explain` requests at the same time: try again";
                return client.tell(&Reply::<Explanation>::Err(busy.to_owned())).await;
            };
            client.tell(&service.explain(&path).await).await
        }
        Ok(Request::Unmount) => {
            // If the receiver is gone, the mount and the socket are ending.
            let _ = unmount.send(client);
            Ok(())
        }
        Err(text) => client.say(&text).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Mute;

    #[async_trait]
    impl Service for Mute {
        fn status(&self) -> Status {
            unreachable!()
        }

        fn summary(&self) -> Status {
            unreachable!()
        }

        fn log_filter(&self, new: Option<&str>) -> Reply<String> {
            Ok(new.unwrap_or("old").to_owned())
        }

        async fn explain(&self, path: &str) -> Reply<Explanation> {
            Err(format!("{path}: no"))
        }
    }

    /// The reply to this line, with `slow` places for slow requests, and whether the client waits
    /// for the mount to be unmounted.
    async fn asked(line: &str, slow: usize) -> (String, bool) {
        let (mut client, server) = UnixStream::pair().unwrap();
        let (unmount, mut waiting) = mpsc::unbounded_channel();
        client.write_all(line.as_bytes()).await.unwrap();
        let silence = Silence::new();
        serve(server, &silence, &Mute, &Semaphore::new(slow), &unmount).await.unwrap();
        assert!(!silence.lasts());
        let waits = match waiting.try_recv() {
            Ok(client) => client.tell(&Reply::<()>::Err("busy".into())).await.is_ok(),
            Err(_) => false,
        };
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        (answer, waits)
    }

    #[tokio::test]
    async fn each_request_gets_its_answer() {
        let explain = protocol::encode(&Request::Explain("a/b".into())).unwrap();
        assert_eq!(asked(&explain, 1).await, (r#"{"Err":"a/b: no"}"#.into(), false));
        let (busy, _) = asked(&explain, 0).await;
        assert!(busy.starts_with(r#"{"Err":""#) && busy.contains("try again"), "{busy}");
        for (new, answer) in [(None, "old"), (Some("new"), "new")] {
            let log = protocol::encode(&Request::Log(new.map(str::to_owned))).unwrap();
            assert_eq!(asked(&log, 0).await, (format!(r#"{{"Ok":"{answer}"}}"#), false));
        }
        let unmount = protocol::encode(&Request::Unmount).unwrap();
        assert_eq!(asked(&unmount, 1).await, (r#"{"Err":"busy"}"#.into(), true));
        for line in ["\n", "\"unmount\"\n"] {
            let (answer, waits) = asked(line, 1).await;
            assert!(answer.ends_with('\n') && !waits, "{line}: {answer}");
        }
    }
}
