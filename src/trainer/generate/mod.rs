//! Generation with the trainer's own weights: the sampler behind the embedded engine.
//!
//! Requests come and go; one [`Generator::tick`] takes every running sequence one token further and reads a part of the
//! prompts that wait (continuous batching). Keys and values follow the tree (`cache.rs`): siblings share those of their
//! path, which is read once for all of them.
//!
//! Invariants:
//! - A continuation is a function of weights, request and seed. What else was in the batch, what the cache held, where
//!   a prompt was cut: on the processor in fp32 none of it changes a bit (`forward.rs`).
//! - All tokens of a continuation come from one weight version. When the weights change, running sequences start
//!   again and every cached key and value is dropped; while they have no version, nothing is sampled.
//! - Memory of keys and values never exceeds its bound: a request starts only when all that it may need is free.
//!
//! Absent on purpose: threads and channels (`thread.rs` gives the turns), text, except for what stop strings need.

pub mod attention;
pub mod block;
pub mod cache;
pub mod draw;
pub mod forward;
mod group;
mod isa;
pub mod pointwise;
pub mod product;
pub mod workers;

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tch::{Kind, Tensor};

use super::error::TrainerError;
use super::logprob::{Head, Scored};
use super::model::ModelConfig;
use super::thread::Reply;
use crate::types::{Continuation, GenerateRequest, TokenId, WeightVersion};
use block::{Block, Meter, Span};
use cache::{PrefixCache, common};
use draw::draw;
use forward::{Forward, Lane, Policy, Wants};
use group::{Group, Limits};
use pointwise::numbers;

/// Rows of waiting prompts that one tick reads beside the running sequences: enough for the matrix products to run at
/// full speed, few enough that a long prompt does not hold up the others.
const PROMPT_ROWS: usize = 256;
/// A prompt waits for another one that is being read if they have this many unknown tokens in common.
const WORTH_WAITING_TOKENS: usize = 16;

/// Token ids to text.
pub type Decode = Arc<dyn Fn(&[TokenId]) -> String + Send + Sync>;

/// The smallest temperature beside 0.
const LEAST_TEMPERATURE: f64 = 1e-6;

/// What generation needs to know beside the model.
#[derive(Clone)]
pub struct GeneratorSpec {
    /// Largest number of sequences sampled at once; a single request with more runs by itself.
    pub max_sequences: usize,
    /// Bound of the memory for keys and values, in bytes.
    pub cache_bytes: u64,
    /// Largest number of prompt and generated tokens together.
    pub max_model_tokens: usize,
    /// Token ids that end a text.
    pub end_of_text: Vec<TokenId>,
    /// Token ids to text, for stop strings.
    pub decode: Decode,
}

/// What a generator has done since it was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GeneratorReport {
    /// Steps of decoding.
    pub ticks: u64,
    /// Tokens sampled, also those of requests that were called off.
    pub sampled_tokens: u64,
    /// Tokens of requests whose keys and values were computed, each once however many siblings share it.
    pub prefill_tokens: u64,
    /// Tokens of requests whose keys and values were still there.
    pub reused_tokens: u64,
    /// Nodes of the prefix tree dropped for want of memory.
    pub evictions: u64,
    /// Largest memory of keys and values, in bytes.
    pub peak_bytes: u64,
}

/// A request with somewhere to answer to.
struct Asked {
    request: GenerateRequest,
    reply: Reply<Vec<Continuation>>,
}

/// The sampler.
pub struct Generator {
    spec: GeneratorSpec,
    forward: Forward,
    vocab_tokens: usize,
    cache: PrefixCache,
    meter: Meter,
    waiting: VecDeque<Asked>,
    /// Requests at work, in the order of their start.
    groups: Vec<Group>,
    version: Option<WeightVersion>,
    report: GeneratorReport,
}

impl Generator {
    /// A sampler for `model`, whose weights are those of version 0.
    ///
    /// # Errors
    /// No threads.
    pub fn new(
        model: &ModelConfig,
        policy: Policy<'_>,
        spec: GeneratorSpec,
        threads: usize,
    ) -> Result<Generator, TrainerError> {
        Ok(Generator {
            forward: Forward::new(model, policy.decoder, spec.max_model_tokens, threads)?,
            spec,
            vocab_tokens: usize::try_from(model.vocab_size).unwrap_or_default(),
            cache: PrefixCache::default(),
            meter: Meter::default(),
            waiting: VecDeque::new(),
            groups: Vec::new(),
            version: Some(WeightVersion::INITIAL),
            report: GeneratorReport::default(),
        })
    }

