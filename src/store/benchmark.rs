//! Rows of `benchmark` and its tables: how good a model is on files of problems.

use serde::Serialize;
use sqlx::sqlite::SqliteConnection;

use super::codec::{Cells, Named, int, now_ms, serialize_name};
use super::problem::find_or_insert;
use super::writer::Write;
use super::{NewProblem, Reader, Store, StoreError};
use crate::types::{BenchmarkId, FinishReason, Verdict};

/// A benchmark that begins.
#[derive(Clone, Debug, PartialEq)]
pub struct NewBenchmark {
    /// Folder of the model.
    pub model: String,
    /// What its answers come from.
    pub engine: String,
    /// Digest of the weights, where it is known.
    pub weights_digest: Option<String>,
    /// Samples per problem.
    pub samples: u32,
    /// Logits are divided by this; 0 is greedy.
    pub temperature: f64,
    /// Nucleus mass.
    pub top_p: f64,
    /// Most tokens of an answer.
    pub max_tokens: u32,
    /// Seed of the sampling.
    pub seed: u64,
    /// Everything that changes results, as a JSON object of texts.
    pub settings_json: String,
    /// Version of this program.
    pub program_version: String,
    /// The files, in order.
    pub files: Vec<NewBenchmarkFile>,
}

/// A file of problems.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBenchmarkFile {
    /// Its name without folder and ending.
    pub name: String,
    /// Where it lay.
    pub path: String,
    /// SHA-256 of its bytes, lower-case hex.
    pub content_sha256: String,
    /// The problems in use, in order, each with the length of its prompt.
    pub problems: Vec<(NewProblem, u64)>,
}

/// A benchmark.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BenchmarkRow {
    /// Its number.
    pub benchmark_id: BenchmarkId,
    /// Folder of the model.
    pub model: String,
    /// What its answers come from.
    pub engine: String,
    /// Digest of the weights, where it is known.
    pub weights_digest: Option<String>,
    /// Samples per problem.
    pub sample_count: u32,
    /// Logits are divided by this; 0 is greedy.
    pub temperature: f64,
    /// Nucleus mass.
    pub top_p: f64,
    /// Most tokens of an answer.
    pub max_tokens: u32,
    /// Seed of the sampling.
    pub seed: u64,
    /// Everything that changes results, as a JSON object of texts.
    pub settings_json: String,
    /// Version of the program that began it.
    pub program_version: String,
    /// When it began.
    pub created_at_ms: i64,
    /// When its results were worked out.
    pub ended_at_ms: Option<i64>,
}

/// A row of the view `benchmark_summary`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BenchmarkSummary {
    /// Place on the command line, from 1.
    pub file_id: u32,
    /// Name of the file.
    pub file: String,
    /// Problems.
    pub problem_count: u64,
    /// Problems with a settled sample.
    pub scored_count: u64,
    /// Samples there are.
    pub sample_count: u64,
    /// Samples that are not there yet.
    pub missing_count: u64,
    /// Samples that are undecided or whose check failed.
    pub unsettled_count: u64,
    /// Mean over the scored problems of the share of right samples.
    pub pass_at_1: Option<f64>,
    /// Share of the samples that the token budget ended.
    pub truncated_frac: Option<f64>,
    /// Share of the samples without an answer.
    pub no_answer_frac: Option<f64>,
    /// Mean length of a sample.
    pub tokens_mean: Option<f64>,
}

/// A problem of a benchmark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BenchmarkProblemRow {
    /// Its file, from 1.
    pub file_id: u32,
    /// Its place in the file, from 0.
    pub ordinal: u32,
    /// The problem's `id` in its file.
    pub name: String,
}

/// A sample to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBenchmarkSample {
    /// The benchmark.
    pub benchmark: BenchmarkId,
    /// The file, from 1.
    pub file: u32,
    /// The problem's place in it, from 0.
    pub ordinal: u32,
    /// Number of the sample, from 0.
    pub sample: u32,
    /// What the model wrote.
    pub text: String,
    /// Sampled tokens.
    pub tokens: u64,
    /// Why it ended.
    pub finish: FinishReason,
    /// Whether it is right.
    pub verdict: Verdict,
    /// What reached the verdict.
    pub decided_by: String,
    /// The final answer as written.
    pub answer: Option<String>,
}

