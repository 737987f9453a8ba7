//! Measured rounds to figures: medians, and ratios between modes of the same round.

use std::collections::BTreeMap;

use serde::Serialize;

use super::recorder::Recorded;
use super::{Mode, RolloutBenchSpec, is_in_process, machine};
use crate::inference::Capabilities;

/// Tokens per second of the search over those of a plain load generator, at least.
const AIM_TOKENS_RATIO: f64 = 0.97;
/// Seconds per tree of the search over those in lock step, at most.
const AIM_TREE_RATIO: f64 = 0.5;
/// Processor time in percent of one core per 1000 generated tokens per second, at most.
const AIM_PROCESSOR_PERCENT: f64 = 2.0;

/// What was measured. The names are those of the JSON line and stay.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RolloutBench {
    /// `rollout`.
    pub bench: &'static str,
    /// The model's folder.
    pub model: String,
    /// The engine's own name and version.
    pub engine: String,
    /// Whether it computes in this process.
    pub is_in_process: bool,
    /// The processor's name.
    pub device_name: Option<String>,
    /// Sequences that the engine takes at once.
    pub max_sequences: usize,
    /// Problem file; null: made-up prompts.
    pub problems: Option<String>,
    /// Tokens of the longest prompt.
    pub longest_prompt_tokens: usize,
    /// Trees of each mode.
    pub tree_count: usize,
    /// `search.width`.
    pub width: u32,
    /// `search.step_tokens`.
    pub step_tokens: u32,
    /// `search.max_depth`.
    pub max_depth: u32,
    /// `search.trajectories`.
    pub trajectories: u32,
    /// Trees of a batch in lock step.
    pub lock_step_trees: usize,
    /// Seed of the search.
    pub seed: u64,
    /// One entry for each mode.
    pub modes: Vec<ModeFigures>,
    /// Tokens per second of `search` over `plain`.
    pub search_to_plain: Option<Ratio>,
    /// Tokens per second of `search` over `saturated`.
    pub search_to_saturated: Option<Ratio>,
    /// Seconds per tree of `search` over `lock-step`.
    pub search_to_lock_step: Option<Ratio>,
    /// Processor time of the orchestrator's process in `search`, in percent of one core per 1000 generated tokens per second;
    /// null where the engine computes in the same process. Processes of Math-Verify are not in it.
    pub processor_percent: Option<Ratio>,
}

/// A ratio with what it should be.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// Median over rounds.
    pub value: f64,
    /// Each round's.
    pub rounds: Vec<f64>,
    /// At least this, or at most this where less is better; null: only for information.
    pub aim: Option<f64>,
    /// Whether it is reached.
    pub is_met: Option<bool>,
}

/// One mode. Rates are medians over rounds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModeFigures {
    /// `search`, `lock-step`, `plain` or `saturated`.
    pub mode: &'static str,
    /// Each round's time.
    pub wall_s: Vec<f64>,
    /// Each round's tokens.
    pub generated_tokens: Vec<u64>,
    /// Each round's requests.
    pub request_count: Vec<u64>,
    /// Tokens per second.
    pub tokens_per_s: f64,
    /// Seconds per finished tree.
    pub s_per_tree: f64,
    /// Finished trees per hour.
    pub trees_per_hour: f64,
    /// Processor time of this process in each round; null where the system does not say.
    pub processor_s: Vec<Option<f64>>,
    /// Largest memory of this process in each round.
    pub peak_resident_bytes: Vec<Option<u64>>,
    /// Most trees under way at once; 0 where requests are independent.
    pub most_trees: usize,
    /// Sequences asked for at a time, mean.
    pub mean_sequences: f64,
    /// Tokens of prompts and paths that were in the prefix cache; null where the engine does not say.
    pub reused_tokens: Option<f64>,
    /// Those that had to be read; null where the engine does not say.
    pub prefill_tokens: Option<f64>,
    /// Share of these that was in the prefix cache, as the embedded engine counts them or a server says; null where neither
    /// does.
    pub reused_frac: Option<f64>,
    /// All counts of the engine, in the last round.
    pub engine_counts: BTreeMap<&'static str, f64>,
    /// Trees that the engine refused, in all rounds.
    pub failed_tree_count: usize,
    /// SHA-256 over all requests and answers, tree by tree, of the first round; null where nothing is searched.
    pub trees_digest: Option<String>,
}

