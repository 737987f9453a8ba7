//! The databases whose runs are shown.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::UNIX_EPOCH;

use serde::Serialize;

use super::ServeError;
use crate::store::{Changes, Reader};
use crate::types::RunId;

/// One database.
pub struct Source {
    /// Its place in the list; with a run's number it names the run in addresses.
    pub index: usize,
    /// What a person knows it by: its folder.
    pub label: String,
    /// Where it is.
    pub path: PathBuf,
    /// For reading it.
    pub reader: Reader,
    /// Whether it has changed.
    pub changes: Changes,
}

/// A database that was found and cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// Where it is.
    pub path: String,
    /// Why, for a person.
    pub error: String,
}

impl Refused {
    /// A database and why it cannot be read.
    pub fn new(path: &Path, error: &ServeError) -> Refused {
        Refused { path: path.display().to_string(), error: crate::error::chain(error).join(": ") }
    }
}

impl Source {
    async fn open(index: usize, path: PathBuf) -> Result<Source, ServeError> {
        let reader = Reader::open(&path).await?;
        let changes = Changes::open(&path).await?;
        let folder = path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        let label = folder.unwrap_or_else(|| path.display().to_string());
        Ok(Source { index, label, path, reader, changes })
    }

    /// The name of a run of this database in addresses.
    pub fn key(&self, run: RunId) -> String {
        format!("{}-{run}", self.index)
    }

    /// When something was written to it last.
    pub fn written_at_ms(&self) -> Option<u64> {
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        let modified = |path: &Path| std::fs::metadata(path).and_then(|found| found.modified()).ok();
        let newest = modified(&self.path).max(modified(Path::new(&log)))?;
        newest.duration_since(UNIX_EPOCH).ok().and_then(|since| u64::try_from(since.as_millis()).ok())
    }
}

/// All databases, in the order in which they were found: none ever goes away.
pub struct Sources {
    given: Vec<PathBuf>,
    database: &'static str,
    open: RwLock<Vec<Arc<Source>>>,
}

impl Sources {
    /// Opens what is there. A folder of run folders may be empty yet.
    ///
    /// # Errors
    /// A path that does not exist, or a database that was named and cannot be read.
    pub async fn open(given: Vec<PathBuf>, database: &'static str) -> Result<Sources, ServeError> {
        let mut open = Vec::new();
        for path in &given {
            let found = found_in(path, database);
            let is_folder_of_runs = path.is_dir() && !path.join(database).is_file();
            if found.is_empty() && !is_folder_of_runs {
                return Err(ServeError::NoRun { path: path.clone() });
            }
            for path in found {
                if open.iter().any(|known: &Arc<Source>| is_same(&known.path, &path)) {
                    continue;
                }
                match Source::open(open.len(), path).await {
                    Ok(source) => open.push(Arc::new(source)),
                    // One old database among many is no reason to show none.
                    Err(_) if is_folder_of_runs => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(Sources { given, database, open: RwLock::new(open) })
    }

    /// What is open.
    pub fn all(&self) -> Vec<Arc<Source>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks for new databases, and says which cannot be read.
    pub async fn refresh(&self) -> Vec<Refused> {
        let mut refused = Vec::new();
        for path in self.given.iter().flat_map(|path| found_in(path, self.database)) {
            let known = self.all();
            if known.iter().any(|source| is_same(&source.path, &path)) {
                continue;
            }
            match Source::open(known.len(), path.clone()).await {
                Ok(source) => self.add(source),
                Err(error) => refused.push(Refused::new(&path, &error)),
            }
        }
        refused
    }

    /// Two requests may have found the same database.
    fn add(&self, mut source: Source) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if !open.iter().any(|known| known.path == source.path) {
            source.index = open.len();
            open.push(Arc::new(source));
        }
    }

    /// The database and the run that an address names.
    pub fn find(&self, key: &str) -> Option<(Arc<Source>, RunId)> {
        let (index, run) = key.split_once('-')?;
        let source = self.all().get(index.parse::<usize>().ok()?)?.clone();
        Some((source, RunId(run.parse().ok()?)))
    }
}

/// Whether two paths lead to the same file.
fn is_same(a: &Path, b: &Path) -> bool {
    a == b || std::fs::canonicalize(a).ok().is_some_and(|a| std::fs::canonicalize(b).is_ok_and(|b| a == b))
}

/// The databases that a path stands for, sorted by name.
fn found_in(path: &Path, database: &str) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let own = path.join(database);
    if own.is_file() {
        return vec![own];
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        entries.map(|entry| entry.path().join(database)).filter(|path| path.is_file()).collect();
    found.sort();
    found
}
