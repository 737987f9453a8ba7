//! The embedded sampler's attention: against a plain reference, and the same to the bit however a row comes about.
#![allow(clippy::unwrap_used, reason = "helpers of a test")]

use std::sync::Arc;

use orchestrator::error::{FailureClass, Hint};
use orchestrator::trainer::generate::attention::{Attention, AttentionError, HeadShape, Piece, Row};
use orchestrator::trainer::generate::workers::Workers;
use proptest::prelude::*;

const SHAPES: [(usize, usize); 5] = [(9, 3), (14, 2), (16, 8), (4, 4), (5, 1)];
const HEAD_DIMS: [usize; 6] = [16, 64, 96, 128, 6, 1];

fn workers(threads: usize) -> Arc<Workers> {
    Arc::new(Workers::new(threads).unwrap())
}

fn shape(heads: (usize, usize), head_dim: usize) -> HeadShape {
    HeadShape { heads: heads.0, kv_heads: heads.1, head_dim }
}

/// Cheap numbers between -`scale` and `scale`.
fn numbers(seed: u64, len: usize, scale: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * scale
    };
    (0..len).map(|_| next()).collect()
}

/// The past of a row, `[tokens, kv_heads, head_dim]`, and its query.
struct Past {
    shape: HeadShape,
    query: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    tokens: usize,
}

impl Past {
    fn new(shape: HeadShape, seed: u64, tokens: usize, scale: f32) -> Past {
        let width = shape.kv_heads * shape.head_dim;
        Past {
            shape,
            query: numbers(seed, shape.heads * shape.head_dim, scale),
            keys: numbers(seed + 1, tokens * width, scale),
            values: numbers(seed + 2, tokens * width, 1.0),
            tokens,
        }
    }

    /// The past cut at `cuts`, each piece with some room to grow that holds numbers no row may see.
    fn cut(&self, cuts: &[usize]) -> Vec<Cut> {
        let bounds: Vec<usize> = std::iter::once(0).chain(cuts.iter().copied()).chain([self.tokens]).collect();
        bounds.windows(2).enumerate().map(|(i, w)| Cut::new(self, w[0], w[1], i % 3)).collect()
    }

    /// `softmax(q . k / sqrt(head_dim)) . v` in f64, over the first `seen` tokens.
    fn reference(&self, seen: usize) -> Vec<f64> {
        let HeadShape { heads, kv_heads, head_dim } = self.shape;
        let mut out = Vec::new();
        for head in 0..heads {
            let kv_head = head / (heads / kv_heads);
            let at =
                |memory: &[f32], token: usize, d: usize| f64::from(memory[(token * kv_heads + kv_head) * head_dim + d]);
            let query = &self.query[head * head_dim..][..head_dim];
            let dot = |token| (0..head_dim).map(|d| f64::from(query[d]) * at(&self.keys, token, d)).sum::<f64>();
            let scores: Vec<f64> = (0..seen).map(|token| dot(token) / (head_dim as f64).sqrt()).collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
            let total: f64 = weights.iter().sum();
            out.extend(
                (0..head_dim)
                    .map(|d| (0..seen).map(|token| weights[token] * at(&self.values, token, d)).sum::<f64>() / total),
            );
        }
        out
    }
}

/// Some tokens of a past, laid out as a piece.
struct Cut {
    keys: Vec<f32>,
    values: Vec<f32>,
    head_stride: usize,
    len: usize,
}

impl Cut {
    fn new(past: &Past, first: usize, end: usize, room: usize) -> Cut {
        let HeadShape { kv_heads, head_dim, .. } = past.shape;
        let head_stride = (end - first + room) * head_dim;
        let lay_out = |memory: &[f32]| {
            let mut piece = vec![f32::NAN; kv_heads * head_stride];
            for token in first..end {
                for kv_head in 0..kv_heads {
                    let source = &memory[(token * kv_heads + kv_head) * head_dim..][..head_dim];
                    piece[kv_head * head_stride + (token - first) * head_dim..][..head_dim].copy_from_slice(source);
                }
            }
            piece
        };
        Cut { keys: lay_out(&past.keys), values: lay_out(&past.values), head_stride, len: end - first }
    }

