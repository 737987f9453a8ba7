//! The files of a configuration: one, and those it builds on.
//!
//! A file may begin with `base = "other.toml"`, a path from its own folder. It then holds only what differs from that
//! file, which may have a base in turn. Reading is done by a function of the caller's: this part touches no file.

use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::error::{ConfigError, ConfigErrors, Place};
use super::parse::{place_in, without_mark};
use crate::error::{FailureClass, Hint};

/// The key that names the file below.
pub(super) const BASE: &str = "base";

/// More files than this on top of each other are a circle.
const MOST_FILES: usize = 16;

/// One file of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its name in messages.
    pub file: String,
    /// Its text.
    pub text: String,
}

/// Why the files of a configuration cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A file cannot be read.
    #[error("cannot read `{}`{}", path.display(), named_text(named))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Where it is named as a base; `None` for the file that was asked for.
        named: Option<Place>,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Files name each other.
    #[error("{named}: `base` leads through more than {MOST_FILES} files, probably in a circle")]
    Circle {
        /// The last that was followed.
        named: Place,
    },
    /// A file is not TOML, or its `base` is not a text.
    #[error(transparent)]
    Text(#[from] ConfigErrors),
}

fn named_text(named: &Option<Place>) -> String {
    named.as_ref().map(|place| format!(", the `base` of {place}")).unwrap_or_default()
}

impl Hint for SourceError {
    fn class(&self) -> FailureClass {
        FailureClass::User
    }

    fn hint(&self) -> Option<String> {
        match self {
            SourceError::Unreadable { named: Some(_), .. } => {
                Some("`base` is a path from the folder of the file that names it".into())
            }
            SourceError::Unreadable { named: None, .. } | SourceError::Circle { .. } => None,
            SourceError::Text(errors) => errors.hint(),
        }
    }
}

/// The file at `path` and all that it builds on, the lowest first, read by `read`.
///
/// # Errors
/// A file that cannot be read or is not TOML, a circle.
pub fn sources(path: &Path, read: impl Fn(&Path) -> std::io::Result<String>) -> Result<Vec<Source>, SourceError> {
    let mut found = Vec::new();
    let mut next = Some((path.to_owned(), None));
    while let Some((path, named)) = next {
        if let (MOST_FILES, Some(named)) = (found.len(), &named) {
            return Err(SourceError::Circle { named: Clone::clone(named) });
        }
        let text = match read(&path) {
            Ok(text) => text,
            Err(source) => return Err(SourceError::Unreadable { path, named, source }),
        };
        let source = Source { file: path.display().to_string(), text };
        let folder = path.parent().unwrap_or(Path::new(""));
        next = base(&source)?.map(|(base, place)| (folder.join(base), Some(place)));
        found.push(source);
    }
    found.reverse();
    Ok(found)
}

/// What `source` names as its base, and where.
fn base(source: &Source) -> Result<Option<(String, Place)>, ConfigErrors> {
    let text = without_mark(&source.text);
    let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        place: place_in(&source.file, text, error.span().map_or(0, |span| span.start)),
        message: error.message().to_string(),
    })?;
    let Some((key, value)) = table.get_ref().get_key_value(BASE) else { return Ok(None) };
    let place = place_in(&source.file, text, key.span().start);
    match value.get_ref().as_str() {
        Some(base) if !base.is_empty() => Ok(Some((base.to_string(), place))),
        _ => {
            let message = "expected the path of another file of settings".to_string();
            let value = text.get(value.span()).unwrap_or_default().to_string();
            Err(ConfigError::BadValue { place, key: BASE.to_string(), value, message }.into())
        }
    }
}
