//! `orchestrator inspect`.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Printer;
use crate::error::{Failure, FailureClass, Hint};
use crate::report::listing::{Column, listing};
use crate::report::{
    TreeStyle, learning_table, mistakes_text, rounds_table, runs_table, steps_table, token_use_table, tree_report,
    tree_text, trees_table, weights_table,
};
use crate::run::DATABASE;
use crate::store::{ProblemFilter, ProblemItem, Reader, RunRow, TreeFilter};
use crate::types::{ProblemId, RunId, StepId, TreeId, TreeKind, Verdict};

/// Look at a run: its steps, its trees, one tree.
///
/// Examples:
///   orchestrator inspect runs/quickstart                    the steps of the newest run
///   orchestrator inspect runs/quickstart trees --step 2     the trees of a step
///   orchestrator inspect runs/quickstart trees --problem train-1-12 --verdict correct
///   orchestrator inspect runs/quickstart problems --never-solved
///   orchestrator inspect runs/quickstart tree 17            one tree, node by node
///   orchestrator inspect runs/quickstart mistakes --step 2 --json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Run folder or database file.
    #[arg(value_name = "DIR")]
    path: PathBuf,
    #[command(subcommand)]
    what: Option<What>,
    /// The run; without it the newest.
    #[arg(long, value_name = "N", global = true)]
    run: Option<i64>,
    /// Print JSON instead of a table.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// All runs of the database.
    ///
    /// Example: orchestrator inspect runs/quickstart runs
    Runs,
    /// The steps of a run (the default).
    ///
    /// Example: orchestrator inspect runs/quickstart steps --last 10
    Steps(StepsArgs),
    /// Trees, newest first.
    ///
    /// Example: orchestrator inspect runs/quickstart trees --step 2 --unsolved
    Trees(TreesArgs),
    /// One tree: UCT, q, visits, entropy and verdict of every node.
    ///
    /// Example: orchestrator inspect runs/quickstart tree 17 --only-paths
    Tree(TreeArgs),
    /// Problems with what came of them.
    ///
    /// Example: orchestrator inspect runs/quickstart problems --never-solved --limit 20
    Problems(ProblemsArgs),
    /// Wrong answers, the ones the policy was surest of first.
    ///
    /// Example: orchestrator inspect runs/quickstart mistakes --step 2 --limit 5
    Mistakes(MistakesArgs),
    /// Rounds: hard, cached, skipped and solved problems of each.
    ///
    /// Example: orchestrator inspect runs/quickstart rounds
    Rounds,
    /// Accuracy on held-out problems against what had been spent.
    ///
    /// Example: orchestrator inspect runs/quickstart curve --all --json
    Curve {
        /// All runs of the database, one after the other.
        #[arg(long)]
        all: bool,
    },
    /// Where the tokens went.
    ///
    /// Example: orchestrator inspect runs/quickstart tokens
    Tokens,
    /// Weight versions and whether the server confirmed them.
    ///
    /// Example: orchestrator inspect runs/quickstart weights --run 1
    Weights,
}

#[derive(Debug, Default, clap::Args)]
struct StepsArgs {
    /// From this step on.
    #[arg(long, value_name = "N")]
    from: Option<i64>,
    /// Up to this step.
    #[arg(long, value_name = "N")]
    to: Option<i64>,
    /// Only the last of them.
    #[arg(long, value_name = "COUNT")]
    last: Option<usize>,
}

#[derive(Debug, clap::Args)]
struct ProblemsArgs {
    /// Only those with this in their `id` or text.
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
    /// Only those in whose trees a correct answer was found.
    #[arg(long, conflicts_with = "never_solved")]
    solved: bool,
    /// Only those that were tried and never solved.
    #[arg(long)]
    never_solved: bool,
    /// At most so many.
    #[arg(long, default_value_t = 50)]
    limit: usize,
}

#[derive(Debug, clap::Args)]
struct TreesArgs {
    /// Only this step.
    #[arg(long, value_name = "N")]
    step: Option<i64>,
    /// Only this problem: its `id` in its own file, or its number in the database.
    #[arg(long, value_name = "PROBLEM")]
    problem: Option<String>,
    /// Only trees grown in this way.
    #[arg(long, value_enum)]
    kind: Option<KindName>,
    /// Only trees in which a correct answer was found.
    #[arg(long, conflicts_with = "unsolved")]
    solved: bool,
    /// Only trees in which none was found.
    #[arg(long)]
    unsolved: bool,
    /// Only trees with a trajectory of this verdict.
    #[arg(long, value_enum)]
    verdict: Option<VerdictName>,
    /// At most so many.
    #[arg(long, default_value_t = 50)]
    limit: u32,
}

