//! Direct rollouts of one problem: whole answers instead of a tree, with solutions from the cache among them where
//! there are any.
//!
//! The baselines train on rollouts; the filter and the evaluation count them; and a problem whose solution is cached is
//! spared its search by them (paper, equations 11 and 12): the group keeps its size, cached solutions take the place of
//! incorrect rollouts, the least useful first, and never of all of them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::inference::EngineError;
use crate::rng::{self, Purpose};
use crate::search::{CORRECT_REWARD, Ending, StopReason, mean_entropy_nats, reward};
use crate::types::{
    Defect, FinishReason, GenerateRequest, GroupNode, NodeId, Prompt, Provenance, Sampling, SolutionId, TokenId,
    Trajectory, TrajectoryGroup, Verdict, WeightVersion,
};

use super::RunError;
use super::explore::{Explored, Explorer, Grown, Task};

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Sampled token ids, `[T]`.
    pub tokens: Vec<TokenId>,
    /// Their logprobs under the policy that sampled them, `[T]`.
    pub logprobs: Vec<f32>,
    /// Why it ended.
    pub finish: FinishReason,
    /// The weights that sampled it.
    pub weight_version: WeightVersion,
    /// Whether it is right.
    pub verdict: Verdict,
    /// What it is worth, as the leaf of a search would be; without meaning where the verdict is not settled.
    pub reward: f64,
    /// What makes it unfit for training.
    pub defect: Option<Defect>,
    /// The cached solution that it is; `None` for a rollout.
    pub solution: Option<SolutionId>,
}

/// A verified solution as the cache has it.
#[derive(Clone, Debug)]
pub struct CachedSolution {
    /// Its row.
    pub id: SolutionId,
    /// Token ids, `[T]`.
    pub tokens: Vec<TokenId>,
    /// Behaviour logprobs, `[T]`; NaN where unknown.
    pub logprobs: Vec<f32>,
    /// The weights that sampled it.
    pub weight_version: WeightVersion,
}

/// The answers to one problem.
#[derive(Debug)]
pub struct Answers {
    /// Rollouts in the order of their sampling, then the cached solutions in use.
    pub answers: Vec<Answer>,
    /// Which of them are trained on.
    pub trained: Vec<usize>,
}

/// How whole answers are sampled.
#[derive(Clone, Copy, Debug)]
pub struct RolloutRequest {
    /// Number of answers.
    pub n: u32,
    /// The distribution.
    pub sampling: Sampling,
    /// Names the random stream and, to the engine, the prompt.
    pub seed: u64,
}

impl Answer {
    /// Mean -logprob of its tokens, in nats; NaN where no logprob is known.
    pub fn entropy_nats(&self) -> f64 {
        mean_entropy_nats(&self.logprobs)
    }

    fn provenance(&self) -> Provenance {
        if self.solution.is_some() { Provenance::Cached } else { Provenance::Rollout }
    }
}

impl Answers {
    /// What was sampled: all but the cached solutions.
    pub fn sampled(&self) -> impl Iterator<Item = &Answer> {
        self.answers.iter().filter(|answer| answer.solution.is_none())
    }

    /// Tokens sampled.
    pub fn generated_tokens(&self) -> u64 {
        self.sampled().map(|answer| answer.tokens.len() as u64).sum()
    }

    /// Node of the answer at `index`, in the numbering of a tree whose root is the prompt.
    pub fn node_id(index: usize) -> NodeId {
        NodeId(u32::try_from(index + 1).unwrap_or(u32::MAX))
    }

    /// The answers that are trained on, each a path of one node.
    pub fn group(&self, task: &Task) -> TrajectoryGroup {
        let chosen = || self.trained.iter().map(|&index| (index, &self.answers[index]));
        let nodes = chosen()
            .map(|(index, answer)| GroupNode {
                node: Answers::node_id(index),
                parent: None,
                depth: 1,
                tokens: answer.tokens.clone(),
                logprobs: answer.logprobs.clone(),
                weight_version: answer.weight_version,
                q_total: answer.reward,
            })
            .collect();
        let trajectories = chosen()
            .enumerate()
            .map(|(place, (_, answer))| Trajectory {
                path: vec![place],
                verdict: answer.verdict,
                reward: answer.reward,
                entropy_nats: answer.entropy_nats(),
                response_tokens: answer.tokens.len(),
                provenance: answer.provenance(),
                defect: answer.defect,
            })
            .collect();
        TrajectoryGroup { problem: task.problem, tree: None, prompt: task.prompt.clone(), nodes, trajectories }
    }
}

