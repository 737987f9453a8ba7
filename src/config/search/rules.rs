//! Rule sets: what the keys mean that are left out.

use super::{GammaRule, Rules, SearchConfig, TerminalsKept, TieBreak, Unvisited, VisitRule};

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
}
