//! The whole of a run, round by round and step by step, from wherever the store says that it stands.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinSet;

use crate::config::{Config, Pipeline};
use crate::inference::Engine;
use crate::search::SpecialTokens;
use crate::store::{NewStep, StepRow, Store};
use crate::trainer::Trainer;
use crate::types::{ProblemId, RunId, StepId, WeightVersion};
use crate::verify::Grader;

use super::checkpoints::Checkpoints;
use super::curriculum::{Curriculum, HardSet};
use super::evaluate::Evaluator;
use super::explore::Explorer;
use super::flight::Room;
use super::judge::Judge;
use super::memory_plan::in_turn;
use super::meter::Meter;
use super::problems::{Language, Problems};
use super::publish::{PublishSettings, Publisher};
use super::record;
use super::restore::{Restorer, produced};
use super::resume::Spent;
use super::retention::Retention;
use super::step::{Found, Plan, Searcher, Selection, Updater, slot};
use super::{Ended, Event, Goal, Observer, Reached, RunError};

/// Steps in a row without a finite gradient after which a policy is given up.
const MOST_DIVERGED_STEPS: u32 = 3;

/// What the rounds of a run borrow.
pub struct Work<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The text side of the model.
    pub language: &'a Language,
    /// The training problems.
    pub problems: &'a Problems,
    /// Their rows.
    pub rows: &'a [ProblemId],
    /// The held-out problems and their rows.
    pub held_out: Option<(Problems, Vec<ProblemId>)>,
    /// Keeps everything.
    pub store: &'a Store,
    /// Row of the run.
    pub run: RunId,
    /// Folder of the run.
    pub run_dir: &'a Path,
    /// Where exported weights go.
    pub weights_dir: &'a Path,
    /// How far to go.
    pub goal: Goal,
    /// Whether the run was begun by an earlier process.
    pub is_resumed: bool,
    /// Who watches.
    pub observer: &'a Observer,
    /// Locked while a server is being loaded.
    pub loading: Arc<Mutex<()>>,
}

