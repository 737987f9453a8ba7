//! What holds for every search, whatever the settings and whatever the model says.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/naive_search.rs"]
mod naive_search;
#[path = "support/search_policy.rs"]
mod search_policy;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use naive_search::Naive;
use orchestrator::config::{
    Backtrace, DepthBonus, DynamicWidth, EntropyWidth, GammaRule, NegativeChoice, QUpdate, Rules, SearchConfig,
    Siblings, TerminalsKept, TieBreak, Unvisited, VisitRule,
};
use orchestrator::search::{Child, Ending, Event, Next, SearchError, SpecialTokens, StopReason, Tree, harvest};
use orchestrator::types::{Continuation, FinishReason, NodeId, ProblemId, Prompt, Verdict, WeightVersion};
use proptest::option;
use proptest::prelude::*;
use search_policy::{END, PADDING, Policy, run, special, step};

fn sizes() -> impl Strategy<Value = SearchConfig> {
    let shrink = option::weighted(0.2, (1..=2u32, 1..=2u32));
    let budgets = (1..=60u64, prop_oneof![3 => Just(0), 1 => 25..400u64]);
    (1..=5u32, 2..=5u32, 1..=7u32, 1..=12u32, shrink, budgets).prop_map(
        |(width, step_tokens, max_depth, trajectories, shrink, (max_expansions, max_generated_tokens))| SearchConfig {
            width,
            step_tokens,
            max_depth,
            trajectories,
            dynamic_width: shrink
                .filter(|_| width <= max_depth)
                .map(|(min_width, decay)| DynamicWidth { min_width: min_width.min(width), decay }),
            max_expansions,
            max_generated_tokens,
            event_log: true,
            ..SearchConfig::default()
        },
    )
}

fn q_update() -> impl Strategy<Value = QUpdate> {
    prop::sample::select(vec![QUpdate::Constrained, QUpdate::Constrained, QUpdate::Simple, QUpdate::Sum])
}

fn negative() -> impl Strategy<Value = NegativeChoice> {
    use NegativeChoice::{LeastConfident, MostConfident, Random};
    prop::sample::select(vec![MostConfident, MostConfident, Random, LeastConfident])
}

fn weights() -> impl Strategy<Value = SearchConfig> {
    let any_of = |values: &'static [f64]| prop::sample::select(values);
    (
        (any_of(&[0.0, 0.5, 2.0]), any_of(&[0.0, 0.1, 0.3]), any_of(&[-1.0, -0.5, 0.0])),
        (any_of(&[0.0, 0.4]), any_of(&[-0.4, 0.0, 0.4]), any_of(&[-0.05, 0.0, 0.01]), any_of(&[-0.2, 0.0, 0.3])),
        prop::sample::select(vec![DepthBonus::None, DepthBonus::Linear, DepthBonus::Log, DepthBonus::Sqrt]),
        (any::<bool>(), any::<bool>(), any::<bool>()),
        (q_update(), negative()),
    )
        .prop_map(|(values, frontier, depth_bonus, flags, (q_update, negative))| {
            let (uncertainty_bonus, frontier_leaves_only, is_uct) = flags;
            SearchConfig {
                q_update,
                negative,
                uct_lambda: values.0,
                gamma_min: values.1,
                incomplete_reward: values.2,
                frontier_value_weight: frontier.0,
                frontier_entropy_weight: frontier.1,
                frontier_depth_weight: frontier.2,
                frontier_self_value_weight: frontier.3,
                depth_bonus,
                uncertainty_bonus,
                frontier_leaves_only,
                backtrace: if is_uct { Backtrace::Uct } else { Backtrace::Global },
                ..SearchConfig::default()
            }
        })
}

fn rules() -> impl Strategy<Value = SearchConfig> {
    let ties = || option::weighted(0.3, prop::sample::select(vec![TieBreak::Order, TieBreak::Confidence]));
    let flag = || option::weighted(0.3, any::<bool>());
    (
        prop::sample::select(vec![Rules::Released, Rules::Paper]),
        (flag(), flag(), flag(), flag(), flag()),
        (ties(), ties()),
        option::weighted(0.3, prop::sample::select(vec![VisitRule::Candidates, VisitRule::Backups])),
        option::weighted(0.3, prop::sample::select(vec![Unvisited::Zero, Unvisited::First])),
        option::weighted(0.3, prop::sample::select(vec![GammaRule::Shifted, GammaRule::Plain])),
        option::weighted(0.3, prop::sample::select(vec![TerminalsKept::One, TerminalsKept::AllCorrect])),
    )
        .prop_map(|(rules, flags, ties, visits, uct_unvisited, gamma, terminals_kept)| SearchConfig {
            rules,
            end_in_last_slot: flags.0,
            late_terminals: flags.1,
            incomplete_ranks_last: flags.2,
            uct_single_precision: flags.3,
            entropy_skips_padding: flags.4,
            uct_ties: ties.0,
            frontier_ties: ties.1,
            visits,
            uct_unvisited,
            gamma,
            terminals_kept,
            ..SearchConfig::default()
        })
}

