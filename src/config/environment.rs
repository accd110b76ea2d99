//! The environment of a daemon: variables that it is given, and paths that keep their meaning when it
//! changes its working directory.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{self, Path};

use nix::unistd::{Uid, User};

/// The variables of the AWS SDKs and of TLS that name a file, of which some are read again and again.
const PATHS: [&str; 7] = [
    "AWS_CA_BUNDLE",
    "AWS_CONFIG_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
];

/// Whether a service manager wants to be told of this process (sd_notify(3)).
pub fn is_supervised() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// What a daemon has in addition to the environment of this process, or in place of it: the variables
/// of `file` (`--env-file`), absolute paths, and HOME, which is missing if init(1) mounts.
///
/// # Errors
/// If the file cannot be read, in words for the operator.
pub fn of_a_daemon(file: Option<&Path>) -> Result<BTreeMap<OsString, OsString>, String> {
    let mut given = BTreeMap::new();
    if let Some(file) = file {
        let failed = |why: String| format!("--env-file {}: {why}", file.display());
        let text = fs::read_to_string(file).map_err(|e: io::Error| failed(e.to_string()))?;
        for (number, line) in text.lines().enumerate() {
            let wrong = || failed(format!("line {} is not NAME=VALUE", number + 1));
            match line.trim() {
                "" => {}
                comment if comment.starts_with(['#', ';']) => {}
                line => {
                    let (name, value) = variable(line).ok_or_else(wrong)?;
                    given.insert(name.into(), value.into());
                }
            }
        }
    }
    for name in PATHS {
        let value = given.get(OsStr::new(name)).cloned().or_else(|| std::env::var_os(name));
        let relative = value.filter(|value| !value.is_empty() && Path::new(value).is_relative());
        if let Some(path) = relative.and_then(|relative| path::absolute(relative).ok()) {
            given.insert(name.into(), path.into());
        }
    }
    if std::env::var_os("HOME").is_none()
        && let Ok(Some(user)) = User::from_uid(Uid::current())
    {
        given.entry("HOME".into()).or_insert(user.dir.into());
    }
    Ok(given)
}

/// A line as in the EnvironmentFile of systemd.exec(5), where quotes may surround a value; nothing in it
/// is expanded.
fn variable(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once('=')?;
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let value = value.trim();
    let quoted =
        ['"', '\''].into_iter().find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
    (!name.is_empty() && name.chars().all(legal)).then_some((name, quoted.unwrap_or(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("env");
        let text = "# comment\n\n; another\nAWS_REGION=eu-west-1\nA=\"b c\"\nB='$x'\nC=x=y # z\nD=\n\
                    AWS_CA_BUNDLE=ca.pem\n";
        fs::write(&path, text).unwrap();
        let given = of_a_daemon(Some(&path)).unwrap();
        let get = |name: &str| given.get(OsStr::new(name)).and_then(|value| value.to_str());
        let here = path::absolute("ca.pem").unwrap();
        let expected = [
            ("AWS_REGION", Some("eu-west-1")),
            ("A", Some("b c")),
            ("B", Some("$x")),
            ("C", Some("x=y # z")),
            ("D", Some("")),
            ("AWS_CA_BUNDLE", here.to_str()),
        ];
        for (name, value) in expected {
            assert_eq!(get(name), value, "{name}");
        }
        for wrong in ["x", "=x", "a b=c", "export A=b"] {
            fs::write(&path, format!("A=b\n{wrong}\n")).unwrap();
            assert!(of_a_daemon(Some(&path)).unwrap_err().contains("line 2"), "{wrong}");
        }
        assert!(
            of_a_daemon(Some(&folder.path().join("absent"))).unwrap_err().contains("--env-file")
        );
    }
}