impl Work<'_> {
    /// Goes on to the end.
    ///
    /// # Errors
    /// The first failure that the run cannot go on from.
    ///
    /// # Cancel safety
    /// What was committed stays, and a later process goes on from there.
    pub async fn go(
        mut self,
        trainer: Arc<Trainer>,
        engine: Arc<dyn Engine>,
        started: Instant,
        reached: &mut Reached,
    ) -> Result<Ended, RunError> {
        let capabilities = engine.capabilities().clone();
        self.check_context(capabilities.max_model_tokens)?;
        let selection = Selection::of(self.config);
        let checkpoints = self.checkpoints()?;
        let done = self.store.reader().done_steps(self.run).await?;
        let mut publisher = Publisher::new(
            engine.clone(),
            trainer.clone(),
            self.store.clone(),
            PublishSettings {
                run: self.run,
                dir: self.weights_dir.to_owned(),
                canary: self.problems.canary(capabilities.max_model_tokens),
                tolerance_nats: self.config.run.canary_tolerance_nats,
                keep_every: self.config.run.keep_every,
                gate: self.loading.clone(),
                observer: self.observer.clone(),
            },
        );
        if self.is_resumed {
            checkpoints.sweep()?;
            self.restore(engine.as_ref(), &trainer, &checkpoints, &done, selection, &mut publisher).await?;
        } else {
            // A database that was deleted may have left the checkpoints of another run of this number.
            checkpoints.clear()?;
            publisher.publish(WeightVersion::INITIAL, None).await?;
        }
        publisher.prune().await?;
        reached.steps_done = done.last().map_or(0, |step| number(step.step_id));
        reached.weights = Some(publisher.version_dir(publisher.current()));
        (self.observer)(Event::Ready { elapsed: started.elapsed(), max_sequences: capabilities.max_sequences });

        let explorer = Arc::new(self.explorer(engine));
        let searcher = Arc::new(Searcher {
            explorer: explorer.clone(),
            store: self.store.clone(),
            run: self.run,
            replay: self.config.replay.clone(),
            selection,
            retention: Retention::of(&self.config.run),
            observer: self.observer.clone(),
        });
        let updater = Updater {
            trainer,
            explorer: explorer.clone(),
            store: self.store.clone(),
            run: self.run,
            selection,
            observer: self.observer.clone(),
            is_in_turns: self.config.inference.sleep_while_training,
            since: Instant::now(),
        };
        let evaluator = self.held_out.take().map(|(problems, rows)| Evaluator {
            config: self.config.eval.clone(),
            problems,
            rows,
            explorer: explorer.clone(),
            store: self.store.clone(),
            run: self.run,
            steps: self.config.run.steps,
            observer: self.observer.clone(),
        });
        let curriculum = Curriculum {
            config: self.config,
            problems: self.problems,
            rows: self.rows,
            places: self.rows.iter().copied().zip(0..).collect(),
            explorer,
            store: self.store,
            run: self.run,
            observer: self.observer,
        };
        let rounds = Rounds {
            work: &self,
            curriculum,
            searcher,
            updater,
            publisher,
            evaluator,
            checkpoints,
            diverged_steps: diverged_in_a_row(&done),
        };
        rounds.go(&done, reached).await
    }

    fn checkpoints(&self) -> Result<Checkpoints, RunError> {
        let run = &self.config.run;
        Checkpoints::open(self.run_dir, self.run, run.checkpoint_every, run.checkpoints_kept)
    }

    /// Brings trainer and server to the weights that the store says.
    async fn restore(
        &self,
        engine: &dyn Engine,
        trainer: &Trainer,
        checkpoints: &Checkpoints,
        done: &[StepRow],
        selection: Selection,
        publisher: &mut Publisher,
    ) -> Result<(), RunError> {
        let reader = self.store.reader();
        let restorer =
            Restorer { trainer, reader, run: self.run, selection, run_dir: self.run_dir, observer: self.observer };
        let restoring = restorer.restore(checkpoints, done);
        let restored = if self.config.inference.sleep_while_training {
            in_turn(engine, trainer, restoring).await?
        } else {
            restoring.await?
        };
        let maker = done.iter().rev().find(|step| produced(step) == Some(restored.version)).map(|step| step.step_id);
        publisher.publish_again(restored.version, maker, restored.repeated).await?;
        // Only now is it certain that the run can go on under the settings it was given.
        self.store.resume_run(self.run, Some(crate::config::render(self.config)?)).await?;
        let steps_done = done.last().map_or(0, |step| number(step.step_id));
        tracing::info!(
            steps_done,
            checkpoint = restored.checkpoint.map(|step| step.0),
            repeated = restored.repeated,
            "resumed"
        );
        (self.observer)(Event::Resumed { steps_done, checkpoint: restored.checkpoint, repeated: restored.repeated });
        Ok(())
    }

    fn explorer(&self, engine: Arc<dyn Engine>) -> Explorer {
        let tokenizer = self.language.tokenizer.clone();
        Explorer {
            room: Room::new(engine.capabilities().max_sequences),
            engine,
            special: SpecialTokens { end_of_text: tokenizer.end_of_text().to_vec(), padding: None },
            judge: Judge {
                tokenizer,
                grader: Grader::new(self.config.verify_rules()),
                observer: self.observer.clone(),
            },
            search: self.config.search.clone(),
            stop: self.config.prompt.stop.clone().into(),
            seed: self.config.run.seed,
            request_timeout: Duration::from_secs(self.config.inference.request_timeout_s),
            meter: Meter::default(),
            observer: self.observer.clone(),
        }
    }

    fn check_context(&self, context_tokens: usize) -> Result<(), RunError> {
        let response_tokens = self.config.search.response_budget_tokens() as usize;
        let held_out = self.held_out.as_ref().map_or(0, |(problems, _)| problems.longest_prompt_tokens());
        let prompt_tokens = self.problems.longest_prompt_tokens().max(held_out);
        if prompt_tokens + response_tokens > context_tokens {
            return Err(RunError::Context { prompt_tokens, response_tokens, context_tokens });
        }
        Ok(())
    }
}

