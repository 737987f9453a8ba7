//! What has to fit into what.

use super::Rules;
use crate::config::Config;

/// The rules, in tokens.
pub(super) fn budgets(config: &Config, rules: &mut Rules) {
    let search = &config.search;
    let response = u64::from(search.max_depth) * u64::from(search.step_tokens);
    let prompt = config.prompt.max_tokens as u64;
    let path = response.saturating_add(prompt);
    let budget = || {
        format!(
            "`search.max_depth` x `search.step_tokens` = {} x {} = {response} response tokens",
            search.max_depth, search.step_tokens
        )
    };
    rules.require(response <= u64::from(u32::MAX), &["search.max_depth", "search.step_tokens"], || {
        format!("{} are more than {}", budget(), u32::MAX)
    });
    let context = config.inference.max_model_tokens as u64;
    rules.require(
        path <= context,
        &["search.max_depth", "search.step_tokens", "inference.max_model_tokens", "prompt.max_tokens"],
        || {
            format!(
                "{} do not fit: `inference.max_model_tokens` = {context} less `prompt.max_tokens` = {prompt} leaves {}",
                budget(),
                context.saturating_sub(prompt)
            )
        },
    );
    let micro_batch = config.train.micro_batch_tokens as u64;
    rules.require(
        path <= micro_batch,
        &["search.max_depth", "search.step_tokens", "prompt.max_tokens", "train.micro_batch_tokens"],
        || {
            format!(
                "{} and `prompt.max_tokens` = {prompt} exceed `train.micro_batch_tokens` = {micro_batch}: the longest \
                 answer would not fit into one forward pass",
                budget()
            )
        },
    );
    let buffer = u64::from(config.train.overlong_buffer_tokens);
    rules.require(
        buffer == 0 || buffer < response,
        &["train.overlong_buffer_tokens", "search.max_depth", "search.step_tokens"],
        || format!("`train.overlong_buffer_tokens` = {buffer} is not below {}; 0 turns it off", budget()),
    );
}
