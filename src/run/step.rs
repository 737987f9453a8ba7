//! One training step, in order: trees, update, publication, record. The two halves, search and learning, share nothing
//! but what the search found, so that the next step's search may run beside this step's learning.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::config::{Config, ReplayConfig};
use crate::store::{Metric, NewSlot, RecordedTree, Store, TreeStatus};
use crate::trainer::Trainer;
use crate::trainer::advantage::{AdvantageSettings, has_signal};
use crate::trainer::minibatch::{advantage_settings, weigh};
use crate::types::{Provenance, RoundId, RunId, StepId, TokenId, TrajectoryGroup, TreeKind, Verdict, WeightVersion};

use super::explore::{Explored, Explorer, Task};
use super::flight::Flight;
use super::memory_plan::in_turn;
use super::publish::Publisher;
use super::record::millis;
use super::retention::Retention;
use super::rollout::CachedSolution;
use super::{Event, Observer, RunError, StepSummary, record};

/// Mean ratio trainer/server beyond which a step is worth a warning.
const RATIO_ALARM: std::ops::RangeInclusive<f64> = 0.9..=1.1;

/// What a step is going to do.
#[derive(Debug)]
pub struct Plan {
    /// The round it belongs to.
    pub round: RoundId,
    /// The step.
    pub step: StepId,
    /// The weights that search.
    pub search_version: WeightVersion,
    /// One task per slot, in order.
    pub tasks: Vec<Task>,
    /// How many of them come first; the others are further problems that a step before a restart had drawn.
    pub first: usize,
    /// Further problems, to be drawn where groups have no signal.
    pub reserve: Vec<Task>,
    /// Trees that are stored already.
    pub recorded: Vec<RecordedTree>,
}

/// Which groups of a step are trained on.
#[derive(Clone, Copy, Debug)]
pub struct Selection {
    /// How values become advantages.
    pub advantage: AdvantageSettings,
    /// Batches of further problems until every group has a signal; 0 is off.
    pub dynamic_sampling: u32,
}

impl Selection {
    /// Whether the group moves the weights.
    fn has_signal(&self, group: &TrajectoryGroup) -> bool {
        has_signal(&weigh(group, &self.advantage).1)
    }

    /// Of a run.
    pub fn of(config: &Config) -> Selection {
        Selection {
            advantage: advantage_settings(&config.train, config.search.response_budget_tokens()),
            dynamic_sampling: config.curriculum.dynamic_sampling,
        }
    }

    /// The groups to train on, in slot order, and how many were left out. With dynamic sampling those without signal are
    /// not part of the batch; otherwise they count in its mean.
    pub fn training_groups(&self, groups: impl IntoIterator<Item = TrajectoryGroup>) -> (Vec<TrajectoryGroup>, usize) {
        let groups: Vec<_> = groups.into_iter().filter(|group| !group.trajectories.is_empty()).collect();
        let all = groups.len();
        let kept: Vec<_> =
            groups.into_iter().filter(|group| self.dynamic_sampling == 0 || self.has_signal(group)).collect();
        let left_out = all - kept.len();
        (kept, left_out)
    }
}

/// The searching half of a step.
pub struct Searcher {
    /// Grows trees.
    pub explorer: Arc<Explorer>,
    /// Keeps everything.
    pub store: Store,
    /// Row of the run.
    pub run: RunId,
    /// What enters the cache, and how much of it a group takes.
    pub replay: ReplayConfig,
    /// What is trained on.
    pub selection: Selection,
    /// What is kept of each node.
    pub retention: Retention,
    /// Who watches.
    pub observer: Observer,
}

/// What the search of a step found.
#[derive(Debug)]
pub struct Found {
    round: RoundId,
    step: StepId,
    search_version: WeightVersion,
    groups: BTreeMap<u32, TrajectoryGroup>,
    trees: usize,
    solved: usize,
    failed: usize,
    first_failure: Option<String>,
    trajectories: usize,
    distinct_trajectories: usize,
    sampled_trajectories: usize,
    reward_sum: f64,
    terminals: usize,
    correct_terminals: usize,
    generated_tokens: u64,
    /// Trees whose search was spared by the cache, and what their rollouts cost.
    replays: usize,
    replay_tokens: u64,
    cached_trajectories: usize,
    defective_trajectories: usize,
    search: Duration,
}

