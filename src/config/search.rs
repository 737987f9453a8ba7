//! `[search]`: the tree search of one problem.
//!
//! Two kinds of settings. Plain ones mean the same under every rule set. Those of type `Option` are the points where
//! the published code departs from the paper: left out, they follow [`SearchConfig::rules`]; given, they win, so that
//! any mixture can be measured. [`SearchConfig::resolve`] is the only place that knows which rule set means what.

use serde::{Deserialize, Serialize};

/// Named rule set: the defaults of the options that [`SearchRules`] lists, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rules {
    /// The published code to the last digit.
    Released,
    /// What the paper's text says where the published code falls short of it.
    Paper,
}

/// How the search goes on after an expansion that contained a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backtrace {
    /// The best node of the whole tree by frontier score.
    Global,
    /// Down from the root by UCT, one child at a time.
    Uct,
}

/// D(d) of the frontier score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DepthBonus {
    /// 0
    None,
    /// d (`constant` in the published code)
    #[serde(alias = "constant")]
    Linear,
    /// ln(d + 1)
    Log,
    /// sqrt(d / max_depth)
    Sqrt,
}

/// What a backup does where the sign of the reward is not that of the node's value so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QUpdate {
    /// A positive value is never lowered by a negative reward, a negative one is replaced by a positive reward (eq. 5).
    Constrained,
    /// max(q + gamma * r, 0) where the signs are opposite, the simple update of the paper's table 4.
    Simple,
    /// q + gamma * r always (eq. 3 alone).
    Sum,
}

/// Which of the terminals that are not correct is backed up where none is correct.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NegativeChoice {
    /// The one with the lowest mean entropy (eq. 2).
    MostConfident,
    /// Any of the best class (incorrect before cut off without an answer), by the seed of the tree (the paper's table 5).
    Random,
    /// The one with the highest mean entropy (the paper's table 5).
    LeastConfident,
}

/// Which of several nodes with exactly equal scores is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TieBreak {
    /// The first: by child index among siblings, by depth-first pre-order in the whole tree.
    Order,
    /// The one whose own tokens have the lowest mean -logprob; nodes without a usable logprob come last; then order.
    Confidence,
}

/// What counts as a visit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VisitRule {
    /// A backup visits every node of its path; besides, each live sibling is visited whenever it is a candidate, its
    /// ancestors are not. So N(parent) may be below N(child), and q_mean is diluted by visits that brought no value.
    Candidates,
    /// Only a backup visits, and it visits every node of its path: a visit always reaches the root, N(parent) is the
    /// sum of N over its children, and q_mean is the mean of what was backed up.
    Backups,
}

/// The exploration term of a child (or under a parent) that was never visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unvisited {
    /// 0.
    Zero,
    /// Infinite for an unvisited child: every sibling is tried once before any is tried twice.
    First,
}

/// The depth decay gamma of a backup from a leaf at depth l to a node at depth d (the root has depth 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GammaRule {
    /// max((d + 1) / (l + 1), gamma_min)
    Shifted,
    /// max(d / l, gamma_min): eq. 3, where s_1 is the first step below the prompt.
    Plain,
}

/// How many of the terminals found in one expansion are backed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TerminalsKept {
    /// One: the most confident correct one, else the most confident of the others.
    One,
    /// Every correct one, the most confident first; if none is correct, the most confident of the others (eq. 1, 2).
    AllCorrect,
}

/// A width that shrinks with depth: `max(min_width, width - floor(d / floor(max_depth / width)) * decay)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DynamicWidth {
    /// Smallest width, at least 1.
    pub min_width: u32,
    /// Continuations lost per band of `floor(max_depth / width)` levels.
    pub decay: u32,
}

/// When the continuations of a node are sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Siblings {
    /// All of them when the node is expanded.
    Eager,
    /// Some of them when the node is expanded, the others when the node is chosen again: see [`SearchConfig::siblings`].
    Lazy,
}

