//! Attention over trees by chains: its plan, its algebra in double precision, and whole models against separate sequences
//! and against one masked call. No Python.

// Helpers of tests are tests too; clippy.toml allows these in `#[test]` functions only.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod trainer_support;

use std::collections::HashMap;

use orchestrator::config::TrainConfig;
use orchestrator::rng::{Purpose, stream};
use orchestrator::trainer::loss::Objective;
use orchestrator::trainer::model::tree_attention::{Mixed, TreeAttention};
use orchestrator::trainer::model::{Form, FormChoice};
use orchestrator::trainer::pack::PackedBatch;
use orchestrator::trainer::{Family, Learner};
use orchestrator::types::{
    GroupNode, NodeId, ProblemId, Prompt, Provenance, Trajectory, TrajectoryGroup, Verdict, WeightVersion,
};
use proptest::prelude::*;
use rand_chacha::rand_core::Rng;
use tch::{Device, Kind, Tensor};
use trainer_support::*;

const TEMPERATURE: f64 = 0.8;
/// What fp32 sums in another order may change, |a - b| / |b| of each parameter's gradient.
const TOLERANCE: f64 = 1e-5;

/// A tree of nodes with these parents and numbers of tokens; every leaf ends a trajectory.
fn tree(seed: u64, prompt_tokens: usize, nodes: &[(Option<usize>, usize)]) -> TrajectoryGroup {
    let mut rng = stream(seed, Purpose::Search, &[]);
    let mut tokens = |count: usize| -> Vec<u32> { (0..count).map(|_| (rng.next_u64() % 512) as u32).collect() };
    let prompt = Prompt { tokens: tokens(prompt_tokens).into(), text: "".into() };
    let mut values = stream(seed, Purpose::Sampling, &[]);
    let mut depths: Vec<u32> = Vec::new();
    let list: Vec<GroupNode> = nodes
        .iter()
        .enumerate()
        .map(|(index, &(parent, count))| {
            let depth = parent.map_or(1, |parent: usize| depths[parent] + 1);
            depths.push(depth);
            GroupNode {
                node: NodeId(index as u32 + 1),
                parent,
                depth: depth as _,
                tokens: tokens(count),
                logprobs: (0..count).map(|_| -(0.1 + 6.0 * uniform(&mut values)) as f32).collect(),
                weight_version: WeightVersion::INITIAL,
                q_total: 0.5,
            }
        })
        .collect();
    let is_leaf = |node: &usize| nodes.iter().all(|(parent, _)| *parent != Some(*node));
    let trajectories = (0..nodes.len()).filter(is_leaf).map(|leaf| {
        let mut path = vec![leaf];
        while let Some(parent) = nodes[path[0]].0 {
            path.insert(0, parent);
        }
        Trajectory {
            verdict: if leaf % 2 == 0 { Verdict::Correct } else { Verdict::Incorrect },
            reward: 1.0,
            entropy_nats: 1.0,
            response_tokens: path.iter().map(|&node| nodes[node].1).sum(),
            path,
            provenance: Provenance::Search,
            defect: None,
        }
    });
    TrajectoryGroup {
        problem: ProblemId(seed as i64),
        tree: None,
        prompt,
        trajectories: trajectories.collect(),
        nodes: list,
    }
}

/// Parents at random, any number of roots, empty and one-token nodes among them.
fn random_tree(seed: u64, nodes: usize, longest: usize) -> TrajectoryGroup {
    let mut rng = stream(seed, Purpose::Eval, &[]);
    let shape: Vec<_> = (0..nodes)
        .map(|index| {
            let parent = below(&mut rng, 0, index + 1).checked_sub(1);
            (parent, if uniform(&mut rng) < 0.3 { below(&mut rng, 0, 2) } else { below(&mut rng, 1, longest + 1) })
        })
        .collect();
    tree(seed, 1 + seed as usize % 7, &shape)
}

