//! What one expansion costs in bookkeeping: `supply` and `next`, width 8, in a tree that already has so many nodes.
//!
//! The paper's shape: depth at most 64, 256 tokens a node, one continuation in fifty ends its text. Making the
//! continuations is not timed. A tree is grown to its size, measured until it is a quarter larger, and grown anew.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use orchestrator::config::{Backtrace, Rules, SearchConfig};
use orchestrator::search::{Child, Next, SpecialTokens, Tree};
use orchestrator::types::{Continuation, FinishReason, NodeId, Verdict, WeightVersion};

const NODES: [usize; 3] = [1_000, 10_000, 100_000];

/// A multiplicative generator: cheap, and good enough to vary lengths and confidences.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn children(tree: &Tree, node: NodeId, n: u32, dice: &mut Dice) -> Vec<Child> {
    let full = tree.config().step_tokens as usize;
    (0..n)
        .map(|_| {
            let ends = dice.below(50) == 0;
            let length = if ends { 1 + dice.below(full as u64 - 1) as usize } else { full };
            let continuation = Continuation {
                tokens: vec![dice.below(50_000) as u32 + 2; length],
                logprobs: vec![-(dice.below(4096) as f32) / 1024.0; length],
                finish: if ends { FinishReason::Stop } else { FinishReason::Length },
                weight_version: WeightVersion(1),
            };
            let verdict = match dice.below(3) {
                0 => Verdict::Correct,
                _ => Verdict::Incorrect,
            };
            let verdict = tree.is_terminal(node, &continuation).then_some(verdict);
            Child::new(continuation, verdict)
        })
        .collect()
}

/// One expansion; the time of `supply` and `next` alone.
fn expand(tree: &mut Tree, dice: &mut Dice) -> Duration {
    let Next::Expand { node, n } = tree.next() else { panic!("the search ended") };
    let children = children(tree, node, n, dice);
    let start = Instant::now();
    tree.supply(node, children, Duration::ZERO).unwrap();
    std::hint::black_box(tree.next());
    start.elapsed()
}

fn grown(config: &SearchConfig, nodes: usize, dice: &mut Dice) -> Tree {
    let mut tree = Tree::new(config, SpecialTokens::default(), 0).unwrap();
    while tree.nodes().len() < nodes {
        expand(&mut tree, dice);
    }
    tree
}

fn expansion(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("expansion");
    group.sample_size(10).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(500));
    for (rules, name) in [(Rules::Released, "released"), (Rules::Paper, "paper")] {
        for (backtrace, mode) in [(Backtrace::Global, "global"), (Backtrace::Uct, "uct")] {
            let config = SearchConfig { rules, backtrace, trajectories: u32::MAX, ..SearchConfig::default() };
            for nodes in NODES {
                let mut dice = Dice(1);
                let mut tree = Some(grown(&config, nodes, &mut dice));
                group.bench_function(BenchmarkId::new(format!("{name}_{mode}"), nodes), |bencher| {
                    bencher.iter_custom(|iterations| {
                        let mut spent = Duration::ZERO;
                        for _ in 0..iterations {
                            let grown = tree.get_or_insert_with(|| grown(&config, nodes, &mut dice));
                            spent += expand(grown, &mut dice);
                            if grown.nodes().len() > nodes + nodes / 4 {
                                tree = None;
                            }
                        }
                        spent
                    });
                });
            }
        }
    }
    group.finish();
}

criterion_group!(benches, expansion);
criterion_main!(benches);