    /// Takes a request; the answer comes out of some later tick, or at once if it cannot be met.
    pub fn submit(&mut self, request: GenerateRequest, reply: Reply<Vec<Continuation>>) {
        match self.check(&request) {
            Ok(()) => self.waiting.push_back(Asked { request, reply }),
            // Nobody waits any more: nothing is lost.
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    /// Memory of the keys and values of one token.
    pub fn token_bytes(&self) -> u64 {
        self.forward.kv().token_bytes()
    }

    /// Whether a tick would do anything.
    pub fn has_work(&self) -> bool {
        self.version.is_some() && !(self.waiting.is_empty() && self.groups.is_empty())
    }

    /// The version of the weights; `None` while they have changed and have not been named.
    pub fn version(&self) -> Option<WeightVersion> {
        self.version
    }

    /// The weights have changed or are about to: everything computed from them goes, and sequences start again.
    pub fn weights_changed(&mut self) {
        self.version = None;
        self.cache.clear();
        for group in self.groups.drain(..).rev() {
            let (request, reply) = group.into_request();
            self.waiting.push_front(Asked { request, reply });
        }
    }

    /// The weights are `version` from now on.
    pub fn name_weights(&mut self, version: WeightVersion) {
        if self.version != Some(version) {
            self.weights_changed();
        }
        self.version = Some(version);
    }

    /// Drops keys and values that only the requests of `affinity` have used: that tree is finished.
    pub fn release(&mut self, affinity: u64) {
        self.cache.forget(affinity);
    }

    /// Drops all keys and values that no running request stands on.
    pub fn drop_cache(&mut self) {
        while self.cache.evict() {}
    }

    /// What was done since the last call.
    pub fn take_report(&mut self) -> GeneratorReport {
        let next = GeneratorReport { peak_bytes: self.meter.bytes(), ..GeneratorReport::default() };
        std::mem::replace(&mut self.report, next)
    }

    /// One step: admits what fits, reads a part of the prompts, samples one token for every running sequence, answers
    /// what is done. Returns the number of answers given.
    ///
    /// # Errors
    /// A broken invariant; everything has to be failed then. A request whose logits are not finite is answered with that.
    pub fn tick(&mut self, policy: Policy<'_>) -> Result<usize, TrainerError> {
        let Some(version) = self.version else { return Ok(0) };
        self.drop_abandoned();
        self.admit();
        let rows = self.advance(policy)?;
        self.report.ticks += 1;
        self.report.peak_bytes = self.report.peak_bytes.max(self.meter.bytes());
        Ok(self.sample(&rows, version))
    }

    /// Answers everything with `error`: the state is in doubt.
    pub fn fail_all(&mut self, error: &TrainerError) {
        let message = match error {
            TrainerError::Panicked { message, .. } => message.clone(),
            error => crate::error::chain(error).join(": "),
        };
        let again = || TrainerError::Panicked { operation: "generation", message: message.clone() };
        for asked in self.waiting.drain(..) {
            let _ = asked.reply.send(Err(again()));
        }
        for group in self.groups.drain(..) {
            group.fail(again());
        }
    }

    /// Logprobs of `tokens[1..]` given what precedes each, `[T - 1]`, in nats, at temperature 1, computed as generation
    /// computes them but for the vocabulary projection, which is the trainer's. Neither the cache nor its bound is used: the memory is given back at once.
    ///
    /// # Errors
    /// [`TrainerError::Request`] for a token outside the vocabulary or more tokens than the context.
    pub fn score(
        &mut self,
        policy: Policy<'_>,
        tokens: &[TokenId],
        chunk_rows: usize,
    ) -> Result<Vec<f32>, TrainerError> {
        self.check_tokens(tokens, 0)?;
        let scored = tokens.len().saturating_sub(1);
        if scored == 0 {
            return Ok(Vec::new());
        }
        let mut own = [Block::new(self.forward.kv(), scored, &Meter::default())];
        let lane = Lane { tokens: &tokens[..scored], position: 0, seen: &[], own: &mut own, wants: Wants::All };
        let Some(hidden) = self.forward.run(policy, &mut [lane])? else { return Ok(Vec::new()) };
        let rows: Vec<u32> = (0..scored as u32).collect();
        let head = Head { weight: policy.projection, temperature: 1.0, chunk_rows };
        Ok(head.logprobs(&hidden, &Scored::new(&rows, &tokens[1..], policy.decoder.device())))
    }

    /// Whether `tokens` and `more` are in the vocabulary and fit the context.
    fn check_tokens(&self, tokens: &[TokenId], more: usize) -> Result<(), TrainerError> {
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= self.vocab_tokens) {
            let reason = format!("token {token} is outside the vocabulary of {}", self.vocab_tokens);
            return Err(TrainerError::Request { reason });
        }
        let (count, limit) = (tokens.len(), self.spec.max_model_tokens);
        if count + more > limit {
            let reason = format!("{count} tokens and {more} new ones exceed the context of {limit} tokens");
            return Err(TrainerError::Request { reason });
        }
        Ok(())
    }

    fn check(&self, request: &GenerateRequest) -> Result<(), TrainerError> {
        let refused = |reason: String| Err(TrainerError::Request { reason });
        if request.tokens.is_empty() {
            return refused("it has no tokens, so nothing predicts the first".to_owned());
        }
        if request.n == 0 || request.max_tokens == 0 {
            return refused(format!("{} continuations of {} tokens are none", request.n, request.max_tokens));
        }
        let sampling = &request.sampling;
        // Below that logits divided by it are no numbers any more; 0 is greedy.
        let is_sound = (sampling.temperature == 0.0 || sampling.temperature >= LEAST_TEMPERATURE)
            && sampling.temperature.is_finite()
            && sampling.top_p > 0.0
            && sampling.top_p <= 1.0;
        if !is_sound {
            return refused(format!(
                "temperature {} must be 0 or at least {LEAST_TEMPERATURE}, and top_p {} above 0 and at most 1",
                sampling.temperature, sampling.top_p
            ));
        }
        self.check_tokens(&request.tokens, request.max_tokens as usize)?;
        let need_bytes = Group::need_bytes(request, 0, self.forward.kv());
        if need_bytes > self.spec.cache_bytes {
            return Err(TrainerError::CacheTooSmall { need_bytes, bound_bytes: self.spec.cache_bytes });
        }
        Ok(())
    }

    /// Requests whose caller has gone away.
    fn drop_abandoned(&mut self) {
        self.waiting.retain(|asked| !asked.reply.is_closed());
        let cache = &mut self.cache;
        self.groups.retain(|group| {
            let is_wanted = !group.is_abandoned();
            if !is_wanted && let Some(entry) = group.entry() {
                cache.unpin(entry);
            }
            is_wanted
        });
    }

    /// Starts waiting requests, first come first served, as long as there are seats and memory.
    fn admit(&mut self) {
        let mut index = 0;
        while let Some(asked) = self.waiting.get(index) {
            let running: usize = self.groups.iter().map(Group::sequences).sum();
            if running > 0 && running + asked.request.n as usize > self.spec.max_sequences {
                return;
            }
            if self.is_worth_waiting(&asked.request.tokens) {
                index += 1;
                continue;
            }
            let known = self.cache.find(&asked.request.tokens[..asked.request.tokens.len() - 1]);
            if let Some(entry) = known.entry {
                self.cache.pin(entry);
            }
            let seen = self.cache.spans(known.entry);
            let need_bytes = Group::need_bytes(&asked.request, known.tokens, self.forward.kv());
            if !self.make_room(need_bytes, &seen) {
                if let Some(entry) = known.entry {
                    self.cache.unpin(entry);
                }
                if self.groups.is_empty() && self.cache.evict() {
                    // Only the known part of its own path is in the way: it is read again instead.
                    self.report.evictions += 1;
                    continue;
                }
                // What is running will give its memory back.
                return;
            }
            let Some(asked) = self.waiting.remove(index) else { return };
            self.report.reused_tokens += known.tokens as u64;
            let kv = self.forward.kv();
            self.groups.push(Group::new(asked.request, asked.reply, known, seen, kv, &self.meter));
        }
    }

    /// Whether a prompt that is being read will soon provide much of this one.
    fn is_worth_waiting(&self, tokens: &[TokenId]) -> bool {
        let reading = self.groups.iter().filter(|group| group.is_reading());
        let most = reading.map(|group| common(group.request_tokens(), tokens)).max().unwrap_or(0);
        most.min(tokens.len() - 1) >= self.cache.known_tokens(tokens) + WORTH_WAITING_TOKENS
    }

    /// Whether `need_bytes` are free for a request that has `seen`, after dropping what is least recently used. Where
    /// that could not be enough nothing is dropped.
    fn make_room(&mut self, need_bytes: u64, seen: &[Span]) -> bool {
        let promised: u64 = self.groups.iter().map(Group::promised_bytes).sum();
        let at_work = self.groups.iter().flat_map(Group::blocks).chain(seen.iter().map(|span| &*span.block));
        // Several share a block: it counts once.
        let staying: BTreeMap<*const Block, u64> =
            at_work.map(|block| (std::ptr::from_ref(block), block.bytes())).collect();
        let bound = self.spec.cache_bytes;
        if staying.values().sum::<u64>() + promised + need_bytes > bound {
            return false;
        }
        while self.meter.bytes() + promised + need_bytes > bound {
            if !self.cache.evict() {
                return false;
            }
            self.report.evictions += 1;
        }
        true
    }

    /// One pass through the decoder. Returns the groups that get tokens, each with the number of its rows, and the
    /// probabilities of the rows.
    fn advance(&mut self, policy: Policy<'_>) -> Result<Rows, TrainerError> {
        let mut room = PROMPT_ROWS;
        let mut takers = Vec::new();
        let mut temperatures: Vec<f64> = Vec::new();
        let mut lanes = Vec::new();
        for (index, group) in self.groups.iter_mut().enumerate() {
            let temperature = group.temperature();
            let before = lanes.len();
            let read = group.lanes(room, &self.meter, &mut lanes);
            room -= read;
            self.report.prefill_tokens += read as u64;
            let count = lanes[before..].iter().filter(|lane| lane.wants == Wants::Last).count();
            if count > 0 {
                takers.push((index, count));
                temperatures.extend(std::iter::repeat_n(temperature, count));
            }
        }
        if lanes.is_empty() {
            return Ok(Rows { takers, probabilities: None });
        }
        let hidden = self.forward.run(policy, &mut lanes)?;
        let logits = hidden.map(|hidden| self.forward.logits(policy, &hidden)).transpose()?;
        let probabilities = logits.map(|logits| probabilities(&logits, &temperatures));
        Ok(Rows { takers, probabilities })
    }

    /// Draws a token for every row's sequences and answers what is done.
    fn sample(&mut self, rows: &Rows, version: WeightVersion) -> usize {
        let limits = Limits { end_of_text: &self.spec.end_of_text, decode: &*self.spec.decode };
        let probabilities = rows.probabilities.as_ref().map_or_else(Cow::default, numbers);
        let mut row = probabilities.chunks_exact(self.vocab_tokens.max(1));
        let mut broken = Vec::new();
        for &(index, count) in &rows.takers {
            let of_group: Vec<&[f32]> = row.by_ref().take(count).collect();
            let group = &mut self.groups[index];
            if group.is_reading() {
                group.finish_reading(&mut self.cache);
            }
            match group.take(&of_group, &limits, draw) {
                Some(drawn) => self.report.sampled_tokens += drawn as u64,
                None => broken.push(index),
            }
        }
        let mut answered = 0;
        for (index, group) in std::mem::take(&mut self.groups).into_iter().enumerate() {
            let is_broken = broken.contains(&index);
            if is_broken || group.is_done() {
                answered += 1;
                if let Some(entry) = group.entry() {
                    self.cache.unpin(entry);
                }
                if is_broken {
                    group.fail(TrainerError::NotFinite { version });
                } else {
                    group.answer(version, &mut self.cache);
                }
            } else {
                self.groups.push(group);
            }
        }
        answered
    }
}

/// What a pass through the decoder gave.
struct Rows {
    /// Index of a group and the number of its rows, in order.
    takers: Vec<(usize, usize)>,
    /// [rows, V]; `None` without rows.
    probabilities: Option<Tensor>,
}

/// Softmax of logits [R, V] at each row's temperature; a temperature of 0 is taken as 1.
fn probabilities(logits: &Tensor, temperatures: &[f64]) -> Tensor {
    tch::no_grad(|| {
        let divisors: Vec<f32> =
            temperatures.iter().map(|&temperature| if temperature == 0.0 { 1.0 } else { temperature as f32 }).collect();
        let logits = if divisors.iter().all(|&divisor| divisor == 1.0) {
            logits.shallow_clone()
        } else {
            logits / Tensor::from_slice(&divisors).to_device(logits.device()).unsqueeze(1)
        };
        logits.softmax(-1, Kind::Float)
    })
}
