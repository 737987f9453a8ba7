//! Whether a database has changed, as its files say it: nothing is opened for that.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A file that was changed less than this ago may be changed again without its time being another: clocks of file systems
/// tick, at the coarsest once a second.
const SETTLED: Duration = Duration::from_secs(1);

/// Which file it is: another one if a database was deleted and made anew, though its path is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
}

/// One file at one instant. The time is that of the inode, which nobody can set back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileState {
    identity: FileIdentity,
    size_bytes: u64,
    changed_ns: i128,
}

impl FileState {
    fn of(found: &Metadata) -> FileState {
        FileState {
            identity: FileIdentity { device: found.dev(), inode: found.ino() },
            size_bytes: found.size(),
            changed_ns: i128::from(found.ctime()) * 1_000_000_000 + i128::from(found.ctime_nsec()),
        }
    }
}

/// What the files of a database, itself and its write-ahead log, said at one instant. Every commit changes one of them.
#[derive(Clone, Debug)]
pub struct FileStamp {
    database: FileState,
    log: Option<FileState>,
    written_at_ms: Option<u64>,
    is_settled: bool,
}

impl FileStamp {
    /// Looks at the files; `None` if there is no database.
    pub fn of(path: &Path) -> Option<FileStamp> {
        FileStamp::at(path, SystemTime::now())
    }

    fn at(path: &Path, now: SystemTime) -> Option<FileStamp> {
        let database = std::fs::metadata(path).ok().filter(Metadata::is_file)?;
        let mut log_path = path.as_os_str().to_owned();
        log_path.push("-wal");
        // A reader leaves an empty log behind where there was none: that is no change.
        let log = std::fs::metadata(log_path).ok().filter(|log| log.len() > 0);
        let written = database.modified().ok().max(log.as_ref().and_then(|log| log.modified().ok()));
        let (database, log) = (FileState::of(&database), log.as_ref().map(FileState::of));
        let newest_ns = database.changed_ns.max(log.map_or(i128::MIN, |log| log.changed_ns));
        let now_ns = now.duration_since(UNIX_EPOCH).map_or(0, |since| i128::try_from(since.as_nanos()).unwrap_or(0));
        Some(FileStamp {
            database,
            log,
            written_at_ms: written
                .and_then(|written| written.duration_since(UNIX_EPOCH).ok())
                .and_then(|since| u64::try_from(since.as_millis()).ok()),
            is_settled: now_ns - newest_ns >= SETTLED.as_nanos() as i128,
        })
    }

    /// Which file the database is.
    pub fn identity(&self) -> FileIdentity {
        self.database.identity
    }

    /// When something was written to it last.
    pub fn written_at_ms(&self) -> Option<u64> {
        self.written_at_ms
    }

    /// A name that no later state of the database has; `None` as long as a further commit might go unnoticed.
    pub fn name(&self) -> Option<String> {
        let of = |state: &FileState| {
            let FileState { identity: FileIdentity { device, inode }, size_bytes, changed_ns } = state;
            format!("{device:x}.{inode:x}.{size_bytes:x}.{changed_ns:x}")
        };
        let log = self.log.as_ref().map_or_else(String::new, of);
        self.is_settled.then(|| format!("{}-{log}", of(&self.database)))
    }

    /// Whether what was read after this stamp was taken is still what `now` stands for.
    pub fn holds(&self, now: &FileStamp) -> bool {
        self.is_settled && self.database == now.database && self.log == now.log
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_within_the_same_tick_is_not_missed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.db");
        assert!(FileStamp::of(&path).is_none());
        std::fs::write(&path, "one").unwrap();
        let (soon, later) = (SystemTime::now(), SystemTime::now() + 2 * SETTLED);
        let (fresh, settled) = (FileStamp::at(&path, soon).unwrap(), FileStamp::at(&path, later).unwrap());
        assert!(fresh.name().is_none() && !fresh.holds(&settled), "it was written just now");
        assert!(settled.name().is_some() && settled.holds(&fresh));

        // An empty log is what a reader leaves behind; one with content is a commit.
        std::fs::write(folder.path().join("run.db-wal"), "").unwrap();
        assert!(settled.holds(&FileStamp::at(&path, later).unwrap()));
        std::fs::write(folder.path().join("run.db-wal"), "commit").unwrap();
        let committed = FileStamp::at(&path, later).unwrap();
        assert!(!settled.holds(&committed) && settled.name() != committed.name());
        assert_eq!(settled.identity(), committed.identity());

        std::fs::write(folder.path().join("new"), "one").unwrap();
        std::fs::rename(folder.path().join("new"), &path).unwrap();
        assert_ne!(FileStamp::of(&path).unwrap().identity(), committed.identity(), "another file in its place");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(FileStamp::of(&path).is_none(), "a folder is no database");
    }
}
