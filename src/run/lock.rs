//! One process per run folder. The lock belongs to the open file, so it ends with the process however that ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use super::RunError;

/// Held as long as a run works in its folder, or as long as somebody makes what all may use.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Takes the lock of `dir` or says that another process has it.
    ///
    /// # Errors
    /// [`RunError::Locked`], or the lock file cannot be created.
    pub fn acquire(dir: &Path) -> Result<FolderLock, RunError> {
        FolderLock::acquire_file(&dir.join("lock"))?.ok_or_else(|| RunError::Locked { dir: dir.to_owned() })
    }

    /// Takes the lock that the file `path` stands for, which is made if missing and stays; nothing where another process
    /// has it.
    ///
    /// # Errors
    /// The lock file cannot be created.
    pub fn acquire_file(path: &Path) -> Result<Option<FolderLock>, RunError> {
        let failed = |source| RunError::Io { action: "lock", path: path.to_owned(), source };
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(FolderLock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_locked_once_and_free_again_after() {
        let dir = tempfile::tempdir().unwrap();
        let lock = FolderLock::acquire(dir.path()).unwrap();
        assert!(matches!(FolderLock::acquire(dir.path()), Err(RunError::Locked { .. })));
        drop(lock);
        FolderLock::acquire(dir.path()).unwrap();
    }
}
