//! The matrix products of one decoding step of SmolLM2-135M: 211 products, 540 MB of weights, ours beside libtorch's.
//!
//! `cargo bench --bench product -- [--rows 1,8,64] [--threads 1,2] [--rounds 5]`. In every round each runs once at every
//! number of rows, in turn; the table shows the least and the median time of a step in ms, and how many GB of weights
//! and GFLOP that is per second. The element-wise work between the products is left out on both sides.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::sync::Arc;
use std::time::Instant;

use orchestrator::trainer::generate::pointwise::numbers;
use orchestrator::trainer::generate::product::Product;
use orchestrator::trainer::generate::workers::Workers;
use tch::{Device, Kind, Tensor};

const LAYERS: usize = 30;
/// Outputs and inputs of a layer's products in their order, then of the vocabulary's.
const LAYER: [(i64, i64); 7] = [(576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536)];
const HEAD: (i64, i64) = (49152, 576);

/// What follows `--name`, as numbers.
fn option(name: &str, default: &[usize]) -> Vec<usize> {
    let arguments: Vec<String> = std::env::args().collect();
    let value = arguments.iter().position(|argument| argument == name).and_then(|at| arguments.get(at + 1));
    value.map_or_else(|| default.to_vec(), |list| list.split(',').map(|number| number.parse().unwrap()).collect())
}

struct Step {
    weights: Vec<Tensor>,
    /// Rows [rows, depth] per depth.
    inputs: Vec<Tensor>,
    rows: usize,
}

impl Step {
    fn input(&self, weight: &Tensor) -> &Tensor {
        self.inputs.iter().find(|x| x.size()[1] == weight.size()[1]).unwrap()
    }

    fn ours(&self, product: &Product, out: &mut [f32]) -> f64 {
        let start = Instant::now();
        for weight in &self.weights {
            let width = weight.size()[0] as usize;
            let x = numbers(self.input(weight));
            product.linear(&x, self.rows, &numbers(weight), None, &mut out[..self.rows * width]).unwrap();
        }
        start.elapsed().as_secs_f64() * 1e3
    }

    fn libtorch(&self) -> f64 {
        let start = Instant::now();
        for weight in &self.weights {
            let _ = std::hint::black_box(self.input(weight).linear(weight, None::<Tensor>));
        }
        start.elapsed().as_secs_f64() * 1e3
    }
}

fn least_and_median(times: &mut [f64]) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    (times[0], times[times.len() / 2])
}

fn main() {
    let (rows, threads) = (option("--rows", &[1, 4, 8, 16, 32, 64, 256]), option("--threads", &[2, 1]));
    let rounds = option("--rounds", &[7])[0];
    let random = |shape: [i64; 2]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
    let layers = std::iter::repeat_n(LAYER, LAYERS).flatten();
    let weights: Vec<Tensor> = layers.chain([HEAD]).map(|(width, depth)| random([width, depth])).collect();
    let count: usize = weights.iter().map(Tensor::numel).sum();
    println!("{} products, {:.0} MB; ms per step, least (median)", weights.len(), count as f64 * 4e-6);
    println!("threads  rows           ours       libtorch   GB/s  GFLOP/s (ours)");
    let mut step = Step { weights, inputs: Vec::new(), rows: 0 };
    let mut out = vec![0.0; rows.iter().max().unwrap() * HEAD.0 as usize];
    for threads in threads {
        tch::set_num_threads(threads as i32);
        let product = Product::new(Arc::new(Workers::new(threads).unwrap()));
        for &rows in &rows {
            step.rows = rows;
            step.inputs = [576, 1536].map(|depth| random([rows as i64, depth])).into();
            let (mut ours, mut libtorch) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                ours.push(step.ours(&product, &mut out));
                libtorch.push(tch::no_grad(|| step.libtorch()));
            }
            let ((ours, our_median), (theirs, their_median)) =
                (least_and_median(&mut ours), least_and_median(&mut libtorch));
            let (bandwidth, rate) = (count as f64 * 4e-6 / ours, (2 * rows * count) as f64 * 1e-6 / ours);
            println!(
                "{threads:>7} {rows:>5} {ours:>7.1} ({our_median:>5.1}) {theirs:>6.1} ({their_median:>5.1}) \
                 {bandwidth:>6.1} {rate:>8.1}"
            );
        }
    }
}
