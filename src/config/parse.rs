//! TOML texts and `--set` arguments to a [`Config`], pure.

use serde::Deserialize;
use toml::de::DeTable;

use super::Config;
use super::error::{ConfigError, ConfigErrors, Place};
use super::keys::{known_keys, nearest_key, nearest_section};
use super::source::{BASE, Source};

/// Reads a configuration of one file: defaults, then `text`, then `sets` in their order. `file` is only a name for
/// messages; a `base` is not followed, [`parse_sources`] does that.
///
/// # Errors
/// As [`parse_sources`].
pub fn parse(file: &str, text: &str, sets: &[String]) -> Result<Config, ConfigErrors> {
    parse_sources(&[Source { file: file.to_string(), text: text.to_string() }], sets)
}

/// Reads a configuration of several layers: defaults, then `sources` from the lowest, then `sets` in their order, all of
/// them one layer.
///
/// A layer that changes the algorithm or the rule set brings along what [`Config::preset`] of the two differs in; what the
/// layer says itself wins. So `algorithm = "grpo"` is the one line in which a baseline differs from its base.
///
/// The rules between settings are [`validate`](super::validate()).
///
/// # Errors
/// All unknown names and wrong values, with their places; for text that is not TOML, the first fault.
pub fn parse_sources(sources: &[Source], sets: &[String]) -> Result<Config, ConfigErrors> {
    let mut problems = Vec::new();
    let mut layers = Vec::new();
    for (below, source) in sources.iter().enumerate() {
        layers.push(read_file(&source.file, without_mark(&source.text), below > 0, &mut problems)?);
    }
    let mut arguments = Vec::new();
    for argument in sets {
        match read_set(argument) {
            Ok(setting) => arguments.push(setting),
            Err(problem) => problems.push(problem),
        }
    }
    layers.push(arguments);
    ConfigErrors::check(problems)?;
    let mut settings = toml::Table::new();
    let mut chosen = Config::default();
    for layer in layers {
        let mut named = settings.clone();
        put(&mut named, &layer);
        let choice = read(named)?;
        put(&mut settings, &difference(&chosen, &choice)?);
        put(&mut settings, &layer);
        chosen = choice;
    }
    Ok(read(settings)?)
}

fn put(settings: &mut toml::Table, layer: &[Setting]) {
    for Setting { section, key, value } in layer {
        let section = settings.entry(section.clone()).or_insert_with(|| toml::Table::new().into());
        let toml::Value::Table(section) = section else { continue };
        match (section.get_mut(key), value) {
            // A table within a section, `[train.lora]`: what is not named stays as the layer below has it.
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => below.extend(above.clone()),
            _ => drop(section.insert(key.clone(), value.clone())),
        }
    }
}

/// The presets' values where that of `after` differs from that of `before`.
fn difference(before: &Config, after: &Config) -> Result<Vec<Setting>, ConfigError> {
    let preset = |config: &Config| {
        toml::Table::try_from(Config::preset(config.run.algorithm, config.search.rules))
            .map_err(|error| ConfigError::Unwritable { message: error.to_string() })
    };
    let (before, after) = (preset(before)?, preset(after)?);
    let mut found = Vec::new();
    for (section, values) in after {
        let toml::Value::Table(values) = values else { continue };
        for (key, value) in values {
            if before.get(&section).and_then(|old| old.get(&key)) != Some(&value) {
                found.push(Setting { section: section.clone(), key, value });
            }
        }
    }
    Ok(found)
}

/// The text without a byte-order mark.
pub(super) fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// The place of a byte of a file's text.
pub(super) fn place_in(file: &str, text: &str, offset: usize) -> Place {
    let before = &text[..text.floor_char_boundary(offset)];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Place::File {
        file: file.to_string(),
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
    }
}

fn read(settings: toml::Table) -> Result<Config, ConfigError> {
    let config = Config::deserialize(settings);
    config.map_err(|error| ConfigError::Unwritable { message: error.message().to_string() })
}

/// One checked setting.
struct Setting {
    section: String,
    key: String,
    value: toml::Value,
}

