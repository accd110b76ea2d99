//! The state file of a sweep (`--state`): what is left of the key space, so that a sweep that was
//! stopped or killed goes on where it was.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ranges::Range;

/// Of the form of the file.
const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    format: u32,
    /// What is swept, and how: a file of another sweep does not fit.
    of: String,
    left: Vec<Range>,
}

/// See the module.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    of: String,
}

impl State {
    /// The file of the sweep that `of` describes, and what is left of it; the whole key space if there
    /// is no file. An empty one, as a crash of the host may leave, counts as none.
    ///
    /// # Errors
    /// In words for the operator, if the file cannot be read or written, or is of something else.
    pub fn open(path: &Path, of: String) -> Result<(State, Vec<Range>), String> {
        let shown = path.display();
        let left = match fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => vec![Range::all()],
            Err(error) => return Err(format!("--state {shown}: {error}")),
            Ok(bytes) if bytes.is_empty() => vec![Range::all()],
            Ok(bytes) => match serde_json::from_slice::<Saved>(&bytes) {
                Ok(saved) if saved.format == FORMAT && saved.of == of => saved.left,
                Ok(saved) if saved.format == FORMAT => {
                    return Err(format!(
                        "--state {shown} is of another sweep: {}; remove it, or name another file",
                        saved.of
                    ));
                }
                _ => {
                    return Err(format!(
                        "--state {shown} is not the state of a sweep of this version; remove it, or \
                         name another file"
                    ));
                }
            },
        };
        let state = State { path: path.to_owned(), of };
        state.save(left.clone())?;
        Ok((state, left))
    }

    /// Replaces the file by one that has this left; one at a time. Survives the end of the process at any moment; that
    /// of the host may cost some progress.
    ///
    /// # Errors
    /// In words for the operator.
    pub fn save(&self, left: Vec<Range>) -> Result<(), String> {
        let saved = Saved { format: FORMAT, of: self.of.clone(), left };
        let write = || replace_file(&self.path, &serde_json::to_vec(&saved)?);
        write().map_err(|error| format!("--state {}: {error}", self.path.display()))
    }

    /// All is done: the next sweep begins anew.
    ///
    /// # Errors
    /// In words for the operator.
    pub fn remove(&self) -> Result<(), String> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(format!("--state {}: {error}", self.path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Replaces a file as a whole: it may be read at any time. A crash leaves at most one more, `….new`.
///
/// # Errors
/// Of the file system.
pub fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut new = path.to_owned().into_os_string();
    new.push(".new");
    fs::write(&new, content)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_read_again_by_the_same_sweep_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let open = |of: &str| State::open(&path, of.to_owned());
        let (state, left) = open("s3://b/p/").unwrap();
        assert_eq!(left, [Range::all()]);
        let left = vec![
            Range { after: "p/5".into(), upto: Some("p/a\n\"é".into()) },
            Range { after: "p/q".into(), upto: None },
        ];
        state.save(left.clone()).unwrap();
        assert_eq!(open("s3://b/p/").unwrap().1, left);
        let says = open("s3://b/q/").unwrap_err();
        assert!(says.contains("another sweep: s3://b/p/"), "{says}");
        state.remove().unwrap();
        state.remove().unwrap();
        assert_eq!(open("s3://b/q/").unwrap().1, [Range::all()]);
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    #[test]
    fn a_file_that_is_no_state_is_neither_used_nor_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes");
        for content in ["my notes", "{}", r#"{"format":2,"of":"x","left":[]}"#] {
            fs::write(&path, content).unwrap();
            assert!(State::open(&path, "x".to_owned()).unwrap_err().contains("remove it"));
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        fs::write(&path, "").unwrap();
        assert_eq!(State::open(&path, "x".to_owned()).unwrap().1, [Range::all()]);
        let missing = folder.path().join("no/such/folder");
        assert!(State::open(&missing, "x".to_owned()).is_err());
    }
}
