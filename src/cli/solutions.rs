//! `orchestrator solutions`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Printer;
use crate::config::PromptConfig;
use crate::data::{ModelTokenizer, Prompter, answer_tokens, write_jsonl};
use crate::error::{Failure, FailureClass, Hint};
use crate::report::solutions_table;
use crate::run::{DATABASE, FolderLock, RunError, create_run_dir};
use crate::store::{ImportedSolution, NewProblem, ProblemRow, Reader, SolutionFilter, SolutionRow, Store};
use crate::trainer::model::ModelConfig;
use crate::types::{RunId, TokenId};
use crate::verify::Grader;

/// Verified solutions: what the cache of a run holds.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List solutions, newest last.
    ///
    /// Example: orchestrator solutions list runs/quickstart
    List {
        #[command(flatten)]
        which: Which,
    },
    /// Write solutions as JSON lines: token ids, behaviour logprobs, text, problem.
    ///
    /// Example: orchestrator solutions export runs/quickstart --out solutions.jsonl
    Export {
        #[command(flatten)]
        which: Which,
        /// File to write. Replaced when it exists.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Bring solutions in, for every run of the folder: what `export` wrote, or lines with `id`, `problem`, `answer` and
    /// `solution`. Wrong ones are refused.
    ///
    /// Example: orchestrator solutions import runs/next --from solutions.jsonl --config configs/quickstart.toml
    Import {
        /// Folder of the run; made if missing.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// File to read.
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// Configuration of the runs that they are for: its model and its prompt say what the tokens of a text are.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct Which {
    /// Folder of the run.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Only those of this run; imported ones belong to none.
    #[arg(long, value_name = "NUMBER")]
    run: Option<i64>,
}

/// One line of an exported file.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    /// The problem's own name.
    id: String,
    problem: String,
    answer: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    /// The solution as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    solution: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tokens: Option<Vec<TokenId>>,
    /// `null` where unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<Option<f32>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight_version: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    run: Option<i64>,
}

/// A line that cannot be imported.
#[derive(Debug, thiserror::Error)]
#[error("{}, line {line}: {reason}", file.display())]
struct BadLine {
    file: PathBuf,
    line: usize,
    reason: String,
}

impl Hint for BadLine {
    fn class(&self) -> FailureClass {
        FailureClass::User
    }

    fn hint(&self) -> Option<String> {
        Some("nothing was imported".into())
    }
}

/// Runs the subcommand.
///
/// # Errors
/// A database that cannot be read or written, a file with bad lines.
pub fn run(args: Args, printer: &Printer) -> Result<u8, Failure> {
    let runtime = super::session::runtime()?;
    match args.command {
        Command::List { which } => {
            let rows = runtime.block_on(read(&which))?;
            printer.data(&solutions_table(&rows, printer.width()))?;
        }
        Command::Export { which, out } => {
            let rows = runtime.block_on(read(&which))?;
            let lines: Vec<Line> = rows.into_iter().map(|(row, problem)| exported(row, problem)).collect();
            write_jsonl(&out, &lines).map_err(RunError::from)?;
            printer.note(&format!("{} solutions in {}", lines.len(), out.display()));
        }
        Command::Import { dir, from, config } => {
            let config = super::load_config(&config, &[])?;
            let model_error = |source| RunError::Model { dir: config.run.model.clone(), source };
            let tokenizer = Arc::new(ModelTokenizer::load(&config.run.model).map_err(model_error)?);
            let prompter = Prompter::new(&config.prompt, tokenizer.clone()).map_err(model_error)?;
            let model = ModelConfig::read(&config.run.model).map_err(RunError::Trainer)?;
            let language = Language {
                tokenizer,
                prompter,
                grader: Grader::new(config.verify_rules()),
                prompt: config.prompt,
                vocab_tokens: usize::try_from(model.vocab_size).unwrap_or_default(),
                budget_tokens: config.search.response_budget_tokens() as usize,
            };
            let solutions = runtime.block_on(parse(&from, &language))?;
            if let Some(failure) = language.grader.take_failure() {
                printer.note(&format!("warning: {}", failure.notice()));
            }
            let counts = runtime.block_on(import(&dir, solutions))?;
            printer.note(&format!("{} solutions imported, {} known already", counts.added, counts.known));
        }
    }
    Ok(0)
}

async fn read(which: &Which) -> Result<Vec<(SolutionRow, ProblemRow)>, Failure> {
    let reader = Reader::open(&which.dir.join(DATABASE)).await?;
    let rows = reader.all_solutions(SolutionFilter { run: which.run.map(RunId), problem: None }).await?;
    let mut problems: BTreeMap<_, ProblemRow> = BTreeMap::new();
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        if !problems.contains_key(&row.problem_id)
            && let Some(problem) = reader.problem(row.problem_id).await?
        {
            problems.insert(row.problem_id, problem);
        }
        // A foreign key says that it is there.
        if let Some(problem) = problems.get(&row.problem_id) {
            found.push((row, problem.clone()));
        }
    }
    Ok(found)
}

