//! Tree-GRPO advantages: backed-up node values in, one advantage per node of each trajectory out.
//!
//! All of it is f64 and free of tensors. A group is the trajectories of one tree. With v_j the backed-up sum q_total
//! of the j-th node of a path, r the leaf's own reward and o <= 0 the overlong penalty of the trajectory
//! (DeepSearch, arXiv 2509.25454, equations 13 to 15; released code: `deepsearch/reward_manager`):
//!
//! - value of a node: c_j = tanh(v_j / eps_q) * q_max for every node but the last, which keeps r; with
//!   `token_credit = "outcome"` c_j = r for every node (GRPO);
//! - `Value`: A_j = c_j + o;
//! - `MeanOnly`: A_j = c_j + o - m, with m the mean over the group of (r + o);
//! - `MeanStd`: the same divided by (s + 1e-6), s the population standard deviation of (r + o). Where all rewards are
//!   equal, as in a tree where everything failed, s = 0 and the inner nodes get advantages of order 1e6, as published;
//! - `Signed`: A_j = 2 (1 - p) c_j where c_j > 0, and 2 p c_j where c_j < 0, plus min(0, o - mean o); p is the share of
//!   the group's k correct among its n trajectories, k / n, and 1 / (n + 2) where k = 0;
//! - `Agreeing`: the same, but 0 in place of the first term where the signs of c_j and r differ.
//!
//! **Why `Signed`.** The published baseline m comes from the leaves and is taken from every node, however far the
//! node's own value has decayed. In a tree where everything failed, m = -1 and c_j > -1, so every node but the last
//! is pushed *up* and the last is left alone; in one where everything succeeded, every node but the last is pushed
//! down. `Signed` multiplies instead: a value that speaks of success weighs as much as success was unlikely, one that
//! speaks of failure as much as failure was. (The same is c_j - |c_j| b with b = 2 p - 1, the mean reward of a group of
//! +1 and -1.) From this follows, length apart:
//!
//! 1. A_j never has the sign opposite to c_j. Under the constrained update (equation 5) that sign means "lies on a
//!    correct path", so no node of a correct path is ever pushed down.
//! 2. On leaves of +1 and -1 it is plain GRPO, k 2 (1 - p) = (n - k) 2 p: they sum to zero. So do groups of cached
//!    solutions and direct rollouts, whose paths are one node long.
//! 3. A tree in which everything is right has p = 1 and is zero everywhere: a solved problem is not pushed further and
//!    further.
//! 4. Where everything failed, p is not 0 but its mean under a uniform prior (one imagined success and one imagined
//!    failure): the confident mistake of such a tree is pushed down, by 2 / (n + 2) at the leaf (8 failures: -0.2, 1:
//!    -0.67). A worse reward is pushed down harder, in one group and between groups with the same p.
//! 5. Length is compared as well: what exceeds the group's mean penalty is taken from every node, and nobody gains from
//!    being short. Otherwise a policy whose every answer is too long would see everything it writes pushed down by the
//!    same large amount, which says nothing of what to do instead.
//!
//! **What `Signed` does not do.** A node shared by k' correct and n' - k' incorrect trajectories has c_j > 0 and is
//! pushed up n' times: a prefix over one success and seven failures rises eightfold, by 8 x 1.75 tanh(gamma), where
//! outcomes alone would leave it (1.75 - 7 x 0.25 = 0). `Agreeing` lets the failures say nothing of it: k' times,
//! once for each success that it led to. It keeps 1 to 5, and keeps 1 under every update of q: no correct *trajectory*
//! is pushed down at any node.
//!
//! Absent on purpose: any use of visits or of q_mean. Selection uses the mean, training the sum.

use crate::config::{AdvantageForm, TokenCredit};
use crate::types::TrajectoryGroup;

/// Advantages no larger than this are taken for rounding: a group of such has no signal.
const NO_SIGNAL: f64 = 1e-9;

/// Added to the standard deviation in [`AdvantageForm::MeanStd`], as published.
const STD_EPSILON: f64 = 1e-6;

/// Penalty on the length of a trajectory near the end of the response budget.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Overlong {
    /// Largest number of sampled tokens of a trajectory (the paper: 16,384).
    pub response_budget_tokens: u32,
    /// Tokens before the end of the budget from which length is penalised (the paper: 4,096).
    pub buffer_tokens: u32,
    /// Penalty at the end of the budget.
    pub factor: f64,
}

/// How values become advantages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdvantageSettings {
    /// The formula.
    pub form: AdvantageForm,
    /// What the value of a token is.
    pub credit: TokenCredit,
    /// Whether incorrect trajectories with a defect are left out once the baseline is known.
    pub drop_defective: bool,
    /// eps_q; 0 or less turns the soft clip off.
    pub q_temperature: f64,
    /// q_max.
    pub q_max: f64,
    /// `None` is off.
    pub overlong: Option<Overlong>,
}

/// What a trajectory contributes.
#[derive(Clone, Copy, Debug)]
struct Leaf {
    reward: f64,
    overlong: f64,
}

