//! One process per run folder. The lock belongs to the open file, so it ends with the process however that ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use super::RunError;

/// Held as long as a run works in its folder.
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
        let path = dir.join("lock");
        let failed = |source| RunError::Io { action: "lock", path: path.clone(), source };
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(FolderLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(RunError::Locked { dir: dir.to_owned() }),
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
