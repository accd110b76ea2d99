//! An HTTP proxy as companies have them: CONNECT for https, absolute URLs for http.

use std::io::{BufRead, BufReader, Read, Write, copy};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What it does with each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    Forward,
    /// Answers with this status line.
    Answer(&'static str),
    /// Answers nothing, and keeps the connection.
    Hang,
    /// Closes the connection.
    Close,
}

/// Runs as long as the tests do.
pub struct Forward {
    pub port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Forward {
    pub fn start(does: Does) -> Forward {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("its port").port();
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let seen = heads.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let seen = seen.clone();
                thread::spawn(move || serve(client, does, &seen));
            }
        });
        Forward { port, heads }
    }

    /// Its URL, with a user name and a password.
    pub fn url(&self) -> String {
        format!("http://user:secret-word@127.0.0.1:{}", self.port)
    }

    /// The first lines of the requests so far, without `HTTP/1.1`.
    pub fn requests(&self) -> Vec<String> {
        let first = |head: &String| {
            let line = head.lines().next().unwrap_or_default();
            line.trim_end_matches(" HTTP/1.1").to_owned()
        };
        self.heads.lock().expect("no panic").iter().map(first).collect()
    }

    /// The heads of the requests so far.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("no panic").clone()
    }
}

/// Only the first request of a connection is recorded.
fn serve(client: TcpStream, does: Does, heads: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(client.try_clone().expect("a socket"));
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if !matches!(reader.read_line(&mut head), Ok(1..)) {
            return;
        }
    }
    heads.lock().expect("no panic").push(head.clone());
    let mut client = client;
    match does {
        Does::Close => return,
        Does::Hang => {
            let _ = reader.read_to_end(&mut Vec::new());
            return;
        }
        Does::Answer(status) => {
            let _ = client
                .write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes());
            return;
        }
        Does::Forward => {}
    }
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let host = target.strip_prefix("http://").unwrap_or(target).split('/').next();
    let Ok(mut server) = TcpStream::connect(host.expect("a host")) else { return };
    match method {
        "CONNECT" => {
            let _ = client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n");
        }
        _ => {
            let _ = server.write_all(head.as_bytes());
        }
    }
    let mut back = server.try_clone().expect("a socket");
    thread::spawn(move || {
        let _ = copy(&mut back, &mut client);
        let _ = client.shutdown(Shutdown::Both);
    });
    let _ = copy(&mut reader, &mut server);
    let _ = server.shutdown(Shutdown::Both);
}
