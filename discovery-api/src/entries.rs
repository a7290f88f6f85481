//! A small map that is read far more often than it is changed.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Index;
use std::slice;

use serde::{Serialize, Serializer};

/// The metadata or the named ports of an instance: a map, ordered by key.
///
/// It is kept as one slice without spare room. A registry of thousands of instances is in the memory of
/// every process that watches it, and a `BTreeMap` takes hundreds of bytes for its first entry.
#[derive(Clone, PartialEq, Eq)]
pub struct Entries<K, V>(Box<[(K, V)]>);

/// The iterator over [`Entries`], by key.
pub type EntriesIter<'a, K, V> =
    std::iter::Map<slice::Iter<'a, (K, V)>, fn(&'a (K, V)) -> (&'a K, &'a V)>;

impl<K, V> Entries<K, V> {
    /// The entries, by key.
    pub fn iter(&self) -> EntriesIter<'_, K, V> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// The keys, in their order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> + ExactSizeIterator {
        self.0.iter().map(|(key, _)| key)
    }

    /// The values, by key.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> + ExactSizeIterator {
        self.0.iter().map(|(_, value)| value)
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let at = self.place(key).ok()?;
        Some(&self.0[at].1)
    }

    /// Whether there is an entry of this key.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.place(key).is_ok()
    }

    pub(crate) fn insert(&mut self, key: K, value: V)
    where
        K: Ord,
    {
        match self.place(&key) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => {
                let mut entries = std::mem::take(&mut self.0).into_vec();
                // No room for more, so that the slice is made of it as it is.
                entries.reserve_exact(1);
                entries.insert(at, (key, value));
                self.0 = entries.into();
            }
        }
    }

    pub(crate) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        if let Ok(at) = self.place(key) {
            let mut entries = std::mem::take(&mut self.0).into_vec();
            entries.remove(at);
            self.0 = entries.into();
        }
    }

    /// Takes the keys that `other` has as well from there, so that both share their text.
    pub(crate) fn share_keys(&mut self, other: &Self)
    where
        K: Ord + Clone,
    {
        for (key, _) in &mut self.0 {
            if let Ok(at) = other.place(key) {
                key.clone_from(&other.0[at].0);
            }
        }
    }

    fn place<Q: Ord + ?Sized>(&self, key: &Q) -> Result<usize, usize>
    where
        K: Borrow<Q>,
    {
        self.0.binary_search_by(|(at, _)| at.borrow().cmp(key))
    }
}

impl<K, V> Default for Entries<K, V> {
    fn default() -> Self {
        Self(Box::default())
    }
}

impl<'a, K, V> IntoIterator for &'a Entries<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = EntriesIter<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<K: Borrow<Q>, Q: Ord + ?Sized, V> Index<&Q> for Entries<K, V> {
    type Output = V;

    /// The value of a key.
    ///
    /// # Panics
    /// Where there is no entry of this key, as a `BTreeMap` does.
    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("no entry of this key")
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Entries<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl<K: Serialize, V: Serialize> Serialize for Entries<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn it_is_the_map_that_a_btree_map_is() {
        // The multipliers visit all residues in different orders.
        for multiplier in [1, 5, 7, 11, 13] {
            let (mut entries, mut map) = (Entries::default(), BTreeMap::new());
            for value in 0..200_u32 {
                let key = (value * multiplier % 24).to_string();
                if value * multiplier % 37 % 3 == 0 {
                    entries.remove(&key);
                    map.remove(&key);
                } else {
                    entries.insert(key.clone(), value);
                    map.insert(key.clone(), value);
                }
                assert_eq!(entries.get(&key), map.get(&key));
                assert_eq!(entries.contains_key(&key), map.contains_key(&key));
                assert_eq!(
                    (entries.len(), entries.is_empty()),
                    (map.len(), map.is_empty())
                );
            }
            assert!(entries.iter().eq(map.iter()));
            assert!(entries.keys().eq(map.keys()) && entries.values().eq(map.values()));
            assert_eq!(format!("{entries:?}"), format!("{map:?}"));
            let text = serde_json::to_string(&entries).unwrap();
            assert_eq!(text, serde_json::to_string(&map).unwrap());
        }
    }
}
