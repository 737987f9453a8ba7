//! The embedded sampler against transformers' `generate` and against the trainer, in fp32 on the CPU.
//!
//! Greedy: the same 200 tokens, and their logprobs within 1e-4. Sampled: every token's logprob is the trainer's score of it
//! at the same temperature within 1e-4.

// Helpers of tests are tests too; clippy.toml allows these in `#[test]` functions only.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[path = "support/requests.rs"]
#[allow(dead_code, reason = "each test binary uses a part of it")]
mod requests;
mod trainer_support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use futures_util::future::join_all;
use orchestrator::data::ModelTokenizer;
use orchestrator::trainer::Family;
use orchestrator::types::{Continuation, GenerateRequest, Sampling, TokenId};
use requests::*;
use serde_json::{Value, json};
use tempfile::TempDir;
use trainer_support::{python, real_model, sampler, tiny};

const NEW_TOKENS: u32 = 200;
const CACHE_BYTES: u64 = 1 << 30;

/// A chat, a story, and worked examples of more than 100 tokens.
const TEXTS: [&str; 3] = [
    "<|im_start|>user\nExplain in a few sentences why the sky is blue at noon and red in the evening.<|im_end|>\n\
     <|im_start|>assistant\n",
    "The lighthouse keeper had not spoken to anyone for eleven days when the radio",
    "Question: Anna has 12 apples and gives 5 of them to Ben. How many apples does Anna have left?\n\
     Answer: Anna starts with 12 apples. She gives away 5, so she has 12 - 5 = 7 apples left. The answer is 7.\n\n\
     Question: A train has 8 coaches with 40 seats each. 215 seats are taken. How many seats are free?\n\
     Answer: There are 8 * 40 = 320 seats in all. 215 are taken, so 320 - 215 = 105 seats are free. The answer is 105.\n\n\
     Question: A baker makes 24 rolls an hour for 6 hours and sells 130 of them. How many rolls are left?\n\
     Answer:",
];

/// A model and its prompts.
struct Case {
    name: &'static str,
    dir: PathBuf,
    prompts: Vec<Vec<TokenId>>,
    _made: Option<TempDir>,
}

fn cases() -> Vec<Case> {
    // Weights of this size keep greedy output from repeating one token; biases are as large.
    let random = |name, family| {
        let made = tiny(family, |spec| (spec.std, spec.layers, spec.is_tied) = (0.2, 3, family == Family::Qwen2));
        let prompts = vec![prompt(1, 1), prompt(20, 2), prompt(150, 3)];
        Case { name, dir: made.path().to_path_buf(), prompts, _made: Some(made) }
    };
    let mut cases = vec![random("Qwen2, biases, tied", Family::Qwen2), random("Qwen3, head norms", Family::Qwen3)];
    match real_model() {
        Some(dir) => {
            let tokenizer = ModelTokenizer::load(&dir).unwrap();
            let prompts: Vec<Vec<TokenId>> = TEXTS.iter().map(|text| tokenizer.encode(text).unwrap()).collect();
            assert!(prompts[2].len() > 100, "{} tokens", prompts[2].len());
            cases.push(Case { name: "SmolLM2-135M", dir, prompts, _made: None });
        }
        None => println!("`models/smollm2-135m-instruct` is not here (`make setup` brings it): small models only"),
    }
    cases
}

async fn greedy(dir: &Path, prompts: &[Vec<TokenId>]) -> Vec<Continuation> {
    let sampler = sampler(dir, CACHE_BYTES).await;
    let asked = prompts.iter().map(|prompt| async {
        let request = GenerateRequest { max_tokens: NEW_TOKENS, ..request(prompt, 1, 0, GREEDY) };
        sampler.generate(request).await.unwrap().remove(0)
    });
    join_all(asked).await
}

/// The same tokens and logprobs. Where the first difference is between two tokens that the reference itself holds equal to
/// 1e-4, either is right, and the comparison ends there.
fn compare(name: &str, ours: &Continuation, theirs: &Value) {
    let column = |key: &str| theirs[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>();
    let tokens: Vec<TokenId> = column("tokens").into_iter().map(|token| token as TokenId).collect();
    let (logprobs, leads) = (column("logprobs"), column("leads"));
    assert_eq!((tokens.len(), ours.tokens.len()), (NEW_TOKENS as usize, NEW_TOKENS as usize));
    let same = ours.tokens.iter().zip(&tokens).take_while(|(a, b)| a == b).count();
    if same < tokens.len() {
        let is_tie = leads[same] < f64::from(FP32_NATS) && column("seconds")[same] as TokenId == ours.tokens[same];
        assert!(
            is_tie,
            "{name}: token {same} is {} where transformers has {}, which leads by {:e} nats",
            ours.tokens[same], tokens[same], leads[same]
        );
        println!("{name}: a tie at token {same}: {:e} nats", leads[same]);
    }
    let expected: Vec<f32> = logprobs[..same].iter().map(|&logprob| logprob as f32).collect();
    assert_near(&ours.logprobs[..same], &expected, name);
    let distinct = ours.tokens.iter().collect::<BTreeSet<_>>().len();
    let closest = leads.iter().copied().fold(f64::INFINITY, f64::min);
    let difference = largest_difference(&ours.logprobs[..same], &expected);
    println!(
        "{name}: {same} tokens, {distinct} distinct, logprobs differ by {difference:.1e}, closest call {closest:.1e}"
    );
    assert!(distinct > 10, "{name}: {distinct} distinct tokens show little");
}

/// One Python process for all models: starting it is most of the time.
#[tokio::test]
async fn greedy_output_is_that_of_transformers() {
    let cases = cases();
    let job = |case: &Case| json!({ "kind": "generate", "model": case.dir, "prompts": case.prompts, "new_tokens": NEW_TOKENS });
    let answers = python(&json!(cases.iter().map(job).collect::<Vec<_>>()));
    for (case, answer) in cases.iter().zip(answers.as_array().unwrap()) {
        let ours = greedy(&case.dir, &case.prompts).await;
        let theirs = answer.as_array().unwrap();
        assert_eq!(ours.len(), theirs.len());
        for (ours, theirs) in ours.iter().zip(theirs) {
            compare(case.name, ours, theirs);
        }
    }
}

/// 64 sequences of different prompts and both temperatures in one batch.
#[tokio::test]
async fn sampled_logprobs_are_the_trainers() {
    for case in cases() {
        let sampler = sampler(&case.dir, CACHE_BYTES).await;
        let settings = [(0, 1.0), (1, 0.7), (2, 1.0), (2, 0.7)];
        let asked = settings.into_iter().zip(0..).map(|((prompt, temperature), seed)| {
            let request = request(&case.prompts[prompt], 16, 100 * seed, Sampling { temperature, ..NEUTRAL });
            sampler.generate(request)
        });
        let mut worst = 0f32;
        for ((prompt, temperature), answer) in settings.into_iter().zip(join_all(asked).await) {
            let prompt = &case.prompts[prompt];
            for continuation in answer.unwrap() {
                assert_eq!(continuation.tokens.len(), 24);
                let scores = sampler.score(joined(prompt, &continuation.tokens), temperature).await.unwrap();
                let scores = &scores[prompt.len() - 1..];
                assert_near(&continuation.logprobs, scores, case.name);
                worst = worst.max(largest_difference(&continuation.logprobs, scores));
            }
        }
        println!("{}: 64 sequences, logprobs differ by {worst:.1e} nats at most", case.name);
    }
}
