//! What is wrong with a configuration. Everything that can be found is found at once.

use std::fmt;

use crate::error::{FailureClass, Hint};

/// Where a setting was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A line of the configuration file.
    File {
        /// The file as the user named it.
        file: String,
        /// From 1.
        line: usize,
        /// From 1, in characters.
        column: usize,
    },
    /// The argument of one `--set`.
    Argument(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File { file, line, column } => write!(f, "`{file}` line {line} column {column}"),
            Place::Argument(argument) => write!(f, "`--set {argument}`"),
        }
    }
}

/// One problem of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The text is not TOML.
    #[error("{place}: {message}")]
    Syntax {
        /// Where.
        place: Place,
        /// What the parser said.
        message: String,
    },
    /// An argument of `--set` is not `section.key=value`.
    #[error("{place}: expected `section.key=value`")]
    MalformedSet {
        /// The argument.
        place: Place,
    },
    /// A key that does not exist.
    #[error("{place}: unknown key `{key}`{}", nearest_text(nearest))]
    UnknownKey {
        /// Where.
        place: Place,
        /// `section.key`, or the bare key outside any section.
        key: String,
        /// The existing `section.key` that was probably meant.
        nearest: Option<String>,
    },
    /// A section that does not exist.
    #[error("{place}: unknown section `[{section}]`{}", nearest_text(nearest))]
    UnknownSection {
        /// Where.
        place: Place,
        /// The name between the brackets.
        section: String,
        /// The existing section that was probably meant, in brackets.
        nearest: Option<String>,
    },
    /// A value of the wrong type or out of its type's range.
    #[error("{place}: `{key}` cannot be `{value}`: {message}")]
    BadValue {
        /// Where.
        place: Place,
        /// `section.key`.
        key: String,
        /// The value as TOML.
        value: String,
        /// What was found and what was expected.
        message: String,
    },
    /// Values that are fine alone but not together, or out of their range.
    #[error("{message}")]
    Rule {
        /// Every `section.key` that takes part.
        keys: &'static [&'static str],
        /// The rule, with all keys and values.
        message: String,
    },
    /// The configuration cannot be written as TOML.
    #[error("the configuration cannot be written as TOML: {message}")]
    Unwritable {
        /// What the writer said.
        message: String,
    },
}

fn nearest_text(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!(", did you mean `{name}`?")).unwrap_or_default()
}

/// All problems that were found. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// In the order of the file, then of the arguments, then of the rules.
    pub problems: Vec<ConfigError>,
}

impl ConfigErrors {
    /// `Ok` if there are none.
    pub(crate) fn check(problems: Vec<ConfigError>) -> Result<(), ConfigErrors> {
        if problems.is_empty() { Ok(()) } else { Err(ConfigErrors { problems }) }
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(problem: ConfigError) -> Self {
        ConfigErrors { problems: vec![problem] }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [only] = self.problems.as_slice() {
            return only.fmt(f);
        }
        write!(f, "the configuration has {} problems", self.problems.len())?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl Hint for ConfigErrors {
    fn class(&self) -> FailureClass {
        FailureClass::User
    }

    fn hint(&self) -> Option<String> {
        let value = |problem: &ConfigError| matches!(problem, ConfigError::Rule { .. } | ConfigError::BadValue { .. });
        self.problems
            .iter()
            .any(value)
            .then(|| "change the value in the file or with `--set section.key=value`".to_string())
    }
}
