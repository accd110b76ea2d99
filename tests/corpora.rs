//! Runs the fuzz targets without a fuzzer, on each input of the corpora in `tests/fuzz` and on
//! random ones.

// The targets refer to the modules under test by these paths, here and in the fuzz crate.
use expirefs::{expiry, name};

#[expect(dead_code, reason = "each target uses only a part of it")]
#[path = "../src/body/pattern.rs"]
mod pattern;
#[path = "fuzz/targets/mod.rs"]
mod targets;
#[path = "../src/body/window.rs"]
mod window;

use std::path::Path;

use proptest::prelude::*;

/// Runs a target on every file of its corpus.
fn run(name: &str, target: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let mut inputs = 0;
    for file in std::fs::read_dir(&corpus).unwrap() {
        let path = file.unwrap().path();
        let input = std::fs::read(&path).unwrap();
        let outcome = std::panic::catch_unwind(|| target(&input));
        assert!(outcome.is_ok(), "{}", path.display());
        inputs += 1;
    }
    assert!(inputs > 0, "nothing in {}", corpus.display());
}

#[test]
fn the_corpus_of_expiry() {
    run("expiry", targets::expiry);
}

#[test]
fn the_corpus_of_names() {
    run("names", targets::names);
}

#[test]
fn the_corpus_of_window() {
    run("window", targets::window);
}

/// Lines of text that headers and keys may contain.
fn text() -> impl Strategy<Value = String> {
    let words = [
        "Sun",
        "Sunday",
        "Mon",
        "Nov",
        "Feb",
        "06",
        "29",
        "94",
        "1994",
        "2096",
        "6",
        "08:49:37",
        "23:59:60",
        "GMT",
        "UTC",
        ",",
        "-",
        " ",
        "  ",
        "\t",
        "\n",
        "max-age",
        "s-maxage",
        "=",
        "\"",
        "0",
        "4294967295",
        "99999999999999999999",
        "expiry-date",
        "rule-id",
        "/",
        ".",
        "..",
        "a",
        "ab",
        "!",
        "\0",
        "\\",
        "ü",
    ];
    prop::collection::vec(prop::sample::select(words.to_vec()), 0..24).prop_map(|w| w.concat())
}

/// Dates of the three forms, valid and almost valid.
fn date() -> impl Strategy<Value = String> {
    let (day, month) = (0usize..7, 0usize..13);
    let time = (0u32..25, 0u32..61, 0u32..62);
    (0u8..3, day, 0u32..33, month, prop_oneof![Just(70u32), 0u32..100], 18u32..22, time).prop_map(
        |(form, weekday, day, month, year, century, (h, m, s))| {
            let weekday = ["Mon", "Tues", "Wednes", "Thurs", "Fri", "Satur", "Sun"][weekday];
            let short = &weekday[..3];
            let month = "JanFebMarAprMayJunJulAugSepOctNovDecFoo".get(3 * month..3 * month + 3);
            let (month, time) = (month.unwrap_or_default(), format!("{h:02}:{m:02}:{s:02}"));
            match form {
                0 => format!("{short}, {day:02} {month} {century:02}{year:02} {time} GMT"),
                1 => format!("{weekday}day, {day:02}-{month}-{year:02} {time} GMT"),
                _ => format!("{short} {month} {day:2} {time} {century:02}{year:02}"),
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes(data in prop::collection::vec(any::<u8>(), 0..300)) {
        targets::expiry(&data);
        targets::names(&data);
        targets::window(&data);
    }

    #[test]
    fn any_text(head in any::<[u8; 6]>(), text in prop_oneof![text(), date()]) {
        targets::expiry(&[&head, text.as_bytes()].concat());
        targets::names(text.as_bytes());
    }
}
