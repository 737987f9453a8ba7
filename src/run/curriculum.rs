//! Rounds: which problems are hard for the policy as it is now, and which of them a step works on.
//!
//! A round measures the pass rate of what the round before worked on (the first: of all problems) by K direct rollouts
//! each, keeps the hard ones (paper, equations 8 and 9) and trains on them. All of it is in the store problem by problem,
//! so that a filter that was cut off goes on where it was, and a plan is a function of seed, step and store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::config::{Algorithm, Config, CurriculumConfig};
use crate::data::{ProblemOrder, shuffle};
use crate::rng::{self, Purpose};
use crate::store::{FilteredProblem, NewRound, RoundReason, RoundStatus, StepSlot, Store};
use crate::types::{ProblemId, RoundId, RunId, StepId, TreeKind, Verdict, WeightVersion};

use super::explore::{Explorer, Task};
use super::flight::in_flight;
use super::problems::Problems;
use super::rollout::{Answer, RolloutRequest};
use super::{Event, Observer, RunError, record};

/// Problems that are recorded together.
const RECORDED_TOGETHER: usize = 32;

/// Steps of round `round` of `rounds`, from 1, both included: `steps` divided as evenly as it goes.
pub fn steps_of_round(steps: u32, rounds: u32, round: u32) -> (u32, u32) {
    let until =
        |round: u32| u32::try_from(u64::from(steps) * u64::from(round) / u64::from(rounds.max(1))).unwrap_or(steps);
    (until(round.saturating_sub(1)) + 1, until(round))
}

/// Opens rounds and plans steps.
pub struct Curriculum<'a> {
    /// The whole configuration.
    pub config: &'a Config,
    /// The training problems.
    pub problems: &'a Problems,
    /// Their rows, in the same order.
    pub rows: &'a [ProblemId],
    /// Place in the file of each row.
    pub places: BTreeMap<ProblemId, usize>,
    /// Samples rollouts.
    pub explorer: Arc<Explorer>,
    /// Keeps everything.
    pub store: &'a Store,
    /// Row of the run.
    pub run: RunId,
    /// Who watches.
    pub observer: &'a Observer,
}

/// The problems that a round works on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HardSet {
    /// The round.
    pub round: RoundId,
    /// Its first step.
    pub first_step: u32,
    /// Its last step.
    pub last_step: u32,
    /// Places in the problem file.
    pub problems: Vec<usize>,
}

