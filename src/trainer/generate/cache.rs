//! The prefix tree: keys and values of everything that may be extended, by token sequence.
//!
//! Every path of tokens from the top is the start of a text; a node holds the spans of its own tokens only, so what
//! two paths have in common is held once: the prompt of all trees with the same worked examples, a tree's prompt, a
//! search node with its siblings below it. A node that ends inside another one's tokens splits it.
//!
//! Bounded by the owner of the memory: it asks for the least recently used leaf to go until there is room. Pinned nodes
//! (a request is at work below them) and inner nodes stay. Whatever went is computed again when it is asked for, with
//! the same bits. Absent on purpose: tensors, time, any knowledge of search.

use std::collections::{BTreeMap, BTreeSet};

use super::block::{Span, split};
use crate::types::TokenId;

/// A node of the prefix tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryId(u64);

#[derive(Debug)]
struct Entry {
    parent: Option<EntryId>,
    children: BTreeSet<EntryId>,
    tokens: Vec<TokenId>,
    spans: Vec<Span>,
    /// The tree that brought it in.
    owner: u64,
    pins: usize,
    last_used: u64,
}

/// What is known of a token sequence.
#[derive(Debug, Default)]
pub struct Match {
    /// The deepest node on the path, if any.
    pub entry: Option<EntryId>,
    /// Tokens covered.
    pub tokens: usize,
}

/// The prefix tree.
#[derive(Debug, Default)]
pub struct PrefixCache {
    entries: BTreeMap<EntryId, Entry>,
    tops: BTreeSet<EntryId>,
    /// Leaves that nobody is at work below, the least recently used first.
    idle: BTreeSet<(u64, EntryId)>,
    clock: u64,
    next: u64,
}

impl PrefixCache {
    /// The longest known prefix of `tokens`, and marks it as used. Splits the node it ends in.
    pub fn find(&mut self, tokens: &[TokenId]) -> Match {
        self.clock += 1;
        let mut found = Match::default();
        loop {
            let rest = &tokens[found.tokens..];
            let children = found.entry.map_or(&self.tops, |at| &self.entries[&at].children);
            let shared = |child: &EntryId| (common(&self.entries[child].tokens, rest), *child);
            // The smaller id wins a tie, so that the choice does not depend on anything else.
            let best = children.iter().map(shared).max_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
            let Some((count @ 1.., child)) = best else { return found };
            let child = if count < self.entries[&child].tokens.len() { self.split(child, count) } else { child };
            self.touch(child);
            found = Match { entry: Some(child), tokens: found.tokens + count };
        }
    }

    /// How many tokens of `tokens` are known; changes nothing.
    pub fn known_tokens(&self, tokens: &[TokenId]) -> usize {
        let (mut at, mut known) = (&self.tops, 0);
        loop {
            let shared = |child: &EntryId| (common(&self.entries[child].tokens, &tokens[known..]), *child);
            let Some((count @ 1.., child)) = at.iter().map(shared).max_by_key(|(count, _)| *count) else {
                return known;
            };
            known += count;
            if count < self.entries[&child].tokens.len() {
                return known;
            }
            at = &self.entries[&child].children;
        }
    }

    /// Adds what comes after `parent`; returns the node that ends with it. What is known already is left as it is.
    pub fn insert(
        &mut self,
        parent: Option<EntryId>,
        tokens: &[TokenId],
        spans: &[Span],
        owner: u64,
    ) -> Option<EntryId> {
        self.clock += 1;
        let (mut parent, mut tokens, mut spans) = (parent, tokens, spans.to_vec());
        while !tokens.is_empty() {
            let children = parent.map_or(&self.tops, |at| &self.entries[&at].children);
            let shared = |child: &EntryId| (common(&self.entries[child].tokens, tokens), *child);
            let best = children.iter().map(shared).max_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
            let Some((count @ 1.., child)) = best else { break };
            let child = if count < self.entries[&child].tokens.len() { self.split(child, count) } else { child };
            self.touch(child);
            (parent, tokens, spans) = (Some(child), &tokens[count..], split(&spans, count).1);
        }
        if tokens.is_empty() {
            return parent;
        }
        Some(self.add(parent, tokens.to_vec(), spans, owner))
    }

