//! Drives one tree: next, generate, verify, supply, until the search says that it is done.
//!
//! Every tree advances at its own pace; what bounds them together is the engine, which accepts so many sequences, and the
//! room that so many give (`flight.rs`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::config::SearchConfig;
use crate::inference::{Engine, EngineError};
use crate::rng::{self, Purpose};
use crate::search::{Child, Next, SpecialTokens, StopReason, Tree, harvest};
use crate::types::{
    Continuation, FinishReason, GenerateRequest, ProblemId, Prompt, Sampling, StepId, TokenId, TrajectoryGroup,
    TreeKind, Verdict,
};

use super::flight::{Room, Share};
use super::judge::Judge;
use super::meter::Meter;
use super::rollout::Answers;
use super::{Event, Observer, RunError};

/// What all trees of a run share.
pub struct Explorer {
    /// Where continuations come from.
    pub engine: Arc<dyn Engine>,
    /// How much may be under way with it.
    pub room: Room,
    /// Answers to verdicts.
    pub judge: Judge,
    /// The rules.
    pub search: SearchConfig,
    /// The model's end-of-text tokens.
    pub special: SpecialTokens,
    /// Texts that end an answer.
    pub stop: Arc<[String]>,
    /// Seed of the run.
    pub seed: u64,
    /// Time allowed for one request of a search.
    pub request_timeout: Duration,
    /// When generation was running.
    pub meter: Meter,
    /// Who watches.
    pub observer: Observer,
}

/// One problem of a step.
#[derive(Clone, Debug)]
pub struct Task {
    /// The step it belongs to.
    pub step: StepId,
    /// Place within the step, which names the random streams.
    pub slot: u32,
    /// Row of the problem.
    pub problem: ProblemId,
    /// How its trajectories come about.
    pub kind: TreeKind,
    /// Cached solutions of the problem when the step was planned.
    pub known_solutions: u32,
    /// The problem as the policy sees it.
    pub prompt: Prompt,
    /// The reference answer.
    pub answer: String,
}

/// What was grown for one problem, to its end or as far as the server went along.
#[derive(Debug)]
pub struct Explored {
    /// A tree, or whole answers.
    pub grown: Grown,
    /// Why it ended; `Err` holds the server's refusal.
    pub end: Result<StopReason, EngineError>,
    /// From the first request to the end.
    pub elapsed: Duration,
    /// First stream number of the requests.
    pub seed: u64,
}

/// Where trajectories come from.
#[derive(Debug)]
pub enum Grown {
    /// A search tree.
    Tree(Box<Tree>),
    /// Whole answers, each a child of the prompt.
    Answers(Answers),
}

impl Explored {
    /// Tokens sampled.
    pub fn generated_tokens(&self) -> u64 {
        match &self.grown {
            Grown::Tree(tree) => tree.spent().generated_tokens,
            Grown::Answers(answers) => answers.generated_tokens(),
        }
    }

    /// Expansions asked of the engine.
    pub fn expansions(&self) -> u64 {
        match &self.grown {
            Grown::Tree(tree) => tree.spent().expansions,
            Grown::Answers(_) => u64::from(self.end.is_ok()),
        }
    }

    /// Verdicts of all answers that were sampled, whether they are trained on or not.
    pub fn verdicts(&self) -> Vec<Verdict> {
        match &self.grown {
            Grown::Tree(tree) => tree.nodes().filter_map(|node| node.verdict()).collect(),
            Grown::Answers(answers) => answers.sampled().map(|answer| answer.verdict).collect(),
        }
    }

    /// What is trained on.
    pub fn group(&self, task: &Task, judge: &Judge) -> TrajectoryGroup {
        match &self.grown {
            Grown::Tree(tree) => {
                let mut group = harvest(tree, task.problem, None, task.prompt.clone());
                for trajectory in &mut group.trajectories {
                    let nodes = trajectory.path.iter().map(|&index| &group.nodes[index]);
                    let tokens: Vec<TokenId> = nodes.flat_map(|node| node.tokens.iter().copied()).collect();
                    let leaf = trajectory.path.last().and_then(|&index| tree.node(group.nodes[index].node));
                    let is_cut = leaf.is_some_and(|leaf| leaf.finish() == Some(FinishReason::Length));
                    trajectory.defect = judge.defect(&tokens, is_cut, trajectory.verdict);
                }
                group
            }
            Grown::Answers(answers) => answers.group(task),
        }
    }
}

