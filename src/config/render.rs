//! A [`Config`] as TOML text, as `run --dry-run` prints it and the store keeps it.

use sha2::{Digest, Sha256};

use super::Config;
use super::error::ConfigError;

/// Every setting with its value; [`parse`](super::parse()) of it gives the same configuration.
///
/// # Errors
/// [`ConfigError::Unwritable`] for a path that is not UTF-8.
pub fn render(config: &Config) -> Result<String, ConfigError> {
    toml::to_string(config).map_err(|error| ConfigError::Unwritable { message: error.to_string() })
}

/// SHA-256 of a rendered configuration, lower-case hex: the configuration's name in the store and in benchmarks.
pub fn hash(rendered: &str) -> String {
    Sha256::digest(rendered.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
