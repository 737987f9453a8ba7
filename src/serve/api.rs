//! What each address of the API answers, as JSON. Lists have a limit, and what is cut says of how many.

use serde::Deserialize;
use serde_json::{Value, json};

use super::source::{Refused, Source, Sources};
use super::text::{NodeText, Tokenizers};
use super::{ServeError, curves, tree};
use crate::store::{Reader, RunComparison, RunRow, TreeOrder, TreePageFilter};
use crate::types::{NodeId, ProblemId, RunId, StepId, TreeId, TreeKind, Verdict};

/// Most rows of a list in one answer.
const MAX_ROWS: u32 = 1000;
/// Rows of a list if nothing is said.
const ROWS: u32 = 100;
/// Most steps in one answer, the newest.
pub const MAX_STEPS: usize = 5000;
/// Trees and solutions of one problem.
const HISTORY: u32 = 500;

/// A part of a list.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Part {
    /// At most so many.
    limit: Option<u32>,
    /// Leave out so many.
    offset: Option<u32>,
}

impl Part {
    fn limit(self) -> u32 {
        self.limit.unwrap_or(ROWS).min(MAX_ROWS)
    }

    fn offset(self) -> u32 {
        self.offset.unwrap_or(0)
    }
}

/// A part of the problems.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ProblemQuery {
    limit: Option<u32>,
    offset: Option<u32>,
    /// Looked for in name and question.
    text: Option<String>,
}

