//! `orchestrator sft`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::Printer;
use crate::config;
use crate::error::Failure;
use crate::run::supervise::{EpochReport, SuperviseSpec, supervise};

/// Teaches a model worked examples: problems and solutions as JSON lines with the keys `problem` and `solution`.
///
/// Problems are posed as `orchestrator run` poses them, with `[prompt]` of the same configuration file; an answer ends with
/// the first of its `stop` texts, or else with the model's end-of-text token. The model is written in the Hugging Face
/// layout when all is learnt. On a processor the same files and seed give the same bytes.
///
/// Example:
///   orchestrator problems generate --out examples.jsonl --count 2000 --solutions
///   orchestrator sft --model models/tiny --data examples.jsonl --out models/warm --learning-rate 1e-3
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Model to start from, in the Hugging Face layout.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Worked examples, JSON lines.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Folder to write; not there yet, or empty.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Configuration in TOML: its `[prompt]` and `[train]` are used, except for learning rate and warm-up. Without one,
    /// the defaults, in float32.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Passes over the examples.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Examples per optimizer step.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Learning rate after warm-up; then it falls linearly to 0.
    #[arg(long, value_name = "X", default_value_t = 1e-4, value_parser = learning_rate, allow_negative_numbers = true)]
    learning_rate: f64,
    /// Optimizer steps of linear warm-up.
    #[arg(long, value_name = "N", default_value_t = 10)]
    warmup_steps: u32,
    /// Keep the learning rate after warm-up.
    #[arg(long)]
    no_decay: bool,
    /// Seed of the order of the examples.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Replace one setting of `[prompt]` or `[train]`, for example `--set train.threads=1`. May be given several times.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    sets: Vec<String>,
}

/// Where no configuration says otherwise: small models on a processor.
const DEFAULTS: &str = "[train]\ndtype = \"float32\"\ncheckpoint_activations = false\nmicro_batch_tokens = 1024\n";
/// Between two lines of progress within an epoch.
const INTERVAL: Duration = Duration::from_secs(15);

/// Runs the subcommand.
///
/// # Errors
/// Examples, a model or settings that cannot be used; a folder that is not empty or cannot be written.
pub fn run(args: Args, printer: &Printer) -> Result<u8, Failure> {
    let config = match &args.config {
        Some(path) => {
            let sources = config::sources(path, |path| std::fs::read_to_string(path))?;
            config::parse_sources(&sources, &args.sets)?
        }
        None => config::parse("the defaults", DEFAULTS, &args.sets)?,
    };
    super::session::quiet_compute_threads(printer);
    let mut spec = SuperviseSpec::new(config, &args.model, &args.data, &args.out);
    spec.train.learning_rate = args.learning_rate;
    spec.train.warmup_steps = args.warmup_steps;
    spec.epochs = args.epochs;
    spec.batch_examples = args.batch as usize;
    spec.decay = !args.no_decay;
    spec.seed = args.seed;
    let runtime = super::session::runtime()?;
    let mut said = Instant::now();
    let epochs = spec.epochs;
    let observe = |report: EpochReport, is_over: bool| {
        if is_over || said.elapsed() >= INTERVAL {
            said = Instant::now();
            printer.note(&line(&report, epochs));
        }
    };
    runtime.block_on(supervise(&spec, observe))?;
    printer.note(&format!("model in {}", args.out.display()));
    Ok(0)
}

fn line(report: &EpochReport, epochs: u32) -> String {
    let elapsed_s = report.elapsed.as_secs_f64();
    let skipped = match report.updates_skipped {
        0 => String::new(),
        count => format!(", {count} updates skipped (gradient not finite)"),
    };
    format!(
        "epoch {}/{epochs}: {} examples, loss {:.4} nats, {:.0} tokens/s, {elapsed_s:.1} s{skipped}",
        report.epoch,
        report.examples,
        report.loss_nats,
        report.packed_tokens as f64 / elapsed_s.max(1e-9),
    )
}

fn learning_rate(text: &str) -> Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|value| value.is_finite() && *value > 0.0);
    value.ok_or_else(|| "must be a finite number above 0".to_owned())
}