fn exported(row: SolutionRow, problem: ProblemRow) -> Line {
    Line {
        id: problem.name,
        problem: problem.text,
        answer: problem.answer,
        source: Some(problem.source),
        solution: Some(row.text),
        logprobs: Some(row.logprobs.iter().map(|&logprob| Some(logprob).filter(|l| l.is_finite())).collect()),
        tokens: Some(row.tokens),
        weight_version: row.weight_version.map(|version| version.0),
        origin: Some(row.provenance.as_str().to_owned()),
        run: row.run_id.map(|run| run.0),
    }
}

/// What turns a text into the tokens that a run would have sampled for it.
struct Language {
    tokenizer: Arc<ModelTokenizer>,
    prompter: Prompter,
    grader: Grader,
    prompt: PromptConfig,
    /// V of the model.
    vocab_tokens: usize,
    /// Longest answer that a run samples.
    budget_tokens: usize,
}

/// All lines of the file, or the first that is wrong.
async fn parse(file: &Path, language: &Language) -> Result<Vec<ImportedSolution>, Failure> {
    let text = std::fs::read_to_string(file).map_err(|source| RunError::Io {
        action: "read",
        path: file.to_owned(),
        source,
    })?;
    let mut solutions = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let bad = |reason: String| BadLine { file: file.to_owned(), line: index + 1, reason };
        let line: Line = serde_json::from_str(line).map_err(|error| bad(format!("not a solution: {error}")))?;
        solutions.push(imported(line, language).await.map_err(bad)?);
    }
    Ok(solutions)
}

async fn imported(line: Line, language: &Language) -> Result<ImportedSolution, String> {
    let Language { tokenizer, prompter, grader, prompt, vocab_tokens, budget_tokens } = language;
    let tokens = match (line.tokens, &line.solution) {
        (Some(tokens), _) => tokens,
        (None, Some(text)) => {
            let posed = prompter.pose(&line.problem).map_err(|error| format!("`problem`: {error}"))?.prompt;
            // An exported text has its stop text already.
            let stop = prompt.stop.first().map(String::as_str);
            let text = stop.and_then(|stop| text.strip_suffix(stop)).unwrap_or(text);
            answer_tokens(tokenizer, &posed, prompt.kind, text, stop).map_err(|error| format!("`solution`: {error}"))?
        }
        (None, None) => return Err("`tokens` or `solution` is needed".into()),
    };
    if tokens.is_empty() {
        return Err("it has no tokens".into());
    }
    if tokens.len() > *budget_tokens {
        return Err(format!(
            "it has {} tokens, more than the {budget_tokens} of `search.max_depth` x `search.step_tokens`",
            tokens.len()
        ));
    }
    if let Some(token) = tokens.iter().find(|&&token| token as usize >= *vocab_tokens) {
        return Err(format!("token {token} is outside the model's vocabulary of {vocab_tokens}"));
    }
    if let Some(logprob) = line.logprobs.iter().flatten().flatten().find(|&&logprob| logprob > 0.0) {
        return Err(format!("a logprob is {logprob}, above 0"));
    }
    let logprobs = match line.logprobs {
        Some(logprobs) if logprobs.len() != tokens.len() => {
            return Err(format!("{} `logprobs` for {} `tokens`", logprobs.len(), tokens.len()));
        }
        Some(logprobs) => logprobs.into_iter().map(|logprob| logprob.unwrap_or(f32::NAN)).collect(),
        None => vec![f32::NAN; tokens.len()],
    };
    let text = tokenizer.decode(&tokens).map_err(|error| format!("`tokens` are not this model's: {error}"))?;
    let verdict = grader.grade(&text, &line.answer).await.verdict;
    if verdict != crate::types::Verdict::Correct {
        return Err(format!("the solution does not end in the answer `{}`: {}", line.answer, verdict.as_str()));
    }
    let source = line.source.unwrap_or_else(|| "import".to_owned());
    let problem =
        NewProblem { name: line.id, text: line.problem, answer: line.answer.clone(), level: None, topic: None, source };
    Ok(ImportedSolution { problem, tokens, logprobs, text, answer: line.answer })
}

async fn import(dir: &Path, solutions: Vec<ImportedSolution>) -> Result<crate::store::ImportCounts, Failure> {
    create_run_dir(dir)?;
    // What a run finds in its cache must not change while it goes on.
    let _lock = FolderLock::acquire(dir)?;
    let store = Store::open(&dir.join(DATABASE)).await?;
    let counts = store.import_solutions(solutions).await;
    store.close().await?;
    Ok(counts?)
}
