//! The program.

#![forbid(unsafe_code)]
#![deny(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used
)]

use std::process::ExitCode;

use expirefs::cmd;

/// The SDK makes about a hundred allocations per request, many of which another thread frees: with
/// this allocator a small file takes a sixth less CPU than with glibc's, with the same memory
/// (measured).
#[global_allocator]
static GLOBAL: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    cmd::run(std::env::args_os().collect())
}
