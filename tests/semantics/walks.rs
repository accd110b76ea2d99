//! Walks through directories of random keys, while time passes and objects are added and deleted,
//! are compared with a model: objects that stay are seen, none is seen twice, and no expired one is
//! seen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use expirefs::fs::inode::ROOT;
use expirefs::fs::listing::Exactness;
use expirefs::name::is_legal;
use proptest::prelude::*;

use super::{Make, Rig, SECOND, expires, start};

/// Expiry of an object, in seconds after the start; `None`: never.
type End = Option<i64>;

#[derive(Clone, Debug)]
enum Event {
    Advance(u64),
    Put(String, End),
    Delete(String),
}

/// The objects of the store.
type Keys = BTreeMap<String, End>;

/// The names in a directory, `/` after those of directories: rules E1, E10, N1 to N3.
fn model(keys: &Keys, directory: &str, now: SystemTime) -> BTreeSet<String> {
    let live = |end: &End| {
        end.is_none_or(|end| {
            let after = Duration::from_secs(end.unsigned_abs());
            end > 0 && now < start() + after
        })
    };
    let (mut files, mut directories) = (BTreeSet::new(), BTreeSet::new());
    for (key, end) in keys {
        match key.strip_prefix(directory).map(|rest| (rest, rest.split_once('/'))) {
            Some((_, Some((name, _)))) if is_legal(name) => _ = directories.insert(name.to_owned()),
            Some((name, None)) if is_legal(name) && live(end) => _ = files.insert(name.to_owned()),
            _ => {}
        }
    }
    let shown = directories.difference(&files).map(|name| format!("{name}/"));
    shown.chain(files.iter().cloned()).collect()
}

fn component() -> impl Strategy<Value = String> {
    let long = ["x".repeat(255), "x".repeat(256)];
    let names =
        ["a", "b", "foo", "foo-bar", "foo.txt", "foo0", "", ".", "..", "...", "ü", "日本", "x y"];
    prop::sample::select(names.map(str::to_owned).into_iter().chain(long).collect::<Vec<_>>())
}

fn key() -> impl Strategy<Value = String> {
    let depth = prop_oneof![4 => Just(1), 4 => Just(2), 1 => Just(3)];
    let marker = prop::bool::weighted(0.1);
    (depth.prop_flat_map(|n| prop::collection::vec(component(), n)), marker)
        .prop_map(|(path, marker)| path.join("/") + if marker { "/" } else { "" })
        .prop_filter("a key has a byte at least", |key| !key.is_empty())
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![Just(None), (1i64..12).prop_map(Some), Just(Some(-5))]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0u64..4).prop_map(Event::Advance),
        (key(), end()).prop_map(|(key, end)| Event::Put(key, end)),
        key().prop_map(Event::Delete),
    ]
}

fn put(rig: &Rig, key: &str, end: End) {
    // A marker is empty.
    let bytes = if key.ends_with('/') { "" } else { "x" };
    rig.store.put(key, bytes, end.and_then(expires));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_walk_matches_the_model(
        first in prop::collection::btree_map(key(), end(), 0..40),
        walked in prop::sample::select(vec!["", "a/", "foo/"]),
        page in prop::sample::select(vec![1u16, 2, 7, 1000]),
        fan_out in prop::sample::select(vec![1usize, 3, 64]),
        step in 1usize..6,
        events in prop::collection::vec(prop::collection::vec(event(), 0..3), 0..12),
        quiet in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut make = Make::default();
            make.settings.listing.page = page;
            make.settings.listing.fan_out = fan_out;
            let rig = make.rig();
            let mut keys = first;
            keys.iter().for_each(|(key, end)| put(&rig, key, *end));
            let directory = match walked {
                "" => Some(ROOT),
                walked => rig.look(walked.trim_end_matches('/')).await.unwrap()
                    .filter(|attr| attr.kind == expirefs::fs::Kind::Directory)
                    .map(|attr| attr.ino),
            };
            let Some(ino) = directory else { return };

            let mut throughout = model(&keys, walked, rig.clock.now());
            let mut seen = BTreeSet::new();
            let fh = rig.fs.opendir(ino).unwrap();
            let mut offset = 0;
            let mut events = events.into_iter();
            loop {
                let some = rig.read_dir(ino, fh, offset, step).await.unwrap();
                let Some((next, _)) = some.last() else { break };
                offset = *next;
                let now = model(&keys, walked, rig.clock.now());
                for (_, name) in some {
                    if matches!(name.as_str(), "./" | "../") {
                        continue;
                    }
                    // An object that others added or deleted may have been read before that.
                    let right = !quiet || now.contains(&name);
                    assert!(right, "{name} is shown, of {now:?}");
                    let plain = name.trim_end_matches('/').to_owned();
                    assert!(seen.insert(plain), "{name} twice");
                }
                for event in events.next().unwrap_or_default() {
                    match event {
                        Event::Advance(seconds) => {
                            rig.clock.advance(u32::try_from(seconds).unwrap() * SECOND);
                        }
                        _ if quiet => {}
                        Event::Put(key, end) => {
                            put(&rig, &key, end);
                            keys.insert(key, end);
                        }
                        Event::Delete(key) => {
                            rig.store.delete(&key);
                            keys.remove(&key);
                        }
                    }
                    let now = model(&keys, walked, rig.clock.now());
                    throughout.retain(|name| now.contains(name));
                }
            }
            rig.fs.releasedir(fh).unwrap();
            for name in &throughout {
                assert!(seen.contains(name.trim_end_matches('/')), "{name} was missed: {seen:?}");
            }
        });
    }

    /// Lazy listings show all live objects, and no object that is known to have expired.
    #[test]
    fn a_lazy_walk_hides_what_is_known_to_have_expired(
        keys in prop::collection::btree_map("[a-f]{1,2}", end(), 0..20),
        looked_up in prop::collection::vec("[a-f]{1,2}", 0..10),
        later in 0u32..12,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut make = Make::default();
            make.settings.listing.exactness = Exactness::Lazy;
            let rig = make.rig();
            keys.iter().for_each(|(key, end)| put(&rig, key, *end));
            for name in &looked_up {
                rig.look(name).await.unwrap();
            }
            rig.store.asked();
            rig.clock.advance(later * SECOND);
            let shown: BTreeSet<_> = rig.list("", 3).await.unwrap().into_iter().collect();
            assert_eq!(rig.store.asked().head, 0);
            let live = model(&keys, "", rig.clock.now());
            let unknown = keys.keys().filter(|key| !looked_up.contains(key)).cloned();
            let want: BTreeSet<_> = live.into_iter().chain(unknown).collect();
            assert_eq!(shown, want);
        });
    }
}
