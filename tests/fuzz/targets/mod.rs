//! One function for each target: it takes any bytes and panics if the code under test is wrong. The
//! fuzzers run them, and so does `tests/corpora.rs`.

mod expiry;
mod names;
mod rfc;
mod window;

pub use expiry::expiry;
pub use names::names;
pub use window::window;
