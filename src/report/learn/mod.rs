//! What came of a suite of runs, from their databases alone: accuracy on held-out problems against what was spent, over
//! seeds; what it takes to get as far as a baseline; and, where nothing was trained, what trees cost.
//!
//! Every run that the suite stands for is there: one that failed keeps its last measurement to the end, one that is not
//! over says so, and none is left out of a mean.

mod compare;
mod curve;
mod plot;
mod read;
mod search;
mod table;

pub use compare::{Level, TaskReport, compare};
pub use curve::{Axis, Interval, Point, RunCurve};
pub use plot::plot;
pub use read::{Place, Standing, read_curve, read_trees};
pub use search::{Strategy, StrategyRow, search_markdown, search_rows};
pub use table::learn_markdown;
