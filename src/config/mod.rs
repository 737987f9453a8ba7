//! The configuration: TOML text in, a checked [`Config`] out. Reading the file is the command line's work.
//!
//! Order: defaults, then those of the algorithm and of the rule set (`preset.rs`), then the files that the file builds on
//! (`source.rs`), the file, then `--set section.key=value`; nothing else. A layer that changes the algorithm or the rule
//! set brings their defaults along. No default hides elsewhere.

pub mod curriculum;
pub mod data;
pub mod error;
pub mod inference;
pub mod keys;
pub mod parse;
mod preset;
pub mod render;
pub mod run;
pub mod search;
pub mod source;
pub mod train;
pub mod validate;
pub mod verify;

pub use curriculum::{CurriculumConfig, EvalConfig, ReplayConfig};
pub use data::{DataConfig, PromptConfig, PromptKind};
pub use error::{ConfigError, ConfigErrors, Place};
pub use inference::{EngineKind, InferenceConfig, LogprobsMode, ServerDevice};
pub use parse::{parse, parse_sources};
pub use render::{hash, render};
pub use run::{Algorithm, KeepText, Pipeline, RunConfig};
pub use search::{
    Backtrace, DepthBonus, DynamicWidth, EntropyWidth, GammaRule, NegativeChoice, QUpdate, Rules, SearchConfig,
    SearchRules, Siblings, TerminalsKept, TieBreak, Unvisited, VisitRule,
};
pub use source::{Source, SourceError, sources};
pub use train::{
    AdvantageForm, ComputeDtype, DeviceChoice, ExportDtype, LoraConfig, LossMean, OldLogprobs, TokenCredit, TrainConfig,
};
pub use validate::{validate, validate_train, validate_verify};
pub use verify::{Doubtful, Extraction, Fallback, PercentRule, VerifyConfig};

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
    /// Rounds and the hard-subset filter.
    pub curriculum: CurriculumConfig,
    /// The cache of verified solutions.
    pub replay: ReplayConfig,
    /// Tree search.
    pub search: SearchConfig,
    /// The engine.
    pub inference: InferenceConfig,
    /// The trainer.
    pub train: TrainConfig,
    /// Final answers and their comparison.
    pub verify: VerifyConfig,
    /// Measuring the policy.
    pub eval: EvalConfig,
}

impl Config {
    /// `[verify]`, with the Python that `[inference]` names where it names none.
    pub fn verify_rules(&self) -> VerifyConfig {
        let mut rules = self.verify.clone();
        if let (true, Some(program)) = (rules.python.as_os_str().is_empty(), self.inference.command.first()) {
            rules.python = program.into();
        }
        rules
    }

    /// The largest number of whole answers that one request asks for; 0 where none does.
    pub fn most_rollouts(&self) -> u32 {
        let in_training = self.replay.enabled || self.run.algorithm != Algorithm::Deepsearch;
        let counts = [
            (in_training, self.search.trajectories),
            (self.curriculum.filter, self.curriculum.filter_samples),
            (!self.eval.problems.as_os_str().is_empty(), self.eval.samples),
        ];
        counts.into_iter().filter(|(is_asked, _)| *is_asked).map(|(_, count)| count).max().unwrap_or(0)
    }
}