/// The shapes that a tree of search can take, by name.
fn shapes() -> Vec<(&'static str, Vec<TrajectoryGroup>)> {
    let chain: Vec<_> = (0..6usize).map(|i| (i.checked_sub(1), 4)).collect();
    let star: Vec<_> = (0..7).map(|i| (None, 1 + i % 5)).collect();
    // A spine with one leaf at each of its nodes.
    let comb: Vec<_> = (0..12usize).map(|i| (if i < 2 { None } else { Some((i - 2) / 2 * 2) }, 1 + i % 4)).collect();
    let deep: Vec<_> = (0..24usize).map(|i| (if i == 20 { Some(3) } else { i.checked_sub(1) }, 1 + i % 2)).collect();
    // Nodes that say nothing: at the root, in the middle, as leaves.
    let empty = [(None, 0), (Some(0), 3), (Some(0), 0), (Some(2), 2), (Some(2), 1), (Some(1), 0), (Some(1), 5)];
    let single = [(None, 1), (None, 1), (Some(0), 1), (Some(0), 1), (Some(3), 1), (Some(3), 1)];
    vec![
        ("chain", vec![tree(1, 5, &chain)]),
        ("star", vec![tree(2, 9, &star)]),
        ("comb", vec![tree(3, 3, &comb)]),
        ("deep", vec![tree(4, 1, &deep)]),
        ("empty nodes", vec![tree(5, 4, &empty)]),
        ("nodes of one token", vec![tree(6, 1, &single)]),
        ("forest", vec![random_tree(7, 9, 6), tree(8, 2, &chain), tree(9, 3, &star), random_tree(10, 14, 3)]),
        ("long", vec![random_tree(11, 12, 40)]),
    ]
}

/// Four trees that a search with SmolLM2-135M made, token ids folded into this vocabulary.
fn trees_of_a_search() -> Vec<TrajectoryGroup> {
    #[derive(serde::Deserialize)]
    struct Stored {
        prompt: Vec<u32>,
        nodes: Vec<StoredNode>,
        paths: Vec<Vec<usize>>,
    }
    #[derive(serde::Deserialize)]
    struct StoredNode {
        parent: Option<usize>,
        tokens: Vec<u32>,
    }
    let stored: Vec<Stored> = serde_json::from_str(include_str!("fixtures/data/search_trees.json")).unwrap();
    let group = |(seed, stored): (u64, Stored)| {
        let shape: Vec<_> = stored.nodes.iter().map(|node| (node.parent, node.tokens.len())).collect();
        let mut group = tree(seed, stored.prompt.len(), &shape);
        group.prompt.tokens = stored.prompt.into();
        for (node, stored) in group.nodes.iter_mut().zip(stored.nodes) {
            node.tokens = stored.tokens;
        }
        let any = group.trajectories[0].clone();
        let trajectories = stored.paths.into_iter().map(|path| Trajectory { path, ..any.clone() });
        group.trajectories = trajectories.collect();
        group
    };
    (100..).zip(stored).map(group).collect()
}

fn packed(groups: &[TrajectoryGroup], budget: usize) -> Vec<PackedBatch> {
    let advantages: Vec<_> = groups.iter().map(|group| random_advantages(group, group.problem.0 as u64)).collect();
    pack_all(groups, &advantages, budget)
}

fn relative(a: &Tensor, b: &Tensor) -> f64 {
    let norm = |x: &Tensor| x.to_kind(Kind::Double).norm().double_value(&[]);
    norm(&(a - b)) / norm(b).max(f64::MIN_POSITIVE)
}

/// Softmax over the visible rows, written out, with libtorch's gradient.
fn written_out(batch: &PackedBatch, projected: &[Tensor; 3], grad: &Tensor) -> (Tensor, Tensor, [Tensor; 3]) {
    let size = batch.len() as i64;
    let hidden = Tensor::from_slice(&batch.visibility()).view([size, size]).logical_not();
    let leaves = projected.each_ref().map(|x| x.detach().set_requires_grad(true));
    let [q, k, v] = &leaves;
    let times = q.size()[0] / k.size()[0];
    let (k, v) = (k.repeat_interleave_self_int(times, 0, None), v.repeat_interleave_self_int(times, 0, None));
    let scores = q.matmul(&k.transpose(1, 2)) / (q.size()[2] as f64).sqrt();
    let scores = scores.masked_fill(&hidden, f64::NEG_INFINITY);
    let output = scores.softmax(-1, Kind::Double).matmul(&v).transpose(0, 1);
    (&output * grad).sum(Kind::Double).backward();
    let logsumexp = scores.logsumexp([-1i64].as_slice(), false).transpose(0, 1);
    (output.detach(), logsumexp.detach(), leaves.each_ref().map(Tensor::grad))
}

