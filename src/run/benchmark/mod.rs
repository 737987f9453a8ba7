//! A model on files of problems: n samples of each, judged and recorded as they come.
//!
//! A sample is named by the benchmark's seed, the content of its problem and its number. So a problem has the same draws
//! whatever stands beside it, and a benchmark that was cut off asks for what is missing and for nothing else. What the
//! samples say is worked out afterwards, from the database alone (`report/benchmark`).

mod sampler;
mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, EngineKind};
use crate::inference::{Engine, EngineError};
use crate::rng::{self, Purpose};
use crate::store::{BenchmarkRow, NewBenchmark, NewBenchmarkFile, SettledSample, Store, UnsettledSample};
use crate::trainer::export::digest_of_folder;
use crate::types::{BenchmarkId, Sampling, Verdict};
use crate::verify::Grader;

use super::engine::SamplingEngine;
use super::flight::{Room, in_flight};
use super::judge::Judge;
use super::problems::{Language, Problems};
use super::shutdown::{Interruptible, until};
use super::{Event, Observer, RunError, record};
use sampler::Sampler;
use settings::Settings;

/// An answer that comes slower than this, in tokens per second, is given up.
const SLOWEST_TOKENS_PER_S: u64 = 1;

/// Samples that are judged again at once: enough for all processes of Math-Verify.
const JUDGED_AT_ONCE: usize = 256;

/// Refusals that are told one by one: a server that refuses one sample often refuses them all.
const MOST_REFUSALS_TOLD: usize = 3;

/// What to measure.
#[derive(Clone, Debug)]
pub struct BenchmarkJob {
    /// Model, engine, prompts and verifier; its `[eval]` is for measurements within a run.
    pub config: Config,
    /// Problem files.
    pub files: Vec<PathBuf>,
    /// Only the first n problems of each; 0 is all.
    pub limit: usize,
    /// Samples per problem.
    pub samples: u32,
    /// The distribution.
    pub sampling: Sampling,
    /// Most tokens of an answer.
    pub max_tokens: u32,
    /// Names the random streams.
    pub seed: u64,
    /// What the model is called on running servers; the first that they name where it is left out.
    pub served: Option<String>,
    /// Where to keep it; `None`: a folder below `evals` that is named by the model and everything that changes results.
    pub dir: Option<PathBuf>,
}

/// A benchmark whose inputs are read.
pub struct Benchmark {
    job: BenchmarkJob,
    language: Language,
    files: Vec<PosedFile>,
    settings: Settings,
    /// Of the model's folder; `None` where a running server holds the weights.
    weights_digest: Option<String>,
    dir: PathBuf,
}

struct PosedFile {
    path: PathBuf,
    content_sha256: String,
    problems: Problems,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Its row.
    pub benchmark: BenchmarkId,
    /// It was called off.
    pub is_interrupted: bool,
    /// Samples that are not there: still to come, or refused by the server.
    pub missing: usize,
}

/// Place of a sample: file, problem, number.
type Place = (usize, usize, u32);

impl Benchmark {
    /// Reads problems, tokenizer and weights' checksums; starts nothing.
    ///
    /// # Errors
    /// A file or model that cannot be used, answers that the model's context cannot hold.
    pub fn prepare(mut job: BenchmarkJob) -> Result<Benchmark, RunError> {
        let language = Language::load(&job.config)?;
        let mut files = Vec::with_capacity(job.files.len());
        for path in &job.files {
            let problems = Problems::load(path, job.limit, &language)?;
            let bytes =
                std::fs::read(path).map_err(|source| RunError::Io { action: "read", path: path.clone(), source })?;
            files.push(PosedFile { path: path.clone(), content_sha256: hex(&Sha256::digest(&bytes)), problems });
        }
        let prompt_tokens = files.iter().map(|file| file.problems.longest_prompt_tokens()).max().unwrap_or(0);
        let whole_tokens = prompt_tokens + job.max_tokens as usize;
        let context_tokens = language.tokenizer.context_tokens().unwrap_or(usize::MAX);
        if whole_tokens > context_tokens {
            return Err(RunError::AnswerTooLong { prompt_tokens, max_tokens: job.max_tokens, context_tokens });
        }
        let inference = &mut job.config.inference;
        // No more than is needed: it is what a server reserves memory for.
        inference.max_model_tokens = whole_tokens;
        inference.request_timeout_s = inference.request_timeout_s.max(u64::from(job.max_tokens) / SLOWEST_TOKENS_PER_S);
        let is_served = inference.engine == EngineKind::Vllm && !inference.launch;
        let weights_digest = if is_served { None } else { Some(digest_of_folder(&job.config.run.model)?) };
        let settings = Settings::of(&job, &files, weights_digest.as_deref())?;
        let dir =
            job.dir.clone().unwrap_or_else(|| Path::new("evals").join(settings.folder_name(&job.config.run.model)));
        Ok(Benchmark { job, language, files, settings, weights_digest, dir })
    }

