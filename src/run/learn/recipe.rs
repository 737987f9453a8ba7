//! What the runs of a suite need: base models made from nothing, and problem files.
//!
//! A recipe is a list of command lines of this program, which anybody can type too. What it was is kept beside the model,
//! so that a model made in another way is not taken for it.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::execute::{Called, Ending};
use super::plan::{HELD_OUT, PROBLEMS};
use super::suite::{Made, Model, Suite, Task};
use super::{LearnError, LearnEvent};
use crate::data::{GenerateSpec, Problem, Share, Split, generate, load_problems, write_jsonl};
use crate::run::FolderLock;

/// Name of the file with the recipe in the folder of a model.
const RECIPE: &str = "recipe.txt";
/// How often it is looked whether another process has made a model.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Makes the models of the tasks that are not there; false where it was called off.
///
/// # Errors
/// A step that fails; a model that is not there or was made in another way.
pub(super) async fn make_models(
    suite: &Suite,
    program: &Path,
    cancel: &CancellationToken,
    observe: &(impl Fn(LearnEvent) + Sync),
) -> Result<bool, LearnError> {
    for (name, model) in &suite.models {
        if !suite.tasks.iter().any(|task| task.model == *name) {
            continue;
        }
        if !is_made(model)? {
            // Suites of other folders may need the same model.
            let Some(_lock) = lock(name, model, cancel, observe).await? else { return Ok(false) };
            if !is_made(model)? && !make(suite, name, model, program, cancel, observe).await? {
                return Ok(false);
            }
        }
        let digest = digest(model)?;
        if let (Some(expected), Some(found)) = (&model.sha256, &digest)
            && expected != found
        {
            observe(LearnEvent::OtherBits { model: name.clone(), expected: expected.clone(), found: found.clone() });
        }
    }
    Ok(true)
}

fn is_made(model: &Model) -> Result<bool, LearnError> {
    let has_model = model.out.join("config.json").exists();
    if model.steps.is_empty() {
        return if has_model { Ok(true) } else { Err(LearnError::NoModel { dir: model.out.clone() }) };
    }
    match fs::read_to_string(model.out.join(RECIPE)) {
        Ok(recipe) if recipe == text(model) && has_model => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !model.out.exists() => Ok(false),
        _ => Err(LearnError::Changed { path: model.out.clone() }),
    }
}

