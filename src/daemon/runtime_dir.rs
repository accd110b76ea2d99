//! The folder in which the daemons of a user keep their control sockets: its mode is 0700, and no
//! other user can create or replace it.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

/// Where sockets of this user's daemons may be, in order of preference.
pub fn of_this_user() -> Vec<PathBuf> {
    candidates(std::env::var_os("XDG_RUNTIME_DIR").map(Into::into), Uid::effective())
}

/// Where it may be, in order of preference. A daemon uses the first place that it can; a client
/// looks at all of them, since its environment may differ from the daemon's.
fn candidates(xdg_runtime_dir: Option<PathBuf>, user: Uid) -> Vec<PathBuf> {
    let system = match user.is_root() {
        true => PathBuf::from("/run"),
        false => PathBuf::from(format!("/run/user/{user}")),
    };
    // A relative path is invalid and must be ignored (XDG Base Directory Specification).
    let given = xdg_runtime_dir.filter(|dir| dir.is_absolute());
    let mut found: Vec<_> =
        given.into_iter().chain([system]).map(|dir| dir.join("expirefs")).collect();
    found.push(format!("/tmp/expirefs-{user}").into());
    found.dedup();
    found
}

/// Makes the folder at the first place that this user can use.
///
/// # Errors
/// If there is none, or the folder there is not private.
pub fn create(candidates: &[PathBuf], user: Uid) -> io::Result<&Path> {
    let place = candidates.iter().find(|dir| dir.parent().is_some_and(|p| is_safe(p, user)));
    let dir = place.ok_or_else(|| io::Error::other("no directory for its folder"))?;
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", dir.display())))?,
    }
    match is_private(dir, user) {
        true => Ok(dir),
        false => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{} is not a folder of user {user} with mode 0700", dir.display()),
        )),
    }
}

/// Whether a folder in `dir` cannot be replaced by others: it is this user's, or root's and sticky.
fn is_safe(dir: &Path, user: Uid) -> bool {
    fs::metadata(dir).is_ok_and(|meta| {
        let sticky = meta.mode() & libc::S_ISVTX != 0 && meta.uid() == 0;
        meta.is_dir() && (meta.uid() == user.as_raw() || sticky)
    })
}

/// Whether it is a folder, not a link, that only this user may access.
pub fn is_private(dir: &Path, user: Uid) -> bool {
    fs::symlink_metadata(dir)
        .is_ok_and(|meta| meta.is_dir() && meta.uid() == user.as_raw() && meta.mode() & 0o077 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn the_environment_comes_first_and_tmp_last() {
        let paths = |xdg: Option<&str>, user| -> Vec<String> {
            let found = candidates(xdg.map(PathBuf::from), Uid::from_raw(user));
            found.iter().map(|dir| dir.display().to_string()).collect()
        };
        let without = ["/run/user/7/expirefs", "/tmp/expirefs-7"];
        assert_eq!(paths(None, 7), without);
        assert_eq!(paths(Some("relative"), 7), without);
        assert_eq!(paths(Some("/run/user/7"), 7), without);
        assert_eq!(paths(Some("/x"), 7), ["/x/expirefs", without[0], without[1]]);
        assert_eq!(paths(None, 0), ["/run/expirefs", "/tmp/expirefs-0"]);
    }

    #[test]
    fn the_first_place_of_this_user_is_taken() {
        let user = Uid::effective();
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::write(path("file"), "").unwrap();
        fs::create_dir(path("ours")).unwrap();
        let found =
            [path("absent/expirefs"), path("file/expirefs"), path("ours/expirefs"), path("later")];
        for _ in 0..2 {
            assert_eq!(create(&found, user).unwrap(), found[2]);
            assert!(is_private(&found[2], user));
        }
        assert!(!path("later").exists());
        // The folder of another user, such as an XDG_RUNTIME_DIR that su(1) left, is not used.
        let other = Uid::from_raw(user.as_raw() + 1);
        assert!(create(&found, other).is_err());
    }

    #[test]
    fn a_folder_that_is_not_private_is_refused() {
        let user = Uid::effective();
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("expirefs");
        symlink(root.path(), &dir).unwrap();
        let says = |dir: &PathBuf| create(std::slice::from_ref(dir), user).unwrap_err().to_string();
        assert!(says(&dir).contains("0700"));
        fs::remove_file(&dir).unwrap();
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(says(&dir).contains("0700") && !is_private(&dir, user));
        fs::remove_dir(&dir).unwrap();
        fs::write(&dir, "").unwrap();
        assert!(says(&dir).contains("0700"));
    }
}
