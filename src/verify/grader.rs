//! The verifier and what it asks where it cannot decide: text to verdict, as a run and its tools use it.

use std::sync::Arc;

use super::sidecar::{Sidecar, SidecarError};
use super::{DecidedBy, Judged, Verifier, extract};
use crate::config::VerifyConfig;
use crate::types::Verdict;

/// Longer texts are read on a thread that may block: a check takes some 10 us, and time in proportion to the text.
const LONG_BYTES: usize = 65_536;

/// Judges responses. Clones share the processes of Math-Verify.
#[derive(Clone, Debug, Default)]
pub struct Grader {
    verifier: Arc<Verifier>,
    sidecar: Option<Sidecar>,
}

impl Grader {
    /// By the rules of `[verify]`; with Math-Verify where `verify.sidecar` says so. Nothing is started before it is needed.
    pub fn new(config: VerifyConfig) -> Grader {
        let sidecar = config.sidecar.then(|| Sidecar::new(&config));
        Grader { verifier: Arc::new(Verifier::new(config)), sidecar }
    }

    /// With this sidecar, or none.
    pub fn with_sidecar(config: VerifyConfig, sidecar: Option<Sidecar>) -> Grader {
        Grader { verifier: Arc::new(Verifier::new(config)), sidecar }
    }

    /// The part that decides without asking anyone.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// Judges the final answer of `text`, a whole response, against the bare reference.
    ///
    /// # Cancel safety
    /// Nothing is lost but the process that was asked.
    pub async fn grade(&self, text: &str, reference: &str) -> Judged {
        let judged = if text.len() > LONG_BYTES {
            let (verifier, text, own) = (self.verifier.clone(), text.to_owned(), reference.to_owned());
            let checked = tokio::task::spawn_blocking(move || verifier.check(&text, &own)).await;
            // Only if the check panicked, or the runtime is going down.
            checked.unwrap_or(Judged { verdict: Verdict::Error, decided_by: DecidedBy::Nothing, answer: None })
        } else {
            self.verifier.check(text, reference)
        };
        self.settle(judged, reference).await
    }

    /// Asks Math-Verify about what is undecided; everything else stays as it is.
    ///
    /// # Cancel safety
    /// As [`Grader::grade`].
    pub async fn settle(&self, judged: Judged, reference: &str) -> Judged {
        let (Verdict::Undecided, Some(answer), Some(sidecar)) = (judged.verdict, &judged.answer, &self.sidecar) else {
            return judged;
        };
        // What the verifier compared: of a worked solution that is its answer.
        let reference = extract::reference(reference, self.verifier.config());
        let ruling = sidecar.decide(answer, &reference).await;
        if let Some(detail) = ruling.detail {
            tracing::debug!(detail, "Math-Verify has no verdict that can be trusted");
        }
        let decided_by = match ruling.verdict.is_settled() {
            true if ruling.is_bare => DecidedBy::BareMathVerify,
            true => DecidedBy::MathVerify,
            false => DecidedBy::Nothing,
        };
        Judged { verdict: ruling.verdict, decided_by, ..judged }
    }

    /// Why Math-Verify cannot be asked; told once.
    pub fn take_failure(&self) -> Option<SidecarError> {
        self.sidecar.as_ref().and_then(Sidecar::take_failure)
    }
}
