//! JSON to and from vLLM, tolerant where the server varies, strict where a wrong value would be trained on.

use std::collections::HashMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::types::{Continuation, FinishReason, Sampling, TokenId, WeightVersion};

/// What vLLM writes for minus infinity.
const MASKED: f64 = -9999.0;
/// Rounding may lift the logprob of a near-certain token above 0 by this much.
const ROUNDING_NATS: f64 = 1e-3;

/// Body of `POST /v1/completions`. Sampling fields are always sent: omitted ones come from the checkpoint.
#[derive(Clone, Debug, Serialize)]
pub(super) struct CompletionRequest<'a> {
    pub model: &'a str,
    pub prompt: &'a [TokenId],
    pub n: u32,
    pub max_tokens: u32,
    pub temperature: f64,
    pub top_p: f64,
    pub top_k: u32,
    pub seed: u64,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub stop: &'a [String],
    #[serde(skip_serializing_if = "<[TokenId]>::is_empty")]
    pub stop_token_ids: &'a [TokenId],
    /// Number of alternatives beside the sampled token.
    pub logprobs: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs: Option<u32>,
    pub return_token_ids: bool,
    /// Keys of `top_logprobs` are `token_id:7` rather than text, so that two tokens of one text do not collide.
    pub return_tokens_as_token_ids: bool,
    /// Entries of the prefix cache are shared only among requests with the same salt.
    pub cache_salt: &'a str,
}

impl<'a> CompletionRequest<'a> {
    /// One continuation of `prompt`, `max_tokens` long at most.
    pub fn new(model: &'a str, prompt: &'a [TokenId], max_tokens: u32, sampling: Sampling, salt: &'a str) -> Self {
        CompletionRequest {
            model,
            prompt,
            n: 1,
            max_tokens,
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            top_k: sampling.top_k,
            seed: 0,
            stop: &[],
            stop_token_ids: &[],
            logprobs: 0,
            prompt_logprobs: None,
            return_token_ids: true,
            return_tokens_as_token_ids: false,
            cache_salt: salt,
        }
    }
}

/// Answer of `POST /v1/completions`.
#[derive(Debug, Deserialize)]
pub(super) struct Completion {
    pub choices: Vec<Choice>,
}

/// One of the n answers.
#[derive(Debug, Deserialize)]
pub(super) struct Choice {
    pub index: usize,
    #[serde(default)]
    pub token_ids: Option<Vec<i64>>,
    #[serde(default)]
    pub logprobs: Option<Logprobs>,
    #[serde(default)]
    pub finish_reason: Option<String>,
    /// By position; the first is null. Keys are token ids.
    #[serde(default)]
    pub prompt_logprobs: Option<Vec<Option<HashMap<String, PromptLogprob>>>>,
}

/// Logprobs of the sampled tokens.
#[derive(Debug, Deserialize)]
pub(super) struct Logprobs {
    #[serde(default)]
    pub token_logprobs: Vec<Option<f64>>,
    #[serde(default)]
    pub top_logprobs: Option<Vec<Option<TopLogprobs>>>,
}

/// The most likely tokens of one position, by `token_id:N`.
pub(super) type TopLogprobs = HashMap<String, Option<f64>>;

/// Logprob of one prompt token.
#[derive(Debug, Deserialize)]
pub(super) struct PromptLogprob {
    pub logprob: Option<f64>,
}

/// Why an answer cannot be used.
#[derive(Debug, PartialEq)]
pub(super) enum Flaw {
    /// The server stopped it before it was done; it may be asked again.
    Aborted,
    /// The answer is not what was asked for.
    Malformed(String),
}

impl Completion {
    /// The `n` answers in order.
    pub fn into_continuations(
        mut self,
        n: u32,
        vocab_tokens: usize,
        version: WeightVersion,
    ) -> Result<Vec<Continuation>, Flaw> {
        if self.choices.len() != n as usize {
            return Err(Flaw::Malformed(format!("{} choices, asked for {n}", self.choices.len())));
        }
        self.choices.sort_by_key(|choice| choice.index);
        if self.choices.iter().enumerate().any(|(i, choice)| choice.index != i) {
            return Err(Flaw::Malformed("the choices are not numbered from 0 to n - 1".into()));
        }
        if self.choices.iter().any(|choice| choice.finish_reason.as_deref() == Some("abort")) {
            return Err(Flaw::Aborted);
        }
        self.choices.into_iter().map(|choice| choice.into_continuation(vocab_tokens, version)).collect()
    }
}

