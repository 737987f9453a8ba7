//! A request at work: one path that is read once, and the siblings that are sampled after it.

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

use super::block::{Block, KvShape, Meter, Span};
use super::cache::{EntryId, Match, PrefixCache};
use super::forward::{Lane, Wants};
use crate::rng;
use crate::trainer::error::TrainerError;
use crate::trainer::thread::Reply;
use crate::types::{Continuation, FinishReason, GenerateRequest, Sampling, TokenId, WeightVersion};

/// Tokens of a block of a sequence that is being sampled: few, since most end early.
const BLOCK_TOKENS: usize = 32;

/// What ends a sequence beside its length.
pub struct Limits<'a> {
    /// The model's own end-of-text tokens.
    pub end_of_text: &'a [TokenId],
    /// Token ids to text.
    pub decode: &'a (dyn Fn(&[TokenId]) -> String + Send + Sync),
}

/// How a token is drawn: probabilities, sampling, a number in [0, 1).
pub type Draw = fn(&[f32], &Sampling, f64) -> Option<usize>;

/// A request at work.
pub struct Group {
    request: GenerateRequest,
    reply: Reply<Vec<Continuation>>,
    kv: KvShape,
    /// Where what is known of the path ends in the prefix tree; pinned there.
    entry: Option<EntryId>,
    /// Keys and values of the path as far as known.
    seen: Vec<Span>,
    /// Tokens in `seen`.
    known: usize,
    /// The rest of the path, while it is being read.
    rest: Vec<Block>,
    /// Empty until the path is read.
    siblings: Vec<Sibling>,
}

/// One sequence.
struct Sibling {
    tokens: Vec<TokenId>,
    logprobs: Vec<f32>,
    stream: ChaCha8Rng,
    own: Vec<Block>,
    finish: Option<FinishReason>,
}

impl Group {
    /// A request whose path is `known` so far, `entry` pinned.
    pub fn new(
        request: GenerateRequest,
        reply: Reply<Vec<Continuation>>,
        known: Match,
        seen: Vec<Span>,
        kv: KvShape,
        meter: &Meter,
    ) -> Group {
        let rest = vec![Block::new(kv, request.tokens.len() - known.tokens, meter)];
        Group { request, reply, kv, entry: known.entry, seen, known: known.tokens, rest, siblings: Vec::new() }
    }

    /// Memory that a request takes at most when `known` tokens of its path are there. A sequence's last token is never
    /// read by it.
    pub fn need_bytes(request: &GenerateRequest, known: usize, kv: KvShape) -> u64 {
        let rest = (request.tokens.len() - known) as u64;
        (rest + u64::from(request.n) * u64::from(request.max_tokens - 1)) * kv.token_bytes()
    }

    /// Memory that it may still ask for.
    pub fn promised_bytes(&self) -> u64 {
        let most = self.request.max_tokens as usize - 1;
        let tokens: usize = if self.is_reading() {
            self.request.n as usize * most
        } else {
            self.siblings.iter().filter(|sibling| sibling.finish.is_none()).map(|s| most - s.capacity()).sum()
        };
        tokens as u64 * self.kv.token_bytes()
    }

