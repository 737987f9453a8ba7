//! `orchestrator eval`.

use std::path::{Path, PathBuf};

use clap::builder::NonEmptyStringValueParser;

use super::Printer;
use super::session::{INTERRUPTED, watched};
use crate::config::{self, Config, EngineKind, Source};
use crate::error::{Failure, FailureClass, Hint};
use crate::report::{BenchmarkReport, benchmark_report, benchmark_table};
use crate::run::benchmark::{Benchmark, BenchmarkJob, Measured};
use crate::run::{DATABASE, FolderLock, Observer};
use crate::store::{Store, StoreError};
use crate::types::Sampling;
use crate::verify::Verifier;

/// What differs from the defaults of a run where no configuration is given: nothing is trained, so the model is in this
/// process, in the element type that repeats to the bit, or has the GPU for itself.
const BASE: &str = "[inference]\nengine = \"embedded\"\ngpu_memory_frac = 0.9\n[train]\ndtype = \"float32\"\n";

/// Sections and keys of the configuration that a measurement reads.
const READ: [&str; 6] = ["prompt.", "verify.", "inference.", "train.device", "train.dtype", "train.threads"];

/// Measure how good a model is on files of problems.
///
/// Takes n samples of each problem and prints, for each file and as a mean over files: pass@1 with a 95 % bootstrap interval
/// over problems, unbiased pass@k, majority@k, the share of answers that the token budget ended and that have no final answer,
/// and their mean length. Samples are kept in a database as they come: stopped or killed at any moment, the same command goes
/// on where it was. Answers of which nothing can say whether they are right are counted and left out.
///
/// The model answers in this process (`--engine embedded`, for small models), on a vLLM server that is started for it
/// (`--engine vllm`, for GPUs), or on a running one (`--server`).
///
/// Examples:
///   orchestrator eval models/smollm2-135m-instruct aime24.jsonl math500.jsonl --samples 4 --max-tokens 1024
///   orchestrator eval models/nemotron-research-reasoning-qwen-1.5b aime24.jsonl --engine vllm --json result.json
///   orchestrator eval models/nemotron-research-reasoning-qwen-1.5b aime24.jsonl --server http://127.0.0.1:8000
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Folder in the Hugging Face layout: a model, or one version of a run's weights. With --server only its tokenizer and
    /// chat template are read.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Problem files: JSON lines or parquet.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Folder to keep samples and results in. Without it one below `evals` that is named after the model and everything
    /// that changes results, so that the same command finds it again.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Samples per problem.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    samples: u32,
    /// Logits are divided by this; 0 takes the most likely token each time, and one sample.
    #[arg(long, value_name = "T", default_value_t = 0.6, value_parser = super::generate::temperature,
          allow_negative_numbers = true)]
    temperature: f64,
    /// Sample from the most likely tokens that have this share together; 1 is off.
    #[arg(long, value_name = "P", default_value_t = 0.95, value_parser = super::generate::share,
          allow_negative_numbers = true)]
    top_p: f64,
    /// Most tokens of an answer. Without it those of a run with this configuration, 16384 by default.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 30))]
    max_tokens: Option<u32>,
    /// Use only the first N problems of each file.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Seed of the sampling.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// What answers; without it what the configuration says, and `embedded` without one.
    #[arg(long, value_enum)]
    engine: Option<EngineName>,
    /// Base URL of a running vLLM server, which is measured with the weights it holds.
    #[arg(long, value_name = "URL", conflicts_with = "engine")]
    server: Option<String>,
    /// With --server: what the model is called there; without it the first that the server names.
    #[arg(long, value_name = "NAME", requires = "server", value_parser = NonEmptyStringValueParser::new())]
    served_model: Option<String>,
    /// Configuration in TOML: its sections prompt, verify and inference and, of train, device, dtype and threads.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Replace one setting, for example `--set prompt.kind=plain`. May be given several times.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    sets: Vec<String>,
    /// Write all figures, also those of each problem, as JSON to this file; `-` is standard output, in place of the table.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum EngineName {
    /// The model in this process
    Embedded,
    /// A vLLM server that is started for the measurement
    Vllm,
}

