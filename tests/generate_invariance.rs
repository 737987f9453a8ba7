//! What the embedded sampler's answer does not depend on, to the bit, in fp32 on the CPU: other requests, the cache, the
//! places where a path was cut, threads. And what the cache costs: its bound, and each prefix once.
//!
//! The answer is tokens and logprobs; the models are small random ones and SmolLM2, whose matrices are of a size that
//! libraries cut into tiles.

// Helpers of tests are tests too; clippy.toml allows these in `#[test]` functions only.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[path = "support/requests.rs"]
#[allow(dead_code, reason = "each test binary uses a part of it")]
mod requests;
mod trainer_support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use orchestrator::config::{SearchConfig, TrainConfig};
use orchestrator::search::{Child, Next, SpecialTokens, Tree};
use orchestrator::trainer::{Family, Trainer};
use orchestrator::types::{Continuation, GenerateRequest, Sampling, TokenId, Verdict};
use requests::*;
use tempfile::TempDir;
use trainer_support::{config, real_model, sampler, sampler_with, tiny};

const CACHE_BYTES: u64 = 1 << 30;

/// A model with biases, one with norms on the heads and wide heads, and the real one.
struct Models {
    dirs: Vec<PathBuf>,
    _made: [TempDir; 2],
}

fn models() -> Models {
    let qwen2 = tiny(Family::Qwen2, |spec| spec.std = 0.2);
    let qwen3 = tiny(Family::Qwen3, |spec| (spec.std, spec.heads, spec.kv_heads, spec.is_tied) = (0.2, 4, 2, false));
    let mut dirs = vec![qwen2.path().to_path_buf(), qwen3.path().to_path_buf()];
    match real_model() {
        Some(dir) => dirs.push(dir),
        None => println!("`models/smollm2-135m-instruct` is not here (`make setup` brings it): small models only"),
    }
    Models { dirs, _made: [qwen2, qwen3] }
}

async fn ask(sampler: &Trainer, request: GenerateRequest) -> Vec<Continuation> {
    sampler.generate(request).await.unwrap()
}

/// The request that everything happens around: a tree's expansion in its middle.
fn subject() -> GenerateRequest {
    GenerateRequest { max_tokens: 20, affinity: 500, ..request(&prompt(75, 1), 3, 42, NEUTRAL) }
}

/// Requests of all shapes; some share the subject's prompt, some all of it.
fn others(count: u32) -> impl Iterator<Item = GenerateRequest> {
    (0..count).map(|i| {
        let samplings = [NEUTRAL, GREEDY, Sampling { temperature: 0.7, ..NEUTRAL }, Sampling { top_k: 5, ..NEUTRAL }];
        let tokens = match i % 4 {
            0 => prompt(75, 1),
            1 => joined(&prompt(40, 1), &prompt(1 + i, i)),
            _ => prompt(3 + 5 * i % 130, i + 2),
        };
        let request = request(&tokens, 1 + i % 2, u64::from(1000 * i), samplings[i as usize % 4]);
        GenerateRequest { max_tokens: 1 + 3 * i % 30, affinity: u64::from(i), retain: i % 3 > 0, ..request }
    })
}

#[tokio::test]
async fn the_company_of_63_others_changes_no_bit() {
    for dir in models().dirs {
        let alone = ask(&sampler(&dir, CACHE_BYTES).await, subject()).await;
        let company = sampler(&dir, CACHE_BYTES).await;
        for place in [0, 63] {
            let mut all: Vec<GenerateRequest> = others(63).collect();
            all.insert(place, subject());
            let answers = join_all(all.into_iter().map(|request| ask(&company, request))).await;
            assert_eq!(bits(&answers[place]), bits(&alone), "{} at place {place}", dir.display());
        }
    }
}

#[tokio::test]
async fn a_prefix_that_was_dropped_or_released_comes_back_with_the_same_bits() {
    for dir in models().dirs {
        let roomy = sampler(&dir, CACHE_BYTES).await;
        let first = ask(&roomy, subject()).await;
        assert_eq!(bits(&ask(&roomy, subject()).await), bits(&first), "cached, {}", dir.display());
        let report = roomy.take_generator_report().await.unwrap();
        assert_eq!((report.prefill_tokens, report.reused_tokens, report.evictions), (76, 74, 0));
        roomy.release(500).await.unwrap();
        assert_eq!(bits(&ask(&roomy, subject()).await), bits(&first), "released, {}", dir.display());
        let report = roomy.take_generator_report().await.unwrap();
        assert_eq!((report.prefill_tokens, report.reused_tokens), (75, 0), "the release dropped it");

        // Room for the subject and little more.
        let bound = 150 * token_bytes(&dir);
        let tight = sampler(&dir, bound).await;
        assert_eq!(bits(&ask(&tight, subject()).await), bits(&first), "{}", dir.display());
        tight.take_generator_report().await.unwrap();
        for salt in 90..93 {
            ask(&tight, GenerateRequest { affinity: 7, ..request(&prompt(100, salt), 1, 0, GREEDY) }).await;
        }
        let report = tight.take_generator_report().await.unwrap();
        assert!(report.evictions > 0 && report.peak_bytes <= bound, "{report:?}");
        assert_eq!(bits(&ask(&tight, subject()).await), bits(&first), "evicted, {}", dir.display());
        assert_eq!(tight.take_generator_report().await.unwrap().reused_tokens, 0, "it was gone");
    }
}