/// A recorded sample without its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BenchmarkSampleRow {
    /// The file, from 1.
    pub file_id: u32,
    /// The problem's place in it, from 0.
    pub ordinal: u32,
    /// Number of the sample, from 0.
    pub sample: u32,
    /// Sampled tokens.
    pub token_count: u64,
    /// Why it ended.
    #[serde(serialize_with = "serialize_name")]
    pub finish_reason: FinishReason,
    /// Whether it is right.
    pub verdict: Verdict,
    /// The final answer as written.
    pub answer: Option<String>,
}

/// A recorded sample of which nothing is known, with what the model wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsettledSample {
    /// The file, from 1.
    pub file_id: u32,
    /// The problem's place in it, from 0.
    pub ordinal: u32,
    /// Number of the sample, from 0.
    pub sample: u32,
    /// What the model wrote.
    pub text: String,
}

/// What is now known of an [`UnsettledSample`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettledSample {
    /// The benchmark.
    pub benchmark: BenchmarkId,
    /// The file, from 1.
    pub file: u32,
    /// The problem's place in it, from 0.
    pub ordinal: u32,
    /// Number of the sample, from 0.
    pub sample: u32,
    /// Whether it is right.
    pub verdict: Verdict,
    /// What reached the verdict.
    pub decided_by: String,
    /// The final answer as written.
    pub answer: Option<String>,
}

/// A figure that follows from the samples.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchmarkResult {
    /// The file, from 1.
    pub file: u32,
    /// `pass` or `majority`.
    pub metric: &'static str,
    /// Of how many samples.
    pub k: u32,
    /// Its value.
    pub value: f64,
    /// Ends of its interval, where there is one.
    pub interval: Option<[f64; 2]>,
}

pub(super) const LATEST_BENCHMARK: &str = "
    select benchmark_id, model, engine, weights_digest, sample_count, temperature, top_p, max_tokens, seed, settings_json,
           program_version, created_at_ms, ended_at_ms
    from benchmark
    order by benchmark_id desc
    limit 1";

pub(super) const BENCHMARK_SUMMARY: &str = "
    select file_id, file, problem_count, scored_count, sample_count, missing_count, unsettled_count, pass_at_1,
           truncated_frac, no_answer_frac, tokens_mean
    from benchmark_summary
    where benchmark_id = ?
    order by file_id";

pub(super) const BENCHMARK_PROBLEMS: &str = "
    select b.file_id, b.ordinal, p.name
    from benchmark_problem b
    join problem p on p.problem_id = b.problem_id
    where b.benchmark_id = ?
    order by b.file_id, b.ordinal";

pub(super) const BENCHMARK_SAMPLES: &str = "
    select file_id, ordinal, sample, token_count, finish_reason, verdict, answer
    from benchmark_sample
    where benchmark_id = ?
    order by file_id, ordinal, sample";

/// A page of them, behind a place: together they may be larger than the memory. Where a text could not be decoded there is
/// none to judge.
pub(super) const UNSETTLED_SAMPLES: &str = "
    select file_id, ordinal, sample, text
    from benchmark_sample
    where benchmark_id = ?1 and (file_id, ordinal, sample) > (?2, ?3, ?4) and verdict in ('undecided', 'error') and text <> ''
    order by file_id, ordinal, sample
    limit 64";

impl Store {
    /// Begins a benchmark.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn create_benchmark(&self, benchmark: NewBenchmark) -> Result<BenchmarkId, StoreError> {
        self.write(benchmark).await
    }

    /// Records a sample. One that is recorded already stays as it is.
    ///
    /// # Errors
    /// There is no such problem, or the database cannot be written.
    pub async fn record_benchmark_sample(&self, sample: NewBenchmarkSample) -> Result<(), StoreError> {
        self.write(sample).await
    }

    /// Replaces the verdict of a sample of which nothing was known; one that is settled stays as it is.
    ///
    /// # Errors
    /// The database cannot be written.
    pub async fn settle_benchmark_sample(&self, sample: SettledSample) -> Result<(), StoreError> {
        self.write(sample).await
    }

    /// Replaces the results of a benchmark; `is_over`: no sample is missing.
    ///
    /// # Errors
    /// There is no such benchmark or file, or the database cannot be written.
    pub async fn record_benchmark_results(
        &self,
        benchmark: BenchmarkId,
        results: Vec<BenchmarkResult>,
        is_over: bool,
    ) -> Result<(), StoreError> {
        self.write(Results { benchmark, results, is_over }).await
    }
}

