//! What the environment says about the terminal.

use std::env;

/// `TERM` names one without cursor movement (terminfo(5)), or is not set.
pub fn is_dumb() -> bool {
    env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb")
}

/// `NO_COLOR` is set and not empty (no-color.org).
pub fn is_plain() -> bool {
    env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}
