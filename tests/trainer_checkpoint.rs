//! Checkpoints: what was saved is what is loaded, and what is not as it was saved is refused.

// Helpers of tests are tests too; clippy.toml allows these in `#[test]` functions only.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod trainer_support;

use std::fs;
use std::path::{Path, PathBuf};

use orchestrator::config::{ComputeDtype, TrainConfig};
use orchestrator::error::{FailureClass, Hint};
use orchestrator::trainer::{Family, Learner, Trainer, TrainerError, checkpoint, folder};
use orchestrator::types::{TrajectoryGroup, WeightVersion};
use tempfile::TempDir;
use trainer_support::*;

fn groups(seeds: std::ops::Range<u64>) -> Vec<TrajectoryGroup> {
    seeds.map(|seed| random_group(seed, 512, 6, (2, 5))).collect()
}

/// All that a checkpoint holds, to the bit.
fn state(learner: &Learner) -> (Vec<u32>, u64) {
    let masters = learner.parameters.iter().map(|p| &p.master);
    let tensors = masters.chain(&learner.optimizer.exp_avg).chain(&learner.optimizer.exp_avg_sq);
    let bits = tensors.flat_map(|tensor| {
        let flat = tensor.detach().flatten(0, -1);
        let values: Vec<f32> = Vec::try_from(&flat).unwrap();
        values.into_iter().map(f32::to_bits)
    });
    (bits.collect(), learner.optimizer.updates)
}

struct Saved {
    model: TempDir,
    dir: TempDir,
    learner: Learner,
}

impl Saved {
    fn new(config: TrainConfig) -> Saved {
        let model = tiny(Family::Qwen2, |_| {});
        let mut learner = learner(model.path(), config);
        learner.update(&groups(0..2)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("step-000012");
        let info = checkpoint::save(&learner.parameters, &learner.optimizer, &at, MARK).unwrap();
        let bytes: u64 = fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        assert_eq!((info.bytes, info.updates), (bytes, learner.optimizer.updates));
        Saved { model, dir, learner }
    }

    fn at(&self) -> PathBuf {
        self.dir.path().join("step-000012")
    }

    /// Loading must fail, name the file, and leave the learner as it is.
    #[track_caller]
    fn refused(&self, learner: &mut Learner, file: &str, what: &str) {
        let error = match learner.load_checkpoint(&self.at()) {
            Ok(mark) => panic!("{what}: accepted as {mark:?}"),
            Err(error) => error,
        };
        assert!(matches!(error, TrainerError::Checkpoint { .. } | TrainerError::Read { .. }), "{what}: {error:?}");
        assert!(error.to_string().contains(file), "{what}: `{error}` does not name `{file}`");
        assert_eq!(error.class(), FailureClass::Environment, "{what}");
    }
}

#[test]
fn a_loaded_state_goes_on_to_the_same_bits() {
    for dtype in [ComputeDtype::Float32, ComputeDtype::Bfloat16] {
        let config = TrainConfig { dtype, warmup_steps: 5, ..config() };
        let mut saved = Saved::new(config.clone());
        assert_eq!(checkpoint::read_mark(&saved.at()).unwrap(), MARK);
        let mut resumed = learner(saved.model.path(), config);
        assert_ne!(state(&resumed), state(&saved.learner));
        assert_eq!(resumed.load_checkpoint(&saved.at()).unwrap(), MARK);
        assert_eq!(state(&resumed), state(&saved.learner));
        for seeds in [2..4, 4..6] {
            let unbroken = saved.learner.update(&groups(seeds.clone())).unwrap();
            assert_eq!(resumed.update(&groups(seeds)).unwrap().updates, unbroken.updates);
            assert_eq!(state(&resumed), state(&saved.learner), "{dtype:?}");
        }
    }
}

#[test]
fn a_file_that_was_cut_off_or_is_missing_is_refused() {
    let saved = Saved::new(config());
    let mut other = learner(saved.model.path(), config());
    let before = state(&other);
    for file in ["state.safetensors", "checkpoint.json"] {
        let path = saved.at().join(file);
        let whole = fs::read(&path).unwrap();
        let size = whole.len();
        let inner = (1..40).map(|k| k * size / 40);
        for keep in [0, 1, 7, 8, 9, 100, size - 4, size - 1].into_iter().chain(inner) {
            fs::write(&path, &whole[..keep]).unwrap();
            saved.refused(&mut other, file, &format!("{file} cut to {keep} of {size} bytes"));
            assert!(checkpoint::read_mark(&saved.at()).is_err(), "{file} cut to {keep} of {size} bytes");
        }
        let longer = [&whole[..], &[0]].concat();
        if file == "state.safetensors" {
            fs::write(&path, longer).unwrap();
            saved.refused(&mut other, file, "one byte more");
        }
        fs::remove_file(&path).unwrap();
        saved.refused(&mut other, file, "missing");
        fs::write(&path, &whole).unwrap();
    }
    assert_eq!(state(&other), before, "a refused checkpoint changed something");
    other.load_checkpoint(&saved.at()).unwrap();
    assert_eq!(state(&other), state(&saved.learner));
}

#[test]
fn a_bit_that_has_turned_is_seen_wherever_it_is() {
    let saved = Saved::new(config());
    let mut other = learner(saved.model.path(), config());
    let before = state(&other);
    let flip = |path: &Path, whole: &[u8], at: usize, bit: u8| {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 1 << bit;
        fs::write(path, bytes).unwrap();
    };
    let path = saved.at().join("checkpoint.json");
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        flip(&path, &whole, at, (at % 8) as u8);
        assert!(checkpoint::read_mark(&saved.at()).is_err(), "bit {} of byte {at} of checkpoint.json", at % 8);
    }
    fs::write(&path, &whole).unwrap();

