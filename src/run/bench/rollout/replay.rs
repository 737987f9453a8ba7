//! The requests of a search again, without search: what an engine gives a plain load generator.
//!
//! The same requests with the same lengths, as many sequences at once at most, nothing judged, nothing recorded. Once with
//! the requests of a tree one after the other, as many trees at once as the search had: what is under way at any time is
//! the same. And once with all requests independent: what the engine gives where nothing ever waits for an answer.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::recorder::Occupancy;
use crate::inference::vllm::PlainServer;
use crate::inference::{Engine, EngineError};
use crate::run::RunError;
use crate::run::bench::BenchError;
use crate::trainer::Trainer;
use crate::types::GenerateRequest;

/// What is asked, without anything in between.
#[derive(Clone)]
pub enum Target {
    /// Servers, by clients of their own, in turn.
    Servers(Arc<[PlainServer]>),
    /// The embedded engine's own thread.
    Trainer(Arc<Trainer>),
    /// The engine without a model.
    MadeUp(Arc<dyn Engine>),
}

/// A request, ready to go.
enum Ready {
    Body(PlainServer, Vec<u8>),
    Request(GenerateRequest),
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Replayed {
    /// Tokens sampled.
    pub generated_tokens: u64,
    /// Requests answered.
    pub request_count: u64,
    /// Sequences asked for, mean over time.
    pub mean_sequences: f64,
}

/// Requests that wait for each other, and whose they are.
struct Chain {
    affinity: u64,
    requests: Vec<(u32, Ready)>,
}

/// Requests, put in order and made ready before the clock starts.
pub struct Replay {
    target: Target,
    chains: VecDeque<Chain>,
    at_once: usize,
    seats: usize,
}

struct Shared {
    target: Target,
    chains: Mutex<VecDeque<Chain>>,
    seats: Semaphore,
    most: u32,
    occupancy: Mutex<Occupancy>,
}

impl Replay {
    /// `requests` in the order of their sending, at most `max_sequences` at once. With `trees_at_once` those of a tree one
    /// after the other; without, all independent.
    ///
    /// # Errors
    /// A request that cannot be written as JSON.
    pub fn new(
        target: Target,
        requests: &[GenerateRequest],
        max_sequences: usize,
        trees_at_once: Option<usize>,
    ) -> Result<Replay, BenchError> {
        let mut chains: VecDeque<Chain> = VecDeque::new();
        let mut places: BTreeMap<u64, usize> = BTreeMap::new();
        for request in requests {
            let place = match trees_at_once {
                Some(_) => *places.entry(request.affinity).or_insert(chains.len()),
                None => chains.len(),
            };
            if place == chains.len() {
                chains.push_back(Chain { affinity: request.affinity, requests: Vec::new() });
            }
            let ready = match &target {
                Target::Servers(servers) if !servers.is_empty() => {
                    let server = servers[place % servers.len()].clone();
                    let body = server.body(request).map_err(RunError::Engine)?;
                    Ready::Body(server, body)
                }
                _ => Ready::Request(request.clone()),
            };
            chains[place].requests.push((request.n, ready));
        }
        // Independent requests wait for nothing but seats; twice as many stand ready as can have one.
        let at_once = trees_at_once.unwrap_or_else(|| max_sequences.saturating_mul(2)).clamp(1, chains.len().max(1));
        Ok(Replay { target, chains, at_once, seats: max_sequences.clamp(1, Semaphore::MAX_PERMITS) })
    }

    /// Sends all of it.
    ///
    /// # Errors
    /// The first request that fails.
    ///
    /// # Cancel safety
    /// Dropping the future calls off what is in flight.
    pub async fn run(self) -> Result<Replayed, BenchError> {
        let shared = Arc::new(Shared {
            target: self.target,
            chains: Mutex::new(self.chains),
            seats: Semaphore::new(self.seats),
            most: u32::try_from(self.seats).unwrap_or(u32::MAX),
            occupancy: Mutex::default(),
        });
        let mut workers = JoinSet::new();
        for _ in 0..self.at_once {
            let shared = shared.clone();
            workers.spawn(async move { shared.work().await });
        }
        let (mut generated_tokens, mut request_count) = (0, 0);
        while let Some(done) = workers.join_next().await {
            let (tokens, requests) = done.map_err(RunError::Task)?.map_err(RunError::Engine)?;
            generated_tokens += tokens;
            request_count += requests;
        }
        let mean_sequences = shared.occupancy.lock().unwrap_or_else(PoisonError::into_inner).mean();
        Ok(Replayed { generated_tokens, request_count, mean_sequences })
    }
}

impl Shared {
    async fn work(&self) -> Result<(u64, u64), EngineError> {
        let (mut tokens, mut requests) = (0, 0);
        loop {
            let chain = self.chains.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(chain) = chain else { return Ok((tokens, requests)) };
            for (n, ready) in chain.requests {
                self.count(|occupancy| occupancy.enter(n));
                tokens += self.send(n, ready).await?;
                self.count(|occupancy| occupancy.leave(n));
                requests += 1;
            }
            if let Target::Trainer(trainer) = &self.target {
                trainer.release(chain.affinity).await.map_err(crate::run::engine::failed)?;
            }
        }
    }

    async fn send(&self, n: u32, ready: Ready) -> Result<u64, EngineError> {
        let sampled = match (&self.target, ready) {
            (Target::Servers(_), Ready::Body(server, body)) => {
                // As many at once as the engine is sent; a thread in this process takes them in as it can.
                let _seats = self.seats.acquire_many(n.min(self.most)).await.ok();
                return server.send(body).await;
            }
            (Target::Trainer(trainer), Ready::Request(request)) => {
                trainer.generate(request).await.map_err(crate::run::engine::failed)?
            }
            (Target::MadeUp(engine), Ready::Request(request)) => engine.generate(request).await?,
            _ => return Err(EngineError::Bug { invariant: "a request is made for its target".into() }),
        };
        Ok(sampled.iter().map(|continuation| continuation.tokens.len() as u64).sum())
    }

    fn count(&self, change: impl FnOnce(&mut Occupancy)) {
        change(&mut self.occupancy.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
