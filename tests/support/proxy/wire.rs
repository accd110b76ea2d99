//! The HTTP/1.1 connections of a [`super::Proxy`] to both sides, and the faults in them.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBuf;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::{Answer, Fault, Request, Shared};

/// The longest head that is accepted from either side.
const HEAD_MAX: u64 = 1 << 20;
const PIECE: usize = 64 << 10;
const TICK: Duration = Duration::from_millis(1);

/// The first line and the headers of a message.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Head {
    pub line: Vec<u8>,
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Head {
    /// The value of a header; names ignore case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let named = |(n, _): &&(Vec<u8>, Vec<u8>)| n.eq_ignore_ascii_case(name.as_bytes());
        self.headers.iter().find(named).map(|(_, value)| &value[..])
    }

    pub fn text(&self, name: &str) -> Option<String> {
        self.get(name).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    pub fn remove(&mut self, name: &str) {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name.as_bytes()));
    }

    pub fn set(&mut self, name: &str, value: &[u8]) {
        self.remove(name);
        self.headers.push((name.as_bytes().to_vec(), value.to_vec()));
    }

    fn length(&self) -> Option<u64> {
        self.text("content-length")?.trim().parse().ok()
    }

    fn is_chunked(&self) -> bool {
        self.text("transfer-encoding").is_some_and(|t| t.eq_ignore_ascii_case("chunked"))
    }

    fn says(&self, status: &[u8]) -> bool {
        self.line.windows(status.len()).any(|w| w == status)
    }

    fn closes(&self) -> bool {
        self.text("connection").is_some_and(|c| c.eq_ignore_ascii_case("close"))
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = [&self.line[..], b"\r\n"].concat();
        for (name, value) in &self.headers {
            bytes.extend([name, &b": "[..], value, b"\r\n"].concat());
        }
        bytes.extend(b"\r\n");
        bytes
    }

    /// `None` if the connection ends before its first byte.
    async fn read(from: &mut (impl AsyncBufReadExt + Unpin)) -> io::Result<Option<Head>> {
        let mut from = from.take(HEAD_MAX);
        let mut head = Head::default();
        loop {
            let mut line = Vec::new();
            from.read_until(b'\n', &mut line).await?;
            let Some(text) = line.strip_suffix(b"\n") else {
                return if head.line.is_empty() { Ok(None) } else { Err(broken("a head")) };
            };
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            if head.line.is_empty() {
                text.clone_into(&mut head.line);
            } else if text.is_empty() {
                return Ok(Some(head));
            } else {
                let colon = text.iter().position(|b| *b == b':').ok_or(broken("a header"))?;
                let (name, value) = (text[..colon].to_vec(), text[colon + 1..].trim_ascii());
                head.headers.push((name, value.to_vec()));
            }
        }
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} that is none"))
}

/// The two sides of a conversation.
struct Sides<'a> {
    shared: &'a Shared,
    client: BufReader<TcpStream>,
    server: Option<BufReader<TcpStream>>,
}

pub async fn converse(client: TcpStream, shared: &Shared) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut sides = Sides { shared, client: BufReader::new(client), server: None };
    while let Some(head) = Head::read(&mut sides.client).await? {
        let number = shared.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let script = shared.script.lock().unwrap().clone();
        let request = Request::new(number, &head);
        let fault = script(&request);
        if !sides.answer(&request, head, fault).await? {
            break;
        }
    }
    Ok(())
}

