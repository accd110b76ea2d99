//! One HTTP request over a socket of its own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A response: its head, and its body.
pub struct Got {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// `at`: HOST:PORT; `headers`: lines, each with its end.
pub fn ask(at: &str, method: &str, path: &str, headers: &str) -> Result<Got, String> {
    let mut stream = TcpStream::connect(at).map_err(|e| format!("{at}: {e}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(|e| e.to_string())?;
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).map_err(|e| e.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|e| e.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(format!("no head: {answer:?}"))?;
    let status = head.get(9..12).and_then(|status| status.parse().ok());
    let status = status.ok_or(format!("no status: {head:?}"))?;
    Ok(Got { status, head: head.to_lowercase(), body: body.to_owned() })
}

pub fn get(at: &str, path: &str) -> Got {
    ask(at, "GET", path, "").unwrap_or_else(|error| panic!("{path}: {error}"))
}