/// The parts at work, and where they stand.
struct Rounds<'a> {
    work: &'a Work<'a>,
    curriculum: Curriculum<'a>,
    searcher: Arc<Searcher>,
    updater: Updater,
    publisher: Publisher,
    evaluator: Option<Evaluator>,
    checkpoints: Checkpoints,
    diverged_steps: u32,
}

impl Rounds<'_> {
    async fn go(mut self, done: &[StepRow], reached: &mut Reached) -> Result<Ended, RunError> {
        let (store, run) = (self.work.store, self.work.run);
        let rounds = self.work.config.curriculum.rounds;
        self.evaluate(reached.steps_done, false).await?;
        for round in 1..=rounds {
            // A round that was begun goes on: its filter is always followed by a step.
            let is_begun = store.reader().rounds(run).await?.iter().any(|row| row.round_id.0 == i64::from(round));
            if !is_begun && self.is_spent().await? {
                return self.end_early(reached).await;
            }
            let hard = self.curriculum.open(round, self.publisher.current()).await?;
            if self.work.goal == Goal::Filter {
                return Ok(Ended::AllSteps);
            }
            if hard.problems.is_empty() {
                store.finish_round(run, hard.round).await?;
                self.evaluate(reached.steps_done, true).await?;
                return Ok(Ended::NothingHard);
            }
            self.updater.begin();
            let is_spent = self.steps(&hard, done.len(), reached).await?;
            if is_spent {
                // The round is over with what is done. Steps that were begun ahead stay for a resume with more tokens.
                store.reopen_round(run, hard.round, StepId(i64::from(reached.steps_done))).await?;
            }
            store.finish_round(run, hard.round).await?;
            if is_spent {
                return self.end_early(reached).await;
            }
        }
        Ok(Ended::AllSteps)
    }

    /// The end of a run whose tokens are spent.
    async fn end_early(&mut self, reached: &Reached) -> Result<Ended, RunError> {
        self.evaluate(reached.steps_done, true).await?;
        Ok(Ended::TokensSpent)
    }

    /// Whether `run.max_generated_tokens` are spent: what the store has of finished steps and of filters.
    async fn is_spent(&self) -> Result<bool, RunError> {
        let most = self.work.config.run.max_generated_tokens;
        if most == 0 {
            return Ok(false);
        }
        Ok(Spent::read(self.work.store.reader(), self.work.run).await?.generated_tokens >= most)
    }

    /// The steps of a round that are not done yet; true where the tokens of the run are spent before the last one.
    async fn steps(&mut self, hard: &HardSet, done: usize, reached: &mut Reached) -> Result<bool, RunError> {
        let ahead = match self.work.config.run.pipeline {
            Pipeline::Sync => 0,
            Pipeline::Overlap => self.work.config.run.max_staleness,
        };
        let begun = self.work.store.reader().unfinished_steps(self.work.run).await?;
        let mut begun: BTreeMap<u32, StepRow> = begun.into_iter().map(|row| (number(row.step_id), row)).collect();
        // Searches under way, the oldest first; and whether all trees of the newest have been begun.
        let mut searches = VecDeque::new();
        let mut all_begun = None;
        let first = hard.first_step.max(u32::try_from(done).unwrap_or(u32::MAX).saturating_add(1));
        let mut next = first;
        for step in first..=hard.last_step {
            if step > hard.first_step && self.is_spent().await? {
                return Ok(true);
            }
            let newest = step.saturating_add(ahead).min(hard.last_step);
            let found = loop {
                let Some(oldest) = searches.front_mut() else {
                    let plan = self.plan(hard, next, begun.remove(&next)).await?;
                    all_begun = Some(self.begin(plan, &mut searches));
                    next += 1;
                    continue;
                };
                // A step's last trees leave room for the first of the next one, which are begun before the update of this
                // one takes its time.
                tokio::select! {
                    biased;
                    _ = until_begun(&mut all_begun), if next <= newest => {
                        let plan = self.plan(hard, next, begun.remove(&next)).await?;
                        all_begun = Some(self.begin(plan, &mut searches));
                        next += 1;
                    }
                    Some(found) = oldest.join_next() => break found.map_err(RunError::Task)??,
                }
            };
            searches.pop_front();
            let summary = self.updater.learn(found, &mut self.publisher).await?;
            reached.steps_done = step;
            reached.weights = Some(self.publisher.version_dir(self.publisher.current()));
            if self.checkpoints.take(&self.updater.trainer, summary.step, self.publisher.current()).await? {
                let retention = Retention::of(&self.work.config.run);
                retention.enforce(self.work.store, self.work.run, &self.checkpoints).await?;
            }
            self.diverged_steps = if summary.is_diverged { self.diverged_steps + 1 } else { 0 };
            if self.diverged_steps == MOST_DIVERGED_STEPS {
                return Err(RunError::Diverged { steps: self.diverged_steps, version: self.publisher.current() });
            }
            self.evaluate(step, false).await?;
        }
        Ok(false)
    }

    /// Begins the search of a step as a task of its own; what is returned says when all of its trees are under way.
    fn begin(&self, plan: Plan, searches: &mut VecDeque<JoinSet<Result<Found, RunError>>>) -> oneshot::Receiver<()> {
        let (all_begun, receiver) = oneshot::channel();
        let searcher = self.searcher.clone();
        let mut search = JoinSet::new();
        search.spawn(async move { searcher.search(plan, all_begun).await });
        searches.push_back(search);
        receiver
    }

    /// What a step does: as it was planned when it was begun, else planned now.
    async fn plan(&self, hard: &HardSet, step: u32, begun: Option<StepRow>) -> Result<Plan, RunError> {
        let (store, run) = (self.work.store, self.work.run);
        let (mut tasks, mut reserve) = self.curriculum.plan(hard, step).await?;
        let first = tasks.len();
        let id = StepId(i64::from(step));
        let mut search_version = self.publisher.current();
        let mut recorded = Vec::new();
        if let Some(begun) = begun {
            search_version = begun.search_weight_version;
            // What a server refused it may accept now.
            store.remove_failed_trees(run, id).await?;
            tasks = self.curriculum.planned(step).await?;
            reserve.drain(..tasks.len().saturating_sub(first).min(reserve.len()));
            recorded = store.reader().recorded_trees(run, id).await?;
        } else {
            let slots = tasks.iter().map(slot).collect();
            let new = NewStep { run, step: id, round: hard.round, search_weight_version: search_version, slots };
            store.begin_step(new).await?;
        }
        Ok(Plan { round: hard.round, step: id, search_version, tasks, first, reserve, recorded })
    }

    async fn evaluate(&mut self, step: u32, is_last: bool) -> Result<(), RunError> {
        let Some(evaluator) = &self.evaluator else { return Ok(()) };
        if self.work.goal != Goal::Filter
            && evaluator.evaluate(step, self.publisher.current(), is_last).await?.is_some()
        {
            self.updater.begin();
        }
        Ok(())
    }
}

/// Waits until all trees of the newest search have been begun, or it has ended; without a search, for ever.
async fn until_begun(all_begun: &mut Option<oneshot::Receiver<()>>) {
    match all_begun {
        Some(receiver) => drop(receiver.await),
        None => std::future::pending().await,
    }
}

fn number(step: StepId) -> u32 {
    u32::try_from(step.0).unwrap_or(0)
}

/// Finished steps at the end of which every update was skipped.
fn diverged_in_a_row(done: &[StepRow]) -> u32 {
    let is_diverged = |step: &&StepRow| {
        let reason = step.end.as_ref().and_then(|end| end.update_skip_reason.as_deref());
        reason.is_some_and(|reason| reason != record::NO_SIGNAL)
    };
    record::saturate(done.iter().rev().take_while(is_diverged).count())
}