    // The length of the header, the header, and each tensor at its start, middle and end.
    let path = saved.at().join("state.safetensors");
    let whole = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let parsed = safetensors::SafeTensors::deserialize(&whole).unwrap();
    let mut places: Vec<usize> = (0..8).chain((8..header).step_by(97)).chain([header - 1]).collect();
    for (_, tensor) in parsed.tensors() {
        let start = tensor.data().as_ptr() as usize - whole.as_ptr() as usize;
        places.extend([start, start + tensor.data().len() / 2, start + tensor.data().len() - 1]);
    }
    for at in places {
        flip(&path, &whole, at, (at % 8) as u8);
        saved.refused(&mut other, "state.safetensors", &format!("bit {} of byte {at}", at % 8));
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(state(&other), before, "a refused checkpoint changed something");
    other.load_checkpoint(&saved.at()).unwrap();
}

/// A process can be killed at any instant: then there is only what `sweep` knows to be nobody's.
#[test]
fn a_save_that_was_killed_leaves_no_checkpoint() {
    let saved = Saved::new(config());
    let half = saved.dir.path().join("step-000013.partial-1");
    fs::create_dir(&half).unwrap();
    fs::copy(saved.at().join("state.safetensors"), half.join("state.safetensors")).unwrap();
    assert_eq!(folder::sweep(saved.dir.path()).unwrap(), ["step-000013.partial-1"]);
    let names: Vec<_> = fs::read_dir(saved.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["step-000012"]);
    folder::remove(&saved.at()).unwrap();
    assert!(fs::read_dir(saved.dir.path()).unwrap().next().is_none());
}

#[tokio::test]
async fn weights_that_diverged_are_never_written() {
    let model = tiny(Family::Qwen2, |_| {});
    let out = tempfile::tempdir().unwrap();
    for dtype in [ComputeDtype::Float32, ComputeDtype::Bfloat16] {
        let config = TrainConfig { learning_rate: 1e30, dtype, ..config() };
        let trainer = Trainer::spawn(spec(model.path(), config)).await.unwrap();
        let checkpoint = out.path().join("step-000000");
        trainer.save_checkpoint(&checkpoint, MARK).await.unwrap();
        let error = trainer.update(groups(0..2)).await.unwrap_err();
        assert!(error.to_string().starts_with("training has diverged: update 1 with learning rate 1e30"), "{error}");
        assert!(error.hint().unwrap().contains("`train.learning_rate`"));
        let target = out.path().join("weights");
        let refused = trainer.export(&target, WeightVersion(1)).await.unwrap_err();
        assert!(matches!(refused, TrainerError::Diverged { .. }) && !target.exists());
        let again = trainer.update(groups(0..2)).await.unwrap_err();
        assert!(matches!(again, TrainerError::Diverged { .. }));
        let refused = trainer.save_checkpoint(&checkpoint, MARK).await.unwrap_err();
        assert!(matches!(refused, TrainerError::Diverged { .. }));

        assert_eq!(trainer.load_checkpoint(&checkpoint).await.unwrap(), MARK);
        trainer.export(&target, WeightVersion(0)).await.unwrap();
        let bytes = |dir: &Path| fs::read(dir.join("model.safetensors")).unwrap();
        assert!(bytes(&target) == bytes(model.path()), "{dtype:?}");
        folder::remove(&target).unwrap();
    }
}
