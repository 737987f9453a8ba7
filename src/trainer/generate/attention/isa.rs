//! What the instruction sets do each its own way.

use super::super::isa::Portable;
use super::kernel::DOT_LANES;

/// The tiles that suit an instruction set, and the one step that is written for it.
pub(super) trait Isa: Copy {
    /// Queries whose sums fit the registers together.
    const GROUP: usize;
    /// Whether four vectors of sums per query do.
    const WIDE: bool;

    /// The sum of the lanes of each of four vectors: `((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7))`.
    fn add_lanes(self, sums: &[[f32; DOT_LANES]; 4]) -> [f32; 4];
}

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
mod x86 {
    use std::arch::x86_64::{
        __m128, __m256, _mm_add_ps, _mm256_castps256_ps128, _mm256_extractf128_ps, _mm256_hadd_ps, _mm256_setr_ps,
    };

    use super::super::super::isa::{Avx2, Avx512};
    use super::{DOT_LANES, Isa};

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
