//! Domain values to rows. The store knows no search and no trainer; this file knows both and decides nothing.

use std::collections::BTreeMap;

use crate::config::{self, Config, ConfigError, ReplayConfig, Rules};
use crate::data::ModelTokenizer;
use crate::search::{self, SelectKind, StopReason, Tree};
use crate::store::{
    Confirmation, Metric, NewProblem, NewRun, NewSolution, NewTree, NewWeightVersion, NodeContent, NodeRow, ScoreParts,
    Selection, SelectionKind, SolutionRow, StepEnd, TrajectoryRow, TreeStatus,
};
use crate::trainer::StepReport;
use crate::types::{
    NodeId, Provenance, RunId, StepId, TokenId, TrajectoryGroup, Verdict, WeightManifest, WeightVersion,
};

use super::explore::{Explored, Grown, Task};
use super::publish::Published;
use super::retention::Retention;
use super::rollout::{Answer, Answers, CachedSolution};
use super::{RunError, StepSummary};

/// The row of a run that begins.
///
/// # Errors
/// A path in the configuration that is not UTF-8.
pub fn run(config: &Config) -> Result<NewRun, ConfigError> {
    Ok(NewRun {
        name: config.run.name.clone(),
        algorithm: config.run.algorithm,
        config_toml: config::render(config)?,
        model: config.run.model.display().to_string(),
        seed: config.run.seed,
        program_version: env!("CARGO_PKG_VERSION").to_owned(),
        git_commit: None,
    })
}

/// The row of a problem.
pub fn problem(problem: &crate::data::Problem) -> NewProblem {
    NewProblem {
        name: problem.name.clone(),
        text: problem.problem.clone(),
        answer: problem.answer.clone(),
        level: problem.level.map(|level| level.to_string()),
        topic: problem.topic.clone(),
        source: problem.source.clone(),
    }
}

/// The row of a step that ended, and the numbers without a column.
pub fn step_end(summary: &StepSummary, report: &StepReport, published: Option<&Published>) -> (StepEnd, Vec<Metric>) {
    let mismatch = &report.mismatch;
    let has_update = !report.updates.is_empty();
    let end = StepEnd {
        produced_weight_version: published.map(|published| published.manifest.version),
        update_skip_reason: published.is_none().then(|| skip_reason(report)),
        search_ms: millis(summary.search),
        train_ms: millis(summary.train),
        export_ms: published.map_or(0, |published| millis(published.export)),
        reload_ms: published.map_or(0, |published| millis(published.load.elapsed)),
        generated_tokens: summary.generated_tokens as u64,
        trained_tokens: report.response_tokens as u64,
        packed_tokens: report.packed_tokens as u64,
        skipped_group_count: summary.groups_skipped as u64,
        mean_reward: (summary.trajectories > 0).then_some(summary.mean_reward),
        loss: has_update.then(|| report.loss()),
        grad_norm: has_update.then(|| report.grad_norm()),
        clip_frac: has_update.then(|| report.clip_frac()).filter(|frac| frac.is_finite()),
        ratio_mean: (mismatch.tokens > 0).then_some(mismatch.mean_ratio),
        ratio_p99: (mismatch.tokens > 0).then_some(mismatch.p99_ratio),
        ratio_outside_frac: (mismatch.tokens > 0).then_some(mismatch.outside_frac),
        ratio_nan_count: mismatch.missing as u64,
        entropy_nats: has_update.then_some(report.entropy_nats),
    };
    let seconds = |duration: std::time::Duration| duration.as_secs_f64();
    let mut metrics: Vec<(String, f64)> = Vec::new();
    let mut metric = |name: &str, value: f64| metrics.push((name.to_owned(), value));
    for (name, value) in [
        ("terminal_pass_frac", summary.terminal_pass_frac),
        ("trajectories", summary.trajectories as f64),
        ("searches_skipped", summary.replays as f64),
        ("cache_hits", summary.cached_trajectories as f64),
        ("tokens_saved", summary.tokens_saved),
        ("trajectories_with_defect", summary.defective_trajectories as f64),
        ("wall_s", summary.wall.as_secs_f64()),
        ("generating_s", summary.generating.as_secs_f64()),
        ("distinct_trajectories", summary.distinct_trajectories as f64),
        ("updates_done", report.updates_done() as f64),
        ("updates_skipped", report.updates_skipped() as f64),
        ("update_ratio_mean", report.mean_ratio()),
        ("ratio_p50", mismatch.p50_ratio),
        ("ratio_mean_abs_nats", mismatch.mean_abs_nats),
        ("distinct_tokens", report.distinct_tokens as f64),
        ("unpacked_tokens", report.trajectory_tokens as f64),
        ("trajectories_dropped", report.trajectories_dropped as f64),
        ("trajectories_defective", report.trajectories_defective as f64),
        ("cached_tokens", report.cached.tokens as f64),
        ("cached_tokens_unknown", report.cached.missing as f64),
        ("cached_ratio_mean", report.cached.mean_ratio),
        ("cached_ratio_p99", report.cached.p99_ratio),
        ("cached_ratio_capped_frac", report.cached.capped_frac),
        ("old_logprobs_s", seconds(report.time.old_logprobs)),
        ("gradient_s", seconds(report.time.gradient)),
        ("optimizer_s", seconds(report.time.optimizer)),
    ] {
        metric(name, value);
    }
    if let Some(published) = published {
        metric("canary_s", seconds(published.canary));
        metric("held_bitwise_bytes", published.load.held.bitwise_bytes as f64);
        metric("held_probed_tensors", published.load.held.probed_tensors as f64);
        metric("held_shared_bytes", published.load.held.shared_bytes as f64);
        metric("held_unchecked_tensors", published.load.held.unchecked_tensors as f64);
        for (phase, elapsed) in &published.load.phases {
            metric(&format!("reload_{phase}_s"), seconds(*elapsed));
        }
    }
    let metrics = metrics.into_iter().map(|(name, value)| Metric { name, value }).collect();
    (end, metrics)
}