/// The algebra: in double precision nothing but a mistake can differ.
#[test]
fn chains_merge_to_the_softmax_over_all_that_a_row_sees() {
    tch::manual_seed(5);
    let mut cases = shapes();
    cases.extend((20..40).map(|seed| ("random", vec![random_tree(seed, 3 + seed as usize % 11, 30)])));
    for (name, groups) in cases {
        for (heads, kv_heads) in [(6, 2), (3, 3)] {
            for batch in packed(&groups, usize::MAX) {
                let rows = batch.len() as i64;
                let random = |heads| Tensor::randn([rows, heads, 16], (Kind::Double, Device::Cpu)) * 2.0;
                // As a projection leaves them: heads of a row side by side.
                let projected = [heads, kv_heads, kv_heads].map(|heads| random(heads).transpose(0, 1));
                let grad = random(heads);
                let (output, logsumexp, expected) = written_out(&batch, &projected, &grad);
                let attention = TreeAttention::new(batch.chains(), Device::Cpu);
                let mixed: Mixed = attention.forward(&projected);
                let found = attention.backward(&projected, &mixed, &grad);
                assert!(relative(&mixed.output, &output) < 1e-13, "{name}: output");
                assert!(relative(&mixed.logsumexp, &logsumexp) < 1e-13, "{name}: logsumexp");
                for ((found, expected), of) in found.iter().zip(&expected).zip(["queries", "keys", "values"]) {
                    assert_eq!(found.size(), expected.size());
                    let error = relative(found, expected);
                    assert!(
                        error < 1e-12,
                        "{name}, {heads} heads on {kv_heads}: gradient of {of} differs by {error:e}"
                    );
                }
            }
        }
    }
}

/// In bf16 the parts are merged in fp32: the result rounds about as often as one call would.
#[test]
fn merging_in_bf16_rounds_once() {
    tch::manual_seed(6);
    let batch = &packed(&[random_tree(12, 16, 20)], usize::MAX)[0];
    let rows = batch.len() as i64;
    let exact = [4, 2, 2].map(|heads| {
        let x = Tensor::randn([heads, rows, 32], (Kind::Float, Device::Cpu));
        x.to_kind(Kind::BFloat16).to_kind(Kind::Double)
    });
    let grad = Tensor::randn([rows, 4, 32], (Kind::Float, Device::Cpu)).to_kind(Kind::BFloat16);
    let (output, _, expected) = written_out(batch, &exact, &grad.to_kind(Kind::Double));
    let rough = exact.each_ref().map(|x| x.to_kind(Kind::BFloat16));
    let attention = TreeAttention::new(batch.chains(), Device::Cpu);
    let mixed = attention.forward(&rough);
    assert_eq!((mixed.output.kind(), mixed.logsumexp.kind()), (Kind::BFloat16, Kind::Float));
    let error = relative(&mixed.output.to_kind(Kind::Double), &output);
    assert!(error < 4e-3, "output differs by {error:e}");
    for (found, expected) in attention.backward(&rough, &mixed, &grad).iter().zip(&expected) {
        let error = relative(&found.to_kind(Kind::Double), expected);
        assert!(error < 1e-2, "a gradient differs by {error:e}");
    }
}

struct Outcome {
    /// Of each token, known by its engine logprob, which is different for every token.
    logprobs: HashMap<u32, f32>,
    loss: f64,
    gradients: Vec<(String, Tensor)>,
}

