//! `[data]` and `[prompt]`: where problems come from and how they are posed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where problems come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// JSON lines or parquet with the training problems.
    pub problems: PathBuf,
    /// Use only the first n problems of the file; 0 is all.
    pub limit: usize,
    /// Shuffle the problems anew in every epoch (by the run's seed). Changes results.
    pub shuffle: bool,
}

impl Default for DataConfig {
    fn default() -> Self {
        DataConfig { problems: PathBuf::new(), limit: 0, shuffle: true }
    }
}

/// How the problem becomes a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptKind {
    /// The model's own chat template, one user turn.
    Chat,
    /// `prefix`, then the problem inside `format`, as plain text.
    Plain,
}

/// How a problem is posed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptConfig {
    /// Chat template or plain text.
    pub kind: PromptKind,
    /// Text before the problem: an instruction or worked examples.
    pub prefix: String,
    /// The problem's place, as `{problem}`.
    pub format: String,
    /// Texts that end an answer.
    pub stop: Vec<String>,
    /// Longest prompt in tokens (the paper: 2,048, cut at the left).
    pub max_tokens: usize,
}

impl Default for PromptConfig {
    fn default() -> Self {
        PromptConfig {
            kind: PromptKind::Chat,
            prefix: String::new(),
            format: "{problem} Let's think step by step and output the final answer within \\boxed{}.".into(),
            stop: Vec::new(),
            max_tokens: 2048,
        }
    }
}