impl Reader {
    /// The benchmark of the database.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn latest_benchmark(&self) -> Result<Option<BenchmarkRow>, StoreError> {
        self.optional(sqlx::query(LATEST_BENCHMARK), benchmark_row).await
    }

    /// How good the model is on each file, by what is there so far.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn benchmark_summary(&self, benchmark: BenchmarkId) -> Result<Vec<BenchmarkSummary>, StoreError> {
        self.all(sqlx::query(BENCHMARK_SUMMARY).bind(benchmark.0), summary_row).await
    }

    /// The problems of all files, in order.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn benchmark_problems(&self, benchmark: BenchmarkId) -> Result<Vec<BenchmarkProblemRow>, StoreError> {
        self.all(sqlx::query(BENCHMARK_PROBLEMS).bind(benchmark.0), problem_row).await
    }

    /// The samples that there are, by file, problem and number.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn benchmark_samples(&self, benchmark: BenchmarkId) -> Result<Vec<BenchmarkSampleRow>, StoreError> {
        self.all(sqlx::query(BENCHMARK_SAMPLES).bind(benchmark.0), sample_row).await
    }

    /// The samples of which nothing is known, in order: the first few behind this file, problem and number.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn unsettled_benchmark_samples(
        &self,
        benchmark: BenchmarkId,
        behind: (u32, u32, u32),
    ) -> Result<Vec<UnsettledSample>, StoreError> {
        let (file, ordinal, sample) = behind;
        let query = sqlx::query(UNSETTLED_SAMPLES).bind(benchmark.0).bind(file).bind(ordinal).bind(sample);
        self.all(query, unsettled_row).await
    }
}

fn benchmark_row(row: &Cells<'_>) -> Result<BenchmarkRow, StoreError> {
    Ok(BenchmarkRow {
        benchmark_id: BenchmarkId(row.get("benchmark_id")?),
        model: row.get("model")?,
        engine: row.get("engine")?,
        weights_digest: row.get("weights_digest")?,
        sample_count: row.int("sample_count")?,
        temperature: row.get("temperature")?,
        top_p: row.get("top_p")?,
        max_tokens: row.int("max_tokens")?,
        seed: row.seed("seed")?,
        settings_json: row.get("settings_json")?,
        program_version: row.get("program_version")?,
        created_at_ms: row.get("created_at_ms")?,
        ended_at_ms: row.get("ended_at_ms")?,
    })
}

fn summary_row(row: &Cells<'_>) -> Result<BenchmarkSummary, StoreError> {
    Ok(BenchmarkSummary {
        file_id: row.int("file_id")?,
        file: row.get("file")?,
        problem_count: row.int("problem_count")?,
        scored_count: row.int("scored_count")?,
        sample_count: row.int("sample_count")?,
        missing_count: row.int("missing_count")?,
        unsettled_count: row.int("unsettled_count")?,
        pass_at_1: row.get("pass_at_1")?,
        truncated_frac: row.get("truncated_frac")?,
        no_answer_frac: row.get("no_answer_frac")?,
        tokens_mean: row.get("tokens_mean")?,
    })
}

fn problem_row(row: &Cells<'_>) -> Result<BenchmarkProblemRow, StoreError> {
    Ok(BenchmarkProblemRow { file_id: row.int("file_id")?, ordinal: row.int("ordinal")?, name: row.get("name")? })
}

fn sample_row(row: &Cells<'_>) -> Result<BenchmarkSampleRow, StoreError> {
    Ok(BenchmarkSampleRow {
        file_id: row.int("file_id")?,
        ordinal: row.int("ordinal")?,
        sample: row.int("sample")?,
        token_count: row.int("token_count")?,
        finish_reason: row.name("finish_reason")?,
        verdict: row.name("verdict")?,
        answer: row.get("answer")?,
    })
}

fn unsettled_row(row: &Cells<'_>) -> Result<UnsettledSample, StoreError> {
    Ok(UnsettledSample {
        file_id: row.int("file_id")?,
        ordinal: row.int("ordinal")?,
        sample: row.int("sample")?,
        text: row.get("text")?,
    })
}

impl Write for NewBenchmark {
    type Output = BenchmarkId;

