//! Which field of a problem set holds what. Sets are read as their publishers lay them out: nobody has to convert
//! DeepMath-103K, GSM8K or a benchmark first. `docs/data.md` lists the layouts.
//!
//! The first row of a file decides its layout, and every row must have it: a set in which some rows lack what the others
//! have is refused with those rows, as a slip in a file of one's own is.

use serde_json::{Map, Number, Value};

use super::problem::{Problem, level_of_text, shown};

/// A row: a JSON object, or the columns of a table.
pub(super) type Record = Map<String, Value>;

/// Beyond this a JSON number is not exact in the parser: 2^53.
const EXACT_FLOAT: f64 = 9_007_199_254_740_992.0;
/// Before the final answer in a solution of GSM8K.
const HASHES: &str = "####";

// Where several names are tried, the first one that is there counts.
const TEXTS: [&str; 4] = ["problem", "question", "Problem", "Question"];
const ANSWERS: [&str; 3] = ["answer", "final_answer", "Answer"];
const SOLUTIONS: [&str; 3] = ["solution", "r1_solution_1", "Solution"];
const NAMES: [&str; 5] = ["id", "unique_id", "ID", "problem_idx", "idx"];
const LEVELS: [&str; 2] = ["level", "difficulty"];
// OlympiadBench says `Maths` as the subject of all, and which mathematics in `subfield`.
const TOPICS: [&str; 4] = ["topic", "subfield", "subject", "type"];
/// Those beside them that are read, and all of the layout of RL frameworks.
const OTHERS: [&str; 8] =
    ["source", "context", "modality", "data_source", "prompt", "ability", "reward_model", "extra_info"];

/// The columns of `present` that are read for problems. Solutions are often the bulk of a file, so they are read only
/// where no column holds the answer.
pub(super) fn problem_columns<'a>(present: &[&'a str]) -> Vec<&'a str> {
    let has_answer = present.iter().any(|name| ANSWERS.contains(name) || *name == "reward_model");
    let is_read = |name: &&str| {
        let known = [&TEXTS[..], &ANSWERS, &NAMES, &LEVELS, &TOPICS, &OTHERS];
        known.iter().any(|names| names.contains(name)) || (!has_answer && SOLUTIONS.contains(name))
    };
    present.iter().copied().filter(|name| is_read(name)).collect()
}

/// The columns of `present` that are read for worked examples.
pub(super) fn example_columns<'a>(present: &[&'a str]) -> Vec<&'a str> {
    let is_read = |name: &&str| [&TEXTS[..], &ANSWERS, &SOLUTIONS].iter().any(|names| names.contains(name));
    present.iter().copied().filter(|name| is_read(name)).collect()
}

/// Where a final answer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnswerPlace {
    /// The field is the answer; a list of several is joined by commas.
    Field(&'static str),
    /// After `####` at the end of the field (GSM8K).
    Hashes(&'static str),
    /// In the last `\boxed{}` of the field (MATH, Minerva).
    Boxed(&'static str),
}

/// What the first row says of all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// One field each.
    Fields(Fields),
    /// `data_source`, `prompt` (chat messages), `reward_model.ground_truth`, `extra_info`: what RL frameworks read.
    Chat,
}

/// The names of the fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    /// `None`: a problem is named by its file and row.
    name: Option<&'static str>,
    text: &'static str,
    answer: AnswerPlace,
}

impl Layout {
    /// The layout of a file that begins with `record`.
    pub fn of(record: &Record) -> Layout {
        if record.contains_key("prompt") && record.contains_key("reward_model") {
            return Layout::Chat;
        }
        let text = first(record, &TEXTS).unwrap_or(TEXTS[0]);
        let has_hashes = |key: &str| record.get(key).and_then(Value::as_str).is_some_and(|text| text.contains(HASHES));
        let answer = match (first(record, &ANSWERS), first(record, &SOLUTIONS)) {
            (Some(key), _) if has_hashes(key) => AnswerPlace::Hashes(key),
            (Some(key), _) => AnswerPlace::Field(key),
            (None, Some(key)) => AnswerPlace::Boxed(key),
            (None, None) => AnswerPlace::Field(ANSWERS[0]),
        };
        Layout::Fields(Fields { name: first(record, &NAMES), text, answer })
    }

