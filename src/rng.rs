//! Where randomness starts: every stream is named by (run seed, purpose, ids), never by arrival order.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use sha2::{Digest, Sha256};

/// What a random stream is for; two purposes never share a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Order of the problems in an epoch.
    DataOrder,
    /// Continuations of one expansion.
    Sampling,
    /// Decisions inside one tree.
    Search,
    /// Made-up problems.
    Problems,
    /// Initial weights of a new model.
    ModelInit,
    /// Initial weights of adapters.
    AdapterInit,
    /// Held-out evaluation.
    Eval,
    /// Rollouts of the hard-subset filter.
    Filter,
    /// Which cached solutions join a group.
    Replay,
    /// Further problems of a step whose groups had no signal.
    DynamicSampling,
    /// Order of the examples in supervised training.
    Supervised,
    /// Resamples and subsets behind the figures of a benchmark.
    Statistics,
    /// Made-up trees for measuring speed.
    Bench,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Purpose::DataOrder => "data_order",
            Purpose::Sampling => "sampling",
            Purpose::Search => "search",
            Purpose::Problems => "problems",
            Purpose::ModelInit => "model_init",
            Purpose::AdapterInit => "adapter_init",
            Purpose::Eval => "eval",
            Purpose::Filter => "filter",
            Purpose::Replay => "replay",
            Purpose::DynamicSampling => "dynamic_sampling",
            Purpose::Supervised => "supervised",
            Purpose::Statistics => "statistics",
            Purpose::Bench => "bench",
        }
    }
}

/// A 256-bit seed for the stream `(run_seed, purpose, ids)`.
fn seed_bytes(run_seed: u64, purpose: Purpose, ids: &[u64]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(run_seed.to_le_bytes());
    hash.update(purpose.name().as_bytes());
    for id in ids {
        hash.update(id.to_le_bytes());
    }
    hash.finalize().into()
}

/// The generator of the stream `(run_seed, purpose, ids)`: ChaCha8, the same on every platform and release.
pub fn stream(run_seed: u64, purpose: Purpose, ids: &[u64]) -> ChaCha8Rng {
    ChaCha8Rng::from_seed(seed_bytes(run_seed, purpose, ids))
}

/// A 64-bit seed for the stream `(run_seed, purpose, ids)`, for programs that take a number.
pub fn seed(run_seed: u64, purpose: Purpose, ids: &[u64]) -> u64 {
    let bytes = seed_bytes(run_seed, purpose, ids);
    let mut head = [0; 8];
    head.copy_from_slice(&bytes[..8]);
    u64::from_le_bytes(head)
}

/// The generator of the `index`-th continuation of a request with this seed: one number for each position.
pub fn sequence(request_seed: u64, index: u32) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(request_seed.wrapping_add(u64::from(index)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_purpose_and_ids_and_repeat() {
        let base = seed(1, Purpose::Sampling, &[2, 3]);
        assert_eq!(base, seed(1, Purpose::Sampling, &[2, 3]));
        for other in [
            seed(2, Purpose::Sampling, &[2, 3]),
            seed(1, Purpose::Search, &[2, 3]),
            seed(1, Purpose::Sampling, &[3, 2]),
            seed(1, Purpose::Sampling, &[2]),
        ] {
            assert_ne!(base, other);
        }
    }
}
