//! An LRU cache bounded by bytes.

use std::hash::Hash;

use lru::LruCache;

/// The memory that a value takes, in bytes. It must not change while the value is cached.
pub trait Weight<K> {
    fn weight(&self, key: &K) -> usize;
}

pub struct Weighed<K, V> {
    cache: LruCache<K, V>,
    limit: usize,
    bytes: usize,
}

impl<K: Hash + Eq, V: Weight<K>> Weighed<K, V> {
    /// A cache of up to `limit` bytes.
    pub fn new(limit: usize) -> Weighed<K, V> {
        Weighed { cache: LruCache::unbounded(), limit, bytes: 0 }
    }

    /// Inserts a value, or replaces the one of this key. A value larger than the limit is not
    /// cached.
    pub fn put(&mut self, key: K, value: V) {
        self.bytes += value.weight(&key);
        if let Some((key, before)) = self.cache.push(key, value) {
            self.bytes -= before.weight(&key);
        }
        while self.bytes > self.limit
            && let Some((key, value)) = self.cache.pop_lru()
        {
            self.bytes -= value.weight(&key);
        }
    }

    /// Takes an entry out.
    pub fn pop<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<(K, V)>
    where
        K: std::borrow::Borrow<Q>,
    {
        let (key, value) = self.cache.pop_entry(key)?;
        self.bytes -= value.weight(&key);
        Some((key, value))
    }

    /// The value of a key, which becomes the most recently used.
    pub fn get<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&V>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.cache.get(key)
    }

    /// The same, to change parts that do not affect the weight.
    pub fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.cache.get_mut(key)
    }

    /// The value of a key, without a change of the LRU order.
    pub fn peek<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.cache.peek(key)
    }

    /// The same, to change parts that do not affect the weight.
    pub fn peek_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.cache.peek_mut(key)
    }

    pub fn contains<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: std::borrow::Borrow<Q>,
    {
        self.cache.contains(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Weight<&'static str> for usize {
        fn weight(&self, key: &&'static str) -> usize {
            self + key.len()
        }
    }

    #[test]
    fn bytes_are_bounded_not_entries() {
        let mut cache = Weighed::new(100);
        cache.put("a", 39);
        cache.put("b", 39);
        assert_eq!(cache.get("a"), Some(&39));
        cache.put("c", 29);
        assert_eq!((cache.bytes, cache.peek("b")), (70, None), "b was used least recently");
        cache.put("a", 59);
        assert_eq!((cache.bytes, cache.peek("c")), (90, Some(&29)));
        assert_eq!((cache.pop("c"), cache.pop("c")), (Some(("c", 29)), None));
        assert_eq!(cache.bytes, 60);
        cache.put("d", 100);
        assert_eq!(cache.bytes, 0, "more than all of it is not kept");
    }
}
