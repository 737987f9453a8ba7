//! What every engine must do: the checks of `engine_conformance.rs`, which know no engine by name.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use orchestrator::data::ModelTokenizer;
use orchestrator::error::{FailureClass, Hint};
use orchestrator::inference::{Engine, EngineError};
use orchestrator::trainer::Trainer;
use orchestrator::types::{
    Continuation, FinishReason, GenerateRequest, Sampling, TokenId, WeightManifest, WeightVersion,
};

use super::support::requests::{GREEDY, NEUTRAL, VOCAB, assert_near, assert_sound, bits, joined, prompt, request};
use super::trainer_support::{MARK, random_group};

/// Context of the engines under test.
pub const CONTEXT_TOKENS: usize = 1024;

/// An engine, and the trainer whose weights it holds.
pub struct Subject {
    pub engine: Arc<dyn Engine>,
    pub trainer: Arc<Trainer>,
    pub tokenizer: Arc<ModelTokenizer>,
    /// A folder for exports and the trainer's state.
    pub dir: PathBuf,
    versions: AtomicU64,
}

impl Subject {
    /// Remembers the trainer's state, so that [`Self::restore`] can bring it back.
    pub async fn new(
        engine: Arc<dyn Engine>,
        trainer: Arc<Trainer>,
        tokenizer: Arc<ModelTokenizer>,
        dir: PathBuf,
    ) -> Subject {
        trainer.save_checkpoint(&dir.join("start"), MARK).await.expect("saves");
        Subject { engine, trainer, tokenizer, dir, versions: AtomicU64::new(1) }
    }

    /// The engine's answer, sound in every respect.
    async fn ask(&self, request: GenerateRequest) -> Vec<Continuation> {
        let asked = request.clone();
        let answer = self.engine.generate(request).await.unwrap_or_else(|error| panic!("{error}: {error:?}"));
        assert_sound(&answer, &asked, VOCAB as usize, self.tokenizer.end_of_text());
        answer
    }

    async fn sample(&self, tokens: &[TokenId], n: u32, seed: u64, sampling: Sampling) -> Vec<Continuation> {
        self.ask(request(tokens, n, seed, sampling)).await
    }

    async fn score(&self, tokens: &[TokenId]) -> Vec<f32> {
        self.engine.score(tokens).await.expect("scores").pop().expect("one replica")
    }

    /// Asserts that two answers to one request are the same: to the bit where the engine says so, else by tokens.
    #[track_caller]
    fn assert_same(&self, found: &[Continuation], expected: &[Continuation], what: &str) {
        if self.engine.capabilities().is_reproducible {
            assert_eq!(bits(found), bits(expected), "{what}");
        } else {
            let tokens = |all: &[Continuation]| all.iter().map(|c| c.tokens.clone()).collect::<Vec<_>>();
            assert_eq!(tokens(found), tokens(expected), "{what}");
        }
    }

    /// Exports the trainer's weights as a new version and loads it.
    async fn publish(&self) -> WeightManifest {
        let version = WeightVersion(self.versions.fetch_add(1, Ordering::Relaxed));
        let target = self.dir.join(format!("weights-{version}"));
        let manifest = self.trainer.export(&target, version).await.expect("exports");
        let report = self.engine.load_weights(&manifest).await;
        let report = report.unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)));
        assert_eq!(report.version, version);
        assert_eq!(report.held.unchecked_tensors, 0, "{report:?}");
        // Either every tensor was compared, or there is but one copy of them.
        let compared = report.held.bitwise_tensors + report.held.probed_tensors;
        if report.held.shared_bytes > 0 {
            assert_eq!((report.held.shared_bytes, compared), (manifest.bytes, 0));
        } else {
            assert_eq!(compared, manifest.tensors.len() as u64);
        }
        manifest
    }

    /// A step that changes the policy beyond recognition.
    async fn train(&self) {
        let report = self.trainer.update(vec![random_group(5, VOCAB, 7, (2, 6))]).await.expect("trains");
        assert_eq!(report.updates_done(), 1);
    }

    /// Back to the weights of the start.
    async fn restore(&self) -> WeightManifest {
        self.trainer.load_checkpoint(&self.dir.join("start")).await.expect("loads");
        self.publish().await
    }
}

