//! A TLS server in front of a plain HTTP server.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::tools::shell;

/// A private authority, and its certificate for this host.
const CERTIFICATES: &str = "
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority \
        -keyout authority.key -out authority.pem 2>/dev/null
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost \
        -keyout server.key -out server.csr 2>/dev/null
    printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\n' > server.ext
    openssl x509 -req -in server.csr -CA authority.pem -CAkey authority.key -set_serial 1 -days 2 \
        -extfile server.ext -out server.pem 2>/dev/null";

/// Accepts TLS connections, and forwards their data to the given port.
const FORWARD: &str = r"
import socket, ssl, sys, threading
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('server.pem', 'server.key')
def copy(a, b):
    try:
        while data := a.recv(65536):
            b.sendall(data)
    except OSError:
        pass
    for end in a, b:
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
def serve(plain):
    if plain.recv(1, socket.MSG_PEEK) != b'\x16':
        plain.recv(65536)
        plain.sendall(bytes.fromhex(sys.argv[2]))
        return plain.close()
    try:
        a = context.wrap_socket(plain, server_side=True)
    except OSError:
        return plain.close()
    b = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
    for pair in (a, b), (b, a):
        threading.Thread(target=copy, args=pair, daemon=True).start()
listener = socket.create_server(('127.0.0.1', 0))
print(listener.getsockname()[1], flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
";

/// The response of a TLS server to plain HTTP.
#[derive(Clone, Copy, Debug)]
pub enum ToPlain {
    /// An alert of TLS (RFC 8446 §6).
    Alert,
    /// 400, as servers written in Go.
    BadRequest,
    /// 400, as nginx.
    Nginx,
}

/// Stopped on drop.
pub struct Tls {
    child: Child,
    folder: TempDir,
    pub port: u16,
}

impl Tls {
    /// In front of a server on this port of the loopback interface.
    pub fn before(port: u16, to_plain: ToPlain) -> Tls {
        let answer = match to_plain {
            ToPlain::Alert => b"\x15\x03\x01\0\x02\x02\x46".as_slice(),
            ToPlain::Nginx => {
                b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\nContent-Type: text/html\r\n\
                  Content-Length: 89\r\nConnection: close\r\n\r\n<html><head><title>400</title></head>\
                  The plain HTTP request was sent to HTTPS port</html>"
            }
            ToPlain::BadRequest => b"HTTP/1.0 400 Bad Request\r\n\r\nThis is HTTPS.\n",
        };
        let answer: String = answer.iter().map(|byte| format!("{byte:02x}")).collect();
        let folder = tempfile::tempdir().expect("a folder");
        shell(folder.path(), CERTIFICATES);
        fs::write(folder.path().join("forward.py"), FORWARD).expect("a file");
        let mut python = Command::new("python3");
        python.args(["forward.py", &port.to_string(), &answer]).current_dir(folder.path());
        python.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = python.spawn().expect("python3");
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
        output.read_line(&mut line).expect("its port");
        let port = line.trim().parse().expect("a port");
        Tls { child, folder, port }
    }

    /// The certificate and the key of the server, in PEM.
    pub fn certificate_and_key(&self) -> [PathBuf; 2] {
        ["server.pem", "server.key"].map(|name| self.folder.path().join(name))
    }

    /// The authority's certificate, in PEM.
    pub fn authority(&self) -> PathBuf {
        self.folder.path().join("authority.pem")
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
