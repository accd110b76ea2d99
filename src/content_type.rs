//! The Content-Type that a file gets by its name.

/// The type that is registered for what comes after the last dot of the name; `None`: none is. Of
/// `a.tar.gz` it is that of the outermost format.
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
