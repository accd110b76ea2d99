//! The Content-Type of a file by its name.

/// The type registered for the file name extension, if any. For `a.tar.gz` it is that of the
/// outermost format.
pub fn by_name(path: &str) -> Option<&'static str> {
    mime_guess::from_path(path).first_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_extension_counts_in_any_case() {
        let table = [
            ("d/a.html", Some("text/html")),
            ("a.HTML", Some("text/html")),
            ("a.json", Some("application/json")),
            ("a.tar.gz", Some("application/gzip")),
            ("d.html/a", None),
            (".html", None),
            ("a.", None),
            ("a.html.tmp", None),
            ("Makefile", None),
            ("", None),
        ];
        for (path, content_type) in table {
            assert_eq!(by_name(path), content_type, "{path}");
        }
    }
}