impl Explorer {
    /// Direct rollouts of a step's problem, joined by `cached` solutions, at most `most_cached` of them.
    ///
    /// # Errors
    /// A server that is gone. One that refuses this problem: `Explored::end`.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the request.
    pub async fn roll_out(
        &self,
        task: &Task,
        cached: Vec<CachedSolution>,
        most_cached: usize,
    ) -> Result<Explored, RunError> {
        let started = Instant::now();
        let ids = [task.step.0 as u64, u64::from(task.slot)];
        let seed = rng::seed(self.seed, Purpose::Sampling, &ids);
        let request = RolloutRequest { n: self.search.trajectories, sampling: self.sampling(), seed };
        let (mut answers, end) = match self.answers(&task.prompt, &task.answer, request).await? {
            Ok(answers) => (answers, Ok(StopReason::Complete)),
            Err(refusal) => (Vec::new(), Err(refusal)),
        };
        let trained = if end.is_ok() {
            let cached = choose(cached, &answers, most_cached, rng::seed(self.seed, Purpose::Replay, &ids));
            replace(&mut answers, cached, self.search.response_budget_tokens() as usize)
        } else {
            Vec::new()
        };
        let answers = Answers { answers, trained };
        Ok(Explored { grown: Grown::Answers(answers), end, elapsed: started.elapsed(), seed })
    }

    /// Whole answers to one prompt, judged. The inner error is the server's refusal of this prompt.
    ///
    /// # Errors
    /// A server that is gone.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the request.
    pub async fn answers(
        &self,
        prompt: &Prompt,
        reference: &str,
        request: RolloutRequest,
    ) -> Result<Result<Vec<Answer>, EngineError>, RunError> {
        let generate = GenerateRequest {
            affinity: request.seed,
            tokens: prompt.tokens.to_vec(),
            n: request.n,
            max_tokens: self.search.response_budget_tokens(),
            sampling: request.sampling,
            stop: self.stop.clone(),
            stop_token_ids: self.special.end_of_text.clone().into(),
            seed: request.seed,
            retain: false,
            deadline: self.answer_timeout(),
        };
        let continuations = match self.generate(generate).await {
            Ok(continuations) => continuations,
            Err(refusal) if refusal.is_refusal() => return Ok(Err(refusal)),
            Err(error) => return Err(RunError::Engine(error)),
        };
        self.engine.release(request.seed).await?;
        let judged = continuations.into_iter().map(|continuation| async move {
            let verdict = self.judge.verdict(&continuation.tokens, reference).await;
            let is_cut = continuation.finish == FinishReason::Length;
            let ending = if is_cut { Ending::DepthLimit } else { Ending::EndOfText };
            Answer {
                verdict,
                reward: reward(&self.search, ending, verdict),
                defect: self.judge.defect(&continuation.tokens, is_cut, verdict),
                tokens: continuation.tokens,
                logprobs: continuation.logprobs,
                finish: continuation.finish,
                weight_version: continuation.weight_version,
                solution: None,
            }
        });
        Ok(Ok(join_all(judged).await))
    }

    /// A whole answer takes as long as all the steps of a path.
    fn answer_timeout(&self) -> Duration {
        self.request_timeout.saturating_mul(self.search.max_depth)
    }
}

/// Which cached solutions join: at most `most`, drawn by `seed`, none that was sampled again just now.
fn choose(cached: Vec<CachedSolution>, sampled: &[Answer], most: usize, seed: u64) -> Vec<CachedSolution> {
    let known: BTreeSet<&[TokenId]> = sampled.iter().map(|answer| answer.tokens.as_slice()).collect();
    let mut fresh: Vec<CachedSolution> =
        cached.into_iter().filter(|solution| !known.contains(solution.tokens.as_slice())).collect();
    let mut draw = rng::sequence(seed, 0);
    crate::data::shuffle(&mut draw, &mut fresh);
    fresh.truncate(most);
    fresh
}

