//! `orchestrator bench rollout`.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;

use super::Unserialisable;
use crate::cli::Printer;
use crate::cli::session::{INTERRUPTED, interruptible, quiet_compute_threads};
use crate::config::{self, Algorithm, Config, EngineKind, Source};
use crate::error::Failure;
use crate::report::listing::{Column, listing};
use crate::run::bench::rollout::{Mode, ModeFigures, Ratio, RolloutBench, RolloutBenchSpec, bench_rollout};

/// What differs from the defaults of a run where no configuration is given: trees that two cores grow in seconds.
const BASE: &str = "[inference]\nengine = \"embedded\"\n[train]\ndtype = \"float32\"\n[verify]\nsidecar = false\n\
                    [search]\nwidth = 4\nstep_tokens = 32\nmax_depth = 8\ntrajectories = 8\n";

/// Measure search: the same trees in several ways on one engine, in turn.
///
/// Modes:
///   search     as a run does it, verdicts and database included: every tree at its own pace
///   lock-step  as the released implementation does it: a batch of trees takes one expansion, all wait for the slowest, and
///              the prefix cache is dropped
///   plain      what a plain load generator gets: the requests of `search` again, those of a tree one after the other, as
///              many at once, nothing else
///   saturated  the same requests, all independent
///
/// Each mode begins with an empty prefix cache. Prints a table, and as the last line of standard output the same as JSON. The
/// processor time is that of this process: a server is another one, and so are those of Math-Verify.
///
/// The model answers in this process (`--engine embedded`), on a vLLM server that is started for it (`--engine vllm`), or on
/// a running one (`--server`, which needs `VLLM_SERVER_DEV_MODE=1`, or its prefix cache cannot be dropped). With
/// `--engine none` random tokens come at a server's pace: what is measured is the orchestrator alone.
///
/// Examples:
///   orchestrator bench rollout --model models/tiny --trees 64
///   orchestrator bench rollout --model models/smollm2-135m-instruct --engine vllm --problems problems.jsonl --rounds 3
///   orchestrator bench rollout --model models/tiny --engine none --trees 10000 --set inference.max_sequences=40000 --modes search
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Model in the Hugging Face layout. With --server or `--engine none` its weights are not read.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// What answers; without it what the configuration says, and `embedded` without one.
    #[arg(long, value_enum)]
    engine: Option<EngineName>,
    /// Base URL of a running vLLM server, which is measured with the weights it holds. May be given several times.
    #[arg(long, value_name = "URL", conflicts_with = "engine")]
    server: Vec<String>,
    /// With --server: what the model is called there; without it the first that the server names.
    #[arg(long, value_name = "NAME", requires = "server", value_parser = NonEmptyStringValueParser::new())]
    served_model: Option<String>,
    /// Problems to search, JSON lines or parquet, from the first on and over again. Without it prompts are random tokens.
    #[arg(long, value_name = "FILE")]
    problems: Option<PathBuf>,
    /// Tokens of a made-up prompt.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1 << 20),
          conflicts_with = "problems")]
    prompt_tokens: u32,
    /// Trees to grow in each mode.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    trees: u32,
    /// What is measured, by commas.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "search,lock-step,plain,saturated")]
    modes: Vec<ModeName>,
    /// Trees of a batch in lock step (the released implementation: 16).
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    lock_step_trees: u32,
    /// How many times each mode has its turn.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seed of the search and of made-up prompts.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    seed: Option<u64>,
    /// Keep database and server log in this folder. Without it they are removed.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Configuration in TOML: its sections search, prompt, verify and inference and, of train, device, dtype and threads.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Replace one setting, for example `--set search.width=8`. May be given several times.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    sets: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum EngineName {
    /// The model in this process
    Embedded,
    /// A vLLM server that is started for the measurement
    Vllm,
    /// No model: random tokens
    None,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum ModeName {
    /// As a run does it
    Search,
    /// As the released implementation does it
    LockStep,
    /// The same requests without search, those of a tree one after the other
    Plain,
    /// The same requests, all independent
    Saturated,
}

/// Runs the subcommand.
///
/// # Errors
/// A model, problems or settings that cannot be used; an engine that does not start or goes away.
pub fn run(args: Args, printer: &Printer) -> Result<u8, Failure> {
    // First of all, since the process is started anew by it.
    quiet_compute_threads(printer);
    let spec = spec(args)?;
    let measured = interruptible(async |cancel| Ok(bench_rollout(&spec, |text| printer.note(text), &cancel).await?))?;
    let Some(bench) = measured else { return Ok(INTERRUPTED) };
    let json = serde_json::to_string(&bench).map_err(Unserialisable)?;
    printer.data(&modes(&bench, printer.width()))?;
    printer.data(&aims(&bench, printer.width()))?;
    printer.data(&json)?;
    Ok(0)
}

