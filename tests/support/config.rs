//! Configurations as tests want them.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use orchestrator::config::{self, Config};

pub fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub fn parse(text: &str) -> Result<Config, config::ConfigErrors> {
    config::parse("run.toml", text, &[])
}

pub fn with_sets(sets: &[&str]) -> Result<Config, config::ConfigErrors> {
    config::parse("run.toml", "", &sets.iter().map(|set| set.to_string()).collect::<Vec<_>>())
}

/// The smallest configuration that passes every rule.
pub fn valid() -> Config {
    parse("[run]\nmodel = \"m\"\ndir = \"d\"\n[data]\nproblems = \"p\"\n[inference]\nlaunch = true\n").unwrap()
}

/// A file of `configs/` as the command line reads it.
pub fn load(path: &str, sets: &[&str]) -> Config {
    let sources = config::sources(&repository(path), |path| std::fs::read_to_string(path)).unwrap();
    let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
    let config = config::parse_sources(&sources, &sets).unwrap_or_else(|errors| panic!("{errors}"));
    config::validate(&config).unwrap_or_else(|errors| panic!("{path}: {errors}"));
    config
}

/// Every setting by its `section.key`.
pub fn flat(config: &Config) -> BTreeMap<String, toml::Value> {
    let table: toml::Table = toml::from_str(&config::render(config).unwrap()).unwrap();
    let keys = |(section, values): (String, toml::Value)| {
        let values = values.as_table().unwrap().clone();
        values.into_iter().map(move |(key, value)| (format!("{section}.{key}"), value))
    };
    table.into_iter().flat_map(keys).collect()
}

/// What differs apart from name and folder, as `section.key = value` of `other`.
pub fn differences(base: &Config, other: &Config) -> Vec<String> {
    let base = flat(base);
    flat(other)
        .into_iter()
        .filter(|(key, value)| key != "run.name" && key != "run.dir" && base.get(key) != Some(value))
        .map(|(key, value)| format!("{key} = {value}"))
        .collect()
}

pub fn toml_files(folder: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir(repository(folder)).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.filter(|path| path.extension().is_some_and(|ext| ext == "toml"));
    files.map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
}
