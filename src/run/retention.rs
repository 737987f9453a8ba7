//! What is kept of each node: tokens, logprobs and text, by `run.keep_text` and `run.keep_logprobs`.
//!
//! What a resume reads is never dropped: it loads a checkpoint and repeats the updates since then from the stored trees, so
//! the nodes on trajectories keep everything until a checkpoint of their step, or of a later one, is the oldest there is.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::{KeepText, RunConfig};
use crate::data::ModelTokenizer;
use crate::search::Tree;
use crate::store::{DropText, NodeContent, Prune, Store};
use crate::types::{GroupNode, NodeId, RunId, StepId, TokenId, TrajectoryGroup};

use super::RunError;
use super::checkpoints::Checkpoints;

/// What is kept of each node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Whose tokens and text.
    pub text: KeepText,
    /// Whether logprobs outlive their use in a resume.
    pub logprobs: bool,
}

impl Retention {
    /// As the configuration says.
    pub fn of(config: &RunConfig) -> Retention {
        Retention { text: config.keep_text, logprobs: config.keep_logprobs }
    }

    /// What to drop of the steps up to `until`, all trained on. Those up to `spare` are moreover no resume's business; without
    /// it none is.
    pub fn prune(self, run: RunId, until: StepId, spare: Option<StepId>) -> Vec<Prune> {
        let spare = spare.map_or(StepId(0), |spare| spare.min(until));
        let (early, late) = match self.text {
            KeepText::All => (DropText::Nothing, DropText::Nothing),
            KeepText::Trained => (DropText::OffTrajectories, DropText::OffTrajectories),
            KeepText::None => (DropText::AllButPrompts, DropText::OffTrajectories),
        };
        // Where the whole row goes, its logprobs go along.
        let logprobs = !self.logprobs && early != DropText::AllButPrompts;
        let prunes = [
            Prune { run, after: StepId(0), until: spare, text: early, logprobs },
            Prune { run, after: spare, until, text: late, logprobs: false },
        ];
        let drops = |prune: &Prune| prune.after < prune.until && (prune.logprobs || prune.text != DropText::Nothing);
        prunes.into_iter().filter(drops).collect()
    }

    /// Drops what a new checkpoint has made needless.
    ///
    /// # Errors
    /// The checkpoints cannot be listed, or the database not be written.
    pub async fn enforce(self, store: &Store, run: RunId, checkpoints: &Checkpoints) -> Result<(), RunError> {
        if self.text != KeepText::None && self.logprobs {
            return Ok(());
        }
        let Some((spare, _)) = checkpoints.all()?.into_iter().next_back() else { return Ok(()) };
        for prune in self.prune(run, spare, Some(spare)) {
            store.prune(prune).await?;
        }
        Ok(())
    }

    /// Tokens, logprobs and text of the nodes of a finished tree that keep them, by node; the prompt is not among them.
    ///
    /// # Errors
    /// Tokens outside the tokenizer's vocabulary.
    pub fn contents(
        self,
        tree: &Tree,
        group: &TrajectoryGroup,
        tokenizer: &ModelTokenizer,
    ) -> Result<BTreeMap<NodeId, NodeContent>, RunError> {
        let on_path: Vec<Piece<'_>> = group.nodes.iter().map(Piece::of_group).collect();
        if self.text != KeepText::All {
            return contents(&on_path, tokenizer);
        }
        let all = tree.nodes().skip(1).map(|node| Piece {
            node: node.id(),
            // Node 0 is the prompt.
            parent: node.parent().and_then(|parent| parent.index().checked_sub(1)),
            tokens: node.tokens(),
            logprobs: node.logprobs(),
        });
        let mut contents = contents(&all.collect::<Vec<_>>(), tokenizer)?;
        if !self.logprobs {
            let trained: std::collections::BTreeSet<NodeId> = on_path.iter().map(|piece| piece.node).collect();
            for (_, content) in contents.iter_mut().filter(|(node, _)| !trained.contains(node)) {
                content.logprobs = None;
            }
        }
        Ok(contents)
    }
}

/// The oldest checkpoint of a run whose numbered folder lies in `dir`: steps after it are what a resume may read.
///
/// # Errors
/// The folder cannot be read.
pub fn oldest_checkpoint(dir: &Path, run: RunId) -> Result<Option<StepId>, RunError> {
    let all = Checkpoints::existing(&dir.join(format!("run-{run}")), run).all()?;
    Ok(all.into_iter().next_back().map(|(step, _)| step))
}

