//! Which weights generation samples from: never a version under another one's name, and none are lost by a failure that
//! changed nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;
mod trainer_support;

use std::time::Duration;

use orchestrator::trainer::{Family, Trainer, TrainerError, Use};
use orchestrator::types::{GenerateRequest, WeightVersion};
use support::requests::{GREEDY, VOCAB, prompt, request};
use trainer_support::{MARK, config, random_group, sampler, spec, tiny};

fn ask() -> GenerateRequest {
    request(&prompt(9, 1), 1, 7, GREEDY)
}

#[tokio::test]
async fn weights_that_have_changed_wait_for_a_name_that_is_theirs() {
    let dir = tiny(Family::Qwen2, |_| {});
    let trainer = sampler(dir.path(), 64 << 20).await;
    let old = trainer.export(&dir.path().join("v1"), WeightVersion(1)).await.unwrap();
    trainer.name_weights(old.version).await.unwrap();
    let before = trainer.generate(ask()).await.unwrap();
    assert_eq!(before[0].weight_version, WeightVersion(1));

    assert_eq!(trainer.update(vec![random_group(5, VOCAB, 7, (2, 6))]).await.unwrap().updates_done(), 1);
    assert_eq!(trainer.generating_version().await.unwrap(), None);
    // A request waits; the old name is refused.
    let mut waiting = Box::pin(trainer.generate(ask()));
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut waiting).await.is_err(), "sampled without a version");
    let error = trainer.name_weights(old.version).await.unwrap_err();
    assert!(matches!(error, TrainerError::NotThese { version: WeightVersion(1), exported: None }), "{error}");
    trainer.export(&dir.path().join("v2"), WeightVersion(2)).await.unwrap();
    let error = trainer.name_weights(WeightVersion(3)).await.unwrap_err();
    assert!(matches!(error, TrainerError::NotThese { exported: Some(WeightVersion(2)), .. }), "{error}");
    trainer.name_weights(WeightVersion(2)).await.unwrap();
    let after = waiting.await.unwrap();
    assert_eq!(after[0].weight_version, WeightVersion(2));
    assert_ne!(after[0].tokens, before[0].tokens, "the update changed nothing");
}

#[tokio::test]
async fn a_failure_that_changes_nothing_stops_nothing() {
    let dir = tiny(Family::Qwen2, |_| {});
    let trainer = sampler(dir.path(), 64 << 20).await;
    let before = trainer.generate(ask()).await.unwrap();
    trainer.load_checkpoint(&dir.path().join("nowhere")).await.unwrap_err();
    let mut broken = random_group(5, VOCAB, 7, (2, 6));
    broken.nodes[0].q_total = f64::NAN;
    assert!(matches!(trainer.update(vec![broken]).await.unwrap_err(), TrainerError::Group { .. }));
    assert_eq!(trainer.generate(ask()).await.unwrap(), before);
}

#[tokio::test]
async fn weights_for_generation_only_are_neither_trained_nor_written() {
    let dir = tiny(Family::Qwen2, |_| {});
    let trainer =
        Trainer::spawn(orchestrator::trainer::TrainerSpec { purpose: Use::Generation, ..spec(dir.path(), config()) })
            .await
            .unwrap();
    let file = dir.path().join("state");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(trainer.save_checkpoint(&file, MARK).await.unwrap_err(), TrainerError::Frozen));
    assert!(matches!(trainer.load_checkpoint(&file).await.unwrap_err(), TrainerError::Frozen));
    assert!(matches!(trainer.update(Vec::new()).await.unwrap_err(), TrainerError::Frozen));
    let error = trainer.export(&dir.path().join("out"), WeightVersion(1)).await.unwrap_err();
    assert!(matches!(error, TrainerError::Frozen));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    assert!(matches!(trainer.generate(ask()).await.unwrap_err(), TrainerError::NoGenerator));
}