impl Explorer {
    /// Room for one problem of a step: what its first request asks for.
    pub fn share(&self, task: &Task) -> Share {
        self.room.share(match task.kind {
            TreeKind::Search => self.search.width_at(0),
            TreeKind::Rollout | TreeKind::Replay => self.search.trajectories,
        })
    }

    /// Grows the tree of one problem, which takes the room of `share`.
    ///
    /// # Errors
    /// A server that is gone ends the run. A server that refuses this problem ends only this tree: `Explored::end`.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the request in flight and forgets the tree.
    pub async fn explore(&self, task: &Task, mut share: Share) -> Result<Explored, RunError> {
        let explored = self.grow(task, &mut share).await?;
        self.engine.release(self.affinity(task)).await?;
        Ok(explored)
    }

    /// Samples, and notes that something is in flight.
    pub async fn generate(&self, request: GenerateRequest) -> Result<Vec<Continuation>, EngineError> {
        let _in_flight = self.meter.enter();
        let continuations = self.engine.generate(request).await?;
        (self.observer)(Event::Expanded { tokens: continuations.iter().map(|c| c.tokens.len()).sum() });
        Ok(continuations)
    }

    /// How the policy is sampled in training.
    pub fn sampling(&self) -> Sampling {
        let search = &self.search;
        Sampling { temperature: search.temperature, top_p: search.top_p, top_k: search.top_k }
    }

    /// Names the tree to the engine, and its random choices.
    fn affinity(&self, task: &Task) -> u64 {
        rng::seed(self.seed, Purpose::Search, &[task.step.0 as u64, u64::from(task.slot)])
    }

    async fn grow(&self, task: &Task, share: &mut Share) -> Result<Explored, RunError> {
        let started = Instant::now();
        let seed = rng::seed(self.seed, Purpose::Sampling, &[task.step.0 as u64, u64::from(task.slot)]);
        let explored =
            |tree, end| Explored { grown: Grown::Tree(Box::new(tree)), end, elapsed: started.elapsed(), seed };
        let mut tree = Tree::new(&self.search, self.special.clone(), self.affinity(task))?;
        let mut path = Vec::new();
        loop {
            let (node, n) = match tree.next() {
                Next::Expand { node, n } => (node, n),
                Next::Done(reason) => return Ok(explored(tree, Ok(reason))),
            };
            share.resize(n);
            path.clear();
            tree.path_tokens(node, &mut path);
            let depth = tree.node(node).map_or(0, |node| node.depth());
            let mut request = self.request(task, &path, n, tree.spent().expansions);
            // Children at the largest depth are never expanded.
            request.retain = depth + 1 < self.search.max_depth;
            let continuations = match self.generate(request).await {
                Ok(continuations) => continuations,
                Err(refusal) if refusal.is_refusal() => return Ok(explored(tree, Err(refusal))),
                Err(error) => return Err(RunError::Engine(error)),
            };
            let children = continuations.into_iter().map(|continuation| {
                let is_terminal = tree.is_terminal(node, &continuation);
                let answer = (is_terminal || self.search.stop_garbled).then(|| {
                    let mut tokens = path.clone();
                    tokens.extend_from_slice(&continuation.tokens);
                    tokens
                });
                async move {
                    match answer {
                        Some(tokens) if is_terminal => {
                            let verdict = self.judge.verdict(&tokens, &task.answer).await;
                            Child::new(continuation, Some(verdict))
                        }
                        Some(tokens) => {
                            let is_lost = self.judge.is_lost(&tokens, &task.answer).await;
                            Child { is_lost, ..Child::new(continuation, None) }
                        }
                        None => Child::new(continuation, None),
                    }
                }
            });
            let children = join_all(children).await;
            tree.supply(node, children, started.elapsed())?;
        }
    }

    fn request(&self, task: &Task, path: &[TokenId], n: u32, expansion: u64) -> GenerateRequest {
        let mut tokens = Vec::with_capacity(task.prompt.tokens.len() + path.len());
        tokens.extend_from_slice(&task.prompt.tokens);
        tokens.extend_from_slice(path);
        let ids = [task.step.0 as u64, u64::from(task.slot), expansion];
        GenerateRequest {
            affinity: self.affinity(task),
            tokens,
            n,
            max_tokens: self.search.step_tokens,
            sampling: self.sampling(),
            stop: self.stop.clone(),
            // All end-of-text tokens that the model's files name; the server knows only those of its configuration.
            stop_token_ids: self.special.end_of_text.clone().into(),
            seed: rng::seed(self.seed, Purpose::Sampling, &ids),
            retain: true,
            deadline: self.request_timeout,
        }
    }
}
