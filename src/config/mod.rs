//! The configuration: TOML text in, a checked [`Config`] out. Reading the file is the command line's work.
//!
//! Order: defaults, then the file, then `--set section.key=value`; nothing else. No default hides elsewhere.

pub mod data;
pub mod error;
pub mod inference;
pub mod keys;
pub mod parse;
pub mod render;
pub mod run;
pub mod search;
pub mod train;
pub mod validate;

pub use data::{DataConfig, PromptConfig, PromptKind};
pub use error::{ConfigError, ConfigErrors, Place};
pub use inference::{EngineKind, InferenceConfig, LogprobsMode, ServerDevice};
pub use parse::parse;
pub use render::{hash, render};
pub use run::RunConfig;
pub use search::{
    Backtrace, DepthBonus, DynamicWidth, GammaRule, Rules, SearchConfig, SearchRules, TerminalsKept, TieBreak,
    Unvisited, VisitRule,
};
pub use train::{AdvantageForm, ComputeDtype, DeviceChoice, ExportDtype, OldLogprobs, TrainConfig};
pub use validate::validate;

use serde::{Deserialize, Serialize};

/// Everything a run depends on. Same configuration, same data, same engine answers: same run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The run itself: model, folder, seed, length.
    pub run: RunConfig,
    /// Where problems come from.
    pub data: DataConfig,
    /// How a problem is posed.
    pub prompt: PromptConfig,
    /// Tree search.
    pub search: SearchConfig,
    /// The engine.
    pub inference: InferenceConfig,
    /// The trainer.
    pub train: TrainConfig,
}
