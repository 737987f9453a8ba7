//! Which run of a folder goes on, and what may be changed about it meanwhile.

use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::store::{Reader, RunRow, Store, StoreError};
use crate::types::RunId;

use super::{DATABASE, RunError};

/// Keys that a resumed run may have other values of than it began with: they change where and how fast it runs, and of what
/// comes out the last bits at most. `run.steps` is one of them as long as there is one round: its steps are not divided
/// otherwise by it. More `run.max_generated_tokens` only move the end.
const FREE: [&str; 20] = [
    "run.dir",
    "run.model",
    "run.weights_dir",
    "run.keep_every",
    "run.checkpoint_every",
    "run.checkpoints_kept",
    "run.keep_text",
    "run.keep_logprobs",
    "run.canary_tolerance_nats",
    "data.problems",
    "eval.problems",
    "eval.every",
    "train.device",
    "train.threads",
    "train.micro_batch_tokens",
    "train.vocab_chunk_tokens",
    "train.checkpoint_activations",
    "train.memory_limit_mib",
    "train.offload_optimizer",
    "search.event_log",
];

/// A run that can go on.
#[derive(Clone, Debug)]
pub struct Resumable {
    /// Its row.
    pub row: RunRow,
    /// Its folder.
    pub dir: PathBuf,
    /// How far it has come.
    pub spent: Spent,
}

/// What a run has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Steps that are over.
    pub steps: u64,
    /// Tokens sampled by them and by filters: what `run.max_generated_tokens` is held against.
    pub generated_tokens: u64,
}

impl Spent {
    /// Of the run `run`.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn read(reader: &Reader, run: RunId) -> Result<Spent, StoreError> {
        let steps = reader.done_steps(run).await?;
        let in_steps: u64 = steps.iter().filter_map(|step| Some(step.end.as_ref()?.generated_tokens)).sum();
        let in_filters: u64 = reader.round_summary(run).await?.iter().map(|round| round.generated_tokens).sum();
        Ok(Spent { steps: steps.len() as u64, generated_tokens: in_steps + in_filters })
    }

    /// The keys that let a run of this configuration go no further, though it may have more to do.
    pub fn limits(&self, config: &Config) -> Vec<&'static str> {
        let most = config.run.max_generated_tokens;
        let mut keys = Vec::new();
        if most > 0 && self.generated_tokens >= most {
            keys.push("run.max_generated_tokens");
        }
        // Where there are several rounds they divide the steps among them, and that cannot be changed.
        if self.steps >= u64::from(config.run.steps) && config.curriculum.rounds == 1 {
            keys.push("run.steps");
        }
        keys
    }
}

/// The newest run in the folder `dir`, or the one that is named.
///
/// # Errors
/// There is no database or no such run.
pub async fn resumable(dir: &Path, run: Option<RunId>) -> Result<Resumable, RunError> {
    let path = dir.join(DATABASE);
    if !path.exists() {
        return Err(RunError::NothingToResume { dir: dir.to_owned() });
    }
    // Opened for writing: a process that was killed at its very start may have left a database without tables.
    let store = Store::open(&path).await?;
    let row = match run {
        Some(run) => store.reader().run(run).await,
        None => store.reader().latest_run().await,
    };
    let spent = match &row {
        Ok(Some(row)) => Spent::read(store.reader(), row.run_id).await,
        _ => Ok(Spent::default()),
    };
    store.close().await?;
    let row = row?;
    let row = row.ok_or_else(|| RunError::NothingToResume { dir: dir.to_owned() })?;
    Ok(Resumable { row, dir: dir.to_owned(), spent: spent? })
}

/// The keys in which `wanted` differs from what the run was `begun` with and may not.
///
/// # Errors
/// A path in the configuration that is not UTF-8.
pub fn changed_keys(begun: &Config, wanted: &Config) -> Result<Vec<String>, RunError> {
    let table = |config: &Config| -> Result<toml::Table, RunError> {
        let text = crate::config::render(config)?;
        // What was rendered a line above is TOML.
        Ok(toml::from_str(&text).unwrap_or_default())
    };
    let (begun_table, wanted_table) = (table(begun)?, table(wanted)?);
    let keys = |table: &toml::Table| -> Vec<String> {
        let sections = table.iter().filter_map(|(section, keys)| Some((section, keys.as_table()?)));
        sections.flat_map(|(section, keys)| keys.keys().map(move |key| format!("{section}.{key}"))).collect()
    };
    let value = |table: &toml::Table, name: &str| {
        let (section, key) = name.split_once('.')?;
        table.get(section)?.get(key).cloned()
    };
    let mut names = keys(&begun_table);
    names.extend(keys(&wanted_table));
    names.sort_unstable();
    names.dedup();
    let one_round = begun.curriculum.rounds == 1 && wanted.curriculum.rounds == 1;
    names.retain(|name| {
        let is_free = FREE.contains(&name.as_str())
            || (name.starts_with("inference.") && name != "inference.engine")
            || (name == "run.steps" && one_round)
            || (name == "run.max_generated_tokens" && has_more_tokens(begun, wanted));
        !is_free && value(&begun_table, name) != value(&wanted_table, name)
    });
    Ok(names)
}

/// Whether `wanted` lets a run sample more than it was begun with.
pub fn has_more_tokens(begun: &Config, wanted: &Config) -> bool {
    let (begun, wanted) = (begun.run.max_generated_tokens, wanted.run.max_generated_tokens);
    begun != 0 && (wanted == 0 || wanted > begun)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_run_is_named() {
        let mut config = Config::default();
        config.run.steps = 4;
        config.run.max_generated_tokens = 1000;
        let limits = |steps, generated_tokens| Spent { steps, generated_tokens }.limits(&config);
        assert_eq!(limits(3, 999), Vec::<&str>::new());
        assert_eq!(limits(3, 1000), ["run.max_generated_tokens"]);
        assert_eq!(limits(4, 10), ["run.steps"]);
        assert_eq!(limits(4, 1200), ["run.max_generated_tokens", "run.steps"]);
        let mut rounds = config.clone();
        rounds.curriculum.rounds = 2;
        assert_eq!(Spent { steps: 4, generated_tokens: 10 }.limits(&rounds), Vec::<&str>::new());
    }

    #[test]
    fn what_changes_results_may_not_change() {
        let begun = Config::default();
        let mut wanted = begun.clone();
        wanted.run.dir = "elsewhere".into();
        wanted.run.steps += 10;
        wanted.inference.max_sequences = 3;
        wanted.train.threads = 1;
        assert_eq!(changed_keys(&begun, &wanted).unwrap(), Vec::<String>::new());
        wanted.run.max_generated_tokens = 100;
        assert_eq!(changed_keys(&begun, &wanted).unwrap(), ["run.max_generated_tokens"]);
        assert_eq!(changed_keys(&wanted, &begun).unwrap(), Vec::<String>::new(), "no limit is more than any");
        wanted.run.max_generated_tokens = 0;
        wanted.train.learning_rate *= 2.0;
        wanted.search.dynamic_width = Some(crate::config::DynamicWidth { min_width: 1, decay: 1 });
        wanted.curriculum.rounds = 2;
        assert_eq!(
            changed_keys(&begun, &wanted).unwrap(),
            ["curriculum.rounds", "run.steps", "search.dynamic_width", "train.learning_rate"]
        );
    }
}
