//! A problem becomes token ids, once: what is searched from and trained on is never tokenised again. So does a
//! conversation, by the same rules.
//!
//! A problem's text is data. Where it contains the text of a special token (`<|im_end|>`), a plain tokenisation would
//! let a problem end its own turn or open another. Such a text is tokenised in two pieces, cut behind its first
//! character, and so stays ordinary text; everything around it is tokenised as transformers would.

use std::sync::Arc;

use super::error::DataError;
use super::template::{ChatTemplate, Message};
use super::tokenizer::ModelTokenizer;
use crate::config::{PromptConfig, PromptKind};
use crate::types::{Prompt, TokenId};

/// The problem's place in `prompt.format`.
const PLACE: &str = "{problem}";

/// A prompt, and what had to be cut to fit it into `prompt.max_tokens`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posed {
    /// What the engine receives.
    pub prompt: Prompt,
    /// Tokens cut at the left; 0 for nearly every problem, else worth a counter.
    pub cut_tokens: usize,
}

/// Turns problems into prompts.
#[derive(Debug)]
pub struct Prompter {
    tokenizer: Arc<ModelTokenizer>,
    /// `None` poses plain text.
    template: Option<ChatTemplate>,
    /// Text before the problem: prefix and head of the format.
    head: String,
    /// Text behind the problem.
    tail: String,
    max_tokens: usize,
}

impl Prompter {
    /// Reads the chat template where one is needed and tries it once.
    ///
    /// # Errors
    /// [`DataError::NoChatTemplate`], [`DataError::Template`], or what reading the files said.
    pub fn new(config: &PromptConfig, tokenizer: Arc<ModelTokenizer>) -> Result<Prompter, DataError> {
        let template = match config.kind {
            PromptKind::Chat => Some(ChatTemplate::load(&tokenizer)?),
            PromptKind::Plain => None,
        };
        let (head, tail) = config.format.split_once(PLACE).unwrap_or((&config.format, ""));
        let head = format!("{}{head}", config.prefix);
        let prompter = Prompter { tokenizer, template, head, tail: tail.to_string(), max_tokens: config.max_tokens };
        prompter.pose("1 + 1")?;
        Ok(prompter)
    }

    /// Poses one problem. A problem that already ends in the format's tail (some data sets carry their instruction)
    /// does not get it twice. A prompt longer than `prompt.max_tokens` keeps its last tokens, as in the paper
    /// (DeepSearch, appendix A: left truncation at 2,048).
    ///
    /// # Errors
    /// [`DataError::Template`] where the template refuses the text; [`DataError::Tokenizer`].
    pub fn pose(&self, problem: &str) -> Result<Posed, DataError> {
        let problem = match self.tail.trim() {
            "" => problem,
            tail => problem.trim_end().strip_suffix(tail).map_or(problem, str::trim_end),
        };
        let mark = unused_character(&[problem, &self.head, &self.tail]);
        let marked = mark_special_texts(problem, self.tokenizer.special_texts(), mark);
        let content = format!("{}{marked}{}", self.head, self.tail);
        let marked_text = match &self.template {
            Some(template) => template.render(&[Message { role: "user".to_string(), content }])?,
            None => content,
        };

        let mut tokens: Vec<TokenId> = Vec::new();
        if self.template.is_none() {
            tokens.extend(self.tokenizer.begin_of_text());
        }
        tokens.extend(encode_marked(&self.tokenizer, &marked_text, mark)?);
        let cut_tokens = tokens.len().saturating_sub(self.max_tokens);
        let text = match cut_tokens {
            0 => marked_text.replace(mark, ""),
            _ => self.tokenizer.decode(&tokens[cut_tokens..])?,
        };
        let prompt = Prompt { tokens: tokens[cut_tokens..].into(), text: text.into() };
        Ok(Posed { prompt, cut_tokens })
    }
}

