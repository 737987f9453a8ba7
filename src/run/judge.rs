//! Tokens to text to verdict: the whole answer is decoded at once, since a character may span two nodes.

use std::sync::Arc;

use crate::data::ModelTokenizer;
use crate::types::{Defect, TokenId, Verdict};
use crate::verify::{Verifier, defect};

use super::{Event, Observer};

/// Says what an answer is worth.
#[derive(Clone)]
pub struct Judge {
    /// Tokens to text.
    pub tokenizer: Arc<ModelTokenizer>,
    /// Text to verdict.
    pub verifier: Verifier,
    /// Who hears of answers that cannot be read.
    pub observer: Observer,
}

impl Judge {
    /// Whether the answer made of `tokens` is right.
    pub fn verdict(&self, tokens: &[TokenId], reference: &str) -> Verdict {
        match self.tokenizer.decode(tokens) {
            Ok(text) => self.verifier.check(&text, reference).verdict,
            Err(error) => {
                (self.observer)(Event::Warning(format!("an answer could not be decoded: {error}")));
                Verdict::Error
            }
        }
    }

    /// What makes the answer unfit for training; a correct one never is. `is_cut`: the token budget ended it.
    pub fn defect(&self, tokens: &[TokenId], is_cut: bool, verdict: Verdict) -> Option<Defect> {
        if verdict == Verdict::Correct {
            return None;
        }
        // A text that cannot be decoded has the verdict `Error` already.
        self.tokenizer.decode(tokens).ok().and_then(|text| defect(&text, is_cut))
    }
}