/// Keys and values of one token.
fn token_bytes(dir: &Path) -> u64 {
    let model = orchestrator::trainer::model::ModelConfig::read(dir).unwrap();
    (2 * 4 * model.layers * model.kv_heads * model.head_dim) as u64
}

/// The same greedy text in one request and in steps, each from what the steps before left in the cache; then an expansion
/// at its end.
#[tokio::test]
async fn a_path_may_be_cut_into_any_nodes() {
    const TOTAL: u32 = 72;
    for dir in models().dirs {
        let start = prompt(33, 4);
        let whole = GenerateRequest { max_tokens: TOTAL, ..request(&start, 1, 0, GREEDY) };
        let whole = ask(&sampler(&dir, CACHE_BYTES).await, whole).await.remove(0);
        let path = joined(&start, &whole.tokens);
        let expansion = |affinity| GenerateRequest { affinity, max_tokens: 6, ..request(&path, 4, 9, NEUTRAL) };
        let expected = ask(&sampler(&dir, CACHE_BYTES).await, expansion(0)).await;
        // The real model takes its time.
        let is_real = real_model().as_ref() == Some(&dir);
        for step in [1, 3, 4, 8, 24, 36].into_iter().filter(|step| !is_real || [3, 24].contains(step)) {
            let sampler = sampler(&dir, CACHE_BYTES).await;
            let (mut tokens, mut logprobs) = (start.clone(), Vec::new());
            for _ in 0..TOTAL / step {
                // Siblings that end elsewhere, so that the path's nodes have company.
                let asked = GenerateRequest { max_tokens: step, ..request(&tokens, 2, 0, GREEDY) };
                let aside = GenerateRequest { max_tokens: step, ..request(&tokens, 2, u64::from(step), NEUTRAL) };
                let (answer, _) = tokio::join!(ask(&sampler, asked), ask(&sampler, aside));
                assert_eq!(bits(&answer[..1]), bits(&answer[1..]));
                tokens.extend(&answer[0].tokens);
                logprobs.extend(answer[0].logprobs.iter().map(|logprob| logprob.to_bits()));
            }
            assert_eq!(tokens, path, "steps of {step}, {}", dir.display());
            let of_whole: Vec<u32> = whole.logprobs.iter().map(|logprob| logprob.to_bits()).collect();
            assert_eq!(logprobs, of_whole, "steps of {step}, {}", dir.display());
            assert_eq!(bits(&ask(&sampler, expansion(1)).await), bits(&expected), "after steps of {step}");
            let report = sampler.take_generator_report().await.unwrap();
            assert!(report.reused_tokens > report.prefill_tokens, "the steps used the cache: {report:?}");
        }
    }
}

/// libtorch's number of threads is one for the process, so each number has a process of its own: this test again.
#[tokio::test]
async fn the_number_of_threads_changes_no_bit() {
    const MODEL: &str = "TEST_INVARIANCE_MODEL";
    const THREADS: &str = "TEST_INVARIANCE_THREADS";
    if let (Ok(dir), Ok(threads)) = (std::env::var(MODEL), std::env::var(THREADS)) {
        let config = TrainConfig { threads: threads.parse().unwrap(), ..config() };
        let sampler = sampler_with(Path::new(&dir), CACHE_BYTES, config).await;
        let all = others(12).chain([subject()]).chain([request(&prompt(600, 5), 8, 1, NEUTRAL)]);
        for answer in join_all(all.map(|request| ask(&sampler, request))).await {
            println!("answer {:?}", bits(&answer));
        }
        return;
    }
    for dir in models().dirs {
        let with = |threads: u32| {
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "the_number_of_threads_changes_no_bit", "--nocapture"])
                .env(MODEL, &dir)
                .env(THREADS, threads.to_string())
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let text = String::from_utf8(output.stdout).unwrap();
            let answers: Vec<String> =
                text.lines().filter(|line| line.starts_with("answer ")).map(str::to_owned).collect();
            assert_eq!(answers.len(), 14, "{text}");
            answers
        };
        assert_eq!(with(1), with(2), "{}", dir.display());
    }
}

