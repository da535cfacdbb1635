//! A map that forgets: what was not asked for longest goes first.
//!
//! What it is for: everything the union keeps between two questions can be
//! computed again, so all of it lives in maps whose memory has a bound. Must
//! not know what is kept.

use std::fmt;
use std::hash::Hash;

use lru::LruCache;
use parking_lot::Mutex;

struct Inner<K, V> {
    map: LruCache<K, (V, usize)>,
    weight: usize,
}

/// Values by key, bounded by the sum of their weights.
pub(super) struct Bounded<K, V> {
    inner: Mutex<Inner<K, V>>,
    limit: usize,
}

impl<K, V> fmt::Debug for Bounded<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bounded to {}", self.limit)
    }
}

impl<K: Hash + Eq, V: Clone> Bounded<K, V> {
    /// An empty map that holds values of at most `limit` weight together.
    pub(super) fn new(limit: usize) -> Self {
        let map = LruCache::unbounded();
        Self {
            inner: Mutex::new(Inner { map, weight: 0 }),
            limit,
        }
    }

    /// The value, which then counts as new.
    pub(super) fn get(&self, key: &K) -> Option<V> {
        self.inner
            .lock()
            .map
            .get(key)
            .map(|(value, _)| value.clone())
    }

    /// Keeps a value; one that is heavier than the limit alone is not kept.
    pub(super) fn put(&self, key: K, value: V, weight: usize) {
        if weight > self.limit {
            return;
        }
        let mut inner = self.inner.lock();
        inner.weight += weight;
        if let Some((_, old)) = inner.map.put(key, (value, weight)) {
            inner.weight -= old;
        }
        while inner.weight > self.limit {
            match inner.map.pop_lru() {
                Some((_, (_, gone))) => inner.weight -= gone,
                None => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_go_when_the_weight_is_reached() {
        let cache = Bounded::new(10);
        cache.put('a', 1, 4);
        cache.put('b', 2, 4);
        assert_eq!(cache.get(&'a'), Some(1));
        cache.put('c', 3, 4);
        assert_eq!(
            (cache.get(&'a'), cache.get(&'b'), cache.get(&'c')),
            (Some(1), None, Some(3))
        );
    }

    #[test]
    fn a_value_put_again_weighs_once() {
        let cache = Bounded::new(10);
        for value in 0..100 {
            cache.put('a', value, 4);
        }
        cache.put('b', 1, 6);
        assert_eq!((cache.get(&'a'), cache.get(&'b')), (Some(99), Some(1)));
        cache.put('c', 1, 11);
        assert_eq!((cache.get(&'a'), cache.get(&'c')), (Some(99), None));
    }
}
