//! What a folder of weights says of itself: where it comes from, what it was trained on, how good it was measured to be.
//!
//! Everything but the [`Origin`] is read from the database, so a card made today says what one made then said. Nothing of
//! the machine is told: of paths only file names, of addresses only how many.

mod settings;
mod text;

use std::collections::BTreeMap;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::benchmark::statistics::bootstrap;
use crate::error::{FailureClass, Hint};
use crate::store::{
    BenchmarkResult, BenchmarkRow, BenchmarkSummary, EvaluationRow, ProblemContent, Reader, RoundRow, RoundSummary,
    RunRow, StepStatus, StepSummary, StoreError, WeightVersionRow,
};
use crate::types::{RunId, StepId, WeightVersion};

pub use text::card_text;

/// What only cards say.
pub const CARD_MARK: &str = "SHA-256 of the settings as the run recorded them";

/// A card that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// The run could not be read.
    #[error("the run cannot be read")]
    Store(#[from] StoreError),
    /// The run has no such weights.
    #[error("run `{run}` has no weight version `{version}`")]
    NoVersion {
        /// The run.
        run: RunId,
        /// The version.
        version: WeightVersion,
    },
    /// A benchmark of other weights than those of the card.
    #[error(
        "the benchmark in `{name}` measured the weights `{measured}`, neither those of the card nor those before training"
    )]
    OtherWeights {
        /// Its folder.
        name: String,
        /// Digest of the weights that it measured.
        measured: String,
    },
}

impl Hint for CardError {
    fn class(&self) -> FailureClass {
        match self {
            CardError::Store(error) => error.class(),
            CardError::NoVersion { .. } | CardError::OtherWeights { .. } => FailureClass::User,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            CardError::Store(error) => error.hint(),
            CardError::NoVersion { .. } => Some("list them: orchestrator inspect DIR weights".into()),
            CardError::OtherWeights { .. } => {
                Some("measure the exported folder: orchestrator eval FOLDER PROBLEMS".into())
            }
        }
    }
}

/// What a database does not know of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// What the model is called.
    pub name: String,
    /// The model that training started from, as it is called where it is published.
    pub base_model: String,
    /// Its licence, as the Hugging Face hub writes it; `None` where nobody says.
    pub license: Option<String>,
    /// The name of a licence that has none on the hub, and where it is to be read.
    pub license_other: Option<(String, String)>,
    /// The folder holds adapters, not a whole model.
    pub is_adapter: bool,
    /// Digest of the weights in the folder where they are not those that the run recorded: adapters that were added to
    /// their model.
    pub merged_digest: Option<String>,
}

/// All that a card says.
#[derive(Clone, Debug, PartialEq)]
pub struct Card {
    /// What the database does not know.
    pub origin: Origin,
    /// The run.
    pub run: RunRow,
    /// The weights.
    pub weights: WeightVersionRow,
    /// What made them.
    pub training: Training,
    /// What they were trained and measured on.
    pub data: Vec<DataUse>,
    /// How good they are.
    pub results: Vec<CardResult>,
}

/// Sums over the steps and rounds until these weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Training {
    /// Steps that are over.
    pub steps: u64,
    /// Rounds that were begun.
    pub rounds: u64,
    /// Trees.
    pub trees: u64,
    /// Trees in which a correct answer was found.
    pub solved_trees: u64,
    /// Tokens sampled, those of filters included.
    pub generated_tokens: u64,
    /// Tokens trained on, each time they occur.
    pub trained_tokens: u64,
    /// Time of searching.
    pub search_ms: u64,
    /// Time of training.
    pub train_ms: u64,
}

/// Problems that were used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataUse {
    /// `training` or `held-out`.
    pub purpose: &'static str,
    /// Name of the file or folder.
    pub file: String,
    /// Problems, each content once.
    pub problems: u64,
    /// How many of each data set.
    pub sources: BTreeMap<String, u64>,
    /// SHA-256 over their content digests, one a line, sorted.
    pub digest: String,
}

/// How good the weights are on one set of problems.
#[derive(Clone, Debug, PartialEq)]
pub struct CardResult {
    /// The set.
    pub set: String,
    /// Problems.
    pub problems: u64,
    /// Samples per problem.
    pub samples: u32,
    /// Logits were divided by this.
    pub temperature: Option<f64>,
    /// Mean over the problems of the share of right samples.
    pub pass_at_1: Option<f64>,
    /// Its interval, 95 %, by a bootstrap over problems.
    pub interval: Option<[f64; 2]>,
    /// pass@k by k, from 2 on.
    pub pass_at: BTreeMap<u32, f64>,
    /// Mean length of an answer in tokens.
    pub tokens_mean: Option<f64>,
    /// pass@1 of the model that training started from, measured in the same way.
    pub before: Option<f64>,
}

