//! Runs standard tools on a folder, and compares two folders.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::content::difference;

/// The output of a bash script that runs in `folder`; panics unless it succeeds without output on
/// standard error.
#[track_caller]
pub fn shell(folder: &Path, script: &str) -> String {
    String::from_utf8(shell_bytes(folder, script)).unwrap_or_else(|e| panic!("{script}: {e}"))
}

/// The same for output that is not text.
#[track_caller]
pub fn shell_bytes(folder: &Path, script: &str) -> Vec<u8> {
    let output = attempt(folder, script);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let fine = output.status.success() && stderr.is_empty();
    assert!(fine, "in {}: {script}\n{}\n{stderr}", folder.display(), output.status);
    output.stdout
}

/// The output of such a script, whether it succeeds or not.
pub fn attempt(folder: &Path, script: &str) -> Output {
    let mut bash = Command::new("bash");
    bash.args(["-e", "-o", "pipefail", "-c", script]).current_dir(folder).env("LC_ALL", "C");
    bash.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("bash: {e}"))
}

/// Panics, with the lines that only one of them has, unless both texts have the same lines, in any
/// order.
#[track_caller]
pub fn assert_same_lines(what: &str, got: &str, want: &str) {
    let [got_lines, want_lines] = [got, want].map(|text| {
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        lines
    });
    if got_lines != want_lines {
        let [g, w] = [&got_lines, &want_lines].map(|l| l.iter().copied().collect::<BTreeSet<_>>());
        let only = |a: &BTreeSet<&str>, b: &BTreeSet<&str>| {
            a.difference(b).take(10).map(|line| format!("\n  {line}")).collect::<String>()
        };
        panic!(
            "{what}: {} lines, not {}; too many:{}\nmissing:{}",
            got_lines.len(),
            want_lines.len(),
            only(&g, &w),
            only(&w, &g)
        );
    }
}

/// Panics, with the first differences, unless both folders have the same names and bytes.
#[track_caller]
pub fn assert_same_tree(got: &Path, want: &Path) {
    let [got, want] = [got, want].map(files_under);
    let names: BTreeSet<&PathBuf> = got.keys().chain(want.keys()).collect();
    let differences = names.into_iter().filter_map(|name| {
        let difference = match (got.get(name), want.get(name)) {
            (Some(None), Some(None)) => return None,
            (Some(Some(got)), Some(Some(want))) => difference(got, want)?,
            (Some(_), None) => "should not be there".into(),
            (None, _) => "is missing".into(),
            (Some(_), Some(_)) => "is a file here and a directory there".into(),
        };
        Some(format!("\n  {}: {difference}", name.display()))
    });
    let differences: Vec<String> = differences.collect();
    let first: String = differences.iter().take(20).map(String::as_str).collect();
    assert!(differences.is_empty(), "{} differences:{first}", differences.len());
}

/// The contents of a folder by relative path: the bytes of a file, `None` for a directory.
fn files_under(folder: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(inside) = folders.pop() {
        let path = folder.join(&inside);
        let entries = fs::read_dir(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        for entry in entries.map(|entry| entry.expect("an entry")) {
            let name = inside.join(entry.file_name());
            if entry.file_type().expect("its type").is_dir() {
                folders.push(name.clone());
                found.insert(name, None);
            } else {
                let path = entry.path();
                let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                found.insert(name, Some(bytes));
            }
        }
    }
    found
}
