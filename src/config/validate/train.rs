//! Rules of `[train]`.

use super::Rules;
use crate::config::Config;
use crate::config::train::{MOST_RANK, PROJECTIONS};

/// More only costs memory, and OpenMP crashes on absurd numbers.
const MOST_THREADS: u32 = 1024;

pub(super) fn train(config: &Config, rules: &mut Rules) {
    let train = &config.train;
    rules.at_least_one(&["train.minibatch_problems"], train.minibatch_problems.into());
    rules.require(
        train.minibatch_problems <= config.run.problems_per_step,
        &["train.minibatch_problems", "run.problems_per_step"],
        || {
            format!(
                "`train.minibatch_problems` is {}, more than `run.problems_per_step` = {}",
                train.minibatch_problems, config.run.problems_per_step
            )
        },
    );
    rules.at_least_one(&["train.micro_batch_tokens"], train.micro_batch_tokens as u64);
    rules.at_least_one(&["train.vocab_chunk_tokens"], train.vocab_chunk_tokens as u64);
    rules.number(&["train.q_temperature"], train.q_temperature, true, "finite");
    rules.number(&["train.q_max"], train.q_max, train.q_max > 0.0, "above 0");
    rules.number(&["train.overlong_factor"], train.overlong_factor, train.overlong_factor >= 0.0, "at least 0");
    let low = train.clip_low;
    rules.number(&["train.clip_low"], low, low > 0.0 && low < 1.0, "between 0 and 1, both excluded");
    rules.number(&["train.clip_high"], train.clip_high, train.clip_high > 0.0, "above 0");
    rules.require(
        train.dual_clip.is_finite() && train.dual_clip > 1.0 + train.clip_high,
        &["train.dual_clip", "train.clip_high"],
        || {
            format!(
                "`train.dual_clip` is {}, must be above 1 + `train.clip_high` = {}",
                train.dual_clip,
                1.0 + train.clip_high
            )
        },
    );
    rules.require(train.threads <= MOST_THREADS, &["train.threads"], || {
        format!("`train.threads` is {}, must be at most {MOST_THREADS}", train.threads)
    });
    let cap = train.importance_cap;
    rules.number(&["train.importance_cap"], cap, cap == 0.0 || cap >= 1.0, "0 (off) or at least 1");
    let cap = train.cached_importance_cap;
    rules.number(&["train.cached_importance_cap"], cap, cap > 0.0, "above 0");
    rules.number(&["train.learning_rate"], train.learning_rate, train.learning_rate >= 0.0, "at least 0");
    rules.number(&["train.weight_decay"], train.weight_decay, train.weight_decay >= 0.0, "at least 0");
    let below_one = "at least 0 and below 1";
    rules.number(&["train.beta1"], train.beta1, (0.0..1.0).contains(&train.beta1), below_one);
    rules.number(&["train.beta2"], train.beta2, (0.0..1.0).contains(&train.beta2), below_one);
    rules.number(&["train.epsilon"], train.epsilon, train.epsilon > 0.0, "above 0");
    rules.number(&["train.max_grad_norm"], train.max_grad_norm, train.max_grad_norm >= 0.0, "at least 0");
    lora(config, rules);
}

fn lora(config: &Config, rules: &mut Rules) {
    let lora = &config.train.lora;
    rules.require(lora.rank <= MOST_RANK, &["train.lora.rank"], || {
        format!("`train.lora.rank` is {}, must be at most {MOST_RANK}", lora.rank)
    });
    rules.number(&["train.lora.alpha"], lora.alpha, lora.alpha > 0.0, "above 0");
    rules.require(!lora.targets.is_empty(), &["train.lora.targets"], || {
        "`train.lora.targets` is empty, so nothing would be trained; to train all weights set `train.lora.rank` = 0"
            .into()
    });
    for (index, target) in lora.targets.iter().enumerate() {
        rules.require(PROJECTIONS.contains(&target.as_str()), &["train.lora.targets"], || {
            format!("`train.lora.targets` has `{target}`; the projections are `{}`", PROJECTIONS.join("`, `"))
        });
        rules.require(!lora.targets[..index].contains(target), &["train.lora.targets"], || {
            format!("`train.lora.targets` has `{target}` twice")
        });
    }
}