/// A width that grows with the entropy H of the node that is expanded: `min_width` up to `low_nats`, the full width from
/// `high_nats` on, on the straight line and rounded in between. A policy that was sure of what it just wrote mostly is
/// of what follows, and its siblings are then copies of each other. The prompt, whose H is unknown, has the full width.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntropyWidth {
    /// Smallest width, at least 1.
    pub min_width: u32,
    /// Mean -logprob of the node's own tokens up to which `min_width` is used.
    pub low_nats: f64,
    /// The same from which on the full width is used; above `low_nats`.
    pub high_nats: f64,
}

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

/// The optional keys of [`SearchConfig`] with every value decided; the fields are documented there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SearchRules {
    /// [`SearchConfig::end_in_last_slot`]
    pub end_in_last_slot: bool,
    /// [`SearchConfig::terminals_kept`]
    pub terminals_kept: TerminalsKept,
    /// [`SearchConfig::late_terminals`]
    pub late_terminals: bool,
    /// [`SearchConfig::incomplete_ranks_last`]
    pub incomplete_ranks_last: bool,
    /// [`SearchConfig::uct_ties`]
    pub uct_ties: TieBreak,
    /// [`SearchConfig::frontier_ties`]
    pub frontier_ties: TieBreak,
    /// [`SearchConfig::visits`]
    pub visits: VisitRule,
    /// [`SearchConfig::uct_unvisited`]
    pub uct_unvisited: Unvisited,
    /// [`SearchConfig::uct_single_precision`]
    pub uct_single_precision: bool,
    /// [`SearchConfig::gamma`]
    pub gamma: GammaRule,
    /// [`SearchConfig::entropy_skips_padding`]
    pub entropy_skips_padding: bool,
}

impl SearchRules {
    /// The published code, commit daf9067.
    pub const RELEASED: SearchRules = SearchRules {
        end_in_last_slot: false,
        terminals_kept: TerminalsKept::One,
        late_terminals: true,
        incomplete_ranks_last: false,
        uct_ties: TieBreak::Order,
        frontier_ties: TieBreak::Order,
        visits: VisitRule::Candidates,
        uct_unvisited: Unvisited::Zero,
        uct_single_precision: true,
        gamma: GammaRule::Shifted,
        entropy_skips_padding: true,
    };

    /// The paper, sections 3 and A.
    pub const PAPER: SearchRules = SearchRules {
        end_in_last_slot: true,
        terminals_kept: TerminalsKept::AllCorrect,
        late_terminals: false,
        incomplete_ranks_last: true,
        uct_ties: TieBreak::Confidence,
        frontier_ties: TieBreak::Confidence,
        visits: VisitRule::Backups,
        uct_unvisited: Unvisited::First,
        uct_single_precision: false,
        gamma: GammaRule::Plain,
        entropy_skips_padding: false,
    };
}

impl SearchConfig {
    /// The rules in force: what is given explicitly, else what the rule set says.
    pub fn resolve(&self) -> SearchRules {
        let base = match self.rules {
            Rules::Released => SearchRules::RELEASED,
            Rules::Paper => SearchRules::PAPER,
        };
        SearchRules {
            end_in_last_slot: self.end_in_last_slot.unwrap_or(base.end_in_last_slot),
            terminals_kept: self.terminals_kept.unwrap_or(base.terminals_kept),
            late_terminals: self.late_terminals.unwrap_or(base.late_terminals),
            incomplete_ranks_last: self.incomplete_ranks_last.unwrap_or(base.incomplete_ranks_last),
            uct_ties: self.uct_ties.unwrap_or(base.uct_ties),
            frontier_ties: self.frontier_ties.unwrap_or(base.frontier_ties),
            visits: self.visits.unwrap_or(base.visits),
            uct_unvisited: self.uct_unvisited.unwrap_or(base.uct_unvisited),
            uct_single_precision: self.uct_single_precision.unwrap_or(base.uct_single_precision),
            gamma: self.gamma.unwrap_or(base.gamma),
            entropy_skips_padding: self.entropy_skips_padding.unwrap_or(base.entropy_skips_padding),
        }
    }

