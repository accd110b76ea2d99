//! The pure modules of expirefs, and their properties for any input.

#![allow(dead_code)]

#[path = "../../src/expiry/mod.rs"]
mod expiry;
#[path = "../../src/glob.rs"]
mod glob;
#[path = "../../src/name.rs"]
mod name;
#[path = "../../src/body/pattern.rs"]
mod pattern;
pub mod targets;
#[path = "../../src/body/window.rs"]
mod window;
