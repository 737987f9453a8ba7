//! What each address of the API answers, as JSON. Lists have a limit, and what is cut says of how many.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::{Value, json};

use super::source::{Lent, Sources};
use super::text::{NodeText, Tokenizers};
use super::{ServeError, curves, tree};
use crate::store::{ProblemFilter, Reader, RunComparison, RunRow, RunStatus, TreeFilter, TreeOrder, TreePageFilter};
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
    /// How it was solved.
    solved: Option<SolvedName>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SolvedName {
    OnlyBySearch,
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
        let trees = TreeFilter {
            run,
            step: self.step.map(StepId),
            problem: self.problem.map(ProblemId),
            kind: self.kind.map(|kind| match kind {
                KindName::Search => TreeKind::Search,
                KindName::Rollout => TreeKind::Rollout,
                KindName::Replay => TreeKind::Replay,
            }),
            is_solved: self.solved,
            verdict: self.verdict,
            limit: Some(part.limit()),
        };
        let order = match self.order {
            Some(OrderName::Gain) => TreeOrder::Gain,
            Some(OrderName::Nodes) => TreeOrder::Nodes,
            Some(OrderName::Newest) | None => TreeOrder::Newest,
        };
        TreePageFilter { trees, order, offset: part.offset() }
    }
}

/// All runs of all databases, newest first within each, and the databases that cannot be read.
pub async fn runs(sources: &Sources) -> Value {
    let all: Vec<_> = sources.all().into_iter().filter(|source| !source.is_removed()).collect();
    let found = all.iter().map(|source| sources.listed(source, runs_of));
    let found = futures_util::future::join_all(found).await;
    let (mut runs, mut refused) = (Vec::new(), Vec::new());
    for (source, found) in all.iter().zip(found) {
        match found {
            Ok(found) => runs.extend(found.iter().cloned().map(with_silence)),
            Err(error) => refused.push(source.refused(&error)),
        }
    }
    json!({ "runs": runs, "refused": refused })
}

async fn runs_of(lent: Lent) -> Result<Vec<Value>, ServeError> {
    let spent = lent.reader.run_comparison().await?;
    let mut runs = Vec::new();
    for row in lent.reader.runs().await? {
        let spent = spent.iter().find(|spent| spent.run_id == row.run_id);
        let key = lent.source.key(row.run_id);
        let named = (key.as_str(), lent.source.label.as_str());
        runs.push(run_item(&lent.reader, row, spent, named, lent.stamp.written_at_ms()).await?);
    }
    Ok(runs)
}

/// Adds for how long a run that goes on has written nothing: a killed one is only known by that. In whole minutes, so
/// that it is news once a minute.
fn with_silence(mut run: Value) -> Value {
    let is_running = run["status"] == RunStatus::Running.as_str();
    let Some(written_ms) = run["written_at_ms"].as_u64().filter(|_| is_running) else { return run };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let silent_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX).saturating_sub(written_ms);
    run["silent_minutes"] = json!(silent_ms / 60_000);
    run
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
pub async fn run(lent: Lent, run: RunId) -> Result<Option<Value>, ServeError> {
    let Some(row) = lent.reader.run(run).await? else { return Ok(None) };
    let config = row.config_toml.clone();
    let spent = lent.reader.run_comparison().await?.into_iter().find(|spent| spent.run_id == run);
    let key = lent.source.key(run);
    let named = (key.as_str(), lent.source.label.as_str());
    let item = run_item(&lent.reader, row, spent.as_ref(), named, lent.stamp.written_at_ms()).await?;
    detail(&lent.reader, run, with_silence(item), &config).await.map(Some)
}

