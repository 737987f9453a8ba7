//! How a server and the trainer have one GPU: side by side, or in turns.

use std::fmt;

use crate::config::InferenceConfig;
use crate::inference::Engine;
use crate::trainer::Trainer;
use crate::trainer::free_memory::{GpuMemory, SLEEPING_BYTES};
use crate::trainer::memory::Plan;

use super::RunError;

/// What is taken of a GPU in the two phases of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// All of it.
    pub total_bytes: u64,
    /// The server's share while it samples: weights, keys and values, and what it computes with.
    pub server_bytes: u64,
    /// What the server keeps while the trainer works.
    pub resting_bytes: u64,
    /// What the trainer keeps while the server samples.
    pub lasting_bytes: u64,
    /// The trainer's predicted peak.
    pub peak_bytes: u64,
}

impl MemoryPlan {
    /// Of a server that is launched on the GPU that trains.
    pub fn new(inference: &InferenceConfig, gpu: GpuMemory, plan: &Plan) -> MemoryPlan {
        let server_bytes = (gpu.total_bytes as f64 * inference.gpu_memory_frac) as u64;
        let resting_bytes = if inference.sleep_while_training { SLEEPING_BYTES } else { server_bytes };
        MemoryPlan {
            total_bytes: gpu.total_bytes,
            server_bytes,
            resting_bytes,
            lasting_bytes: plan.lasting_bytes,
            peak_bytes: plan.peak_bytes,
        }
    }

    /// What sampling takes.
    pub fn sampling_bytes(&self) -> u64 {
        self.server_bytes + self.lasting_bytes
    }

    /// What training takes.
    pub fn training_bytes(&self) -> u64 {
        self.resting_bytes + self.peak_bytes
    }

    /// Whether both phases fit.
    pub fn fits(&self) -> bool {
        self.sampling_bytes().max(self.training_bytes()) <= self.total_bytes
    }
}

/// The trainer's `work` while the engine rests. The engine is woken also after a failure: a server may be somebody's own.
///
/// # Errors
/// The first of them: the engine does not rest, the work fails, the memory stays, the engine does not wake.
///
/// # Cancel safety
/// The engine stays at rest. One that we launched ends with the run; another is woken by the next run.
pub async fn in_turn<T>(
    engine: &dyn Engine,
    trainer: &Trainer,
    work: impl Future<Output = Result<T, RunError>>,
) -> Result<T, RunError> {
    let done = match engine.rest().await {
        Ok(()) => work.await,
        Err(error) => Err(error.into()),
    };
    let yielded = trainer.yield_memory().await;
    let woken = engine.wake().await;
    let done = done?;
    yielded?;
    woken?;
    Ok(done)
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        write!(
            f,
            "memory of the GPU, {:.1} GiB: while sampling {:.1} (server {:.1}, trainer {:.1}), while training {:.1} (server \
             {:.1}, trainer {:.1})",
            gib(self.total_bytes),
            gib(self.sampling_bytes()),
            gib(self.server_bytes),
            gib(self.lasting_bytes),
            gib(self.training_bytes()),
            gib(self.resting_bytes),
            gib(self.peak_bytes),
        )?;
        if self.fits() {
            return Ok(());
        }
        f.write_str(
            "; that is more than there is: lower `inference.gpu_memory_frac` or `train.micro_batch_tokens`, or set ",
        )?;
        f.write_str("`train.offload_optimizer` or `inference.sleep_while_training`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(gib: u64, frac: f64, in_turns: bool) -> MemoryPlan {
        let inference =
            InferenceConfig { gpu_memory_frac: frac, sleep_while_training: in_turns, ..InferenceConfig::default() };
        let trainer = Plan {
            asked_tokens: 1,
            budget_tokens: 1,
            lasting_bytes: 24 << 30,
            peak_bytes: 40 << 30,
            asked_bytes: 40 << 30,
            limit_bytes: None,
            longest_tokens: 1,
            fits_tokens: None,
        };
        let total_bytes = gib << 30;
        MemoryPlan::new(&inference, GpuMemory { free_bytes: total_bytes, total_bytes }, &trainer)
    }

    #[test]
    fn in_turns_a_server_may_have_more() {
        let beside = plan(80, 0.45, false);
        assert_eq!(
            beside.to_string(),
            "memory of the GPU, 80.0 GiB: while sampling 60.0 (server 36.0, trainer 24.0), while training 76.0 (server 36.0, \
             trainer 40.0)"
        );
        assert!(!plan(80, 0.7, false).fits(), "while training");
        assert!(plan(80, 0.7, true).fits());
        assert!(!plan(80, 0.75, true).fits(), "while sampling");
        assert!(plan(80, 0.75, true).to_string().ends_with("or `inference.sleep_while_training`"));
    }
}
