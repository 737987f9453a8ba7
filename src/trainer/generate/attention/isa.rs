//! Instruction sets: for which of them the attention is compiled, and the one step that each does its own way.

use super::kernel::DOT_LANES;

/// An instruction set that this machine has: a value of the type is the proof.
pub(super) trait Isa: Copy {
    /// Queries whose sums fit the registers together.
    const GROUP: usize;
    /// Whether four vectors of sums per query do.
    const WIDE: bool;

    /// The sum of the lanes of each of four vectors: `((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7))`.
    fn add_lanes(self, sums: &[[f32; DOT_LANES]; 4]) -> [f32; 4];
}

/// What the compiler's target has. Without fused multiply-add there (plain x86-64) it is exact and very slow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Portable;

impl Isa for Portable {
    const GROUP: usize = 3;
    const WIDE: bool = cfg!(target_arch = "aarch64");

    #[inline(always)]
    fn add_lanes(self, sums: &[[f32; DOT_LANES]; 4]) -> [f32; 4] {
        let mut found = [0.0; 4];
        for (found, s) in found.iter_mut().zip(sums) {
            *found = ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
        }
        found
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128, __m256, _mm_add_ps, _mm256_castps256_ps128, _mm256_extractf128_ps, _mm256_hadd_ps, _mm256_setr_ps,
    };

    use super::{DOT_LANES, Isa};

    /// AVX2 and FMA: sixteen registers of eight floats.
    #[derive(Clone, Copy, Debug)]
    pub(in super::super) struct Avx2(());

    /// AVX-512 as every server since Skylake has it: 32 registers, of eight or sixteen floats.
    #[derive(Clone, Copy, Debug)]
    pub(in super::super) struct Avx512(());

    impl Avx2 {
        pub(in super::super) fn detect() -> Option<Avx2> {
            (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Avx2(()))
        }
    }

    impl Avx512 {
        pub(in super::super) fn detect() -> Option<Avx512> {
            (Avx2::detect().is_some()
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq"))
            .then_some(Avx512(()))
        }
    }

    impl Isa for Avx2 {
        const GROUP: usize = 3;
        const WIDE: bool = false;

        #[inline(always)]
        fn add_lanes(self, sums: &[[f32; DOT_LANES]; 4]) -> [f32; 4] {
            // SAFETY: there is an `Avx2` only where AVX2 was detected, which includes AVX.
            unsafe { add_lanes(sums) }
        }
    }

    impl Isa for Avx512 {
        const GROUP: usize = 4;
        const WIDE: bool = true;

        #[inline(always)]
        fn add_lanes(self, sums: &[[f32; DOT_LANES]; 4]) -> [f32; 4] {
            // SAFETY: there is an `Avx512` only where AVX2 was detected too, which includes AVX.
            unsafe { add_lanes(sums) }
        }
    }

    /// Left to itself LLVM gathers the lanes one by one, which costs as much as the products before.
    #[inline]
    #[target_feature(enable = "avx")]
    fn add_lanes(sums: &[[f32; DOT_LANES]; 4]) -> [f32; 4] {
        let [a, b, c, d] = sums;
        let pairs = _mm256_hadd_ps(_mm256_hadd_ps(load(a), load(b)), _mm256_hadd_ps(load(c), load(d)));
        let found = _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps::<1>(pairs));
        // SAFETY: both are four floats, and any bits are floats.
        unsafe { std::mem::transmute::<__m128, [f32; 4]>(found) }
    }

    #[inline]
    #[target_feature(enable = "avx")]
    fn load(a: &[f32; DOT_LANES]) -> __m256 {
        _mm256_setr_ps(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7])
    }
}
