//! The embedded sampler's matrix products: against a plain reference, and the same to the bit however they come about.
#![allow(clippy::unwrap_used, reason = "helpers of a test")]

use std::sync::Arc;

use orchestrator::error::{FailureClass, Hint};
use orchestrator::trainer::generate::product::Product;
use orchestrator::trainer::generate::workers::Workers;
use proptest::prelude::*;

/// Cheap numbers between -1 and 1.
fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

fn on(threads: usize) -> Product {
    Product::new(Arc::new(Workers::new(threads).unwrap()))
}

/// Everything but the rows of the input.
struct Layer {
    depth: usize,
    width: usize,
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl Layer {
    fn new(seed: u64, depth: usize, width: usize, has_bias: bool) -> Layer {
        let bias = has_bias.then(|| numbers(seed + 1, width));
        Layer { depth, width, weight: numbers(seed, width * depth), bias }
    }

    fn apply(&self, product: &Product, x: &[f32]) -> Vec<f32> {
        let rows = x.len() / self.depth;
        let mut out = vec![f32::NAN; rows * self.width];
        product.linear(x, rows, &self.weight, self.bias.as_deref(), &mut out).unwrap();
        out
    }
}

/// In f64. A sum of `depth` products within 1 in fp32 is off by less than `depth / 16 + 5` roundings of a partial sum
/// that is itself some sqrt(depth): 1e-6 of the sum of the absolute products is far above that, and far below a missing
/// product.
#[test]
fn agrees_with_a_plain_reference() {
    let product = on(2);
    for (rows, depth, width) in [
        (1, 1, 1),
        (1, 576, 192),
        (3, 17, 5),
        (5, 31, 66),
        (6, 576, 576),
        (8, 1536, 576),
        (64, 100, 130),
        (257, 64, 33),
    ] {
        let layer = Layer::new(3, depth, width, true);
        let x = numbers(9, rows * depth);
        let found = layer.apply(&product, &x);
        for (row, found) in x.chunks(depth).zip(found.chunks(width)) {
            for ((w, bias), found) in layer.weight.chunks(depth).zip(layer.bias.as_ref().unwrap()).zip(found) {
                let products =
                    || row.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).chain([f64::from(*bias)]);
                let (sum, size): (f64, f64) = (products().sum(), products().map(f64::abs).sum());
                assert!((f64::from(*found) - sum).abs() < 1e-6 * size, "{rows} x {depth} x {width}: {found} for {sum}");
            }
        }
    }
}

/// The shapes of SmolLM2-135M, above the amount of work that is shared.
#[test]
fn a_batch_gives_what_its_rows_give_on_any_number_of_threads() {
    let single = on(1);
    for (depth, width) in [(576, 576), (576, 192), (576, 1536), (1536, 576)] {
        let layer = Layer::new(11, depth, width, false);
        let x = numbers(12, 256 * depth);
        let one_by_one: Vec<f32> = x.chunks(depth).flat_map(|row| layer.apply(&single, row)).collect();
        for threads in [0, 1, 2, 3, 8] {
            let product = on(threads);
            for rows in [1, 2, 7, 8, 31, 64, 256] {
                let found = layer.apply(&product, &x[..rows * depth]);
                assert_eq!(bits(&found), bits(&one_by_one[..rows * width]), "{rows} rows, {threads} threads");
            }
        }
    }
}

#[test]
fn what_is_not_finite_stays_in_its_row_and_column() {
    let product = on(2);
    for depth in [64, 67] {
        let clean = Layer::new(21, depth, 41, true);
        let x = numbers(22, 9 * depth);
        let expected = clean.apply(&product, &x);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 17, depth - 1] {
                let mut spoilt = x.clone();
                spoilt[5 * depth + at] = bad;
                let found = clean.apply(&product, &spoilt);
                for (row, (found, expected)) in found.chunks(41).zip(expected.chunks(41)).enumerate() {
                    let is_spoilt = found.iter().all(|y| !y.is_finite());
                    assert!(
                        if row == 5 { is_spoilt } else { bits(found) == bits(expected) },
                        "{bad} in row 5: row {row}"
                    );
                }
                let mut layer = Layer::new(21, depth, 41, true);
                layer.weight[40 * depth + at] = bad;
                let found = layer.apply(&product, &x);
                for (found, expected) in found.chunks(41).zip(expected.chunks(41)) {
                    assert_eq!(bits(&found[..40]), bits(&expected[..40]));
                    assert!(!found[40].is_finite(), "{bad} in the last row of the weight");
                }
            }
        }
    }
}

#[test]
fn lengths_that_do_not_fit_are_named() {
    let product = on(1);
    let memory = numbers(1, 100);
    let refused = |x: usize, rows: usize, weight: usize, bias: Option<usize>, out: usize, text: &str| {
        let mut out = vec![7.0; out];
        let bias = bias.map(|len| &memory[..len]);
        let error = product.linear(&memory[..x], rows, &memory[..weight], bias, &mut out).unwrap_err();
        assert_eq!((error.to_string().as_str(), error.class()), (text, FailureClass::Bug));
        assert!(out.iter().all(|&y| y == 7.0), "written before it was checked");
    };
    refused(11, 2, 15, None, 6, "2 rows cannot have 11 floats in all and 6 floats as the result");
    refused(10, 2, 15, None, 7, "2 rows cannot have 10 floats in all and 7 floats as the result");
    refused(10, 0, 15, None, 0, "0 rows cannot have 10 floats in all and 0 floats as the result");
    refused(10, 2, 16, None, 6, "the weight of 3 outputs of 5 floats each has 16 floats");
    refused(10, 2, 15, Some(2), 6, "the bias of 3 outputs has 2 floats");
}

#[test]
fn nothing_times_something_is_nothing() {
    let product = on(2);
    product.linear(&[], 0, &[1.0; 6], None, &mut []).unwrap();
    product.linear(&[1.0; 6], 2, &[], None, &mut []).unwrap();
    let mut out = [7.0; 4];
    product.linear(&[], 2, &[], Some(&[1.0, 2.0]), &mut out).unwrap();
    assert_eq!(out, [1.0, 2.0, 1.0, 2.0]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any rows out of a pool in any order, any depth and width, any number of threads: each row is what it is alone.
    #[test]
    fn an_output_depends_on_its_row_its_weights_and_its_bias_alone(
        depth in 1..700_usize,
        width in 1..150_usize,
        has_bias in any::<bool>(),
        chosen in prop::collection::vec(0..5_usize, 1..80),
        threads in 1..4_usize,
        first in any::<prop::sample::Index>(),
        seed in 0..1_000_u64,
    ) {
        let layer = Layer::new(seed, depth, width, has_bias);
        let pool = numbers(seed + 2, 5 * depth);
        let alone: Vec<Vec<f32>> = pool.chunks(depth).map(|row| layer.apply(&on(1), row)).collect();
        let x: Vec<f32> = chosen.iter().flat_map(|&row| &pool[row * depth..][..depth]).copied().collect();
        for (&row, found) in chosen.iter().zip(layer.apply(&on(threads), &x).chunks(width)) {
            prop_assert_eq!(bits(found), bits(&alone[row]));
        }
        // An output among others of the weight and alone with its own.
        let column = first.index(width);
        let own = Layer {
            depth,
            width: 1,
            weight: layer.weight[column * depth..][..depth].to_vec(),
            bias: layer.bias.as_ref().map(|bias| vec![bias[column]]),
        };
        prop_assert_eq!(bits(&own.apply(&on(1), &pool[..depth])), bits(&alone[0][column..=column]));
    }
}