/// One mode in one round.
#[derive(Clone, Debug)]
pub struct Round {
    /// Which round, from 1.
    pub number: u32,
    /// Which mode.
    pub mode: Mode,
    /// Trees grown.
    pub trees: usize,
    /// Time.
    pub wall_s: f64,
    /// Processor time of this process.
    pub processor_s: Option<f64>,
    /// Largest memory of this process.
    pub peak_resident_bytes: Option<u64>,
    /// Tokens sampled.
    pub generated_tokens: u64,
    /// Requests answered.
    pub request_count: u64,
    /// Sequences asked for at a time.
    pub mean_sequences: f64,
    /// Most trees under way at once.
    pub most_trees: usize,
    /// What the engine counted.
    pub counts: BTreeMap<&'static str, f64>,
    /// Trees that were refused.
    pub failed_trees: usize,
    /// Digest of the trees.
    pub trees_digest: Option<String>,
}

impl Round {
    /// Nothing measured yet.
    pub fn new(mode: Mode) -> Round {
        Round {
            number: 0,
            mode,
            trees: 0,
            wall_s: 0.0,
            processor_s: None,
            peak_resident_bytes: None,
            generated_tokens: 0,
            request_count: 0,
            mean_sequences: 0.0,
            most_trees: 0,
            counts: BTreeMap::new(),
            failed_trees: 0,
            trees_digest: None,
        }
    }

    /// Takes over what passed between search and engine.
    pub fn recorded(&mut self, recorded: &Recorded, failed_trees: usize, most_trees: usize) {
        self.generated_tokens = recorded.generated_tokens;
        self.request_count = recorded.request_count;
        self.mean_sequences = recorded.mean_sequences;
        self.trees_digest = Some(recorded.trees_digest.clone());
        (self.failed_trees, self.most_trees) = (failed_trees, most_trees);
    }

    /// One line for people.
    pub fn line(&self, rounds: u32) -> String {
        format!(
            "round {}/{rounds} {}: {} tokens in {:.1} s, {:.1} tokens/s",
            self.number,
            self.mode.as_str(),
            self.generated_tokens,
            self.wall_s,
            self.tokens_per_s()
        )
    }

    fn tokens_per_s(&self) -> f64 {
        self.generated_tokens as f64 / self.wall_s
    }

    fn s_per_tree(&self) -> f64 {
        self.wall_s / self.trees.max(1) as f64
    }

    /// Percent of one core at 1000 generated tokens per second.
    fn processor_percent(&self) -> Option<f64> {
        Some(100.0 * self.processor_s? / (self.generated_tokens as f64 / 1000.0))
    }
}

/// The figures of all rounds.
pub fn figures(
    spec: &RolloutBenchSpec,
    capabilities: &Capabilities,
    longest_prompt_tokens: usize,
    rounds: Vec<Round>,
) -> RolloutBench {
    let search = &spec.config.search;
    let of = |mode: Mode| rounds.iter().filter(move |round| round.mode == mode);
    let ratio = |mode: Mode, figure: fn(&Round) -> f64| -> Vec<f64> {
        of(Mode::Search).zip(of(mode)).map(|(ours, other)| figure(ours) / figure(other)).collect()
    };
    let processor = of(Mode::Search).filter_map(Round::processor_percent).collect();
    let in_process = is_in_process(spec);
    RolloutBench {
        bench: "rollout",
        model: spec.config.run.model.display().to_string(),
        engine: capabilities.engine.clone(),
        is_in_process: in_process,
        device_name: machine::processor(),
        max_sequences: capabilities.max_sequences,
        problems: spec.problems.as_ref().map(|path| path.display().to_string()),
        longest_prompt_tokens,
        tree_count: spec.trees,
        width: search.width,
        step_tokens: search.step_tokens,
        max_depth: search.max_depth,
        trajectories: search.trajectories,
        lock_step_trees: spec.lock_step_trees,
        seed: spec.config.run.seed,
        search_to_plain: Ratio::of(ratio(Mode::Plain, Round::tokens_per_s), Some(AIM_TOKENS_RATIO), true),
        search_to_saturated: Ratio::of(ratio(Mode::Saturated, Round::tokens_per_s), None, true),
        search_to_lock_step: Ratio::of(ratio(Mode::LockStep, Round::s_per_tree), Some(AIM_TREE_RATIO), false),
        processor_percent: Ratio::of(processor, Some(AIM_PROCESSOR_PERCENT), false).filter(|_| !in_process),
        modes: Mode::ALL.into_iter().filter_map(|mode| ModeFigures::of(mode, of(mode).collect())).collect(),
    }
}

impl Ratio {
    fn of(rounds: Vec<f64>, aim: Option<f64>, more_is_better: bool) -> Option<Ratio> {
        let value = median(&rounds)?;
        let is_met = aim.map(|aim| if more_is_better { value >= aim } else { value <= aim });
        Some(Ratio { value, rounds, aim, is_met })
    }
}