/// Why a step made no update though nothing went wrong.
pub const NO_SIGNAL: &str = "no group carries a signal";

fn skip_reason(report: &StepReport) -> String {
    let reasons: Vec<String> =
        report.updates.iter().filter_map(|update| update.skipped.as_ref().map(ToString::to_string)).collect();
    if reasons.is_empty() { NO_SIGNAL.to_owned() } else { reasons.join("; ") }
}

/// The row of exported weights.
pub fn weight_version(
    run: RunId,
    step: Option<StepId>,
    manifest: &WeightManifest,
    may_differ: bool,
) -> NewWeightVersion {
    NewWeightVersion {
        run,
        version: manifest.version,
        step,
        digest: manifest.digest.clone(),
        path: manifest.dir.display().to_string(),
        size_bytes: manifest.bytes,
        may_differ,
    }
}

/// What was found once the server held the weights.
pub fn confirmation(published: &Published) -> Confirmation {
    Confirmation {
        reload_ms: millis(published.load.elapsed),
        canary_mean_abs_nats: Some(published.canary_mean_nats),
        canary_max_abs_nats: Some(published.canary_max_nats),
    }
}

/// All rows of one finished tree.
pub struct TreeRows {
    /// The tree.
    pub tree: NewTree,
    /// Its nodes, the root first.
    pub nodes: Vec<NodeRow>,
    /// Its trajectories, in the order of their backups.
    pub trajectories: Vec<TrajectoryRow>,
    /// Its correct trajectories, as verified solutions.
    pub solutions: Vec<NewSolution>,
}