/// What the page of a run shows beside its entry in the list.
///
/// # Errors
/// The database cannot be read.
pub async fn detail(reader: &Reader, run: RunId, item: Value, config: &str) -> Result<Value, ServeError> {
    let mut steps = reader.steps(run).await?;
    let left_out = steps.len().saturating_sub(MAX_STEPS);
    steps.drain(..left_out);
    let replays = reader.replay_use(run).await?;
    let spared = replays.iter().filter_map(|step| step.saved_tokens).sum::<f64>();
    Ok(json!({
        "run": item,
        "config_toml": config,
        "rounds": reader.round_summary(run).await?,
        "steps": steps,
        "steps_left_out": left_out,
        "weights": reader.weight_history(run).await?,
        "tokens": reader.token_use(run).await?.into_iter().find(|row| row.step_id.is_none()),
        "replays": {
            "replay_count": replays.iter().map(|step| step.replay_count).sum::<u64>(),
            "saved_tokens": spared,
        },
        "time": reader.run_time(run).await?,
    }))
}

/// The figures of a run.
///
/// # Errors
/// The database cannot be read.
pub async fn run_curves(lent: Lent, run: RunId) -> Result<Option<Value>, ServeError> {
    if lent.reader.run(run).await?.is_none() {
        return Ok(None);
    }
    curves::curves(&lent.reader, run, MAX_STEPS).await.map(Some)
}

/// One page of trees.
///
/// # Errors
/// The database cannot be read.
pub async fn trees(lent: Lent, run: RunId, query: TreeQuery) -> Result<Option<Value>, ServeError> {
    Ok(Some(serde_json::to_value(lent.reader.tree_page(query.filter(run)).await?)?))
}

/// One tree, without texts.
///
/// # Errors
/// The database cannot be read.
pub async fn one_tree(lent: Lent, run: RunId, id: i64) -> Result<Option<Value>, ServeError> {
    tree::tree(&lent.reader, run, TreeId(id)).await
}

/// The texts from the prompt to a node.
///
/// # Errors
/// The database cannot be read.
pub async fn node(
    lent: Lent,
    run: RunId,
    (tree, node): (i64, u32),
    tokenizers: std::sync::Arc<Tokenizers>,
) -> Result<Option<Value>, ServeError> {
    let reader = &lent.reader;
    let Some(row) = reader.run(run).await? else { return Ok(None) };
    if reader.tree(TreeId(tree)).await?.is_none_or(|tree| tree.run_id != run) {
        return Ok(None);
    }
    let path = reader.node_path(TreeId(tree), NodeId(node)).await?;
    if path.is_empty() {
        return Ok(None);
    }
    // Others may read while the tokens are made text.
    drop(lent);
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
pub async fn problems(lent: Lent, run: RunId, query: ProblemQuery) -> Result<Option<Value>, ServeError> {
    let part = Part { limit: query.limit, offset: query.offset };
    let text = query.text.as_deref().filter(|text| !text.is_empty());
    let only_by_search = matches!(query.solved, Some(SolvedName::OnlyBySearch));
    let filter = ProblemFilter { run, text, only_by_search, offset: part.offset(), limit: part.limit() };
    let page = lent.reader.problem_page(filter).await?;
    Ok(Some(serde_json::to_value(page)?))
}

/// A problem: its rounds, trees, measurements and kept solutions in this run.
///
/// # Errors
/// The database cannot be read.
pub async fn problem(reader: &Reader, run: RunId, id: i64) -> Result<Option<Value>, ServeError> {
    let Some(problem) = reader.problem(ProblemId(id)).await? else { return Ok(None) };
    let of_problem = TreeFilter { problem: Some(problem.problem_id), limit: Some(HISTORY), ..TreeFilter::of(run) };
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
        "trees": reader.tree_page(TreePageFilter::of(of_problem)).await?,
        "solution_total": solutions.len(),
        "solutions": shown.collect::<Vec<_>>(),
    })))
}

/// Wrong answers, those first that the policy was surest of.
///
/// # Errors
/// The database cannot be read.
pub async fn mistakes(lent: Lent, run: RunId, part: Part) -> Result<Option<Value>, ServeError> {
    let page = lent.reader.mistake_page(run, part.offset(), part.limit()).await?;
    Ok(Some(serde_json::to_value(page)?))
}