    /// The problem in a row. `number` and `file_source` name one that has no name of its own.
    pub fn problem(&self, record: &Record, number: usize, file_source: &str) -> Result<Problem, String> {
        match self {
            Layout::Fields(fields) => fields.problem(record, number, file_source),
            Layout::Chat => chat_problem(record, number, file_source),
        }
    }
}

impl Fields {
    fn problem(&self, record: &Record, number: usize, file_source: &str) -> Result<Problem, String> {
        let source = optional_text(record, "source")?.unwrap_or_else(|| file_source.to_string());
        let name = match self.name {
            Some(key) => label(record, key)?,
            None => format!("{file_source}/{number}"),
        };
        let mut text = text_of(record, self.text)?;
        if self.answer == AnswerPlace::Field("final_answer") {
            // OlympiadBench; in other files these keys mean nothing.
            if record.get("modality").and_then(Value::as_str).is_some_and(|modality| modality != "Text-only") {
                return Err("it is not posed by text alone: `modality`".to_string());
            }
            if let Some(context) = optional_text(record, "context")?.filter(|context| !context.trim().is_empty()) {
                text = format!("{context}\n{text}");
            }
        }
        let topic = first(record, &TOPICS).map(|key| optional_text(record, key)).transpose()?.flatten();
        Ok(Problem { name, problem: text, answer: self.answer.of(record)?, level: level(record)?, topic, source })
    }
}

fn level(record: &Record) -> Result<Option<f64>, String> {
    let Some(key) = first(record, &LEVELS) else { return Ok(None) };
    match record.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => Ok(number.as_f64()),
        Some(Value::String(text)) => match level_of_text(text) {
            Some(level) => Ok(Some(level)),
            // `Level ?` in MATH; OlympiadBench names a competition where others have a figure.
            None if text.trim() == "Level ?" || key != "level" => Ok(None),
            None => Err(format!("`{key}` is `{}`, expected a number", shown(text))),
        },
        other => Err(wrong(key, other, "a number")),
    }
}

impl AnswerPlace {
    fn of(self, record: &Record) -> Result<String, String> {
        match self {
            AnswerPlace::Field(key) => match record.get(key) {
                Some(Value::Array(values)) if key != ANSWERS[0] => {
                    let answers =
                        values.iter().map(|value| label_of(key, Some(value))).collect::<Result<Vec<_>, _>>()?;
                    if answers.is_empty() { Err(format!("`{key}` is empty")) } else { Ok(answers.join(", ")) }
                }
                Some(Value::String(text)) if text.contains(HASHES) => {
                    Err(format!("`{key}` has `{HASHES}` in it, which that of the first row has not"))
                }
                found => label_of(key, found),
            },
            AnswerPlace::Hashes(key) => {
                let text = text_of(record, key)?;
                let answer = after_hashes(&text).map(|(_, answer)| answer);
                answer.ok_or_else(|| format!("`{key}` does not end in `{HASHES}` and an answer, as in the first row"))
            }
            AnswerPlace::Boxed(key) => {
                let text = text_of(record, key)?;
                let answer = last_boxed(&text).map(str::trim).filter(|answer| !answer.is_empty());
                answer.map(str::to_string).ok_or_else(|| format!("`{key}` has no answer in `\\boxed{{}}`"))
            }
        }
    }
}

