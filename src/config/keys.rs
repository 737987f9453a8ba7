//! Which keys exist, learned from the structs themselves, and which of them a wrong name probably meant.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::value::{Error, MapDeserializer, StrDeserializer};
use serde::de::{Deserializer, IntoDeserializer, Visitor};

use super::Config;

/// Other names of our keys: those of the published DeepSearch code and of the common trainers.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("adv_estimator", "run.algorithm"),
    ("adv_norm_method", "train.advantage"),
    ("adv_temperature", "train.q_temperature"),
    ("backtrace_method", "search.backtrace"),
    ("backup_threshold", "search.gamma_min"),
    ("buffer_register_threshold", "replay.max_pass_rate"),
    ("clip_grad", "train.max_grad_norm"),
    ("clip_ratio_c", "train.dual_clip"),
    ("clip_ratio_high", "train.clip_high"),
    ("clip_ratio_low", "train.clip_low"),
    ("depth_bonus_type", "search.depth_bonus"),
    ("dynamic_width_config", "search.dynamic_width"),
    ("epsilon_high", "train.clip_high"),
    ("eval_steps", "eval.every"),
    ("expansion_width", "search.width"),
    ("filter_groups", "curriculum.dynamic_sampling"),
    ("force_to_frontier", "search.frontier_leaves_only"),
    ("global_lambda1", "search.frontier_value_weight"),
    ("global_lambda2", "search.frontier_entropy_weight"),
    ("global_lambda3", "search.frontier_depth_weight"),
    ("incomplete_score", "search.incomplete_reward"),
    ("involve_uncertainty_bonus", "search.uncertainty_bonus"),
    ("lambda_puct", "search.uct_lambda"),
    ("lora_alpha", "train.lora"),
    ("lora_rank", "train.lora"),
    ("loss_agg_mode", "train.loss_mean"),
    ("lr", "train.learning_rate"),
    ("lr_warmup_steps", "train.warmup_steps"),
    ("max_actor_ckpt_to_keep", "run.checkpoints_kept"),
    ("max_model_len", "inference.max_model_tokens"),
    ("max_num_gen_batches", "curriculum.dynamic_sampling"),
    ("max_num_seqs", "inference.max_sequences"),
    ("max_prompt_length", "prompt.max_tokens"),
    ("max_token_len_per_gpu", "train.micro_batch_tokens"),
    ("norm_adv_by_std_in_grpo", "train.advantage"),
    ("num_generations", "search.trajectories"),
    ("overlong_buffer_len", "train.overlong_buffer_tokens"),
    ("penalty_factor", "train.overlong_factor"),
    ("ppo_mini_batch_size", "train.minibatch_problems"),
    ("q_value_max", "train.q_max"),
    ("save_freq", "run.checkpoint_every"),
    ("save_steps", "run.checkpoint_every"),
    ("save_total_limit", "run.checkpoints_kept"),
    ("scale_rewards", "train.advantage"),
    ("step_response_length", "search.step_tokens"),
    ("terminate_num", "search.trajectories"),
    ("test_freq", "eval.every"),
    ("tis_imp_ratio_cap", "train.importance_cap"),
    ("total_training_steps", "run.steps"),
    ("train_batch_size", "run.problems_per_step"),
    ("train_files", "data.problems"),
    ("use_step_wise_score", "train.token_credit"),
    ("val_files", "eval.problems"),
];

/// Below this similarity (0 to 1) a name is not a slip of the pen.
const LEAST_SIMILARITY: f64 = 0.55;

/// Every section with its keys, as the structs declare them.
pub fn known_keys() -> BTreeMap<&'static str, &'static [&'static str]> {
    let mut sections: &[&str] = &[];
    let _ = Config::deserialize(Probe { found: &mut sections });
    let mut known = BTreeMap::new();
    for section in sections {
        let mut keys: &[&str] = &[];
        let entry =
            std::iter::once((section.into_deserializer() as StrDeserializer<'_, Error>, Probe { found: &mut keys }));
        let _ = Config::deserialize(MapDeserializer::new(entry));
        known.insert(*section, keys);
    }
    known
}

/// The section that `name` probably meant.
pub(super) fn nearest_section(name: &str) -> Option<String> {
    best(name, known_keys().into_keys().map(|section| (section.to_string(), section.to_string())))
        .map(|section| format!("[{section}]"))
}

/// The `section.key` that `key` in `section` probably meant: another name of it, then a key of the same section, then
/// the same key of another section.
pub(super) fn nearest_key(section: &str, key: &str) -> Option<String> {
    if let Some((_, ours)) = OTHER_NAMES.iter().find(|(other, _)| *other == key) {
        return Some((*ours).to_string());
    }
    let known = known_keys();
    let elsewhere = known.iter().find(|(_, keys)| keys.contains(&key)).map(|(home, _)| format!("{home}.{key}"));
    let here = || {
        let keys = known.get(section).copied().unwrap_or_default();
        best(key, keys.iter().map(|name| (name.to_string(), format!("{section}.{name}"))))
    };
    let anywhere = || {
        let all = known.iter().flat_map(|(home, keys)| keys.iter().map(move |name| (*home, *name)));
        best(key, all.map(|(home, name)| (name.to_string(), format!("{home}.{name}"))))
    };
    elsewhere.or_else(here).or_else(anywhere)
}

/// Of `(name, result)`, the result whose name is most like `wanted`.
fn best(wanted: &str, candidates: impl Iterator<Item = (String, String)>) -> Option<String> {
    let wanted = wanted.to_lowercase();
    candidates
        .map(|(name, result)| (strsim::normalized_damerau_levenshtein(&wanted, &name), result))
        .filter(|(similarity, _)| *similarity >= LEAST_SIMILARITY)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, result)| result)
}

/// A deserializer that holds no data: it only notes which fields a struct asks for.
struct Probe<'a> {
    found: &'a mut &'static [&'static str],
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Error> {
        *self.found = fields;
        Err(serde::de::Error::custom("only the names were wanted"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(serde::de::Error::custom("not a struct"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Error> for Probe<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_structs() {
        let known = known_keys();
        let written = toml::Table::try_from(Config::default()).unwrap();
        for (section, table) in &written {
            for key in table.as_table().unwrap().keys() {
                assert!(known[section.as_str()].contains(&key.as_str()), "{section}.{key}");
            }
        }
        assert_eq!(known.len(), written.len());
    }

    #[test]
    fn other_names_point_at_existing_keys() {
        let known = known_keys();
        for (other, ours) in OTHER_NAMES {
            let (section, key) = ours.split_once('.').unwrap();
            assert!(known[section].contains(&key), "{other} -> {ours}");
        }
    }
}