impl Searcher {
    /// Grows all trees of a step that are not stored yet, and says by `all_begun` when the last of those planned is under way:
    /// from then on there may be room for others.
    ///
    /// # Errors
    /// The first part that failed; trees that were stored stay.
    ///
    /// # Cancel safety
    /// Trees that were stored stay; the others are forgotten and their requests cancelled.
    pub async fn search(&self, mut plan: Plan, all_begun: oneshot::Sender<()>) -> Result<Found, RunError> {
        let started = Instant::now();
        let trees = plan.tasks.len();
        (self.observer)(Event::SearchStarted { step: plan.step, trees, weight_version: plan.search_version });
        let mut found = Found::new(&plan);
        let mut recorded: BTreeSet<u32> = BTreeSet::new();
        let mut earlier = Duration::ZERO;
        for tree in std::mem::take(&mut plan.recorded) {
            recorded.insert(tree.slot);
            // The trees grew side by side: the longest says how long the search was under way before it was cut off.
            earlier = earlier.max(Duration::from_millis(tree.wall_ms));
            (self.observer)(finished(plan.step, &tree.group));
            found.add(tree);
        }
        // All that was planned, also by a step before a restart: what a server refused then it may have accepted now, so
        // that fewer are missing, but a slot has its tree.
        let planned = plan.tasks.iter().filter(|task| !recorded.contains(&task.slot)).cloned();
        self.grow(plan.step, planned.collect(), Some(all_begun), &mut found).await?;
        let mut end = plan.first.min(plan.tasks.len());
        for _ in 0..self.selection.dynamic_sampling {
            // Slots are places: trees of later draws, grown before a restart, do not count yet.
            let drawn = found.groups.range(..record::saturate(end)).map(|(_, group)| group);
            let with_signal = drawn.filter(|group| self.selection.has_signal(group)).count();
            let missing = plan.first.saturating_sub(with_signal);
            let more = (end + missing).saturating_sub(plan.tasks.len()).min(plan.reserve.len());
            if more > 0 {
                let drawn: Vec<Task> = plan.reserve.drain(..more).collect();
                self.store.extend_step(self.run, plan.step, drawn.iter().map(slot).collect()).await?;
                plan.tasks.extend(drawn.iter().cloned());
                self.grow(plan.step, drawn, None, &mut found).await?;
            }
            let next = (end + missing).min(plan.tasks.len());
            if next == end {
                break;
            }
            end = next;
        }
        found.search = earlier + started.elapsed();
        if found.trees == found.failed {
            let first = found.first_failure.unwrap_or_default();
            return Err(RunError::AllTreesFailed { step: plan.step, trees: found.trees, first });
        }
        Ok(found)
    }

