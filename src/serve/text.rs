//! The tokens of a node as text, one by one, where the model's tokenizer is at hand.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use crate::data::ModelTokenizer;
use crate::store::NodeContent;
use crate::types::NodeId;

/// The tokenizers of the models that runs name; each is read once.
#[derive(Default)]
pub struct Tokenizers {
    read: Mutex<BTreeMap<PathBuf, Option<Arc<ModelTokenizer>>>>,
}

/// What was kept of a node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeText {
    /// The node.
    pub node_id: NodeId,
    /// Its text; `None` if it was not kept.
    pub text: Option<String>,
    /// The text of each token, `[T]`; `None` without a tokenizer, or where its texts do not join to that of the node.
    pub pieces: Option<Vec<String>>,
    /// The logprob of each token, `[T]`; NaN becomes null. `None` for the prompt.
    pub logprobs: Option<Vec<f32>>,
}

impl Tokenizers {
    /// The tokenizer of a model folder, if it is there and can be read.
    fn of(&self, model: &Path) -> Option<Arc<ModelTokenizer>> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.entry(model.to_owned()).or_insert_with(|| ModelTokenizer::load(model).ok().map(Arc::new)).clone()
    }

    /// What was kept of nodes, as text. Reads a file and works on each token: not for a thread that must not wait.
    pub fn texts(&self, model: &Path, nodes: Vec<(NodeId, Option<NodeContent>)>) -> Vec<NodeText> {
        let tokenizer = self.of(model);
        nodes.into_iter().map(|(node_id, content)| node_text(tokenizer.as_deref(), node_id, content)).collect()
    }
}

fn node_text(tokenizer: Option<&ModelTokenizer>, node_id: NodeId, content: Option<NodeContent>) -> NodeText {
    let Some(content) = content else { return NodeText { node_id, text: None, pieces: None, logprobs: None } };
    let pieces = tokenizer
        .filter(|_| content.logprobs.is_some())
        .and_then(|tokenizer| tokenizer.pieces(&content.tokens).ok())
        // Another model's tokenizer, or a character that the node's border divides.
        .filter(|pieces| pieces.concat() == content.text);
    NodeText { node_id, text: Some(content.text), pieces, logprobs: content.logprobs }
}