/// The problem and the solution of a row of worked examples. A solution of GSM8K loses the calculator's notes
/// (`<<3*4=12>>`), and its answer is boxed, since that is where a run looks for it.
pub(super) fn worked(record: &Record) -> Result<(String, String), String> {
    let text = text_of(record, first(record, &TEXTS).unwrap_or(TEXTS[0]))?;
    if let Some(key) = first(record, &SOLUTIONS) {
        return Ok((text, text_of(record, key)?));
    }
    let solution = first(record, &ANSWERS).and_then(|key| record.get(key)).and_then(Value::as_str);
    let Some((steps, answer)) = solution.and_then(after_hashes) else {
        return Err(wrong(SOLUTIONS[0], record.get(SOLUTIONS[0]), "a text"));
    };
    Ok((text, format!("{}\n\\boxed{{{answer}}}", without_notes(steps).trim_end())))
}

/// What stands before the last `####` and the answer behind it, without the commas between its thousands.
fn after_hashes(text: &str) -> Option<(&str, String)> {
    let (steps, answer) = text.rsplit_once(HASHES)?;
    let answer = answer.trim();
    let is_grouped = answer.contains(',') && {
        let digits = answer.trim_start_matches('-').split('.').next().unwrap_or_default();
        let groups: Vec<&str> = digits.split(',').collect();
        let is_number = |group: &&str| !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_digit());
        groups.iter().all(is_number) && groups.iter().skip(1).all(|group| group.len() == 3)
    };
    let answer = if is_grouped { answer.replace(',', "") } else { answer.to_string() };
    (!answer.is_empty()).then_some((steps, answer))
}

/// Without what stands in `<<` and `>>`.
fn without_notes(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("<<") {
        plain.push_str(before);
        match after.split_once(">>") {
            Some((_, behind)) => rest = behind,
            None => {
                plain.push_str("<<");
                rest = after;
            }
        }
    }
    plain + rest
}

/// The content of the last `\boxed{}`, its braces balanced.
fn last_boxed(text: &str) -> Option<&str> {
    let content = text.rsplit_once("\\boxed{")?.1;
    let mut depth = 1;
    let mut is_escaped = false;
    for (at, c) in content.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&content[..at]);
        }
    }
    None
}

/// The layout of RL frameworks. The problem is the text of the only message, which must be the user's; its name is
/// `data_source/index`, or `data_source/row` where there is no index.
fn chat_problem(record: &Record, number: usize, file_source: &str) -> Result<Problem, String> {
    let text = |field: Option<&Value>| field.and_then(|field| label_of("", Some(field)).ok());
    let source = text(record.get("data_source")).unwrap_or_else(|| file_source.to_string());
    let extra = |key: &str| record.get("extra_info").and_then(|extra| extra.get(key));
    let index = text(extra("index")).unwrap_or_else(|| number.to_string());
    let topic = text(extra("topic")).or_else(|| text(record.get("ability")));
    let level = match text(extra("difficulty").filter(|level| !level.is_null()).or_else(|| extra("level"))) {
        None => None,
        Some(level) => match level_of_text(&level) {
            None => return Err(format!("the difficulty is `{}`, expected a number", shown(&level))),
            known => known,
        },
    };
    let (problem, answer) = (message(record)?, truth(record)?);
    Ok(Problem { name: format!("{source}/{index}"), problem, answer, level, topic, source })
}

/// The text of the one message of `prompt`.
fn message(record: &Record) -> Result<String, String> {
    let messages = match record.get("prompt") {
        None | Some(Value::Null) => return Err("there is no `prompt`".to_string()),
        Some(Value::Array(messages)) => messages,
        Some(_) => return Err("`prompt` is not a list of chat messages".to_string()),
    };
    let [message] = messages.as_slice() else {
        return Err(format!("`prompt` has {} messages, expected one of the user", messages.len()));
    };
    let Value::Object(message) = message else {
        return Err("the message in `prompt` has no `role` and `content`".to_string());
    };
    let role = message.get("role").and_then(Value::as_str).unwrap_or("nobody");
    if role != "user" {
        return Err(format!("the message in `prompt` is of `{}`, expected `user`", shown(role)));
    }
    match message.get("content").and_then(Value::as_str) {
        Some(content) if !content.trim().is_empty() => Ok(content.to_string()),
        _ => Err("the message in `prompt` is empty".to_string()),
    }
}