    /// All trees side by side, as many at once as keep the engine busy, begun in the order of their slots and before those of
    /// later steps.
    async fn grow(
        &self,
        step: StepId,
        tasks: Vec<Task>,
        all_begun: Option<oneshot::Sender<()>>,
        found: &mut Found,
    ) -> Result<(), RunError> {
        let mut order: BTreeSet<u32> = tasks.iter().map(|task| task.slot).collect();
        let mut solutions = BTreeMap::new();
        for task in tasks.iter().filter(|task| task.kind == TreeKind::Replay) {
            solutions.insert(task.slot, self.cached(task).await?);
        }
        let most_cached = self.replay.solutions_per_group as usize;
        let trees = tasks.into_iter().map(|task| {
            let (explorer, share) = (self.explorer.clone(), self.explorer.share(&task));
            let cached = solutions.remove(&task.slot).unwrap_or_default();
            async move {
                let explored = match task.kind {
                    TreeKind::Search => explorer.explore(&task, share).await?,
                    TreeKind::Rollout | TreeKind::Replay => {
                        let _share = share;
                        explorer.roll_out(&task, cached, most_cached).await?
                    }
                };
                Ok((task, explored))
            }
        });
        // The end of the list is reached when the last of it has been begun.
        let end = std::iter::once_with(move || all_begun.map(|all_begun| all_begun.send(()))).flat_map(|_| None);
        let trees = trees.chain(end);
        // A reproducible engine deserves a reproducible database: rows in the order of the slots. Otherwise a tree is
        // stored the moment it is finished.
        let in_order = self.explorer.engine.capabilities().is_reproducible;
        let mut held: BTreeMap<u32, (Task, Explored)> = BTreeMap::new();
        let mut flight = Flight::new(&self.explorer.room.ranked(rank(step)), trees);
        while let Some(finished) = flight.next().await {
            let (task, explored) = finished?;
            held.insert(task.slot, (task, explored));
            while let Some(entry) = held.first_entry().filter(|held| !in_order || order.first() == Some(held.key())) {
                let (task, explored) = entry.remove();
                order.remove(&task.slot);
                self.keep(&task, explored, found).await?;
            }
        }
        Ok(())
    }

    /// The solutions that were known when the step was planned.
    async fn cached(&self, task: &Task) -> Result<Vec<CachedSolution>, RunError> {
        let rows = self.store.reader().cached_solutions(self.run, task.problem).await?;
        let known = rows.into_iter().take(task.known_solutions as usize);
        let budget_tokens = self.explorer.search.response_budget_tokens() as usize;
        let vocab_tokens = self.explorer.engine.capabilities().vocab_tokens;
        // What was brought in under another configuration or for another model.
        let (fit, unfit): (Vec<_>, Vec<_>) = known.partition(|row| {
            row.tokens.len() <= budget_tokens && row.tokens.iter().all(|&token| (token as usize) < vocab_tokens)
        });
        for row in unfit {
            (self.observer)(Event::Warning(format!(
                "solution {} is not used: it is longer than `search.max_depth` x `search.step_tokens` = {budget_tokens} \
                 tokens, or of another vocabulary",
                row.solution_id
            )));
        }
        Ok(fit.into_iter().map(record::cached_solution).collect())
    }

    /// Stores one finished tree and adds it to the step's figures.
    async fn keep(&self, task: &Task, explored: Explored, found: &mut Found) -> Result<(), RunError> {
        let mut group = explored.group(task, &self.explorer.judge);
        let rows = record::tree(
            self.run,
            task,
            &explored,
            &group,
            &self.explorer.judge.tokenizer,
            &self.replay,
            self.retention,
        )?;
        let status = rows.tree.status.clone();
        let tree_id = self.store.record_tree(rows.tree, rows.nodes, rows.trajectories, rows.solutions).await?;
        group.tree = Some(tree_id);
        if let Err(error) = &explored.end {
            (self.observer)(Event::Warning(format!("a tree was given up: {error}")));
            tracing::warn!(tree_id = tree_id.0, %error, "tree given up");
        }
        let event = finished(task.step, &group);
        let mut terminals = explored.verdicts();
        terminals.retain(|verdict| verdict.is_settled());
        found.add(RecordedTree {
            tree_id,
            slot: task.slot,
            kind: task.kind,
            status,
            generated_tokens: explored.generated_tokens(),
            terminals: record::saturate(terminals.len()),
            correct_terminals: record::saturate(terminals.iter().filter(|v| **v == Verdict::Correct).count()),
            wall_ms: millis(explored.elapsed),
            group,
        });
        (self.observer)(event);
        Ok(())
    }
}

/// What is told of a finished tree. A cached solution is no merit of the policy.
fn finished(step: StepId, group: &TrajectoryGroup) -> Event {
    let sampled = || group.trajectories.iter().filter(|t| t.provenance != Provenance::Cached);
    Event::TreeFinished {
        step,
        solved: sampled().any(|t| t.verdict == Verdict::Correct),
        verdicts: sampled().map(|t| t.verdict).collect(),
    }
}

