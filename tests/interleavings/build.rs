//! Copies the modules under test, with shuttle's locks and atomics in place of std's.

use std::path::Path;
use std::{env, fs};

fn main() {
    let out = env::var("OUT_DIR").unwrap();
    fs::create_dir_all(Path::new(&out).join("body")).unwrap();
    for module in
        ["mod", "accounts", "buffer", "ledger", "pace", "pattern", "reader", "window"]
    {
        let module = format!("body/{module}");
        let source = format!("../../src/{module}.rs");
        println!("cargo::rerun-if-changed={source}");
        let text = fs::read_to_string(&source).unwrap().replace("std::sync::", "shuttle::sync::");
        fs::write(Path::new(&out).join(&module).with_extension("rs"), text).unwrap();
    }
    let tree = format!("#[path = \"{out}/body/mod.rs\"]\npub mod body;\n");
    fs::write(Path::new(&out).join("tree.rs"), tree).unwrap();
}
