//! One answer of a model: sampled a few tokens at a time, shown as soon as later tokens cannot change it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use tokio::signal::unix::Signal;

use crate::data::ModelTokenizer;
use crate::error::Failure;
use crate::rng::{Purpose, seed};
use crate::trainer::Trainer;
use crate::types::{Continuation, FinishReason, GenerateRequest, Sampling, TokenId};

/// Tokens asked for at once: few enough to be seen as they come, enough for the asking not to count.
const PIECE_TOKENS: u32 = 8;

/// Nobody waits for a sampler in the same process but the person who can stop it.
const NO_DEADLINE: Duration = Duration::from_secs(24 * 3600);

/// A loaded model and how it is asked.
pub struct Sampler {
    /// Holds the model.
    pub trainer: Trainer,
    /// The model's own.
    pub tokenizer: Arc<ModelTokenizer>,
    /// The distribution.
    pub sampling: Sampling,
    /// Texts that end an answer and are not part of it.
    pub stop: Arc<[String]>,
    /// Seed of all answers.
    pub seed: u64,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The model ended it, or a stop text did.
    Stop,
    /// It has as many tokens as were allowed.
    Length,
    /// The person called it off.
    Interrupted,
    /// Nobody reads the output any more.
    Unread,
}

/// A finished answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its text, without a stop text.
    pub text: String,
    /// Its tokens, the ending one included.
    pub tokens: usize,
    /// Why it ended.
    pub ended: Ended,
    /// From the question to the first tokens.
    pub first: Duration,
    /// From the question to the end.
    pub elapsed: Duration,
}

impl Sampler {
    /// Answers `prompt` with at most `max_tokens` tokens and hands the text to `show` piece by piece; `show` says whether
    /// anybody still reads. `turn` names the random stream.
    ///
    /// # Errors
    /// A failure of the trainer or of `show`.
    pub async fn stream(
        &self,
        turn: u64,
        prompt: &[TokenId],
        max_tokens: u32,
        interrupt: &mut Signal,
        mut show: impl FnMut(&str) -> Result<bool, Failure>,
    ) -> Result<Answer, Failure> {
        let started = Instant::now();
        let mut first = None;
        let mut shown = Shown::new(self.stop.clone());
        let mut tokens: Vec<TokenId> = Vec::new();
        let (ended, text) = loop {
            let left = max_tokens - tokens.len() as u32;
            // Each piece has a stream of its own, so that none depends on how an engine counts positions.
            let request = GenerateRequest {
                tokens: [prompt, &tokens].concat(),
                max_tokens: left.min(PIECE_TOKENS),
                seed: seed(self.seed, Purpose::Sampling, &[turn, tokens.len() as u64]),
                ..self.request(left > PIECE_TOKENS)
            };
            let Some(pieces) = self.unless(interrupt, [request]).await? else {
                break (Ended::Interrupted, self.tokenizer.decode(&tokens)?);
            };
            first.get_or_insert_with(|| started.elapsed());
            let finish = pieces.first().map_or(FinishReason::Stop, |piece| piece.finish);
            tokens.extend(pieces.into_iter().flat_map(|piece| piece.tokens));
            let text = self.tokenizer.decode(&tokens)?;
            let is_whole = finish == FinishReason::Stop || tokens.len() as u32 >= max_tokens;
            let (piece, is_stopped) = shown.next(&text, is_whole);
            if !show(piece)? {
                break (Ended::Unread, text);
            } else if is_stopped || finish == FinishReason::Stop {
                break (Ended::Stop, text);
            } else if is_whole {
                break (Ended::Length, text);
            }
        };
        let elapsed = started.elapsed();
        let text = text.get(..shown.end).unwrap_or(&text).to_owned();
        Ok(Answer { text, tokens: tokens.len(), ended, first: first.unwrap_or(elapsed), elapsed })
    }

    /// `count` whole answers to `prompt`; `None` if the person called them off.
    ///
    /// # Errors
    /// A failure of the trainer.
    pub async fn several(
        &self,
        prompt: &[TokenId],
        max_tokens: u32,
        count: u32,
        interrupt: &mut Signal,
    ) -> Result<Option<Vec<Answer>>, Failure> {
        let started = Instant::now();
        // One request each, so that they need not all fit the memory at once; the prompt is read once all the same.
        let requests = (0..u64::from(count)).map(|index| {
            let alone = self.request(false);
            GenerateRequest { tokens: prompt.to_vec(), max_tokens, seed: alone.seed.wrapping_add(index), ..alone }
        });
        let Some(found) = self.unless(interrupt, requests).await? else { return Ok(None) };
        let elapsed = started.elapsed();
        let answer = |found: Continuation| {
            let text = self.tokenizer.decode(&found.tokens)?;
            let mut shown = Shown::new(self.stop.clone());
            let text = shown.next(&text, true).0.to_owned();
            let ended = match found.finish {
                FinishReason::Stop => Ended::Stop,
                FinishReason::Length => Ended::Length,
            };
            Ok(Answer { text, tokens: found.tokens.len(), ended, first: elapsed, elapsed })
        };
        found.into_iter().map(answer).collect::<Result<_, Failure>>().map(Some)
    }