/// What was asked for cannot be done.
#[derive(Debug, thiserror::Error)]
enum EvalError {
    #[error("`--set {set}` has no effect on `eval`")]
    IdleSetting { set: String },
    #[error("`{}` is a problem file: results cannot replace it", path.display())]
    ProblemFile { path: PathBuf },
    #[error("cannot write `{}`", path.display())]
    Json {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the results cannot be written as JSON")]
    Unserialisable(#[source] serde_json::Error),
}

impl Hint for EvalError {
    fn class(&self) -> FailureClass {
        match self {
            EvalError::IdleSetting { .. } | EvalError::ProblemFile { .. } => FailureClass::User,
            EvalError::Json { .. } => FailureClass::Environment,
            EvalError::Unserialisable(_) => FailureClass::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            EvalError::IdleSetting { .. } => Some(
                "it reads `prompt`, `verify`, `inference` and, of `train`, `device`, `dtype` and `threads`; samples, \
                 temperature, top-p and max-tokens are options of their own"
                    .into(),
            ),
            EvalError::ProblemFile { .. } => Some("give another file to `--json`".into()),
            EvalError::Json { .. } => Some("the samples are kept: the same command writes it again at once".into()),
            EvalError::Unserialisable(_) => None,
        }
    }
}

/// Runs the subcommand.
///
/// # Errors
/// A model, file or setting that cannot be used, a folder with a benchmark of other settings, an engine that fails, a file
/// that cannot be written.
pub fn run(args: Args, printer: &Printer) -> Result<u8, Failure> {
    // First of all, since the process is started anew by it.
    super::session::quiet_compute_threads(printer);
    let json = args.json.clone();
    let place = |path: &Path| path.canonicalize().ok();
    if let Some(path) = &json
        && args.files.iter().any(|file| place(file).is_some() && place(file) == place(path))
    {
        return Err(EvalError::ProblemFile { path: path.clone() }.into());
    }
    let job = job(args, printer)?;
    let verifier = Verifier::new(job.config.verify.clone());
    let benchmark = Benchmark::prepare(job)?;
    let cut = benchmark.cut_prompts();
    if cut > 0 {
        printer.note(&format!("warning: {cut} prompts are longer than `prompt.max_tokens` and lost their beginning"));
    }
    let dir = benchmark.dir().to_owned();
    let done = watched(&dir, 0, printer, async |observer, cancel| {
        let _lock = FolderLock::acquire(&dir)?;
        let store = Store::open(&dir.join(DATABASE)).await?;
        let measured = benchmark.measure(&store, &observer, &cancel).await;
        let outcome = match measured {
            Ok(Measured { is_interrupted: true, missing, .. }) => Ok(Err(missing)),
            Ok(measured) => report(&store, measured, &verifier, &observer).await.map(Ok),
            Err(error) => Err(Failure::from(error)),
        };
        // What went wrong before matters more than how the database was closed.
        let closed = store.close().await;
        let outcome = outcome?;
        closed?;
        Ok(outcome)
    })?;
    let report = match done {
        Ok(report) => report,
        Err(missing) => {
            printer.note(&format!(
                "{missing} samples are still to come; the others are kept in {}: the same command goes on",
                dir.display()
            ));
            return Ok(INTERRUPTED);
        }
    };
    if report.missing() > 0 {
        printer.note(&format!(
            "warning: {} samples were refused by the server and are missing; the same command asks for them again",
            report.missing()
        ));
    }
    let is_to_stdout = json.as_deref() == Some(Path::new("-"));
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&report).map_err(EvalError::Unserialisable)?;
        if is_to_stdout {
            printer.data(&text)?;
        } else {
            std::fs::write(&path, text + "\n").map_err(|source| EvalError::Json { path, source })?;
        }
    }
    if !is_to_stdout {
        printer.data(&benchmark_table(&report, printer.width()))?;
    }
    printer.note(&format!("samples and results: {}", dir.join(DATABASE).display()));
    Ok(0)
}

