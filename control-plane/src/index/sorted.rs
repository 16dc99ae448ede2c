//! A sorted map of which a copy costs little: a copy shares all entries, and a change copies only its neighbours. The world
//! is copied for every batch of events, and one endpoint that goes must not cost as much as all that stay. Entries must never
//! be reached but by their keys' order: who iterates sees the same everywhere.

#[cfg(test)]
mod tests;

use std::sync::Arc;

/// Entries that are copied with one that changes. Fewer make a copy of the map dearer, which has one reference for each chunk.
const CHUNK: usize = 64;

#[derive(Debug, Clone)]
pub(super) struct Sorted<K, V> {
    /// None is empty.
    chunks: Vec<Arc<Vec<(K, V)>>>,
    len: usize,
}

impl<K, V> Default for Sorted<K, V> {
    fn default() -> Self {
        Sorted { chunks: Vec::new(), len: 0 }
    }
}

impl<K: Ord + Clone, V: Clone> Sorted<K, V> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        let (chunk, at) = self.place(key);
        self.chunks.get(chunk)?.get(at.ok()?).map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let (chunk, at) = self.place(key);
        let at = at.ok()?;
        Arc::make_mut(self.chunks.get_mut(chunk)?).get_mut(at).map(|(_, value)| value)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        let (chunk, at) = self.place(&key);
        let Some(entries) = self.chunks.get_mut(chunk).map(Arc::make_mut) else {
            self.chunks.push(Arc::new(vec![(key, value)]));
            self.len = 1;
            return;
        };
        match at {
            Ok(at) => entries[at].1 = value,
            Err(at) => {
                entries.insert(at, (key, value));
                self.len += 1;
                if entries.len() > CHUNK {
                    let rest = entries.split_off(CHUNK / 2);
                    self.chunks.insert(chunk + 1, Arc::new(rest));
                }
            }
        }
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let (chunk, at) = self.place(key);
        let at = at.ok()?;
        let entries = Arc::make_mut(self.chunks.get_mut(chunk)?);
        let (_, value) = entries.remove(at);
        self.len -= 1;
        if entries.is_empty() {
            self.chunks.remove(chunk);
        } else {
            self.join(chunk);
            self.join(chunk.wrapping_sub(1));
        }
        Some(value)
    }

    /// In the order of the keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.chunks.iter().flat_map(|entries| entries.iter()).map(|(key, value)| (key, value))
    }

    /// The chunk in which the key is, or would be, and where in it. There is no such chunk only where there is none.
    fn place(&self, key: &K) -> (usize, Result<usize, usize>) {
        let begins_before = |entries: &Arc<Vec<(K, V)>>| entries.first().is_some_and(|(first, _)| first <= key);
        let chunk = self.chunks.partition_point(begins_before).saturating_sub(1);
        let at = self.chunks.get(chunk).map_or(Err(0), |entries| entries.binary_search_by(|(k, _)| k.cmp(key)));
        (chunk, at)
    }

    /// Puts what has become small to its neighbour, so that the chunks stay as few as the entries allow.
    fn join(&mut self, chunk: usize) {
        let (Some(entries), Some(next)) = (self.chunks.get(chunk), self.chunks.get(chunk.wrapping_add(1))) else {
            return;
        };
        if entries.len() + next.len() > CHUNK / 2 {
            return;
        }
        let next = Arc::unwrap_or_clone(self.chunks.remove(chunk + 1));
        Arc::make_mut(&mut self.chunks[chunk]).extend(next);
    }
}