/// Which trees.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct TreeQuery {
    limit: Option<u32>,
    offset: Option<u32>,
    step: Option<i64>,
    problem: Option<i64>,
    kind: Option<KindName>,
    solved: Option<bool>,
    verdict: Option<Verdict>,
    order: Option<OrderName>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum KindName {
    Search,
    Rollout,
    Replay,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OrderName {
    Newest,
    Gain,
    Nodes,
}

impl TreeQuery {
    fn filter(self, run: RunId) -> TreePageFilter {
        let part = Part { limit: self.limit, offset: self.offset };
        TreePageFilter {
            step: self.step.map(StepId),
            problem: self.problem.map(ProblemId),
            kind: self.kind.map(|kind| match kind {
                KindName::Search => TreeKind::Search,
                KindName::Rollout => TreeKind::Rollout,
                KindName::Replay => TreeKind::Replay,
            }),
            is_solved: self.solved,
            verdict: self.verdict,
            order: match self.order {
                Some(OrderName::Gain) => TreeOrder::Gain,
                Some(OrderName::Nodes) => TreeOrder::Nodes,
                Some(OrderName::Newest) | None => TreeOrder::Newest,
            },
            offset: part.offset(),
            ..TreePageFilter::of(run, part.limit())
        }
    }
}

/// All runs of all databases, newest first within each, and the databases that cannot be read.
pub async fn runs(sources: &Sources, mut refused: Vec<Refused>) -> Value {
    let mut runs = Vec::new();
    for source in sources.all() {
        match runs_of(&source).await {
            Ok(found) => runs.extend(found),
            Err(error) => refused.push(Refused::new(&source.path, &error)),
        }
    }
    json!({ "runs": runs, "refused": refused })
}

async fn runs_of(source: &Source) -> Result<Vec<Value>, ServeError> {
    let spent = source.reader.run_comparison().await?;
    let mut runs = Vec::new();
    for row in source.reader.runs().await? {
        let (key, spent) = (source.key(row.run_id), spent.iter().find(|spent| spent.run_id == row.run_id));
        runs.push(run_item(&source.reader, row, spent, (&key, &source.label), source.written_at_ms()).await?);
    }
    Ok(runs)
}

/// A run in the list: what it is, how far it is, its newest figures; `key` and `label` name it in addresses and for people.
///
/// # Errors
/// The database cannot be read.
pub async fn run_item(
    reader: &Reader,
    row: RunRow,
    spent: Option<&RunComparison>,
    (key, label): (&str, &str),
    written_at_ms: Option<u64>,
) -> Result<Value, ServeError> {
    let last = reader.last_step(row.run_id).await?;
    let planned = row.planned_steps();
    // A script reads numbers as doubles, which have no room for it.
    let seed = row.seed.to_string();
    let mut item = serde_json::to_value(row)?;
    if let Some(cells) = item.as_object_mut() {
        cells.remove("config_toml");
        for (name, value) in [
            ("key", json!(key)),
            ("label", json!(label)),
            ("written_at_ms", json!(written_at_ms)),
            ("planned_steps", json!(planned)),
            ("seed", json!(seed)),
            ("spent", json!(spent)),
            ("last_step", json!(last)),
        ] {
            cells.insert(name.to_owned(), value);
        }
    }
    Ok(item)
}

/// One run with its configuration, rounds, steps and weights.
///
/// # Errors
/// The database cannot be read.
pub async fn run(source: &Source, run: RunId) -> Result<Option<Value>, ServeError> {
    let Some(row) = source.reader.run(run).await? else { return Ok(None) };
    let config = row.config_toml.clone();
    let key = source.key(run);
    let spent = source.reader.run_comparison().await?.into_iter().find(|spent| spent.run_id == run);
    let named = (key.as_str(), source.label.as_str());
    let item = run_item(&source.reader, row, spent.as_ref(), named, source.written_at_ms()).await?;
    detail(&source.reader, run, item, &config).await.map(Some)
}

/// What the page of a run shows beside its entry in the list.
///
/// # Errors
/// The database cannot be read.
pub async fn detail(reader: &Reader, run: RunId, item: Value, config: &str) -> Result<Value, ServeError> {
    let mut steps = reader.steps(run).await?;
    let left_out = steps.len().saturating_sub(MAX_STEPS);
    steps.drain(..left_out);
    Ok(json!({
        "run": item,
        "config_toml": config,
        "rounds": reader.round_summary(run).await?,
        "steps": steps,
        "steps_left_out": left_out,
        "weights": reader.weight_history(run).await?,
        "tokens": reader.token_use(run).await?.into_iter().find(|row| row.step_id.is_none()),
    }))
}

/// The figures of a run.
///
/// # Errors
/// The database cannot be read.
pub async fn run_curves(source: &Source, run: RunId) -> Result<Option<Value>, ServeError> {
    if source.reader.run(run).await?.is_none() {
        return Ok(None);
    }
    curves::curves(&source.reader, run, MAX_STEPS).await.map(Some)
}

/// One page of trees.
///
/// # Errors
/// The database cannot be read.
pub async fn trees(source: &Source, run: RunId, query: TreeQuery) -> Result<Option<Value>, ServeError> {
    Ok(Some(serde_json::to_value(source.reader.tree_page(query.filter(run)).await?)?))
}

/// One tree, without texts.
///
/// # Errors
/// The database cannot be read.
pub async fn one_tree(source: &Source, run: RunId, id: i64) -> Result<Option<Value>, ServeError> {
    tree::tree(&source.reader, run, TreeId(id)).await
}

/// The texts from the prompt to a node.
///
/// # Errors
/// The database cannot be read.
pub async fn node(
    source: &Source,
    run: RunId,
    (tree, node): (i64, u32),
    tokenizers: std::sync::Arc<Tokenizers>,
) -> Result<Option<Value>, ServeError> {
    let reader = &source.reader;
    let Some(row) = reader.run(run).await? else { return Ok(None) };
    if reader.tree(TreeId(tree)).await?.is_none_or(|tree| tree.run_id != run) {
        return Ok(None);
    }
    let path = reader.node_path(TreeId(tree), NodeId(node)).await?;
    if path.is_empty() {
        return Ok(None);
    }
    let texts = in_background(move || tokenizers.texts(row.model.as_ref(), path)).await;
    Ok(Some(json!({ "path": texts })))
}

/// Does what takes a while where nobody waits behind it.
pub async fn in_background(work: impl FnOnce() -> Vec<NodeText> + Send + 'static) -> Vec<NodeText> {
    // A panic in there leaves the node without text.
    tokio::task::spawn_blocking(work).await.unwrap_or_default()
}

/// One page of problems.
///
/// # Errors
/// The database cannot be read.
pub async fn problems(source: &Source, run: RunId, query: ProblemQuery) -> Result<Option<Value>, ServeError> {
    let part = Part { limit: query.limit, offset: query.offset };
    let text = query.text.as_deref().filter(|text| !text.is_empty());
    let page = source.reader.problem_page(run, text, part.offset(), part.limit()).await?;
    Ok(Some(serde_json::to_value(page)?))
}

/// A problem: its rounds, trees, measurements and kept solutions in this run.
///
/// # Errors
/// The database cannot be read.
pub async fn problem(reader: &Reader, run: RunId, id: i64) -> Result<Option<Value>, ServeError> {
    let Some(problem) = reader.problem(ProblemId(id)).await? else { return Ok(None) };
    let of_problem = TreePageFilter { problem: Some(problem.problem_id), ..TreePageFilter::of(run, HISTORY) };
    let solutions = reader.cached_solutions(run, problem.problem_id).await?;
    let shown = solutions.iter().rev().take(HISTORY as usize).map(|solution| {
        json!({
            "solution_id": solution.solution_id, "run_id": solution.run_id, "tree_id": solution.tree_id,
            "weight_version": solution.weight_version, "provenance": solution.provenance.as_str(),
            "answer": solution.answer, "text": solution.text, "token_count": solution.tokens.len(),
            "created_at_ms": solution.created_at_ms,
        })
    });
    Ok(Some(json!({
        "problem": problem,
        "rounds": reader.problem_rounds(run, problem.problem_id).await?,
        "evaluations": reader.problem_evaluations(run, problem.problem_id).await?,
        "trees": reader.tree_page(of_problem).await?,
        "solution_total": solutions.len(),
        "solutions": shown.collect::<Vec<_>>(),
    })))
}

/// Wrong answers, those first that the policy was surest of.
///
/// # Errors
/// The database cannot be read.
pub async fn mistakes(source: &Source, run: RunId, part: Part) -> Result<Option<Value>, ServeError> {
    let mistakes = source.reader.confident_mistakes(run, part.limit()).await?;
    Ok(Some(json!({ "mistakes": mistakes })))
}