/// Works out the figures and records them.
async fn report(
    store: &Store,
    measured: Measured,
    verifier: &Verifier,
    observer: &Observer,
) -> Result<BenchmarkReport, Failure> {
    let (reader, id) = (store.reader(), measured.benchmark);
    let row = reader.latest_benchmark().await?.filter(|row| row.benchmark_id == id);
    let row = row.ok_or_else(|| StoreError::NotFound { what: "benchmark", id: id.to_string() })?;
    let summaries = reader.benchmark_summary(id).await?;
    let problems = reader.benchmark_problems(id).await?;
    let samples = reader.benchmark_samples(id).await?;
    let report = benchmark_report(&row, &summaries, &problems, &samples, verifier);
    store.record_benchmark_results(id, report.results(), measured.missing == 0).await?;
    let unscored: u64 = report.files.iter().map(|file| file.scores.problems - file.scores.scored_problems).sum();
    if unscored > 0 {
        observer(crate::run::Event::Warning(format!(
            "{unscored} problems have no settled sample and are left out of the means"
        )));
    }
    Ok(report)
}

/// What the arguments ask for.
fn job(args: Args, printer: &Printer) -> Result<BenchmarkJob, Failure> {
    if let Some(set) = args.sets.iter().find(|set| !READ.iter().any(|read| set.trim_start().starts_with(read))) {
        return Err(EvalError::IdleSetting { set: set.clone() }.into());
    }
    let sources = match &args.config {
        Some(path) => config::sources(path, |path| std::fs::read_to_string(path))?,
        None => vec![Source { file: "the defaults of eval".into(), text: BASE.into() }],
    };
    let given = config::parse_sources(&sources, &args.sets)?;
    let max_tokens = args.max_tokens.unwrap_or_else(|| given.search.resolved().response_budget_tokens());
    let mut samples = args.samples;
    if args.temperature == 0.0 && samples > 1 {
        printer.note("temperature 0: all answers to a problem are the same, so one sample is taken");
        samples = 1;
    }
    let config = super::checked(measuring(given, &args, max_tokens))?;
    Ok(BenchmarkJob {
        config,
        files: args.files,
        limit: args.limit.map_or(0, |limit| limit as usize),
        samples,
        sampling: Sampling { temperature: args.temperature, top_p: args.top_p, top_k: 0 },
        max_tokens,
        seed: args.seed,
        served: args.served_model,
        dir: args.out,
    })
}

/// The configuration of a measurement: of `given` what it reads, and otherwise nothing that could be in the way.
fn measuring(given: Config, args: &Args, max_tokens: u32) -> Config {
    let Config { prompt, verify, inference, .. } = given;
    let mut config = Config { prompt, verify, inference, ..Config::default() };
    config.train.device = given.train.device;
    config.train.dtype = given.train.dtype;
    config.train.threads = given.train.threads;
    config.run.model = args.model.clone();
    config.data.problems = args.files.first().cloned().unwrap_or_default();
    let inference = &mut config.inference;
    match args.engine {
        Some(EngineName::Embedded) => inference.engine = EngineKind::Embedded,
        Some(EngineName::Vllm) => {
            inference.engine = EngineKind::Vllm;
            (inference.launch, inference.urls) = (true, Vec::new());
        }
        None => {}
    }
    if let Some(url) = &args.server {
        inference.engine = EngineKind::Vllm;
        (inference.launch, inference.urls) = (false, vec![url.clone()]);
    }
    // One answer is one step: what is left of the rules between a search, its training and the context then holds.
    (config.search.max_depth, config.search.step_tokens, config.search.width) = (1, max_tokens, 1);
    config.curriculum.filter = false;
    config.replay.enabled = false;
    config.run.algorithm = config::Algorithm::Deepsearch;
    let whole_tokens = config.prompt.max_tokens.saturating_add(max_tokens as usize);
    config.inference.max_model_tokens = whole_tokens;
    config.train.micro_batch_tokens = whole_tokens;
    config.train.overlong_buffer_tokens = 0;
    config
}
