//! Groups as a file, for other programs to train on the very same trajectories: one JSON object with the objective and,
//! per group, prompt, nodes and paths with the advantages that the trainer gives them.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::BenchError;
use super::batch::Weighed;
use crate::config::{LossMean, OldLogprobs, TrainConfig};
use crate::trainer::pack;
use crate::trainer::tensor_file::temporary;
use crate::types::{
    Defect, GroupNode, NodeId, ProblemId, Prompt, Provenance, TokenId, Trajectory, TrajectoryGroup, Verdict,
    WeightVersion,
};

/// What the file is, for a reader that meets another one.
const FORMAT: &str = "trajectory-groups/1";

#[derive(Serialize)]
struct Written<'a> {
    format: &'static str,
    objective: ObjectiveOut,
    groups: Vec<GroupOut<'a>>,
}

/// All that a loss and an optimizer need beside the trajectories.
#[derive(Serialize)]
struct ObjectiveOut {
    temperature: f64,
    clip_low: f64,
    clip_high: f64,
    dual_clip: f64,
    importance_cap: f64,
    cached_importance_cap: f64,
    /// What the sum over (trajectory, token) pairs is divided by.
    denominator: f64,
    old_logprobs: OldLogprobs,
    learning_rate: f64,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    weight_decay: f64,
    max_grad_norm: f64,
}

#[derive(Serialize)]
struct GroupOut<'a> {
    problem: i64,
    prompt: &'a [TokenId],
    nodes: Vec<NodeOut<'a>>,
    trajectories: Vec<TrajectoryOut<'a>>,
}

#[derive(Serialize)]
struct NodeOut<'a> {
    node: u32,
    parent: Option<usize>,
    depth: u32,
    tokens: &'a [TokenId],
    /// Null where missing, as every number that is not finite.
    logprobs: &'a [f32],
    weight_version: u64,
    q_total: f64,
    /// Whether older weights sampled it: it is on cached solutions only.
    is_cached: bool,
}

#[derive(Serialize)]
struct TrajectoryOut<'a> {
    path: &'a [usize],
    verdict: Verdict,
    reward: f64,
    entropy_nats: f64,
    provenance: &'static str,
    defect: Option<Defect>,
    /// One per node of the path, as they go into the loss; null where the trajectory is left out of the update.
    advantages: Option<Vec<f64>>,
}

#[derive(Deserialize)]
struct Read {
    format: String,
    groups: Vec<GroupIn>,
}

#[derive(Deserialize)]
struct GroupIn {
    problem: i64,
    prompt: Vec<TokenId>,
    nodes: Vec<NodeIn>,
    trajectories: Vec<TrajectoryIn>,
}

#[derive(Deserialize)]
struct NodeIn {
    node: u32,
    parent: Option<usize>,
    depth: u32,
    tokens: Vec<TokenId>,
    logprobs: Vec<Option<f32>>,
    weight_version: u64,
    q_total: f64,
}

#[derive(Deserialize)]
struct TrajectoryIn {
    path: Vec<usize>,
    verdict: Verdict,
    reward: f64,
    entropy_nats: Option<f64>,
    provenance: String,
    defect: Option<Defect>,
}

/// Writes groups with their advantages.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, batch: &[Weighed], config: &TrainConfig, temperature: f64) -> Result<(), BenchError> {
    let kept = batch.iter().map(|weighed| &weighed.kept);
    let paths = kept.flat_map(|group| (0..group.trajectories.len()).map(move |index| (group, index)));
    let denominator: usize = match config.loss_mean {
        LossMean::Token => paths.map(|(group, index)| pack::response_tokens(group, index)).sum(),
        LossMean::Trajectory => paths.count(),
    };
    let written = Written {
        format: FORMAT,
        objective: ObjectiveOut {
            temperature,
            clip_low: config.clip_low,
            clip_high: config.clip_high,
            dual_clip: config.dual_clip,
            importance_cap: config.importance_cap,
            cached_importance_cap: config.cached_importance_cap,
            denominator: denominator as f64,
            old_logprobs: config.old_logprobs,
            learning_rate: config.learning_rate,
            beta1: config.beta1,
            beta2: config.beta2,
            epsilon: config.epsilon,
            weight_decay: config.weight_decay,
            max_grad_norm: config.max_grad_norm,
        },
        groups: batch.iter().map(|weighed| group_out(weighed, config.loss_mean)).collect(),
    };
    let io = |source| BenchError::Io { action: "write", path: path.to_owned(), source };
    // Under another name until it is whole.
    let partial = temporary(path);
    let result = || {
        let mut out = BufWriter::new(File::create(&partial).map_err(io)?);
        serde_json::to_writer(&mut out, &written).map_err(|error| match error.io_error_kind() {
            Some(kind) => io(kind.into()),
            None => BenchError::Unserialisable(error),
        })?;
        out.write_all(b"\n").and_then(|()| out.flush()).map_err(io)?;
        std::fs::rename(&partial, path).map_err(io)
    };
    result().inspect_err(|_| {
        // There is a better reason than a failure to clean up.
        let _ = std::fs::remove_file(&partial);
    })
}