impl Choice {
    fn into_continuation(self, vocab_tokens: usize, version: WeightVersion) -> Result<Continuation, Flaw> {
        let i = self.index;
        let finish = match self.finish_reason.as_deref() {
            Some("stop") => FinishReason::Stop,
            Some("length") => FinishReason::Length,
            other => return Err(Flaw::Malformed(format!("finish_reason of choice {i} is `{other:?}`"))),
        };
        let ids = self.token_ids.ok_or_else(|| Flaw::Malformed(format!("choice {i} has no token_ids")))?;
        if ids.is_empty() {
            return Err(Flaw::Malformed(format!("choice {i} has no tokens")));
        }
        let tokens = ids
            .into_iter()
            .map(|id| {
                TokenId::try_from(id).ok().filter(|&id| (id as usize) < vocab_tokens).ok_or_else(|| {
                    Flaw::Malformed(format!("token id {id} of choice {i} is outside the vocabulary of {vocab_tokens}"))
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let logprobs = match self.logprobs {
            None => vec![f32::NAN; tokens.len()],
            Some(found) if found.token_logprobs.len() == tokens.len() => {
                found.token_logprobs.into_iter().map(|value| sampled_logprob(value, i)).collect::<Result<_, _>>()?
            }
            Some(found) => {
                return Err(Flaw::Malformed(format!(
                    "choice {i} has {} tokens and {} logprobs",
                    tokens.len(),
                    found.token_logprobs.len()
                )));
            }
        };
        Ok(Continuation { tokens, logprobs, finish, weight_version: version })
    }
}

/// A sampled token's logprob; NaN where the server had none to give.
fn sampled_logprob(value: Option<f64>, choice: usize) -> Result<f32, Flaw> {
    match value {
        Some(value) if value.is_finite() && value > MASKED => {
            if value > ROUNDING_NATS {
                return Err(Flaw::Malformed(format!("logprob {value} of choice {choice} is positive")));
            }
            Ok(value.min(0.0) as f32)
        }
        _ => Ok(f32::NAN),
    }
}

/// Answer of `GET /version`.
#[derive(Debug, Deserialize)]
pub(super) struct ServerVersion {
    pub version: String,
}

/// Answer of `GET /v1/models`.
#[derive(Debug, Deserialize)]
pub(super) struct Models {
    pub data: Vec<ModelCard>,
}

/// A served model.
#[derive(Debug, Deserialize)]
pub(super) struct ModelCard {
    pub id: String,
    #[serde(default)]
    pub max_model_len: Option<usize>,
}

/// Answer of `GET /is_sleeping`.
#[derive(Debug, Deserialize)]
pub(super) struct IsSleeping {
    pub is_sleeping: bool,
}

/// Answer of `GET /is_paused`.
#[derive(Debug, Deserialize)]
pub(super) struct IsPaused {
    pub is_paused: bool,
}

/// Answer of `POST /reset_prefix_cache`: a refusal comes with status 200.
#[derive(Debug, Deserialize)]
pub(super) struct CacheReset {
    pub success: bool,
}

/// Answer of `POST /collective_rpc`, one result per worker.
#[derive(Debug, Deserialize)]
pub(super) struct RpcResults<T> {
    pub results: Vec<T>,
}

/// Answer of the extension's `ds_load`.
#[derive(Debug, Deserialize)]
pub(super) struct LoadAnswer {
    pub ok: bool,
    pub intact: bool,
    pub error: Option<String>,
}

/// Answer of the extension's `ds_state`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct WorkerState {
    pub protocol: u32,
    pub version: u64,
    pub digest: Option<String>,
    pub intact: bool,
    pub max_num_seqs: usize,
    #[serde(default)]
    pub logprobs_mode: String,
    pub vocab_size: usize,
    #[serde(default)]
    pub held: Option<Held>,
    /// Name of the process that said so: of a header, not of the body.
    #[serde(skip)]
    pub process: Option<String>,
}

impl WorkerState {
    /// Of a server without the extension: vLLM's own default for the number of sequences, and no bound on token ids.
    pub fn unknown() -> WorkerState {
        WorkerState {
            protocol: 0,
            version: 0,
            digest: None,
            intact: true,
            max_num_seqs: 256,
            logprobs_mode: String::new(),
            vocab_size: u32::MAX as usize,
            held: None,
            process: None,
        }
    }
}

/// Comparison of the model with the file.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Held {
    pub different: Vec<String>,
    pub bitwise_tensors: u64,
    pub bitwise_bytes: u64,
    pub probed_tensors: u64,
    pub probed_bytes: u64,
    pub unchecked_tensors: u64,
    pub unchecked_bytes: u64,
}

/// Parses an answer. Python writes bare `NaN` and `Infinity`, which are not JSON: they are read as null.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(body).or_else(|error| match without_nan(body) {
        Some(repaired) => serde_json::from_slice(&repaired),
        None => Err(error),
    })
}

