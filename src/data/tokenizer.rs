//! The model's own tokenizer and special tokens, from its folder in the Hugging Face layout.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::Tokenizer;

use super::error::DataError;
use crate::types::TokenId;

/// Tokenizer, special tokens and end-of-text tokens of one model.
#[derive(Debug)]
pub struct ModelTokenizer {
    model: PathBuf,
    path: PathBuf,
    tokenizer: Tokenizer,
    special_tokens: BTreeMap<String, String>,
    special_texts: Vec<String>,
    end_of_text: Vec<TokenId>,
    begin_of_text: Option<TokenId>,
    context_tokens: Option<usize>,
}

/// Refuses a folder that holds only adapters, such as a weight version of a run that trains those.
///
/// # Errors
/// [`DataError::Adapters`].
pub fn refuse_adapters(model: &Path) -> Result<(), DataError> {
    if model.join("adapter_config.json").is_file() && !model.join("config.json").is_file() {
        return Err(DataError::Adapters { model: model.to_path_buf() });
    }
    Ok(())
}

impl ModelTokenizer {
    /// Reads `tokenizer.json`, and where present `tokenizer_config.json`, `special_tokens_map.json`, `config.json` and
    /// `generation_config.json`.
    ///
    /// # Errors
    /// A file that cannot be read or decoded, [`DataError::Adapters`] or [`DataError::NoEndOfText`].
    pub fn load(model: &Path) -> Result<ModelTokenizer, DataError> {
        refuse_adapters(model)?;
        let path = model.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(|source| DataError::Read { path: path.clone(), source })?;
        let failed = |source| DataError::Tokenizer { path: path.clone(), source };
        let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(failed)?;
        // A cut or padded prompt must be our own doing.
        tokenizer.with_padding(None).with_truncation(None).map_err(failed)?;

        let tokenizer_config = read_object(&model.join("tokenizer_config.json"))?;
        let mut special_tokens = named_tokens(&read_object(&model.join("special_tokens_map.json"))?);
        special_tokens.extend(named_tokens(&tokenizer_config));

        let mut end_of_text = BTreeSet::new();
        for file in ["generation_config.json", "config.json"] {
            end_of_text.extend(ids(read_object(&model.join(file))?.get("eos_token_id")));
        }
        end_of_text.extend(special_tokens.get("eos_token").and_then(|text| tokenizer.token_to_id(text)));
        if end_of_text.is_empty() {
            return Err(DataError::NoEndOfText { model: model.to_path_buf() });
        }

        let added = tokenizer.get_added_tokens_decoder();
        let special = added.into_values().filter(|token| token.special && token.content.chars().count() > 1);
        let mut special_texts: Vec<String> = special.map(|token| token.content).collect();
        // The longest first, so that no look-alike hides inside another.
        special_texts.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));

        let context = read_object(&model.join("config.json"))?.get("max_position_embeddings").and_then(Value::as_u64);
        let context_tokens = context.and_then(|tokens| usize::try_from(tokens).ok());
        let begin_of_text = begin_of_text(&tokenizer).map_err(failed)?;
        let end_of_text = end_of_text.into_iter().collect();
        let model = model.to_path_buf();
        Ok(ModelTokenizer {
            model,
            path,
            tokenizer,
            special_tokens,
            special_texts,
            end_of_text,
            begin_of_text,
            context_tokens,
        })
    }

    /// The model folder.
    pub fn model(&self) -> &Path {
        &self.model
    }

    /// Token ids that end an answer, ascending, never empty: those that the model's configuration and its tokenizer
    /// name.
    pub fn end_of_text(&self) -> &[TokenId] {
        &self.end_of_text
    }

    /// The token that this tokenizer puts before a plain text by itself, if any.
    pub fn begin_of_text(&self) -> Option<TokenId> {
        self.begin_of_text
    }

    /// Largest number of tokens that the model was made for (`max_position_embeddings`), if its configuration says so.
    pub fn context_tokens(&self) -> Option<usize> {
        self.context_tokens
    }

    /// Special tokens by role (`bos_token`, `eos_token`, ...), as chat templates name them.
    pub fn special_tokens(&self) -> &BTreeMap<String, String> {
        &self.special_tokens
    }

    /// Texts that become special tokens when they are tokenised, the longest first.
    pub fn special_texts(&self) -> &[String] {
        &self.special_texts
    }

    /// Token ids of a text, `[T]`; nothing is added, and texts of special tokens become special tokens.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`].
    pub fn encode(&self, text: &str) -> Result<Vec<TokenId>, DataError> {
        let encoding = self.tokenizer.encode_fast(text, false);
        encoding.map(|encoding| encoding.get_ids().to_vec()).map_err(|source| self.failed(source))
    }

    /// The text of token ids, `[T]`. Special tokens are shown, except end-of-text tokens at the end; bytes that are not
    /// UTF-8 become U+FFFD. Pass a whole path: pieces of it would split characters that lie across tokens.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`].
    pub fn decode(&self, tokens: &[TokenId]) -> Result<String, DataError> {
        let kept = tokens.iter().rposition(|token| !self.end_of_text.contains(token)).map_or(0, |last| last + 1);
        self.tokenizer.decode(&tokens[..kept], false).map_err(|source| self.failed(source))
    }

    /// The text that each of the tokens adds, `[T]`: joined they are [`ModelTokenizer::decode`] of all. A character whose
    /// bytes lie across tokens belongs to the last of these; end-of-text tokens at the end add nothing.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`].
    pub fn pieces(&self, tokens: &[TokenId]) -> Result<Vec<String>, DataError> {
        let kept = tokens.iter().rposition(|token| !self.end_of_text.contains(token)).map_or(0, |last| last + 1);
        let mut stream = self.tokenizer.decode_stream(false);
        let mut pieces = vec![String::new(); tokens.len()];
        for (piece, token) in pieces.iter_mut().zip(&tokens[..kept]) {
            *piece = stream.step(*token).map_err(|source| self.failed(source))?.unwrap_or_default();
        }
        Ok(pieces)
    }

    fn failed(&self, source: tokenizers::Error) -> DataError {
        DataError::Tokenizer { path: self.path.clone(), source }
    }
}

