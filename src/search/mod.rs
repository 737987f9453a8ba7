//! The tree search of one problem: Monte Carlo tree search as in DeepSearch (arXiv 2509.25454).
//!
//! A [`Tree`] is a state machine that never waits. [`Tree::next`] says which node to expand with how many
//! continuations, or that the search is over; [`Tree::supply`] takes the continuations, the terminal ones with their
//! verdicts. In between the driver may take any time, so thousands of trees run side by side, each at its own pace.
//!
//! ```text
//! supply ── children ── ROUND ── backup of the chosen terminals ── UCT child | frontier ── full? ROUND again
//!                                                                                      └── next() = Expand
//! ```
//!
//! Invariants:
//! - Pure: no IO, no clock. The same settings, the same seed and the same continuations give the same tree.
//! - A node is expanded once, or in portions (`siblings = "lazy"`); it never has more children than its width, and their
//!   ids are larger than its own and follow each other within a portion.
//! - A terminal is backed up at most once and never expanded; one whose check failed is never backed up at all.
//! - A node once on the path of a correct terminal is never negative, under the constrained update.
//! - A call that fails leaves the tree as it was.
//!
//! Deliberately absent: text (the driver decodes and verifies), tensors, storage, and sampling among children.
//! Randomness is in the continuations; the search draws a number of its own only where `negative = "random"` asks for
//! one, and then it depends on the tree's seed and the number of its backups alone.

mod backup;
mod budget;
mod entropy;
mod error;
mod event;
mod frontier;
mod harvest;
mod node;
mod terminal;
mod tree;
mod uct;

pub use budget::{Spent, StopReason};
pub use entropy::mean_entropy_nats;
pub use error::SearchError;
pub use event::{Event, ScoreParts, SelectKind, Selection};
pub use harvest::harvest;
pub use node::NodeRef;
pub use terminal::{CORRECT_REWARD, Ending, SpecialTokens, reward};
pub use tree::{Child, Next, Tree};
