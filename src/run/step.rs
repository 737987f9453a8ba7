//! One training step, in order: problems, trees, update, publication, record.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinSet;

use crate::search::{StopReason, harvest};
use crate::store::{Metric, Store};
use crate::trainer::Trainer;
use crate::types::{ProblemId, RunId, StepId, TokenId, TrajectoryGroup, Verdict};

use super::explore::{Explored, Explorer, Task};
use super::publish::Publisher;
use super::record::millis;
use super::{Event, Observer, RunError, StepSummary, record};

/// Mean ratio trainer/server beyond which a step is worth a warning.
const RATIO_ALARM: std::ops::RangeInclusive<f64> = 0.9..=1.1;

/// What a step works with.
pub struct Stepper {
    /// Grows trees.
    pub explorer: Arc<Explorer>,
    /// Updates the policy.
    pub trainer: Arc<Trainer>,
    /// Keeps everything.
    pub store: Store,
    /// Row of the run.
    pub run: RunId,
    /// Who watches.
    pub observer: Observer,
}

/// A problem of a step, posed.
#[derive(Clone, Debug)]
pub struct Posed {
    /// Row of the problem.
    pub problem: ProblemId,
    /// The task for the explorer.
    pub task: Task,
}

/// What the search of a step found.
#[derive(Debug, Default)]
struct Found {
    groups: Vec<(u32, TrajectoryGroup)>,
    trees: usize,
    solved: usize,
    failed: usize,
    first_failure: Option<String>,
    trajectories: usize,
    distinct_trajectories: usize,
    reward_sum: f64,
    terminals: usize,
    correct_terminals: usize,
    generated_tokens: usize,
}

impl Stepper {
    /// Runs one step and returns its figures after its row is committed.
    ///
    /// # Errors
    /// The first part that failed; what was recorded before stays.
    ///
    /// # Cancel safety
    /// Trees that were stored stay (see `search` below for their order); the others are forgotten and their requests cancelled. A drop
    /// during update or publication leaves the step unfinished in the store.
    pub async fn run(
        &self,
        step: StepId,
        problems: Vec<Posed>,
        publisher: &mut Publisher,
    ) -> Result<StepSummary, RunError> {
        let search_version = publisher.current();
        self.store.begin_step(record::step_begin(self.run, step, search_version, problems.len())).await?;
        (self.observer)(Event::SearchStarted { step, trees: problems.len(), weight_version: search_version });

        let search_started = Instant::now();
        let found = self.search(step, problems).await?;
        let search = search_started.elapsed();
        if found.trees == found.failed {
            let first = found.first_failure.unwrap_or_default();
            return Err(RunError::AllTreesFailed { step, trees: found.trees, first });
        }

        // Two programs on one server: without this, trees of somebody else's policy would be trained on as ours.
        publisher.confirm().await?;
        (self.observer)(Event::UpdateStarted { step });
        let train_started = Instant::now();
        let groups: Vec<TrajectoryGroup> = found.groups.into_iter().map(|(_, group)| group).collect();
        let report = self.trainer.update(groups).await?;
        let train = train_started.elapsed();
        for reason in report.updates.iter().filter_map(|update| update.skipped.as_ref()) {
            tracing::warn!(step = step.0, %reason, "update skipped");
            (self.observer)(Event::Warning(format!("step {step}: an update was skipped: {reason}")));
        }
        let ratio = report.mismatch.mean_ratio;
        if ratio.is_finite() && !(RATIO_ALARM.contains(&ratio)) {
            tracing::warn!(step = step.0, ratio, "server and trainer disagree");
            (self.observer)(Event::Warning(format!(
                "step {step}: the trainer gives the sampled tokens {ratio:.3} times the server's probability on average"
            )));
        }

        let publish_started = Instant::now();
        let published = if report.updates_done() == 0 {
            None
        } else {
            let version = search_version.next();
            (self.observer)(Event::PublishStarted { step, weight_version: version });
            Some(publisher.publish(version, Some(step)).await?)
        };
        let publish = publish_started.elapsed();

        let summary = StepSummary {
            step,
            trees: found.trees,
            solved_trees: found.solved,
            failed_trees: found.failed,
            trajectories: found.trajectories,
            distinct_trajectories: found.distinct_trajectories,
            terminal_pass_frac: found.correct_terminals as f64 / found.terminals.max(1) as f64,
            mean_reward: found.reward_sum / found.trajectories.max(1) as f64,
            generated_tokens: found.generated_tokens,
            search,
            train,
            publish,
            loss: Some(report.loss()).filter(|loss| loss.is_finite()),
            grad_norm: Some(report.grad_norm()).filter(|norm| norm.is_finite()),
            engine_ratio_mean: Some(report.mismatch.mean_ratio).filter(|ratio| ratio.is_finite()),
            is_diverged: report.updates_done() == 0 && report.updates_skipped() > 0,
            weight_version: publisher.current(),
        };
        let (end, mut metrics) = record::step_end(&summary, &report, published.as_ref());
        let counts = self.explorer.engine.take_counts().await?;
        metrics.extend(counts.into_iter().map(|(name, value)| Metric { name: name.to_owned(), value }));
        self.store.finish_step(self.run, step, end, metrics).await?;
        log(&summary);
        (self.observer)(Event::StepFinished(Box::new(summary.clone())));
        Ok(summary)
    }

