//! A map that holds a bounded number of entries and forgets the one that was not used for longest.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

/// A bounded map.
#[derive(Debug)]
pub struct Lru<K, V> {
    capacity: usize,
    uses: u64,
    entries: HashMap<K, (V, u64)>,
    by_use: BTreeMap<u64, K>,
}

impl<K: Hash + Eq + Clone, V> Lru<K, V> {
    /// Holds at most `capacity` entries.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity, uses: 0, entries: HashMap::new(), by_use: BTreeMap::new() }
    }

    /// The value of `key`, which counts as a use.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let (value, used) = self.entries.get_mut(key)?;
        self.uses += 1;
        if let Some(key) = self.by_use.remove(used) {
            self.by_use.insert(self.uses, key);
        }
        *used = self.uses;
        Some(value)
    }

    /// Sets the value of `key`, which counts as a use.
    pub fn insert(&mut self, key: K, value: V) {
        self.remove(&key);
        while self.entries.len() >= self.capacity {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            self.entries.remove(&oldest);
        }
        self.uses += 1;
        self.by_use.insert(self.uses, key.clone());
        self.entries.insert(key, (value, self.uses));
    }

    /// Forgets `key`.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let (value, used) = self.entries.remove(key)?;
        self.by_use.remove(&used);
        Some(value)
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_what_was_not_used_for_longest() {
        let mut lru = Lru::new(2);
        lru.insert("a", 1);
        lru.insert("b", 2);
        assert_eq!(lru.get_mut(&"a"), Some(&mut 1));
        lru.insert("c", 3);
        assert_eq!((lru.get_mut(&"a").copied(), lru.get_mut(&"b").copied(), lru.len()), (Some(1), None, 2));
        lru.insert("a", 4);
        assert_eq!((lru.remove(&"a"), lru.remove(&"a"), lru.len(), lru.by_use.len()), (Some(4), None, 1, 1));
    }
}