    fn piece(&self) -> Piece<'_> {
        Piece { keys: &self.keys, values: &self.values, head_stride: self.head_stride, len: self.len }
    }
}

fn pieces(cuts: &[Cut]) -> Vec<Piece<'_>> {
    cuts.iter().map(Cut::piece).collect()
}

fn attend(attention: &mut Attention, rows: &[Row<'_>]) -> Vec<f32> {
    let mut out = vec![7.0; rows.iter().map(|row| row.query.len()).sum()];
    attention.attend(rows, &mut out).unwrap();
    out
}

/// One row on its own, its past in one piece, on one thread.
fn alone(past: &Past, seen: usize) -> Vec<f32> {
    let cuts = past.cut(&[]);
    let row = Row { query: &past.query, pieces: &pieces(&cuts), seen };
    attend(&mut Attention::new(past.shape, workers(1)).unwrap(), &[row])
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

/// Outputs are averages of values within 1, so the bound is relative to 1. Numbers within 6 give scores of some +-40,
/// whose own rounding of a few 1e-6 is the relative error of a weight. Largest difference seen: 1.9e-6.
#[test]
fn agrees_with_a_plain_reference() {
    for heads in SHAPES {
        for head_dim in HEAD_DIMS {
            for (tokens, scale) in [(1, 1.0), (2, 1.0), (5, 6.0), (16, 1.0), (17, 6.0), (100, 1.0), (333, 6.0)] {
                let past = Past::new(shape(heads, head_dim), tokens as u64, tokens, scale);
                let expected = past.reference(tokens);
                let found = alone(&past, tokens);
                for (found, expected) in found.iter().zip(&expected) {
                    let error = (f64::from(*found) - expected).abs();
                    assert!(error < 1e-5, "{heads:?} x {head_dim}, {tokens} tokens: {found} for {expected}");
                }
            }
        }
    }
}

#[test]
fn one_key_gives_its_value() {
    for heads in SHAPES {
        for head_dim in HEAD_DIMS {
            let past = Past::new(shape(heads, head_dim), 3, 1, 30.0);
            let group = heads.0 / heads.1;
            let expected: Vec<f32> = past
                .values
                .chunks(head_dim)
                .flat_map(|value| std::iter::repeat_n(value, group).flatten())
                .copied()
                .collect();
            assert_eq!(alone(&past, 1), expected);
        }
    }
}

#[test]
fn huge_scores_choose_one_value() {
    let shape = shape((4, 2), 64);
    let mut past = Past::new(shape, 5, 40, 0.1);
    past.query.fill(1.0);
    for kv_head in 0..2 {
        // 1.0 * 1250 * 64 / 8 = 10000, against scores of less than 1.
        past.keys[(23 * 2 + kv_head) * 64..][..64].fill(1250.0);
    }
    let found = alone(&past, 40);
    for head in 0..4 {
        assert_eq!(found[head * 64..][..64], past.values[(23 * 2 + head / 2) * 64..][..64]);
    }
}

/// Above the amount of work that is shared with other threads: 256 rows of a prefill, and those rows one by one.
#[test]
fn a_prefill_gives_what_decoding_gives_on_any_number_of_threads() {
    let shape = shape((9, 3), 64);
    let past = Past::new(shape, 17, 256, 1.5);
    let queries = numbers(18, 256 * 9 * 64, 1.5);
    let cuts = past.cut(&[3, 90, 91, 200]);
    let pieces = pieces(&cuts);
    let rows: Vec<Row<'_>> =
        queries.chunks_exact(9 * 64).zip(1..).map(|(query, seen)| Row { query, pieces: &pieces, seen }).collect();
    let mut single = Attention::new(shape, workers(1)).unwrap();
    let one_by_one: Vec<f32> = rows.iter().flat_map(|row| attend(&mut single, &[*row])).collect();
    for threads in [0, 1, 2, 3, 8] {
        let mut attention = Attention::new(shape, workers(threads)).unwrap();
        for _ in 0..3 {
            assert_eq!(bits(&attend(&mut attention, &rows)), bits(&one_by_one), "{threads} threads");
        }
    }
}

#[test]
fn what_is_not_finite_stays_in_the_heads_it_belongs_to() {
    let shape = shape((4, 2), 64);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for token in [0, 7, 19] {
            for (in_keys, in_values) in [(true, false), (false, true)] {
                let mut past = Past::new(shape, 23, 20, 1.0);
                let clean = alone(&past, 20);
                let at = (token * 2 + 1) * 64 + 5;
                if in_keys {
                    past.keys[at] = bad;
                }
                if in_values {
                    past.values[at] = bad;
                }
                let found = alone(&past, 20);
                assert_eq!(bits(&found[..128]), bits(&clean[..128]), "heads of the other key head");
                for head in found[128..].chunks(64) {
                    let hit = if in_keys { head } else { &head[5..6] };
                    assert!(hit.iter().all(|x| !x.is_finite()), "{bad} in token {token}: {hit:?}");
                }
            }
        }
        let mut past = Past::new(shape, 23, 20, 1.0);
        past.query[64] = bad;
        assert!(alone(&past, 20)[64..128].iter().all(|x| !x.is_finite()), "{bad} in the query");
    }
}

#[test]
fn lengths_that_do_not_fit_are_named() {
    let shape = shape((4, 2), 8);
    let past = Past::new(shape, 29, 6, 1.0);
    let cuts = past.cut(&[4]);
    let good = pieces(&cuts);
    let mut attention = Attention::new(shape, workers(1)).unwrap();
    let mut out = vec![7.0; 32];
    let mut refused = |row: Row<'_>, out: &mut [f32], text: &str| {
        let error = attention.attend(&[row], out).unwrap_err();
        assert_eq!((error.to_string().as_str(), error.class()), (text, FailureClass::Bug));
        assert!(out.iter().all(|&x| x == 7.0), "written before it was checked");
    };
    let row = Row { query: &past.query, pieces: &good, seen: 6 };
    refused(row, &mut [7.0; 31], "the output of 1 rows has 31 floats instead of 32");
    refused(Row { query: &past.query[1..], ..row }, &mut out, "the query of row 0 has 31 floats instead of 32");
    refused(Row { seen: 7, ..row }, &mut out, "row 0 should see 7 tokens and its pieces hold 6");
    refused(Row { seen: 0, ..row }, &mut out, "row 0 should see 0 tokens and its pieces hold 6");
    let short = [good[0], Piece { len: 100, ..good[1] }];
    let text = "piece 1 of row 0 is too short for 100 tokens: 48 floats of keys, 48 of values";
    refused(Row { pieces: &short, ..row }, &mut out, text);
    for piece in [
        Piece { values: &good[0].values[..1], ..good[0] },
        Piece { head_stride: usize::MAX, ..good[0] },
        Piece { len: usize::MAX, ..good[0] },
    ] {
        let error = attention.attend(&[Row { pieces: &[piece], ..row }], &mut out).unwrap_err();
        assert!(matches!(error, AttentionError::Piece { row: 0, piece: 0, .. }), "{error}");
    }
    for bad in [(4, 3), (4, 0), (0, 0), (0, 4), (2, 4)] {
        assert!(matches!(
            Attention::new(HeadShape { heads: bad.0, kv_heads: bad.1, head_dim: 8 }, workers(1)),
            Err(AttentionError::Shape { .. })
        ));
    }
    assert!(Attention::new(HeadShape { heads: 4, kv_heads: 2, head_dim: 0 }, workers(1)).is_err());
}