    /// Where it is kept.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Prompts that lost their beginning to `prompt.max_tokens`.
    pub fn cut_prompts(&self) -> usize {
        self.files.iter().map(|file| file.problems.cut).sum()
    }

    /// Samples what is missing.
    ///
    /// # Errors
    /// The folder holds a benchmark of other settings, the engine does not start or is gone, the database cannot be
    /// written. What was recorded stays.
    ///
    /// # Cancel safety
    /// What was recorded stays.
    pub async fn measure(
        &self,
        store: &Store,
        observer: &Observer,
        cancel: &CancellationToken,
    ) -> Result<Measured, RunError> {
        let begun = store.reader().latest_benchmark().await?;
        let judge = self.judge(observer);
        if let Some(row) = &begun {
            self.check_settings(row)?;
            match until(cancel.cancelled(), self.settle(row, store, &judge)).await {
                Interruptible::Finished(result) => result?,
                Interruptible::Interrupted => {
                    let (missing, _) = self.missing(store, begun.as_ref()).await?;
                    return Ok(Measured { benchmark: row.benchmark_id, is_interrupted: true, missing: missing.len() });
                }
            }
        }
        let (mut missing, verdicts) = self.missing(store, begun.as_ref()).await?;
        if let (Some(row), true) = (&begun, missing.is_empty()) {
            return Ok(Measured { benchmark: row.benchmark_id, is_interrupted: false, missing: 0 });
        }
        let started = Instant::now();
        let inference = &self.job.config.inference;
        observer(Event::Starting(match (inference.engine, inference.launch) {
            (EngineKind::Embedded, _) => "loading the model".into(),
            (EngineKind::Vllm, true) => "starting the server".into(),
            (EngineKind::Vllm, false) => "greeting the server".into(),
        }));
        let starting =
            SamplingEngine::start(&self.job.config, &self.language.tokenizer, self.job.served.as_deref(), &self.dir);
        let sampler = match until(cancel.cancelled(), starting).await {
            Interruptible::Finished(sampler) => sampler?,
            Interruptible::Interrupted => {
                let benchmark = begun.map_or(BenchmarkId(0), |row| row.benchmark_id);
                return Ok(Measured { benchmark, is_interrupted: true, missing: missing.len() });
            }
        };
        let result = async {
            let capabilities = sampler.engine.capabilities();
            self.check_context(capabilities.max_model_tokens)?;
            let held = sampler.weights_digest().await?.or_else(|| self.weights_digest.clone());
            let benchmark = match &begun {
                Some(row) if row.weights_digest != held => {
                    let named = |digest: &Option<String>| digest.clone().unwrap_or_else(|| "those of its start".into());
                    let change = settings::change("weights of the server", &named(&row.weights_digest), &named(&held));
                    return Err(RunError::BenchmarkChanged { dir: self.dir.clone(), changes: vec![change] });
                }
                Some(row) => row.benchmark_id,
                None => store.create_benchmark(self.row(&capabilities.engine, held.clone())?).await?,
            };
            observer(Event::Ready { elapsed: started.elapsed(), max_sequences: capabilities.max_sequences });
            let left: BTreeSet<(usize, usize)> = missing.iter().map(|&(file, ordinal, _)| (file, ordinal)).collect();
            let problems = self.files.iter().map(|file| file.problems.problems.len()).sum::<usize>();
            observer(Event::BenchmarkStarted {
                problems,
                problems_done: problems - left.len(),
                samples: missing.len(),
                verdicts,
            });
            let sampling = self.sample(benchmark, sampler.engine.clone(), store, judge, &mut missing);
            let is_interrupted = match until(cancel.cancelled(), sampling).await {
                Interruptible::Finished(result) => result.map(|()| false)?,
                Interruptible::Interrupted => true,
            };
            // Another program may have loaded weights into a server that is shared.
            let held_now = if is_interrupted {
                held.clone()
            } else {
                sampler.weights_digest().await?.or_else(|| self.weights_digest.clone())
            };
            if held_now != held {
                observer(Event::Warning(
                    "the server's weights were replaced meanwhile: this benchmark mixes two models, begin another"
                        .into(),
                ));
            }
            Ok(Measured { benchmark, is_interrupted, missing: missing.len() })
        }
        .await;
        sampler.stop().await;
        result
    }

