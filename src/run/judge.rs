//! Tokens to text to verdict: the whole answer is decoded at once, since a character may span two nodes.

use std::sync::Arc;

use crate::data::ModelTokenizer;
use crate::types::{Defect, TokenId, Verdict};
use crate::verify::{DecidedBy, Grader, Judged, defect, lost};

use super::{Event, Observer};

/// Says what an answer is worth.
#[derive(Clone)]
pub struct Judge {
    /// Tokens to text.
    pub tokenizer: Arc<ModelTokenizer>,
    /// Text to verdict.
    pub grader: Grader,
    /// Who hears of answers that cannot be read, and of a verifier that is not whole.
    pub observer: Observer,
}

impl Judge {
    /// Whether the answer made of `tokens` is right.
    ///
    /// # Cancel safety
    /// As [`Grader::grade`].
    pub async fn verdict(&self, tokens: &[TokenId], reference: &str) -> Verdict {
        self.judge(tokens, reference).await.1.verdict
    }

    /// The text made of `tokens`, and whether its answer is right. What cannot be decoded is no wrong answer.
    ///
    /// # Cancel safety
    /// As [`Grader::grade`].
    pub async fn judge(&self, tokens: &[TokenId], reference: &str) -> (String, Judged) {
        match self.tokenizer.decode(tokens) {
            Ok(text) => {
                let judged = self.read(&text, reference).await;
                (text, judged)
            }
            Err(error) => {
                (self.observer)(Event::Warning(format!("an answer could not be decoded: {error}")));
                (String::new(), Judged { verdict: Verdict::Error, decided_by: DecidedBy::Nothing, answer: None })
            }
        }
    }

    /// Whether the answer of `text` is right.
    ///
    /// # Cancel safety
    /// As [`Grader::grade`].
    pub async fn read(&self, text: &str, reference: &str) -> Judged {
        let judged = self.grader.grade(text, reference).await;
        if let Some(failure) = self.grader.take_failure() {
            (self.observer)(Event::Warning(failure.notice()));
        }
        judged
    }

    /// What makes the answer unfit for training; a correct one never is. `is_cut`: the token budget ended it.
    pub fn defect(&self, tokens: &[TokenId], is_cut: bool, verdict: Verdict) -> Option<Defect> {
        if verdict == Verdict::Correct {
            return None;
        }
        // A text that cannot be decoded has the verdict `Error` already.
        self.tokenizer.decode(tokens).ok().and_then(|text| defect(&text, is_cut))
    }

    /// Whether an answer that has only got as far as `tokens` is not worth going on with. One that is right so far is.
    ///
    /// # Cancel safety
    /// As [`Grader::grade`].
    pub async fn is_lost(&self, tokens: &[TokenId], reference: &str) -> bool {
        let Ok(text) = self.tokenizer.decode(tokens) else { return false };
        lost(&text).is_some() && self.read(&text, reference).await.verdict != Verdict::Correct
    }
}