pub async fn capabilities_are_the_models(on: &Subject) {
    let capabilities = on.engine.capabilities();
    assert_eq!((capabilities.vocab_tokens, capabilities.max_model_tokens), (VOCAB as usize, CONTEXT_TOKENS));
    assert!(capabilities.max_sequences > 0 && !capabilities.engine.is_empty(), "{capabilities:?}");
}

/// Range, order and number; continuation `i` draws from the stream `seed + i`, so it does not depend on `n`.
pub async fn continuations_are_sound_and_in_order(on: &Subject) {
    let prompt = prompt(20, 1);
    let five = on.sample(&prompt, 5, 1000, NEUTRAL).await;
    assert!(five.iter().any(|other| other.tokens != five[0].tokens), "five samples are not one");
    let three = on.sample(&prompt, 3, 1000, NEUTRAL).await;
    on.assert_same(&three, &five[..3], "of three and of five");
    for (i, expected) in (0..).zip(&five) {
        let alone = on.sample(&prompt, 1, 1000 + i, NEUTRAL).await;
        on.assert_same(&alone, std::slice::from_ref(expected), &format!("continuation {i} alone"));
    }
}

/// One token of a one-token prompt is the smallest request there is.
pub async fn the_smallest_request_is_answered(on: &Subject) {
    let answer = on.ask(GenerateRequest { max_tokens: 1, ..request(&[7], 1, 3, NEUTRAL) }).await;
    assert_eq!(answer[0].tokens.len(), 1);
}

pub async fn the_seed_decides_what_is_sampled(on: &Subject) {
    let prompt = prompt(20, 2);
    let first = on.sample(&prompt, 4, 1000, NEUTRAL).await;
    on.assert_same(&on.sample(&prompt, 4, 1000, NEUTRAL).await, &first, "same seed");
    let other = on.sample(&prompt, 4, 2000, NEUTRAL).await;
    assert!(first.iter().zip(&other).all(|(a, b)| a.tokens != b.tokens), "another seed");
}

pub async fn greedy_is_repeatable_and_needs_no_seed(on: &Subject) {
    let prompt = prompt(30, 3);
    // One continuation: vLLM refuses to make the same one twice.
    let first = on.sample(&prompt, 1, 1, GREEDY).await;
    on.assert_same(&on.sample(&prompt, 1, 99, GREEDY).await, &first, "greedy");
    let only_best = [Sampling { top_k: 1, ..NEUTRAL }, Sampling { top_p: 1e-6, ..NEUTRAL }];
    for sampling in only_best {
        let cut = on.sample(&prompt, 2, 5, sampling).await;
        assert_eq!((&cut[0].tokens, &cut[1].tokens), (&first[0].tokens, &first[0].tokens), "{sampling:?}");
    }
}

/// Long enough for the model's own end-of-text token to be drawn by some: [`assert_sound`] looks at what it does.
pub async fn the_models_own_end_of_text_ends(on: &Subject) {
    let long = GenerateRequest { max_tokens: 300, ..request(&prompt(20, 4), 32, 1, NEUTRAL) };
    let answer = on.ask(long).await;
    let stopped = answer.iter().filter(|c| c.finish == FinishReason::Stop).count();
    assert!((1..32).contains(&stopped), "{stopped} of 32 ended");
}

pub async fn a_stop_token_ends_and_is_kept(on: &Subject) {
    let prompt = prompt(20, 5);
    let free = on.sample(&prompt, 1, 5, NEUTRAL).await.remove(0);
    let stop = free.tokens[3];
    let cut = GenerateRequest { stop_token_ids: Arc::new([stop]), ..request(&prompt, 1, 5, NEUTRAL) };
    let got = on.ask(cut).await.remove(0);
    let end = free.tokens.iter().position(|&token| token == stop).expect("it was drawn");
    assert_eq!(got.tokens, free.tokens[..=end]);
    assert_eq!(got.finish, FinishReason::Stop);
}

