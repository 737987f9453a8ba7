//! `[search]`: the tree search of one problem.
//!
//! Two kinds of settings. Plain ones mean the same under every rule set. Those of type `Option` are the points where
//! the published code departs from the paper: left out, they follow [`SearchConfig::rules`]; given, they win, so that
//! any mixture can be measured. [`SearchConfig::resolve`] is the only place that knows which rule set means what.

mod check;
mod options;
mod rules;

use serde::{Deserialize, Serialize};

pub use options::{
    Backtrace, DepthBonus, DynamicWidth, EntropyWidth, GammaRule, NegativeChoice, QUpdate, Rules, Siblings,
    TerminalsKept, TieBreak, Unvisited, VisitRule,
};
pub use rules::SearchRules;

/// The search of one problem. Defaults are the paper's (appendix A). Every key but `event_log` changes results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SearchConfig {
    /// Rule set from which the optional keys below take their defaults.
    pub rules: Rules,
    /// Continuations per expansion.
    pub width: u32,
    /// Largest number of sampled tokens in a node.
    pub step_tokens: u32,
    /// Depth at which a node is terminal; the response budget is `max_depth * step_tokens`.
    pub max_depth: u32,
    /// Backed-up terminals after which a tree is complete.
    pub trajectories: u32,
    /// lambda of UCT. It weighs siblings that were visited before: with `backtrace = "uct"`, or with
    /// `frontier_leaves_only = false`. Children just made have no visits yet, and `uct_ties` ranks them.
    pub uct_lambda: f64,
    /// Floor of the depth decay gamma, 0 to 1.
    pub gamma_min: f64,
    /// l1: weight of tanh(q_mean(parent)).
    pub frontier_value_weight: f64,
    /// l2: weight of the node's entropy, used with `uncertainty_bonus`; positive seeks uncertain branches, negative
    /// confident ones.
    pub frontier_entropy_weight: f64,
    /// l3: weight of the depth bonus.
    pub frontier_depth_weight: f64,
    /// Weight of tanh(q_mean(node)), not in the paper; 0 or less is off.
    pub frontier_self_value_weight: f64,
    /// D(d).
    pub depth_bonus: DepthBonus,
    /// Add the entropy term to the frontier score.
    pub uncertainty_bonus: bool,
    /// Only nodes without children take part in the global selection (eq. 6); otherwise every live node does.
    pub frontier_leaves_only: bool,
    /// How the search goes on after an expansion that contained a terminal.
    pub backtrace: Backtrace,
    /// How a backup changes a node's value. With `constrained` a node once on a correct path is never negative; with the
    /// others it may be.
    pub q_update: QUpdate,
    /// Which negative is backed up where no terminal of an expansion is correct.
    pub negative: NegativeChoice,
    /// Reward of an answer cut off by the budget without a final answer, at most 0.
    pub incomplete_reward: f64,
    /// Temperature of sampling.
    pub temperature: f64,
    /// Nucleus mass; 1 is off.
    pub top_p: f64,
    /// Most likely tokens kept; 0 is off.
    pub top_k: u32,
    /// Expansions after which a tree ends with what it has; 0 is no limit.
    pub max_expansions: u64,
    /// Sampled tokens a tree may not exceed: an expansion that could is not begun; 0 is no limit.
    pub max_generated_tokens: u64,
    /// Seconds after which a tree begins no further expansion; 0 is no limit.
    pub max_seconds: f64,
    /// Keep an ordered list of everything that happened in a tree; costs memory in large trees.
    pub event_log: bool,
    /// An end-of-text token in a chunk's last slot ends the branch. Released: false (it goes unnoticed, and the branch
    /// is continued after it). Paper: true.
    pub end_in_last_slot: Option<bool>,
    /// Terminals of one expansion that are backed up. Released: `one`. Paper: `all_correct`.
    pub terminals_kept: Option<TerminalsKept>,
    /// A terminal passed over in its own round may be backed up in a later round of its parent. Released: true.
    /// Paper: false (eq. 1 speaks of the terminals of one iteration).
    pub late_terminals: Option<bool>,
    /// Among the terminals that are not correct, one cut off without an answer is taken only if there is no other.
    /// Released: false (they compete by entropy when their rewards are equal). Paper: true (an endless repetition is
    /// the most confident text there is, and teaches nothing).
    pub incomplete_ranks_last: Option<bool>,
    /// Equal UCT scores, which fresh siblings always have. Released: `order`. Paper: `confidence`.
    pub uct_ties: Option<TieBreak>,
    /// Equal frontier scores, which siblings have whenever the entropy term is off. Released: `order`. Paper:
    /// `confidence`.
    pub frontier_ties: Option<TieBreak>,
    /// What counts as a visit. Released: `candidates`. Paper: `backups`.
    pub visits: Option<VisitRule>,
    /// The exploration term of unvisited nodes. Released: `zero`. Paper: `first`.
    pub uct_unvisited: Option<Unvisited>,
    /// Round UCT scores to single precision before comparing. Released: true. Paper: false.
    pub uct_single_precision: Option<bool>,
    /// The depth decay. Released: `shifted`. Paper: `plain`.
    pub gamma: Option<GammaRule>,
    /// The entropy of a path leaves out closing padding tokens, so that where padding and end-of-text share an id the
    /// closing end-of-text does not count. Released: true. Paper: false.
    pub entropy_skips_padding: Option<bool>,
    /// When the continuations of a node are sampled. Under both rule sets `eager`: all of them at once.
    ///
    /// With `lazy` an expansion samples `first_width` of them. The other places stay open, and count in every choice as
    /// the children that they would hold: a frontier score depends on the parent's value and the depth alone (unless the
    /// entropy term is on, where the mean entropy of the sampled siblings stands in), so a missing child ranks exactly
    /// where it would rank if it had been paid for; UCT sees it as a child never visited. A tie goes to what is sampled
    /// already, so nothing is paid for that has an equal at hand. A node that is chosen while places are open, for
    /// itself or for one of them, gets `refill_width` more continuations, and the search goes on below it as after any
    /// expansion. A tree is exhausted when neither a leaf nor an open place is left.
    ///
    /// What changes: siblings that were never sampled cannot be preferred for their confidence, nor back up a correct
    /// answer beside the one that was followed.
    pub siblings: Siblings,
    /// Continuations of a first expansion with `siblings = "lazy"`, at least 1.
    pub first_width: u32,
    /// Continuations by which a chosen node with open places grows, with `siblings = "lazy"`; 0 is all that are missing.
    pub refill_width: u32,
    /// A branch whose text so far is garbled or in an endless loop ends there, as one that was cut off without an answer
    /// (`incomplete_reward`), and is not expanded any further. Only what is beyond doubt: see
    /// [`lost`](crate::verify::lost).
    pub stop_garbled: bool,
    /// A width that shrinks with depth; absent: `width` everywhere.
    pub dynamic_width: Option<DynamicWidth>,
    /// A width that grows with the entropy of the node; absent: the same for all. With `dynamic_width` it is what that
    /// one allows at the depth which is reached at `high_nats`.
    pub entropy_width: Option<EntropyWidth>,
}

