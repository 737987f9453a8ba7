//! `orchestrator bench train`.

use std::path::PathBuf;

use super::Unserialisable;
use crate::cli::Printer;
use crate::cli::session::{quiet_compute_threads, runtime};
use crate::config::{self, ComputeDtype, DeviceChoice};
use crate::error::Failure;
use crate::report::listing::{Column, listing};
use crate::run::bench::{BenchError, TrainBench, TrainBenchSpec, TreeShape, TreeSource, bench_train};

/// Measure training: a warm-up step, then a few more on the same trees, each one optimizer step on all of them.
///
/// Trees are made up (`--tree`), those that a run has stored (`--run`), or of a file (`--groups`). Prints a table, and as the
/// last line of standard output the same as JSON. Tokens are counted twice: as trained (those of all trajectories, what
/// separate sequences would compute) and as unique (each of a tree once). The operations are those of the model: 6 per
/// parameter and unique token, and attention over what each token sees; what is computed twice to save memory does not
/// count. The model on disk is not changed.
///
/// Examples:
///   orchestrator bench train --model models/smollm2-135m-instruct --run runs/quickstart
///   orchestrator bench train --model models/tiny --tree depth=8,width=2,tokens=64,trajectories=16 --trees 4
///   orchestrator bench train --model models/tiny --run runs/a --export-batch batch.json --no-sharing
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Model in the Hugging Face layout.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Trees of a file that `--export-batch` wrote.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["run", "tree"])]
    groups: Option<PathBuf>,
    /// Trees of the finished steps of the newest run in each of these folders, searched with the same tokenizer.
    #[arg(long, value_name = "DIR", num_args = 1.., conflicts_with = "tree")]
    run: Vec<PathBuf>,
    /// Made-up trees of random tokens: `depth` nodes on a path, `tokens` in each, `width` children, `trajectories` paths (all
    /// by default), `prompt` tokens before them, `every` levels from one split to the next. What is left out is as in
    /// `depth=4,width=2,tokens=64,prompt=64,every=1`.
    #[arg(long, value_name = "SHAPE", verbatim_doc_comment)]
    tree: Option<TreeShape>,
    /// How many trees: 1 made-up one by default, and all that are stored.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    trees: Option<u32>,
    /// Seed of made-up trees.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Train every trajectory as a sequence of its own, with the advantages it has in its tree.
    #[arg(long)]
    no_sharing: bool,
    /// Steps that are measured, after one that is not.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Optimizer steps in each: from the second on, logprobs of the old weights are computed first.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    updates: u32,
    /// Where to compute: as the configuration says, or CUDA where there is one.
    #[arg(long, value_enum)]
    device: Option<DeviceName>,
    /// Element type of forward and backward pass: as the configuration says, or bfloat16 on CUDA and float32 elsewhere.
    #[arg(long, value_enum)]
    dtype: Option<DtypeName>,
    /// Compute threads.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    threads: Option<u32>,
    /// Configuration in TOML: its `[train]`, and temperature and response budget of its `[search]`.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Replace one setting, for example `--set train.micro_batch_tokens=4096`. May be given several times.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    sets: Vec<String>,
    /// Write the trees with advantages and objective to this file, for another trainer to compute the same.
    #[arg(long, value_name = "FILE")]
    export_batch: Option<PathBuf>,
    /// Write the weights to this folder in the end, and say how long it took.
    #[arg(long, value_name = "DIR")]
    export_weights: Option<PathBuf>,
    /// 10^12 operations per second that the device can do at most, for the utilisation; known are H100, H200 and A100 in
    /// bfloat16.
    #[arg(long, value_name = "X", value_parser = tera, allow_negative_numbers = true)]
    peak_tflops: Option<f64>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum DeviceName {
    /// The processor
    Cpu,
    /// The first CUDA device
    Cuda,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum DtypeName {
    /// float32
    Float32,
    /// bfloat16 with float32 masters
    Bfloat16,
}

/// Where no configuration says otherwise: made-up trees are as long as they were asked for.
const DEFAULTS: &str = "[train]\noverlong_buffer_tokens = 0\n";

/// Runs the subcommand.
///
/// # Errors
/// A model, trees or settings that cannot be used; files that cannot be written.
pub fn run(args: Args, printer: &Printer) -> Result<u8, Failure> {
    // First of all, since the process is started anew by it.
    quiet_compute_threads(printer);
    let spec = spec(args)?;
    let bench = runtime()?.block_on(bench_train(&spec, |text| printer.note(text)))?;
    let json = serde_json::to_string(&bench).map_err(Unserialisable)?;
    printer.data(&table(&bench, printer.width()))?;
    printer.data(&json)?;
    Ok(0)
}

fn spec(args: Args) -> Result<TrainBenchSpec, Failure> {
    let mut config = match &args.config {
        Some(path) => {
            let sources = config::sources(path, |path| std::fs::read_to_string(path))?;
            config::parse_sources(&sources, &args.sets)?
        }
        None => config::parse("the defaults", DEFAULTS, &args.sets)?,
    };
    let train = &mut config.train;
    match args.device {
        Some(DeviceName::Cpu) => train.device = DeviceChoice::Cpu,
        Some(DeviceName::Cuda) => train.device = DeviceChoice::Cuda,
        None => {}
    }
    let is_left_open = args.config.is_none() && !args.sets.iter().any(|set| set.trim().starts_with("train.dtype"));
    match args.dtype {
        Some(DtypeName::Float32) => train.dtype = ComputeDtype::Float32,
        Some(DtypeName::Bfloat16) => train.dtype = ComputeDtype::Bfloat16,
        None if is_left_open && !crate::trainer::device::pick(train.device).map_err(BenchError::from)?.is_cuda() => {
            train.dtype = ComputeDtype::Float32;
        }
        None => {}
    }
    train.threads = args.threads.unwrap_or(train.threads);
    config::validate_train(&config)?;
    config.run.model = args.model;
    let source = match (args.groups, args.run) {
        (Some(path), _) => TreeSource::File(path),
        (None, runs) if !runs.is_empty() => TreeSource::Runs(runs),
        (None, _) => TreeSource::Shape {
            shape: args.tree.unwrap_or_default(),
            trees: args.trees.unwrap_or(1) as usize,
            seed: args.seed,
        },
    };
    Ok(TrainBenchSpec {
        config,
        source,
        limit: args.trees.map(|trees| trees as usize),
        sharing: !args.no_sharing,
        steps: args.steps,
        updates: args.updates,
        export_batch: args.export_batch,
        export_weights: args.export_weights,
        peak_flops: args.peak_tflops.map(|tera| tera * 1e12),
    })
}

fn tera(text: &str) -> Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|value| value.is_finite() && *value > 0.0);
    value.ok_or_else(|| "must be a finite number above 0".to_owned())
}