impl Sides<'_> {
    /// Whether the connection stays open.
    async fn answer(
        &mut self,
        request: &Request,
        mut head: Head,
        fault: Fault,
    ) -> io::Result<bool> {
        let name = fault.name();
        let mut body = vec![0; head.length().unwrap_or(0) as usize];
        match fault {
            Fault::Unread => {
                self.note(name);
                std::future::pending().await
            }
            Fault::ReadSlowly(every) => {
                self.note(name);
                // The kernel takes no more than this, so that the client sees how slow it is.
                setsockopt(self.client.get_ref(), RcvBuf, &PIECE)?;
                for piece in body.chunks_mut(PIECE) {
                    tokio::time::sleep(every).await;
                    self.client.read_exact(piece).await?;
                }
            }
            _ => _ = self.client.read_exact(&mut body).await?,
        }
        match &fault {
            Fault::Close => {
                self.note(name);
                return Ok(false);
            }
            Fault::Delay(time) => {
                self.note(name);
                if !pause(&mut self.client, *time).await {
                    return Ok(false);
                }
            }
            Fault::Whole => {
                if head.get("range").is_some() {
                    self.note(name);
                }
                head.remove("range");
            }
            Fault::Answer(answer) => {
                self.note(name);
                return self.say(request, answer).await;
            }
            _ => {}
        }
        let mut answer = self.ask(&head, &body).await?;
        if matches!(fault, Fault::Lose) {
            self.note(name);
            return Ok(false);
        }
        if matches!(fault, Fault::Withhold) {
            self.note(name);
            return Ok(pause(&mut self.client, Duration::MAX).await);
        }
        let bodiless = request.is_head() || [&b" 204"[..], b" 304"].iter().any(|s| answer.says(s));
        let mut chunked = None;
        if answer.is_chunked() && !bodiless {
            // Its length is known after it was received.
            let body = self.chunks().await?;
            answer.remove("transfer-encoding");
            answer.set("content-length", body.len().to_string().as_bytes());
            chunked = Some(body);
        }
        let length = if bodiless { 0 } else { answer.length().ok_or(broken("a length"))? };
        if let Fault::Rewrite(rewrite) = &fault {
            let before = answer.clone();
            rewrite.0(&mut answer);
            if answer != before {
                self.note(name);
            }
        }
        if let Fault::Cut(_) = fault {
            answer.remove("content-length");
            answer.set("connection", b"close");
        }
        self.client.write_all(&answer.bytes()).await?;

        let until = match fault {
            Fault::Reset(k)
            | Fault::Truncate(k)
            | Fault::Cut(k)
            | Fault::Stall(k)
            | Fault::Dribble(k) => k,
            Fault::HalfClose(k) if !bodiless => k.min(length),
            _ => u64::MAX,
        };
        let (before, after) = (until.min(length), length.saturating_sub(until));
        let server = self.server.as_mut().ok_or(broken("a connection"))?;
        let mut body: Box<dyn AsyncRead + Unpin + Send> = match &chunked {
            Some(bytes) => Box::new(&bytes[..]),
            None => Box::new(server),
        };
        if let Fault::Flip(at) = fault
            && at < length
        {
            copy(&mut body, &mut self.client, at).await?;
            self.client.write_all(&[body.read_u8().await? ^ 1]).await?;
            copy(&mut body, &mut self.client, length - at - 1).await?;
            self.shared.note(name);
            return Ok(!answer.closes());
        }
        copy(&mut body, &mut self.client, before).await?;
        if after == 0 && !matches!(fault, Fault::HalfClose(_) if !bodiless) {
            return Ok(!answer.closes());
        }
        self.shared.note(name);
        match fault {
            Fault::Reset(_) => {
                // Unsent bytes would be lost.
                while unsent(self.client.get_ref())? > 0 && pause(&mut self.client, TICK).await {}
                self.client.get_ref().set_zero_linger()?;
            }
            Fault::HalfClose(_) => {
                self.client.shutdown().await?;
                _ = pause(&mut self.client, Duration::MAX).await;
            }
            Fault::Stall(_) => _ = pause(&mut self.client, Duration::MAX).await,
            Fault::Dribble(_) => {
                for _ in 0..after {
                    if !pause(&mut self.client, Duration::from_secs(1)).await {
                        break;
                    }
                    copy(&mut body, &mut self.client, 1).await?;
                }
            }
            _ => {}
        }
        Ok(false)
    }

    /// Forwards the request, and reads the head of the response. Reconnects if the server has
    /// closed the connection.
    async fn ask(&mut self, head: &Head, body: &[u8]) -> io::Result<Head> {
        let message = [&head.bytes(), body].concat();
        if let Some(mut server) = self.server.take()
            && server.write_all(&message).await.is_ok()
            && let Ok(Some(answer)) = Head::read(&mut server).await
        {
            self.server = Some(server);
            return Ok(answer);
        }
        let mut server = BufReader::new(TcpStream::connect(&self.shared.upstream).await?);
        server.get_ref().set_nodelay(true)?;
        server.write_all(&message).await?;
        let answer = Head::read(&mut server).await?.ok_or(broken("an answer"))?;
        self.server = Some(server);
        Ok(answer)
    }

    async fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let server = self.server.as_mut().ok_or(broken("a connection"))?;
        let mut body = Vec::new();
        loop {
            let mut line = String::new();
            server.read_line(&mut line).await?;
            let size = line.trim().split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(size, 16).map_err(|_| broken("a chunk"))?;
            let got = (&mut *server).take(size).read_to_end(&mut body).await?;
            if got as u64 != size || server.read_line(&mut line).await? == 0 {
                return Err(broken("a chunk"));
            }
            if size == 0 {
                return Ok(body);
            }
        }
    }

    async fn say(&mut self, request: &Request, answer: &Answer) -> io::Result<bool> {
        let mut head = answer.head.clone();
        let lives = head.get("content-length").is_none();
        if lives {
            let length = answer.body.len() as u64 * answer.times;
            head.set("content-length", length.to_string().as_bytes());
        }
        self.client.write_all(&head.bytes()).await?;
        if !request.is_head() {
            for _ in 0..answer.times {
                self.client.write_all(&answer.body).await?;
            }
        }
        Ok(lives)
    }

    fn note(&self, kind: &'static str) {
        self.shared.note(kind);
    }
}

/// Waits; `false` if the client has closed meanwhile.
async fn pause(client: &mut BufReader<TcpStream>, time: Duration) -> bool {
    // A client that waits for a response sends nothing: a read returns only at its end.
    let mut nothing = [0; 1];
    tokio::time::timeout(time, client.read(&mut nothing)).await.is_err()
}

/// Bytes that the client's side has not acknowledged (tcp(7), SIOCOUTQ).
fn unsent(client: &TcpStream) -> io::Result<i32> {
    let mut bytes = 0;
    // SAFETY: the descriptor is open, and the kernel writes one int.
    match unsafe { libc::ioctl(client.as_raw_fd(), libc::TIOCOUTQ, &mut bytes) } {
        0 => Ok(bytes),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Exactly `count` bytes.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut BufReader<TcpStream>,
    mut count: u64,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    while count > 0 {
        let most = piece.len().min(usize::try_from(count).unwrap_or(usize::MAX));
        let n = from.read(&mut piece[..most]).await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_all(&piece[..n]).await?;
        count -= n as u64;
    }
    Ok(())
}
