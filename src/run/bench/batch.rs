//! The trees of a measurement: made up, from a file, or those that a search has stored; and the same trajectories without
//! their tree.

use std::path::{Path, PathBuf};

use super::shape::TreeShape;
use super::{BenchError, file};
use crate::config::{AdvantageForm, TokenCredit, TrainConfig};
use crate::run::step::groups_of;
use crate::run::{DATABASE, RunError};
use crate::store::Reader;
use crate::trainer::advantage::has_signal;
use crate::trainer::minibatch::{advantage_settings, weigh};
use crate::trainer::pack;
use crate::types::{GroupNode, TrajectoryGroup};

/// Where the trees come from.
#[derive(Clone, Debug, PartialEq)]
pub enum TreeSource {
    /// Made up.
    Shape {
        /// Of this shape.
        shape: TreeShape,
        /// How many.
        trees: usize,
        /// Seed of tokens and values.
        seed: u64,
    },
    /// A file that a measurement has written.
    File(PathBuf),
    /// The trees of the finished steps of the newest run of each folder.
    Runs(Vec<PathBuf>),
}

/// A group as it was found and as it is trained on.
#[derive(Clone, Debug, PartialEq)]
pub struct Weighed {
    /// All of it: what the trainer is given.
    pub whole: TrajectoryGroup,
    /// The trajectories that the update is made of.
    pub kept: TrajectoryGroup,
    /// Their advantages, [trajectories][nodes of the path].
    pub advantages: Vec<Vec<f64>>,
}

impl TreeSource {
    /// The trees, at most `limit` of those that are stored; `observe` is told, for people, which are not any more.
    ///
    /// # Errors
    /// A shape that cannot be, a file or database that cannot be read.
    pub async fn load(
        &self,
        limit: Option<usize>,
        vocab_tokens: usize,
        observe: &impl Fn(&str),
    ) -> Result<Vec<TrajectoryGroup>, BenchError> {
        let mut groups = match self {
            TreeSource::Shape { shape, trees, seed } => {
                shape.check_forest(*trees)?;
                let vocab_tokens = u32::try_from(vocab_tokens).unwrap_or(u32::MAX);
                let grown = (0..*trees).map(|index| shape.grow(*seed, index as u64, vocab_tokens));
                grown.collect::<Result<Vec<_>, _>>()?
            }
            TreeSource::File(path) => file::read(path, vocab_tokens)?,
            TreeSource::Runs(dirs) => {
                let mut groups = Vec::new();
                for dir in dirs {
                    let found = stored(dir, observe).await?;
                    let other = found.iter().find_map(|group| pack::check_group(group, vocab_tokens).err());
                    if let Some(reason) = other {
                        let reason = reason.to_string();
                        return Err(BenchError::OtherModel { dir: dir.to_owned(), reason });
                    }
                    groups.extend(found);
                }
                groups
            }
        };
        groups.retain(|group| !group.trajectories.is_empty());
        groups.truncate(limit.unwrap_or(usize::MAX));
        Ok(groups)
    }
}

async fn stored(dir: &Path, observe: &impl Fn(&str)) -> Result<Vec<TrajectoryGroup>, BenchError> {
    let path = dir.join(DATABASE);
    if !path.exists() {
        return Err(BenchError::NoRun { dir: dir.to_owned() });
    }
    // Only read: it may be that of a run that goes on, or of somebody else.
    let reader = Reader::open(&path).await.map_err(RunError::from)?;
    let run = reader.latest_run().await.map_err(RunError::from)?;
    let run = run.ok_or_else(|| BenchError::NoRun { dir: dir.to_owned() })?.run_id;
    let steps = reader.done_steps(run).await.map_err(RunError::from)?;
    if steps.is_empty() {
        return Err(BenchError::NoSteps { dir: dir.to_owned(), run });
    }
    let (mut groups, mut dropped) = (Vec::new(), Vec::new());
    for step in &steps {
        match reader.recorded_trees(run, step.step_id).await {
            Ok(trees) => groups.extend(groups_of(trees)),
            Err(error) if error.is_dropped_content() => dropped.push(step.step_id),
            Err(error) => return Err(RunError::from(error).into()),
        }
    }
    if let Some(last) = dropped.last() {
        if dropped.len() == steps.len() {
            return Err(BenchError::Dropped { dir: dir.to_owned(), run });
        }
        let (count, dir) = (dropped.len(), dir.display());
        observe(&format!(
            "{count} steps of run {run} in {dir}, the last of them step {last}, are left out: their tokens or logprobs were \
             dropped"
        ));
    }
    Ok(groups)
}