/// The rows of a finished tree. Tokens, logprobs and text are kept for the root, for nodes on trajectories and for whole
/// answers; for the others as `keep` says.
///
/// # Errors
/// Tokens outside the tokenizer's vocabulary.
pub fn tree(
    run: RunId,
    task: &Task,
    explored: &Explored,
    group: &TrajectoryGroup,
    tokenizer: &ModelTokenizer,
    replay: &ReplayConfig,
    keep: Retention,
) -> Result<TreeRows, RunError> {
    let root = NodeContent { tokens: task.prompt.tokens.to_vec(), logprobs: None, text: task.prompt.text.to_string() };
    let (nodes, solutions) = match &explored.grown {
        Grown::Tree(tree) => {
            let mut contents = keep.contents(tree, group, tokenizer)?;
            contents.insert(NodeId::ROOT, root);
            (node_rows(tree, &mut contents), solutions(task, group, tokenizer)?)
        }
        Grown::Answers(answers) => {
            let solutions = rare_solutions(answers.sampled(), replay.max_pass_rate, &task.answer, tokenizer)?;
            (answer_rows(answers, root, tokenizer)?, solutions)
        }
    };
    let solution_of = |leaf: NodeId| match &explored.grown {
        Grown::Tree(_) => None,
        Grown::Answers(answers) => leaf.index().checked_sub(1).and_then(|index| answers.answers.get(index)?.solution),
    };
    let trajectories = group
        .trajectories
        .iter()
        .map(|trajectory| {
            let path: Vec<NodeId> = trajectory.path.iter().map(|&index| group.nodes[index].node).collect();
            TrajectoryRow {
                solution: path.last().and_then(|&leaf| solution_of(leaf)),
                path,
                verdict: trajectory.verdict,
                reward: trajectory.reward,
                entropy_nats: Some(trajectory.entropy_nats).filter(|entropy| entropy.is_finite()),
                response_tokens: saturate(trajectory.response_tokens),
                provenance: trajectory.provenance,
                defect: trajectory.defect,
            }
        })
        .collect();
    let (rules, uct_lambda) = match &explored.grown {
        Grown::Tree(tree) => (tree.config().rules, tree.config().uct_lambda),
        // Nothing was chosen by any rule.
        Grown::Answers(_) => (Rules::Paper, 0.0),
    };
    Ok(TreeRows {
        tree: NewTree {
            run,
            step: task.step,
            slot: task.slot,
            problem: task.problem,
            kind: task.kind,
            rules,
            uct_lambda,
            status: status(explored),
            seed: explored.seed,
            expansion_count: u32::try_from(explored.expansions()).unwrap_or(u32::MAX),
            generated_tokens: explored.generated_tokens(),
            wall_ms: millis(explored.elapsed),
        },
        nodes,
        trajectories,
        solutions,
    })
}

fn status(explored: &Explored) -> TreeStatus {
    match &explored.end {
        Ok(StopReason::Complete) => TreeStatus::Complete,
        Ok(StopReason::Exhausted) => TreeStatus::Exhausted,
        Ok(StopReason::ExpansionBudget | StopReason::TokenBudget | StopReason::TimeBudget) => TreeStatus::Budget,
        Err(error) => TreeStatus::Failed { error: error.to_string() },
    }
}

fn node_rows(tree: &Tree, contents: &mut BTreeMap<NodeId, NodeContent>) -> Vec<NodeRow> {
    tree.nodes()
        .map(|node| NodeRow {
            node_id: node.id(),
            parent_node_id: node.parent(),
            tag: tree.tag(node.id()),
            depth: node.depth(),
            visits: node.visits(),
            q_total: node.q_total(),
            entropy_nats: node.entropy_nats(),
            token_count: saturate(contents.get(&node.id()).map_or(node.tokens().len(), |content| content.tokens.len())),
            finish_reason: node.finish(),
            is_terminal: node.is_terminal(),
            verdict: node.verdict(),
            weight_version: node.weight_version(),
            selection: node.selected().map(|selected| Selection {
                order: node.selected_after().map_or(0, |count| u32::try_from(count).unwrap_or(u32::MAX)),
                kind: selection_kind(selected.kind),
                score: Some(selected.score).filter(|score| score.is_finite()),
                parts: node.selected_parts().map(score_parts).unwrap_or_default(),
            }),
            content: contents.remove(&node.id()),
        })
        .collect()
}