fn spec(args: Args) -> Result<RolloutBenchSpec, Failure> {
    let sources = match &args.config {
        Some(path) => config::sources(path, |path| std::fs::read_to_string(path))?,
        None => vec![Source { file: "the defaults of bench rollout".into(), text: BASE.into() }],
    };
    let config = crate::cli::checked(measuring(config::parse_sources(&sources, &args.sets)?, &args))?;
    let mode = |name: &ModeName| match name {
        ModeName::Search => Mode::Search,
        ModeName::LockStep => Mode::LockStep,
        ModeName::Plain => Mode::Plain,
        ModeName::Saturated => Mode::Saturated,
    };
    Ok(RolloutBenchSpec {
        config,
        without_model: args.engine == Some(EngineName::None),
        served: args.served_model,
        problems: args.problems,
        prompt_tokens: args.prompt_tokens as usize,
        trees: args.trees as usize,
        modes: args.modes.iter().map(mode).collect(),
        rounds: args.rounds,
        lock_step_trees: args.lock_step_trees as usize,
        dir: args.out,
    })
}

/// The configuration of a measurement: of `given` what it reads, and otherwise nothing that could be in the way.
fn measuring(given: Config, args: &Args) -> Config {
    let Config { search, prompt, verify, inference, .. } = given;
    let mut config = Config { search, prompt, verify, inference, ..Config::default() };
    config.run.model = args.model.clone();
    config.run.algorithm = Algorithm::Deepsearch;
    config.run.seed = args.seed.unwrap_or(given.run.seed);
    config.data.problems = args.problems.clone().unwrap_or_else(|| "made-up".into());
    config.train.device = given.train.device;
    config.train.dtype = given.train.dtype;
    config.train.threads = given.train.threads;
    let inference = &mut config.inference;
    match args.engine {
        Some(EngineName::Embedded | EngineName::None) => inference.engine = EngineKind::Embedded,
        Some(EngineName::Vllm) => {
            inference.engine = EngineKind::Vllm;
            (inference.launch, inference.urls) = (true, Vec::new());
        }
        None => {}
    }
    if !args.server.is_empty() {
        inference.engine = EngineKind::Vllm;
        (inference.launch, inference.urls) = (false, args.server.clone());
    }
    // What is left of the rules between a search, its training and the context then holds.
    let whole_tokens = config.prompt.max_tokens.saturating_add(config.search.response_budget_tokens() as usize);
    config.inference.max_model_tokens = whole_tokens;
    config.train.micro_batch_tokens = whole_tokens;
    config.train.overlong_buffer_tokens = 0;
    config.curriculum.filter = false;
    config.replay.enabled = false;
    config
}

fn modes(bench: &RolloutBench, width: usize) -> String {
    let column =
        |name: &'static str, cell: fn(&ModeFigures) -> String| Column::number(name, 0, bench.modes.iter().map(cell));
    let columns = vec![
        Column::word("mode", 0, bench.modes.iter().map(|mode| mode.mode.to_owned())),
        column("tokens/s", |mode| format!("{:.1}", mode.tokens_per_s)),
        column("tokens", |mode| mode.generated_tokens.last().map_or_else(String::new, u64::to_string)),
        column("requests", |mode| mode.request_count.last().map_or_else(String::new, u64::to_string)),
        column("s per tree", |mode| format!("{:.3}", mode.s_per_tree)),
        column("trees/h", |mode| format!("{:.0}", mode.trees_per_hour)),
        column("trees at once", |mode| if mode.most_trees == 0 { "-".into() } else { mode.most_trees.to_string() }),
        column("sequences", |mode| format!("{:.1}", mode.mean_sequences)),
        column("reused", |mode| mode.reused_frac.map_or_else(|| "-".into(), |frac| format!("{:.1} %", 100.0 * frac))),
        column("processor s", |mode| {
            mode.processor_s.last().copied().flatten().map_or_else(|| "-".into(), |seconds| format!("{seconds:.2}"))
        }),
        column("peak memory", |mode| {
            let bytes = mode.peak_resident_bytes.iter().flatten().max();
            bytes.map_or_else(|| "-".into(), |bytes| format!("{:.1} MiB", *bytes as f64 / MIB))
        }),
    ];
    listing(columns, width)
}

fn aims(bench: &RolloutBench, width: usize) -> String {
    let row = |what: &str, ratio: &Option<Ratio>, at: &str, unit: &str| {
        let ratio = ratio.as_ref()?;
        let aim = ratio.aim.map_or_else(|| "-".into(), |aim| format!("{at} {aim}{unit}"));
        let met = ratio.is_met.map_or("-", |is_met| if is_met { "yes" } else { "no" });
        Some([what.to_owned(), format!("{:.3}{unit}", ratio.value), aim, met.to_owned()])
    };
    let rows: Vec<[String; 4]> = [
        row("tokens/s, search / plain", &bench.search_to_plain, ">=", ""),
        row("tokens/s, search / saturated", &bench.search_to_saturated, ">=", ""),
        row("time of a tree, search / lock-step", &bench.search_to_lock_step, "<=", ""),
        row("processor at 1000 tokens/s, of one core", &bench.processor_percent, "<=", " %"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let cells = |index: usize| rows.iter().map(move |row| row[index].clone());
    let columns = vec![
        Column::word("what", 0, cells(0)),
        Column::number("figure", 0, cells(1)),
        Column::word("aim", 0, cells(2)),
        Column::word("met", 0, cells(3)),
    ];
    listing(columns, width)
}

const MIB: f64 = (1u64 << 20) as f64;
