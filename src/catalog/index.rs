//! The parsed expiry headers of object versions. Listings do not contain them, and getting them
//! costs a HEAD per object, so they are cached: in memory up to a limit, and optionally in a file
//! (`--index`) for the next mount.
//!
//! The headers of a version never change, so no entry goes stale, with two known exceptions. (1) A
//! lifecycle rule may change; its date is updated by the next lookup of the object. (2) Equal bytes
//! uploaded again with other headers differ only in Last-Modified, in whole seconds. Objects
//! younger than two seconds are therefore not cached here. But the Last-Modified of a multipart
//! upload is the time at which it was initiated (S3 user guide, "Multipart upload"), so two uploads
//! of equal bytes initiated within one second count as one version, whenever they complete. A
//! listing may then use the expiry of the first; lookup and open ask for the object itself. If the
//! file cannot be used, the mount logs why and continues without it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, UnitWeighter};
use sha2::{Digest, Sha256};

use super::index_file::IndexFile;
use crate::expiry::{MAX_AGE, Term, Terms, seconds};
use crate::store::Version;

/// The age of a version that no other one can be equal to any more.
pub const SETTLED: Duration = Duration::from_secs(2);

/// Memory per version: 16 bytes of id, 20 of parsed headers, the rest for lookup and eviction
/// (`a_version_takes_as_many_bytes_as_the_documents_say`).
pub const BYTES_PER_VERSION: usize = 64;

/// The id of a version: SHA-256 of its fields, truncated to 128 bits. Bucket writers control the
/// input, so the hash must resist collisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id(pub(super) [u8; 16]);

impl Id {
    pub fn of(version: &Version) -> Id {
        let mut hash = Sha256::new();
        for text in [&version.key, &version.etag] {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
        hash.update(seconds(version.last_modified).to_le_bytes());
        hash.update(version.size.to_le_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&hash.finalize()[..16]);
        Id(id)
    }
}

/// Bytes of encoded terms.
const ENCODED: usize = 20;

/// [`Terms`] encoded for memory and file: little-endian, the date of `Expires` (8 bytes, seconds
/// since 1970), the date of the lifecycle rule (8), `max-age` (4).
pub(super) type Encoded = [u8; ENCODED];

// Neither value collides with a date: years have four digits.
const ABSENT: i64 = i64::MIN;
const UNREADABLE: i64 = i64::MAX;

/// Encodes terms. [`decode`] must read them in this and all later versions.
fn encode(terms: &Terms) -> Encoded {
    let expires = match terms.expires {
        Term::Absent => ABSENT,
        Term::Unreadable => UNREADABLE,
        Term::Is(at) => at,
    };
    let max_age = match terms.max_age {
        Term::Absent => u32::MAX,
        Term::Unreadable => u32::MAX - 1,
        Term::Is(age) => age.min(MAX_AGE),
    };
    let lifecycle = match terms.lifecycle {
        Term::Absent | Term::Unreadable => ABSENT,
        Term::Is(at) => at,
    };
    let mut bytes = [0; ENCODED];
    bytes[..8].copy_from_slice(&expires.to_le_bytes());
    bytes[8..16].copy_from_slice(&lifecycle.to_le_bytes());
    bytes[16..].copy_from_slice(&max_age.to_le_bytes());
    bytes
}

fn decode(bytes: &Encoded) -> Terms {
    let [date, lifecycle] = [0, 8].map(|at| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        i64::from_le_bytes(word)
    });
    let max_age = u32::from_le_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]);
    Terms {
        expires: match date {
            ABSENT => Term::Absent,
            UNREADABLE => Term::Unreadable,
            at => Term::Is(at),
        },
        max_age: match max_age {
            u32::MAX => Term::Absent,
            n if n == u32::MAX - 1 => Term::Unreadable,
            age => Term::Is(age),
        },
        lifecycle: match lifecycle {
            ABSENT => Term::Absent,
            at => Term::Is(at),
        },
    }
}

/// See the module.
pub struct Index {
    pub(super) memory: Cache<Id, Encoded>,
    file: Option<Arc<IndexFile>>,
}

impl Index {
    /// An index of up to `bytes` bytes in memory, backed by `file`.
    pub fn new(bytes: usize, file: Option<IndexFile>) -> Arc<Index> {
        let versions = (bytes / BYTES_PER_VERSION).max(1);
        let options = OptionsBuilder::new()
            // No ghost entries of evicted versions: the access pattern is whole directories, not
            // hot keys.
            .ghost_allocation(0.0)
            .estimated_items_capacity(versions)
            .weight_capacity(versions as u64)
            .build();
        let memory = match options {
            Ok(options) => Cache::with_options(
                options,
                UnitWeighter,
                DefaultHashBuilder::default(),
                DefaultLifecycle::default(),
            ),
            Err(_) => Cache::new(versions),
        };
        Arc::new(Index { memory, file: file.map(Arc::new) })
    }