fn run(learner: &mut Learner, batches: &[PackedBatch], objective: &Objective, old: &HashMap<u32, f32>) -> Outcome {
    learner.parameters.zero_grad();
    let mut outcome = Outcome { logprobs: HashMap::new(), loss: 0.0, gradients: Vec::new() };
    for batch in batches {
        let keys: Vec<u32> = batch.engine_logprobs.iter().map(|logprob| logprob.to_bits()).collect();
        let scored = learner.logprobs(batch, TEMPERATURE);
        let old: Vec<f32> = keys.iter().zip(&scored).map(|(key, now)| *old.get(key).unwrap_or(now)).collect();
        outcome.loss += learner.accumulate(batch, objective, Some(&old)).loss;
        outcome.logprobs.extend(keys.into_iter().zip(scored));
    }
    outcome.gradients = learner.parameters.iter().map(|p| (p.name.clone(), p.grad.detach().copy())).collect();
    outcome
}

/// The largest relative difference of a parameter's gradient.
fn assert_same(found: &Outcome, expected: &Outcome, what: &str) -> f64 {
    for (key, logprob) in &expected.logprobs {
        let difference = (logprob - found.logprobs[key]).abs();
        assert!(difference < 1e-5 * logprob.abs().max(1.0), "{what}: a logprob differs by {difference:e}");
    }
    let scale = expected.loss.abs().max(1.0);
    assert!(
        (found.loss - expected.loss).abs() < TOLERANCE * scale,
        "{what}: loss {} and {}",
        found.loss,
        expected.loss
    );
    let mut worst = 0f64;
    for ((name, found), (_, expected)) in found.gradients.iter().zip(&expected.gradients) {
        let error = relative(found, expected);
        assert!(error < TOLERANCE, "{what}: the gradient of `{name}` differs by {error:e}");
        worst = worst.max(error);
    }
    worst
}