/// The lock of a model, which lies beside it; waits while another process has it. Nothing where this was called off.
async fn lock(
    name: &str,
    model: &Model,
    cancel: &CancellationToken,
    observe: &(impl Fn(LearnEvent) + Sync),
) -> Result<Option<FolderLock>, LearnError> {
    let path = model.out.with_added_extension("lock");
    if let Some(above) = path.parent() {
        create(above)?;
    }
    let mut is_told = false;
    loop {
        if let Some(lock) = FolderLock::acquire_file(&path)? {
            return Ok(Some(lock));
        }
        if !is_told {
            is_told = true;
            observe(LearnEvent::Waiting { model: name.to_owned() });
        }
        tokio::select! {
            () = cancel.cancelled() => return Ok(None),
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}

fn text(model: &Model) -> String {
    model.steps.iter().map(|step| format!("orchestrator {step}\n")).collect()
}

async fn make(
    suite: &Suite,
    name: &str,
    model: &Model,
    program: &Path,
    cancel: &CancellationToken,
    observe: &(impl Fn(LearnEvent) + Sync),
) -> Result<bool, LearnError> {
    // Beside the model, so that it can be moved there.
    let work = model.out.with_added_extension("making");
    let out = work.join("out");
    remove(&work)?;
    create(&work)?;
    let log = suite.dir.join("make").join(format!("{name}.log"));
    create(&suite.dir.join("make"))?;
    for (number, step) in model.steps.iter().enumerate() {
        observe(LearnEvent::Making { model: name.to_owned(), step: number + 1, steps: model.steps.len() });
        let fill = |word: &str| {
            let place = |path: &Path| path.display().to_string();
            word.replace("{work}", &place(&work)).replace("{out}", &place(&out))
        };
        let called = Called { program, args: step.split_whitespace().map(fill).collect(), log: &log };
        match called.finish(cancel).await? {
            Ending::Code(0) => {}
            Ending::CalledOff => return Ok(false),
            other => {
                let (model, step) = (name.to_owned(), step.clone());
                return Err(LearnError::Recipe { model, step, status: other.to_string(), log });
            }
        }
    }
    // Its folder is there only when it is whole.
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |source| LearnError::Io { action, path, source }
    };
    fs::write(out.join(RECIPE), text(model)).map_err(io("write", &out))?;
    fs::rename(&out, &model.out).map_err(io("create", &model.out))?;
    remove(&work)?;
    Ok(true)
}

/// SHA-256 of the weights of a model, lower-case hex; nothing where they are in several files.
fn digest(model: &Model) -> Result<Option<String>, LearnError> {
    let path = model.out.join("model.safetensors");
    if !path.exists() {
        return Ok(None);
    }
    let bytes = fs::read(&path).map_err(|source| LearnError::Io { action: "read", path, source })?;
    Ok(Some(Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()))
}

/// Refuses problem files and models that are there and are not what the suite says.
///
/// # Errors
/// [`LearnError::Changed`], or they cannot be read.
pub(super) fn check(suite: &Suite) -> Result<(), LearnError> {
    for task in &suite.tasks {
        let files = [(&task.problems, Split::Train, PROBLEMS), (&task.held_out, Split::HeldOut, HELD_OUT)];
        for (made, split, name) in files {
            let path = suite.data_file(task, name);
            let wanted = made_problems(task, made, split)?;
            let is_changed = path.exists() && load_problems(&path).is_ok_and(|found| found != wanted);
            if is_changed {
                return Err(LearnError::Changed { path });
            }
        }
        if let Some(model) = suite.models.get(&task.model).filter(|model| model.out.exists()) {
            is_made(model)?;
        }
    }
    Ok(())
}

/// Makes the problem files of the tasks, or finds that they are as the suite says.
///
/// # Errors
/// Problems that cannot be made, a file that holds others, a problem of both splits.
pub(super) fn make_problems(suite: &Suite) -> Result<(), LearnError> {
    for task in &suite.tasks {
        let train = make_file(suite, task, &task.problems, Split::Train, PROBLEMS)?;
        let held_out = make_file(suite, task, &task.held_out, Split::HeldOut, HELD_OUT)?;
        let train: HashSet<String> = train.into_iter().collect();
        if let Some(problem) = held_out.into_iter().find(|problem| train.contains(problem)) {
            return Err(LearnError::Shared { task: task.name.clone(), problem });
        }
    }
    Ok(())
}

/// The texts of the problems in the file.
fn make_file(suite: &Suite, task: &Task, made: &Made, split: Split, name: &str) -> Result<Vec<String>, LearnError> {
    let problems = made_problems(task, made, split)?;
    let path = suite.data_file(task, name);
    if let Some(above) = path.parent() {
        create(above)?;
    }
    let fresh = path.with_extension("new");
    let written = write_jsonl(&fresh, &problems);
    written.map_err(|source| LearnError::Problems { task: task.name.clone(), source })?;
    let read =
        |path: &Path| fs::read(path).map_err(|source| LearnError::Io { action: "read", path: path.to_owned(), source });
    if path.exists() && read(&path)? != read(&fresh)? {
        return Err(LearnError::Changed { path });
    }
    fs::rename(&fresh, &path).map_err(|source| LearnError::Io { action: "write", path, source })?;
    Ok(problems.into_iter().map(|problem| problem.problem).collect())
}

fn made_problems(task: &Task, made: &Made, split: Split) -> Result<Vec<Problem>, LearnError> {
    let failed = |source| LearnError::Problems { task: task.name.clone(), source };
    let mix = made.mix.split(',').map(|text| text.parse::<Share>()).collect::<Result<_, _>>().map_err(failed)?;
    generate(&GenerateSpec { seed: made.seed, count: made.count, mix, split }).map_err(failed)
}

/// Makes a folder and those above it.
pub(super) fn create(dir: &Path) -> Result<(), LearnError> {
    fs::create_dir_all(dir).map_err(|source| LearnError::Io { action: "create", path: dir.to_owned(), source })
}

fn remove(dir: &PathBuf) -> Result<(), LearnError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(|source| LearnError::Io { action: "remove", path: dir.clone(), source }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Mutex;

    use super::super::suite::load;
    use super::*;

    /// Two suites of two folders, started together: one makes their model, the other waits for it and makes nothing.
    #[tokio::test]
    async fn a_model_of_two_suites_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        // Stands for the program: takes its time, and is disturbed by a second one in the same folder.
        let program = at("program");
        let script = "#!/bin/sh\n\
                      echo made >> \"$2/times\"\n\
                      n=0; until [ -e \"$2/go\" ] || [ $n = 200 ]; do n=$((n + 1)); sleep 0.05; done\n\
                      mkdir \"$1\" && echo {} > \"$1/config.json\"\n";
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        let suite = |name: &str| {
            let text = format!(
                r#"
                dir = "{dir}/{name}"
                seeds = [1]
                [model.small]
                out = "{dir}/model"
                steps = ["{{out}} {dir}"]
                [[task]]
                name = "a"
                config = "c.toml"
                model = "small"
                problems = {{ mix = "sum", count = 3, seed = 1 }}
                held_out = {{ mix = "sum", count = 2, seed = 2 }}
                [[algorithm]]
                name = "one"
                "#,
                dir = dir.path().display()
            );
            let path = at(&format!("{name}.toml"));
            fs::write(&path, text).unwrap();
            load(&path).unwrap()
        };
        let (one, other) = (suite("one"), suite("other"));
        let events = Mutex::new(Vec::new());
        let observe = |event: LearnEvent| {
            if matches!(event, LearnEvent::Waiting { .. }) {
                fs::write(at("go"), "").unwrap();
            }
            events.lock().unwrap().push(event);
        };
        let cancel = CancellationToken::new();
        let make = async |suite: &Suite| make_models(suite, &program, &cancel, &observe).await;
        let both = tokio::join!(make(&one), make(&other));
        assert!(both.0.unwrap() && both.1.unwrap());
        assert_eq!(fs::read_to_string(at("times")).unwrap(), "made\n");
        let model = "small".to_owned();
        let making = LearnEvent::Making { model: model.clone(), step: 1, steps: 1 };
        assert_eq!(*events.lock().unwrap(), [making, LearnEvent::Waiting { model }]);

        fs::remove_dir_all(at("model")).unwrap();
        let _held = FolderLock::acquire_file(&at("model.lock")).unwrap().unwrap();
        cancel.cancel();
        assert!(!make(&one).await.unwrap(), "called off, it waits no longer");
    }
}