/// The stop text begins inside one token and ends inside the next.
pub async fn a_stop_text_ends_and_the_token_that_completes_it_is_kept(on: &Subject) {
    // Tokens from here on are spelled out, `<extra_300>`: text that does not depend on its neighbours.
    const WORDS: TokenId = 259;
    let prompt = prompt(20, 6);
    let mut checked = 0;
    for seed in 0..4 {
        let free = on.sample(&prompt, 1, 10 * seed, NEUTRAL).await.remove(0);
        let words = free.tokens.windows(2).position(|pair| pair.iter().all(|&token| token >= WORDS));
        let Some(at) = words else { continue };
        let texts = [free.tokens[at], free.tokens[at + 1]].map(|token| on.tokenizer.decode(&[token]).expect("text"));
        let stop = format!("{}{}", &texts[0][texts[0].len() - 5..], &texts[1][..9]);
        let text = |count: usize| on.tokenizer.decode(&free.tokens[..count]).expect("text");
        let end = (1..=free.tokens.len()).find(|&count| text(count).contains(&stop)).expect("it was drawn");
        assert_eq!(end, at + 2);
        let stops: Arc<[String]> = Arc::new(["never drawn".to_owned(), stop.clone()]);
        let got = on.ask(GenerateRequest { stop: stops, ..request(&prompt, 1, 10 * seed, NEUTRAL) }).await.remove(0);
        assert_eq!(got.tokens, free.tokens[..end], "{stop}");
        assert_eq!(got.finish, FinishReason::Stop);
        checked += 1;
    }
    assert!(checked > 0, "no two words in a row in any sample");
}

pub async fn many_trees_at_once_get_each_its_own_answer(on: &Subject) {
    let of = |tree: u32| {
        let tree_request = request(&prompt(5 + 7 * tree, tree), 1 + tree % 4, u64::from(100 * tree), NEUTRAL);
        GenerateRequest { affinity: u64::from(tree), max_tokens: 8 + tree, ..tree_request }
    };
    let together = join_all((0..24).map(|tree| on.ask(of(tree)))).await;
    for (tree, expected) in (0..24).zip(&together).step_by(5) {
        on.assert_same(&on.ask(of(tree)).await, expected, &format!("tree {tree} alone"));
    }
}

pub async fn a_finished_tree_can_be_asked_again(on: &Subject) {
    let asked = GenerateRequest { affinity: 77, ..request(&prompt(200, 7), 4, 7, NEUTRAL) };
    let first = on.ask(asked.clone()).await;
    on.engine.release(77).await.expect("releases");
    on.engine.release(12_345).await.expect("a tree that never asked");
    on.assert_same(&on.ask(asked).await, &first, "after its release");
}

pub async fn a_cancelled_request_leaves_no_work_behind(on: &Subject) {
    let asked = request(&prompt(20, 8), 2, 8, NEUTRAL);
    let before = on.ask(asked.clone()).await;
    on.engine.take_counts().await.expect("counts");
    let long = GenerateRequest { max_tokens: 900, ..request(&prompt(50, 9), 16, 9, NEUTRAL) };
    let abandoned = tokio::time::timeout(Duration::from_millis(40), on.engine.generate(long)).await;
    assert!(abandoned.is_err(), "it was answered within 40 ms: {abandoned:?}");
    on.assert_same(&on.ask(asked).await, &before, "after a cancelled request");
    let counts = on.engine.take_counts().await.expect("counts");
    if let Some((_, steps)) = counts.into_iter().find(|(name, _)| *name == "engine_decoding_steps") {
        assert!(steps < 900.0, "{steps} steps: the request ran on");
    }
}

pub async fn a_request_that_cannot_be_met_is_an_error_of_the_caller(on: &Subject) {
    let fitting = request(&prompt(20, 10), 1, 1, NEUTRAL);
    let too_long = GenerateRequest { max_tokens: CONTEXT_TOKENS as u32, ..fitting.clone() };
    let outside = GenerateRequest { tokens: vec![5, VOCAB, 6], ..fitting.clone() };
    for (asked, what) in [(too_long, "beyond the context"), (outside, "outside the vocabulary")] {
        let error = on.engine.generate(asked).await.expect_err(what);
        assert_eq!(error.class(), FailureClass::User, "{what}: {error:?}");
    }
    // The longest that fits.
    let count = CONTEXT_TOKENS as u32 - 24;
    on.sample(&prompt(count, 10), 1, 1, NEUTRAL).await;
}

