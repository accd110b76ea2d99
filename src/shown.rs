//! Shows untrusted text on a terminal: names of buckets, servers and processes can neither control
//! the terminal nor forge a line.

use std::borrow::Cow;
use std::fmt::{self, Write};

/// Whether a character has an effect besides being visible: control characters (C0, DEL, C1), line
/// and paragraph separators, and those that reorder text (UAX #9).
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}')
        || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Shows a text on one line: as it is, or quoted and escaped if it has such a character.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a>(pub &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.contains(acts) {
            false => f.pad(self.0),
            true => f.pad(&quoted(self.0)),
        }
    }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c => push_escaped(&mut quoted, c),
        }
    }
    quoted.push('"');
    quoted
}

fn push_escaped(text: &mut String, c: char) {
    match c {
        '\n' => text.push_str("\\n"),
        '\r' => text.push_str("\\r"),
        '\t' => text.push_str("\\t"),
        c if acts(c) => {
            // Writing to a String never fails.
            let _ = write!(text, "\\u{{{:x}}}", c as u32);
        }
        c => text.push(c),
    }
}

/// A finished line with every such character escaped: it stays one line whatever it contains.
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, acts)
}

/// Finished lines with every such character escaped, except newlines.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c != '\n' && acts(c))
}

fn escaped(text: &str, escape: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&escape) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match escape(c) {
            true => push_escaped(&mut safe, c),
            false => safe.push(c),
        }
    }
    Cow::Owned(safe)
}

/// A JSON text with every such character escaped as in JSON (RFC 8259 §7). Its value stays the
/// same: outside of strings, only newlines are such characters.
pub fn json(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => safe.push(c),
            // All of them are below U+10000.
            c if acts(c) => {
                let _ = write!(safe, "\\u{:04x}", c as u32);
            }
            c => safe.push(c),
        }
    }
    Cow::Owned(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\n\r\t\u{1b}[2J\u{7}\u{7f}\u{9b}\u{85}\u{2028}\u{202e}\u{2066}z";

    #[test]
    fn ordinary_text_is_shown_as_it_is() {
        for text in ["", "a/b c", "ä\u{301}", "日本", "👩\u{200d}🚀", "a\u{a0}b", "\"\\"] {
            assert_eq!(Shown(text).to_string(), text);
            assert_eq!((line(text), json(text)), (text.into(), text.into()));
        }
        assert_eq!(format!("{:>5}|{:<5}|", Shown("ab"), Shown("ab")), "   ab|ab   |");
    }

    #[test]
    fn characters_that_control_a_terminal_are_escaped() {
        let shown = r"a\n\r\t\u{1b}[2J\u{7}\u{7f}\u{9b}\u{85}\u{2028}\u{202e}\u{2066}z";
        assert_eq!(Shown(HOSTILE).to_string(), format!("\"{shown}\""));
        assert_eq!(line(HOSTILE), shown);
        assert_eq!(lines("a\nb\r\n"), "a\nb\\r\n");
        assert_eq!(Shown("\"\n").to_string(), r#""\"\n""#);
    }

    #[test]
    fn json_stays_the_same_value() {
        let text = serde_json::to_string(&[HOSTILE]).unwrap();
        let safe = json(&text);
        assert!(!safe.contains(acts), "{safe}");
        assert_eq!(serde_json::from_str::<[String; 1]>(&safe).unwrap(), [HOSTILE]);
    }
}
