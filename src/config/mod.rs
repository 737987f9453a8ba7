//! The configuration: TOML text in, a checked [`Config`] out. Reading the file is the command line's work.
//!
//! Order: defaults, then the file, then `--set section.key=value`; nothing else. No default hides elsewhere.

pub mod data;
pub mod inference;
pub mod run;
pub mod search;
pub mod train;

pub use data::{DataConfig, PromptConfig, PromptKind};
pub use inference::{InferenceConfig, LogprobsMode, ServerDevice};
pub use run::RunConfig;
pub use search::{Backtrace, DepthBonus, Rules, SearchConfig};
pub use train::{AdvantageForm, ComputeDtype, DeviceChoice, OldLogprobs, TrainConfig};

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
    /// The server.
    pub inference: InferenceConfig,
    /// The trainer.
    pub train: TrainConfig,
}