fn check_family(family: Family, cases: Vec<(&'static str, Vec<TrajectoryGroup>)>) {
    let dir = tiny(family, |spec| {
        (spec.hidden_size, spec.heads, spec.kv_heads, spec.layers) = (128, 4, 2, 3);
    });
    let mut learners: Vec<Learner> = [false, true]
        .map(|checkpoint_activations| learner(dir.path(), TrainConfig { checkpoint_activations, ..config() }))
        .into();
    let mut worst = 0f64;
    for (name, groups) in cases {
        let batches = packed(&groups, usize::MAX);
        let separate = packed(&groups.iter().map(unshared).collect::<Vec<_>>(), 1);
        assert!(separate.iter().all(PackedBatch::is_chain));
        let objective = Objective {
            clip_low: 0.2,
            clip_high: 0.28,
            dual_clip: 3.0,
            importance_cap: 2.0,
            cached_importance_cap: 2.0,
            denominator: pairs(&groups) as f64,
        };
        // Ratios within and beyond the clip range.
        let keys = batches.iter().flat_map(|batch| {
            let now = learners[0].logprobs(batch, TEMPERATURE);
            batch.engine_logprobs.iter().map(|logprob| logprob.to_bits()).zip(now).collect::<Vec<_>>()
        });
        let old: HashMap<u32, f32> =
            keys.enumerate().map(|(i, (key, now))| (key, now + 0.15 * ((i * 5 % 9) as f32 - 4.0))).collect();
        learners[0].decoder.form = FormChoice::OneCall;
        let reference = run(&mut learners[0], &separate, &objective, &old);
        for (learner, mode) in learners.iter_mut().zip(["kept", "checkpointed"]) {
            for form in [FormChoice::Chains, FormChoice::OneCall, FormChoice::Fastest] {
                learner.decoder.form = form;
                let whole = run(learner, &batches, &objective, &old);
                worst = worst.max(assert_same(&whole, &reference, &format!("{name}, {mode}, {form:?}, packed")));
            }
            learner.decoder.form = FormChoice::Chains;
            let apart = run(learner, &separate, &objective, &old);
            worst = worst.max(assert_same(&apart, &reference, &format!("{name}, {mode}, separate")));
        }
    }
    println!("{family:?}: gradients differ by at most {worst:.1e} of a parameter's gradient");
}

#[test]
fn llama_by_chains_equals_separate_sequences() {
    check_family(Family::Llama, shapes());
}

#[test]
fn qwen2_by_chains_equals_separate_sequences() {
    check_family(Family::Qwen2, shapes());
}

#[test]
fn qwen3_by_chains_equals_separate_sequences() {
    check_family(Family::Qwen3, shapes());
}

#[test]
fn trees_of_a_search_by_chains_equal_separate_sequences() {
    let groups = trees_of_a_search();
    let (rows, pairs) = (packed(&groups, usize::MAX)[0].len(), pairs(&groups));
    assert!(2 * pairs > 3 * rows, "shared: {pairs} trained tokens in {rows} rows");
    check_family(Family::Llama, vec![("search", groups)]);
}

/// A mask is for small trees of tiny nodes only, and one sequence needs none.
#[test]
fn the_form_follows_the_tree() {
    let dir = tiny(Family::Llama, |_| {});
    let mut learner = learner(dir.path(), config());
    let form = |learner: &Learner, group: TrajectoryGroup| match learner
        .decoder
        .context(&packed(&[group], usize::MAX)[0])
        .form
    {
        Form::Chains(_) => "chains",
        Form::Masked(_) => "masked",
        Form::Causal => "causal",
    };
    let star = |leaves: usize, tokens| tree(1, 8, &vec![(None, tokens); leaves]);
    assert_eq!(form(&learner, star(1, 5)), "chains");
    assert_eq!(form(&learner, star(20, 1)), "masked");
    assert_eq!(form(&learner, star(4, 100)), "chains");
    assert_eq!(form(&learner, star(500, 1)), "masked");
    assert_eq!(form(&learner, star(2100, 1)), "chains", "a mask would be too large");
    learner.decoder.form = FormChoice::OneCall;
    assert_eq!(form(&learner, star(1, 5)), "causal");
    assert_eq!(form(&learner, star(4, 100)), "masked");
    learner.decoder.form = FormChoice::Chains;
    assert_eq!(form(&learner, star(20, 1)), "chains");
}

proptest! {
    /// Whatever the trees and the split: the chains are the rows in order, a chain ends at a branch or a leaf only, and the
    /// rows behind it that are its descendants are exactly those that see it.
    #[test]
    fn a_chain_and_its_descendants_are_what_rows_see(seed in 0u64..1000, nodes in 1usize..24, budget in 1usize..120) {
        let groups = [random_tree(seed, nodes, 5), random_tree(seed + 1, 5, 4)];
        for batch in packed(&groups, budget) {
            let visible = batch.visibility();
            let chains = batch.chains();
            let mut next = 0;
            for (index, chain) in chains.iter().enumerate() {
                prop_assert_eq!(chain.rows.start, next);
                prop_assert_eq!(chain.rows.end, chain.descendants.start);
                prop_assert!(!chain.rows.is_empty());
                next = chain.rows.end;
                for row in 0..batch.len() {
                    let seen = chain.rows.clone().filter(|column| visible[row * batch.len() + column]).count();
                    let expected = if chain.rows.contains(&row) { row + 1 - chain.rows.start }
                        else if chain.descendants.contains(&row) { chain.rows.len() } else { 0 };
                    prop_assert_eq!(seen, expected, "row {} of chain {}", row, index);
                }
                let below = chains.iter().filter(|c| chain.descendants.contains(&c.rows.start))
                    .filter(|c| batch.positions[c.rows.start] == batch.positions[chain.rows.end - 1] + 1).count();
                prop_assert!(below != 1, "chain {} goes on in its only child", index);
            }
            prop_assert_eq!(next, batch.len());
            // The work is what the rows need and no more: each meets itself and its ancestors once.
            let own = chains.iter().map(|c| c.rows.len() * (c.rows.len() + 1) / 2).sum::<usize>();
            let below = chains.iter().map(|c| c.rows.len() * c.descendants.len()).sum::<usize>();
            let needed = batch.positions.iter().map(|&position| position as usize + 1).sum::<usize>();
            prop_assert_eq!(own + below, needed);
            prop_assert_eq!(chains.len() == 1, batch.is_chain());
        }
    }
}