/// Cheaper siblings: how many, when, and which are given up.
fn savings() -> impl Strategy<Value = SearchConfig> {
    let siblings = prop::sample::select(vec![Siblings::Eager, Siblings::Lazy, Siblings::Lazy]);
    let entropy_width = option::weighted(0.4, (1..=5u32, 0.0..0.4f64, 0.01..0.6f64));
    (siblings, 1..=3u32, 0..=2u32, any::<bool>(), entropy_width).prop_map(
        |(siblings, first_width, refill_width, stop_garbled, entropy_width)| SearchConfig {
            siblings,
            first_width,
            refill_width,
            stop_garbled,
            entropy_width: entropy_width.map(|(min_width, low_nats, span)| EntropyWidth {
                min_width,
                low_nats,
                high_nats: low_nats + span,
            }),
            ..SearchConfig::default()
        },
    )
}

/// Every setting at random.
fn config() -> impl Strategy<Value = SearchConfig> {
    (sizes(), weights(), rules(), savings()).prop_map(|(sizes, weights, rules, savings)| {
        let least = u64::from(sizes.width * sizes.step_tokens);
        SearchConfig {
            width: sizes.width,
            step_tokens: sizes.step_tokens,
            max_depth: sizes.max_depth,
            trajectories: sizes.trajectories,
            dynamic_width: sizes.dynamic_width,
            max_expansions: sizes.max_expansions,
            max_generated_tokens: if sizes.max_generated_tokens == 0 {
                0
            } else {
                sizes.max_generated_tokens.max(least)
            },
            event_log: true,
            uct_lambda: weights.uct_lambda,
            gamma_min: weights.gamma_min,
            incomplete_reward: weights.incomplete_reward,
            frontier_value_weight: weights.frontier_value_weight,
            frontier_entropy_weight: weights.frontier_entropy_weight,
            frontier_depth_weight: weights.frontier_depth_weight,
            frontier_self_value_weight: weights.frontier_self_value_weight,
            depth_bonus: weights.depth_bonus,
            uncertainty_bonus: weights.uncertainty_bonus,
            frontier_leaves_only: weights.frontier_leaves_only,
            backtrace: weights.backtrace,
            q_update: weights.q_update,
            negative: weights.negative,
            siblings: savings.siblings,
            first_width: savings.first_width,
            refill_width: savings.refill_width,
            stop_garbled: savings.stop_garbled,
            entropy_width: savings
                .entropy_width
                .map(|adaptive| EntropyWidth { min_width: adaptive.min_width.min(sizes.width), ..adaptive }),
            ..rules
        }
    })
}

/// From well-behaved to hostile: many ends, few distinct logprobs, missing logprobs, empty chunks, failed checks.
fn policy() -> impl Strategy<Value = Policy> {
    let frac = |values: &'static [f64]| prop::sample::select(values);
    (
        any::<u64>(),
        (frac(&[0.02, 0.15, 0.4, 0.8]), frac(&[0.0, 0.2, 1.0])),
        (frac(&[0.0, 0.2, 0.6, 1.0]), frac(&[0.0, 0.3, 0.8]), frac(&[0.0, 0.0, 0.3])),
        (frac(&[0.0, 0.0, 0.2]), frac(&[0.0, 0.0, 0.4, 1.0]), frac(&[0.0, 0.1, 0.6])),
        prop::sample::select(vec![1u64, 2, 64]),
    )
        .prop_map(|(seed, ends, verdicts, hostile, levels)| Policy {
            seed,
            end_frac: ends.0,
            full_end_frac: ends.1,
            correct_frac: verdicts.0,
            no_answer_frac: verdicts.1,
            error_frac: verdicts.2,
            empty_frac: hostile.0,
            nan_frac: hostile.1,
            lost_frac: hostile.2,
            levels,
        })
}

