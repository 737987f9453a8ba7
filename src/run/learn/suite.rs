//! A suite as a file: base models with their recipes, tasks, algorithms, seeds.
//!
//! All paths but `base` are from the folder in which the program is started, as those of a configuration are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::LearnError;

/// What the runs of a suite are for, which decides the table at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measures {
    /// Training: accuracy on held-out problems against what was spent.
    #[default]
    Learning,
    /// Search alone: what trees cost and find. The runs are to have a learning rate of 0.
    Search,
}

/// Algorithms x seeds x tasks.
#[derive(Clone, Debug, PartialEq)]
pub struct Suite {
    /// Name of the files with the results.
    pub name: String,
    /// Folder of runs and results.
    pub dir: PathBuf,
    /// What is measured.
    pub measures: Measures,
    /// Seeds of the runs.
    pub seeds: Vec<u64>,
    /// Settings of all runs.
    pub sets: Vec<String>,
    /// Base models.
    pub models: BTreeMap<String, Model>,
    /// Tasks.
    pub tasks: Vec<Task>,
    /// Algorithms.
    pub algorithms: Vec<Algorithm>,
}

/// A base model.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Its folder.
    pub out: PathBuf,
    /// Command lines of this program that make it, in order; `{out}` stands for its folder, `{work}` for a folder that is
    /// empty at first and removed at last. None: the model has to be there.
    #[serde(default)]
    pub steps: Vec<String>,
    /// SHA-256 of its weights where the suite was written; on another processor the last bits may differ, which is said.
    pub sha256: Option<String>,
}

/// Made-up problems.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Made {
    /// As `orchestrator problems generate --mix`.
    pub mix: String,
    /// How many.
    pub count: usize,
    /// Seed of every draw.
    pub seed: u64,
}

/// What is to be learnt.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// What it is, in one sentence.
    #[serde(default)]
    pub about: String,
    /// Configuration of its runs.
    pub config: PathBuf,
    /// Base model.
    pub model: String,
    /// Problems that are trained on.
    pub problems: Made,
    /// Held-out problems.
    pub held_out: Made,
    /// Sampled tokens of a run; 0 is no limit.
    #[serde(default)]
    pub max_generated_tokens: u64,
    /// Settings of all its runs.
    #[serde(default)]
    pub sets: Vec<String>,
}

/// How it is learnt.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Algorithm {
    /// Its name.
    pub name: String,
    /// What it differs in, in one sentence.
    #[serde(default)]
    pub about: String,
    /// Settings of its runs.
    #[serde(default)]
    pub sets: Vec<String>,
    /// Whether the others are compared with it.
    #[serde(default)]
    pub is_baseline: bool,
    /// Only these tasks; none named: all.
    #[serde(default)]
    pub tasks: Vec<String>,
}

/// The file as it stands.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    base: Option<PathBuf>,
    name: Option<String>,
    dir: Option<PathBuf>,
    #[serde(default)]
    measures: Measures,
    seeds: Option<Vec<u64>>,
    #[serde(default)]
    sets: Vec<String>,
    #[serde(default)]
    model: BTreeMap<String, Model>,
    /// Of the tasks of the base, these.
    tasks: Option<Vec<String>>,
    #[serde(default)]
    task: Vec<Task>,
    #[serde(default)]
    algorithm: Vec<Algorithm>,
}

/// Reads a suite, and what it builds on: `base` names another one, whose models, tasks, folder and seeds hold where the
/// file names none of its own. Algorithms and settings are never inherited.
///
/// # Errors
/// A file that cannot be read or is no suite, names that are there twice or not at all.
pub fn load(path: &Path) -> Result<Suite, LearnError> {
    let rule = |message: String| LearnError::Rule { path: path.to_owned(), message };
    let file = read(path)?;
    let mut models = BTreeMap::new();
    let (mut tasks, mut dir, mut seeds) = (Vec::new(), None, None);
    if let Some(base) = &file.base {
        let below = read(&path.parent().unwrap_or(Path::new("")).join(base))?;
        if below.base.is_some() {
            return Err(rule("its `base` has a `base` of its own, which is one too many".into()));
        }
        (models, tasks, dir, seeds) = (below.model, below.task, below.dir, below.seeds);
    }
    models.extend(file.model);
    if let Some(wanted) = &file.tasks {
        let known = |name: &String| tasks.iter().any(|task: &Task| task.name == *name);
        if let Some(missing) = wanted.iter().find(|name| !known(name)) {
            return Err(rule(format!("the base has no task `{missing}`")));
        }
        tasks.retain(|task| wanted.contains(&task.name));
    }
    tasks.extend(file.task);
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let suite = Suite {
        name: file.name.or(stem).unwrap_or_default(),
        dir: file.dir.or(dir).ok_or_else(|| rule("`dir` is missing".into()))?,
        measures: file.measures,
        seeds: file.seeds.or(seeds).ok_or_else(|| rule("`seeds` is missing".into()))?,
        sets: file.sets,
        models,
        tasks,
        algorithms: file.algorithm,
    };
    suite.check().map_err(rule)?;
    Ok(suite)
}

