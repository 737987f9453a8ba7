//! Accuracy on held-out problems. The random streams are named by the problem's place in its file alone, so that two versions of the policy, or
//! two algorithms, are measured with the same draws.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::config::EvalConfig;
use crate::rng::{self, Purpose};
use crate::store::{EvaluatedProblem, NewEvaluation, Store};
use crate::types::{ProblemId, RunId, Sampling, StepId, Verdict, WeightVersion};

use super::event::Evaluation;
use super::explore::Explorer;
use super::flight::in_flight;
use super::problems::Problems;
use super::rollout::RolloutRequest;
use super::{Event, Observer, RunError, record};

/// Measures the policy.
pub struct Evaluator {
    /// `[eval]`.
    pub config: EvalConfig,
    /// The held-out problems.
    pub problems: Problems,
    /// Their rows, in the same order.
    pub rows: Vec<ProblemId>,
    /// Samples rollouts.
    pub explorer: Arc<Explorer>,
    /// Keeps everything.
    pub store: Store,
    /// Row of the run.
    pub run: RunId,
    /// Steps of the whole run.
    pub steps: u32,
    /// Who watches.
    pub observer: Observer,
}

impl Evaluator {
    /// Whether the policy is measured after this step; 0 is before the first.
    pub fn is_due(&self, step: u32) -> bool {
        step == 0 || step == self.steps || (self.config.every > 0 && step.is_multiple_of(self.config.every))
    }

    /// Measures the policy after `step`, once, if that is due or the run ends there.
    ///
    /// # Errors
    /// The engine or the store.
    ///
    /// # Cancel safety
    /// Nothing is recorded.
    pub async fn evaluate(
        &self,
        step: u32,
        version: WeightVersion,
        is_last: bool,
    ) -> Result<Option<Evaluation>, RunError> {
        let id = StepId(i64::from(step));
        let earlier = self.store.reader().evaluations(self.run).await?;
        let is_known = earlier.iter().any(|row| row.step_id == id);
        if is_known || !(is_last || self.is_due(step)) {
            return Ok(None);
        }
        if earlier.last().is_some_and(|row| row.problem_count as usize != self.rows.len()) {
            (self.observer)(Event::Warning(
                "the held-out problems are others than before: this measurement cannot be compared with the earlier ones"
                    .into(),
            ));
        }
        (self.observer)(Event::EvaluationStarted { step: id, problems: self.rows.len() });
        let started = Instant::now();
        let sampling = Sampling { temperature: self.config.temperature, top_p: self.config.top_p, top_k: 0 };
        // Greedy answers are all the same.
        let samples = if sampling.temperature == 0.0 { 1 } else { self.config.samples };
        let mut problems: BTreeMap<usize, EvaluatedProblem> = BTreeMap::new();
        let mut generated_tokens = 0;
        let mut refused = 0;
        let tasks = (0..self.rows.len()).map(|place| {
            let explorer = self.explorer.clone();
            let prompt = self.problems.prompts[place].clone();
            let reference = self.problems.problems[place].answer.clone();
            let seed = rng::seed(explorer.seed, Purpose::Eval, &[place as u64]);
            let request = RolloutRequest { n: samples, sampling, seed };
            let share = explorer.room.share(samples);
            async move {
                let answers = explorer.answers(&prompt, &reference, request).await?;
                drop(share);
                Ok((place, answers))
            }
        });
        // Before the trees of later steps that are under way: the run waits for it.
        let room = self.explorer.room.ranked(step);
        in_flight(&room, tasks, async |(place, answers)| {
            // A problem that the server refuses is one that the policy does not solve, and is told of.
            let answers = answers.unwrap_or_else(|refusal| {
                refused += 1;
                (self.observer)(Event::Warning(format!("a held-out problem was refused: {refusal}")));
                Vec::new()
            });
            let count = |verdict| record::saturate(answers.iter().filter(|a| a.verdict == verdict).count());
            generated_tokens += answers.iter().map(|answer| answer.tokens.len() as u64).sum::<u64>();
            let problem = self.rows[place];
            let evaluated = EvaluatedProblem {
                problem,
                correct: count(Verdict::Correct),
                no_answer: count(Verdict::NoAnswer),
                undecided: record::saturate(answers.iter().filter(|answer| !answer.verdict.is_settled()).count()),
            };
            problems.insert(place, evaluated);
            Ok(())
        })
        .await?;
        let problems: Vec<EvaluatedProblem> = problems.into_values().collect();
        let elapsed = started.elapsed();
        let row = NewEvaluation {
            run: self.run,
            step: id,
            weight_version: version,
            samples,
            generated_tokens,
            refused,
            wall_ms: record::millis(elapsed),
            problems,
        };
        let evaluation = Evaluation {
            step: id,
            weight_version: version,
            problems: row.problems.len(),
            samples,
            pass_at_1: row.pass_at_1(),
            pass_at_k: row.pass_at_k(),
            elapsed,
        };
        self.store.record_evaluation(row).await?;
        // What was measured is no part of a step's time.
        self.explorer.meter.take();
        (self.observer)(Event::Evaluated(evaluation));
        Ok(Some(evaluation))
    }
}
