//! How much a training step has to compute: tokens, and floating-point operations by the usual formula.
//!
//! 6 N T for the matrix products, forward (2) and backward (4), with N the parameters in matrix products (the vocabulary
//! projection among them, the look-up of embeddings not) and T the tokens; 12 L H D S for attention, with L blocks, H query
//! heads of width D and S the pairs of a query and a key that it sees, itself included. Norms, activations and the softmax
//! are not counted, and neither is what is computed twice to save memory: these are the operations of the model, not those
//! that were executed. (Kaplan et al., arXiv 2001.08361, section 2.1; Chowdhery et al., arXiv 2204.02311, appendix B.)

use crate::trainer::model::ModelConfig;
use crate::types::TrajectoryGroup;

/// What one forward pass goes over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Rows.
    pub tokens: u64,
    /// (query, key) pairs of one head: each row sees itself and what is before it on its path.
    pub visible_pairs: u64,
}

impl Extent {
    /// Of the trees, every token once.
    pub fn packed(groups: &[TrajectoryGroup]) -> Extent {
        let mut extent = Extent::default();
        for group in groups {
            let prompt_tokens = group.prompt.tokens.len() as u64;
            extent.add(0, prompt_tokens);
            let mut used = vec![false; group.nodes.len()];
            group.trajectories.iter().flat_map(|t| &t.path).for_each(|&node| used[node] = true);
            let mut ends = Vec::with_capacity(group.nodes.len());
            for (node, used) in group.nodes.iter().zip(used) {
                let start = node.parent.and_then(|parent| ends.get(parent).copied()).unwrap_or(prompt_tokens);
                let tokens = node.tokens.len() as u64;
                ends.push(start + tokens);
                if used {
                    extent.add(start, tokens);
                }
            }
        }
        extent
    }

    /// Of their trajectories as separate sequences.
    pub fn separate(groups: &[TrajectoryGroup]) -> Extent {
        let mut extent = Extent::default();
        for group in groups {
            for index in 0..group.trajectories.len() {
                extent.add(0, path_tokens(group, index));
            }
        }
        extent
    }

    /// Floating-point operations of one optimizer step over it, forward and backward.
    /// With frozen weights there is no gradient of theirs.
    pub fn train_flops(&self, model: &ModelConfig, is_frozen: bool) -> f64 {
        let each = if is_frozen { 4.0 } else { 6.0 };
        let products = each * matmul_parameters(model) as f64 * self.tokens as f64;
        let width = (model.layers * model.heads * model.head_dim) as f64;
        products + 12.0 * width * self.visible_pairs as f64
    }

    fn add(&mut self, before: u64, tokens: u64) {
        self.tokens += tokens;
        self.visible_pairs += tokens * before + tokens * (tokens + 1) / 2;
    }
}

/// Tokens of one trajectory, the prompt's included.
pub fn path_tokens(group: &TrajectoryGroup, trajectory: usize) -> u64 {
    (group.prompt.tokens.len() + crate::trainer::pack::response_tokens(group, trajectory)) as u64
}

/// All parameters.
pub fn parameters(model: &ModelConfig) -> u64 {
    model.parameters().iter().map(|(_, shape)| count(shape)).sum()
}

/// N: parameters in matrix products.
pub fn matmul_parameters(model: &ModelConfig) -> u64 {
    let matrices = model.parameters();
    let matrices = matrices.iter().filter(|(name, shape)| shape.len() == 2 && name != "model.embed_tokens.weight");
    let projection = if model.is_tied { count(&[model.vocab_size, model.hidden_size]) } else { 0 };
    matrices.map(|(_, shape)| count(shape)).sum::<u64>() + projection
}

fn count(shape: &[i64]) -> u64 {
    shape.iter().map(|&size| size.unsigned_abs()).product()
}

#[cfg(test)]
mod tests {
    use super::super::shape::TreeShape;
    use super::*;

    #[test]
    fn pairs_are_what_a_packed_batch_sees() {
        let shape: TreeShape = "depth=3,width=3,trajectories=7,tokens=5,prompt=4".parse().unwrap();
        let groups = [shape.grow(1, 0, 100).unwrap(), shape.grow(1, 1, 100).unwrap()];
        let packed = Extent::packed(&groups);
        let weights: Vec<_> = groups.iter().map(|g| vec![vec![1.0; 3]; g.trajectories.len()]).collect();
        let weighed: Vec<_> = groups
            .iter()
            .zip(&weights)
            .map(|(group, advantages)| crate::trainer::pack::WeighedGroup { group, advantages })
            .collect();
        let batches = crate::trainer::pack::pack(&weighed, usize::MAX);
        assert_eq!(packed.tokens, batches[0].len() as u64);
        let visible = batches[0].visibility().into_iter().filter(|&visible| visible).count();
        assert_eq!(packed.visible_pairs, visible as u64);
        let separate = Extent::separate(&groups);
        assert_eq!(separate, Extent { tokens: 2 * 7 * 19, visible_pairs: 2 * 7 * 19 * 20 / 2 });
    }
}