/// Puts cached solutions, which took at most `budget` tokens, in the place of incorrect rollouts and says what is trained on. The rollouts that teach least go
/// first: unfit ones, then those without an answer, then those the policy was least sure of. Correct ones stay, and so
/// does one rollout at least: a group of cached solutions alone has nothing to be compared with.
fn replace(answers: &mut Vec<Answer>, cached: Vec<CachedSolution>, budget: usize) -> Vec<usize> {
    let mut usable: Vec<usize> = (0..answers.len()).filter(|&index| answers[index].verdict.is_settled()).collect();
    let mut replaceable: Vec<usize> =
        usable.iter().copied().filter(|&index| answers[index].verdict != Verdict::Correct).collect();
    replaceable.sort_by(|&a, &b| {
        let (x, y) = (&answers[a], &answers[b]);
        let rank = |answer: &Answer| (answer.defect.is_none(), answer.verdict != Verdict::NoAnswer);
        // The highest entropy goes first, an unknown one before all others.
        let entropy = |answer: &Answer| Some(answer.entropy_nats()).filter(|e| !e.is_nan()).unwrap_or(f64::INFINITY);
        rank(x).cmp(&rank(y)).then(entropy(y).total_cmp(&entropy(x))).then(a.cmp(&b))
    });
    let count = cached.len().min(replaceable.len()).min(usable.len().saturating_sub(1));
    let gone: BTreeSet<usize> = replaceable[..count].iter().copied().collect();
    usable.retain(|index| !gone.contains(index));
    for solution in cached.into_iter().take(count) {
        usable.push(answers.len());
        answers.push(Answer {
            finish: if solution.tokens.len() < budget { FinishReason::Stop } else { FinishReason::Length },
            tokens: solution.tokens,
            logprobs: solution.logprobs,
            weight_version: solution.weight_version,
            verdict: Verdict::Correct,
            reward: CORRECT_REWARD,
            defect: None,
            solution: Some(solution.id),
        });
    }
    usable
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollout(token: TokenId, verdict: Verdict, logprob: f32) -> Answer {
        Answer {
            tokens: vec![token],
            logprobs: vec![logprob],
            finish: FinishReason::Stop,
            weight_version: WeightVersion(3),
            verdict,
            reward: 0.0,
            defect: None,
            solution: None,
        }
    }

    fn solution(id: i64, token: TokenId) -> CachedSolution {
        CachedSolution {
            id: SolutionId(id),
            tokens: vec![token],
            logprobs: vec![-0.5],
            weight_version: WeightVersion(1),
        }
    }

    fn tokens(answers: &[Answer], trained: &[usize]) -> Vec<TokenId> {
        trained.iter().map(|&index| answers[index].tokens[0]).collect()
    }

    #[test]
    fn the_least_useful_incorrect_rollouts_are_replaced_first_and_correct_ones_never() {
        let mut answers = vec![
            rollout(1, Verdict::Correct, -0.1),
            rollout(2, Verdict::Incorrect, -0.1),
            rollout(3, Verdict::Incorrect, -3.0),
            rollout(4, Verdict::NoAnswer, -0.1),
            Answer { defect: Some(Defect::Repetition), ..rollout(5, Verdict::Incorrect, -0.01) },
        ];
        for (cached, expected) in [
            (vec![], vec![1, 2, 3, 4, 5]),
            (vec![solution(1, 9)], vec![1, 2, 3, 4, 9]),
            (vec![solution(1, 9), solution(2, 8)], vec![1, 2, 3, 9, 8]),
            (vec![solution(1, 9), solution(2, 8), solution(3, 7)], vec![1, 2, 9, 8, 7]),
            ((1..9).map(|id| solution(id, 10 + id as u32)).collect(), vec![1, 11, 12, 13, 14]),
        ] {
            let mut answers = answers.clone();
            let trained = replace(&mut answers, cached, 9);
            assert_eq!(tokens(&answers, &trained), expected);
        }
        answers.retain(|answer| answer.verdict == Verdict::Correct);
        assert_eq!(replace(&mut answers, vec![solution(1, 9)], 9), [0], "all correct: nothing to replace");
    }

    #[test]
    fn one_rollout_stays_and_what_is_not_settled_is_not_trained_on() {
        let mut answers = vec![rollout(1, Verdict::Incorrect, -1.0), rollout(2, Verdict::Incorrect, -0.5)];
        let trained = replace(&mut answers, vec![solution(1, 9), solution(2, 8)], 9);
        assert_eq!(tokens(&answers, &trained), [2, 9], "the more confident mistake stays");
        for verdict in [Verdict::Error, Verdict::Undecided] {
            let mut answers = vec![rollout(1, verdict, -1.0), rollout(2, Verdict::Incorrect, -0.5)];
            let trained = replace(&mut answers, vec![solution(1, 9)], 9);
            assert_eq!(tokens(&answers, &trained), [2]);
        }
    }

    #[test]
    fn a_solution_that_was_sampled_again_does_not_join_and_the_draw_repeats() {
        let sampled = [rollout(7, Verdict::Correct, -0.1)];
        assert!(choose(vec![solution(1, 7)], &sampled, 4, 1).is_empty());
        let pool = || (1..20).map(|id| solution(id, 100 + id as u32)).collect::<Vec<_>>();
        let ids = |seed| choose(pool(), &sampled, 3, seed).iter().map(|s| s.id.0).collect::<Vec<_>>();
        assert_eq!((ids(5).len(), ids(5)), (3, ids(5)));
        assert_ne!(ids(5), ids(6));
    }
}