impl Default for SearchConfig {
    fn default() -> Self {
        SearchConfig {
            rules: Rules::Paper,
            width: 8,
            step_tokens: 256,
            max_depth: 64,
            trajectories: 8,
            uct_lambda: 2.0,
            gamma_min: 0.1,
            frontier_value_weight: 0.4,
            frontier_entropy_weight: 0.4,
            frontier_depth_weight: 0.01,
            frontier_self_value_weight: 0.0,
            depth_bonus: DepthBonus::Sqrt,
            uncertainty_bonus: false,
            frontier_leaves_only: true,
            backtrace: Backtrace::Global,
            q_update: QUpdate::Constrained,
            negative: NegativeChoice::MostConfident,
            incomplete_reward: -1.0,
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            max_expansions: 0,
            max_generated_tokens: 0,
            max_seconds: 0.0,
            event_log: false,
            end_in_last_slot: None,
            terminals_kept: None,
            late_terminals: None,
            incomplete_ranks_last: None,
            uct_ties: None,
            frontier_ties: None,
            visits: None,
            uct_unvisited: None,
            uct_single_precision: None,
            gamma: None,
            entropy_skips_padding: None,
            siblings: Siblings::Eager,
            first_width: 1,
            refill_width: 0,
            stop_garbled: false,
            dynamic_width: None,
            entropy_width: None,
        }
    }
}

impl SearchConfig {
    /// Most sampled tokens of an answer. A configuration that passed [`crate::config::validate()`] does not overflow.
    pub fn response_budget_tokens(&self) -> u32 {
        self.max_depth * self.step_tokens
    }