/// The settings of one file; what is wrong with single ones goes to `problems`. `has_base` says that the file below it was
/// read.
fn read_file(
    file: &str,
    text: &str,
    has_base: bool,
    problems: &mut Vec<ConfigError>,
) -> Result<Vec<Setting>, ConfigError> {
    let place = |offset: usize| place_in(file, text, offset);
    let syntax = |error: toml::de::Error| ConfigError::Syntax {
        place: place(error.span().map_or(0, |span| span.start)),
        message: error.message().to_string(),
    };
    let spans = DeTable::parse(text).map_err(syntax)?;
    let values: toml::Table = toml::from_str(text).map_err(syntax)?;

    let known = known_keys();
    // Tables are sorted by name; people read files from the top.
    let mut found = Vec::new();
    for (section, content) in spans.get_ref() {
        let at = section.span().start;
        let section = section.get_ref().as_ref();
        let Some(table) = content.get_ref().as_table() else {
            if section == BASE && has_base {
                continue;
            }
            let problem = match nearest_key("", section) {
                _ if known.contains_key(section) => ConfigError::BadValue {
                    place: place(at),
                    key: section.to_string(),
                    value: values.get(section).map(|value| value.to_string()).unwrap_or_default(),
                    message: format!("it is a section, written `[{section}]`"),
                },
                nearest => ConfigError::UnknownKey { place: place(at), key: section.to_string(), nearest },
            };
            found.push((at, Err(problem)));
            continue;
        };
        let Some(keys) = known.get(section) else {
            let problem = ConfigError::UnknownSection {
                place: place(at),
                section: section.to_string(),
                nearest: nearest_section(section),
            };
            found.push((at, Err(problem)));
            continue;
        };
        for (key, _) in table {
            let at = key.span().start;
            let key = key.get_ref().as_ref();
            let value = values.get(section).and_then(|table| table.get(key)).cloned();
            let setting = check(place(at), section, key, keys, value.unwrap_or(toml::Value::Boolean(false)));
            found.push((at, setting));
        }
    }
    found.sort_by_key(|(at, _)| *at);
    let mut settings = Vec::new();
    for (_, setting) in found {
        match setting {
            Ok(setting) => settings.push(setting),
            Err(problem) => problems.push(problem),
        }
    }
    Ok(settings)
}

/// One `section.key=value`: the value is TOML, or else the text itself.
fn read_set(argument: &str) -> Result<Setting, ConfigError> {
    let place = || Place::Argument(argument.to_string());
    let malformed = || ConfigError::MalformedSet { place: place() };
    let (name, text) = argument.split_once('=').ok_or_else(malformed)?;
    let (section, key) = name.trim().split_once('.').ok_or_else(malformed)?;
    let Some(keys) = known_keys().get(section).copied() else {
        let nearest = nearest_section(section);
        return Err(ConfigError::UnknownSection { place: place(), section: section.to_string(), nearest });
    };
    // `train.lora.rank=8` names a key of a table within a section.
    let (key, inner) = key.split_once('.').map_or((key, None), |(key, inner)| (key, Some(inner)));
    let whole = |value: toml::Value| match inner {
        Some(inner) => toml::Table::from_iter([(inner.to_string(), value)]).into(),
        None => value,
    };
    let as_text = whole(toml::Value::String(text.to_string()));
    let Some(value) = toml_value(text) else { return check(place(), section, key, keys, as_text) };
    // `run.name=7` and `run.dir=2026-01-01` are TOML, but a text is wanted.
    check(place(), section, key, keys, whole(value))
        .or_else(|problem| check(place(), section, key, keys, as_text).map_err(|_| problem))
}

/// The text as exactly one TOML value.
fn toml_value(text: &str) -> Option<toml::Value> {
    let mut table: toml::Table = toml::from_str(&format!("value = {text}")).ok()?;
    let value = table.remove("value")?;
    table.is_empty().then_some(value)
}

/// Whether the key exists and the value fits it.
fn check(place: Place, section: &str, key: &str, keys: &[&str], value: toml::Value) -> Result<Setting, ConfigError> {
    let name = format!("{section}.{key}");
    if !keys.contains(&key) {
        return Err(ConfigError::UnknownKey { place, key: name, nearest: nearest_key(section, key) });
    }
    let one = |inner: toml::Value, name: &str| toml::Table::from_iter([(name.to_string(), inner)]);
    let alone = one(one(value.clone(), key).into(), section);
    match Config::deserialize(alone) {
        Ok(_) => Ok(Setting { section: section.to_string(), key: key.to_string(), value }),
        Err(error) => {
            let message = error.message().to_string();
            Err(ConfigError::BadValue { place, key: name, value: value.to_string(), message })
        }
    }
}
