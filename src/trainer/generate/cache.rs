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
    children: Children,
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

/// Nodes by their first token: no two below one node begin alike, since what they share is a node of its own.
type Children = BTreeMap<TokenId, EntryId>;

/// The prefix tree.
#[derive(Debug, Default)]
pub struct PrefixCache {
    entries: BTreeMap<EntryId, Entry>,
    tops: Children,
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
        while let Some((child, count)) = self.below(found.entry, &tokens[found.tokens..]) {
            found = Match { entry: Some(self.step(child, count)), tokens: found.tokens + count };
        }
        found
    }

    /// How many tokens of `tokens` are known; changes nothing.
    pub fn known_tokens(&self, tokens: &[TokenId]) -> usize {
        let (mut at, mut known) = (None, 0);
        while let Some((child, count)) = self.below(at, &tokens[known..]) {
            known += count;
            if count < self.entries[&child].tokens.len() {
                break;
            }
            at = Some(child);
        }
        known
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
        while let Some((child, count)) = self.below(parent, tokens) {
            parent = Some(self.step(child, count));
            (tokens, spans) = (&tokens[count..], split(&spans, count).1);
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
        let is_owned = |(_, id): &(u64, EntryId)| self.entries[id].owner == owner;
        let leaves: Vec<EntryId> = self.idle.iter().filter(|leaf| is_owned(leaf)).map(|(_, id)| *id).collect();
        for leaf in leaves {
            let mut at = Some(leaf);
            while let Some((id, entry)) = at.and_then(|id| Some((id, self.entries.get(&id)?))) {
                if entry.owner != owner || !self.idle.contains(&(entry.last_used, id)) {
                    break;
                }
                at = entry.parent;
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

    /// The node below `at` that begins as `tokens` do, and how far they agree.
    fn below(&self, at: Option<EntryId>, tokens: &[TokenId]) -> Option<(EntryId, usize)> {
        let children = at.map_or(&self.tops, |at| &self.entries[&at].children);
        let child = *children.get(tokens.first()?)?;
        Some((child, common(&self.entries[&child].tokens, tokens)))
    }

    /// The node that ends `count` tokens into `child`, marked as used.
    fn step(&mut self, child: EntryId, count: usize) -> EntryId {
        let child = if count < self.entries[&child].tokens.len() { self.split(child, count) } else { child };
        let clock = self.clock;
        self.change(child, |entry| entry.last_used = clock);
        child
    }

    fn add(&mut self, parent: Option<EntryId>, tokens: Vec<TokenId>, spans: Vec<Span>, owner: u64) -> EntryId {
        let id = EntryId(self.next);
        self.next += 1;
        let last_used = self.clock;
        if let Some(&first) = tokens.first() {
            self.change_children(parent, |children| children.extend([(first, id)]));
        }
        self.entries.insert(id, Entry { parent, children: Children::new(), tokens, spans, owner, pins: 0, last_used });
        self.idle.insert((last_used, id));
        id
    }

    /// Puts the first `count` tokens of `id` into a node of their own above it, and returns that. `id` stays what it
    /// was for those who have pinned it: the end of the same path.
    fn split(&mut self, id: EntryId, count: usize) -> EntryId {
        let Some(entry) = self.entries.get_mut(&id) else { return id };
        let tail = entry.tokens.split_off(count);
        let first = tail.first().copied();
        let tokens = std::mem::replace(&mut entry.tokens, tail);
        let (head, rest) = split(&entry.spans, count);
        entry.spans = rest;
        let (parent, owner) = (entry.parent, entry.owner);
        // Takes the place of `id` among the children, since it begins as that did.
        let upper = self.add(parent, tokens, head, owner);
        self.change(id, |entry| entry.parent = Some(upper));
        self.change_children(Some(upper), |children| children.extend(first.map(|first| (first, id))));
        upper
    }

    fn remove(&mut self, id: EntryId) {
        let Some(entry) = self.entries.remove(&id) else { return };
        self.idle.remove(&(entry.last_used, id));
        if let Some(first) = entry.tokens.first() {
            self.change_children(entry.parent, |children| {
                children.remove(first);
            });
        }
    }

    fn change_children(&mut self, at: Option<EntryId>, change: impl FnOnce(&mut Children)) {
        match at {
            Some(at) => self.change(at, |entry| change(&mut entry.children)),
            None => change(&mut self.tops),
        }
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