/// Eight children of a long prefix, then eight grandchildren.
#[tokio::test]
async fn siblings_pay_for_their_prefix_once() {
    let dir = tiny(Family::Llama, |spec| spec.std = 0.2);
    let sampler = sampler(dir.path(), CACHE_BYTES).await;
    let prefix = prompt(1000, 6);
    let children = ask(&sampler, request(&prefix, 8, 1, NEUTRAL)).await;
    let report = sampler.take_generator_report().await.unwrap();
    assert_eq!((report.prefill_tokens, report.reused_tokens, report.sampled_tokens), (1000, 0, 8 * 24), "{report:?}");
    let memory = report.peak_bytes / token_bytes(dir.path());
    assert!(memory <= 1000 + 8 * 32, "memory of {memory} tokens: the prefix is held once");

    for child in &children[..2] {
        let grandchildren = ask(&sampler, request(&joined(&prefix, &child.tokens), 8, 2, NEUTRAL)).await;
        assert_eq!(grandchildren.len(), 8);
        let report = sampler.take_generator_report().await.unwrap();
        // A sequence's last token is sampled and not read: it is what is left to read.
        assert_eq!((report.prefill_tokens, report.reused_tokens), (1, 1023), "{report:?}");
    }
}

fn search() -> SearchConfig {
    SearchConfig { width: 4, step_tokens: 12, max_depth: 5, trajectories: 4, ..SearchConfig::default() }
}

/// A search that is driven to its end; every token and logprob of its tree in order.
async fn grow(sampler: &Trainer, tree_number: u32) -> Vec<(Vec<TokenId>, Vec<u32>)> {
    let problem = prompt(30 + tree_number % 50, tree_number);
    let mut tree = Tree::new(&search(), SpecialTokens::default(), 0).unwrap();
    let affinity = u64::from(tree_number);
    let mut grown = Vec::new();
    while let Next::Expand { node, n } = tree.next() {
        let mut tokens = problem.clone();
        tree.path_tokens(node, &mut tokens);
        let seed = affinity * 10_000 + 10 * tree.spent().expansions;
        let request = GenerateRequest {
            affinity,
            max_tokens: search().step_tokens,
            retain: tree.node(node).unwrap().depth() + 1 < search().max_depth,
            // One token in 32 ends a text.
            stop_token_ids: Arc::from_iter((3..VOCAB).step_by(32)),
            ..request(&tokens, n, seed, NEUTRAL)
        };
        let answer = ask(sampler, request).await;
        grown.extend(bits(&answer).into_iter().map(|(tokens, logprobs, _)| (tokens, logprobs)));
        let judge = |continuation: &Continuation| match continuation.tokens.iter().sum::<TokenId>() % 3 {
            0 => Verdict::Correct,
            _ => Verdict::Incorrect,
        };
        let child = |continuation: Continuation| {
            let verdict = tree.is_terminal(node, &continuation).then(|| judge(&continuation));
            Child::new(continuation, verdict)
        };
        let children: Vec<Child> = answer.into_iter().map(child).collect();
        tree.supply(node, children, Duration::ZERO).unwrap();
    }
    sampler.release(affinity).await.unwrap();
    grown
}

#[tokio::test]
async fn two_hundred_searches_stay_under_the_bound_and_grow_the_same_trees() {
    const TREES: u32 = 200;
    let dir = tiny(Family::Qwen2, |spec| spec.std = 0.2);
    let all = async |cache_bytes: u64, in_flight: usize, trees: u32| {
        let sampler = sampler(dir.path(), cache_bytes).await;
        let grown: Vec<_> = stream::iter(0..trees).map(|tree| grow(&sampler, tree)).buffered(in_flight).collect().await;
        (grown, sampler.take_generator_report().await.unwrap())
    };
    // What 64 trees in flight would like to keep is several times as much.
    let bound = 3000 * token_bytes(dir.path());
    let (tight, report) = all(bound, 64, TREES).await;
    println!("tight: {report:?}");
    assert!(report.peak_bytes <= bound && report.peak_bytes > bound / 2, "{report:?}");
    assert!(report.evictions > 0, "{report:?}");

    let (roomy, report) = all(CACHE_BYTES, 64, TREES).await;
    println!("roomy: {report:?}");
    assert_eq!(report.evictions, 0);
    assert!(report.peak_bytes > bound, "{report:?}");
    assert!(tight == roomy, "evictions changed a tree");
    let (one_by_one, _) = all(CACHE_BYTES, 1, 20).await;
    assert!(one_by_one == roomy[..20], "trees in flight changed a tree");
    let nodes: usize = roomy.iter().map(Vec::len).sum();
    println!("{nodes} nodes in {TREES} trees");
}
