//! Drives one tree: next, generate, verify, supply, until the search says that it is done.
//!
//! Every tree advances at its own pace; what bounds them together is the engine, which accepts so many sequences.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::SearchConfig;
use crate::data::ModelTokenizer;
use crate::inference::{Engine, EngineError};
use crate::rng::{self, Purpose};
use crate::search::{Child, Next, SpecialTokens, StopReason, Tree};
use crate::types::{Continuation, GenerateRequest, Prompt, Sampling, StepId, TokenId, Verdict};
use crate::verify::Verifier;

use super::{Event, Observer, RunError};

/// What all trees of a run share.
pub struct Explorer {
    /// Where continuations come from.
    pub engine: Arc<dyn Engine>,
    /// Tokens to text.
    pub tokenizer: Arc<ModelTokenizer>,
    /// Text to verdict.
    pub verifier: Verifier,
    /// The rules.
    pub search: SearchConfig,
    /// The model's end-of-text tokens.
    pub special: SpecialTokens,
    /// Texts that end an answer.
    pub stop: Arc<[String]>,
    /// Seed of the run.
    pub seed: u64,
    /// Time allowed for one request.
    pub request_timeout: Duration,
    /// Who watches.
    pub observer: Observer,
}

/// One problem to be searched.
#[derive(Clone, Debug)]
pub struct Task {
    /// The step it belongs to.
    pub step: StepId,
    /// Place within the step, which names the tree's random streams.
    pub slot: u32,
    /// The problem as the policy sees it.
    pub prompt: Prompt,
    /// The reference answer.
    pub answer: String,
}

/// A tree that was grown to its end, or as far as the server went along.
#[derive(Debug)]
pub struct Explored {
    /// The tree.
    pub tree: Tree,
    /// Why it ended; `Err` holds the server's refusal.
    pub end: Result<StopReason, EngineError>,
    /// From the first request to the end.
    pub elapsed: Duration,
    /// First stream number of the tree's requests.
    pub seed: u64,
}

impl Explorer {
    /// Grows the tree of one problem.
    ///
    /// # Errors
    /// A server that is gone ends the run. A server that refuses this problem ends only this tree: `Explored::end`.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the request in flight and forgets the tree.
    pub async fn explore(&self, task: Task) -> Result<Explored, RunError> {
        let affinity = self.affinity(&task);
        let explored = self.grow(task).await?;
        self.engine.release(affinity).await?;
        Ok(explored)
    }

    /// Names the tree to the engine.
    fn affinity(&self, task: &Task) -> u64 {
        rng::seed(self.seed, Purpose::Search, &[task.step.0 as u64, u64::from(task.slot)])
    }

    async fn grow(&self, task: Task) -> Result<Explored, RunError> {
        let started = Instant::now();
        let seed = rng::seed(self.seed, Purpose::Sampling, &[task.step.0 as u64, u64::from(task.slot)]);
        let mut tree = Tree::new(&self.search, self.special.clone())?;
        let mut path = Vec::new();
        loop {
            let (node, n) = match tree.next() {
                Next::Expand { node, n } => (node, n),
                Next::Done(reason) => {
                    return Ok(Explored { tree, end: Ok(reason), elapsed: started.elapsed(), seed });
                }
            };
            path.clear();
            tree.path_tokens(node, &mut path);
            let depth = tree.node(node).map_or(0, |node| node.depth());
            let mut request = self.request(&task, &path, n, tree.spent().expansions);
            // Children at the largest depth are never expanded.
            request.retain = depth + 1 < self.search.max_depth;
            let continuations = match self.engine.generate(request).await {
                Ok(continuations) => continuations,
                Err(refusal) if refusal.is_refusal() => {
                    return Ok(Explored { tree, end: Err(refusal), elapsed: started.elapsed(), seed });
                }
                Err(error) => return Err(RunError::Engine(error)),
            };
            (self.observer)(Event::Expanded { tokens: continuations.iter().map(|c| c.tokens.len()).sum() });
            let children = continuations
                .into_iter()
                .map(|continuation| {
                    let verdict =
                        tree.is_terminal(node, &continuation).then(|| self.judge(&path, &continuation, &task.answer));
                    Child { continuation, verdict }
                })
                .collect();
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
            sampling: Sampling {
                temperature: self.search.temperature,
                top_p: self.search.top_p,
                top_k: self.search.top_k,
            },
            stop: self.stop.clone(),
            // All end-of-text tokens that the model's files name; the server knows only those of its configuration.
            stop_token_ids: self.special.end_of_text.clone().into(),
            seed: rng::seed(self.seed, Purpose::Sampling, &ids),
            retain: true,
            deadline: self.request_timeout,
        }
    }

    /// The whole answer is decoded at once: a character may span two nodes.
    fn judge(&self, path: &[TokenId], continuation: &Continuation, answer: &str) -> Verdict {
        let mut tokens = path.to_vec();
        tokens.extend_from_slice(&continuation.tokens);
        match self.tokenizer.decode(&tokens) {
            Ok(text) => self.verifier.check(&text, answer).verdict,
            Err(error) => {
                (self.observer)(Event::Warning(format!("an answer could not be decoded: {error}")));
                Verdict::Error
            }
        }
    }
}