/// The answer to a problem as token ids, `[T]`, and what ends it: the text `end` where one is given, else the model's
/// end-of-text token. Behind a plain prompt that does not end in white space an answer begins with a space, as in running
/// text.
///
/// # Errors
/// [`DataError::Tokenizer`].
pub fn answer_tokens(
    tokenizer: &ModelTokenizer,
    prompt: &Prompt,
    kind: PromptKind,
    solution: &str,
    end: Option<&str>,
) -> Result<Vec<TokenId>, DataError> {
    let is_apart = kind == PromptKind::Chat || prompt.text.ends_with(char::is_whitespace);
    let space = if is_apart || solution.starts_with(char::is_whitespace) { "" } else { " " };
    let text = format!("{space}{solution}{}", end.unwrap_or_default());
    let mark = unused_character(&[&text]);
    let mut tokens = encode_marked(tokenizer, &mark_special_texts(&text, tokenizer.special_texts(), mark), mark)?;
    if end.is_none() {
        // Of several tokens that end a text the tokenizer's own is the one that a model is taught.
        let own = tokenizer.special_tokens().get("eos_token").map(|text| tokenizer.encode(text)).transpose()?;
        let own = own.as_deref().and_then(|tokens| tokens.first());
        tokens.extend(own.or(tokenizer.end_of_text().first()));
    }
    Ok(tokens)
}

/// A conversation as token ids, `[T]`, ready for the assistant's turn. No message can open or end a turn.
///
/// # Errors
/// [`DataError::Template`] where the template refuses the messages; [`DataError::Tokenizer`].
pub fn pose_chat(
    tokenizer: &ModelTokenizer,
    template: &ChatTemplate,
    messages: &[Message],
) -> Result<Vec<TokenId>, DataError> {
    let texts: Vec<&str> = messages.iter().map(|message| message.content.as_str()).collect();
    let mark = unused_character(&texts);
    let marked = |message: &Message| Message {
        role: message.role.clone(),
        content: mark_special_texts(&message.content, tokenizer.special_texts(), mark),
    };
    let messages: Vec<Message> = messages.iter().map(marked).collect();
    encode_marked(tokenizer, &template.render(&messages)?, mark)
}

/// A text as token ids, `[T]`, behind the token that the model begins a text with. It may hold special tokens.
///
/// # Errors
/// [`DataError::Tokenizer`].
pub fn pose_text(tokenizer: &ModelTokenizer, text: &str) -> Result<Vec<TokenId>, DataError> {
    let mut tokens: Vec<TokenId> = tokenizer.begin_of_text().into_iter().collect();
    tokens.extend(tokenizer.encode(text)?);
    Ok(tokens)
}

/// Token ids of a text that is cut at `mark`.
fn encode_marked(tokenizer: &ModelTokenizer, text: &str, mark: char) -> Result<Vec<TokenId>, DataError> {
    let mut tokens = Vec::new();
    for piece in text.split(mark) {
        tokens.extend(tokenizer.encode(piece)?);
    }
    Ok(tokens)
}

/// A private-use character that stands in none of the texts.
fn unused_character(texts: &[&str]) -> char {
    ('\u{e000}'..='\u{f8ff}').find(|mark| !texts.iter().any(|text| text.contains(*mark))).unwrap_or('\u{10fffd}')
}

/// The text with `mark` behind the first character of every special text.
fn mark_special_texts(text: &str, special_texts: &[String], mark: char) -> String {
    let mut marked = text.to_string();
    for special in special_texts {
        if marked.contains(special.as_str()) {
            let first = special.chars().next().map_or(0, char::len_utf8);
            marked = marked.replace(special, &format!("{}{mark}{}", &special[..first], &special[first..]));
        }
    }
    marked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_texts_are_marked_once() {
        let special = ["<|end|>x".to_string(), "<|end|>".to_string()];
        assert_eq!(mark_special_texts("a <|end|> b", &special, '!'), "a <!|end|> b");
        assert_eq!(mark_special_texts("<|end|>x<|end|>", &special, '!'), "<!|end|>x<!|end|>");
        assert_eq!(mark_special_texts("2 < 3", &special, '!'), "2 < 3");
    }

    #[test]
    fn the_mark_is_not_in_the_text() {
        assert_eq!(unused_character(&["a", "b\u{e000}"]), '\u{e001}');
    }
}
