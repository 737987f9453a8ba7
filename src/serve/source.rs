//! The databases whose runs are shown. Any number may be known; few are open at a time, and what is known of a database
//! that does not change is kept, so that a folder of hundreds of runs costs a look at each file.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use super::ServeError;
use super::prometheus::Lines;
use crate::error::Hint;
use crate::store::{FileStamp, ReadOptions, Reader, StoreError};
use crate::types::RunId;

/// Databases that are open at a time.
const OPEN: usize = 8;
/// Requests that read from one at a time.
const TURNS: usize = 6;
/// Connections to each of them.
const CONNECTIONS: u32 = 2;
/// How long a database may be locked before its page says so. Readers and the writer of a run do not lock it.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long figures are given away again though the database has changed: they are read from many rows.
const FIGURES_AGE: Duration = Duration::from_secs(5);

/// One database.
pub struct Source {
    /// Its place in the list; with a run's number it names the run in addresses.
    index: usize,
    /// What a person knows it by: its folder, or its path where another folder of that name was there first.
    pub label: String,
    /// Its run folder, or the file if it is called otherwise than in a run folder: no other database has this one.
    pub place: String,
    path: PathBuf,
    /// Whether it was named, or found in a folder.
    is_named: bool,
    open: Mutex<Option<Open>>,
    /// When it was used last, in uses of any database.
    used: AtomicU64,
    listed: Kept<Vec<Value>>,
    figures: Kept<Lines>,
}

struct Open {
    stamp: FileStamp,
    reader: Arc<Reader>,
}

impl Open {
    /// Whether it can be read from when the files look so: another file may have taken its place.
    fn is_of(&self, now: &FileStamp) -> bool {
        self.stamp.identity() == now.identity() && (!self.reader.is_frozen() || self.stamp.holds(now))
    }
}

/// Something that was read, with what the files said before and when that was.
type Kept<T> = StdMutex<Option<(FileStamp, Instant, Arc<T>)>>;

/// A database that is open, and a turn to read from it.
pub struct Lent {
    /// The database.
    pub source: Arc<Source>,
    /// For reading it.
    pub reader: Arc<Reader>,
    /// What its files said before anything was read.
    pub stamp: FileStamp,
    _turn: OwnedSemaphorePermit,
}

/// A database that was found and cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// Where it is.
    pub path: String,
    /// Why, for a person.
    pub error: String,
}

impl Source {
    /// The name of a run of this database in addresses.
    pub fn key(&self, run: RunId) -> String {
        format!("{}-{run}", self.index)
    }

    /// What its files say now; `None` if it is gone.
    pub fn stamp(&self) -> Option<FileStamp> {
        FileStamp::of(&self.path)
    }

    /// Whether it is gone without anybody having named it: nothing to complain of.
    pub fn is_removed(&self) -> bool {
        !self.is_named && self.stamp().is_none()
    }

    /// Why it cannot be read.
    pub fn refused(&self, error: &ServeError) -> Refused {
        let causes = crate::error::chain(error).join(": ");
        let error = error.hint().map_or(causes.clone(), |hint| format!("{causes} ({hint})"));
        Refused { path: self.path.display().to_string(), error }
    }
}

/// All databases, in the order in which they were found: none ever loses its place, so that an address stays that of the
/// same path.
pub struct Sources {
    given: Vec<PathBuf>,
    database: &'static str,
    known: RwLock<Vec<Arc<Source>>>,
    turns: Arc<Semaphore>,
    uses: AtomicU64,
}