impl Curriculum<'_> {
    /// Begins a round, or takes it up again, and returns its hard problems. `policy` is what measures them.
    ///
    /// # Errors
    /// The engine or the store; problems that were measured are recorded.
    ///
    /// # Cancel safety
    /// As on an error.
    pub async fn open(&self, round: u32, policy: WeightVersion) -> Result<HardSet, RunError> {
        let CurriculumConfig { rounds, .. } = self.config.curriculum;
        let (first_step, last_step) = steps_of_round(self.config.run.steps, rounds, round);
        let id = RoundId(i64::from(round));
        let known = self.store.reader().rounds(self.run).await?.into_iter().find(|row| row.round_id == id);
        if known.is_some() {
            // More steps may have been asked for.
            self.store.reopen_round(self.run, id, StepId(i64::from(last_step))).await?;
        } else {
            let candidates = self.candidates(round).await?;
            let step = |number: u32| StepId(i64::from(number));
            let new = NewRound {
                run: self.run,
                round: id,
                weight_version: policy,
                first_step: step(first_step),
                last_step: step(last_step),
                candidates,
            };
            self.store.begin_round(new).await?;
        }
        let is_filtering = known.is_none_or(|row| row.status == RoundStatus::Filtering);
        let candidates = self.store.reader().round_problems(self.run, id).await?;
        for candidate in &candidates {
            self.place(candidate.problem_id)?;
        }
        if is_filtering {
            let open = candidates.iter().filter(|candidate| candidate.reason.is_none());
            let open: Vec<usize> = open.map(|candidate| self.place(candidate.problem_id)).collect::<Result<_, _>>()?;
            self.filter(id, open).await?;
            self.store.begin_training(self.run, id).await?;
        }
        let decided = self.store.reader().round_problems(self.run, id).await?;
        let hard = || decided.iter().filter(|candidate| candidate.is_hard == Some(true));
        (self.observer)(Event::RoundStarted {
            round: id,
            rounds,
            candidates: decided.len(),
            hard: hard().count(),
            cached: hard().filter(|candidate| candidate.has_solution == Some(true)).count(),
        });
        let problems = hard().map(|candidate| self.place(candidate.problem_id)).collect::<Result<_, _>>()?;
        Ok(HardSet { round: id, first_step, last_step, problems })
    }

    /// What the round before worked on; the first begins with all problems.
    async fn candidates(&self, round: u32) -> Result<Vec<ProblemId>, RunError> {
        if round == 1 {
            let mut seen = BTreeSet::new();
            // The same problem may stand twice in a file, under two names of equal content.
            return Ok(self.rows.iter().copied().filter(|row| seen.insert(*row)).collect());
        }
        let before = self.store.reader().round_problems(self.run, RoundId(i64::from(round) - 1)).await?;
        Ok(before.into_iter().filter(|candidate| candidate.is_hard == Some(true)).map(|c| c.problem_id).collect())
    }

    /// Measures the pass rate of the problems at `places` and records what is to become of each.
    async fn filter(&self, round: RoundId, places: Vec<usize>) -> Result<(), RunError> {
        if !self.config.curriculum.filter {
            let all = places.iter().map(|&place| FilteredProblem {
                problem: self.rows[place],
                samples: 0,
                correct: 0,
                errors: 0,
                generated_tokens: 0,
                reason: RoundReason::All,
                solutions: Vec::new(),
            });
            return Ok(self.store.record_filtered(self.run, round, all.collect()).await?);
        }
        (self.observer)(Event::FilterStarted { round, problems: places.len() });
        // In the order of the problems, so that the database of a reproducible engine repeats.
        let mut measured: BTreeMap<usize, FilteredProblem> = BTreeMap::new();
        let mut next = 0;
        let tasks = places.iter().copied().enumerate().map(|(order, place)| self.measure(round, order, place));
        in_flight(&self.explorer.room, tasks, async |(order, place, answers)| {
            measured.insert(order, self.decide(place, &answers)?);
            (self.observer)(Event::Filtered);
            let mut ready = Vec::new();
            while let Some(problem) = measured.remove(&(next + ready.len())) {
                ready.push(problem);
            }
            let is_last = next + ready.len() == places.len();
            if ready.len() >= RECORDED_TOGETHER || is_last {
                next += ready.len();
                self.store.record_filtered(self.run, round, ready).await?;
            } else {
                // Back, until enough of them are together.
                measured.extend((next..).zip(ready));
            }
            Ok(())
        })
        .await
    }

    /// K rollouts of one problem; none where the server refuses it.
    fn measure(
        &self,
        round: RoundId,
        order: usize,
        place: usize,
    ) -> impl Future<Output = Result<(usize, usize, Vec<Answer>), RunError>> + Send + 'static {
        let explorer = self.explorer.clone();
        let (prompt, reference) = (self.problems.prompts[place].clone(), self.problems.problems[place].answer.clone());
        let request = RolloutRequest {
            n: self.config.curriculum.filter_samples,
            sampling: explorer.sampling(),
            seed: rng::seed(self.config.run.seed, Purpose::Filter, &[round.0 as u64, place as u64]),
        };
        let observer = self.observer.clone();
        let share = explorer.room.share(request.n);
        async move {
            let _share = share;
            let answers = explorer.answers(&prompt, &reference, request).await?.unwrap_or_else(|refusal| {
                observer(Event::Warning(format!("a problem could not be measured: {refusal}")));
                Vec::new()
            });
            Ok((order, place, answers))
        }
    }

    /// Keeps the problem or not, and its rare solutions.
    fn decide(&self, place: usize, answers: &[Answer]) -> Result<FilteredProblem, RunError> {
        let count = |verdict| answers.iter().filter(|answer| answer.verdict == verdict).count();
        let correct = count(Verdict::Correct);
        let judged = answers.iter().filter(|answer| answer.verdict.is_settled()).count();
        let curriculum = &self.config.curriculum;
        let reason = pass_rate(correct, judged).map_or(RoundReason::Undecided, |rate| {
            let is_hard = if curriculum.is_inclusive {
                rate <= curriculum.max_pass_rate
            } else {
                rate < curriculum.max_pass_rate
            };
            if is_hard { RoundReason::Hard } else { RoundReason::Easy }
        });
        let tokenizer = &self.explorer.judge.tokenizer;
        let reference = &self.problems.problems[place].answer;
        Ok(FilteredProblem {
            problem: self.rows[place],
            samples: record::saturate(answers.len()),
            correct: record::saturate(correct),
            errors: record::saturate(answers.len() - judged),
            generated_tokens: answers.iter().map(|answer| answer.tokens.len() as u64).sum(),
            reason,
            solutions: record::rare_solutions(answers.iter(), self.config.replay.max_pass_rate, reference, tokenizer)?,
        })
    }

    /// The tasks of a step, and further problems it may draw.
    ///
    /// # Errors
    /// The store.
    pub async fn plan(&self, hard: &HardSet, step: u32) -> Result<(Vec<Task>, Vec<Task>), RunError> {
        let known = if self.config.replay.enabled {
            self.store.reader().solution_counts(self.run).await?
        } else {
            BTreeMap::new()
        };
        let run = &self.config.run;
        let order_seed = match hard.round {
            RoundId(1) => run.seed,
            RoundId(round) => rng::seed(run.seed, Purpose::DataOrder, &[u64::MAX, round as u64]),
        };
        let per_step = run.problems_per_step as usize;
        let order = ProblemOrder::new(order_seed, hard.problems.len(), per_step, self.config.data.shuffle);
        let chosen = order.step(u64::from(step - hard.first_step));
        let mut reserve: Vec<usize> = Vec::new();
        if self.config.curriculum.dynamic_sampling > 0 {
            let taken: BTreeSet<usize> = chosen.iter().copied().collect();
            reserve = (0..hard.problems.len()).filter(|index| !taken.contains(index)).collect();
            shuffle(&mut rng::stream(run.seed, Purpose::DynamicSampling, &[u64::from(step)]), &mut reserve);
            reserve.truncate(per_step.saturating_mul(self.config.curriculum.dynamic_sampling as usize));
        }
        let first = chosen.len();
        let mut tasks = Vec::with_capacity(first + reserve.len());
        for (slot, index) in (0..).zip(chosen.into_iter().chain(reserve)) {
            let place = hard.problems[index];
            let known_solutions = known.get(&self.rows[place]).copied().unwrap_or(0);
            let kind = match (known_solutions > 0, run.algorithm) {
                (true, _) => TreeKind::Replay,
                (false, Algorithm::Deepsearch) => TreeKind::Search,
                (false, Algorithm::Grpo | Algorithm::Dapo) => TreeKind::Rollout,
            };
            tasks.push(self.task(step, slot, place, kind, known_solutions));
        }
        let reserve = tasks.split_off(first);
        Ok((tasks, reserve))
    }

    /// The tasks of a step that was begun before, as they were planned then.
    ///
    /// # Errors
    /// The store; a problem that is no longer in the file.
    pub async fn planned(&self, step: u32) -> Result<Vec<Task>, RunError> {
        let slots = self.store.reader().step_slots(self.run, StepId(i64::from(step))).await?;
        let task = |row: StepSlot| {
            let place = self.place(row.problem_id)?;
            Ok(self.task(step, row.slot, place, row.kind, row.known_solutions))
        };
        slots.into_iter().map(task).collect()
    }

    fn place(&self, problem: ProblemId) -> Result<usize, RunError> {
        let place = self.places.get(&problem).copied();
        place.ok_or_else(|| RunError::ProblemsChanged { path: self.config.data.problems.clone() })
    }

    /// The task of one slot.
    fn task(&self, step: u32, slot: u32, place: usize, kind: TreeKind, known_solutions: u32) -> Task {
        Task {
            step: StepId(i64::from(step)),
            slot,
            problem: self.rows[place],
            kind,
            known_solutions,
            prompt: self.problems.prompts[place].clone(),
            answer: self.problems.problems[place].answer.clone(),
        }
    }
}

/// Share of correct answers; `None` without any.
fn pass_rate(correct: usize, judged: usize) -> Option<f64> {
    (judged > 0).then(|| correct as f64 / judged as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_share_the_steps_without_gap_or_overlap() {
        for (steps, rounds) in [(1, 1), (12, 1), (12, 3), (10, 4), (5, 5), (100, 7), (u32::MAX, 3)] {
            let mut next = 1;
            for round in 1..=rounds {
                let (first, last) = steps_of_round(steps, rounds, round);
                assert_eq!(first, next, "{steps} {rounds} {round}");
                assert!(last >= first);
                next = last.wrapping_add(1);
            }
            assert_eq!(next, steps.wrapping_add(1));
        }
    }

    #[test]
    fn without_a_verdict_there_is_no_pass_rate() {
        assert_eq!(pass_rate(0, 0), None);
        assert_eq!(pass_rate(1, 4), Some(0.25));
    }
}
