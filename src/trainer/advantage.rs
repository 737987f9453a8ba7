//! Tree-GRPO advantages: backed-up node values in, one advantage per node of each trajectory out.
//!
//! All of it is f64 and free of tensors. A group is the trajectories of one tree. With v_j the backed-up sum q_total
//! of the j-th node of a path, r the leaf's own reward and o <= 0 the overlong penalty of the trajectory
//! (DeepSearch, arXiv 2509.25454, equations 13 to 15; released code: `deepsearch/reward_manager`):
//!
//! - value of a node: c_j = tanh(v_j / eps_q) * q_max for every node but the last, which keeps r; with
//!   `token_credit = "outcome"` c_j = r for every node (GRPO);
//! - `MeanOnly`: A_j = c_j + o - m, with m the mean over the group of (r + o);
//! - `MeanStd`: the same divided by (s + 1e-6), s the population standard deviation of (r + o);
//! - `Signed`: A_j = c_j - |c_j| * b + o, with b = sum(r) / n, and sum(r) / (n + 2) where every trajectory failed.
//!
//! **Why `Signed`.** The published baseline m comes from the leaves and is taken from every node, however far the
//! node's own value has decayed. In a tree where everything failed, m = -1 and c_j > -1, so every node but the last
//! is pushed *up* and the last is left alone; in one where everything succeeded, every node but the last is pushed
//! down. `Signed` scales the baseline by the magnitude of the value it is compared with, so A_j never has the sign
//! opposite to c_j (the overlong penalty apart); the constrained backup (equation 5) makes that sign mean "lies on a
//! correct path". On the leaves it is plain GRPO: they sum to zero, and a tree in which everything is right has no
//! signal, so that a solved problem is not pushed further and further. Only where everything failed is b the mean under
//! a uniform prior (one imagined success and one imagined failure), never -1: the confident mistake of such a tree is
//! pushed down (8 failures: leaf -0.2).
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
        AdvantageForm::Signed => signed(&values, &leaves),
        AdvantageForm::MeanOnly => mean_only(&values, &leaves),
        AdvantageForm::MeanStd => mean_std(&values, &leaves),
    }
}

/// Whether any advantage differs from zero. A group without signal adds nothing to the gradient and is skipped.
pub fn has_signal(advantages: &[Vec<f64>]) -> bool {
    advantages.iter().flatten().any(|a| a.abs() > NO_SIGNAL)
}

fn signed(values: &[Vec<f64>], leaves: &[Leaf]) -> Vec<Vec<f64>> {
    let n = leaves.len() as f64;
    let imagined = if leaves.iter().all(|l| l.reward < 0.0) { 2.0 } else { 0.0 };
    let baseline = leaves.iter().map(|l| l.reward).sum::<f64>() / (n + imagined);
    per_node(values, leaves, |value, leaf| value - value.abs() * baseline + leaf.overlong)
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