fn read(path: &Path) -> Result<File, LearnError> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|source| LearnError::Io { action: "read", path: path.to_owned(), source })?;
    toml::from_str(&text).map_err(|source| LearnError::Syntax { path: path.to_owned(), source: Box::new(source) })
}

impl Suite {
    fn check(&self) -> Result<(), String> {
        let names = |what: &str, names: Vec<&str>| {
            let is_name = |name: &str| {
                let is_letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
                !name.is_empty() && name.chars().all(is_letter)
            };
            if names.is_empty() {
                return Err(format!("there is no {what}"));
            }
            for (index, name) in names.iter().enumerate() {
                if !is_name(name) {
                    return Err(format!("`{name}` is no name of a folder: small letters, digits and `-`"));
                }
                if names[..index].contains(name) {
                    return Err(format!("{what} `{name}` is there twice"));
                }
            }
            Ok(())
        };
        names("suite", vec![&self.name])?;
        names("task", self.tasks.iter().map(|task| task.name.as_str()).collect())?;
        names("algorithm", self.algorithms.iter().map(|algorithm| algorithm.name.as_str()).collect())?;
        if self.seeds.is_empty() {
            return Err("`seeds` is empty".into());
        }
        if let Some(twice) = (1..self.seeds.len()).find(|&index| self.seeds[..index].contains(&self.seeds[index])) {
            return Err(format!("seed {} is there twice", self.seeds[twice]));
        }
        if let Some(task) = self.tasks.iter().find(|task| !self.models.contains_key(&task.model)) {
            return Err(format!("task `{}` wants a model `{}` that is not there", task.name, task.model));
        }
        for algorithm in &self.algorithms {
            let is_known = |name: &&String| self.tasks.iter().any(|task| task.name == **name);
            // One that the suite leaves out of its base is no slip.
            if !algorithm.tasks.is_empty() && !algorithm.tasks.iter().any(|name| is_known(&name)) {
                return Err(format!("algorithm `{}` has none of the suite's tasks", algorithm.name));
            }
        }
        Ok(())
    }

    /// The file `name` of a task.
    pub fn data_file(&self, task: &Task, name: &str) -> PathBuf {
        self.dir.join("data").join(&task.name).join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = r#"
        dir = "runs/x"
        seeds = [1, 2]
        [model.small]
        out = "models/x"
        [[task]]
        name = "a"
        config = "c.toml"
        model = "small"
        problems = { mix = "sum", count = 3, seed = 1 }
        held_out = { mix = "sum", count = 2, seed = 2 }
        [[task]]
        name = "b"
        config = "c.toml"
        model = "small"
        problems = { mix = "sum", count = 3, seed = 1 }
        held_out = { mix = "sum", count = 2, seed = 2 }
        [[algorithm]]
        name = "one"
    "#;

    fn suite_of(text: &str) -> Result<Suite, LearnError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("base.toml"), BASE).unwrap();
        let path = dir.path().join("mine.toml");
        std::fs::write(&path, text).unwrap();
        load(&path)
    }

    #[test]
    fn a_suite_takes_from_its_base_what_it_does_not_say() {
        let suite = suite_of("base = \"base.toml\"\ntasks = [\"b\"]\n[[algorithm]]\nname = \"two\"").unwrap();
        assert_eq!((suite.name.as_str(), suite.dir.as_path()), ("mine", Path::new("runs/x")));
        assert_eq!(suite.seeds, [1, 2]);
        assert_eq!(suite.tasks.iter().map(|task| task.name.as_str()).collect::<Vec<_>>(), ["b"]);
        assert_eq!(suite.algorithms.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["two"]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (text, word) in [
            ("base = \"base.toml\"", "no algorithm"),
            ("base = \"base.toml\"\nseeds = [1, 1]\n[[algorithm]]\nname = \"two\"", "seed 1"),
            ("base = \"base.toml\"\ntasks = [\"c\"]\n[[algorithm]]\nname = \"two\"", "`c`"),
            ("base = \"base.toml\"\n[[algorithm]]\nname = \"two words\"", "`two words`"),
            ("base = \"base.toml\"\n[[algorithm]]\nname = \"x\"\ntasks = [\"q\"]", "`x`"),
            ("seeds = [1]", "`dir`"),
        ] {
            let error = suite_of(text).unwrap_err();
            assert!(error.to_string().contains(word), "{text}: {error}");
        }
        assert!(matches!(suite_of("sedes = [1]"), Err(LearnError::Syntax { .. })));
        assert!(matches!(suite_of("base = \"none.toml\""), Err(LearnError::Io { .. })));
    }
}
