//! The nouns that travel between parts: plain data, no IO, no async, no tensors, no SQL.
//!
//! A part never hands its own types to a sibling; whatever crosses a border is defined here.

pub mod ids;
pub mod tokens;
pub mod trajectory;
pub mod verdict;
pub mod weights;

pub use ids::{BenchmarkId, NodeId, ProblemId, RoundId, RunId, SolutionId, StepId, TreeId, WeightVersion};
pub use tokens::{Continuation, FinishReason, GenerateRequest, Prompt, Sampling, TokenId};
pub use trajectory::{GroupNode, Provenance, Trajectory, TrajectoryGroup, TreeKind};
pub use verdict::{Defect, Verdict};
pub use weights::{WeightManifest, WeightTensor};
