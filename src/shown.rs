//! Text of others on a terminal: what a bucket, a server or a process is named can neither drive a
//! terminal nor forge a line.

use std::borrow::Cow;
use std::fmt::{self, Write};

/// Whether a character does something else than to be seen: control characters (C0, DEL, C1), line
/// and paragraph separators, and what reorders text (UAX #9).
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}')
        || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Shows a text on one line: as it is, or in quotes and escaped where a character of it acts.
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
            // Into a String it never fails.
            let _ = write!(text, "\\u{{{:x}}}", c as u32);
        }
        c => text.push(c),
    }
}

/// A finished line, every acting character of it escaped: it stays one line, whatever was put in.
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, acts)
}

/// Finished lines, every acting character but their ends escaped.
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

/// A JSON text in which every acting character is escaped as JSON has it (RFC 8259 §7), which is
/// the same value: outside of its strings there are none but newlines.
pub fn json(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => safe.push(c),
            // None of them lies beyond the first 65,536.
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
    fn characters_that_drive_a_terminal_are_escaped() {
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