fn group_out(weighed: &Weighed, mean: LossMean) -> GroupOut<'_> {
    let group = &weighed.whole;
    // What is left out is a part of the whole in the same order, and paths of one tree tell trajectories apart.
    let mut kept = weighed.kept.trajectories.iter().zip(&weighed.advantages).peekable();
    let trajectory = |trajectory: &'_ Trajectory| -> Option<Vec<f64>> {
        let (_, advantages) = kept.next_if(|(kept, _)| kept.path == trajectory.path)?;
        let tokens: usize = trajectory.path.iter().map(|&node| group.nodes[node].tokens.len()).sum();
        let share = if mean == LossMean::Trajectory { tokens.max(1) as f64 } else { 1.0 };
        Some(advantages.iter().map(|advantage| advantage / share).collect())
    };
    let mut is_cached = vec![true; group.nodes.len()];
    let sampled_now = group.trajectories.iter().filter(|t| t.provenance != Provenance::Cached);
    sampled_now.flat_map(|t| &t.path).for_each(|&node| is_cached[node] = false);
    let advantages: Vec<_> = group.trajectories.iter().map(trajectory).collect();
    GroupOut {
        problem: group.problem.0,
        prompt: &group.prompt.tokens,
        nodes: (group.nodes.iter().zip(is_cached))
            .map(|(node, is_cached)| NodeOut {
                node: node.node.0,
                parent: node.parent,
                depth: node.depth,
                tokens: &node.tokens,
                logprobs: &node.logprobs,
                weight_version: node.weight_version.0,
                q_total: node.q_total,
                is_cached,
            })
            .collect(),
        trajectories: (group.trajectories.iter().zip(advantages))
            .map(|(trajectory, advantages)| TrajectoryOut {
                path: &trajectory.path,
                verdict: trajectory.verdict,
                reward: trajectory.reward,
                entropy_nats: trajectory.entropy_nats,
                provenance: trajectory.provenance.as_str(),
                defect: trajectory.defect,
                advantages,
            })
            .collect(),
    }
}

/// Reads the groups of a file that [`write()`] made.
///
/// # Errors
/// A file that cannot be read or holds something else, and groups that break their own rules.
pub fn read(path: &Path, vocab_tokens: usize) -> Result<Vec<TrajectoryGroup>, BenchError> {
    let file = File::open(path).map_err(|source| BenchError::Io { action: "read", path: path.to_owned(), source })?;
    let malformed = |source| BenchError::Malformed { path: path.to_owned(), source };
    let read: Read = serde_json::from_reader(BufReader::new(file)).map_err(malformed)?;
    if read.format != FORMAT {
        let reason = format!("the format is `{}` and not `{FORMAT}`", read.format);
        return Err(malformed(serde::de::Error::custom(reason)));
    }
    let wrong = |group, reason| BenchError::Group { path: path.to_owned(), group, reason };
    let mut groups = Vec::with_capacity(read.groups.len());
    for (index, group) in read.groups.into_iter().enumerate() {
        let group = group_in(group).map_err(|reason| wrong(index, reason))?;
        pack::check_group(&group, vocab_tokens)
            .map_err(|error| wrong(index, crate::error::chain(&error).join(": ")))?;
        groups.push(group);
    }
    Ok(groups)
}

fn group_in(group: GroupIn) -> Result<TrajectoryGroup, String> {
    let nodes: Vec<GroupNode> = group
        .nodes
        .into_iter()
        .map(|node| GroupNode {
            node: NodeId(node.node),
            parent: node.parent,
            depth: node.depth,
            tokens: node.tokens,
            logprobs: node.logprobs.into_iter().map(|logprob| logprob.unwrap_or(f32::NAN)).collect(),
            weight_version: WeightVersion(node.weight_version),
            q_total: node.q_total,
        })
        .collect();
    let trajectory = |trajectory: TrajectoryIn| -> Result<Trajectory, String> {
        let length = |&node: &usize| nodes.get(node).map(|node| node.tokens.len());
        let lengths: Option<Vec<usize>> = trajectory.path.iter().map(length).collect();
        let known = [Provenance::Search, Provenance::Rollout, Provenance::Cached, Provenance::Imported];
        let provenance = known.into_iter().find(|provenance| provenance.as_str() == trajectory.provenance);
        Ok(Trajectory {
            response_tokens: lengths.ok_or("a path names a node that is not there")?.iter().sum(),
            path: trajectory.path,
            verdict: trajectory.verdict,
            reward: trajectory.reward,
            entropy_nats: trajectory.entropy_nats.unwrap_or(f64::NAN),
            provenance: provenance.ok_or_else(|| format!("`{}` is no provenance", trajectory.provenance))?,
            defect: trajectory.defect,
        })
    };
    Ok(TrajectoryGroup {
        problem: ProblemId(group.problem),
        tree: None,
        prompt: Prompt { tokens: group.prompt.into(), text: "".into() },
        trajectories: group.trajectories.into_iter().map(trajectory).collect::<Result<_, _>>()?,
        nodes,
    })
}