/// A node with what it sampled; parents come before their children.
struct Piece<'a> {
    node: NodeId,
    /// Place of the parent among the pieces; `None` below the prompt.
    parent: Option<usize>,
    tokens: &'a [TokenId],
    logprobs: &'a [f32],
}

impl Piece<'_> {
    fn of_group(node: &GroupNode) -> Piece<'_> {
        Piece { node: node.node, parent: node.parent, tokens: &node.tokens, logprobs: &node.logprobs }
    }
}

/// Tokens, logprobs and text of every piece. The texts along a path join to the whole response: a character whose bytes two
/// nodes share belongs to the later one.
fn contents(pieces: &[Piece<'_>], tokenizer: &ModelTokenizer) -> Result<BTreeMap<NodeId, NodeContent>, RunError> {
    let mut has_child = vec![false; pieces.len()];
    for parent in pieces.iter().filter_map(|piece| piece.parent) {
        has_child[parent] = true;
    }
    let mut pending: Vec<Pending> = Vec::with_capacity(pieces.len());
    let mut contents = BTreeMap::new();
    for (index, piece) in pieces.iter().enumerate() {
        let before = piece.parent.map_or_else(Pending::default, |parent| pending[parent].clone());
        let (text, after) = before.extend(piece.tokens, !has_child[index], tokenizer)?;
        pending.push(after);
        let content = NodeContent { tokens: piece.tokens.to_vec(), logprobs: Some(piece.logprobs.to_vec()), text };
        contents.insert(piece.node, content);
    }
    Ok(contents)
}

/// The end of a path that later tokens may still change the text of.
#[derive(Clone, Debug, Default)]
struct Pending {
    /// Tokens already given out as text, kept as context for the next.
    context: Vec<TokenId>,
    /// Tokens not yet given out: they end inside a character.
    held: Vec<TokenId>,
}

impl Pending {
    /// The text that a node adds, and what is pending after it. A leaf gives out everything.
    fn extend(self, own: &[TokenId], is_leaf: bool, tokenizer: &ModelTokenizer) -> Result<(String, Pending), RunError> {
        let known = tokenizer.decode(&self.context)?;
        let mut tokens = self.context.clone();
        tokens.extend_from_slice(&self.held);
        tokens.extend_from_slice(own);
        let all = tokenizer.decode(&tokens)?;
        let is_cut = all.ends_with(char::REPLACEMENT_CHARACTER) && !is_leaf;
        if is_cut {
            let mut held = self.held;
            held.extend_from_slice(own);
            return Ok((String::new(), Pending { context: self.context, held }));
        }
        let text = all.strip_prefix(known.as_str()).unwrap_or(&all).to_owned();
        let context = tokens.split_off(tokens.len().saturating_sub(CONTEXT_TOKENS));
        Ok((text, Pending { context, held: Vec::new() }))
    }
}

/// Tokens of context with which the next token is decoded; one is enough for a leading space to be kept, some tokenizers
/// look at the one before.
const CONTEXT_TOKENS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn prune(text: KeepText, logprobs: bool, spare: Option<i64>) -> Vec<(i64, i64, DropText, bool)> {
        let prunes = Retention { text, logprobs }.prune(RunId(1), StepId(9), spare.map(StepId));
        prunes.into_iter().map(|prune| (prune.after.0, prune.until.0, prune.text, prune.logprobs)).collect()
    }

    #[test]
    fn what_a_resume_needs_stays() {
        use DropText::{AllButPrompts, Nothing, OffTrajectories};
        assert_eq!(prune(KeepText::All, true, Some(5)), []);
        assert_eq!(prune(KeepText::Trained, true, None), [(0, 9, OffTrajectories, false)]);
        assert_eq!(prune(KeepText::None, false, None), [(0, 9, OffTrajectories, false)]);
        let halves = [(0, 5, AllButPrompts, false), (5, 9, OffTrajectories, false)];
        assert_eq!(prune(KeepText::None, false, Some(5)), halves);
        assert_eq!(prune(KeepText::All, false, Some(12)), [(0, 9, Nothing, true)]);
        assert_eq!(prune(KeepText::All, false, None), []);
    }
}
