//! Identifiers, one newtype per kind, so that a tree number is never taken for a step number.

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// Row of `run` in the store.
    RunId(i64)
}
id! {
    /// Row of `problem` in the store. The problem's own `id` in its file is a string, kept as `name`.
    ProblemId(i64)
}
id! {
    /// Row of `tree` in the store.
    TreeId(i64)
}
id! {
    /// Number of a training step within its run, from 1.
    StepId(i64)
}
id! {
    /// Number of a round within its run, from 1.
    RoundId(i64)
}
id! {
    /// Row of `benchmark` in the store.
    BenchmarkId(i64)
}
id! {
    /// Row of `solution` in the store.
    SolutionId(i64)
}
id! {
    /// Index of a node in its tree's arena; the root is 0 and a parent is always smaller than its children.
    NodeId(u32)
}
id! {
    /// Number of an update of the policy: 0 is the model as loaded, every published update adds one.
    WeightVersion(u64)
}

impl NodeId {
    /// The root of every tree.
    pub const ROOT: NodeId = NodeId(0);

    /// Position in the arena.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl WeightVersion {
    /// The model as it was loaded.
    pub const INITIAL: WeightVersion = WeightVersion(0);

    /// The version that follows this one.
    pub fn next(self) -> WeightVersion {
        WeightVersion(self.0 + 1)
    }
}