/// The prompt and its whole answers.
fn answer_rows(answers: &Answers, root: NodeContent, tokenizer: &ModelTokenizer) -> Result<Vec<NodeRow>, RunError> {
    let mut rows = Vec::with_capacity(answers.answers.len() + 1);
    rows.push(NodeRow {
        node_id: NodeId::ROOT,
        parent_node_id: None,
        tag: "0".to_owned(),
        depth: 0,
        visits: saturate(answers.trained.len()),
        q_total: 0.0,
        entropy_nats: None,
        token_count: saturate(root.tokens.len()),
        finish_reason: None,
        is_terminal: false,
        verdict: None,
        weight_version: None,
        selection: None,
        content: Some(root),
    });
    for (index, answer) in answers.answers.iter().enumerate() {
        let is_trained = answers.trained.contains(&index);
        rows.push(NodeRow {
            node_id: Answers::node_id(index),
            parent_node_id: Some(NodeId::ROOT),
            tag: format!("0.{}", index + 1),
            depth: 1,
            visits: u32::from(is_trained),
            q_total: if is_trained { answer.reward } else { 0.0 },
            entropy_nats: Some(answer.entropy_nats()).filter(|entropy| entropy.is_finite()),
            token_count: saturate(answer.tokens.len()),
            finish_reason: Some(answer.finish),
            is_terminal: true,
            verdict: Some(answer.verdict),
            weight_version: Some(answer.weight_version),
            selection: None,
            content: Some(NodeContent {
                tokens: answer.tokens.clone(),
                logprobs: Some(answer.logprobs.clone()),
                text: tokenizer.decode(&answer.tokens)?,
            }),
        });
    }
    Ok(rows)
}

/// The correct ones of a problem's rollouts where few are: worth keeping (paper, equation 10). A problem that the policy
/// solves often needs no cache.
///
/// # Errors
/// Tokens outside the tokenizer's vocabulary.
pub fn rare_solutions<'a>(
    answers: impl Iterator<Item = &'a Answer>,
    max_pass_rate: f64,
    reference: &str,
    tokenizer: &ModelTokenizer,
) -> Result<Vec<NewSolution>, RunError> {
    let judged: Vec<&Answer> = answers.filter(|answer| answer.verdict.is_settled()).collect();
    let correct = || judged.iter().filter(|answer| answer.verdict == Verdict::Correct);
    if correct().count() as f64 > max_pass_rate * judged.len() as f64 {
        return Ok(Vec::new());
    }
    correct()
        .map(|answer| {
            Ok(NewSolution {
                text: tokenizer.decode(&answer.tokens)?,
                tokens: answer.tokens.clone(),
                logprobs: answer.logprobs.clone(),
                answer: reference.to_owned(),
                weight_version: answer.weight_version,
                provenance: Provenance::Rollout,
            })
        })
        .collect()
}

/// A solution as a group takes it.
pub fn cached_solution(row: SolutionRow) -> CachedSolution {
    CachedSolution {
        id: row.solution_id,
        tokens: row.tokens,
        logprobs: row.logprobs,
        // Of what a user brought in, nothing is known.
        weight_version: row.weight_version.unwrap_or(WeightVersion::INITIAL),
    }
}

fn selection_kind(kind: SelectKind) -> SelectionKind {
    match kind {
        SelectKind::UctChild => SelectionKind::UctChild,
        SelectKind::UctRoot => SelectionKind::UctRoot,
        SelectKind::Global => SelectionKind::Global,
        SelectKind::Fallback => SelectionKind::Fallback,
    }
}

fn score_parts(parts: search::ScoreParts) -> ScoreParts {
    let finite = |part: f64| Some(part).filter(|part| part.is_finite());
    ScoreParts {
        value: finite(parts.value),
        exploration: parts.exploration.and_then(finite),
        entropy: parts.entropy.and_then(finite),
        depth: parts.depth.and_then(finite),
    }
}

fn solutions(task: &Task, group: &TrajectoryGroup, tokenizer: &ModelTokenizer) -> Result<Vec<NewSolution>, RunError> {
    let correct = group.trajectories.iter().filter(|trajectory| trajectory.verdict == Verdict::Correct);
    correct
        .map(|trajectory| {
            let nodes = || trajectory.path.iter().map(|&index| &group.nodes[index]);
            let tokens: Vec<TokenId> = nodes().flat_map(|node| node.tokens.iter().copied()).collect();
            Ok(NewSolution {
                text: tokenizer.decode(&tokens)?,
                logprobs: nodes().flat_map(|node| node.logprobs.iter().copied()).collect(),
                answer: task.answer.clone(),
                weight_version: nodes().map(|node| node.weight_version).max().unwrap_or(WeightVersion::INITIAL),
                provenance: trajectory.provenance,
                tokens,
            })
        })
        .collect()
}

/// A count as a column has it.
pub fn saturate(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Whole milliseconds, as rows and logs have them.
pub fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
