//! Made-up trees of a described shape: random tokens, for measuring only.

use std::ops::Range;
use std::str::FromStr;

use rand::Rng;

use super::BenchError;
use crate::rng::{Purpose, stream};
use crate::types::{
    GroupNode, NodeId, ProblemId, Prompt, Provenance, TokenId, Trajectory, TrajectoryGroup, Verdict, WeightVersion,
};

/// Largest number of rows of all made-up trees.
const MOST_TOKENS: u64 = 1 << 27;

/// Shape of a made-up tree. Below the prompt every path has `depth` nodes of `tokens` tokens. At levels 1, 1 + every,
/// 1 + 2 every, ... a node's trajectories are split among up to `width` children, as evenly as possible and in order; at the
/// other levels it has one child. So `width^depth` trajectories with `every = 1` are the complete tree, 1 is a chain, and
/// `every` says how long branches stay together.
///
/// As text: `depth=4,width=2,tokens=64,trajectories=16,prompt=64,every=1`, any of them left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeShape {
    /// Nodes on a path.
    pub depth: u32,
    /// Most children of a node.
    pub width: u32,
    /// Tokens of a node.
    pub node_tokens: u32,
    /// Paths; 0 is as many as the shape allows.
    pub trajectories: u32,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Levels from one split to the next.
    pub every: u32,
}

impl Default for TreeShape {
    fn default() -> Self {
        TreeShape { depth: 4, width: 2, node_tokens: 64, trajectories: 0, prompt_tokens: 64, every: 1 }
    }
}

impl FromStr for TreeShape {
    type Err = String;

    fn from_str(text: &str) -> Result<TreeShape, String> {
        let mut shape = TreeShape::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').ok_or_else(|| format!("`{part}` is not `key=number`"))?;
            let place = match key.trim() {
                "depth" => &mut shape.depth,
                "width" => &mut shape.width,
                "tokens" => &mut shape.node_tokens,
                "trajectories" => &mut shape.trajectories,
                "prompt" => &mut shape.prompt_tokens,
                "every" => &mut shape.every,
                other => {
                    let known = "`depth`, `width`, `tokens`, `trajectories`, `prompt` and `every`";
                    return Err(format!("`{other}` is no part of a shape: {known} are"));
                }
            };
            let number = value.trim().parse::<u32>().ok().filter(|number| *number > 0);
            *place = number.ok_or_else(|| format!("`{part}`: a whole number above 0 is needed"))?;
        }
        Ok(shape)
    }
}

impl TreeShape {
    fn splits_at(&self, level: u32) -> bool {
        (level - 1).is_multiple_of(self.every)
    }

    /// Tokens of one trajectory, the prompt's included.
    fn path_tokens(&self) -> u64 {
        u64::from(self.prompt_tokens) + u64::from(self.depth) * u64::from(self.node_tokens)
    }

    /// Whether so many trees of this shape fit the memory.
    ///
    /// # Errors
    /// [`BenchError::Shape`].
    pub fn check_forest(&self, trees: usize) -> Result<(), BenchError> {
        let path_tokens = self.path_tokens();
        let tokens = u64::from(self.paths()?).saturating_mul(path_tokens).saturating_mul(trees as u64);
        if tokens > MOST_TOKENS {
            let reason = format!("{trees} trees of up to {tokens} tokens in all are more than {MOST_TOKENS} tokens");
            return Err(BenchError::Shape { reason });
        }
        Ok(())
    }

    /// The number of trajectories, which the shape has room for.
    fn paths(&self) -> Result<u32, BenchError> {
        let splits = self.depth.div_ceil(self.every);
        let room = u64::from(self.width).checked_pow(splits).unwrap_or(u64::MAX);
        let paths = if self.trajectories == 0 { room } else { u64::from(self.trajectories) };
        if paths > room {
            let reason = format!("{paths} trajectories do not fit a tree with {room} leaves");
            return Err(BenchError::Shape { reason });
        }
        let path_tokens = self.path_tokens();
        // A bound from above: what is shared counts once only.
        if paths.checked_mul(path_tokens).is_none_or(|tokens| tokens > MOST_TOKENS) {
            let reason = format!("{paths} trajectories of {path_tokens} tokens are more than {MOST_TOKENS} tokens");
            return Err(BenchError::Shape { reason });
        }
        Ok(u32::try_from(paths).unwrap_or(u32::MAX))
    }