/// A benchmark as its database has it.
#[derive(Clone, Debug, PartialEq)]
pub struct MeasuredBenchmark {
    /// Where it is, for messages.
    pub name: String,
    /// What was measured, and how.
    pub row: BenchmarkRow,
    /// Its files.
    pub files: Vec<BenchmarkSummary>,
    /// Its figures.
    pub results: Vec<BenchmarkResult>,
}

/// Reads the newest benchmark of a database; `None` if there is none.
///
/// # Errors
/// The database cannot be read.
pub async fn measured_benchmark(reader: &Reader, name: &str) -> Result<Option<MeasuredBenchmark>, StoreError> {
    let Some(row) = reader.latest_benchmark().await? else { return Ok(None) };
    let files = reader.benchmark_summary(row.benchmark_id).await?;
    let results = reader.benchmark_results(row.benchmark_id).await?;
    Ok(Some(MeasuredBenchmark { name: name.to_owned(), row, files, results }))
}

/// What is the same for all versions of a run's weights, read once.
pub struct CardSource<'a> {
    reader: &'a Reader,
    run: RunRow,
    steps: Vec<StepSummary>,
    rounds: Vec<(RoundRow, RoundSummary)>,
    evaluations: Vec<EvaluationRow>,
    initial: Option<WeightVersionRow>,
    data: Vec<DataUse>,
}

impl<'a> CardSource<'a> {
    /// Reads a run.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn read(reader: &'a Reader, run: RunRow) -> Result<CardSource<'a>, CardError> {
        let id = run.run_id;
        let summaries = reader.round_summary(id).await?;
        let summary = |round: &RoundRow| summaries.iter().find(|summary| summary.round_id == round.round_id).cloned();
        let rounds = reader.rounds(id).await?.into_iter();
        Ok(CardSource {
            steps: reader.steps(id).await?,
            rounds: rounds.filter_map(|round| summary(&round).map(|summary| (round, summary))).collect(),
            evaluations: reader.evaluations(id).await?,
            initial: reader.weight_version(id, WeightVersion::INITIAL).await?,
            data: data(reader, &run).await?,
            reader,
            run,
        })
    }

    /// What there is to say of a version of the weights. `benchmarks` measured it, or the model that training started
    /// from.
    ///
    /// # Errors
    /// No such weights, a benchmark of others, a database that cannot be read.
    pub async fn card(
        &self,
        version: WeightVersion,
        origin: Origin,
        benchmarks: &[MeasuredBenchmark],
    ) -> Result<Card, CardError> {
        let run = self.run.run_id;
        let weights = self.reader.weight_version(run, version).await?;
        let weights = weights.ok_or(CardError::NoVersion { run, version })?;
        let mut results = self.held_out(version).await?;
        results.extend(benchmarked(&weights, self.initial.as_ref(), &origin, benchmarks)?);
        let training = self.training(weights.step_id.unwrap_or(StepId(0)));
        Ok(Card { origin, run: self.run.clone(), weights, training, data: self.data.clone(), results })
    }

    fn training(&self, until: StepId) -> Training {
        let mut sums = Training::default();
        for step in self.steps.iter().filter(|step| step.status == StepStatus::Done && step.step_id <= until) {
            sums.steps += 1;
            sums.trees += step.tree_count;
            sums.solved_trees += step.solved_count;
            sums.generated_tokens += step.generated_tokens.unwrap_or(0);
            sums.trained_tokens += step.trained_tokens.unwrap_or(0);
            sums.search_ms += step.search_ms.unwrap_or(0);
            sums.train_ms += step.train_ms.unwrap_or(0);
        }
        for (_, summary) in self.rounds.iter().filter(|(round, _)| round.first_step_id <= until) {
            sums.rounds += 1;
            sums.generated_tokens += summary.generated_tokens;
        }
        sums
    }

    /// The last measurement of these weights within the run, beside that of the first.
    async fn held_out(&self, version: WeightVersion) -> Result<Vec<CardResult>, StoreError> {
        let rows = &self.evaluations;
        let Some(row) = rows.iter().rfind(|row| row.weight_version == version) else { return Ok(Vec::new()) };
        let first = rows.iter().find(|row| row.weight_version == WeightVersion::INITIAL);
        let is_alike = |first: &&EvaluationRow| {
            version != WeightVersion::INITIAL
                && (first.problem_count, first.sample_count) == (row.problem_count, row.sample_count)
        };
        let config = &self.run.config_toml;
        let path = settings::text_of(config, "eval", "problems").unwrap_or_default();
        let rollouts = f64::from(row.problem_count) * f64::from(row.sample_count);
        let pass_at = row.pass_at_k.filter(|_| row.sample_count > 1).map(|value| (row.sample_count, value));
        Ok(vec![CardResult {
            set: Some(crate::data::dataset_name(Path::new(&path)))
                .filter(|set| !set.is_empty())
                .unwrap_or("held-out".into()),
            problems: u64::from(row.problem_count),
            samples: row.sample_count,
            temperature: settings::number_of(config, "eval", "temperature"),
            pass_at_1: row.pass_at_1,
            interval: interval(self.reader, row).await?,
            pass_at: pass_at.into_iter().collect(),
            tokens_mean: (rollouts > 0.0).then(|| row.generated_tokens as f64 / rollouts),
            before: first.filter(is_alike).and_then(|row| row.pass_at_1),
        }])
    }
}

