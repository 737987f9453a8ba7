//! Everything that changes the results of a benchmark, by name: what it may not be gone on with if it is different, and
//! what its folder is named after.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::{BenchmarkJob, PosedFile, hex, stem};
use crate::config::{EngineKind, render};
use crate::run::RunError;

/// Keys of `[verify]` that say where an answer is judged, not how. Limits of time and memory decide what stays undecided.
const FREE: [&str; 2] = ["python", "workers"];
/// What the model's tokenizer and chat template make of the problems: follows from nearly everything else, so it is named
/// where nothing else differs.
const PROMPTS: &str = "the model's tokenizer or chat template";
/// Hexadecimal digits by which a digest is named to people.
const SHOWN_DIGITS: usize = 16;

/// Names and values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings(BTreeMap<String, String>);

impl Settings {
    /// The settings of `job` on `files`.
    ///
    /// # Errors
    /// A path in the configuration that is not UTF-8.
    pub fn of(job: &BenchmarkJob, files: &[PosedFile], weights_digest: Option<&str>) -> Result<Settings, RunError> {
        let mut found = BTreeMap::new();
        let mut set = |name: &str, value: String| found.insert(name.to_owned(), value);
        set("--samples", job.samples.to_string());
        set("--temperature", job.sampling.temperature.to_string());
        set("--top-p", job.sampling.top_p.to_string());
        set("--max-tokens", job.max_tokens.to_string());
        set("--seed", job.seed.to_string());
        set("--limit", job.limit.to_string());
        let inference = &job.config.inference;
        match (inference.engine, weights_digest) {
            (EngineKind::Embedded, _) => {
                set("engine", "embedded".into());
                set("train.dtype", format!("{:?}", job.config.train.dtype).to_lowercase());
            }
            (EngineKind::Vllm, Some(_)) => {
                set("engine", "vllm".into());
                set("inference.dtype", inference.dtype.clone());
            }
            (EngineKind::Vllm, None) => {
                set("engine", "a running server".into());
                set("--served-model", job.served.clone().unwrap_or_default());
            }
        }
        if let Some(digest) = weights_digest {
            set("weights of the model", shown(digest));
        }
        let mut prompts = Sha256::new();
        for (number, file) in (1..).zip(files) {
            set(&format!("problem file {number}"), format!("{} {}", stem(&file.path), shown(&file.content_sha256)));
            for prompt in &file.problems.prompts {
                prompts.update((prompt.tokens.len() as u64).to_le_bytes());
                prompt.tokens.iter().for_each(|token| prompts.update(token.to_le_bytes()));
            }
        }
        set(PROMPTS, shown(&hex(&prompts.finalize())));
        // What was rendered a moment ago is TOML.
        let table: toml::Table = toml::from_str(&render(&job.config)?).unwrap_or_default();
        for section in ["prompt", "verify"] {
            let keys = table.get(section).and_then(toml::Value::as_table).into_iter().flatten();
            for (key, value) in keys.filter(|(key, _)| !FREE.contains(&key.as_str())) {
                set(&format!("{section}.{key}"), serde_json::json!(value).to_string());
            }
        }
        Ok(Settings(found))
    }

    /// As a JSON object.
    pub fn json(&self) -> String {
        serde_json::json!(self.0).to_string()
    }

    /// What differs from the settings that were recorded, in words.
    pub fn changes(&self, recorded: &str) -> Vec<String> {
        let recorded: BTreeMap<String, String> = serde_json::from_str(recorded).unwrap_or_default();
        let names: BTreeSet<&String> = self.0.keys().chain(recorded.keys()).collect();
        let mut differing: Vec<&String> =
            names.into_iter().filter(|&name| self.0.get(name) != recorded.get(name)).collect();
        if differing.len() > 1 {
            differing.retain(|name| *name != PROMPTS);
        }
        let value =
            |table: &BTreeMap<String, String>, name| table.get(name).map_or("nothing", String::as_str).to_owned();
        differing.into_iter().map(|name| change(name, &value(&recorded, name), &value(&self.0, name))).collect()
    }

    /// A folder name that is the same for the same model and settings, and another otherwise.
    pub fn folder_name(&self, model: &Path) -> String {
        let path = std::fs::canonicalize(model).unwrap_or_else(|_| model.to_owned());
        let name = path.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned());
        format!("{name}-{}", &hex(&Sha256::digest(self.json()))[..8])
    }
}

/// One difference.
pub fn change(name: &str, before: &str, now: &str) -> String {
    format!("`{name}` was `{before}` and is `{now}`")
}

fn shown(digest: &str) -> String {
    digest.chars().take(SHOWN_DIGITS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        Settings(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn every_difference_is_named_with_both_values() {
        let begun = settings(&[("--samples", "4"), ("--seed", "1"), ("problem file 2", "b 00")]);
        let wanted = settings(&[("--samples", "8"), ("--seed", "1"), ("problem file 3", "c 01")]);
        assert_eq!(begun.changes(&begun.json()), Vec::<String>::new());
        assert_eq!(
            wanted.changes(&begun.json()),
            [
                "`--samples` was `4` and is `8`",
                "`problem file 2` was `b 00` and is `nothing`",
                "`problem file 3` was `nothing` and is `c 01`"
            ]
        );
        let template = settings(&[("--samples", "4"), (PROMPTS, "00")]);
        let other = settings(&[("--samples", "4"), (PROMPTS, "01")]);
        assert_eq!(other.changes(&template.json()), [format!("`{PROMPTS}` was `00` and is `01`")]);
        let both = settings(&[("--samples", "5"), (PROMPTS, "01")]);
        assert_eq!(both.changes(&template.json()), ["`--samples` was `4` and is `5`"]);
        let name = begun.folder_name(Path::new("models/tiny"));
        assert_ne!(name, wanted.folder_name(Path::new("models/tiny")));
        assert_eq!(name, begun.folder_name(Path::new("models/tiny")));
        assert!(name.starts_with("tiny-") && name.len() == 13, "{name}");
    }
}
