//! The prefix tree of generation against a list of what was put in: spans are those of the tokens, what is pinned
//! stays, what is dropped goes, and memory is given back.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;

use orchestrator::trainer::generate::block::{Block, KvShape, Meter, Span};
use orchestrator::trainer::generate::cache::{EntryId, PrefixCache};
use orchestrator::types::TokenId;
use proptest::prelude::*;

const SHAPE: KvShape = KvShape { layers: 1, kv_heads: 1, head_dim: 1 };

/// A block whose keys say which token they belong to and at which position, so that a wrong span is seen.
fn block(tokens: &[TokenId], position: usize, meter: &Meter) -> Span {
    let mut block = Block::new(SHAPE, tokens.len(), meter);
    for (index, &token) in tokens.iter().enumerate() {
        block.write(0, index, &[token as f32], &[(position + index) as f32]);
    }
    block.grow(tokens.len());
    Span::whole(Arc::new(block))
}

/// What the spans of a path say their tokens and positions are.
fn read(spans: &[Span]) -> Vec<(TokenId, usize)> {
    spans
        .iter()
        .flat_map(|span| {
            let piece = span.piece(0);
            (0..piece.len).map(move |i| (piece.keys[i] as TokenId, piece.values[i] as usize))
        })
        .collect()
}

#[derive(Clone, Debug)]
enum Action {
    /// Adds a text after as much of it as is known, and pins it if told to.
    Add {
        tokens: Vec<TokenId>,
        owner: u64,
        is_pinned: bool,
    },
    Find {
        tokens: Vec<TokenId>,
    },
    Unpin {
        index: usize,
    },
    Evict,
    Forget {
        owner: u64,
    },
}

fn text() -> impl Strategy<Value = Vec<TokenId>> {
    // Few different tokens, so that texts share beginnings of every length.
    prop::collection::vec(0..3u32, 1..9)
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (text(), 0..4u64, any::<bool>()).prop_map(|(tokens, owner, is_pinned)| Action::Add { tokens, owner, is_pinned }),
        3 => text().prop_map(|tokens| Action::Find { tokens }),
        2 => (0..8usize).prop_map(|index| Action::Unpin { index }),
        2 => Just(Action::Evict),
        1 => (0..4u64).prop_map(|owner| Action::Forget { owner }),
    ]
}

/// The path is what it says it is: every token at its position.
fn check_path(cache: &PrefixCache, entry: Option<EntryId>, tokens: &[TokenId]) {
    let expected: Vec<(TokenId, usize)> = tokens.iter().copied().zip(0..).collect();
    assert_eq!(read(&cache.spans(entry)), expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_path_is_its_tokens_and_what_is_pinned_stays(actions in prop::collection::vec(action(), 1..60)) {
        let meter = Meter::default();
        let mut cache = PrefixCache::default();
        let mut pinned: Vec<(EntryId, Vec<TokenId>)> = Vec::new();
        for action in actions {
            match action {
                Action::Add { tokens, owner, is_pinned } => {
                    let known = cache.find(&tokens);
                    check_path(&cache, known.entry, &tokens[..known.tokens]);
                    let rest = &tokens[known.tokens..];
                    let spans = if rest.is_empty() { Vec::new() } else { vec![block(rest, known.tokens, &meter)] };
                    let end = cache.insert(known.entry, rest, &spans, owner).unwrap();
                    check_path(&cache, Some(end), &tokens);
                    if is_pinned {
                        cache.pin(end);
                        pinned.push((end, tokens));
                    }
                }
                Action::Find { tokens } => {
                    let count = cache.known_tokens(&tokens);
                    let known = cache.find(&tokens);
                    prop_assert_eq!(known.tokens, count);
                    check_path(&cache, known.entry, &tokens[..count]);
                }
                Action::Unpin { index } => {
                    if index < pinned.len() {
                        cache.unpin(pinned.swap_remove(index).0);
                    }
                }
                Action::Evict => {
                    let before = cache.len();
                    let has_gone = cache.evict();
                    prop_assert_eq!(cache.len(), before - usize::from(has_gone));
                    // Only pins keep anything.
                    prop_assert!(has_gone || before == 0 || !pinned.is_empty());
                }
                Action::Forget { owner } => cache.forget(owner),
            }
            for (entry, tokens) in &pinned {
                check_path(&cache, Some(*entry), tokens);
                prop_assert_eq!(cache.known_tokens(tokens), tokens.len());
            }
        }
        for (entry, _) in pinned {
            cache.unpin(entry);
        }
        while cache.evict() {}
        prop_assert!(cache.is_empty());
        prop_assert_eq!(meter.bytes(), 0);
    }

    #[test]
    fn a_finished_tree_leaves_what_others_stand_on(mine in prop::collection::vec(text(), 1..6),
                                                   others in prop::collection::vec(text(), 1..6)) {
        let meter = Meter::default();
        let mut cache = PrefixCache::default();
        for (owner, tokens) in mine.iter().map(|text| (1, text)).chain(others.iter().map(|text| (2, text))) {
            let known = cache.find(tokens);
            let rest = &tokens[known.tokens..];
            if !rest.is_empty() {
                cache.insert(known.entry, rest, &[block(rest, known.tokens, &meter)], owner);
            }
        }
        let before: Vec<usize> = others.iter().map(|text| cache.known_tokens(text)).collect();
        prop_assert_eq!(&before, &others.iter().map(Vec::len).collect::<Vec<_>>());
        cache.forget(2);
        cache.forget(1);
        prop_assert!(cache.is_empty());
        prop_assert_eq!(meter.bytes(), 0);
    }
}