fn truth(record: &Record) -> Result<String, String> {
    let Some(Value::Object(reward)) = record.get("reward_model") else {
        return Err("there is no `reward_model`".to_string());
    };
    match reward.get("ground_truth") {
        None | Some(Value::Null) => Err("there is no `reward_model.ground_truth`".to_string()),
        Some(Value::String(text)) if text.trim().is_empty() => Err("`reward_model.ground_truth` is empty".to_string()),
        Some(truth @ (Value::String(_) | Value::Number(_))) => label_of("reward_model.ground_truth", Some(truth)),
        Some(_) => Err("`reward_model.ground_truth` is neither a text nor a number".to_string()),
    }
}

/// The first of `names` that is a field, whatever it holds.
fn first(record: &Record, names: &[&'static str]) -> Option<&'static str> {
    names.iter().copied().find(|name| record.contains_key(*name))
}

/// A non-empty text that may also be written as a number.
fn label(record: &Record, key: &str) -> Result<String, String> {
    label_of(key, record.get(key))
}

fn label_of(key: &str, found: Option<&Value>) -> Result<String, String> {
    let text = match found {
        Some(Value::Number(number)) => exact(key, number)?,
        Some(Value::String(text)) => text.trim().to_string(),
        other => return Err(wrong(key, other, "a text or a number")),
    };
    if text.is_empty() { Err(format!("`{key}` is empty")) } else { Ok(text) }
}

fn text_of(record: &Record, key: &str) -> Result<String, String> {
    match record.get(key) {
        Some(Value::String(text)) if text.trim().is_empty() => Err(format!("`{key}` is empty")),
        Some(Value::String(text)) => Ok(text.clone()),
        other => Err(wrong(key, other, "a text")),
    }
}

fn optional_text(record: &Record, key: &str) -> Result<Option<String>, String> {
    match record.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        other => Err(wrong(key, other, "a text")),
    }
}

/// The number as written, `142.0` as `142`, or a refusal where the parser has rounded it.
fn exact(key: &str, number: &Number) -> Result<String, String> {
    match number.as_f64().filter(|_| number.is_f64()) {
        Some(value) if value.abs() >= EXACT_FLOAT => {
            Err(format!("`{key}` is a number too long to be exact, write it as a text"))
        }
        Some(value) if value.fract() == 0.0 => Ok(format!("{value:.0}")),
        _ => Ok(number.to_string()),
    }
}

fn wrong(key: &str, found: Option<&Value>, expected: &str) -> String {
    match found {
        None => format!("`{key}` is missing"),
        Some(value) => format!("`{key}` is {}, expected {expected}", kind(value)),
    }
}

pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_cut_out_of_solutions() {
        let answer = |text: &str| after_hashes(text).map(|(_, answer)| answer);
        assert_eq!(answer("3 * 4 = <<3*4=12>>12\n#### 12").as_deref(), Some("12"));
        assert_eq!(answer("#### -1,234,567.5 ").as_deref(), Some("-1234567.5"));
        assert_eq!(answer("#### 1,2").as_deref(), Some("1,2"), "no thousands");
        assert_eq!(answer("####  "), None);
        assert_eq!(last_boxed("\\boxed{1} then \\boxed{\\frac{1}{2\\}}}."), Some("\\frac{1}{2\\}}"));
        assert_eq!(last_boxed("\\boxed{1"), None);
        assert_eq!(without_notes("a <<1+1=2>>2 b << c"), "a 2 b << c");
    }

    #[test]
    fn numbers_are_taken_as_written_where_they_are_exact() {
        let shown = |text: &str| exact("answer", &serde_json::from_str::<Number>(text).unwrap());
        assert_eq!(shown("142.0").as_deref(), Ok("142"));
        assert_eq!(shown("-0.5").as_deref(), Ok("-0.5"));
        assert_eq!(shown("33").as_deref(), Ok("33"));
        assert!(shown("123456789012345678901234567890").is_err());
    }
}
