//! What attention over trees costs on the CPU, by chains and with one masked call: seconds of processor time (one thread)
//! and peak memory, both sides in turn in one run.
//!
//! `attention`: one layer at the heads of SmolLM2-135M, forward and backward. `blocks`: two decoder blocks of its shape,
//! forward and backward. `crossover`: one layer of trees of tiny nodes. `linear`: two small blocks by chains, paths of 1024 tokens, 1k to 64k unique tokens. The argument
//! picks some of them; the default is `attention` and `blocks` up to 2k rows.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::fs;

use orchestrator::config::ComputeDtype;
use orchestrator::trainer::backprop::Body;
use orchestrator::trainer::model::tree_attention::TreeAttention;
use orchestrator::trainer::model::{Decoder, Family, FormChoice, ModelConfig, ModelSpec, Weights, init_model};
use orchestrator::trainer::pack::{PackedBatch, Segment};
use orchestrator::trainer::params::{Parameters, Placement, Use};
use tch::{Device, Kind, Tensor};

/// A prompt and levels of nodes of `node_tokens`, each below some node of the level before: about `rows` rows, of which
/// the deepest ends a path of `path_tokens`. A level has more nodes the deeper it is.
fn tree(rows: usize, path_tokens: usize, node_tokens: usize) -> PackedBatch {
    let prompt = node_tokens.min(256);
    let levels = ((path_tokens - prompt) / node_tokens).max(1);
    let nodes = (rows.saturating_sub(prompt) / node_tokens).max(levels);
    let mut children: Vec<Vec<usize>> = vec![Vec::new()];
    let mut level = vec![0];
    let mut made = 0;
    for depth in 1..=levels {
        let wanted = (nodes * depth * (depth + 1) / (levels * (levels + 1))).max(made + 1) - made;
        let above = std::mem::take(&mut level);
        for index in 0..wanted {
            children.push(Vec::new());
            let node = children.len() - 1;
            // Spread unevenly, as search does.
            children[above[(index * 7 + index * index) % above.len()]].push(node);
            level.push(node);
        }
        made += wanted;
    }
    let mut batch = PackedBatch::default();
    let mut waiting = vec![(0, None::<usize>)];
    while let Some((node, parent)) = waiting.pop() {
        let (count, start) = match parent {
            None => (prompt, 0),
            Some(parent) => {
                let last = batch.segments[parent].rows.end - 1;
                (node_tokens, batch.positions[last] + 1)
            }
        };
        let first = batch.len();
        batch.tokens.extend((0..count).map(|i| ((first + i) * 31 % 500) as u32));
        batch.positions.extend(start..start + count as u32);
        batch.segments.push(Segment { rows: first..first + count, parent });
        let segment = batch.segments.len() - 1;
        waiting.extend(children[node].iter().map(|&child| (child, Some(segment))));
    }
    batch
}

fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the place is valid for the whole call.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn memory(field: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

/// Processor seconds and MiB above what was held before, the better of `repeats`.
fn measure(repeats: usize, mut run: impl FnMut()) -> (f64, f64) {
    let mut best = (f64::INFINITY, f64::INFINITY);
    for _ in 0..repeats {
        // SAFETY: gives freed memory back, so that the peak is this run's own.
        unsafe { libc::malloc_trim(0) };
        // 5: forget the peak.
        let _ = fs::write("/proc/self/clear_refs", "5");
        let (before, start) = (memory("VmRSS"), cpu_seconds());
        run();
        best = (best.0.min(cpu_seconds() - start), best.1.min(memory("VmHWM") - before));
    }
    best
}

fn attention(rows: usize, node_tokens: usize) {
    let batch = tree(rows, (rows / 3).clamp(node_tokens * 3, 2048), node_tokens);
    let size = batch.len() as i64;
    let random = |heads: i64| Tensor::randn([size, heads, 64], (Kind::Float, Device::Cpu));
    let projected = [9, 3, 3].map(|heads| random(heads).transpose(0, 1));
    let grad = random(9);
    let repeats = if rows > 4000 { 1 } else { 3 };
    let chains = batch.chains();
    let count = chains.len();
    let tree = TreeAttention::new(chains, Device::Cpu);
    let by_chains = measure(repeats, || {
        let mixed = tree.forward(&projected);
        drop(tree.backward(&projected, &mixed, &grad));
    });
    let masked = measure(repeats, || {
        let visible = Tensor::from_slice(&batch.visibility()).view([size, size]);
        let mut mask = Tensor::zeros([size, size], (Kind::Float, Device::Cpu));
        let _ = mask.masked_fill_(&visible.logical_not(), f64::NEG_INFINITY);
        let leaves = projected.each_ref().map(|x| x.detach().set_requires_grad(true));
        let [q, k, v] = leaves.each_ref().map(|x| x.unsqueeze(0));
        let output = Tensor::scaled_dot_product_attention(&q, &k, &v, Some(&mask), 0.0, false, None, true);
        (output.squeeze_dim(0).transpose(0, 1) * &grad).sum(Kind::Float).backward();
    });
    print("attention", size, node_tokens, count, merges(&batch), &[("chains", by_chains), ("masked", masked)]);
}

fn print(what: &str, rows: i64, node_tokens: usize, chains: usize, merged: usize, sides: &[(&str, (f64, f64))]) {
    let sides: Vec<String> = sides.iter().map(|(name, (s, mib))| format!("{name} {s:8.4} s {mib:7.0} MiB")).collect();
    println!(
        "{what:10} {rows:6} rows, nodes of {node_tokens:3}, {chains:4} chains, {merged:6} merges: {}",
        sides.join(" | ")
    );
}

/// How often a row's result is merged with that of a chain above it, over all rows.
fn merges(batch: &PackedBatch) -> usize {
    batch.chains().iter().map(|chain| chain.descendants.len()).sum()
}

struct Model {
    decoder: Decoder,
    hidden: i64,
    _parameters: Parameters,
}

fn model(spec: ModelSpec) -> Model {
    let dir = tempfile::tempdir().unwrap();
    init_model(&spec, dir.path()).unwrap();
    let config = ModelConfig::read(dir.path()).unwrap();
    let placement = Placement { dtype: ComputeDtype::Float32, device: Device::Cpu, is_offloaded: false };
    let parameters = Parameters::load(dir.path(), &config, placement, Use::Training).unwrap();
    Model {
        decoder: Decoder::new(
            &config,
            &Weights { tensors: &parameters.work(), adapter_scale: parameters.adapter_scale() },
        ),
        hidden: spec.hidden_size,
        _parameters: parameters,
    }
}

fn pass(model: &Model, batch: &PackedBatch, checkpoint: bool) {
    let decoder = &model.decoder;
    let context = decoder.context(batch);
    let embedded = tch::no_grad(|| decoder.embed(&decoder.index(&batch.tokens)));
    let grad = Tensor::ones([batch.len() as i64, model.hidden], (Kind::Float, Device::Cpu));
    let body = Body::forward(decoder, &embedded, &context, checkpoint);
    drop(body.backward(decoder, &grad, &context));
}

fn blocks(model: &mut Model, rows: usize, node_tokens: usize) {
    let batch = tree(rows, (rows / 3).clamp(node_tokens * 3, 2048), node_tokens);
    let repeats = if rows > 4000 { 1 } else { 3 };
    let sides = [("chains", FormChoice::Chains), ("masked", FormChoice::OneCall)].map(|(name, form)| {
        model.decoder.form = form;
        (name, measure(repeats, || pass(model, &batch, true)))
    });
    print("blocks", batch.len() as i64, node_tokens, batch.chains().len(), merges(&batch), &sides);
}

fn linear(model: &Model, rows: usize) {
    let batch = tree(rows, 1024, 128);
    let kept = measure(1, || pass(model, &batch, false));
    let again = measure(1, || pass(model, &batch, true));
    print(
        "linear",
        batch.len() as i64,
        128,
        batch.chains().len(),
        merges(&batch),
        &[("kept", kept), ("checkpointed", again)],
    );
}

fn main() {
    tch::set_num_threads(1);
    let small = ModelSpec { dtype: ComputeDtype::Float32, max_positions: 65_536, ..ModelSpec::default() };
    let llama = ModelSpec { family: Family::Llama, head_dim: 64, ..small };
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_wanted = |what: &str| wanted.iter().any(|word| word == what);
    if wanted.is_empty() || is_wanted("attention") {
        for (rows, node_tokens) in [(500, 16), (500, 64), (2000, 8), (2000, 16), (2000, 64), (2000, 256)] {
            attention(rows, node_tokens);
        }
    }
    if is_wanted("crossover") {
        for (rows, node_tokens) in
            [(60, 4), (100, 2), (100, 4), (200, 2), (200, 4), (200, 8), (500, 2), (500, 4), (500, 8)]
        {
            attention(rows, node_tokens);
        }
        for node_tokens in [2, 4, 6] {
            attention(2000, node_tokens);
        }
    }
    if wanted.is_empty() || is_wanted("blocks") || is_wanted("large") {
        let shape = ModelSpec { hidden_size: 576, intermediate_size: 1536, heads: 9, kv_heads: 3, ..llama };
        let mut model = model(shape);
        if !is_wanted("large") {
            for (rows, node_tokens) in [(500, 16), (500, 64), (2000, 64), (2000, 256)] {
                blocks(&mut model, rows, node_tokens);
            }
        } else {
            attention(8000, 256);
            blocks(&mut model, 8000, 256);
        }
    }
    if is_wanted("linear") {
        let shape = ModelSpec { hidden_size: 128, intermediate_size: 256, heads: 4, kv_heads: 2, ..llama };
        let model = model(shape);
        for rows in [1024, 4096, 16_384, 65_536] {
            linear(&model, rows);
        }
    }
}