#[derive(Debug, clap::Args)]
struct MistakesArgs {
    /// Only this step.
    #[arg(long, value_name = "N")]
    step: Option<i64>,
    /// Only the problem with this `id` in its own file.
    #[arg(long, value_name = "PROBLEM")]
    problem: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 10)]
    limit: u32,
}

#[derive(Debug, clap::Args)]
struct TreeArgs {
    /// Number of the tree, as `trees` lists it.
    #[arg(value_name = "TREE")]
    tree: i64,
    /// Leave out nodes on no trajectory.
    #[arg(long)]
    only_paths: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum KindName {
    Search,
    Rollout,
    Replay,
}

impl From<KindName> for TreeKind {
    fn from(name: KindName) -> TreeKind {
        match name {
            KindName::Search => TreeKind::Search,
            KindName::Rollout => TreeKind::Rollout,
            KindName::Replay => TreeKind::Replay,
        }
    }
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum VerdictName {
    Correct,
    Incorrect,
    NoAnswer,
    Undecided,
    Error,
}

impl From<VerdictName> for Verdict {
    fn from(name: VerdictName) -> Verdict {
        match name {
            VerdictName::Correct => Verdict::Correct,
            VerdictName::Incorrect => Verdict::Incorrect,
            VerdictName::NoAnswer => Verdict::NoAnswer,
            VerdictName::Undecided => Verdict::Undecided,
            VerdictName::Error => Verdict::Error,
        }
    }
}

/// Something that was asked for and is not in the database.
#[derive(Debug, thiserror::Error)]
pub(super) enum InspectError {
    #[error("the database `{}` has no {what}", path.display())]
    Missing { path: PathBuf, what: String },
    #[error("several problems of `{}` are called `{name}`", path.display())]
    Ambiguous { path: PathBuf, name: String, numbers: String },
    #[error("the answer cannot be written as JSON")]
    Json(#[source] serde_json::Error),
}

impl Hint for InspectError {
    fn class(&self) -> FailureClass {
        match self {
            InspectError::Missing { .. } | InspectError::Ambiguous { .. } => FailureClass::User,
            InspectError::Json(_) => FailureClass::Bug,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            InspectError::Missing { path, .. } => {
                Some(format!("list what is there: orchestrator inspect {} runs", path.display()))
            }
            InspectError::Ambiguous { numbers, .. } => Some(format!("say which by its number: {numbers}")),
            InspectError::Json(_) => None,
        }
    }
}

/// Runs the subcommand.
///
/// # Errors
/// A database that cannot be read, or a run or tree that is not in it.
pub fn run(args: Args, printer: &Printer) -> Result<u8, Failure> {
    let runtime = super::session::runtime()?;
    let text = runtime.block_on(inspect(&args, printer))?;
    printer.data(&text)?;
    Ok(0)
}

async fn inspect(args: &Args, printer: &Printer) -> Result<String, Failure> {
    let reader = Reader::open(&database(&args.path)).await?;
    let width = printer.width();
    let steps = What::Steps(StepsArgs::default());
    let what = args.what.as_ref().unwrap_or(&steps);
    if let What::Runs = what {
        let runs = reader.runs().await?;
        return shown(args.json, &runs, |runs| runs_table(runs, width));
    }
    if let What::Tree(tree) = what {
        let report = tree_report(&reader, TreeId(tree.tree)).await?;
        let report = report.ok_or_else(|| missing(&args.path, format!("tree `{}`", tree.tree)))?;
        let style = TreeStyle { width, only_paths: tree.only_paths };
        return shown(args.json, &report, |report| tree_text(report, style));
    }
    let run = chosen_run(args, &reader).await?.run_id;
    match what {
        What::Steps(filter) => {
            let mut steps = reader.steps(run).await?;
            let (from, to) = (filter.from.unwrap_or(i64::MIN), filter.to.unwrap_or(i64::MAX));
            steps.retain(|step| (from..=to).contains(&step.step_id.0));
            let skipped = filter.last.map_or(0, |last| steps.len().saturating_sub(last));
            shown(args.json, &steps[skipped..], |steps| steps_table(steps, width))
        }
        What::Problems(filter) => {
            let asked = ProblemFilter { text: filter.text.as_deref(), ..ProblemFilter::of(run) };
            let mut problems = reader.problem_page(asked).await?.problems;
            problems.retain(|problem| {
                (!filter.solved || problem.solved_count > 0)
                    && (!filter.never_solved || (problem.tree_count > 0 && problem.solved_count == 0))
            });
            problems.truncate(filter.limit);
            shown(args.json, problems.as_slice(), |problems| problems_table(problems, width))
        }
        What::Trees(filter) => {
            let problem = match &filter.problem {
                Some(name) => Some(chosen_problem(args, &reader, name).await?),
                None => None,
            };
            let trees = reader.trees(TreeFilter { problem, ..filter.of(run) }).await?;
            shown(args.json, &trees, |trees| trees_table(trees, width))
        }
        What::Mistakes(filter) => {
            let is_all = filter.step.is_none() && filter.problem.is_none();
            let mut mistakes = reader.confident_mistakes(run, if is_all { filter.limit } else { u32::MAX }).await?;
            mistakes.retain(|mistake| {
                filter.step.is_none_or(|step| mistake.step_id == StepId(step))
                    && filter.problem.as_ref().is_none_or(|name| mistake.problem_name == *name)
            });
            mistakes.truncate(filter.limit as usize);
            shown(args.json, mistakes.as_slice(), mistakes_text)
        }
        What::Rounds => shown(args.json, &reader.round_summary(run).await?, |rounds| rounds_table(rounds, width)),
        What::Curve { all } => {
            let mut points = Vec::new();
            let runs = if *all { reader.runs().await?.iter().rev().map(|row| row.run_id).collect() } else { vec![run] };
            for run in runs {
                points.extend(reader.learning_curve(run).await?);
            }
            shown(args.json, points.as_slice(), |points| learning_table(points, width))
        }
        What::Tokens => shown(args.json, &reader.token_use(run).await?, |tokens| token_use_table(tokens, width)),
        What::Weights => shown(args.json, &reader.weight_history(run).await?, |weights| weights_table(weights, width)),
        What::Runs | What::Tree(_) => Ok(String::new()),
    }
}

fn problems_table(problems: &[ProblemItem], width: usize) -> String {
    let last = |problem: &ProblemItem| problem.last_step_id.map_or_else(|| "-".to_owned(), |step| step.to_string());
    let direct = |problem: &ProblemItem| {
        problem.direct_pass_rate.map_or_else(|| "-".to_owned(), |rate| format!("{:.1}%", 100.0 * rate))
    };
    let columns = vec![
        Column::number("number", 3, problems.iter().map(|problem| problem.problem_id.to_string())),
        Column::text("id", 0, problems.iter().map(|problem| problem.name.as_str())),
        Column::number("solved", 0, problems.iter().map(|p| format!("{}/{}", p.solved_count, p.tree_count))),
        Column::number("direct", 1, problems.iter().map(direct)),
        Column::number("kept", 2, problems.iter().map(|problem| problem.solution_count.to_string())),
        Column::number("last step", 2, problems.iter().map(last)),
        Column::text("answer", 1, problems.iter().map(|problem| problem.answer.as_str())),
        Column::text("problem", 0, problems.iter().map(|problem| problem.text.as_str())),
    ];
    listing(columns, width)
}

impl TreesArgs {
    fn of(&self, run: RunId) -> TreeFilter {
        TreeFilter {
            step: self.step.map(StepId),
            kind: self.kind.map(TreeKind::from),
            is_solved: if self.solved { Some(true) } else { self.unsolved.then_some(false) },
            verdict: self.verdict.map(Verdict::from),
            limit: Some(self.limit),
            ..TreeFilter::of(run)
        }
    }
}

async fn chosen_run(args: &Args, reader: &Reader) -> Result<RunRow, Failure> {
    let (row, what) = match args.run {
        Some(run) => (reader.run(RunId(run)).await?, format!("run `{run}`")),
        None => (reader.latest_run().await?, "run yet".to_owned()),
    };
    Ok(row.ok_or_else(|| missing(&args.path, what))?)
}

/// The problem of that name, or else of that number.
async fn chosen_problem(args: &Args, reader: &Reader, name: &str) -> Result<ProblemId, Failure> {
    let named = reader.problems_named(name).await?;
    if let [only] = named.as_slice() {
        return Ok(*only);
    }
    let number = name.parse().ok().map(ProblemId);
    if let Some(number) = number
        && (named.is_empty() || named.contains(&number))
        && reader.problem(number).await?.is_some()
    {
        return Ok(number);
    }
    if named.is_empty() {
        return Err(missing(&args.path, format!("problem `{name}`")).into());
    }
    let numbers: Vec<String> = named.iter().map(ToString::to_string).collect();
    Err(InspectError::Ambiguous { path: args.path.clone(), name: name.to_owned(), numbers: numbers.join(", ") }.into())
}

/// The database that a path stands for.
pub(super) fn database(path: &Path) -> PathBuf {
    if path.is_dir() { path.join(DATABASE) } else { path.to_owned() }
}

/// That something is not in a database.
pub(super) fn missing(path: &Path, what: String) -> InspectError {
    InspectError::Missing { path: path.to_owned(), what }
}

fn shown<T: Serialize + ?Sized>(json: bool, value: &T, text: impl FnOnce(&T) -> String) -> Result<String, Failure> {
    if json { Ok(serde_json::to_string_pretty(value).map_err(InspectError::Json)?) } else { Ok(text(value)) }
}