/// tanh(v / eps_q) * q_max for all but the last entry; unchanged if `q_temperature` <= 0 (equation 13).
pub fn soft_clip(values: &[f64], q_temperature: f64, q_max: f64) -> Vec<f64> {
    let mut clipped = values.to_vec();
    if q_temperature > 0.0
        && let Some((_, inner)) = clipped.split_last_mut()
    {
        for value in inner {
            *value = (*value / q_temperature).tanh() * q_max;
        }
    }
    clipped
}

/// min(0, -(len - (budget - buffer)) / buffer * factor), at most 0; 0 without a buffer.
pub fn overlong_penalty(response_tokens: usize, overlong: Option<Overlong>) -> f64 {
    match overlong {
        Some(Overlong { response_budget_tokens, buffer_tokens, factor }) if buffer_tokens > 0 => {
            let start = f64::from(response_budget_tokens) - f64::from(buffer_tokens);
            let over = response_tokens as f64 - start;
            (-over / f64::from(buffer_tokens) * factor).min(0.0)
        }
        _ => 0.0,
    }
}

/// The advantage of every node of every trajectory, [trajectories][nodes of the path], in the order of
/// `group.trajectories` and their paths. Zero everywhere where the group has no signal: see [`has_signal`].
pub fn advantages(group: &TrajectoryGroup, settings: &AdvantageSettings) -> Vec<Vec<f64>> {
    let leaves: Vec<Leaf> = group
        .trajectories
        .iter()
        .map(|t| Leaf { reward: t.reward, overlong: overlong_penalty(t.response_tokens, settings.overlong) })
        .collect();
    let values: Vec<Vec<f64>> = group
        .trajectories
        .iter()
        .map(|t| {
            if settings.credit == TokenCredit::Outcome {
                return vec![t.reward; t.path.len()];
            }
            let mut values: Vec<f64> = t.path.iter().map(|&node| group.nodes[node].q_total).collect();
            if let Some(last) = values.last_mut() {
                *last = t.reward;
            }
            soft_clip(&values, settings.q_temperature, settings.q_max)
        })
        .collect();
    match settings.form {
        AdvantageForm::Signed => signed(&values, &leaves, |_, _| true),
        AdvantageForm::Agreeing => signed(&values, &leaves, |value, leaf| value * leaf.reward > 0.0),
        AdvantageForm::Value => per_node(&values, &leaves, |value, leaf| value + leaf.overlong),
        AdvantageForm::MeanOnly => mean_only(&values, &leaves),
        AdvantageForm::MeanStd => mean_std(&values, &leaves),
    }
}

/// Whether any advantage differs from zero. A group without signal adds nothing to the gradient and is skipped.
pub fn has_signal(advantages: &[Vec<f64>]) -> bool {
    advantages.iter().flatten().any(|a| a.abs() > NO_SIGNAL)
}

/// Values weighed by surprise where they `count`, and what exceeds the mean length penalty.
fn signed(values: &[Vec<f64>], leaves: &[Leaf], counts: impl Fn(f64, &Leaf) -> bool) -> Vec<Vec<f64>> {
    let n = leaves.len() as f64;
    let correct = leaves.iter().filter(|leaf| leaf.reward > 0.0).count();
    let p = if correct == 0 { 1.0 / (n + 2.0) } else { correct as f64 / n };
    let mean_overlong = leaves.iter().map(|leaf| leaf.overlong).sum::<f64>() / n;
    per_node(values, leaves, |value, leaf| {
        let weight = if value > 0.0 { 2.0 * (1.0 - p) } else { 2.0 * p };
        let credit = if counts(value, leaf) { weight * value } else { 0.0 };
        credit + (leaf.overlong - mean_overlong).min(0.0)
    })
}

fn mean_only(values: &[Vec<f64>], leaves: &[Leaf]) -> Vec<Vec<f64>> {
    let (mean, _) = moments(leaves);
    per_node(values, leaves, |value, leaf| value + leaf.overlong - mean)
}

fn mean_std(values: &[Vec<f64>], leaves: &[Leaf]) -> Vec<Vec<f64>> {
    let (mean, std) = moments(leaves);
    per_node(values, leaves, |value, leaf| (value + leaf.overlong - mean) / (std + STD_EPSILON))
}

/// Mean and population standard deviation of the final rewards; (0, 1) for a single trajectory, as published.
fn moments(leaves: &[Leaf]) -> (f64, f64) {
    if leaves.len() < 2 {
        return (0.0, 1.0);
    }
    let n = leaves.len() as f64;
    let mean = leaves.iter().map(|l| l.reward + l.overlong).sum::<f64>() / n;
    let variance = leaves.iter().map(|l| (l.reward + l.overlong - mean).powi(2)).sum::<f64>() / n;
    (mean, variance.sqrt())
}

fn per_node(values: &[Vec<f64>], leaves: &[Leaf], advantage: impl Fn(f64, &Leaf) -> f64) -> Vec<Vec<f64>> {
    values.iter().zip(leaves).map(|(path, leaf)| path.iter().map(|&v| advantage(v, leaf)).collect()).collect()
}