/// The groups that move the weights under `config`: what the others take is no time.
///
/// # Errors
/// [`BenchError::NoSignal`].
pub fn with_signal(
    groups: Vec<TrajectoryGroup>,
    config: &TrainConfig,
    response_budget_tokens: u32,
) -> Result<Vec<Weighed>, BenchError> {
    let settings = advantage_settings(config, response_budget_tokens);
    let count = groups.len();
    let weighed = groups.into_iter().map(|whole| {
        let (kept, advantages, _) = weigh(&whole, &settings);
        Weighed { whole, kept, advantages }
    });
    let weighed: Vec<_> = weighed.filter(|weighed| has_signal(&weighed.advantages)).collect();
    if weighed.is_empty() {
        return Err(BenchError::NoSignal { groups: count });
    }
    Ok(weighed)
}

/// Every trajectory as a group of its own, prompt included, and the settings under which each keeps its advantages: the
/// values *are* the advantages, and nothing that compares trajectories is left.
pub fn separated(batch: &[Weighed], config: &TrainConfig) -> (Vec<TrajectoryGroup>, TrainConfig) {
    let config = TrainConfig {
        advantage: AdvantageForm::Value,
        token_credit: TokenCredit::Node,
        q_temperature: 0.0,
        overlong_buffer_tokens: 0,
        ..config.clone()
    };
    let one = |group: &TrajectoryGroup, index: usize, advantages: &[f64]| {
        let mut trajectory = group.trajectories[index].clone();
        let nodes: Vec<GroupNode> = (trajectory.path.iter().zip(advantages).enumerate())
            .map(|(place, (&node, &advantage))| GroupNode {
                parent: place.checked_sub(1),
                q_total: advantage,
                ..group.nodes[node].clone()
            })
            .collect();
        trajectory.path = (0..nodes.len()).collect();
        // The last node's value is the reward of the leaf.
        trajectory.reward = advantages.last().copied().unwrap_or_default();
        TrajectoryGroup { nodes, trajectories: vec![trajectory], ..group.clone() }
    };
    let groups = batch.iter().flat_map(|weighed| {
        weighed.advantages.iter().enumerate().map(|(index, advantages)| one(&weighed.kept, index, advantages))
    });
    (groups.collect(), config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separate_trajectories_keep_their_advantages() {
        let shape: TreeShape = "depth=3,width=2,tokens=4,prompt=3".parse().unwrap();
        for form in [AdvantageForm::Signed, AdvantageForm::MeanOnly, AdvantageForm::Value, AdvantageForm::Agreeing] {
            let config = TrainConfig { advantage: form, ..TrainConfig::default() };
            let batch = with_signal(vec![shape.grow(3, 0, 50).unwrap()], &config, 16).unwrap();
            let (groups, separate) = separated(&batch, &config);
            assert_eq!(groups.len(), 8);
            let settings = advantage_settings(&separate, 16);
            for (group, expected) in groups.iter().zip(&batch[0].advantages) {
                assert_eq!(&weigh(group, &settings).1[0], expected, "{form:?}");
                crate::trainer::pack::check_group(group, 50).unwrap();
            }
        }
    }
}