impl ModeFigures {
    fn of(mode: Mode, rounds: Vec<&Round>) -> Option<ModeFigures> {
        let last = rounds.last()?;
        let middle = |figure: fn(&Round) -> f64| median(&rounds.iter().map(|round| figure(round)).collect::<Vec<_>>());
        let s_per_tree = middle(Round::s_per_tree)?;
        let count = |name: &str| last.counts.get(name).copied();
        Some(ModeFigures {
            mode: mode.as_str(),
            wall_s: rounds.iter().map(|round| round.wall_s).collect(),
            generated_tokens: rounds.iter().map(|round| round.generated_tokens).collect(),
            request_count: rounds.iter().map(|round| round.request_count).collect(),
            tokens_per_s: middle(Round::tokens_per_s)?,
            s_per_tree,
            trees_per_hour: 3600.0 / s_per_tree,
            processor_s: rounds.iter().map(|round| round.processor_s).collect(),
            peak_resident_bytes: rounds.iter().map(|round| round.peak_resident_bytes).collect(),
            most_trees: last.most_trees,
            mean_sequences: middle(|round| round.mean_sequences)?,
            reused_tokens: count("engine_reused_tokens"),
            prefill_tokens: count("engine_prefill_tokens"),
            reused_frac: reused_frac(&last.counts),
            engine_counts: last.counts.clone(),
            failed_tree_count: rounds.iter().map(|round| round.failed_trees).sum(),
            trees_digest: rounds.first().and_then(|round| round.trees_digest.clone()),
        })
    }
}

/// Share of prompt and path tokens that were in the prefix cache.
fn reused_frac(counts: &BTreeMap<&'static str, f64>) -> Option<f64> {
    let count = |name: &str| counts.get(name).copied();
    match (count("engine_reused_tokens"), count("engine_prefill_tokens")) {
        (Some(reused), Some(read)) => Some(reused / (reused + read).max(1.0)),
        _ => count("server_prefix_hit_frac"),
    }
}

/// The middle one, or the mean of the two in the middle; `None` without any.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted.get((sorted.len().max(1) - 1) / 2)?, sorted.get(sorted.len() / 2)?);
    Some(low.midpoint(*high))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(mode: Mode, number: u32, wall_s: f64, tokens: u64) -> Round {
        let processor_s = Some(0.01);
        Round { number, wall_s, generated_tokens: tokens, trees: 4, processor_s, ..Round::new(mode) }
    }

    #[test]
    fn either_engine_says_how_much_was_in_its_cache() {
        for (counts, expected) in [
            (vec![("engine_reused_tokens", 30.0), ("engine_prefill_tokens", 10.0)], Some(0.75)),
            (vec![("engine_reused_tokens", 0.0), ("engine_prefill_tokens", 0.0)], Some(0.0)),
            (vec![("server_prefix_hit_frac", 0.5), ("server_replicas", 1.0)], Some(0.5)),
            (vec![("server_replicas", 1.0)], None),
        ] {
            let rounds = [Round { counts: counts.into_iter().collect(), ..round(Mode::Search, 1, 1.0, 1) }];
            let mode = ModeFigures::of(Mode::Search, rounds.iter().collect()).unwrap();
            assert_eq!(mode.reused_frac, expected);
        }
    }

    #[test]
    fn ratios_are_between_modes_of_one_round() {
        let spec = RolloutBenchSpec {
            config: crate::config::Config::default(),
            without_model: false,
            served: None,
            problems: None,
            prompt_tokens: 4,
            trees: 4,
            modes: Mode::ALL.to_vec(),
            rounds: 2,
            lock_step_trees: 16,
            dir: None,
        };
        let capabilities = Capabilities {
            engine: "test".into(),
            max_model_tokens: 8,
            vocab_tokens: 8,
            max_sequences: 8,
            is_reproducible: true,
        };
        let rounds = vec![
            round(Mode::Search, 1, 1.0, 1000),
            round(Mode::LockStep, 1, 4.0, 1000),
            round(Mode::Plain, 1, 1.0, 1000),
            round(Mode::Search, 2, 10.0, 1000),
            round(Mode::LockStep, 2, 20.0, 1000),
            round(Mode::Plain, 2, 9.0, 1000),
        ];
        let bench = figures(&spec, &capabilities, 4, rounds);
        let plain = bench.search_to_plain.unwrap();
        assert_eq!(plain.rounds, [1.0, 0.9]);
        assert!((plain.value - 0.95).abs() < 1e-9 && plain.is_met == Some(false));
        let lock_step = bench.search_to_lock_step.unwrap();
        assert_eq!((lock_step.rounds, lock_step.is_met), (vec![0.25, 0.5], Some(true)));
        // 10 ms for 1000 tokens: at 1000 tokens/s 10 ms a second.
        assert!((bench.processor_percent.unwrap().value - 1.0).abs() < 1e-9);
        assert!(bench.search_to_saturated.is_none());
        assert_eq!(bench.modes.iter().map(|mode| mode.mode).collect::<Vec<_>>(), ["search", "lock-step", "plain"]);
        assert_eq!(median(&[]), None);
    }
}