    /// Tree number `index` under `seed`: tokens and values drawn from the stream (seed, `bench`, index). Tokens are uniform
    /// below `vocab_tokens`, values of inner nodes uniform in (-1, 1), every second trajectory is correct (+1) and the
    /// others are incorrect (-1). No logprob of an engine is known.
    ///
    /// # Errors
    /// [`BenchError::Shape`] for more trajectories than the tree has leaves, or more tokens than can be held.
    pub fn grow(&self, seed: u64, index: u64, vocab_tokens: u32) -> Result<TrajectoryGroup, BenchError> {
        let paths = self.paths()?;
        let mut random = stream(seed, Purpose::Bench, &[index]);
        let vocab_tokens = u64::from(vocab_tokens.max(1));
        let mut tokens =
            |count: u32| -> Vec<TokenId> { (0..count).map(|_| (random.next_u64() % vocab_tokens) as u32).collect() };
        let prompt = tokens(self.prompt_tokens);
        let mut values = stream(seed, Purpose::Bench, &[index, 1]);
        let mut group = TrajectoryGroup {
            problem: ProblemId(i64::try_from(index).unwrap_or(i64::MAX)),
            tree: None,
            prompt: Prompt { tokens: prompt.into(), text: "".into() },
            nodes: Vec::new(),
            trajectories: Vec::new(),
        };
        // The newest node of each level: in depth-first order, that of the trajectory's own path.
        let mut current = vec![0; self.depth as usize];
        for path in 0..paths {
            let reward = if path % 2 == 0 { 1.0 } else { -1.0 };
            let mut through = 0..paths;
            let mut parent = None;
            for level in 1..=self.depth {
                if self.splits_at(level) {
                    through = part_of(&through, self.width, path);
                }
                let place = &mut current[level as usize - 1];
                if through.start == path {
                    let value = 2.0 * (values.next_u64() >> 11) as f64 / (1u64 << 53) as f64 - 1.0;
                    *place = group.nodes.len();
                    group.nodes.push(GroupNode {
                        node: NodeId(group.nodes.len() as u32 + 1),
                        parent,
                        depth: level,
                        tokens: tokens(self.node_tokens),
                        logprobs: vec![f32::NAN; self.node_tokens as usize],
                        weight_version: WeightVersion::INITIAL,
                        q_total: if level == self.depth { reward } else { value },
                    });
                }
                parent = Some(*place);
            }
            group.trajectories.push(Trajectory {
                path: current.clone(),
                verdict: if reward > 0.0 { Verdict::Correct } else { Verdict::Incorrect },
                reward,
                entropy_nats: f64::NAN,
                response_tokens: self.depth as usize * self.node_tokens as usize,
                provenance: Provenance::Search,
                defect: None,
            });
        }
        Ok(group)
    }
}

/// The part with `path` in it, of `paths` split in order into `width` parts (or one each) that differ by one at most.
fn part_of(paths: &Range<u32>, width: u32, path: u32) -> Range<u32> {
    let count = u64::from(paths.end - paths.start);
    let parts = count.min(u64::from(width));
    let border = |part: u64| paths.start + (part * count / parts) as u32;
    // border(part) <= path where part * count < (path - start + 1) * parts.
    let part = ((u64::from(path - paths.start) + 1) * parts - 1) / count;
    border(part)..border(part + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grown(text: &str) -> TrajectoryGroup {
        text.parse::<TreeShape>().unwrap().grow(1, 0, 100).unwrap()
    }

    fn levels(group: &TrajectoryGroup) -> Vec<usize> {
        let depth = group.nodes.iter().map(|node| node.depth).max().unwrap();
        (1..=depth).map(|level| group.nodes.iter().filter(|node| node.depth == level).count()).collect()
    }

    #[test]
    fn shapes_are_as_described() {
        assert_eq!(levels(&grown("depth=3,width=2,tokens=2")), [2, 4, 8], "complete");
        assert_eq!(levels(&grown("depth=4,width=2,every=2,tokens=2")), [2, 2, 4, 4]);
        assert_eq!(levels(&grown("depth=3,width=4,trajectories=1,tokens=2")), [1, 1, 1], "a chain");
        assert_eq!(levels(&grown("depth=3,width=3,trajectories=7,tokens=2")), [3, 7, 7]);
        let group = grown("depth=3,width=3,trajectories=7,tokens=5,prompt=2");
        assert_eq!((group.trajectories.len(), group.prompt.tokens.len()), (7, 2));
        for trajectory in &group.trajectories {
            assert_eq!((trajectory.path.len(), trajectory.response_tokens), (3, 15));
            crate::trainer::pack::check_group(&group, 100).unwrap();
        }
        let texts = |group: &TrajectoryGroup| group.nodes.iter().map(|node| node.tokens.clone()).collect::<Vec<_>>();
        let again = grown("depth=3,width=3,trajectories=7,tokens=5,prompt=2");
        assert_eq!(texts(&group), texts(&again), "one seed, one tree");
        let other = "depth=3,width=3,trajectories=7,tokens=5,prompt=2".parse::<TreeShape>().unwrap().grow(1, 1, 100);
        assert_ne!(texts(&group), texts(&other.unwrap()));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (text, word) in [("deep=3", "`deep`"), ("depth=0", "above 0"), ("depth", "key=number")] {
            assert!(text.parse::<TreeShape>().unwrap_err().contains(word), "{text}");
        }
        for text in ["depth=2,width=2,trajectories=5", "depth=64,width=8,tokens=256"] {
            let shape: TreeShape = text.parse().unwrap();
            assert!(matches!(shape.grow(1, 0, 100), Err(BenchError::Shape { .. })), "{text}");
        }
    }
}