    /// Caches the parsed headers of a version that were received at `now`, by the store's clock.
    /// Last-Modified has whole seconds: equal bytes uploaded again within one second with another
    /// expiry would be the same version. So a young version is not cached.
    pub fn learn(&self, version: &Version, terms: &Terms, now: SystemTime) {
        if version.last_modified.checked_add(SETTLED).is_none_or(|at| at <= now) {
            self.put(version, terms);
        }
    }

    fn put(&self, version: &Version, terms: &Terms) {
        let (id, encoded) = (Id::of(version), encode(terms));
        if self.memory.peek(&id) != Some(encoded) {
            self.memory.insert(id, encoded);
            if let Some(file) = &self.file {
                file.put(id, encoded);
            }
        }
    }

    /// Whether a version is cached in memory.
    pub fn knows(&self, version: &Version) -> bool {
        self.memory.contains_key(&Id::of(version))
    }

    /// The cached headers of each of these versions.
    pub async fn known(&self, versions: &[&Version]) -> Vec<Option<Terms>> {
        let ids: Vec<Id> = versions.iter().map(|version| Id::of(version)).collect();
        let mut known: Vec<_> = ids.iter().map(|id| self.memory.get(id)).collect();
        let missing: Vec<usize> = (0..ids.len()).filter(|i| known[*i].is_none()).collect();
        if let Some(file) = self.file.clone().filter(|_| !missing.is_empty()) {
            let asked: Vec<Id> = missing.iter().map(|i| ids[*i]).collect();
            let found = tokio::task::spawn_blocking(move || file.get(&asked)).await;
            for (i, encoded) in missing.into_iter().zip(found.unwrap_or_default()) {
                if let Some(encoded) = encoded {
                    self.memory.insert(ids[i], encoded);
                    known[i] = Some(encoded);
                }
            }
        }
        known.iter().map(|encoded| encoded.as_ref().map(decode)).collect()
    }

    /// Versions cached in memory.
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes all pending entries to the file.
    pub fn flush(&self) {
        if let Some(file) = &self.file {
            file.flush();
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn version(n: usize) -> Version {
        let last_modified = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let etag = format!("{n:032x}").as_str().into();
        Version {
            key: format!("d/{n}").as_str().into(),
            etag,
            last_modified,
            slack: Duration::ZERO,
            size: 7,
        }
    }

    pub fn terms(n: usize) -> Terms {
        Terms { expires: Term::Is(n as i64), ..Terms::default() }
    }

    pub fn fill(index: &Index, numbers: std::ops::Range<usize>) {
        numbers.for_each(|n| index.put(&version(n), &terms(n)));
        index.flush();
    }

    /// How many of the versions `0..n` are cached. Asserts that each cached value is right.
    pub async fn known(index: &Index, n: usize) -> usize {
        let versions: Vec<_> = (0..n).map(version).collect();
        let known = index.known(&versions.iter().collect::<Vec<_>>()).await;
        known
            .iter()
            .enumerate()
            .for_each(|(n, found)| assert!(found.is_none_or(|t| t == terms(n))));
        known.iter().flatten().count()
    }

    #[test]
    fn every_field_of_a_version_is_part_of_its_id() {
        let base = version(1);
        let others = [
            Version { key: "d/2".into(), ..base.clone() },
            Version { etag: "".into(), ..base.clone() },
            Version { last_modified: SystemTime::UNIX_EPOCH, ..base.clone() },
            Version { size: 8, ..base.clone() },
            // The same bytes, split differently.
            Version { key: "d/".into(), etag: format!("1{}", base.etag).as_str().into(), ..base },
        ];
        for other in others {
            assert_ne!(Id::of(&other), Id::of(&version(1)), "{other:?}");
        }
    }

    #[tokio::test]
    async fn memory_is_bounded_and_a_scan_does_not_evict_everything() {
        let index = Index::new(1000 * BYTES_PER_VERSION, None);
        for _ in 0..3 {
            fill(&index, 0..900);
            assert!(known(&index, 900).await >= 850);
        }
        fill(&index, 0..3000);
        assert!(index.len() <= 1100, "{}", index.len());
        assert!(known(&index, 3000).await >= 500);
    }

    #[test]
    fn terms_survive_their_encoding() {
        let (first, last) = (-62_135_596_800, 253_402_300_799);
        let dates = [Term::Absent, Term::Unreadable, Term::Is(first), Term::Is(last)];
        let ages = [Term::Absent, Term::Unreadable, Term::Is(0), Term::Is(MAX_AGE)];
        for expires in dates {
            for max_age in ages {
                for lifecycle in [Term::Absent, Term::Is(0), Term::Is(last)] {
                    let terms = Terms { expires, max_age, lifecycle };
                    assert_eq!(decode(&encode(&terms)), terms);
                }
            }
        }
    }
}