/// The body with NaN, Infinity and -Infinity outside of strings replaced by null; `None` if there are none.
fn without_nan(body: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(body.len());
    let (mut i, mut in_string, mut found) = (0, false, false);
    while i < body.len() {
        let rest = &body[i..];
        let literal = [&b"NaN"[..], b"Infinity", b"-Infinity"].into_iter().find(|word| rest.starts_with(word));
        match literal {
            Some(word) if !in_string => {
                out.extend_from_slice(b"null");
                i += word.len();
                found = true;
                continue;
            }
            _ => {}
        }
        match body[i] {
            b'\\' if in_string => {
                out.push(body[i]);
                i += 1;
                if i == body.len() {
                    break;
                }
            }
            b'"' => in_string = !in_string,
            _ => {}
        }
        out.push(body[i]);
        i += 1;
    }
    found.then_some(out)
}

/// The server's own words in an error body: `error` is an object or a string, some paths use `detail`.
pub(super) fn error_message(body: &[u8]) -> String {
    let text = || String::from_utf8_lossy(body).trim().to_owned();
    let Ok(value) = serde_json::from_slice::<Value>(body) else { return shortened(text()) };
    let message = match (&value["error"], &value["detail"]) {
        (Value::String(message), _) => message.clone(),
        (Value::Object(error), _) => match &error.get("message") {
            Some(Value::String(message)) => message.clone(),
            _ => text(),
        },
        (_, Value::String(detail)) => detail.clone(),
        _ => text(),
    };
    shortened(message)
}

fn shortened(text: String) -> String {
    match text.char_indices().nth(2000) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_of_error_gives_the_message() {
        for (body, expected) in [
            (r#"{"error":{"message":"too long","type":"BadRequestError","param":null,"code":400}}"#, "too long"),
            (r#"{"error":"Unauthorized"}"#, "Unauthorized"),
            (r#"{"detail":"Not Found"}"#, "Not Found"),
            (r#"{"detail":[{"msg":"x"}]}"#, r#"{"detail":[{"msg":"x"}]}"#),
            ("Internal Server Error", "Internal Server Error"),
            ("", ""),
        ] {
            assert_eq!(error_message(body.as_bytes()), expected);
        }
    }

    #[test]
    fn nan_outside_strings_becomes_null() {
        let value: Value = parse(br#"{"a":[NaN,-Infinity,1.5],"b":"NaN \" Infinity","c":Infinity}"#).expect("repaired");
        assert_eq!(value, serde_json::json!({"a": [null, null, 1.5], "b": "NaN \" Infinity", "c": null}));
        assert!(parse::<Value>(br#"{"a":"#).is_err());
    }

    #[test]
    fn stop_reason_may_be_anything_and_logprobs_are_guarded() {
        for stop_reason in ["null", "198", r#"".""#] {
            let body = format!(
                r#"{{"choices":[{{"index":0,"finish_reason":"stop","stop_reason":{stop_reason},"token_ids":[1,2,3],
                "logprobs":{{"token_logprobs":[0.0000001,-9999.0,null]}}}}]}}"#
            );
            let answer: Completion = parse(body.as_bytes()).expect("parses");
            let got = answer.into_continuations(1, 4, WeightVersion(7)).expect("usable");
            assert_eq!(got[0].logprobs[0], 0.0);
            assert!(got[0].logprobs[1].is_nan() && got[0].logprobs[2].is_nan());
            assert_eq!((got[0].finish, got[0].weight_version), (FinishReason::Stop, WeightVersion(7)));
        }
    }

    #[test]
    fn a_token_outside_the_vocabulary_is_malformed() {
        for id in ["-1", "4"] {
            let body = format!(r#"{{"choices":[{{"index":0,"finish_reason":"length","token_ids":[{id}]}}]}}"#);
            let answer: Completion = parse(body.as_bytes()).expect("parses");
            assert!(matches!(answer.into_continuations(1, 4, WeightVersion(0)), Err(Flaw::Malformed(_))));
        }
    }
}