    /// All trees of the step at once; the engine bounds the sequences in flight.
    async fn search(&self, step: StepId, problems: Vec<Posed>) -> Result<Found, RunError> {
        let mut trees = JoinSet::new();
        for posed in problems {
            let explorer = self.explorer.clone();
            trees.spawn(async move {
                let explored = explorer.explore(posed.task.clone()).await?;
                Ok::<_, RunError>((posed, explored))
            });
        }
        let mut found = Found::default();
        // A reproducible engine deserves a reproducible database: rows in the order of the slots. Otherwise a tree is
        // stored the moment it is finished.
        let in_order = self.explorer.engine.capabilities().is_reproducible;
        let mut held: BTreeMap<u32, (Posed, Explored)> = BTreeMap::new();
        let mut next = 0;
        while let Some(finished) = trees.join_next().await {
            let (posed, explored) = finished.map_err(RunError::Task)??;
            held.insert(posed.task.slot, (posed, explored));
            while let Some(entry) = held.first_entry().filter(|entry| !in_order || *entry.key() == next) {
                let (posed, explored) = entry.remove();
                next += 1;
                self.keep(step, posed, explored, &mut found).await?;
            }
        }
        // Trees finish in any order; the update must not depend on it.
        found.groups.sort_by_key(|(slot, _)| *slot);
        Ok(found)
    }

    /// Stores one finished tree and adds it to the step's figures.
    async fn keep(&self, step: StepId, posed: Posed, explored: Explored, found: &mut Found) -> Result<(), RunError> {
        let mut group = harvest(&explored.tree, posed.problem, None, posed.task.prompt.clone());
        let rows = record::tree(self.run, step, &posed, &explored, &group, &self.explorer.tokenizer)?;
        let tree_id = self.store.record_tree(rows.tree, rows.nodes, rows.trajectories, rows.solutions).await?;
        group.tree = Some(tree_id);

        let verdicts: Vec<Verdict> = group.trajectories.iter().map(|t| t.verdict).collect();
        let solved = verdicts.contains(&Verdict::Correct);
        found.trees += 1;
        found.solved += usize::from(solved);
        found.generated_tokens += explored.tree.spent().generated_tokens as usize;
        for verdict in explored.tree.nodes().filter_map(|node| node.verdict()) {
            found.terminals += 1;
            found.correct_terminals += usize::from(verdict == Verdict::Correct);
        }
        match &explored.end {
            Ok(reason) => {
                if *reason != StopReason::Complete {
                    tracing::debug!(tree_id = tree_id.0, ?reason, "tree ended early");
                }
                found.trajectories += group.trajectories.len();
                found.distinct_trajectories += distinct(&group);
                found.reward_sum += group.trajectories.iter().map(|t| t.reward).sum::<f64>();
                if !group.trajectories.is_empty() {
                    found.groups.push((posed.task.slot, group));
                }
            }
            Err(error) => {
                found.failed += 1;
                found.first_failure.get_or_insert_with(|| error.to_string());
                (self.observer)(Event::Warning(format!("a tree was given up: {error}")));
                tracing::warn!(tree_id = tree_id.0, %error, "tree given up");
            }
        }
        (self.observer)(Event::TreeFinished { solved, verdicts });
        Ok(())
    }
}

/// How many trajectories of a group differ in their tokens.
fn distinct(group: &TrajectoryGroup) -> usize {
    let tokens = |path: &[usize]| -> Vec<TokenId> {
        path.iter().flat_map(|&node| group.nodes[node].tokens.iter().copied()).collect()
    };
    group.trajectories.iter().map(|trajectory| tokens(&trajectory.path)).collect::<BTreeSet<_>>().len()
}

fn log(summary: &StepSummary) {
    tracing::info!(
        step = summary.step.0,
        weight_version = summary.weight_version.0,
        solved = summary.solved_trees,
        trees = summary.trees,
        mean_reward = summary.mean_reward,
        generated_tokens = summary.generated_tokens,
        search_ms = millis(summary.search),
        train_ms = millis(summary.train),
        publish_ms = millis(summary.publish),
        "step finished"
    );
}
