//! Keys and path components: which keys can be a path, and the key of a path. Pure.

use std::fmt;

/// The longest path component: NAME_MAX of Linux, in bytes.
pub const NAME_MAX: usize = 255;
/// The longest key in S3, in bytes ("Creating object key names", S3 user guide).
pub const KEY_MAX: usize = 1024;

/// A directory: the empty prefix, or one that ends in `/`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Prefix(String);

impl Prefix {
    /// The directory of this name; a missing final `/` is added.
    pub fn new(text: &str) -> Prefix {
        let slash = if text.is_empty() || text.ends_with('/') { "" } else { "/" };
        Prefix(format!("{text}{slash}"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Why no key below it can be a path, if so (rule N1). The names of the prefix itself are
    /// checked too, although no path contains them.
    pub fn defect(&self) -> Option<String> {
        let path = self.0.strip_suffix('/')?;
        if self.0.len() > KEY_MAX {
            return Some(format!("over {KEY_MAX} bytes, the longest key"));
        }
        match path.split('/').find(|component| !is_legal(component))? {
            "" => Some("an empty component (two slashes in a row)".to_owned()),
            long if long.len() > NAME_MAX => Some(format!("a component over {NAME_MAX} bytes")),
            other => Some(format!("a component {other:?}")),
        }
    }

    /// The key of the file `name` in this directory.
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.0)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The prefix of the directory that a key lies in.
pub fn directory(key: &str) -> &str {
    key.rfind('/').map_or("", |slash| &key[..=slash])
}

/// The names that a key makes exist: its own, and those of the directories above it, without a final
/// `/`.
pub fn names_up_from(key: &str) -> impl Iterator<Item = &str> {
    let own = key.strip_suffix('/').unwrap_or(key);
    std::iter::successors(Some(own), |name| name.rfind('/').map(|slash| &name[..slash]))
}

/// The last component of a key, after its last `/`.
pub fn last(key: &str) -> &str {
    &key[directory(key).len()..]
}

/// Whether `name` can be one component of a path (rule N1).
pub fn is_legal(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && name.len() <= NAME_MAX && !name.contains(['/', '\0'])
}

/// Listed files after which a directory of the same name may still be listed.
///
/// A listing is in byte order: `foo`, `foo-bar` and `foo.txt` all come before `foo/`, maybe a page
/// earlier. The files that can still clash with a later key form a chain in which each name is a
/// prefix of the next, so their number is at most the length of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shadows(Vec<String>);

impl Shadows {
    /// Records a visible file; it hides a directory of the same name (rule N2).
    pub fn file(&mut self, name: &str) {
        self.pass(name);
        self.0.push(name.to_owned());
    }

    /// Whether the directory `name` is hidden by a file listed before.
    pub fn hides(&mut self, name: &str) -> bool {
        self.pass(name);
        self.0.last().is_some_and(|file| file == name)
    }

    /// The files whose directory may still be listed.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Drops the files whose directory would have been listed before `name`.
    fn pass(&mut self, name: &str) {
        while self.0.last().is_some_and(|file| !name.starts_with(file.as_str())) {
            self.0.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components() {
        let long = "x".repeat(NAME_MAX);
        for good in ["a", "...", ".a", "a b", "ä", "-", "\\", "a:b", "\n", long.as_str()] {
            assert!(is_legal(good), "{good:?}");
        }
        let longer = "x".repeat(NAME_MAX + 1);
        for bad in ["", ".", "..", "a/b", "/", "a\0b", longer.as_str()] {
            assert!(!is_legal(bad), "{bad:?}");
        }
    }

    #[test]
    fn prefixes_end_in_a_slash() {
        assert_eq!(Prefix::new("").as_str(), "");
        assert_eq!(Prefix::new("a/b").as_str(), "a/b/");
        assert_eq!(Prefix::new("a/").key("f"), "a/f");
        assert_eq!(Prefix::default().key("f"), "f");
        assert_eq!((directory("d/e/f"), directory("f")), ("d/e/", ""));
    }

    #[test]
    fn the_names_of_a_key() {
        assert_eq!(names_up_from("d/e/f").collect::<Vec<_>>(), ["d/e/f", "d/e", "d"]);
        assert_eq!(names_up_from("d/e/").collect::<Vec<_>>(), ["d/e", "d"]);
        assert_eq!(names_up_from("f").collect::<Vec<_>>(), ["f"]);
    }

    #[test]
    fn a_file_hides_the_directory_of_its_name_at_any_distance() {
        let mut shadows = Shadows::default();
        shadows.file("foo");
        shadows.file("foo-bar");
        assert!(!shadows.hides("foo-"));
        shadows.file("foo.txt");
        assert!(shadows.hides("foo"), "foo/ comes after foo-bar and foo.txt");
        assert!(!shadows.hides("foo0"));
        shadows.file("foo1");
        assert!(!shadows.hides("goo"));
        assert_eq!(shadows, Shadows::default());
    }
}