    async fn apply(&self, conn: &mut SqliteConnection) -> Result<BenchmarkId, StoreError> {
        let id: i64 = sqlx::query_scalar(
            "insert into benchmark (model, engine, weights_digest, sample_count, temperature, top_p, max_tokens, seed,
                                    settings_json, program_version, created_at_ms)
             values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
             returning benchmark_id",
        )
        .bind(&self.model)
        .bind(&self.engine)
        .bind(&self.weights_digest)
        .bind(self.samples)
        .bind(self.temperature)
        .bind(self.top_p)
        .bind(self.max_tokens)
        .bind(self.seed.to_string())
        .bind(&self.settings_json)
        .bind(&self.program_version)
        .bind(now_ms())
        .fetch_one(&mut *conn)
        .await?;
        for (file_id, file) in (1_i64..).zip(&self.files) {
            sqlx::query(
                "insert into benchmark_file (benchmark_id, file_id, name, path, content_sha256) values (?, ?, ?, ?, ?)",
            )
            .bind(id)
            .bind(file_id)
            .bind(&file.name)
            .bind(&file.path)
            .bind(&file.content_sha256)
            .execute(&mut *conn)
            .await?;
            for (ordinal, (problem, prompt_tokens)) in (0_i64..).zip(&file.problems) {
                let problem = find_or_insert(conn, problem).await?;
                sqlx::query(
                    "insert into benchmark_problem (benchmark_id, file_id, ordinal, problem_id, prompt_tokens)
                     values (?, ?, ?, ?, ?)",
                )
                .bind(id)
                .bind(file_id)
                .bind(ordinal)
                .bind(problem.0)
                .bind(int(*prompt_tokens))
                .execute(&mut *conn)
                .await?;
            }
        }
        Ok(BenchmarkId(id))
    }
}

impl Write for NewBenchmarkSample {
    type Output = ();

    async fn apply(&self, conn: &mut SqliteConnection) -> Result<(), StoreError> {
        sqlx::query(
            "insert into benchmark_sample (benchmark_id, file_id, ordinal, sample, text, token_count, finish_reason,
                                           verdict, decided_by, answer, created_at_ms)
             values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
             on conflict (benchmark_id, file_id, ordinal, sample) do nothing",
        )
        .bind(self.benchmark.0)
        .bind(self.file)
        .bind(self.ordinal)
        .bind(self.sample)
        .bind(&self.text)
        .bind(int(self.tokens))
        .bind(self.finish.name())
        .bind(self.verdict.name())
        .bind(&self.decided_by)
        .bind(&self.answer)
        .bind(now_ms())
        .execute(conn)
        .await?;
        Ok(())
    }
}

impl Write for SettledSample {
    type Output = ();

    async fn apply(&self, conn: &mut SqliteConnection) -> Result<(), StoreError> {
        sqlx::query(
            "update benchmark_sample set verdict = ?, decided_by = ?, answer = ?
             where benchmark_id = ? and file_id = ? and ordinal = ? and sample = ? and verdict in ('undecided', 'error')",
        )
        .bind(self.verdict.name())
        .bind(&self.decided_by)
        .bind(&self.answer)
        .bind(self.benchmark.0)
        .bind(self.file)
        .bind(self.ordinal)
        .bind(self.sample)
        .execute(conn)
        .await?;
        Ok(())
    }
}

struct Results {
    benchmark: BenchmarkId,
    results: Vec<BenchmarkResult>,
    is_over: bool,
}

impl Write for Results {
    type Output = ();

    async fn apply(&self, conn: &mut SqliteConnection) -> Result<(), StoreError> {
        sqlx::query("delete from benchmark_result where benchmark_id = ?")
            .bind(self.benchmark.0)
            .execute(&mut *conn)
            .await?;
        for result in &self.results {
            let [low, high] = result.interval.map_or([None; 2], |ends| ends.map(Some));
            sqlx::query(
                "insert into benchmark_result (benchmark_id, file_id, metric, k, value, low, high)
                 values (?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(self.benchmark.0)
            .bind(result.file)
            .bind(result.metric)
            .bind(result.k)
            .bind(result.value)
            .bind(low)
            .bind(high)
            .execute(&mut *conn)
            .await?;
        }
        // The moment at which it was over the first time is kept.
        sqlx::query("update benchmark set ended_at_ms = iif(?, coalesce(ended_at_ms, ?), null) where benchmark_id = ?")
            .bind(self.is_over)
            .bind(now_ms())
            .bind(self.benchmark.0)
            .execute(conn)
            .await?;
        Ok(())
    }
}
