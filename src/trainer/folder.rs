//! Folders that are whole whenever they have their name, and go whole: exports and checkpoints alike.
//!
//! What is being written is called `NAME.partial-PID` and takes its name by a rename; what is being removed is first
//! renamed to `.removing-NAME`. So a process that is killed at any instant leaves nothing half under a final name, and
//! what it leaves is known by its name: [`sweep`].

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::error::TrainerError;
use super::tensor_file::{sync_dir, temporary};

/// Start of the name of what is being removed.
const REMOVING: &str = ".removing-";
/// Part of the name of what is being written: see [`temporary`].
const PARTIAL: &str = ".partial-";

/// Makes `target`, a folder, from what `fill` writes into the empty folder it is given; visible only when complete. A
/// folder that is already there is replaced. `fill` syncs its files.
///
/// # Errors
/// What `fill` says, a `target` that is no folder, or a failure to create or rename; `target` is as it was then.
pub fn publish<T>(target: &Path, fill: impl FnOnce(&Path) -> Result<T, TrainerError>) -> Result<T, TrainerError> {
    refuse_other(target)?;
    sweep_dead(target)?;
    let partial = temporary(target);
    let result = fill_partial(&partial, fill).and_then(|filled| reveal(&partial, target).map(|()| filled));
    if result.is_err() {
        // There is a better reason than a failure to clean up.
        let _ = fs::remove_dir_all(&partial);
    }
    result
}

fn fill_partial<T>(partial: &Path, fill: impl FnOnce(&Path) -> Result<T, TrainerError>) -> Result<T, TrainerError> {
    delete(partial)?;
    fs::create_dir_all(partial).map_err(TrainerError::write(partial))?;
    let filled = fill(partial)?;
    sync_dir(partial)?;
    Ok(filled)
}

/// Only a folder is replaced: a file, a link or a device of this name is a slip, and would be lost.
fn refuse_other(target: &Path) -> Result<(), TrainerError> {
    match fs::symlink_metadata(target) {
        Ok(found) if !found.is_dir() => Err(TrainerError::write(target)(ErrorKind::NotADirectory.into())),
        _ => Ok(()),
    }
}

/// Deletes what processes that are no more have left of `target`.
fn sweep_dead(target: &Path) -> Result<(), TrainerError> {
    let mut start = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    start.push_str(PARTIAL);
    let dir = Some(parent(target)).filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(&start).and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            delete(&entry.path())?;
        }
    }
    Ok(())
}

fn reveal(partial: &Path, target: &Path) -> Result<(), TrainerError> {
    // A folder cannot be renamed onto one that is not empty.
    let old = move_aside(target)?;
    if let Err(error) = fs::rename(partial, target).map_err(TrainerError::write(target)) {
        if let Some(old) = old {
            // What was there goes back; if even that fails the first failure says more.
            let _ = fs::rename(old, target);
        }
        return Err(error);
    }
    sync_dir(parent(target))?;
    old.map_or(Ok(()), |old| delete(&old))
}

/// Removes a file or a folder: first its name, then its content. One that is not there is already removed.
///
/// # Errors
/// A failure to rename or to delete.
pub fn remove(path: &Path) -> Result<(), TrainerError> {
    match move_aside(path)? {
        Some(aside) => {
            // The name must be gone from the disk before any of the content is.
            sync_dir(parent(path))?;
            delete(&aside)
        }
        None => Ok(()),
    }
}

/// Deletes what a killed process has left in `dir`: half-written and half-removed files and folders. Returns their
/// names, in order. For when no other process writes there; a `dir` that is not there has nothing in it.
///
/// # Errors
/// A failure to list or to delete.
pub fn sweep(dir: &Path) -> Result<Vec<String>, TrainerError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(TrainerError::read(dir))?,
    };
    let mut swept = Vec::new();
    for entry in entries {
        let entry = entry.map_err(TrainerError::read(dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(REMOVING) || name.contains(PARTIAL) {
            delete(&entry.path())?;
            swept.push(name);
        }
    }
    swept.sort_unstable();
    Ok(swept)
}

/// Renames to `.removing-NAME`; `None` if there is nothing.
fn move_aside(path: &Path) -> Result<Option<PathBuf>, TrainerError> {
    let mut name = std::ffi::OsString::from(REMOVING);
    name.push(path.file_name().unwrap_or_default());
    let aside = path.with_file_name(name);
    // Left by a removal that was killed.
    delete(&aside)?;
    match fs::rename(path, &aside) {
        Ok(()) => Ok(Some(aside)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(TrainerError::write(path)(error)),
    }
}

fn delete(path: &Path) -> Result<(), TrainerError> {
    let deleted = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match deleted {
        Err(error) if error.kind() != ErrorKind::NotFound && error.kind() != ErrorKind::NotADirectory => {
            Err(TrainerError::write(path)(error))
        }
        _ => Ok(()),
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "helpers of tests")]
mod tests {
    use super::*;

    #[test]
    fn only_a_folder_is_replaced_and_what_the_dead_left_goes() {
        let dir = tempfile::tempdir().unwrap();
        let fill = |partial: &Path| fs::write(partial.join("a"), "b").map_err(TrainerError::write(partial));
        let (file, link, target) = (dir.path().join("file"), dir.path().join("link"), dir.path().join("new"));
        fs::write(&file, "precious").unwrap();
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        for wrong in [&file, &link] {
            assert!(matches!(publish(wrong, fill), Err(TrainerError::Write { .. })));
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
        let (dead, alive) = (dir.path().join("new.partial-4194305"), dir.path().join("new.partial-1"));
        for left in [&dead, &alive] {
            fs::create_dir(left).unwrap();
        }
        publish(&target, fill).unwrap();
        assert!(target.join("a").exists() && !dead.exists() && alive.exists());
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_folder_is_published_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("step-1");
        let write = |text: &'static str| {
            move |partial: &Path| {
                fs::write(partial.join("a"), text).unwrap();
                Ok(7)
            }
        };
        assert_eq!(publish(&target, write("old")).unwrap(), 7);
        let failed = publish(&target, |partial| -> Result<(), _> {
            fs::write(partial.join("a"), "half").unwrap();
            Err(TrainerError::Stopped)
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "old");
        publish(&target, write("new")).unwrap();
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "new");
        assert_eq!(names(dir.path()), ["step-1"]);
    }

    #[test]
    fn what_a_killed_process_leaves_is_swept_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["step-1", "step-2.partial-99", ".removing-step-0", "partial", "x.partial"] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("state"), "x").unwrap();
        }
        fs::write(dir.path().join(".removing-file"), "x").unwrap();
        // A removal goes on where one was killed.
        fs::create_dir(dir.path().join(".removing-step-1")).unwrap();
        remove(&dir.path().join("step-1")).unwrap();
        remove(&dir.path().join("step-1")).unwrap();
        assert_eq!(sweep(dir.path()).unwrap(), [".removing-file", ".removing-step-0", "step-2.partial-99"]);
        assert_eq!(names(dir.path()), ["partial", "x.partial"]);
        assert!(sweep(&dir.path().join("nowhere")).unwrap().is_empty());
    }
}