impl Sources {
    /// Looks for what is there. A folder of run folders may be empty yet.
    ///
    /// # Errors
    /// A path that does not exist, or a database that was named and cannot be read.
    pub async fn open(given: Vec<PathBuf>, database: &'static str) -> Result<Sources, ServeError> {
        let sources = Sources {
            given,
            database,
            known: RwLock::default(),
            turns: Arc::new(Semaphore::new(TURNS)),
            uses: AtomicU64::new(0),
        };
        sources.refresh();
        for path in &sources.given {
            // One old database among many is no reason to show none.
            if path.is_dir() && !path.join(database).is_file() {
                continue;
            }
            let named = if path.is_file() { path.clone() } else { path.join(database) };
            let Ok(canonical) = std::fs::canonicalize(&named) else {
                return Err(ServeError::NoRun { path: path.clone() });
            };
            for source in sources.all() {
                if std::fs::canonicalize(&source.path).is_ok_and(|known| known == canonical) {
                    sources.lend(&source).await?;
                }
            }
        }
        Ok(sources)
    }

    /// What is known.
    pub fn all(&self) -> Vec<Arc<Source>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks for new databases, and lets go of those that are gone.
    pub fn refresh(&self) {
        let known = self.all();
        for source in known.iter().filter(|source| source.stamp().is_none()) {
            if let Ok(mut open) = source.open.try_lock() {
                *open = None;
            }
        }
        let paths: HashSet<&Path> = known.iter().map(|source| source.path.as_path()).collect();
        let mut new = Vec::new();
        for given in &self.given {
            let (found, is_named) = found_in(given, self.database);
            new.extend(found.into_iter().filter(|path| !paths.contains(path.as_path())).map(|path| (path, is_named)));
        }
        if new.is_empty() {
            return;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for (path, is_named) in new {
            let canonical = std::fs::canonicalize(&path).ok();
            // The same file under another path, or found by another request meanwhile.
            let is_known = |source: &Arc<Source>| {
                source.path == path || canonical.is_some() && std::fs::canonicalize(&source.path).ok() == canonical
            };
            if !known.iter().any(is_known) {
                let source = self.source(&known, path, is_named);
                known.push(Arc::new(source));
            }
        }
    }

    fn source(&self, known: &[Arc<Source>], path: PathBuf, is_named: bool) -> Source {
        let is_usual = path.file_name().is_some_and(|name| name == self.database);
        let place = match path.parent() {
            Some(folder) if is_usual && !folder.as_os_str().is_empty() => folder.display().to_string(),
            _ => path.display().to_string(),
        };
        let folder = std::path::absolute(&path).ok();
        let folder = folder.as_deref().and_then(Path::parent).and_then(Path::file_name);
        let label = folder.map(|name| name.to_string_lossy().into_owned());
        let label = label.filter(|label| known.iter().all(|source| source.label != *label));
        Source {
            index: known.len(),
            label: label.unwrap_or_else(|| place.clone()),
            place,
            path,
            is_named,
            open: Mutex::new(None),
            used: AtomicU64::new(0),
            listed: StdMutex::default(),
            figures: StdMutex::default(),
        }
    }

    /// The database and the run that an address names.
    pub fn find(&self, key: &str) -> Option<(Arc<Source>, RunId)> {
        let (index, run) = key.split_once('-')?;
        let source = self.all().get(index.parse::<usize>().ok()?)?.clone();
        Some((source, RunId(run.parse().ok()?)))
    }

    /// A turn to read from a database. It is opened if it is not, and anew if another file has taken its place. Whoever has
    /// a turn must not ask for another one.
    ///
    /// # Errors
    /// It is gone, locked, or not to be read.
    pub async fn lend(&self, source: &Arc<Source>) -> Result<Lent, ServeError> {
        let turn = self.turns.clone().acquire_owned().await;
        let turn = turn.map_err(|_| ServeError::Store(StoreError::Closed))?;
        let mut open = source.open.lock().await;
        let Some(stamp) = source.stamp() else {
            *open = None;
            return Err(StoreError::Missing { path: source.path.clone() }.into());
        };
        // Whoever still reads from the old file goes on; its connections end with the last of them.
        open.take_if(|open| !open.is_of(&stamp));
        source.used.store(self.uses.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        let reader = match &*open {
            Some(open) => open.reader.clone(),
            None => {
                self.make_room().await;
                let options = ReadOptions { patience: PATIENCE, connections: CONNECTIONS };
                let reader = Arc::new(Reader::open_with(&source.path, options).await?);
                *open = Some(Open { stamp: stamp.clone(), reader: reader.clone() });
                reader
            }
        };
        drop(open);
        Ok(Lent { source: source.clone(), reader, stamp, _turn: turn })
    }

    /// Closes databases that were not used for longest until there is room for one more. Those that are being read from or
    /// opened stay: as many as there are turns.
    async fn make_room(&self) {
        let (mut idle, mut busy) = (Vec::new(), 0);
        for source in self.all() {
            let Ok(open) = source.open.try_lock() else {
                busy += 1;
                continue;
            };
            match &*open {
                Some(open) if Arc::strong_count(&open.reader) > 1 => busy += 1,
                Some(_) => idle.push((source.used.load(Ordering::Relaxed), source.clone())),
                None => {}
            }
        }
        idle.sort_by_key(|(used, _)| *used);
        // Whoever makes room holds the lock of what is opened next, and is among the busy ones.
        let wanted = (idle.len() + busy).saturating_sub(OPEN).min(idle.len());
        for (_, source) in idle.into_iter().take(wanted) {
            let taken = source
                .open
                .try_lock()
                .ok()
                .and_then(|mut open| open.take_if(|open| Arc::strong_count(&open.reader) == 1));
            if let Some(open) = taken {
                open.reader.close().await;
            }
        }
    }

    /// Looks again at a database whose answer failed: was it replaced by one that cannot be read, or brought to another
    /// schema? Returns the better reason.
    pub async fn look_again(&self, source: &Arc<Source>, error: ServeError) -> ServeError {
        source.open.lock().await.take();
        self.lend(source).await.err().unwrap_or(error)
    }

    /// What `make` makes of a database, or made of it before if nothing has changed since.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn listed<F>(
        &self,
        source: &Arc<Source>,
        make: impl FnOnce(Lent) -> F,
    ) -> Result<Arc<Vec<Value>>, ServeError>
    where
        F: Future<Output = Result<Vec<Value>, ServeError>>,
    {
        self.kept(source, |source| &source.listed, Duration::ZERO, make).await
    }

    /// The same for figures, which may be a little old.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn figures<F>(&self, source: &Arc<Source>, make: impl FnOnce(Lent) -> F) -> Result<Arc<Lines>, ServeError>
    where
        F: Future<Output = Result<Lines, ServeError>>,
    {
        self.kept(source, |source| &source.figures, FIGURES_AGE, make).await
    }

    async fn kept<T, F>(
        &self,
        source: &Arc<Source>,
        place: impl Fn(&Source) -> &Kept<T>,
        age: Duration,
        make: impl FnOnce(Lent) -> F,
    ) -> Result<Arc<T>, ServeError>
    where
        F: Future<Output = Result<T, ServeError>>,
    {
        let lock = || place(source).lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(now), Some((stamp, since, value))) = (source.stamp(), &*lock())
            && stamp.identity() == now.identity()
            && (stamp.holds(&now) || since.elapsed() < age)
        {
            return Ok(value.clone());
        }
        let lent = self.lend(source).await?;
        let stamp = lent.stamp.clone();
        match make(lent).await {
            Ok(value) => {
                let value = Arc::new(value);
                *lock() = Some((stamp, Instant::now(), value.clone()));
                Ok(value)
            }
            Err(error) => Err(self.look_again(source, error).await),
        }
    }
}

/// The databases that a path stands for, sorted by name, and whether it names one.
fn found_in(path: &Path, database: &str) -> (Vec<PathBuf>, bool) {
    if path.is_file() {
        return (vec![path.to_owned()], true);
    }
    let own = path.join(database);
    if own.is_file() {
        return (vec![own], true);
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        entries.map(|entry| entry.path().join(database)).filter(|path| path.is_file()).collect();
    found.sort();
    (found, false)
}
