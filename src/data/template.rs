//! The model's own chat template: Jinja as transformers runs it, so that a prompt is what the model was trained on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, Error, ErrorKind, context};
use serde::Serialize;

use super::error::DataError;
use super::tokenizer::{ModelTokenizer, read_object};

/// The date that templates see as today (2024-07-26, the date that Llama's own template falls back to): with the real
/// one, the same run would pose other prompts tomorrow.
const TODAY: [(&str, &str); 13] = [
    ("%d", "26"),
    ("%b", "Jul"),
    ("%B", "July"),
    ("%m", "07"),
    ("%Y", "2024"),
    ("%y", "24"),
    ("%a", "Fri"),
    ("%A", "Friday"),
    ("%j", "208"),
    ("%H", "00"),
    ("%M", "00"),
    ("%S", "00"),
    ("%%", "%"),
];

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
}

/// A chat template, ready to render.
#[derive(Debug)]
pub struct ChatTemplate {
    model: PathBuf,
    source: String,
    special_tokens: BTreeMap<String, String>,
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// The template of a model: `chat_template.jinja`, else `chat_template` in `tokenizer_config.json`, which is a text
    /// or a list of named templates (then the one named `default`).
    ///
    /// # Errors
    /// [`DataError::NoChatTemplate`], or what reading the files said.
    pub fn load(tokenizer: &ModelTokenizer) -> Result<ChatTemplate, DataError> {
        let model = tokenizer.model();
        let source = find(model)?.ok_or_else(|| DataError::NoChatTemplate { model: model.to_path_buf() })?;
        ChatTemplate::new(model, &source, tokenizer.special_tokens().clone())
    }

    /// A template from its text. `model` is for messages only.
    ///
    /// # Errors
    /// [`DataError::Template`] where the text is not Jinja.
    pub fn new(
        model: &Path,
        source: &str,
        special_tokens: BTreeMap<String, String>,
    ) -> Result<ChatTemplate, DataError> {
        let failed = |source| DataError::Template { model: model.to_path_buf(), source };
        let source = without_generation_blocks(source);
        let environment = environment().map_err(failed)?;
        environment.template_from_str(&source).map_err(failed)?;
        Ok(ChatTemplate { model: model.to_path_buf(), source, special_tokens, environment })
    }

    /// The conversation as text, ready for the assistant's turn.
    ///
    /// # Errors
    /// [`DataError::Template`] with the template engine's words, or with the template's own `raise_exception`.
    pub fn render(&self, messages: &[Message]) -> Result<String, DataError> {
        let special = Value::from(Serde(&self.special_tokens));
        let context = context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt => true,
            tools => (),
            documents => (),
            ..special
        };
        let rendered = self.environment.template_from_str(&self.source).and_then(|template| template.render(context));
        rendered.map_err(|source| DataError::Template { model: self.model.clone(), source })
    }
}

fn find(model: &Path) -> Result<Option<String>, DataError> {
    let path = model.join("chat_template.jinja");
    match std::fs::read_to_string(&path) {
        Ok(source) => return Ok(Some(source)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(DataError::Read { path, source }),
    }
    let config = read_object(&model.join("tokenizer_config.json"))?;
    Ok(match config.get("chat_template") {
        Some(serde_json::Value::String(source)) => Some(source.clone()),
        Some(serde_json::Value::Array(named)) => named
            .iter()
            .find(|entry| entry.get("name").and_then(|name| name.as_str()) == Some("default"))
            .and_then(|entry| entry.get("template")?.as_str())
            .map(str::to_string),
        _ => None,
    })
}

/// Settings, functions and filters as in transformers' `_compile_jinja_template`.
fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: String| strftime_today(&format));
    environment.add_filter("tojson", to_json);
    Ok(environment)
}

fn strftime_today(format: &str) -> String {
    let mut text = String::new();
    let mut rest = format;
    while let Some(first) = rest.chars().next() {
        let known = TODAY.iter().find(|(directive, _)| rest.starts_with(directive));
        let taken = match known {
            Some((directive, value)) => {
                text.push_str(value);
                directive.len()
            }
            None => {
                text.push(first);
                first.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    text
}

/// JSON as Python writes it: a space after `,` and `:`, and no escapes for HTML.
fn to_json(value: Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let mut bytes = Vec::new();
    let written = match indent {
        Some(indent) => {
            let spaces = " ".repeat(indent);
            let formatter = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, PythonSpacing)),
    };
    written.map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    Ok(Value::from(String::from_utf8_lossy(&bytes).into_owned()))
}

struct PythonSpacing;

impl serde_json::ser::Formatter for PythonSpacing {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

/// transformers adds a `{% generation %}` block, which marks the assistant's tokens and prints its content unchanged.
fn without_generation_blocks(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(end) = rest[start..].find("%}").map(|end| start + end) else { break };
        let inside = &rest[start + 2..end];
        text.push_str(&rest[..start + 2]);
        match inside.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+') {
            "generation" => text.push_str(&inside.replace("generation", "if true")),
            "endgeneration" => text.push_str(&inside.replace("endgeneration", "endif")),
            _ => text.push_str(inside),
        }
        rest = &rest[end..];
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String, DataError> {
        let tokens = BTreeMap::from([("eos_token".to_string(), "</s>".to_string())]);
        let user = Message { role: "user".to_string(), content: " Hi <b> & \"you\" ".to_string() };
        ChatTemplate::new(Path::new("model"), source, tokens)?.render(&[user])
    }

    #[test]
    fn functions_and_filters_of_transformers() {
        assert_eq!(render("{{ strftime_now('%d %B %Y, 100%%') }}").unwrap(), "26 July 2024, 100%");
        assert_eq!(
            render("{{ messages[0] | tojson }}").unwrap(),
            r#"{"role": "user", "content": " Hi <b> & \"you\" "}"#
        );
        assert_eq!(render("{{ [1] | tojson(indent=2) }}").unwrap(), "[\n  1\n]");
        assert_eq!(render("{{ messages[0].content.strip() + eos_token }}").unwrap(), "Hi <b> & \"you\"</s>");
        assert_eq!(render("{% if tools is none and not absent is defined %}ok{% endif %}").unwrap(), "ok");
        assert_eq!(render("a{%- generation -%} b {%- endgeneration %}\n c").unwrap(), "ab c");
    }

    #[test]
    fn a_template_may_refuse() {
        let error = render("{{ raise_exception('roles must alternate') }}").unwrap_err();
        let causes = crate::error::Failure::from(error).chain();
        assert_eq!(causes[0], "the chat template of `model` failed");
        assert!(causes[1].contains("roles must alternate"), "{causes:?}");
    }
}