    fn judge(&self, observer: &Observer) -> Judge {
        Judge {
            tokenizer: self.language.tokenizer.clone(),
            grader: Grader::new(self.job.config.verify_rules()),
            observer: observer.clone(),
        }
    }

    /// Judges the samples again of which nothing is known: what was in the way, a missing Python, say, may be put right.
    async fn settle(&self, row: &BenchmarkRow, store: &Store, judge: &Judge) -> Result<(), RunError> {
        let benchmark = row.benchmark_id;
        let mut behind = (0, 0, 0);
        let room = Room::new(JUDGED_AT_ONCE);
        loop {
            let page = store.reader().unsettled_benchmark_samples(benchmark, behind).await?;
            let Some(last) = page.last() else { return Ok(()) };
            behind = (last.file_id, last.ordinal, last.sample);
            let tasks = page.into_iter().map(|sample| {
                let (judge, store) = (judge.clone(), store.clone());
                let place = (sample.file_id.saturating_sub(1) as usize, sample.ordinal as usize);
                let reference = self.files[place.0].problems.problems[place.1].answer.clone();
                let share = room.share(1);
                async move {
                    let _share = share;
                    let judged = judge.read(&sample.text, &reference).await;
                    let UnsettledSample { file_id: file, ordinal, sample, .. } = sample;
                    let decided_by = judged.decided_by.as_str().to_owned();
                    let (verdict, answer) = (judged.verdict, judged.answer);
                    let settled = SettledSample { benchmark, file, ordinal, sample, verdict, decided_by, answer };
                    Ok(store.settle_benchmark_sample(settled).await?)
                }
            });
            in_flight(&room, tasks, async |()| Ok(())).await?;
        }
    }

    /// Samples each of `missing` and takes it off the list once it is recorded.
    async fn sample(
        &self,
        benchmark: BenchmarkId,
        engine: Arc<dyn Engine>,
        store: &Store,
        judge: Judge,
        missing: &mut BTreeSet<Place>,
    ) -> Result<(), RunError> {
        let observer = judge.observer.clone();
        let sampler = Arc::new(Sampler {
            engine: engine.clone(),
            judge,
            store: store.clone(),
            benchmark,
            max_tokens: self.job.max_tokens,
            sampling: self.job.sampling,
            stop: self.job.config.prompt.stop.clone().into(),
            end_of_text: self.language.tokenizer.end_of_text().into(),
            deadline: Duration::from_secs(self.job.config.inference.request_timeout_s),
        });
        let mut left: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        missing.iter().for_each(|&(file, ordinal, _)| *left.entry((file, ordinal)).or_default() += 1);
        let mut refused = 0;
        let places: Vec<Place> = missing.iter().copied().collect();
        let room = Room::new(engine.capabilities().max_sequences);
        let tasks = places.into_iter().map(|place| {
            let (file, ordinal, _) = place;
            let problems = &self.files[file].problems;
            let prompt = problems.prompts[ordinal].clone();
            let reference = problems.problems[ordinal].answer.clone();
            let (seed, sampler) = (self.problem_seed(file, ordinal), sampler.clone());
            let share = room.share(1);
            async move {
                let outcome = sampler.take(place, &prompt, &reference, seed).await?;
                drop(share);
                Ok((place, outcome))
            }
        });
        in_flight(&room, tasks, async |(place, outcome): (Place, Result<(usize, Verdict), EngineError>)| {
            let (file, ordinal, _) = place;
            let of_problem = left.entry((file, ordinal)).or_insert(1);
            *of_problem -= 1;
            let is_last = *of_problem == 0;
            if is_last {
                engine.release(self.problem_seed(file, ordinal)).await?;
            }
            match outcome {
                Ok((tokens, verdict)) => {
                    missing.remove(&place);
                    observer(Event::Sampled { tokens, verdict, is_last });
                }
                Err(refusal) => {
                    refused += 1;
                    if refused <= MOST_REFUSALS_TOLD {
                        let name = &self.files[file].problems.problems[ordinal].name;
                        observer(Event::Warning(format!("a sample of `{name}` was refused: {refusal}")));
                    }
                }
            }
            Ok(())
        })
        .await
    }