fn table(bench: &TrainBench, width: usize) -> String {
    let gib = |bytes: Option<u64>| bytes.map_or_else(|| "-".into(), |bytes| format!("{:.2} GiB", bytes as f64 / GIB));
    let part = |seconds: f64| format!("{seconds:.3} s ({:.1} %)", 100.0 * seconds / bench.median_step_s);
    let per_token = bench.trained_tokens as f64 / bench.unique_tokens as f64;
    let mut rows = vec![
        ("model", format!("{} parameters", bench.parameter_count)),
        ("device", format!("{} {}", bench.device, bench.device_name.as_deref().unwrap_or(""))),
        ("trees", format!("{} with {} trajectories", bench.group_count, bench.trajectory_count)),
        ("trained tokens", format!("{} (longest {})", bench.trained_tokens, bench.longest_trajectory_tokens)),
        ("unique tokens", format!("{} ({per_token:.2} trained each)", bench.unique_tokens)),
        ("computed tokens", bench.computed_tokens.to_string()),
        ("step", format!("{:.3} s, {} optimizer steps", bench.median_step_s, bench.updates_per_step)),
        ("  processor time", bench.median_step_processor_s.map_or_else(|| "-".into(), |s| format!("{s:.2} s"))),
        ("  pack", part(bench.pack_s)),
        ("  old logprobs", part(bench.old_logprobs_s)),
        ("  gradient", part(bench.gradient_s)),
        ("  optimizer", part(bench.optimizer_s)),
        ("trained tokens/s", format!("{:.1}", bench.trained_tokens_per_s)),
        ("unique tokens/s", format!("{:.1}", bench.unique_tokens_per_s)),
        ("model TFLOP/s", format!("{:.4}", bench.model_flops_per_s / 1e12)),
    ];
    let utilisation = |frac: f64| ("utilisation (MFU)", format!("{:.1} %", 100.0 * frac));
    rows.extend(bench.mfu_frac.map(utilisation));
    rows.push(("peak memory", gib(bench.peak_resident_bytes)));
    rows.extend(bench.peak_gpu_bytes.map(|bytes| ("peak GPU memory", gib(Some(bytes)))));
    rows.push(("first loss, gradient", format!("{:.6}, {:.6}", bench.first_loss, bench.first_grad_norm)));
    rows.extend(bench.export_s.map(|seconds| ("export", format!("{seconds:.2} s"))));
    let columns = vec![
        Column::word("what", 0, rows.iter().map(|(name, _)| (*name).to_owned())),
        Column::word("figure", 0, rows.iter().map(|(_, figure)| figure.clone())),
    ];
    listing(columns, width)
}

const GIB: f64 = (1u64 << 30) as f64;