/// What belongs to a step goes before what belongs to a later one.
pub fn rank(step: StepId) -> u32 {
    u32::try_from(step.0).unwrap_or(u32::MAX)
}

/// The row of a task's slot.
pub fn slot(task: &Task) -> NewSlot {
    NewSlot { slot: task.slot, problem: task.problem, kind: task.kind, known_solutions: task.known_solutions }
}

impl Found {
    fn new(plan: &Plan) -> Found {
        Found {
            round: plan.round,
            step: plan.step,
            search_version: plan.search_version,
            groups: BTreeMap::new(),
            trees: 0,
            solved: 0,
            failed: 0,
            first_failure: None,
            trajectories: 0,
            distinct_trajectories: 0,
            sampled_trajectories: 0,
            reward_sum: 0.0,
            terminals: 0,
            correct_terminals: 0,
            generated_tokens: 0,
            replays: 0,
            replay_tokens: 0,
            cached_trajectories: 0,
            defective_trajectories: 0,
            search: Duration::ZERO,
        }
    }

    /// Trees that the engine refused to grow.
    pub fn failed_trees(&self) -> usize {
        self.failed
    }

    /// A tree that is in the store.
    fn add(&mut self, tree: RecordedTree) {
        let trajectories = &tree.group.trajectories;
        // What the policy did: a cached solution is no merit of this step.
        let sampled = || trajectories.iter().filter(|t| t.provenance != Provenance::Cached);
        self.trees += 1;
        self.solved += usize::from(sampled().any(|t| t.verdict == Verdict::Correct));
        self.generated_tokens += tree.generated_tokens;
        self.terminals += tree.terminals as usize;
        self.correct_terminals += tree.correct_terminals as usize;
        if tree.kind == TreeKind::Replay {
            self.replays += 1;
            self.replay_tokens += tree.generated_tokens;
        }
        if let TreeStatus::Failed { error } = tree.status {
            self.failed += 1;
            self.first_failure.get_or_insert(error);
            return;
        }
        self.trajectories += trajectories.len();
        self.sampled_trajectories += sampled().count();
        self.distinct_trajectories += distinct(&tree.group);
        self.reward_sum += sampled().map(|t| t.reward).sum::<f64>();
        self.cached_trajectories += trajectories.iter().filter(|t| t.provenance == Provenance::Cached).count();
        self.defective_trajectories += trajectories.iter().filter(|t| t.defect.is_some()).count();
        self.groups.insert(tree.slot, tree.group);
    }
}

/// The groups of stored trees, in slot order: what [`Found`] hands to the trainer.
pub fn groups_of(trees: Vec<RecordedTree>) -> impl Iterator<Item = TrajectoryGroup> {
    trees.into_iter().filter(|tree| !matches!(tree.status, TreeStatus::Failed { .. })).map(|tree| tree.group)
}

/// The learning half of a step.
pub struct Updater {
    /// Updates the policy.
    pub trainer: Arc<Trainer>,
    /// The engine's meter and counts.
    pub explorer: Arc<Explorer>,
    /// Keeps everything.
    pub store: Store,
    /// Row of the run.
    pub run: RunId,
    /// What is trained on.
    pub selection: Selection,
    /// Who watches.
    pub observer: Observer,
    /// The engine rests during an update: both compute on one GPU.
    pub is_in_turns: bool,
    /// When the last step ended.
    pub since: Instant,
}

impl Updater {
    /// Starts the clocks: what was before is no part of the next step's time.
    pub fn begin(&mut self) {
        self.explorer.meter.take();
        self.since = Instant::now();
    }

