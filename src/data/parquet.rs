//! Parquet in the layout that RL frameworks read: `data_source`, `prompt` (a list of chat messages), `ability`,
//! `reward_model.ground_truth`, `extra_info` (`index`, `difficulty` or `level`, `topic`).

use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};

use super::error::DataError;
use super::problem::{Problem, Rows, level_of_text, shown, stem};

/// Reads a parquet file. The problem is the text of the only message, which must be the user's; its name is
/// `data_source/index`, or `data_source/row` where there is no index.
///
/// # Errors
/// [`DataError::BadRows`] with the first ten bad rows and the number of all; [`DataError::NoProblems`];
/// [`DataError::Parquet`].
pub fn load_parquet(path: &Path) -> Result<Vec<Problem>, DataError> {
    let file = std::fs::File::open(path).map_err(|source| DataError::Read { path: path.to_path_buf(), source })?;
    let broken = |source| DataError::Parquet { path: path.to_path_buf(), source };
    let reader = SerializedFileReader::new(file).map_err(broken)?;
    let name = path.display().to_string();
    let source = stem(&name);
    let mut rows = Rows::new(&name, "row");
    for (index, row) in reader.get_row_iter(None).map_err(broken)?.enumerate() {
        rows.push(index + 1, parse_row(&row.map_err(broken)?, index + 1, &source));
    }
    rows.finish()
}

fn parse_row(row: &Row, number: usize, file_source: &str) -> Result<Problem, String> {
    let source = column(row, "data_source").and_then(text).unwrap_or_else(|| file_source.to_string());
    let extra = group(column(row, "extra_info"));
    let extra = |key: &str| extra.and_then(|extra| column(extra, key));
    let index = extra("index").and_then(text).unwrap_or_else(|| number.to_string());
    let topic = extra("topic").and_then(text).or_else(|| column(row, "ability").and_then(text));
    let level = match extra("difficulty").or_else(|| extra("level")).and_then(text) {
        None => None,
        Some(level) => match level_of_text(&level) {
            None => return Err(format!("the difficulty is `{}`, expected a number", shown(&level))),
            known => known,
        },
    };
    Ok(Problem {
        name: format!("{source}/{index}"),
        problem: problem(row)?,
        answer: answer(row)?,
        level,
        topic,
        source,
    })
}

/// The text of the one message of `prompt`.
fn problem(row: &Row) -> Result<String, String> {
    let messages = match column(row, "prompt") {
        None => return Err("there is no `prompt`".to_string()),
        Some(Field::ListInternal(messages)) => messages.elements(),
        Some(_) => return Err("`prompt` is not a list of chat messages".to_string()),
    };
    let [message] = messages else {
        return Err(format!("`prompt` has {} messages, expected one of the user", messages.len()));
    };
    let Some(message) = group(Some(message)) else {
        return Err("the message in `prompt` has no `role` and `content`".to_string());
    };
    match column(message, "role").and_then(text).as_deref() {
        Some("user") => {}
        role => {
            return Err(format!(
                "the message in `prompt` is of `{}`, expected `user`",
                shown(role.unwrap_or("nobody"))
            ));
        }
    }
    match column(message, "content") {
        Some(Field::Str(content)) if !content.trim().is_empty() => Ok(content.clone()),
        _ => Err("the message in `prompt` is empty".to_string()),
    }
}

fn answer(row: &Row) -> Result<String, String> {
    let Some(reward) = group(column(row, "reward_model")) else { return Err("there is no `reward_model`".to_string()) };
    let Some(truth) = column(reward, "ground_truth") else {
        return Err("there is no `reward_model.ground_truth`".to_string());
    };
    match text(truth).as_deref().map(str::trim) {
        None => Err("`reward_model.ground_truth` is neither a text nor a number".to_string()),
        Some("") => Err("`reward_model.ground_truth` is empty".to_string()),
        Some(answer) => Ok(answer.to_string()),
    }
}

/// A column or member that is there and not null.
fn column<'a>(row: &'a Row, name: &str) -> Option<&'a Field> {
    let found = row.get_column_iter().find(|(key, _)| key.as_str() == name).map(|(_, field)| field);
    found.filter(|field| !matches!(field, Field::Null))
}

fn group(field: Option<&Field>) -> Option<&Row> {
    match field {
        Some(Field::Group(row)) => Some(row),
        _ => None,
    }
}

/// A text, or a number as text.
fn text(field: &Field) -> Option<String> {
    match field {
        Field::Str(text) => Some(text.clone()),
        Field::Byte(number) => Some(number.to_string()),
        Field::Short(number) => Some(number.to_string()),
        Field::Int(number) => Some(number.to_string()),
        Field::Long(number) => Some(number.to_string()),
        Field::UByte(number) => Some(number.to_string()),
        Field::UShort(number) => Some(number.to_string()),
        Field::UInt(number) => Some(number.to_string()),
        Field::ULong(number) => Some(number.to_string()),
        Field::Float(number) => Some(number.to_string()),
        Field::Double(number) => Some(number.to_string()),
        _ => None,
    }
}