    fn request(&self, retain: bool) -> GenerateRequest {
        GenerateRequest {
            affinity: 0,
            tokens: Vec::new(),
            n: 1,
            max_tokens: 1,
            sampling: self.sampling,
            stop: self.stop.clone(),
            stop_token_ids: self.tokenizer.end_of_text().into(),
            seed: seed(self.seed, Purpose::Sampling, &[]),
            retain,
            deadline: NO_DEADLINE,
        }
    }

    /// The continuations of all requests in order, or `None` if the person is faster.
    async fn unless(
        &self,
        interrupt: &mut Signal,
        requests: impl IntoIterator<Item = GenerateRequest>,
    ) -> Result<Option<Vec<Continuation>>, Failure> {
        let answers = try_join_all(requests.into_iter().map(|request| self.trainer.generate(request)));
        tokio::select! {
            biased;
            _ = interrupt.recv() => Ok(None),
            found = answers => Ok(Some(found?.into_iter().flatten().collect())),
        }
    }
}

/// How much of a growing text has been shown.
#[derive(Debug)]
struct Shown {
    stop: Arc<[String]>,
    /// In bytes.
    end: usize,
}

impl Shown {
    fn new(stop: Arc<[String]>) -> Shown {
        Shown { stop, end: 0 }
    }

    /// What of `text`, the answer so far, can be shown now and was not before; and whether a stop text ends it. Unless
    /// the text is whole, a character whose bytes may not all be there and the beginning of a stop text are held back.
    fn next<'a>(&mut self, text: &'a str, is_whole: bool) -> (&'a str, bool) {
        let stop = self.stop.iter().filter_map(|stop| text.find(stop.as_str())).min();
        let end = match stop {
            Some(start) => start,
            None if is_whole => text.len(),
            None => self.settled(text),
        };
        let piece = text.get(self.end..end).unwrap_or_default();
        self.end += piece.len();
        (piece, stop.is_some())
    }

    fn settled(&self, text: &str) -> usize {
        let complete = text.trim_end_matches('\u{fffd}');
        let begun = |stop: &String| {
            let lengths = stop.char_indices().map(|(start, _)| start).filter(|&length| length > 0);
            lengths.filter(|&length| complete.ends_with(&stop[..length])).max()
        };
        complete.len() - self.stop.iter().filter_map(begun).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shown of each text in turn, the last one being whole.
    fn pieces<'a>(stop: &[&str], texts: &[&'a str]) -> Vec<(&'a str, bool)> {
        let mut shown = Shown::new(stop.iter().map(|stop| (*stop).to_owned()).collect());
        texts.iter().enumerate().map(|(i, text)| shown.next(text, i + 1 == texts.len())).collect()
    }

    #[test]
    fn characters_are_shown_when_they_are_complete() {
        let texts = ["a\u{fffd}", "aé\u{fffd}\u{fffd}", "aé漢b", "aé漢b\u{fffd}"];
        assert_eq!(pieces(&[], &texts), [("a", false), ("é", false), ("漢b", false), ("\u{fffd}", false)]);
    }

    #[test]
    fn a_stop_text_is_never_shown_even_if_it_comes_in_pieces() {
        let texts = ["one EN", "one END two", "one END two"];
        assert_eq!(pieces(&["END"], &texts), [("one ", false), ("", true), ("", true)]);
        assert_eq!(
            pieces(&["END"], &["one EN", "one ENT", "one ENT."]),
            [("one ", false), ("ENT", false), (".", false)]
        );
        assert_eq!(pieces(&["\n\n", "x"], &["a\n", "a\nb", "a\nbx"]), [("a", false), ("\nb", false), ("", true)]);
        assert_eq!(pieces(&["é!"], &["né", "né!"]), [("n", false), ("", true)]);
    }

    #[test]
    fn what_was_held_back_comes_with_the_end() {
        assert_eq!(pieces(&["END"], &["one EN", "one EN"]), [("one ", false), ("EN", false)]);
    }
}
