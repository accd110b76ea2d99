//! The globs of options, matched against the path of a file below the mount point.
//!
//! Owns the meaning of patterns. Knows neither options nor what a match is used for.

use globset::{GlobBuilder, GlobMatcher};

/// A pattern, read as in a gitignore file:
///
/// - Without `/` it matches the name of a file, in any directory: `*.tmp`.
/// - With `/` it matches the whole path: `cache/*.tmp`; `/*.tmp` matches in the top directory only.
/// - `*` and `?` match no `/`. `**` as a component matches any number of components, including
///   none: `cache/**`, `**/old/*`.
/// - `[a-z]`, `[!a-z]` and `\` work as in the shell. So does `{zip,gz}`, which gitignore does not
///   have.
#[derive(Clone, Debug)]
pub struct Glob(GlobMatcher);

impl Glob {
    /// # Errors
    /// Why it is not a pattern, or cannot match any file.
    pub fn new(pattern: &str) -> Result<Glob, String> {
        if pattern.is_empty() || pattern.ends_with('/') {
            return Err("expected a glob that matches files, such as *.tmp or cache/**".to_owned());
        }
        let anywhere = match pattern.strip_prefix('/') {
            Some(path) => path.to_owned(),
            None if pattern.contains('/') => pattern.to_owned(),
            None => format!("**/{pattern}"),
        };
        let glob = GlobBuilder::new(&anywhere).literal_separator(true).build();
        glob.map(|glob| Glob(glob.compile_matcher())).map_err(|e| e.kind().to_string())
    }

    /// Whether it matches the file at `path`: `a/b`, without a slash before it.
    pub fn matches(&self, path: &str) -> bool {
        self.0.is_match(path)
    }
}

/// Some globs, or none.
#[derive(Clone, Debug, Default)]
pub struct Globs(Vec<Glob>);

impl Globs {
    pub fn new(globs: Vec<Glob>) -> Globs {
        Globs(globs)
    }

    /// Whether one of them matches the file at `path`.
    pub fn matches(&self, path: &str) -> bool {
        self.0.iter().any(|glob| glob.matches(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_read_as_in_a_gitignore_file() {
        let table: &[(&str, &[&str], &[&str])] = &[
            // pattern, paths that it matches, paths that it does not
            ("*.tmp", &["a.tmp", "d/a.tmp", "d/e/.tmp"], &["a.tmp.gz", "a.tmp/b", "A.TMP"]),
            ("core", &["core", "d/core"], &["score", "core/a", "core.1"]),
            ("a?c", &["abc", "d/a-c"], &["ac", "a/c", "abbc"]),
            ("d/*.o", &["d/a.o", "d/.o"], &["a.o", "e/d/a.o", "d/e/a.o"]),
            ("/*.o", &["a.o"], &["d/a.o"]),
            ("/d/a", &["d/a"], &["e/d/a", "d/a/b"]),
            ("d/**", &["d/a", "d/e/a"], &["d", "a", "e/d/a"]),
            ("**/d/*", &["d/a", "e/d/a", "e/f/d/a"], &["a", "d/e/a"]),
            ("d/**/a", &["d/a", "d/e/a", "d/e/f/a"], &["a", "d/ea"]),
            ("**", &["a", "d/e/a", "a\nb"], &[]),
            ("d/a**c", &["d/ac", "d/abc"], &["d/a/c"]),
            ("*.{zip,gz}", &["a.zip", "d/a.gz"], &["a.z"]),
            ("[a-c][!0-9]", &["ax", "d/b-"], &["a1", "dx", "a/"]),
            ("\\*", &["*", "d/*"], &["a"]),
            ("ü*", &["ü", "d/ü€"], &["u"]),
        ];
        for (pattern, right, wrong) in table {
            let glob = Glob::new(pattern).unwrap();
            right.iter().for_each(|path| assert!(glob.matches(path), "{pattern} {path}"));
            wrong.iter().for_each(|path| assert!(!glob.matches(path), "{pattern} {path}"));
        }
    }

    #[test]
    fn patterns_that_match_no_file_are_refused() {
        for pattern in ["", "/", "d/", "**/"] {
            assert!(Glob::new(pattern).unwrap_err().contains("*.tmp"), "{pattern:?}");
        }
        for (pattern, why) in [("[a", "unclosed"), ("{a", "missing '}'"), ("[z-a]", "range")] {
            let says = Glob::new(pattern).unwrap_err();
            assert!(says.contains(why), "{pattern:?}: {says}");
        }
    }
}