async fn data(reader: &Reader, run: &RunRow) -> Result<Vec<DataUse>, StoreError> {
    let mut found = Vec::new();
    for (purpose, section, contents) in [
        ("training", "data", reader.training_contents(run.run_id).await?),
        ("held-out", "eval", reader.held_out_contents(run.run_id).await?),
    ] {
        if !contents.is_empty() {
            let file = settings::text_of(&run.config_toml, section, "problems");
            found.push(data_use(purpose, file_name(&file.unwrap_or_default()), &contents));
        }
    }
    Ok(found)
}

fn data_use(purpose: &'static str, file: String, contents: &[ProblemContent]) -> DataUse {
    let mut hash = Sha256::new();
    let mut sources = BTreeMap::new();
    for content in contents {
        hash.update(&content.sha256);
        hash.update("\n");
        *sources.entry(content.source.clone()).or_insert(0) += 1;
    }
    let digest = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    DataUse { purpose, file, problems: contents.len() as u64, sources, digest }
}

/// The interval of a measurement's pass@1; `None` where the counts of its problems do not say all: some answers were not
/// decided, or a problem was there twice.
async fn interval(reader: &Reader, row: &EvaluationRow) -> Result<Option<[f64; 2]>, StoreError> {
    let counts = reader.evaluation_correct_counts(row.run_id, row.step_id).await?;
    if row.undecided_count > 0 || counts.len() != row.problem_count as usize || row.sample_count == 0 {
        return Ok(None);
    }
    let rates: Vec<f64> = counts.iter().map(|&count| f64::from(count) / f64::from(row.sample_count)).collect();
    Ok(bootstrap(&[&rates]))
}

fn benchmarked(
    weights: &WeightVersionRow,
    initial: Option<&WeightVersionRow>,
    origin: &Origin,
    benchmarks: &[MeasuredBenchmark],
) -> Result<Vec<CardResult>, CardError> {
    let mut own = Vec::new();
    let mut earlier: Vec<(&MeasuredBenchmark, &BenchmarkSummary)> = Vec::new();
    for benchmark in benchmarks {
        let measured = benchmark.row.weights_digest.as_deref().unwrap_or("of a server that does not say");
        let is_own = measured == weights.digest || origin.merged_digest.as_deref() == Some(measured);
        if is_own {
            own.extend(benchmark.files.iter().map(|file| (benchmark, file)));
        } else if initial.is_some_and(|initial| initial.digest == measured) {
            earlier.extend(benchmark.files.iter().map(|file| (benchmark, file)));
        } else {
            let (name, measured) = (benchmark.name.clone(), measured.to_owned());
            return Err(CardError::OtherWeights { name, measured });
        }
    }
    let results = own.into_iter().map(|(benchmark, file)| {
        let row = &benchmark.row;
        let of_file = |metric: &'static str| {
            benchmark.results.iter().filter(move |result| result.file == file.file_id && result.metric == metric)
        };
        let is_alike = |other: &BenchmarkRow| {
            let key =
                |row: &BenchmarkRow| (row.sample_count, row.temperature.to_bits(), row.top_p.to_bits(), row.max_tokens);
            key(other) == key(row)
        };
        let before = earlier.iter().find(|(other, before)| {
            before.file == file.file && before.problem_count == file.problem_count && is_alike(&other.row)
        });
        CardResult {
            set: file.file.clone(),
            problems: file.problem_count,
            samples: row.sample_count,
            temperature: Some(row.temperature),
            pass_at_1: file.pass_at_1,
            interval: of_file("pass").find(|result| result.k == 1).and_then(|result| result.interval),
            pass_at: of_file("pass").filter(|result| result.k > 1).map(|result| (result.k, result.value)).collect(),
            tokens_mean: file.tokens_mean,
            before: before.and_then(|(_, before)| before.pass_at_1),
        }
    });
    Ok(results.collect())
}

/// The last part of a path.
fn file_name(path: &str) -> String {
    Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