#[test]
fn a_call_without_rows_does_nothing() {
    assert_eq!(attend(&mut Attention::new(shape((4, 2), 8), workers(1)).unwrap(), &[]), Vec::<f32>::new());
}

/// A row of a made-up batch: which past, how it is cut, and how much of it is seen.
#[derive(Clone, Debug)]
struct Choice {
    past: usize,
    cutting: usize,
    seen: prop::sample::Index,
}

fn choices() -> impl Strategy<Value = Vec<Choice>> {
    let choice = (0..3_usize, 0..2_usize, any::<prop::sample::Index>());
    prop::collection::vec(choice.prop_map(|(past, cutting, seen)| Choice { past, cutting, seen }), 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// Three pasts, two ways to cut each (empty pieces among them), any rows of them in any order (so that neighbours
    /// share all, some or no pieces), any number of threads: each row is what it is alone, uncut and unshared.
    #[test]
    fn a_row_depends_on_its_query_and_past_alone(
        heads in prop::sample::select(&SHAPES[..]),
        head_dim in prop::sample::select(&HEAD_DIMS[..]),
        tokens in 1..300_usize,
        cuts in prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..6), 6),
        choices in choices(),
        threads in 1..4_usize,
        seed in 0..1_000_u64,
    ) {
        let shape = shape(heads, head_dim);
        let pasts: Vec<Past> = (0..3).map(|i| Past::new(shape, seed + 10 * i, tokens, 2.0)).collect();
        let cuttings: Vec<Vec<Cut>> = cuts.iter().enumerate().map(|(i, cuts)| {
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(tokens + 1)).collect();
            at.sort_unstable();
            pasts[i / 2].cut(&at)
        }).collect();
        let cut_pieces: Vec<Vec<Piece<'_>>> = cuttings.iter().map(|cuts| pieces(cuts)).collect();
        let rows: Vec<Row<'_>> = choices.iter().map(|choice| Row {
            query: &pasts[choice.past].query,
            pieces: &cut_pieces[2 * choice.past + choice.cutting],
            seen: choice.seen.index(tokens) + 1,
        }).collect();
        let found = attend(&mut Attention::new(shape, workers(threads)).unwrap(), &rows);
        let width = heads.0 * head_dim;
        for ((found, choice), row) in found.chunks_exact(width).zip(&choices).zip(&rows) {
            prop_assert_eq!(bits(found), bits(&alone(&pasts[choice.past], row.seen)));
        }
    }

    /// Children of one prefix: the first piece is one memory for all of them, the second their own.
    #[test]
    fn siblings_share_a_prefix_without_noticing(
        heads in prop::sample::select(&SHAPES[..]),
        prefix in 1..260_usize,
        own in prop::collection::vec(1..20_usize, 1..12),
        threads in 1..4_usize,
    ) {
        let shape = shape(heads, 64);
        let width = shape.kv_heads * 64;
        let trunk = Past::new(shape, 41, prefix, 1.0);
        let shared = trunk.cut(&[]);
        let pasts: Vec<Past> = own.iter().enumerate().map(|(i, own)| {
            let mut past = Past::new(shape, 50 + 10 * i as u64, prefix + own, 1.0);
            past.keys[..prefix * width].copy_from_slice(&trunk.keys);
            past.values[..prefix * width].copy_from_slice(&trunk.values);
            past
        }).collect();
        let owned: Vec<Cut> = pasts.iter().map(|past| Cut::new(past, prefix, past.tokens, 2)).collect();
        let both: Vec<[Piece<'_>; 2]> = owned.iter().map(|own| [shared[0].piece(), own.piece()]).collect();
        let rows: Vec<Row<'_>> = pasts.iter().zip(&both)
            .map(|(past, pieces)| Row { query: &past.query, pieces, seen: past.tokens }).collect();
        let found = attend(&mut Attention::new(shape, workers(threads)).unwrap(), &rows);
        for (found, past) in found.chunks_exact(heads.0 * 64).zip(&pasts) {
            prop_assert_eq!(bits(found), bits(&alone(past, past.tokens)));
        }
    }
}