/// The ratio trainer/engine is 1 on every token, at the temperature that the trainer is told.
pub async fn sampled_logprobs_are_the_trainers(on: &Subject) {
    for (salt, temperature) in [(11, 1.0), (12, 0.7)] {
        let prompt = prompt(20, salt);
        for continuation in on.sample(&prompt, 8, 1, Sampling { temperature, ..NEUTRAL }).await {
            let scores = on.trainer.score(joined(&prompt, &continuation.tokens), temperature).await.expect("scores");
            assert_near(&continuation.logprobs, &scores[prompt.len() - 1..], "engine and trainer");
        }
    }
}

pub async fn scores_are_the_trainers(on: &Subject) {
    for tokens in [prompt(2, 13), prompt(300, 14)] {
        let scores = on.trainer.score(tokens.clone(), 1.0).await.expect("scores");
        for row in on.engine.score(&tokens).await.expect("scores") {
            assert_near(&row, &scores, "engine and trainer");
        }
    }
}

/// New weights are used at once and by name, and the old ones bring the old output back.
pub async fn loaded_weights_are_sampled_from_and_named(on: &Subject) {
    let first = on.restore().await;
    let prompt = prompt(300, 15);
    let (greedy, scored) = (on.sample(&prompt, 1, 0, GREEDY).await, on.score(&prompt).await);
    assert_eq!(greedy[0].weight_version, first.version);
    on.engine.confirm_weights(&first).await.expect("they are held");

    on.train().await;
    let second = on.publish().await;
    let new = on.sample(&prompt, 1, 0, GREEDY).await;
    assert_eq!(new[0].weight_version, second.version);
    assert_ne!(new[0].tokens, greedy[0].tokens, "the output of changed weights");
    // What is left of the old weights, such as keys and values of the prompt, would show here.
    let scores = on.trainer.score(joined(&prompt, &new[0].tokens), 1.0).await.expect("scores");
    let sampled = on.sample(&prompt, 1, 3, NEUTRAL).await.remove(0);
    let of_sampled = on.trainer.score(joined(&prompt, &sampled.tokens), 1.0).await.expect("scores");
    assert_near(&sampled.logprobs, &of_sampled[prompt.len() - 1..], "sampled after the load and the trainer's");
    assert_near(&on.score(&prompt).await, &scores[..prompt.len() - 1], "scores after the load");
    assert_ne!(on.score(&prompt).await, scored);
    on.engine.confirm_weights(&second).await.expect("they are held");
    let error = on.engine.confirm_weights(&first).await.expect_err("they are not held any more");
    assert!(matches!(error, EngineError::WeightsDiffer { .. }), "{error:?}");

    let back = on.restore().await;
    assert_eq!(back.digest, first.digest);
    let again = on.sample(&prompt, 1, 0, GREEDY).await;
    assert_eq!(again[0].weight_version, back.version);
    assert_eq!(bits(&again), bits(&greedy), "the old weights are back to the bit");
    assert_eq!(on.score(&prompt).await, scored);
}

/// Requests that are at work when the weights change are sampled again: all tokens of an answer are of one version, and of
/// the version that it names.
pub async fn requests_in_flight_are_sampled_again_under_new_weights(on: &Subject) {
    let old = on.restore().await;
    let prompt = prompt(20, 16);
    // Work for a second and more, so that the change comes in the middle.
    let long = |seed: u64| GenerateRequest { max_tokens: 900, ..request(&prompt, 16, 100 * seed, NEUTRAL) };
    let change = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        on.train().await;
        on.publish().await
    };
    let (answers, new) = tokio::join!(join_all((0..4u64).map(|seed| on.ask(long(seed)))), change);
    assert!(new.version > old.version);
    let mut checked = 0;
    for continuation in answers.concat() {
        if continuation.weight_version == old.version {
            continue;
        }
        assert_eq!(continuation.weight_version, new.version);
        let scores = on.trainer.score(joined(&prompt, &continuation.tokens), 1.0).await.expect("scores");
        assert_near(&continuation.logprobs, &scores[prompt.len() - 1..], "engine and trainer");
        checked += 1;
    }
    assert!(checked > 0, "every request was answered before the weights changed");
    on.restore().await;
}
