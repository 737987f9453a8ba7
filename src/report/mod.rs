//! Reading results back for people: listings, one tree in the terminal, and the same as data for JSON.
//!
//! Functions take rows of the store and return text or structs that serialise; printing is the command line's work. Every
//! text that came from a model or a data file passes through [`text`], so that it cannot control the terminal. There is
//! no SQL here: questions are views, read by the store.

pub mod benchmark;
pub mod card;
pub mod database;
pub mod learn;
pub mod listing;
pub mod summary;
pub mod table;
pub mod text;
pub mod tree;
pub mod watch;

pub use benchmark::{BenchmarkReport, FileReport, ProblemReport, Scores, benchmark_report, benchmark_table};
pub use card::{Card, CardError, CardSource, MeasuredBenchmark, Origin, card_text, measured_benchmark};
pub use database::{bytes_text, findings_table, pruned_text, size_table, vacuumed_text};
pub use summary::{RunSummary, run_summary, summary_markdown};
pub use table::{
    learning_table, mistakes_text, rounds_table, runs_table, solutions_table, steps_table, token_use_table,
    trees_table, weights_table,
};
pub use tree::{NodeReport, TreeReport, TreeStyle, tree_report, tree_text};
pub use watch::{Glance, RunView, learning_line, run_view, step_line, view_text};