    /// The blocks that stay as long as it is at work, shared ones included.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        let own = self.siblings.iter().flat_map(|sibling| &sibling.own);
        self.seen.iter().map(|span| &*span.block).chain(&self.rest).chain(own)
    }

    /// Sequences that take a seat.
    pub fn sequences(&self) -> usize {
        if self.is_reading() {
            self.request.n as usize
        } else {
            self.siblings.iter().filter(|sibling| sibling.finish.is_none()).count()
        }
    }

    /// Whether the path is not read to its end yet.
    pub fn is_reading(&self) -> bool {
        self.siblings.is_empty()
    }

    /// Whether every sequence has ended.
    pub fn is_done(&self) -> bool {
        !self.is_reading() && self.siblings.iter().all(|sibling| sibling.finish.is_some())
    }

    /// Whether nobody waits for the answer any more.
    pub fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    /// The pinned node of the prefix tree.
    pub fn entry(&self) -> Option<EntryId> {
        self.entry
    }

    /// The path.
    pub fn request_tokens(&self) -> &[TokenId] {
        &self.request.tokens
    }

    /// Temperature of its rows.
    pub fn temperature(&self) -> f64 {
        self.request.sampling.temperature
    }

    /// The request, to be started again.
    pub fn into_request(self) -> (GenerateRequest, Reply<Vec<Continuation>>) {
        (self.request, self.reply)
    }

    /// Adds the rows of the next pass: a part of the path of at most `room` tokens, or the last token of each running
    /// sequence. Returns the number of tokens of the path.
    pub fn lanes<'a>(&'a mut self, room: usize, meter: &Meter, lanes: &mut Vec<Lane<'a>>) -> usize {
        if self.siblings.is_empty() {
            let position = self.known + self.rest.iter().map(Block::len).sum::<usize>();
            let count = room.min(self.request.tokens.len() - position);
            if count > 0 {
                let end = position + count;
                let wants = if end == self.request.tokens.len() { Wants::Last } else { Wants::Nothing };
                let tokens = &self.request.tokens[position..end];
                lanes.push(Lane { tokens, position, seen: &self.seen, own: &mut self.rest, wants });
            }
            return count;
        }
        let most = self.request.max_tokens as usize - 1;
        for sibling in self.siblings.iter_mut().filter(|sibling| sibling.finish.is_none()) {
            let capacity = sibling.capacity();
            if sibling.own.iter().all(|block| block.room() == 0) {
                sibling.own.push(Block::new(self.kv, BLOCK_TOKENS.min(most - capacity), meter));
            }
            let last = sibling.tokens.len() - 1;
            lanes.push(Lane {
                tokens: &sibling.tokens[last..],
                position: self.request.tokens.len() + last,
                seen: &self.seen,
                own: &mut sibling.own,
                wants: Wants::Last,
            });
        }
        0
    }

    /// The path is read: its rest becomes part of the prefix tree, and the siblings begin.
    pub fn finish_reading(&mut self, cache: &mut PrefixCache) {
        let spans: Vec<Span> = self.rest.drain(..).map(|block| Span::whole(Arc::new(block))).collect();
        let end = cache.insert(self.entry, &self.request.tokens[self.known..], &spans, self.request.affinity);
        if let Some(end) = end {
            cache.pin(end);
        }
        if let Some(start) = std::mem::replace(&mut self.entry, end) {
            cache.unpin(start);
        }
        self.seen.extend(spans);
        self.known = self.request.tokens.len();
        let sibling = |index: u32| Sibling {
            tokens: Vec::new(),
            logprobs: Vec::new(),
            stream: rng::sequence(self.request.seed, index),
            own: Vec::new(),
            finish: None,
        };
        self.siblings = (0..self.request.n).map(sibling).collect();
    }

    /// One token for every running sequence: `rows` holds one row of probabilities for each, or one for all of them at
    /// the end of the path. Returns the number of tokens; `None` if a row is no distribution.
    pub fn take(&mut self, rows: &[&[f32]], limits: &Limits<'_>, draw: Draw) -> Option<usize> {
        let mut drawn = 0;
        let running = self.siblings.iter_mut().filter(|sibling| sibling.finish.is_none());
        for (index, sibling) in running.enumerate() {
            let row = if sibling.tokens.is_empty() { rows.first() } else { rows.get(index) }?;
            let uniform = (sibling.stream.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
            let token = draw(row, &self.request.sampling, uniform)?;
            sibling.tokens.push(u32::try_from(token).ok()?);
            sibling.logprobs.push(f64::from(row[token]).ln() as f32);
            drawn += 1;
            sibling.finish = sibling.ending(&self.request, limits);
            if sibling.finish.is_some_and(|finish| finish == FinishReason::Stop || !self.request.retain) {
                sibling.own.clear();
            }
        }
        Some(drawn)
    }

    /// Hands over what was sampled; what may be extended stays in the prefix tree.
    pub fn answer(self, version: WeightVersion, cache: &mut PrefixCache) {
        let mut continuations = Vec::with_capacity(self.siblings.len());
        for sibling in self.siblings {
            if !sibling.own.is_empty() {
                let read = &sibling.tokens[..sibling.tokens.len() - 1];
                let spans: Vec<Span> = sibling.own.into_iter().map(|block| Span::whole(Arc::new(block))).collect();
                let _ = cache.insert(self.entry, read, &spans, self.request.affinity);
            }
            continuations.push(Continuation {
                tokens: sibling.tokens,
                logprobs: sibling.logprobs,
                finish: sibling.finish.unwrap_or(FinishReason::Length),
                weight_version: version,
            });
        }
        // A caller that went away a moment ago loses nothing by this.
        let _ = self.reply.send(Ok(continuations));
    }

    /// Answers with an error.
    pub fn fail(self, error: TrainerError) {
        let _ = self.reply.send(Err(error));
    }
}

impl Sibling {
    fn capacity(&self) -> usize {
        self.own.iter().map(|block| block.len() + block.room()).sum()
    }

    /// Whether and why the newest token ends the sequence.
    fn ending(&self, request: &GenerateRequest, limits: &Limits<'_>) -> Option<FinishReason> {
        let newest = self.tokens.last()?;
        if limits.end_of_text.contains(newest)
            || request.stop_token_ids.contains(newest)
            || self.has_stop(request, limits)
        {
            return Some(FinishReason::Stop);
        }
        (self.tokens.len() >= request.max_tokens as usize).then_some(FinishReason::Length)
    }

    /// Whether the newest token completes a stop string. Every token but an empty one is a byte or more, so the end of
    /// the text is enough; one token more keeps its beginning as it is.
    fn has_stop(&self, request: &GenerateRequest, limits: &Limits<'_>) -> bool {
        let Some(longest) = request.stop.iter().map(String::len).max() else { return false };
        let start = self.tokens.len().saturating_sub(longest + 1);
        let text = (limits.decode)(&self.tokens[start..]);
        request.stop.iter().any(|stop| text.contains(stop.as_str()))
    }
}