    /// The spans from the top down to `entry`, in order.
    pub fn spans(&self, entry: Option<EntryId>) -> Vec<Span> {
        let mut path = Vec::new();
        let mut at = entry;
        while let Some(id) = at {
            let entry = &self.entries[&id];
            path.push(entry);
            at = entry.parent;
        }
        path.iter().rev().flat_map(|entry| entry.spans.iter().cloned()).collect()
    }

    /// Keeps a node, and so all above it, until [`Self::unpin`].
    pub fn pin(&mut self, id: EntryId) {
        self.change(id, |entry| entry.pins += 1);
    }

    /// Takes back one [`Self::pin`].
    pub fn unpin(&mut self, id: EntryId) {
        self.change(id, |entry| entry.pins = entry.pins.saturating_sub(1));
    }

    /// Drops the least recently used leaf; false if there is none that may go.
    pub fn evict(&mut self) -> bool {
        let Some(&(_, id)) = self.idle.first() else { return false };
        self.remove(id);
        true
    }

    /// Drops what `owner` brought in and nobody else stands on: its tree is finished.
    pub fn forget(&mut self, owner: u64) {
        loop {
            let leaves: Vec<EntryId> =
                self.idle.iter().map(|(_, id)| *id).filter(|id| self.entries[id].owner == owner).collect();
            if leaves.is_empty() {
                return;
            }
            for id in leaves {
                self.remove(id);
            }
        }
    }

    /// Drops everything: the weights have changed.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.tops.clear();
        self.idle.clear();
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn add(&mut self, parent: Option<EntryId>, tokens: Vec<TokenId>, spans: Vec<Span>, owner: u64) -> EntryId {
        let id = EntryId(self.next);
        self.next += 1;
        let last_used = self.clock;
        self.entries.insert(id, Entry { parent, children: BTreeSet::new(), tokens, spans, owner, pins: 0, last_used });
        self.idle.insert((last_used, id));
        match parent {
            Some(parent) => self.change(parent, |entry| {
                entry.children.insert(id);
            }),
            None => {
                self.tops.insert(id);
            }
        }
        id
    }

    /// Puts the first `count` tokens of `id` into a node of their own above it, and returns that. `id` stays what it
    /// was for those who have pinned it: the end of the same path.
    fn split(&mut self, id: EntryId, count: usize) -> EntryId {
        let Some(entry) = self.entries.get_mut(&id) else { return id };
        let tail = entry.tokens.split_off(count);
        let tokens = std::mem::replace(&mut entry.tokens, tail);
        let (head, rest) = split(&entry.spans, count);
        entry.spans = rest;
        let (parent, owner) = (entry.parent, entry.owner);
        let upper = self.add(parent, tokens, head, owner);
        match parent {
            Some(parent) => self.change(parent, |entry| {
                entry.children.remove(&id);
            }),
            None => {
                self.tops.remove(&id);
            }
        }
        self.change(id, |entry| entry.parent = Some(upper));
        self.change(upper, |entry| {
            entry.children.insert(id);
        });
        upper
    }

    fn remove(&mut self, id: EntryId) {
        let Some(entry) = self.entries.remove(&id) else { return };
        self.idle.remove(&(entry.last_used, id));
        match entry.parent {
            Some(parent) => self.change(parent, |above| {
                above.children.remove(&id);
            }),
            None => {
                self.tops.remove(&id);
            }
        }
    }

    fn touch(&mut self, id: EntryId) {
        let clock = self.clock;
        self.change(id, |entry| entry.last_used = clock);
    }

    /// Changes a node and keeps the list of idle leaves true.
    fn change(&mut self, id: EntryId, change: impl FnOnce(&mut Entry)) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        self.idle.remove(&(entry.last_used, id));
        change(entry);
        if entry.pins == 0 && entry.children.is_empty() {
            self.idle.insert((entry.last_used, id));
        }
    }
}

/// Length of the common prefix.
pub fn common(a: &[TokenId], b: &[TokenId]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