/// What equation 3 and the update in force make of `before`, the value of `node`, in a backup from `leaf`.
fn expected(config: &SearchConfig, tree: &Tree, node: NodeId, leaf: NodeId, before: f64) -> f64 {
    let (node, leaf) = (tree.node(node).unwrap(), tree.node(leaf).unwrap());
    let (depth, leaf_depth) = (f64::from(node.depth()), f64::from(leaf.depth()));
    let share = match config.resolve().gamma {
        GammaRule::Shifted => (depth + 1.0) / (leaf_depth + 1.0),
        GammaRule::Plain => depth / leaf_depth,
    };
    let reward = leaf.reward().unwrap();
    let gain = share.max(config.gamma_min) * reward;
    let is_opposite = before < 0.0 && reward > 0.0 || before > 0.0 && reward < 0.0;
    match config.q_update {
        _ if reward == 0.0 => before,
        QUpdate::Constrained if is_opposite => gain.max(before),
        QUpdate::Simple if is_opposite => (before + gain).max(0.0),
        _ => before + gain,
    }
}

/// The best node by a scan over the public face of the tree.
fn scanned_leader(tree: &Tree, leaves_only: bool) -> Option<(NodeId, f64)> {
    let ties = tree.config().resolve().frontier_ties;
    let rank = |node: NodeId| tree.node(node).unwrap().entropy_nats().unwrap_or(f64::INFINITY);
    let mut best: Option<(NodeId, f64)> = None;
    let mut stack = vec![NodeId::ROOT];
    assert_eq!(tree.config().siblings, Siblings::Eager, "open places are not seen here");
    while let Some(id) = stack.pop() {
        let node = tree.node(id).unwrap();
        stack.extend(node.children().rev());
        let eligible = id != NodeId::ROOT && !node.is_terminal() && !(leaves_only && node.children().len() > 0);
        if eligible {
            let score = tree.frontier_score(id).unwrap();
            let wins = best.is_none_or(|(leader, top)| {
                score > top || (score == top && ties == TieBreak::Confidence && rank(id) < rank(leader))
            });
            if wins {
                best = Some((id, score));
            }
        }
    }
    best
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn the_incremental_search_equals_the_full_scan(config in config(), policy in policy(), pad_is_end in any::<bool>()) {
        let padding = if pad_is_end { END } else { PADDING };
        let chunk = |tag: &str| policy.chunk(tag, config.step_tokens);
        let (tree, reason) = run(&config, special(padding, END), policy.seed, END, chunk).unwrap();
        let mut naive = Naive::new(&config, padding, policy.seed);
        let naive_reason = naive.run(chunk);
        for (at, (naive, event)) in naive.events.iter().zip(tree.events()).enumerate() {
            prop_assert_eq!(format!("{naive:?}"), format!("{event:?}"), "event {}", at);
        }
        prop_assert_eq!(naive.events.len(), tree.events().len());
        prop_assert_eq!(naive_reason, reason);
    }

    #[test]
    fn every_step_keeps_the_rules(config in config(), policy in policy()) {
        let mut tree = Tree::new(&config, special(PADDING, END), policy.seed).unwrap();
        let mut correct_path = BTreeSet::new();
        let mut values: BTreeMap<NodeId, f64> = BTreeMap::new();
        loop {
            let before = tree.clone();
            let wanted = tree.next();
            if let Next::Expand { node, n } = wanted {
                let node = tree.node(node).unwrap();
                let width = config.width_for(node.depth(), node.entropy_nats().unwrap_or(f64::NAN));
                let sampled = node.children().len() as u32;
                prop_assert!(!node.is_terminal() && n >= 1 && sampled + n <= width && width <= config.width);
                match config.siblings {
                    Siblings::Eager => prop_assert!(sampled == 0 && n == width),
                    Siblings::Lazy => prop_assert_eq!(n, config.portion(width, sampled)),
                }
                prop_assert!(node.depth() < config.max_depth);
            }
            if step(&mut tree, END, |tag| policy.chunk(tag, config.step_tokens)).unwrap().is_none() {
                break;
            }

            // Values change on the paths of this step's backups only. What a backup may do to them: see `updated` below.
            let leaves = &tree.trajectories()[before.trajectories().len()..];
            let touched: BTreeSet<NodeId> = leaves.iter().flat_map(|&leaf| tree.path(leaf)).collect();
            for node in tree.nodes() {
                let earlier = before.node(node.id()).map_or(0.0, |node| node.q_total());
                if !touched.contains(&node.id()) && node.id() != NodeId::ROOT {
                    prop_assert_eq!(node.q_total(), earlier);
                }
            }
            // The value of every node is that of its backups in their order: a fold, by the rule in force.
            for (&leaf, order) in leaves.iter().zip(before.trajectories().len()..) {
                let reward = tree.node(leaf).unwrap().reward().unwrap();
                prop_assert_eq!(tree.node(leaf).unwrap().backup_order(), Some(order as u32));
                for node in std::iter::once(NodeId::ROOT).chain(tree.path(leaf)) {
                    let before = values.get(&node).copied().unwrap_or(0.0);
                    let after = expected(&config, &tree, node, leaf, before);
                    match config.q_update {
                        // A positive value never falls; a success leaves no negative past.
                        QUpdate::Constrained => prop_assert!(before <= 0.0 || after >= before),
                        // A failure takes no positive value below 0.
                        QUpdate::Simple => prop_assert!(before <= 0.0 || after >= 0.0),
                        // Everything counts, in full.
                        QUpdate::Sum => prop_assert!((after - before).abs() <= reward.abs() + 1e-12),
                    }
                    prop_assert!(reward <= 0.0 || config.q_update == QUpdate::Sum || after >= 0.0);
                    values.insert(node, after);
                }
            }
            for node in tree.nodes() {
                prop_assert_eq!(node.q_total(), values.get(&node.id()).copied().unwrap_or(0.0));
            }
            for &leaf in leaves {
                if tree.node(leaf).unwrap().verdict() == Some(Verdict::Correct) {
                    correct_path.extend(tree.path(leaf));
                }
            }
            // Only the constrained update promises this; with the others a later failure may outweigh a success.
            for &node in correct_path.iter().filter(|_| config.q_update == QUpdate::Constrained) {
                prop_assert!(tree.node(node).unwrap().q_total() >= 0.0);
            }

            let can_scan = config.siblings == Siblings::Eager;
            for leaves_only in [true, config.frontier_leaves_only].into_iter().filter(|_| can_scan) {
                prop_assert_eq!(tree.clone().frontier_leader(leaves_only), scanned_leader(&tree, leaves_only));
            }
        }

        let distinct: BTreeSet<NodeId> = tree.trajectories().iter().copied().collect();
        prop_assert_eq!(distinct.len(), tree.trajectories().len());
        prop_assert!(distinct.len() <= config.trajectories as usize);
        let spent = tree.spent();
        prop_assert!(spent.expansions <= config.max_expansions);
        prop_assert!(config.max_generated_tokens == 0 || spent.generated_tokens <= config.max_generated_tokens);
        prop_assert_eq!(spent.generated_tokens, tree.nodes().map(|node| node.tokens().len() as u64).sum::<u64>());
        let expansions = tree.events().iter().filter(|event| matches!(event, Event::Expand { .. })).count() as u64;
        prop_assert_eq!(spent.expansions, expansions);
        let expanded = tree.nodes().filter(|node| node.children().len() > 0).count() as u64;
        prop_assert!(spent.expansions == expanded || (config.siblings == Siblings::Lazy && spent.expansions > expanded));
        // An exhausted tree has nothing left to sample under the rules that look at all of it.
        if tree.next() == Next::Done(StopReason::Exhausted) && config.backtrace == Backtrace::Global {
            prop_assert!(tree.nodes().all(|node| !node.has_room()), "an open place was left");
        }
        for node in tree.nodes() {
            prop_assert!(node.depth() <= config.max_depth);
            prop_assert!(node.tokens().len() <= config.step_tokens as usize);
            prop_assert!(!node.is_terminal() || node.children().len() == 0, "a terminal was expanded");
            let width = config.width_for(node.depth(), node.entropy_nats().unwrap_or(f64::NAN)) as usize;
            prop_assert!(node.children().len() <= width);
            prop_assert_eq!(node.has_room(), node.children().len() > 0 && node.children().len() < width);
            for (index, child) in node.children().enumerate() {
                let child = tree.node(child).unwrap();
                prop_assert!(child.id() > node.id() && child.parent() == Some(node.id()));
                prop_assert_eq!(child.child_index() as usize, index);
            }
            prop_assert!(node.children().rev().eq(node.children().collect::<Vec<_>>().into_iter().rev()));
            if node.ending() == Some(Ending::Lost) {
                prop_assert!(config.stop_garbled && node.depth() < config.max_depth);
                prop_assert_eq!((node.verdict(), node.reward()), (Some(Verdict::NoAnswer), Some(config.incomplete_reward)));
            }
            prop_assert_eq!(node.backup_order().is_some(), distinct.contains(&node.id()));
            if node.verdict() == Some(Verdict::Error) {
                prop_assert!(node.backup_order().is_none() && node.visits() == 0 && node.reward().is_none());
            }
            if node.backup_order().is_some() {
                prop_assert_eq!((node.visits(), Some(node.q_total())), (1, node.reward()));
            }
            if config.resolve().visits == VisitRule::Backups && node.children().len() > 0 {
                let below: u32 = node.children().map(|child| tree.node(child).unwrap().visits()).sum();
                prop_assert_eq!(node.visits(), below);
            }
        }
    }

    #[test]
    fn trees_do_not_see_each_other(first in (config(), policy()), second in (config(), policy()), turns in any::<u64>()) {
        let chunk = |(config, policy): &(SearchConfig, Policy), tag: &str| policy.chunk(tag, config.step_tokens);
        let alone = |side: &(SearchConfig, Policy)| {
            let (tree, _) = run(&side.0, special(PADDING, END), side.1.seed, END, |tag| chunk(side, tag)).unwrap();
            format!("{tree:?}")
        };
        let sides = [&first, &second];
        let mut trees = sides.map(|(config, policy)| Tree::new(config, special(PADDING, END), policy.seed).unwrap());
        let mut turn = 0;
        while trees.iter().any(|tree| matches!(tree.next(), Next::Expand { .. })) {
            let side = (turns.rotate_left(turn) & 1) as usize;
            step(&mut trees[side], END, |tag| chunk(sides[side], tag)).unwrap();
            // Every bit of `turns` may be the same: let the other side move as well now and then.
            if turn % 7 == 0 {
                step(&mut trees[1 - side], END, |tag| chunk(sides[1 - side], tag)).unwrap();
            }
            turn += 1;
        }
        for (tree, side) in trees.iter().zip(sides) {
            prop_assert_eq!(format!("{tree:?}"), alone(side));
        }
    }

    #[test]
    fn a_harvest_holds_every_node_once_and_parents_first(config in config(), policy in policy()) {
        let (tree, _) = run(&config, special(PADDING, END), policy.seed, END, |tag| policy.chunk(tag, config.step_tokens)).unwrap();
        let prompt = Prompt { tokens: Arc::new([7]), text: Arc::from("x") };
        let group = harvest(&tree, ProblemId(5), None, prompt);
        prop_assert_eq!(group.trajectories.len(), tree.trajectories().len());
        let expected: BTreeSet<NodeId> = tree.trajectories().iter().flat_map(|&leaf| tree.path(leaf)).collect();
        prop_assert_eq!(group.nodes.len(), expected.len());
        for (position, node) in group.nodes.iter().enumerate() {
            prop_assert!(expected.contains(&node.node));
            prop_assert_eq!(node.q_total, tree.node(node.node).unwrap().q_total());
            prop_assert_eq!(node.parent.map(|parent| group.nodes[parent].node), tree.node(node.node).unwrap().parent().filter(|&parent| parent != NodeId::ROOT));
            prop_assert!(node.parent.is_none_or(|parent| parent < position));
        }
        for (trajectory, &leaf) in group.trajectories.iter().zip(tree.trajectories()) {
            let mut tokens = Vec::new();
            tree.path_tokens(leaf, &mut tokens);
            let joined: Vec<u32> = trajectory.path.iter().flat_map(|&node| group.nodes[node].tokens.clone()).collect();
            prop_assert_eq!(trajectory.response_tokens, tokens.len());
            prop_assert_eq!(joined, tokens);
            prop_assert_eq!(group.nodes[*trajectory.path.last().unwrap()].q_total, trajectory.reward);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_seed_is_the_only_chance(config in config(), policy in policy(), seed in any::<u64>()) {
        let grown = |config: &SearchConfig, seed| {
            let tree = run(config, special(PADDING, END), seed, END, |tag| policy.chunk(tag, config.step_tokens)).unwrap().0;
            (tree.events().to_vec().iter().map(|event| format!("{event:?}")).collect::<Vec<_>>(), tree.spent())
        };
        let random = SearchConfig { negative: NegativeChoice::Random, ..config.clone() };
        prop_assert_eq!(grown(&random, seed), grown(&random, seed));
        for negative in [NegativeChoice::MostConfident, NegativeChoice::LeastConfident] {
            let ranked = SearchConfig { negative, ..config.clone() };
            prop_assert_eq!(grown(&ranked, seed), grown(&ranked, !seed), "no number is drawn");
        }
    }

    /// Where nothing is correct and everything ends at once, each choice is seen alone.
    #[test]
    fn one_negative_of_each_expansion(negative in negative(), rules in prop::sample::select(vec![Rules::Paper, Rules::Released]), policy in policy(), width in 2..7u32) {
        let policy = Policy { correct_frac: 0.0, error_frac: 0.0, no_answer_frac: 0.0, ..policy };
        let config = SearchConfig { rules, negative, width, max_depth: 1, trajectories: 1, event_log: true, ..small() };
        let (tree, _) = run(&config, special(PADDING, END), policy.seed, END, |tag| policy.chunk(tag, 3)).unwrap();
        let entropy = |node: NodeId| tree.node(node).unwrap().path_entropy_nats();
        let [leaf] = tree.trajectories() else { return Err(TestCaseError::fail("one backup was expected")) };
        let known: Vec<f64> = tree.node(NodeId::ROOT).unwrap().children().filter_map(entropy).collect();
        match (negative, entropy(*leaf)) {
            (NegativeChoice::Random, _) => {}
            (_, None) => prop_assert!(known.is_empty(), "an unknown entropy came before a known one"),
            (NegativeChoice::MostConfident, Some(chosen)) => prop_assert!(known.iter().all(|&other| chosen <= other)),
            (NegativeChoice::LeastConfident, Some(chosen)) => prop_assert!(known.iter().all(|&other| chosen >= other)),
        }
    }
}

#[test]
fn a_random_negative_is_any_of_the_best_class_alike() {
    let config = SearchConfig { negative: NegativeChoice::Random, width: 5, max_depth: 1, trajectories: 1, ..small() };
    let rounds = 4000;
    let mut counts = [0; 5];
    for seed in 0..rounds {
        let mut tree = Tree::new(&config, SpecialTokens::default(), seed).unwrap();
        // The fourth was cut off without an answer: it ranks behind the others.
        let mut children = vec![ended(Some(Verdict::Incorrect)); 5];
        children[3] = Child { verdict: Some(Verdict::NoAnswer), ..going_on() };
        tree.supply(NodeId::ROOT, children, Duration::ZERO).unwrap();
        counts[tree.trajectories()[0].index() - 1] += 1;
    }
    assert_eq!(counts[3], 0);
    // A quarter each; the standard deviation of a count is 27.
    for count in [counts[0], counts[1], counts[2], counts[4]] {
        assert!((count - rounds as i64 / 4).abs() < 140, "{counts:?}");
    }
}

/// Large enough that stale parts of the frontier are folded on the way.
#[test]
fn the_frontier_of_a_large_tree_equals_a_scan() {
    for (seed, backtrace, leaves_only) in [
        (1, Backtrace::Global, true),
        (2, Backtrace::Global, false),
        (3, Backtrace::Uct, true),
        (4, Backtrace::Uct, false),
    ] {
        for rules in [Rules::Paper, Rules::Released] {
            let config = SearchConfig {
                rules,
                backtrace,
                frontier_leaves_only: leaves_only,
                frontier_self_value_weight: if seed % 2 == 0 { 0.3 } else { 0.0 },
                width: 5,
                step_tokens: 4,
                max_depth: 40,
                trajectories: u32::MAX,
                max_expansions: 3000,
                ..SearchConfig::default()
            };
            let policy = Policy { seed, end_frac: 0.05, levels: 4, ..Policy::default() };
            let mut tree = Tree::new(&config, special(PADDING, END), policy.seed).unwrap();
            while let Some(node) = step(&mut tree, END, |tag| policy.chunk(tag, config.step_tokens)).unwrap() {
                if node.0 % 97 == 0 {
                    for leaves_only in [true, leaves_only] {
                        assert_eq!(tree.frontier_leader(leaves_only), scanned_leader(&tree, leaves_only));
                    }
                }
            }
            assert_eq!(tree.next(), Next::Done(StopReason::ExpansionBudget));
        }
    }
}

fn small() -> SearchConfig {
    SearchConfig { width: 2, step_tokens: 3, max_depth: 3, trajectories: 2, event_log: true, ..SearchConfig::default() }
}

fn going_on() -> Child {
    let continuation = Continuation {
        tokens: vec![5, 6, 7],
        logprobs: vec![-0.5; 3],
        finish: FinishReason::Length,
        weight_version: WeightVersion(1),
    };
    Child::new(continuation, None)
}

fn ended(verdict: Option<Verdict>) -> Child {
    let mut child = going_on();
    child.continuation.finish = FinishReason::Stop;
    Child { verdict, ..child }
}

#[test]
fn a_wrong_supply_is_refused_and_changes_nothing() {
    let too_long = Child {
        continuation: Continuation { tokens: vec![5; 4], logprobs: vec![-0.5; 4], ..going_on().continuation },
        ..going_on()
    };
    let unequal =
        Child { continuation: Continuation { logprobs: vec![-0.5; 2], ..going_on().continuation }, ..going_on() };
    let (node, root) = (NodeId::ROOT, NodeId::ROOT);
    let cases = [
        (NodeId(3), vec![], SearchError::NotWanted { supplied: NodeId(3), wanted: Some(root) }),
        (root, vec![going_on()], SearchError::ContinuationCount { node, expected: 2, got: 1 }),
        (root, vec![going_on(), too_long], SearchError::TooLong { node, child: 1, tokens: 4, limit: 3 }),
        (root, vec![going_on(), unequal], SearchError::LogprobCount { node, child: 1, tokens: 3, logprobs: 2 }),
        (root, vec![going_on(), ended(None)], SearchError::VerdictMissing { node, child: 1 }),
        (
            root,
            vec![Child { verdict: Some(Verdict::Correct), ..going_on() }, going_on()],
            SearchError::VerdictUnexpected { node, child: 0 },
        ),
        (root, vec![Child { is_lost: true, ..going_on() }, going_on()], SearchError::LossUnexpected { node, child: 0 }),
    ];
    let mut tree = Tree::new(&small(), SpecialTokens::default(), 0).unwrap();
    let fresh = format!("{tree:?}");
    for (node, children, expected) in cases {
        assert_eq!(tree.supply(node, children, Duration::ZERO), Err(expected));
        assert_eq!(format!("{tree:?}"), fresh);
    }
    let correct = || ended(Some(Verdict::Correct));
    tree.supply(root, vec![correct(), correct()], Duration::ZERO).unwrap();
    assert_eq!(tree.next(), Next::Done(StopReason::Complete));
    let late = tree.supply(root, vec![correct(), correct()], Duration::ZERO);
    assert_eq!(late, Err(SearchError::NotWanted { supplied: root, wanted: None }));
    assert!(matches!(
        Tree::new(&SearchConfig { width: 0, ..small() }, SpecialTokens::default(), 0),
        Err(SearchError::Settings { problems }) if problems.len() == 1
    ));
}

#[test]
fn fresh_siblings_are_ranked_by_confidence_or_by_index() {
    let confident =
        Child { continuation: Continuation { logprobs: vec![-0.1; 3], ..going_on().continuation }, ..going_on() };
    let silent =
        Child { continuation: Continuation { logprobs: vec![f32::NAN; 3], ..going_on().continuation }, ..going_on() };
    for (rules, chosen) in [(Rules::Paper, 3), (Rules::Released, 1)] {
        let config = SearchConfig { rules, width: 3, ..small() };
        let mut tree = Tree::new(&config, SpecialTokens::default(), 0).unwrap();
        let children = vec![silent.clone(), going_on(), confident.clone()];
        tree.supply(NodeId::ROOT, children, Duration::ZERO).unwrap();
        assert_eq!(tree.next(), Next::Expand { node: NodeId(chosen), n: 3 }, "{rules:?}");
    }
}

#[test]
fn a_failed_check_neither_counts_nor_ends_the_descent() {
    for rules in [Rules::Paper, Rules::Released] {
        let config = SearchConfig { rules, ..small() };
        let mut tree = Tree::new(&config, SpecialTokens::default(), 0).unwrap();
        // Short of a full chunk, so that both rule sets see the end.
        let mut failed = ended(Some(Verdict::Error));
        failed.continuation.tokens.pop();
        failed.continuation.logprobs.pop();
        tree.supply(NodeId::ROOT, vec![failed.clone(), going_on()], Duration::ZERO).unwrap();
        assert_eq!(tree.next(), Next::Expand { node: NodeId(2), n: 2 });
        tree.supply(NodeId(2), vec![failed.clone(), failed], Duration::ZERO).unwrap();
        assert_eq!(tree.next(), Next::Done(StopReason::Exhausted));
        assert!(tree.trajectories().is_empty());
        assert!(tree.nodes().all(|node| node.q_total() == 0.0));
        assert_eq!(tree.events().last(), Some(&Event::Exhausted));
    }
}

#[test]
fn an_end_in_the_last_slot_ends_the_branch_by_the_paper_only() {
    let special = SpecialTokens { end_of_text: vec![9], padding: None };
    // The engine calls it a stop, or only the last token tells.
    let told = ended(None).continuation;
    let shown = Continuation { tokens: vec![5, 6, 9], ..going_on().continuation };
    for (rules, terminal) in [(Rules::Paper, true), (Rules::Released, false)] {
        let tree = Tree::new(&SearchConfig { rules, ..small() }, special.clone(), 0).unwrap();
        assert_eq!(tree.is_terminal(NodeId::ROOT, &told), terminal);
        assert_eq!(tree.is_terminal(NodeId::ROOT, &shown), terminal);
        assert!(!tree.is_terminal(NodeId::ROOT, &going_on().continuation));
    }
}

/// Under lazy siblings the first way down costs one continuation a level, and what is left open is found again.
#[test]
fn a_lazy_search_pays_for_siblings_when_it_comes_back() {
    let config = SearchConfig { siblings: Siblings::Lazy, width: 3, trajectories: 4, ..small() };
    let mut tree = Tree::new(&config, SpecialTokens::default(), 0).unwrap();
    let wrong = || Child { verdict: Some(Verdict::Incorrect), ..going_on() };
    let mut supply = |wanted: (u32, u32), children: Vec<Child>| {
        assert_eq!(tree.next(), Next::Expand { node: NodeId(wanted.0), n: wanted.1 });
        tree.supply(NodeId(wanted.0), children, Duration::ZERO).unwrap();
        let scores = tree.frontier_leader(true);
        (scores, tree.tag(NodeId(tree.nodes().len() as u32 - 1)))
    };
    supply((0, 1), vec![going_on()]);
    supply((1, 1), vec![going_on()]);
    // A failure all the way: the values are -1/3, -2/3 and -0.1 of the root, whose places are the best.
    let (leader, _) = supply((2, 1), vec![wrong()]);
    let score = 0.4 * (-0.1f64).tanh() + 0.01 * (1.0f64 / 3.0).sqrt();
    assert_eq!(leader, Some((NodeId::ROOT, score)));
    // Both missing ones at once; what was sampled later has the next indices.
    let (_, tag) = supply((0, 2), vec![going_on(), going_on()]);
    assert_eq!(tag, "0.3");
    // UCT takes one that was never visited, and the way down is narrow again.
    let (_, tag) = supply((4, 1), vec![going_on()]);
    assert_eq!(tag, "0.2.1");
    // A success: the deepest open places are now the best ones.
    let right = Child { verdict: Some(Verdict::Correct), ..going_on() };
    let (leader, _) = supply((6, 1), vec![right]);
    assert_eq!(leader.map(|(node, _)| node), Some(NodeId(6)));
    assert_eq!(tree.next(), Next::Expand { node: NodeId(6), n: 2 });
    assert_eq!(tree.node(NodeId(6)).unwrap().selected_after(), Some(6));
}

#[test]
fn a_very_deep_tree_is_walked_without_recursion() {
    let depth = 50_000;
    for rules in [Rules::Paper, Rules::Released] {
        let config = SearchConfig { rules, width: 1, max_depth: depth, trajectories: 1, ..small() };
        let mut tree = Tree::new(&config, SpecialTokens::default(), 0).unwrap();
        while let Next::Expand { node, .. } = tree.next() {
            let last = tree.node(node).unwrap().depth() + 1 == depth;
            let child = Child { verdict: last.then_some(Verdict::Incorrect), ..going_on() };
            tree.supply(node, vec![child], Duration::ZERO).unwrap();
        }
        assert_eq!(tree.next(), Next::Done(StopReason::Complete));
        assert_eq!(tree.path(tree.trajectories()[0]).len(), depth as usize);
        assert_eq!(tree.tag(NodeId(depth)).len(), 1 + 2 * depth as usize);
    }
}
