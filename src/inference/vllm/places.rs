//! Which replica each tree is at. Bounded, also where trees are never released: the longest unused are forgotten first.

use std::collections::HashMap;

/// Trees in each of the two generations that are remembered.
const GENERATION: usize = 65_536;

/// Affinity to replica, in two generations: when the younger is full, the older is forgotten and the younger takes its
/// place. What is looked up becomes young.
#[derive(Debug)]
pub(super) struct Places {
    young: HashMap<u64, usize>,
    old: HashMap<u64, usize>,
    /// Trees at each replica.
    trees: Vec<usize>,
    generation: usize,
}

impl Places {
    pub fn new(replicas: usize) -> Places {
        Places { young: HashMap::new(), old: HashMap::new(), trees: vec![0; replicas], generation: GENERATION }
    }

    /// Where the tree is.
    pub fn get(&mut self, affinity: u64) -> Option<usize> {
        if let Some(&place) = self.young.get(&affinity) {
            return Some(place);
        }
        let place = self.old.remove(&affinity)?;
        self.trees[place] -= 1;
        self.set(affinity, place);
        Some(place)
    }

    /// From now on the tree is at `replica`.
    pub fn set(&mut self, affinity: u64, replica: usize) {
        self.remove(affinity);
        if self.young.len() >= self.generation {
            for (_, place) in std::mem::replace(&mut self.old, std::mem::take(&mut self.young)) {
                self.trees[place] -= 1;
            }
        }
        self.young.insert(affinity, replica);
        self.trees[replica] += 1;
    }

    /// The tree is finished.
    pub fn remove(&mut self, affinity: u64) {
        if let Some(place) = self.young.remove(&affinity).or_else(|| self.old.remove(&affinity)) {
            self.trees[place] -= 1;
        }
    }

    /// Trees at a replica.
    pub fn trees(&self, replica: usize) -> usize {
        self.trees[replica]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_used_is_forgotten_and_what_is_used_is_not() {
        let mut places = Places { generation: 4, ..Places::new(2) };
        for tree in 0..1000 {
            places.set(tree, (tree % 2) as usize);
            assert_eq!(places.get(0), Some(0), "it is asked for all the time");
            assert!(places.trees(0) + places.trees(1) <= 8);
        }
        assert_eq!(places.get(1), None, "long unused");
        places.set(999, 0);
        let before = (places.trees(0), places.trees(1));
        places.remove(999);
        places.remove(999);
        assert_eq!((places.trees(0), places.trees(1)), (before.0 - 1, before.1));
        assert_eq!(places.get(999), None);
    }

    #[test]
    fn a_tree_that_moves_counts_once() {
        let mut places = Places::new(2);
        places.set(7, 0);
        places.set(7, 1);
        assert_eq!((places.trees(0), places.trees(1), places.get(7)), (0, 1, Some(1)));
    }
}