    /// The samples that are not there, and the verdicts of those that are.
    async fn missing(
        &self,
        store: &Store,
        begun: Option<&BenchmarkRow>,
    ) -> Result<(BTreeSet<Place>, Vec<Verdict>), RunError> {
        let mut missing = BTreeSet::new();
        for (file, posed) in self.files.iter().enumerate() {
            for ordinal in 0..posed.problems.problems.len() {
                missing.extend((0..self.job.samples).map(|sample| (file, ordinal, sample)));
            }
        }
        let Some(row) = begun else { return Ok((missing, Vec::new())) };
        let known = store.reader().benchmark_samples(row.benchmark_id).await?;
        for sample in &known {
            missing.remove(&(sample.file_id.saturating_sub(1) as usize, sample.ordinal as usize, sample.sample));
        }
        Ok((missing, known.into_iter().map(|sample| sample.verdict).collect()))
    }

    fn check_settings(&self, row: &BenchmarkRow) -> Result<(), RunError> {
        let changes = self.settings.changes(&row.settings_json);
        if changes.is_empty() { Ok(()) } else { Err(RunError::BenchmarkChanged { dir: self.dir.clone(), changes }) }
    }

    fn check_context(&self, context_tokens: usize) -> Result<(), RunError> {
        let max_tokens = self.job.max_tokens;
        let whole_tokens = self.job.config.inference.max_model_tokens;
        if whole_tokens > context_tokens {
            let prompt_tokens = whole_tokens - max_tokens as usize;
            return Err(RunError::AnswerTooLong { prompt_tokens, max_tokens, context_tokens });
        }
        Ok(())
    }

    /// Names the random streams of a problem, and the problem to the engine.
    fn problem_seed(&self, file: usize, ordinal: usize) -> u64 {
        let problem = &self.files[file].problems.problems[ordinal];
        let mut hash = Sha256::new();
        for part in [&problem.name, &problem.problem, &problem.answer] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        let digest = hash.finalize();
        let mut head = [0; 8];
        head.copy_from_slice(&digest[..8]);
        rng::seed(self.job.seed, Purpose::Eval, &[u64::from_le_bytes(head)])
    }

    fn row(&self, engine: &str, weights_digest: Option<String>) -> Result<NewBenchmark, RunError> {
        let files = self.files.iter().map(|file| {
            let prompts = file.problems.prompts.iter().map(|prompt| prompt.tokens.len() as u64);
            NewBenchmarkFile {
                name: stem(&file.path),
                path: file.path.display().to_string(),
                content_sha256: file.content_sha256.clone(),
                problems: file.problems.problems.iter().map(record::problem).zip(prompts).collect(),
            }
        });
        Ok(NewBenchmark {
            model: self.job.config.run.model.display().to_string(),
            engine: engine.to_owned(),
            weights_digest,
            samples: self.job.samples,
            temperature: self.job.sampling.temperature,
            top_p: self.job.sampling.top_p,
            max_tokens: self.job.max_tokens,
            seed: self.job.seed,
            settings_json: self.settings.json(),
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
            files: files.collect(),
        })
    }
}

/// The file's name without folder and ending.
fn stem(path: &Path) -> String {
    path.file_stem().map_or_else(|| path.display().to_string(), |stem| stem.to_string_lossy().into_owned())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
