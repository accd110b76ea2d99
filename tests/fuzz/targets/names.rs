use std::collections::BTreeSet;

use crate::name::{NAME_MAX, Prefix, Shadows, is_legal};

fn legal(name: &str) -> bool {
    let bytes = name.as_bytes();
    (1..=255).contains(&bytes.len())
        && bytes != b"."
        && bytes != b".."
        && bytes.iter().all(|b| *b != b'/' && *b != 0)
}

/// Rules N1 and N2. The first line is a directory, the others are keys; `!` before one: expired.
pub fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.split('\n');
    let prefix = Prefix::new(lines.next().unwrap_or_default());
    assert_eq!(Prefix::new(prefix.as_str()), prefix);
    assert!(prefix.as_str().is_empty() || prefix.as_str().ends_with('/'));
    let keys: Vec<_> =
        lines.map(|key| key.strip_prefix('!').map_or((key, true), |k| (k, false))).collect();

    for (key, _) in &keys {
        walk(key);
    }
    // One level, as a store lists it: in the order of keys and of prefixes with their slash.
    let mut level = BTreeSet::new();
    for (key, live) in &keys {
        let Some(rest) = key.strip_prefix(prefix.as_str()) else { continue };
        match rest.find('/') {
            Some(slash) => _ = level.insert(&rest[..=slash]),
            None if *live => _ = level.insert(rest),
            None => {}
        }
    }
    let mut shadows = Shadows::default();
    for entry in &level {
        match entry.strip_suffix('/') {
            Some(name) => {
                assert_eq!(shadows.hides(name), level.contains(name), "N2: {name:?} in {level:?}")
            }
            None => {
                shadows.file(entry);
                if legal(entry) {
                    let key = prefix.key(entry);
                    assert_eq!(key.strip_prefix(prefix.as_str()), Some(*entry));
                }
            }
        }
    }
}

/// A key whose components are legal is found by walking them, and by no other path.
fn walk(key: &str) {
    let components: Vec<_> = key.split('/').collect();
    for name in &components {
        assert_eq!(is_legal(name), legal(name), "N1: {name:?}");
        assert!(!is_legal(name) || name.len() <= NAME_MAX);
    }
    if components.iter().all(|name| legal(name)) {
        let (last, above) = components.split_last().unwrap_or((&"", &[]));
        let parent = above.iter().fold(Prefix::default(), |at, name| Prefix::new(&at.key(name)));
        assert_eq!(parent.key(last), key);
    }
}