    /// Continuations of a node at `depth`; at least 1 in a configuration without [`problems`](Self::problems).
    pub fn width_at(&self, depth: u32) -> u32 {
        let Some(dynamic) = self.dynamic_width else { return self.width };
        let band = self.max_depth.checked_div(self.width).unwrap_or(0).max(1);
        let lost = u64::from(depth / band) * u64::from(dynamic.decay);
        let left = u64::from(self.width).saturating_sub(lost);
        u32::try_from(left).unwrap_or(self.width).max(dynamic.min_width)
    }

    /// Continuations of a node at `depth` whose own tokens have this mean -logprob; NaN is unknown.
    pub fn width_for(&self, depth: u32, entropy_nats: f64) -> u32 {
        let full = self.width_at(depth);
        let Some(adaptive) = self.entropy_width.filter(|_| !entropy_nats.is_nan()) else { return full };
        let least = adaptive.min_width.min(full);
        let share = (entropy_nats - adaptive.low_nats) / (adaptive.high_nats - adaptive.low_nats);
        // Between `least` and `full`.
        least + (share.clamp(0.0, 1.0) * f64::from(full - least)).round() as u32
    }

    /// Continuations of the next expansion of a node that has `sampled` of `width`; 0 if it has all.
    pub fn portion(&self, width: u32, sampled: u32) -> u32 {
        let missing = width.saturating_sub(sampled);
        match self.siblings {
            Siblings::Eager => missing,
            Siblings::Lazy if sampled == 0 => missing.min(self.first_width),
            Siblings::Lazy if self.refill_width == 0 => missing,
            Siblings::Lazy => missing.min(self.refill_width),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_keeps_every_value_and_refuses_unknown_keys() {
        let config = SearchConfig {
            siblings: Siblings::Lazy,
            dynamic_width: Some(DynamicWidth { min_width: 2, decay: 1 }),
            entropy_width: Some(EntropyWidth { min_width: 1, low_nats: 0.1, high_nats: 0.5 }),
            ..SearchConfig::default()
        };
        for config in [config.clone(), config.resolved()] {
            let text = toml::to_string(&config).unwrap();
            assert_eq!(toml::from_str::<SearchConfig>(&text).unwrap(), config, "{text}");
        }
        assert!(toml::to_string(&config.resolved()).unwrap().contains("uct_ties = \"confidence\""));
        assert!(toml::from_str::<SearchConfig>("lambda_puct = 2").is_err());
    }

    #[test]
    fn a_dynamic_width_shrinks_by_bands() {
        let config = SearchConfig {
            width: 4,
            max_depth: 16,
            dynamic_width: Some(DynamicWidth { min_width: 1, decay: 3 }),
            ..SearchConfig::default()
        };
        assert_eq!([0, 3, 4, 8, 15].map(|depth| config.width_at(depth)), [4, 4, 1, 1, 1]);
        assert_eq!(SearchConfig::default().width_at(63), 8);
    }

    #[test]
    fn a_width_grows_with_entropy() {
        let entropy_width = Some(EntropyWidth { min_width: 2, low_nats: 0.25, high_nats: 0.75 });
        let config = SearchConfig { entropy_width, ..SearchConfig::default() };
        let widths = [0.0, 0.25, 0.5, 0.51, 0.75, 9.0, f64::NAN].map(|entropy_nats| config.width_for(3, entropy_nats));
        assert_eq!(widths, [2, 2, 5, 5, 8, 8, 8]);
        let dynamic_width = Some(DynamicWidth { min_width: 1, decay: 7 });
        let narrow = SearchConfig { dynamic_width, ..config };
        assert_eq!([0.0, 9.0].map(|entropy_nats| narrow.width_for(63, entropy_nats)), [1, 1]);
        assert_eq!(SearchConfig::default().width_for(3, 0.0), 8);
    }

    #[test]
    fn lazy_siblings_come_in_portions() {
        let eager = SearchConfig::default();
        let lazy = SearchConfig { siblings: Siblings::Lazy, first_width: 2, ..SearchConfig::default() };
        let slow = SearchConfig { refill_width: 3, ..lazy.clone() };
        let portions = |config: &SearchConfig| [0, 2, 5, 8].map(|sampled| config.portion(8, sampled));
        assert_eq!(portions(&eager), [8, 6, 3, 0]);
        assert_eq!(portions(&lazy), [2, 6, 3, 0]);
        assert_eq!(portions(&slow), [2, 3, 3, 0]);
        assert_eq!(lazy.portion(1, 0), 1);
    }
}
