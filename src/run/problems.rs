//! The problems of a run, posed to the policy: problem file to prompts.

use std::path::Path;
use std::sync::Arc;

use crate::config::Config;
use crate::data::{ModelTokenizer, Problem, Prompter, load_problems};
use crate::types::{Prompt, TokenId};

use super::RunError;

/// Tokens of the canary: enough for every layer and position to matter, few enough to cost nothing.
const CANARY_TOKENS: usize = 96;

/// The text side of the model.
pub struct Language {
    /// Tokens to text and back.
    pub tokenizer: Arc<ModelTokenizer>,
    /// Problems to prompts.
    pub prompter: Prompter,
}

impl Language {
    /// Reads the tokenizer and what the configuration says of prompts.
    ///
    /// # Errors
    /// [`RunError::Model`].
    pub fn load(config: &Config) -> Result<Language, RunError> {
        let model = |source| RunError::Model { dir: config.run.model.clone(), source };
        let tokenizer = Arc::new(ModelTokenizer::load(&config.run.model).map_err(model)?);
        let prompter = Prompter::new(&config.prompt, tokenizer.clone()).map_err(model)?;
        Ok(Language { tokenizer, prompter })
    }
}

/// The problems of one file.
pub struct Problems {
    /// As they were read, in the file's order.
    pub problems: Vec<Problem>,
    /// As the policy sees them, in the same order.
    pub prompts: Vec<Prompt>,
    /// Prompts that lost their beginning to `prompt.max_tokens`.
    pub cut: usize,
}

impl Problems {
    /// The first `limit` problems of a file; 0 is all.
    ///
    /// # Errors
    /// A file that cannot be read or used.
    pub fn load(path: &Path, limit: usize, language: &Language) -> Result<Problems, RunError> {
        let mut problems = load_problems(path)?;
        if limit > 0 {
            problems.truncate(limit);
        }
        let posed = problems
            .iter()
            .map(|problem| Ok(language.prompter.pose(&problem.problem)?))
            .collect::<Result<Vec<_>, RunError>>()?;
        let cut = posed.iter().filter(|posed| posed.cut_tokens > 0).count();
        let prompts = posed.into_iter().map(|posed| posed.prompt).collect();
        Ok(Problems { problems, prompts, cut })
    }

    /// Length of the longest prompt.
    pub fn longest_prompt_tokens(&self) -> usize {
        self.prompts.iter().map(|prompt| prompt.tokens.len()).max().unwrap_or(0)
    }

    /// A fixed sequence from the run's own text: prompts one after the other, over and over, cut to size.
    pub fn canary(&self, context_tokens: usize) -> Vec<TokenId> {
        if self.longest_prompt_tokens() == 0 {
            return Vec::new();
        }
        let tokens = self.prompts.iter().cycle().flat_map(|prompt| prompt.tokens.iter().copied());
        tokens.take(CANARY_TOKENS.min(context_tokens.saturating_sub(1))).collect()
    }
}
