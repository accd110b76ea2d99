//! An nginx with a configuration of the test.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::wait::eventually;

/// It stops when this is dropped, and with the test process.
pub struct Nginx {
    process: Child,
    port: u16,
    folder: TempDir,
}

impl Nginx {
    /// `http` and `server` are what these blocks of its configuration have besides what is needed.
    pub fn start(http: &str, server: &str) -> Nginx {
        let folder = tempfile::tempdir().expect("a folder");
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().unwrap().port();
        let at = folder.path().display();
        let config = format!(
            "daemon off; user root; worker_processes 2; pid {at}/pid; error_log {at}/error.log;
             events {{ worker_connections 256; }}
             http {{
                access_log off; client_body_temp_path {at}/body; proxy_temp_path {at}/proxy;
                fastcgi_temp_path {at}/fastcgi; uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;
                {http}
                server {{ listen 127.0.0.1:{port}; {server} }}
             }}"
        );
        let path = folder.path().join("nginx.conf");
        fs::write(&path, config).expect("its configuration");
        let places = ["/usr/sbin/nginx", "nginx"].map(Path::new);
        let program = places.into_iter().find(|path| path.exists()).unwrap_or(places[1]);
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "TERM"])
            .arg(program)
            .arg("-e")
            .arg(folder.path().join("early"));
        command.arg("-c").arg(path).stdin(Stdio::null());
        let process = command.spawn().expect("nginx");
        eventually(Duration::from_secs(20), || {
            TcpStream::connect(("127.0.0.1", port)).map_err(|e| format!("nginx: {e}"))
        });
        Nginx { process, port, folder }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The status and the body that a GET of this path gets.
    pub fn get(&self, path: &str) -> (u16, Vec<u8>) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("nginx");
        let request = format!("GET /{path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("ask nginx");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("its answer");
        let head = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
        let status = String::from_utf8_lossy(&answer[9..12]).parse().expect("a status");
        (status, answer.split_off(head))
    }

    /// What it has logged of errors and above.
    pub fn errors(&self) -> String {
        fs::read_to_string(self.folder.path().join("error.log")).expect("its log")
    }

    /// Stops it once it has served the requests that it has.
    pub fn stop(mut self) {
        self.signal(Signal::SIGQUIT);
        let status = self.process.wait().expect("its status");
        assert!(status.success(), "nginx: {status}");
    }

    fn signal(&self, signal: Signal) {
        _ = kill(Pid::from_raw(self.process.id() as i32), signal);
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // After `stop` its status is kept, and its process id may be another's.
        if self.process.try_wait().is_ok_and(|status| status.is_none()) {
            self.signal(Signal::SIGTERM);
            _ = self.process.wait();
        }
    }
}