    /// Trains on what was found and returns the step's figures after its row is committed.
    ///
    /// # Errors
    /// The first part that failed; what was recorded before stays.
    ///
    /// # Cancel safety
    /// A drop leaves the step unfinished in the store, to be resumed.
    pub async fn learn(&mut self, mut found: Found, publisher: &mut Publisher) -> Result<StepSummary, RunError> {
        let step = found.step;
        // Two programs on one server: without this, trees of somebody else's policy would be trained on as ours.
        publisher.confirm().await?;
        (self.observer)(Event::UpdateStarted { step });
        let train_started = Instant::now();
        let (groups, left_out) = self.selection.training_groups(std::mem::take(&mut found.groups).into_values());
        let update = async { Ok(self.trainer.update(groups).await?) };
        let report = if self.is_in_turns {
            in_turn(self.explorer.engine.as_ref(), &self.trainer, update).await?
        } else {
            update.await?
        };
        let train = train_started.elapsed();
        for reason in report.updates.iter().filter_map(|update| update.skipped.as_ref()) {
            tracing::warn!(step = step.0, %reason, "update skipped");
            (self.observer)(Event::Warning(format!("step {step}: an update was skipped: {reason}")));
        }
        if report.out_of_memory > 0 {
            let (times, tokens) = (report.out_of_memory, report.budget_tokens);
            (self.observer)(Event::Warning(format!(
                "step {step}: memory ran out {times} times; from now on at most {tokens} tokens are computed at a time, \
                 which changes no result"
            )));
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
            let version = publisher.current().next();
            (self.observer)(Event::PublishStarted { step, weight_version: version });
            Some(publisher.publish(version, Some(step)).await?)
        };
        let publish = publish_started.elapsed();
        let tokens_saved = self.tokens_saved(&found).await?;

        let wall = self.since.elapsed();
        self.since = Instant::now();
        let summary = StepSummary {
            round: found.round,
            step,
            trees: found.trees,
            solved_trees: found.solved,
            failed_trees: found.failed,
            replays: found.replays,
            tokens_saved,
            cached_trajectories: found.cached_trajectories,
            defective_trajectories: found.defective_trajectories,
            trajectories: found.trajectories,
            distinct_trajectories: found.distinct_trajectories,
            terminal_pass_frac: found.correct_terminals as f64 / found.terminals.max(1) as f64,
            mean_reward: found.reward_sum / found.sampled_trajectories.max(1) as f64,
            generated_tokens: usize::try_from(found.generated_tokens).unwrap_or(usize::MAX),
            search: found.search,
            train,
            publish,
            wall,
            generating: self.explorer.meter.take(),
            loss: Some(report.loss()).filter(|loss| loss.is_finite()),
            grad_norm: Some(report.grad_norm()).filter(|norm| norm.is_finite()),
            engine_ratio_mean: Some(report.mismatch.mean_ratio).filter(|ratio| ratio.is_finite()),
            groups_skipped: report.groups_skipped + left_out,
            is_diverged: report.updates_done() == 0 && report.updates_skipped() > 0,
            search_version: found.search_version,
            weight_version: publisher.current(),
        };
        let (end, mut metrics) = record::step_end(&summary, &report, published.as_ref());
        let counts = self.explorer.engine.take_counts().await?;
        metrics.extend(counts.into_iter().map(|(name, value)| Metric { name: name.to_owned(), value }));
        self.store.finish_step(self.run, step, end, metrics).await?;
        // Only now is the version before no longer that of the last finished step.
        publisher.prune().await?;
        log(&summary);
        (self.observer)(Event::StepFinished(Box::new(summary.clone())));
        Ok(summary)
    }

    /// What the searches that the cache spared would have cost, less what was done instead: negative where rollouts cost
    /// more than a search. By the mean of the run's searches so far; nothing is known before the first.
    async fn tokens_saved(&self, found: &Found) -> Result<f64, RunError> {
        if found.replays == 0 {
            return Ok(0.0);
        }
        let search_tokens = self.store.reader().mean_search_tokens(self.run, found.step).await?;
        Ok(search_tokens.map_or(0.0, |mean| mean * found.replays as f64 - found.replay_tokens as f64))
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
        replays = summary.replays,
        mean_reward = summary.mean_reward,
        generated_tokens = summary.generated_tokens,
        search_ms = millis(summary.search),
        train_ms = millis(summary.train),
        publish_ms = millis(summary.publish),
        generating_ms = millis(summary.generating),
        wall_ms = millis(summary.wall),
        "step finished"
    );
}