    /// The same configuration with every optional rule written out, as `--dry-run` prints it.
    pub fn resolved(&self) -> SearchConfig {
        let rules = self.resolve();
        SearchConfig {
            end_in_last_slot: Some(rules.end_in_last_slot),
            terminals_kept: Some(rules.terminals_kept),
            late_terminals: Some(rules.late_terminals),
            incomplete_ranks_last: Some(rules.incomplete_ranks_last),
            uct_ties: Some(rules.uct_ties),
            frontier_ties: Some(rules.frontier_ties),
            visits: Some(rules.visits),
            uct_unvisited: Some(rules.uct_unvisited),
            uct_single_precision: Some(rules.uct_single_precision),
            gamma: Some(rules.gamma),
            entropy_skips_padding: Some(rules.entropy_skips_padding),
            ..self.clone()
        }
    }

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

    /// Everything wrong with this section, one message a problem, each naming its key; empty if it can be searched with.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut require = |holds: bool, key: &str, value: &dyn std::fmt::Display, rule: &str| {
            if !holds {
                found.push(format!("`search.{key}` is `{value}`, but must be {rule}"));
            }
        };
        for (key, value) in [
            ("width", self.width),
            ("step_tokens", self.step_tokens),
            ("max_depth", self.max_depth),
            ("trajectories", self.trajectories),
            ("first_width", self.first_width),
        ] {
            require(value >= 1, key, &value, "at least 1");
        }
        for (key, value) in [
            ("frontier_value_weight", self.frontier_value_weight),
            ("frontier_entropy_weight", self.frontier_entropy_weight),
            ("frontier_depth_weight", self.frontier_depth_weight),
            ("frontier_self_value_weight", self.frontier_self_value_weight),
        ] {
            require(value.is_finite(), key, &value, "a finite number");
        }
        for (key, value) in
            [("uct_lambda", self.uct_lambda), ("temperature", self.temperature), ("max_seconds", self.max_seconds)]
        {
            require(value.is_finite() && value >= 0.0, key, &value, "a finite number, at least 0");
        }
        require((0.0..=1.0).contains(&self.gamma_min), "gamma_min", &self.gamma_min, "between 0 and 1");
        require(
            (-1.0..=0.0).contains(&self.incomplete_reward),
            "incomplete_reward",
            &self.incomplete_reward,
            "between -1 and 0",
        );
        require(self.top_p > 0.0 && self.top_p <= 1.0, "top_p", &self.top_p, "above 0 and at most 1");
        let expansion_tokens = u64::from(self.width) * u64::from(self.step_tokens);
        require(
            self.max_generated_tokens == 0 || self.max_generated_tokens >= expansion_tokens,
            "max_generated_tokens",
            &self.max_generated_tokens,
            &format!("0 or at least `search.width * search.step_tokens` = {expansion_tokens}"),
        );
        if let Some(dynamic) = self.dynamic_width {
            require(
                dynamic.min_width >= 1 && dynamic.min_width <= self.width,
                "dynamic_width.min_width",
                &dynamic.min_width,
                &format!("between 1 and `search.width` = {}", self.width),
            );
            require(
                self.width <= self.max_depth,
                "width",
                &self.width,
                &format!("at most `search.max_depth` = {} with a dynamic width", self.max_depth),
            );
        }
        if let Some(adaptive) = self.entropy_width {
            require(
                adaptive.min_width >= 1 && adaptive.min_width <= self.width,
                "entropy_width.min_width",
                &adaptive.min_width,
                &format!("between 1 and `search.width` = {}", self.width),
            );
            require(
                adaptive.low_nats.is_finite() && adaptive.low_nats >= 0.0,
                "entropy_width.low_nats",
                &adaptive.low_nats,
                "a finite number, at least 0",
            );
            require(
                // A lower bound that is no number has its own message.
                adaptive.high_nats.is_finite()
                    && (adaptive.low_nats.is_nan() || adaptive.high_nats > adaptive.low_nats),
                "entropy_width.high_nats",
                &adaptive.high_nats,
                &format!("a finite number above `search.entropy_width.low_nats` = {}", adaptive.low_nats),
            );
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_set_only_chooses_defaults() {
        let paper = SearchConfig::default();
        assert_eq!(paper.resolve(), SearchRules::PAPER);
        let released = SearchConfig { rules: Rules::Released, ..SearchConfig::default() };
        assert_eq!(released.resolve(), SearchRules::RELEASED);
        let mixed = SearchConfig { gamma: Some(GammaRule::Plain), ..released.clone() };
        assert_eq!(mixed.resolve(), SearchRules { gamma: GammaRule::Plain, ..SearchRules::RELEASED });
        assert_eq!(mixed.resolved().resolve(), mixed.resolve());
        assert_eq!(mixed.resolved().resolved(), mixed.resolved());
    }

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

    #[test]
    fn each_bad_value_is_named() {
        assert_eq!(SearchConfig::default().problems(), Vec::<String>::new());
        let good = SearchConfig::default();
        let by_entropy = |min_width, low_nats, high_nats| SearchConfig {
            entropy_width: Some(EntropyWidth { min_width, low_nats, high_nats }),
            ..SearchConfig::default()
        };
        let cases: [(&str, SearchConfig); 20] = [
            ("width", SearchConfig { width: 0, ..good.clone() }),
            ("step_tokens", SearchConfig { step_tokens: 0, ..good.clone() }),
            ("max_depth", SearchConfig { max_depth: 0, ..good.clone() }),
            ("trajectories", SearchConfig { trajectories: 0, ..good.clone() }),
            ("uct_lambda", SearchConfig { uct_lambda: -1.0, ..good.clone() }),
            ("gamma_min", SearchConfig { gamma_min: f64::NAN, ..good.clone() }),
            ("frontier_value_weight", SearchConfig { frontier_value_weight: f64::INFINITY, ..good.clone() }),
            ("frontier_entropy_weight", SearchConfig { frontier_entropy_weight: f64::NAN, ..good.clone() }),
            ("frontier_depth_weight", SearchConfig { frontier_depth_weight: f64::NAN, ..good.clone() }),
            ("frontier_self_value_weight", SearchConfig { frontier_self_value_weight: f64::NAN, ..good.clone() }),
            ("incomplete_reward", SearchConfig { incomplete_reward: 0.5, ..good.clone() }),
            ("temperature", SearchConfig { temperature: -0.1, ..good.clone() }),
            ("top_p", SearchConfig { top_p: 0.0, ..good.clone() }),
            ("max_generated_tokens", SearchConfig { max_generated_tokens: 2047, ..good.clone() }),
            ("max_seconds", SearchConfig { max_seconds: f64::NAN, ..good.clone() }),
            (
                "dynamic_width.min_width",
                SearchConfig { dynamic_width: Some(DynamicWidth { min_width: 0, decay: 1 }), ..good.clone() },
            ),
            ("first_width", SearchConfig { first_width: 0, ..good.clone() }),
            ("entropy_width.min_width", by_entropy(9, 0.1, 0.5)),
            ("entropy_width.low_nats", by_entropy(1, -0.1, 0.5)),
            ("entropy_width.high_nats", by_entropy(1, 0.5, 0.5)),
        ];
        for (key, config) in cases {
            let problems = config.problems();
            assert_eq!(problems.len(), 1, "{key}: {problems:?}");
            assert!(problems[0].starts_with(&format!("`search.{key}` is `")), "{}", problems[0]);
        }
        let narrow = SearchConfig {
            max_depth: 4,
            dynamic_width: Some(DynamicWidth { min_width: 1, decay: 1 }),
            ..SearchConfig::default()
        };
        assert_eq!(
            narrow.problems(),
            ["`search.width` is `8`, but must be at most `search.max_depth` = 4 with a dynamic width"]
        );
    }
}
