//! The instruction sets that the sampler's own kernels are compiled for.

/// What the compiler's target has. Without fused multiply-add there (plain x86-64) it is exact and very slow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Portable;

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

/// An instruction set that this machine has: a value of the type is the proof.
#[derive(Clone, Copy, Debug)]
pub(super) enum Level {
    Portable(Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

impl Level {
    /// Those of this machine, the best first.
    pub(super) fn all() -> impl Iterator<Item = Level> {
        #[cfg(target_arch = "x86_64")]
        let found = [Avx512::detect().map(Level::Avx512), Avx2::detect().map(Level::Avx2)];
        #[cfg(not(target_arch = "x86_64"))]
        let found = [];
        found.into_iter().flatten().chain([Level::Portable(Portable)])
    }

    pub(super) fn detect() -> Level {
        Level::all().next().unwrap_or(Level::Portable(Portable))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    /// AVX2 and FMA: sixteen registers of eight floats.
    #[derive(Clone, Copy, Debug)]
    pub(in super::super) struct Avx2(());

    /// AVX-512 as every server since Skylake has it: 32 registers, of eight or sixteen floats.
    #[derive(Clone, Copy, Debug)]
    pub(in super::super) struct Avx512(());

    impl Avx2 {
        pub(super) fn detect() -> Option<Avx2> {
            (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Avx2(()))
        }
    }

    impl Avx512 {
        pub(super) fn detect() -> Option<Avx512> {
            (Avx2::detect().is_some()
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq"))
            .then_some(Avx512(()))
        }
    }
}