/// A JSON object in the model folder; empty where the file does not exist.
pub(super) fn read_object(path: &Path) -> Result<serde_json::Map<String, Value>, DataError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(serde_json::Map::new()),
        Err(source) => return Err(DataError::Read { path: path.to_path_buf(), source }),
    };
    serde_json::from_slice(&bytes).map_err(|source| DataError::ModelJson { path: path.to_path_buf(), source })
}

/// `bos_token` and its like: a text, or an object with `content`.
fn named_tokens(object: &serde_json::Map<String, Value>) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_string);
    let tokens = object.iter().filter(|(key, _)| key.ends_with("_token"));
    tokens.filter_map(|(key, value)| Some((key.clone(), text(value)?))).collect()
}

/// One id or a list of ids.
fn ids(value: Option<&Value>) -> Vec<TokenId> {
    let id = |value: &Value| value.as_u64().and_then(|id| TokenId::try_from(id).ok());
    match value {
        Some(Value::Array(values)) => values.iter().filter_map(id).collect(),
        Some(value) => id(value).into_iter().collect(),
        None => Vec::new(),
    }
}

/// What the tokenizer's post-processor puts in front of a text.
fn begin_of_text(tokenizer: &Tokenizer) -> Result<Option<TokenId>, tokenizers::Error> {
    let with = tokenizer.encode_fast("a", true)?;
    let without = tokenizer.encode_fast("a", false)?;
    let first = with.get_ids().first().copied();
    Ok(first.filter(|first| without.get_ids().first() != Some(first)))
}
